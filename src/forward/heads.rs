//! Heads: from a stack's output to the answer of a task.
//!
//! A head is `proj(norm(act(dense(x))))`, of which all but `proj` may be missing; with a map `dense2` it is `proj(norm(act(dense2(act(dense(x))))))`. The LM head's
//! input is multiplied by `head_input_scale`, its logits by `logit_scale`, and then come
//! `c·tanh(x/c)` by `logit_softcap`. With `head_rows_normed` each row of its `proj` is divided by its length, but by no less
//! than 1e-12. With `head_vocab_size` > 0 it has so many rows, those of the first tokens. With `head_rest` the LM head's `proj` is of the first `embed_dim` dims, and `proj_rest` of the others; their sum is the logits.
//!
//! A pooling makes one vector of a sequence: `first`, `end` (the last position, padding or not), `last` (the last position that is no padding: by
//! the mask for an embedding, by the padding token for labels),
//! `mean` and `max` over the positions the mask shows, `eos` (the last end-of-sequence token),
//! `pooler` (`tanh(dense(first))`), `late` (the mean, over the positions the mask shows, of what the
//! head gives for each).

use ndarray::{Array1, Array2, Axis, s};

use super::keys::{Keys, broken};
use super::mlp::Activation;
use super::norm::Norm;
use super::real::Real;
use super::weights::{Bias, Params};
use super::{Batch, Tensor};
use crate::base::error::{Error, Result};
use crate::package::{Hparams, Task, Value};

/// The pooling of labels, in place of states.
const LATE: &str = "late";

/// What heads read.
pub(super) struct Heads<'a, R> {
    pub(super) params: Params<'a>,
    pub(super) keys: Keys<'a>,
    /// The ids of special tokens.
    pub(super) tokens: &'a Hparams,
    /// The output of the last stack, `[batch · n, width]`.
    pub(super) hidden: &'a Array2<R>,
    /// What the LM head reads in its place, where a stream predicts.
    pub(super) predicted: Option<&'a Array2<R>>,
    /// What `pooler` reads in place of the first row, `[batch, width]`.
    pub(super) summary: Option<&'a Array2<R>>,
    pub(super) batch: &'a Batch,
    /// The ids of the sequences that are pooled, `[batch · n]`; none for a spectrogram.
    pub(super) ids: &'a [usize],
    /// Whether the mask was given.
    pub(super) masked: bool,
    /// How many sequences are choices of one question.
    pub(super) choices: usize,
}

impl<R: Real> Heads<'_, R> {
    /// The outputs of a task by their names.
    pub(super) fn answer(&self, task: &Task) -> Result<Vec<(&'static str, Tensor<R>)>> {
        let (size, len) = (self.batch.size, self.batch.len);
        let head = task.head.as_deref();
        let per_position = |x: Array2<R>| {
            let width = x.ncols();
            Tensor::new(vec![size, len, width], x)
        };
        let logits = |tensor| Ok(vec![("logits", tensor)]);
        match task.id.as_str() {
            "causal-lm" | "masked-lm" | "seq2seq-lm" | "speech-seq2seq" => {
                logits(per_position(self.lm(head.unwrap_or("lm"), task)?))
            }
            "token-classification" => logits(per_position(self.head(task, self.hidden)?)),
            "replaced-token" => {
                let x = self.head(task, self.hidden)?;
                check_rows(task, &x, 1)?;
                logits(Tensor::new(vec![size, len], x))
            }
            "question-answering" => {
                let x = self.head(task, self.hidden)?;
                check_rows(task, &x, 2)?;
                let column = |n: usize| {
                    let column = x.column(n).to_owned().insert_axis(Axis(1));
                    Tensor::new(vec![size, len], column)
                };
                Ok(vec![("start_logits", column(0)), ("end_logits", column(1))])
            }
            "sequence-classification" if task.pool.as_deref() == Some(LATE) => {
                let x = self.head(task, self.hidden)?;
                let x = self.vectors(&x, "mean", false)?;
                logits(Tensor::new(vec![size, x.ncols()], x))
            }
            "sequence-classification" | "next-sentence" | "audio-classification" => {
                let x = self.head(task, &self.pool(pooling(task)?, false)?)?;
                logits(Tensor::new(vec![size, x.ncols()], x))
            }
            "multiple-choice" => {
                let x = self.head(task, &self.pool(pooling(task)?, false)?)?;
                check_rows(task, &x, 1)?;
                logits(Tensor::new(vec![size / self.choices, self.choices], x))
            }
            "embedding" => Ok(vec![("embeddings", self.embedding(task)?)]),
            other => Err(Error::unsupported(format!("nothing computes the task {other:?}"))),
        }
    }

    fn embedding(&self, task: &Task) -> Result<Tensor<R>> {
        let mut x = self.pool(pooling(task)?, true)?;
        for step in &task.dense {
            let name = format!("heads.{}.dense", step.head);
            let out = self.rows(&name)?;
            x = self.params.linear(&x, &name, out, Bias::Stored)?;
            if let Some(word) = &step.activation {
                let activation = Activation::parse(word)?;
                x.mapv_inplace(|x| activation.of(x));
            }
        }
        if task.normalize == Some(true) {
            for mut row in x.rows_mut() {
                let length = row.iter().map(|&x| x * x).sum::<R>().sqrt().max(R::of(1e-12));
                row /= length;
            }
        }
        Ok(Tensor::new(vec![self.batch.size, x.ncols()], x))
    }

    /// The logits of an LM head, `[batch · n, vocab_size]`.
    fn lm(&self, head: &str, task: &Task) -> Result<Array2<R>> {
        let scaled =
            self.predicted.unwrap_or(self.hidden) * R::of(self.keys.float("head_input_scale")?);
        let x = self.transform(head, task, &scaled)?;
        let mut own = ["head_vocab_size", "decoder_vocab_size", "vocab_size"].into_iter();
        let vocab = own.try_fold(0, |rows, key| match rows {
            0 => self.keys.count(key),
            rows => Ok(rows),
        })?;
        let proj = format!("heads.{head}.proj");
        let mut x = if self.keys.bool("head_rows_normed")? {
            let x = self.params.linear(&x, &proj, vocab, Bias::Is(false))?;
            x / &self.params.row_lengths(&format!("{proj}.weight"), [vocab, self.hidden.ncols()])?
        } else {
            let rest = format!("heads.{head}.proj_rest");
            match self.keys.bool("head_rest")? {
                true => {
                    let width = self.keys.count("embed_dim")?.min(x.ncols());
                    let (own, others) = (x.slice(s![.., ..width]), x.slice(s![.., width..]));
                    let others = others.to_owned();
                    self.params.linear(&own.to_owned(), &proj, vocab, Bias::Stored)?
                        + &self.params.linear(&others, &rest, vocab, Bias::Is(false))?
                }
                false => self.params.linear(&x, &proj, vocab, Bias::Stored)?,
            }
        };
        x *= R::of(self.keys.float("logit_scale")?);
        if let Some(cap) = self.keys.opt_float("logit_softcap")? {
            let cap = R::of(cap);
            x.mapv_inplace(|x| cap * (x / cap).tanh());
        }
        Ok(x)
    }

    /// The head of a task for each row.
    fn head(&self, task: &Task, x: &Array2<R>) -> Result<Array2<R>> {
        let head = task.head.as_deref();
        let head = head.ok_or_else(|| broken(format!("the task {:?} has no head", task.id)))?;
        let x = self.transform(head, task, x)?;
        let name = format!("heads.{head}.proj");
        self.params.linear(&x, &name, self.rows(&name)?, Bias::Stored)
    }

    /// What comes before a head's projection.
    fn transform(&self, head: &str, task: &Task, x: &Array2<R>) -> Result<Array2<R>> {
        let mut x = x.clone();
        let dense = format!("heads.{head}.dense");
        if self.params.has(&format!("{dense}.weight"))? {
            x = self.params.linear(&x, &dense, self.rows(&dense)?, Bias::Stored)?;
            let own = self.keys.word("activation");
            let word = task.activation.clone().map_or(own, Ok)?;
            let activation = Activation::parse(&word)?;
            x.mapv_inplace(|x| activation.of(x));
            let next = format!("heads.{head}.dense2");
            if self.params.has(&format!("{next}.weight"))? {
                x = self.params.linear(&x, &next, self.rows(&next)?, Bias::Stored)?;
                x.mapv_inplace(|x| activation.of(x));
            }
        }
        let norm = format!("heads.{head}.norm");
        if self.params.has(&format!("{norm}.weight"))? {
            x = Norm::of_heads(self.keys)?.apply(self.params, &norm, &x)?;
        }
        Ok(x)
    }

    /// The rows of a map's weight.
    fn rows(&self, name: &str) -> Result<usize> {
        let shape = self.params.shape(&format!("{name}.weight"))?;
        shape.first().copied().ok_or_else(|| broken(format!("`{name}.weight` is no matrix")))
    }

    /// One vector for each sequence, `[batch, width]`.
    pub(super) fn pool(&self, pool: &str, by_mask: bool) -> Result<Array2<R>> {
        if pool == "pooler" {
            let first = match self.summary {
                Some(summary) => summary.clone(),
                None => self.pool("first", by_mask)?,
            };
            let name = "heads.pooler.dense";
            let x = self.params.linear(&first, name, self.rows(name)?, Bias::Stored)?;
            return Ok(x.mapv(R::tanh));
        }
        self.vectors(self.hidden, pool, by_mask)
    }

    /// One vector for each sequence of `x`, `[batch · n, width]`.
    fn vectors(&self, x: &Array2<R>, pool: &str, by_mask: bool) -> Result<Array2<R>> {
        let (len, width) = (self.batch.len, x.ncols());
        if len == 0 {
            return Err(broken("a sequence without positions has no vector"));
        }
        let mut pooled = Array2::zeros((self.batch.size, width));
        for (sequence, mut out) in self.batch.sequences().zip(pooled.rows_mut()) {
            let rows = sequence.rows();
            let at = |position: usize| x.row(rows.start + position);
            let visible = &self.batch.visible[sequence.index];
            let ids = self.ids.get(rows.clone()).unwrap_or_default();
            match pool {
                "first" => out.assign(&at(0)),
                "end" => out.assign(&at(len - 1)),
                "last" => out.assign(&at(self.last(visible, ids, by_mask))),
                "eos" => {
                    let is_eos = |id: &usize| self.is_token("eos", *id);
                    let last = ids.iter().rposition(is_eos).ok_or_else(|| {
                        broken("a sequence has no end-of-sequence token to take the vector of")
                    })?;
                    out.assign(&at(last));
                }
                "mean" | "max" => {
                    let mut shown = (0..len).filter(|&position| visible[position]);
                    let first =
                        shown.next().ok_or_else(|| broken("the mask hides a whole sequence"))?;
                    let mut sum: Array1<R> = at(first).to_owned();
                    let mut n = R::one();
                    for position in shown {
                        n += R::one();
                        if pool == "mean" {
                            sum += &at(position);
                        } else {
                            sum.zip_mut_with(&at(position), |max, &x| *max = max.max(x));
                        }
                    }
                    out.assign(&if pool == "mean" { sum / n } else { sum });
                }
                other => return Err(broken(format!("there is no pooling {other:?}"))),
            }
        }
        Ok(pooled)
    }

    /// The last position that is no padding: by the mask if that counts and is given, else by the
    /// padding token, or by the mask where there is no such token. Of a sequence of nothing but
    /// padding tokens, the first.
    fn last(&self, visible: &[bool], ids: &[usize], by_mask: bool) -> usize {
        let end = visible.len().saturating_sub(1);
        let has_pad = matches!(self.tokens.get("pad"), Some(Value::Int(_)));
        if self.masked && (by_mask || !has_pad) {
            return visible.iter().rposition(|visible| *visible).unwrap_or(end);
        }
        if !has_pad {
            return end;
        }
        ids.iter().rposition(|&id| !self.is_token("pad", id)).unwrap_or(0)
    }

    fn is_token(&self, token: &str, id: usize) -> bool {
        let is =
            |value: &Value| matches!(value, Value::Int(int) if usize::try_from(*int) == Ok(id));
        match self.tokens.get(token) {
            Some(Value::List(ids)) => ids.iter().any(is),
            Some(value) => is(value),
            None => false,
        }
    }
}

/// The pooling of a task; whether the next sentence follows is asked of the pooler.
fn pooling(task: &Task) -> Result<&str> {
    let own = (task.id == "next-sentence").then_some("pooler");
    let pool = task.pool.as_deref().or(own);
    pool.ok_or_else(|| broken(format!("the task {:?} has no pooling", task.id)))
}

fn check_rows<R>(task: &Task, x: &Array2<R>, rows: usize) -> Result<()> {
    if x.ncols() == rows {
        return Ok(());
    }
    let message = format!("the head of {:?} has {} rows, not {rows}", task.id, x.ncols());
    Err(broken(message))
}
