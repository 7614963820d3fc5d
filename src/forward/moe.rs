//! Mixtures of experts.
//!
//! Of X experts, the last `null_experts` of which give nothing, those `zero_experts` before them what they get, each token goes to
//! `top_k`. Router logits are `l = x Wrᵀ + b`, `[n, X]`, then `c·tanh(l/c)` by `moe.logit_softcap` where it is not null. Scores are
//! `softmax(l)` over all experts, `σ(l)` or `√softplus(l)` each apart, or `l` itself (`softmax_of_topk`, `sigmoid_of_topk`). The choice
//! is by `score + score_bias`; with groups, only the experts of the `topk_groups` best groups are in
//! it, where a group's score is its best expert's or the sum of its best two. The weights of the
//! chosen ones are their scores without the bias (for `softmax_of_topk`: the softmax over them; for `sigmoid_of_topk`: σ of each),
//! divided by their sum if `norm_topk`, times `routed_scale`.
//!
//! `sparsemixer` chooses one expert after the other by the greatest logit m left; its weight is its
//! softmax over the logits l left with `(m − l)/max(|l|, m) ≤ 2·sparsemixer_eps`.
//!
//! In layers `hash_layers` the experts of a token are those of its row of `router.experts_of_tokens`, a table of ids,
//! whatever their scores, which weigh them.
//!
//! With `moe.product_keys` K > 0 experts are chosen by two keys each: `l' = x Wrᵀ`, `[N, 2·K]`, is read as 2·N rows of K numbers, of all N positions of
//! all sequences, and position t has the logit `l'_t,i + l'_(N + t),j` for expert `i·K + j`, none for experts from K² on. So a position is routed by what others say, but where it is
//! alone.
//!
//! With `moe.capacity` c an expert takes the first c tokens of a sequence that choose it, and adds
//! nothing for the others.
//!
//! With `moe.router_dim` > 0 more maps come first (Routers of several maps). With `router_norm` a router reads the stream in place of its sublayer's input, normed (`router_norm`) and divided by `√hidden_size`. With
//! `expert_scale` weights are last multiplied by the expert's number, `router.expert_scale`. With `beside_mlp` there is an MLP too:
//! the sublayer's output is `n1(mlp(x)) + n2(experts(n3(stream)))`, where the stream is what its `pre_norm` reads, and n1, n2 and n3 are the
//! norms `dense_post_norm`, `experts_post_norm` and `experts_pre_norm`. Without `beside_normed` there are no n1 and n2; with `of_layer` the
//! stream is that which enters the layer.
//!
//! Experts are gated where the stack's MLP is, but with `moe.plain` not. The result is `Σ weight·expert(x)`, or `Σ expert(weight·x)` where `weight_at` is `input`, plus that of the expert
//! that every token goes to, times `shared_scale`, and times `σ(x Wsᵀ)` if `shared_gate`,
//! plus `experts.out_bias` if `out_bias`; with `post_norm` all of it is normed.

use ndarray::{Array1, Array2, Axis, Zip};

use super::choice::Choice;
use super::keys::{Keys, broken, of_layer};
use super::mlp::{Mlp, sigmoid};
use super::norm::Norm;
use super::place::Fed;
use super::real::Real;
use super::router::Router;
use super::weights::{Bias, Params};
use crate::base::error::Result;

/// The mixture of experts of a stack.
pub(super) struct Moe {
    experts: Mlp,
    /// That of the shared expert.
    mlp: Mlp,
    n_experts: usize,
    n_zero: usize,
    /// How many of the last routes lead nowhere.
    n_null: usize,
    /// The maps before the router's last one, where there are some.
    router: Option<Router>,
    width: usize,
    shared_width: usize,
    shared_gate: bool,
    shared_scale: f64,
    weigh_input: bool,
    post_norm: Option<Norm>,
    /// The norm of what the router reads, and the root of its width.
    router_norm: Option<(Norm, f64)>,
    expert_scale: bool,
    /// Layers whose experts are those of the token.
    hash_layers: Vec<usize>,
    vocab_size: usize,
    router_bias: Bias,
    /// How many keys experts are pairs of; 0 where they have logits of their own.
    product_keys: usize,
    score_bias: bool,
    bias: Bias,
    /// Whether a bias is added to what the experts put out together.
    out_bias: bool,
    /// How many tokens of a sequence an expert takes.
    capacity: Option<usize>,
    logit_softcap: Option<f64>,
    /// The bounds in the experts of each layer, and in its shared expert.
    clamps: Option<Vec<f64>>,
    shared_clamps: Option<Vec<f64>>,
    choice: Choice,
}

impl Moe {
    pub(super) fn read(keys: Keys<'_>) -> Result<Moe> {
        let n_experts = keys.count("moe.num_experts")?;
        let n_zero = keys.count("moe.zero_experts")?;
        let n_null = keys.count("moe.null_experts")?;
        let n_routes = n_experts + n_zero + n_null;
        let choice = Choice::read(keys, n_routes)?;
        let gated = keys.bool("mlp_gated")? && !keys.bool("moe.plain")?;
        let mlp = Mlp::read(keys)?;
        Ok(Moe {
            experts: match (gated, keys.opt_float("moe.clamp")?) {
                (true, Some(clamp)) => mlp.kept_within(clamp),
                (true, None) => mlp,
                (false, _) => mlp.plain()?,
            },
            mlp,
            n_experts,
            n_zero,
            n_null,
            router: Router::read(keys)?,
            width: keys.count("moe.intermediate_size")?,
            shared_width: keys.count("moe.shared_intermediate_size")?,
            shared_gate: keys.bool("moe.shared_gate")?,
            shared_scale: keys.float("moe.shared_scale")?,
            weigh_input: match keys.word("moe.weight_at")?.as_str() {
                "input" => true,
                "output" => false,
                other => return Err(broken(format!("`moe.weight_at` is {other:?}"))),
            },
            post_norm: keys.bool("moe.post_norm")?.then(|| Norm::read(keys)).transpose()?,
            router_norm: match keys.bool("moe.router_norm")? {
                true => {
                    let norm = Norm::read(keys)?.without_bias();
                    Some((norm, (keys.count("hidden_size")? as f64).sqrt()))
                }
                false => None,
            },
            expert_scale: keys.bool("moe.expert_scale")?,
            hash_layers: keys.opt_counts("moe.hash_layers")?.unwrap_or_default(),
            vocab_size: keys.count("vocab_size")?,
            router_bias: Bias::Is(keys.bool("moe.router_bias")?),
            product_keys: keys.count("moe.product_keys")?,
            score_bias: keys.bool("moe.score_bias")?,
            bias: Bias::Is(keys.bool("moe.bias")?),
            out_bias: keys.bool("moe.out_bias")?,
            capacity: keys.opt_count("moe.capacity")?,
            logit_softcap: keys.opt_float("moe.logit_softcap")?,
            clamps: if gated { keys.opt_floats("moe.clamps")? } else { None },
            shared_clamps: if keys.bool("mlp_gated")? {
                keys.opt_floats("mlp_clamps")?
            } else {
                None
            },
            choice,
        })
    }

    /// The mixture for `x`, `[n, hidden]`, by `NAME.router`, which reads
    /// `routed`, `NAME.experts` and `NAME.shared`.
    pub(super) fn apply<R: Real>(
        &self,
        params: Params<'_>,
        name: &str,
        x: &Array2<R>,
        routed: &Array2<R>,
        fed: Fed<'_>,
    ) -> Result<Array2<R>> {
        let mlp = self.experts.with_clamp(of_layer(&self.clamps, "moe.clamps", fed.layer, 0.0)?);
        let shared_clamp = of_layer(&self.shared_clamps, "mlp_clamps", fed.layer, 0.0)?;
        let router = format!("{name}.router");
        let n_routes = self.n_experts + self.n_zero + self.n_null;
        let n_logits = if self.product_keys == 0 { n_routes } else { 2 * self.product_keys };
        let mut logits = match &self.router_norm {
            Some((norm, root)) => {
                let routed = norm.apply(params, &format!("{name}.router_norm"), routed)?;
                params.linear(&(routed / R::of(*root)), &router, n_logits, self.router_bias)?
            }
            None => {
                let read = self.router.as_ref().map(|own| own.apply(params, &router, x));
                let read = read.transpose()?;
                params.linear(read.as_ref().unwrap_or(x), &router, n_logits, self.router_bias)?
            }
        };
        if 0 < self.product_keys {
            // Before anything is as large as it says.
            if self.product_keys.saturating_add(1).saturating_pow(2) <= n_routes {
                let message =
                    format!("{n_routes} experts are more than pairs of {} keys", self.product_keys);
                return Err(broken(message));
            }
            logits = of_pairs(&logits, self.product_keys, n_routes);
        }
        if let Some(cap) = self.logit_softcap {
            let cap = R::of(cap);
            logits.mapv_inplace(|x| cap * (x / cap).tanh());
        }
        let expert_scale: Option<Array1<R>> = match self.expert_scale {
            true => Some(params.vector(&format!("{router}.expert_scale"), self.n_experts)?),
            false => None,
        };
        let by_token = self.hash_layers.contains(&fed.layer);
        let of_tokens = match by_token {
            true => {
                let table = format!("{router}.experts_of_tokens");
                Some(params.ids(&table, [self.vocab_size, self.choice.top_k], fed.ids)?)
            }
            false => None,
        };
        let score_bias = match self.score_bias && !by_token {
            true => Some(params.vector(&format!("{router}.score_bias"), n_routes)?),
            false => None,
        };
        // Which tokens each expert gets, and with which weight.
        let mut tokens: Vec<Vec<(usize, R)>> = vec![Vec::new(); n_routes];
        // How many tokens of the sequence wanted each.
        let mut places = vec![0; n_routes];
        for (token, logits) in logits.rows().into_iter().enumerate() {
            if self.capacity.is_some() && token % fed.len.max(1) == 0 {
                places = vec![0; n_routes];
            }
            let chosen = match &of_tokens {
                Some(of_tokens) => self.choice.fixed(logits, of_tokens, token)?,
                None => self.choice.of(logits, score_bias.as_ref()),
            };
            for (expert, weight) in chosen {
                let scale = expert_scale.as_ref().and_then(|scale| scale.get(expert));
                let weight = weight * scale.copied().unwrap_or_else(R::one);
                places[expert] += 1;
                if self.capacity.is_none_or(|most| places[expert] <= most) {
                    tokens[expert].push((token, weight));
                }
            }
        }
        let mut y = Array2::zeros(x.dim());
        for (expert, tokens) in tokens.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
            if self.n_experts + self.n_zero <= expert {
                continue;
            }
            if self.n_experts <= expert {
                for &(token, weight) in tokens {
                    y.row_mut(token).scaled_add(weight, &x.row(token));
                }
                continue;
            }
            let rows: Vec<usize> = tokens.iter().map(|(token, _)| *token).collect();
            let mut input = x.select(Axis(0), &rows);
            if self.weigh_input {
                for (mut row, &(_, weight)) in input.rows_mut().into_iter().zip(tokens) {
                    row *= weight;
                }
            }
            let output = mlp.with(params, name, &input, self.width, &|x, part, width| {
                let name = format!("{name}.experts.{part}");
                params.expert(x, &name, (expert, self.n_experts), width, self.bias)
            })?;
            for (&(token, weight), output) in tokens.iter().zip(output.rows()) {
                let weight = if self.weigh_input { R::one() } else { weight };
                y.row_mut(token).scaled_add(weight, &output);
            }
        }
        if 0 < self.shared_width {
            let shared = format!("{name}.shared");
            let mut output = self.mlp.with_clamp(shared_clamp).apply(
                params,
                &shared,
                x,
                self.shared_width,
                [Bias::Stored, Bias::Stored],
            )?;
            if self.shared_gate {
                let gate = format!("{name}.shared_gate");
                let gate = params.linear(x, &gate, 1, Bias::Is(false))?;
                Zip::from(output.rows_mut())
                    .and(gate.rows())
                    .for_each(|mut row, gate| row *= sigmoid(gate[0]));
            }
            y.scaled_add(R::of(self.shared_scale), &output);
        }
        if self.out_bias {
            let bias: Array1<R> = params.vector(&format!("{name}.experts.out_bias"), y.ncols())?;
            y += &bias;
        }
        match &self.post_norm {
            Some(norm) => norm.apply(params, &format!("{name}.post_norm"), &y),
            None => Ok(y),
        }
    }
}

/// The logits of experts that are pairs of keys, `[n, experts]`, of `[n, 2·keys]`.
fn of_pairs<R: Real>(logits: &Array2<R>, n_keys: usize, n_experts: usize) -> Array2<R> {
    let n = logits.nrows();
    let flat: Vec<R> = logits.iter().copied().collect();
    Array2::from_shape_fn((n, n_experts), |(t, expert)| {
        if n_keys * n_keys <= expert {
            return R::neg_infinity();
        }
        let first = flat[t * n_keys + expert / n_keys];
        first + flat[(n + t) * n_keys + expert % n_keys]
    })
}
