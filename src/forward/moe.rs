//! Mixtures of experts.
//!
//! Of X experts, the last `null_experts` of which give nothing, those `zero_experts` before them what they get, each token goes to
//! `top_k`. Router logits are `l = x Wrᵀ + b`, `[n, X]`, then `c·tanh(l/c)` by `moe.logit_softcap` where it is not null. Scores are
//! `softmax(l)` over all experts, `σ(l)` or `√softplus(l)` each apart, or `l` itself (`softmax_of_topk`). The choice
//! is by `score + score_bias`; with groups, only the experts of the `topk_groups` best groups are in
//! it, where a group's score is its best expert's or the sum of its best two. The weights of the
//! chosen ones are their scores without the bias (for `softmax_of_topk`: the softmax over them),
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

use ndarray::{Array1, Array2, ArrayView1, Axis, Zip};

use super::keys::{Keys, broken, of_layer};
use super::mix::{greatest, softmax};
use super::mlp::{Mlp, sigmoid, softplus};
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

struct Choice {
    top_k: usize,
    scoring: Scoring,
    norm: bool,
    scale: f64,
    groups: usize,
    topk_groups: usize,
    best_two: bool,
}

enum Scoring {
    Softmax,
    Sigmoid,
    SqrtSoftplus,
    SoftmaxOfTopk,
    /// How far from the greatest logit it looks, relatively.
    Sparsemixer {
        reach: f64,
    },
}

impl Moe {
    pub(super) fn read(keys: Keys<'_>) -> Result<Moe> {
        let n_experts = keys.count("moe.num_experts")?;
        let n_zero = keys.count("moe.zero_experts")?;
        let n_null = keys.count("moe.null_experts")?;
        let n_routes = n_experts + n_zero + n_null;
        let groups = keys.count("moe.groups")?;
        let choice = Choice {
            top_k: keys.count("moe.top_k")?,
            scoring: match keys.word("moe.scoring")?.as_str() {
                "softmax" => Scoring::Softmax,
                "sigmoid" => Scoring::Sigmoid,
                "sqrt_softplus" => Scoring::SqrtSoftplus,
                "softmax_of_topk" => Scoring::SoftmaxOfTopk,
                "sparsemixer" => {
                    Scoring::Sparsemixer { reach: 2.0 * keys.float("moe.sparsemixer_eps")? }
                }
                other => return Err(broken(format!("`moe.scoring` is {other:?}"))),
            },
            norm: keys.bool("moe.norm_topk")?,
            scale: keys.float("moe.routed_scale")?,
            groups,
            topk_groups: keys.count("moe.topk_groups")?,
            best_two: 1 < groups && keys.word("moe.group_score")? == "top2_sum",
        };
        let fits = groups != 0 && n_routes.is_multiple_of(groups);
        // Beyond the groups that stay no expert is better than another.
        let n_open = if fits { choice.topk_groups.saturating_mul(n_routes / groups) } else { 0 };
        if n_open < choice.top_k {
            return Err(broken(format!(
                "{} of {n_routes} experts in {groups} groups, of which {} stay, cannot be chosen",
                choice.top_k, choice.topk_groups
            )));
        }
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

impl Choice {
    /// The experts of one token, and their weights.
    fn of<R: Real>(
        &self,
        logits: ArrayView1<'_, R>,
        score_bias: Option<&Array1<R>>,
    ) -> Vec<(usize, R)> {
        if let Scoring::Sparsemixer { reach } = self.scoring {
            return self.one_after_the_other(&logits.to_owned(), reach);
        }
        let scores = self.scores(logits);
        let mut ranking = scores.clone();
        if let Some(bias) = score_bias {
            ranking += bias;
        }
        self.leave_groups(&mut ranking);
        let chosen = greatest(ranking.iter().copied().enumerate(), self.top_k);
        self.weighed(&scores, chosen)
    }

    /// The experts that a token of some row has whatever it is told, and their weights.
    fn fixed<R: Real>(
        &self,
        logits: ArrayView1<'_, R>,
        of_tokens: &Array2<usize>,
        row: usize,
    ) -> Result<Vec<(usize, R)>> {
        let scores = self.scores(logits);
        let chosen = of_tokens.rows().into_iter().nth(row).map(|row| row.to_vec());
        let chosen = chosen.ok_or_else(|| broken("what is no token chooses no experts"))?;
        match chosen.iter().find(|&&expert| scores.len() <= expert) {
            Some(expert) => Err(broken(format!("a token wants expert {expert}: there is none"))),
            None => Ok(self.weighed(&scores, chosen)),
        }
    }

    fn scores<R: Real>(&self, logits: ArrayView1<'_, R>) -> Array1<R> {
        let mut scores = logits.to_owned();
        match self.scoring {
            Scoring::Softmax => softmax(scores.iter_mut(), None),
            Scoring::Sigmoid => scores.mapv_inplace(sigmoid),
            Scoring::SqrtSoftplus => scores.mapv_inplace(|x| softplus(x).sqrt()),
            Scoring::SoftmaxOfTopk | Scoring::Sparsemixer { .. } => {}
        }
        scores
    }

    /// Chosen experts with their weights.
    fn weighed<R: Real>(&self, scores: &Array1<R>, chosen: Vec<usize>) -> Vec<(usize, R)> {
        let mut weights: Vec<R> = chosen.iter().map(|&expert| scores[expert]).collect();
        if matches!(self.scoring, Scoring::SoftmaxOfTopk) {
            softmax(weights.iter_mut(), None);
        }
        let sum: R = weights.iter().copied().sum();
        let divisor = if self.norm && sum != R::zero() { sum } else { R::one() };
        let scale = R::of(self.scale);
        chosen.into_iter().zip(weights).map(|(expert, w)| (expert, w / divisor * scale)).collect()
    }

    /// Takes the experts of all but the best groups out of the choice.
    fn leave_groups<R: Real>(&self, ranking: &mut Array1<R>) {
        if self.groups == 1 {
            return;
        }
        let size = ranking.len() / self.groups;
        let group_score = |group: ArrayView1<'_, R>| {
            let n_best = if self.best_two { 2 } else { 1 };
            let best = greatest(group.iter().copied().enumerate(), n_best);
            best.into_iter().map(|expert| group[expert]).sum::<R>()
        };
        let scores: Vec<R> = ranking.exact_chunks(size).into_iter().map(group_score).collect();
        let stay = greatest(scores.into_iter().enumerate(), self.topk_groups);
        for (expert, score) in ranking.iter_mut().enumerate() {
            if !stay.contains(&(expert / size)) {
                *score = R::neg_infinity();
            }
        }
    }

    fn one_after_the_other<R: Real>(&self, logits: &Array1<R>, reach: f64) -> Vec<(usize, R)> {
        let mut left: Vec<R> = logits.to_vec();
        let mut chosen = Vec::new();
        for _ in 0..self.top_k {
            let expert = greatest(left.iter().copied().enumerate(), 1)[0];
            let max = left[expert];
            let near = left.iter().zip(logits).map(|(&left, &logit)| {
                let far = (max - logit) / logit.abs().max(max) > R::of(reach);
                if far { R::neg_infinity() } else { left }
            });
            let mut near: Vec<R> = near.collect();
            softmax(near.iter_mut(), None);
            chosen.push((expert, near[expert] * R::of(self.scale)));
            left[expert] = R::neg_infinity();
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn choice(scoring: Scoring) -> Choice {
        Choice {
            top_k: 2,
            scoring,
            norm: false,
            scale: 1.0,
            groups: 1,
            topk_groups: 1,
            best_two: false,
        }
    }

    #[track_caller]
    fn check(choice: &Choice, logits: &Array1<f64>, wanted: &[(usize, f64)]) {
        let found = choice.of(logits.view(), None);
        let same = found.len() == wanted.len()
            && found.iter().zip(wanted).all(|(f, w)| f.0 == w.0 && (f.1 - w.1).abs() < 1e-12);
        assert!(same, "{found:?}, not {wanted:?}");
    }

    #[test]
    fn softmax_before_or_after_the_choice() {
        let logits = array![0.0, 3f64.ln(), 4f64.ln()];
        check(&choice(Scoring::Softmax), &logits, &[(2, 0.5), (1, 0.375)]);
        let normed = Choice { norm: true, scale: 2.0, ..choice(Scoring::Softmax) };
        check(&normed, &logits, &[(2, 8.0 / 7.0), (1, 6.0 / 7.0)]);
        check(&choice(Scoring::SoftmaxOfTopk), &logits, &[(2, 4.0 / 7.0), (1, 3.0 / 7.0)]);
    }

    #[test]
    fn the_score_bias_chooses_and_does_not_weigh() {
        let logits: Array1<f64> = array![0.0, 1.0, 2.0];
        let found = choice(Scoring::Sigmoid).of(logits.view(), Some(&array![5.0, 0.0, 0.0]));
        assert_eq!(found[0], (0, 0.5));
        assert_eq!(found[1].0, 2);
    }

    #[test]
    fn experts_of_other_groups_are_out() {
        let grouped = |best_two| Choice { groups: 2, best_two, ..choice(Scoring::SoftmaxOfTopk) };
        let logits = array![9.0, 0.0, 6.0, 6.0];
        let half = [(2, 0.5), (3, 0.5)];
        check(&grouped(true), &logits, &half);
        let found = grouped(false).of(logits.view(), None);
        assert_eq!((found[0].0, found[1].0), (0, 1));
    }

    #[test]
    fn sparsemixer_weighs_among_the_near_ones() {
        // 1.99 is within 2% of 2; 1.0 is not.
        let found =
            choice(Scoring::Sparsemixer { reach: 0.02 }).of(array![1.0f64, 1.99, 2.0].view(), None);
        let near = 1.0 / (1.0 + (-0.01f64).exp());
        assert_eq!((found[0].0, found[1].0), (2, 1));
        assert!((found[0].1 - near).abs() < 1e-12 && (found[1].1 - 1.0).abs() < 1e-12);
    }
}
