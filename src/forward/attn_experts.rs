//! Attentions that are experts (`attn_moe.num_experts` = X > 0).
//!
//! An expert is a pair of maps: to queries of `h = num_heads` heads, and from what these heads put out to the stream. All experts read
//! the same keys and values. With `l = x Wrᵀ`, `[n, X]`, of `attn.router`, a position has the `attn_moe.top_k` experts of the greatest
//! logits, and the softmax over these logits are their weights. The result is `Σ weight·(o Woᵀ) + bo`, where o, `[n, h·e]`, is what
//! the heads put out for the expert's queries `x Wqᵀ`: Wq of `attn.experts.q_proj`, Wo of `attn.experts.o_proj`, bo of `attn.o_proj.bias`.

use ndarray::{Array1, Array2, Axis, s};

use super::keys::{Keys, broken};
use super::mix::{greatest, softmax};
use super::place::Heads;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The experts of a stack's attention.
pub(super) struct AttnExperts {
    n_experts: usize,
    pub(super) top_k: usize,
}

/// The experts of each position with their weights, the greatest logit first.
pub(super) struct Routes<R>(Vec<Vec<(usize, R)>>);

impl AttnExperts {
    pub(super) fn read(keys: Keys<'_>) -> Result<Option<AttnExperts>> {
        let n_experts = keys.count("attn_moe.num_experts")?;
        if n_experts == 0 {
            return Ok(None);
        }
        let top_k = keys.count("attn_moe.top_k")?;
        if top_k == 0 || n_experts < top_k {
            return Err(broken(format!("{top_k} of {n_experts} attentions cannot be chosen")));
        }
        Ok(Some(AttnExperts { n_experts, top_k }))
    }

    /// The experts of each row of what the attention reads.
    pub(super) fn choose<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
    ) -> Result<Routes<R>> {
        let router = format!("{name}.router");
        let logits = params.linear(x, &router, self.n_experts, Bias::Is(false))?;
        let of_row = |logits: ndarray::ArrayView1<'_, R>| {
            let chosen = greatest(logits.iter().copied().enumerate(), self.top_k);
            let mut weights: Vec<R> = chosen.iter().map(|&expert| logits[expert]).collect();
            softmax(weights.iter_mut(), None);
            chosen.into_iter().zip(weights).collect()
        };
        Ok(Routes(logits.rows().into_iter().map(of_row).collect()))
    }

    /// The queries of all chosen experts, `[n, heads.q · d]`: for each key head those of the heads that read it, of the first
    /// expert, then of the second, and so on.
    pub(super) fn queries<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        routes: &Routes<R>,
        heads: Heads,
    ) -> Result<Array2<R>> {
        let width = heads.q / self.top_k * heads.dim;
        let shape = [self.n_experts, width, x.ncols()];
        params.check(&format!("{name}.experts.q_proj.weight"), &shape)?;
        let mut q = Array2::zeros((x.nrows(), heads.q * heads.dim));
        self.each(routes, |expert, rank, rows, _| {
            let name = format!("{name}.experts.q_proj");
            let x = x.select(Axis(0), rows);
            let of = (expert, self.n_experts);
            let own = params.expert(&x, &name, of, width, Bias::Is(false))?;
            for (&row, own) in rows.iter().zip(own.rows()) {
                for (from, to) in self.places(rank, heads, heads.dim) {
                    let from = own.slice(s![from..from + heads.dim]);
                    q.slice_mut(s![row, to..to + heads.dim]).assign(&from);
                }
            }
            Ok(())
        })?;
        Ok(q)
    }

    /// What the heads put out, `[n, heads.q · e]`, through the output maps of the experts that they are of.
    pub(super) fn out<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        routes: &Routes<R>,
        (heads, hidden, bias): (Heads, usize, bool),
    ) -> Result<Array2<R>> {
        let width = heads.q / self.top_k * heads.v_dim;
        let shape = [self.n_experts, hidden, width];
        params.check(&format!("{name}.experts.o_proj.weight"), &shape)?;
        let mut y = Array2::zeros((x.nrows(), hidden));
        if bias {
            let bias: Array1<R> = params.vector(&format!("{name}.o_proj.bias"), hidden)?;
            y += &bias;
        }
        self.each(routes, |expert, rank, rows, weights| {
            let mut own = Array2::zeros((rows.len(), width));
            for (&row, mut own) in rows.iter().zip(own.rows_mut()) {
                for (to, from) in self.places(rank, heads, heads.v_dim) {
                    let from = x.slice(s![row, from..from + heads.v_dim]);
                    own.slice_mut(s![to..to + heads.v_dim]).assign(&from);
                }
            }
            let name = format!("{name}.experts.o_proj");
            let of = (expert, self.n_experts);
            let out = params.expert(&own, &name, of, hidden, Bias::Is(false))?;
            for ((&row, out), &weight) in rows.iter().zip(out.rows()).zip(weights) {
                y.row_mut(row).scaled_add(weight, &out);
            }
            Ok(())
        })?;
        Ok(y)
    }

    /// Where each head of an expert begins, among its own and among those of all that a position has.
    fn places(
        &self,
        rank: usize,
        heads: Heads,
        dim: usize,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let top_k = self.top_k;
        let shared = (heads.q / heads.kv / top_k).max(1);
        (0..heads.q / top_k).map(move |head| {
            let (group, place) = (head / shared, head % shared);
            (head * dim, ((group * top_k + rank) * shared + place) * dim)
        })
    }

    /// Calls `f` for the rows that have an expert at one rank, with the expert, the rank, the rows and their weights.
    fn each<R: Real>(
        &self,
        Routes(routes): &Routes<R>,
        mut f: impl FnMut(usize, usize, &[usize], &[R]) -> Result<()>,
    ) -> Result<()> {
        for expert in 0..self.n_experts {
            for rank in 0..self.top_k {
                let rows = routes.iter().enumerate();
                let rows = rows.filter(|(_, chosen)| chosen[rank].0 == expert);
                let (rows, weights): (Vec<usize>, Vec<R>) =
                    rows.map(|(row, chosen)| (row, chosen[rank].1)).unzip();
                if !rows.is_empty() {
                    f(expert, rank, &rows, &weights)?;
                }
            }
        }
        Ok(())
    }
}
