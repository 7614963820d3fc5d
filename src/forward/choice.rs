//! Which experts a token goes to, and with which weights.

use ndarray::{Array1, Array2, ArrayView1};

use super::keys::{Keys, broken};
use super::mix::{greatest, softmax};
use super::mlp::{sigmoid, softplus};
use super::real::Real;
use crate::base::error::Result;

/// How the experts of a token are chosen and weighed.
pub(super) struct Choice {
    pub(super) top_k: usize,
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
    SigmoidOfTopk,
    /// How far from the greatest logit it looks, relatively.
    Sparsemixer {
        reach: f64,
    },
}

impl Choice {
    pub(super) fn read(keys: Keys<'_>, n_routes: usize) -> Result<Choice> {
        let groups = keys.count("moe.groups")?;
        let choice = Choice {
            top_k: keys.count("moe.top_k")?,
            scoring: match keys.word("moe.scoring")?.as_str() {
                "softmax" => Scoring::Softmax,
                "sigmoid" => Scoring::Sigmoid,
                "sqrt_softplus" => Scoring::SqrtSoftplus,
                "softmax_of_topk" => Scoring::SoftmaxOfTopk,
                "sigmoid_of_topk" => Scoring::SigmoidOfTopk,
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
        Ok(choice)
    }

    /// The experts of one token, and their weights.
    pub(super) fn of<R: Real>(
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
    pub(super) fn fixed<R: Real>(
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
            Scoring::SoftmaxOfTopk | Scoring::SigmoidOfTopk | Scoring::Sparsemixer { .. } => {}
        }
        scores
    }

    /// Chosen experts with their weights.
    fn weighed<R: Real>(&self, scores: &Array1<R>, chosen: Vec<usize>) -> Vec<(usize, R)> {
        let mut weights: Vec<R> = chosen.iter().map(|&expert| scores[expert]).collect();
        match self.scoring {
            Scoring::SoftmaxOfTopk => softmax(weights.iter_mut(), None),
            Scoring::SigmoidOfTopk => {
                weights.iter_mut().for_each(|weight| *weight = sigmoid(*weight))
            }
            _ => {}
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
        check(&choice(Scoring::SigmoidOfTopk), &logits, &[(2, 4.0 / 5.0), (1, 3.0 / 4.0)]);
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
