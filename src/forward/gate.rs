//! The gate on what the heads of an attention put out: step 6 of Attention.

use ndarray::Array2;

use super::keys::{Keys, broken};
use super::latent::Latent;
use super::mlp::{sigmoid, softplus};
use super::place::Heads;
use super::real::Real;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// A gate, and how it is made.
pub(super) struct Gate {
    /// Whether it has one number for each head.
    per_head: bool,
    softplus: bool,
    /// Whether it is made of what latent attention makes queries of, and not of the stream.
    of_queries: bool,
    q_bias: Bias,
    bias: Bias,
}

impl Gate {
    /// The gate of a stack whose maps to queries have these biases; `None` without one.
    pub(super) fn read(keys: Keys<'_>, bias: Bias) -> Result<Option<Gate>> {
        if !keys.bool("attn_out_gate")? {
            return Ok(None);
        }
        Ok(Some(Gate {
            per_head: keys.word("attn_out_gate_of")? == "head",
            softplus: keys.word("attn_out_gate_activation")? == "softplus",
            of_queries: keys.word("attn_out_gate_from")? == "queries",
            q_bias: bias,
            bias: if keys.bool("attn_out_gate_bias")? { bias } else { Bias::Is(false) },
        }))
    }

    /// Multiplies what the heads put out, `[n, h·e]`, by the gate of what the attention `name` reads.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        heads: Heads,
        latent: Option<&Latent>,
        mixed: &mut Array2<R>,
    ) -> Result<()> {
        let (width, rows) = (mixed.ncols(), if self.per_head { heads.q } else { mixed.ncols() });
        let made_of = match latent.filter(|_| self.of_queries) {
            Some(latent) => latent.of_queries(params, name, x, self.q_bias)?,
            None => None,
        };
        if self.of_queries && made_of.is_none() {
            return Err(broken("a gate wants compressed queries of latent attention"));
        }
        let x = made_of.as_ref().unwrap_or(x);
        let gate = params.linear(x, &format!("{name}.gate_proj"), rows, self.bias)?;
        let open = |gate| if self.softplus { softplus(gate) } else { sigmoid(gate) };
        for (mut mixed, gate) in mixed.rows_mut().into_iter().zip(gate.rows()) {
            let parts = mixed.exact_chunks_mut((width / rows.max(1)).max(1)).into_iter().zip(gate);
            parts.for_each(|(mut part, &gate)| part *= open(gate));
        }
        Ok(())
    }
}
