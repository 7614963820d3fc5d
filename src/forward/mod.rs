//! The reference forward: what canonical tensors and hyperparameters mean, as a computation.
//!
//! [`run`] computes the outputs of any model of the standard from its tensors and
//! `model.json` alone. It knows no architecture: everything that sets two of them apart is a
//! hyperparameter or the presence of a tensor, so that this code defines what each of them means.
//! The formulas stand at the head of each file, with the shapes that they have here:
//!
//! | File | What |
//! | --- | --- |
//! | `embed`, `aspects` | from ids to the stream |
//! | `stack`, `sublayer`, `feed`, `memory`, `bottleneck`, `front`, `side`, `cycle`, `ahead`, `pool`, `shift` | layers: where norms act, how sublayers add up; what decoders attend to and read; rows beside positions, and fewer of them |
//! | `layer_embed`, `altup`, `hyper` | what stands beside the stream |
//! | `attention`, `maps`, `attn_experts`, `share`, `qk_conv`, `qk_norm`, `latent`, `differential`, `gate`, `indexer`, `blocks`, `key_bias`, `compress`, `mix` | every kind of attention |
//! | `rope`, `position`, `relative` | how positions are told apart |
//! | `mlp`, `moe`, `router`, `adapter` | MLPs, activations, mixtures of experts, adapters |
//! | `ssm`, `recurrent`, `wkv`, `conv`, `span_conv`, `linear`, `mlstm`, `fourier` | state spaces, convolutions, linear attention, Fourier layers |
//! | `norm`, `norm_gate` | norms |
//! | `heads` | heads and poolings |
//!
//! It is written to be read, and computes whole sequences at once, without a cache; a model of some
//! hundred million parameters answers a short prompt in a second or so. Tensors are turned into
//! numbers where they are used and are not kept, so memory does not hold a second copy of a model.
//!
//! Numbers are F32, or F64 where rounding is in doubt. Positions of padding are computed like any
//! other, and mean nothing.

mod adapter;
mod ahead;
mod altup;
mod aspects;
mod attention;
mod attn_experts;
mod blocks;
mod bottleneck;
mod choice;
mod compress;
mod conv;
mod cycle;
mod differential;
mod embed;
mod feed;
mod fourier;
mod front;
mod gate;
mod global;
mod heads;
mod hyper;
mod indexer;
mod key_bias;
mod keys;
mod latent;
mod layer_embed;
mod linear;
mod maps;
mod memory;
mod mix;
mod mlp;
mod mlstm;
mod moe;
mod norm;
mod norm_gate;
mod place;
mod pool;
mod position;
mod qk_conv;
mod qk_norm;
mod real;
mod recurrent;
mod relative;
mod rope;
mod router;
mod sample;
mod share;
mod shift;
mod side;
mod span_conv;
mod sparse;
mod ssm;
mod stack;
mod sublayer;
mod weights;
mod wkv;

use std::ops::Range;

use ndarray::Array2;

use self::embed::Read;
use self::heads::Heads;
use self::keys::{Keys, broken};
use self::memory::Memory;
pub use self::real::Real;
use self::weights::Params;
pub use self::weights::{Planned, Stored, Weights};
use crate::base::error::Result;
use crate::package::{Model, Task};

/// What a model is asked: one row for each sequence, all of one length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Ids of tokens.
    pub input_ids: Vec<Vec<i64>>,
    /// 1 where a position is shown, 0 where it is padding; all are shown if there is no mask.
    pub attention_mask: Option<Vec<Vec<i64>>>,
    /// Ids of token types; 0 if there are none.
    pub token_type_ids: Option<Vec<Vec<i64>>>,
    /// Positions; 0, 1, 2, … if there are none.
    pub position_ids: Option<Vec<Vec<i64>>>,
    /// Ids of tokens for the decoder of an encoder-decoder.
    pub decoder_input_ids: Option<Vec<Vec<i64>>>,
    /// As `attention_mask`, for the decoder.
    pub decoder_attention_mask: Option<Vec<Vec<i64>>>,
    /// 1 where a token of the encoder is global: all see it, and it sees all; else the model says
    /// which are. Only for models with windows that have global tokens.
    pub global_attention_mask: Option<Vec<Vec<i64>>>,
    /// The box of each token on its page, `[left, upper, right, lower]`; all 0 if there are none.
    pub boxes: Option<Vec<Vec<[i64; 4]>>>,
    /// Ids of what tokens look like; the model says what holds where there are none.
    pub shape_ids: Option<Vec<Vec<i64>>>,
    /// Ids of what tokens sound like, in the same way.
    pub sound_ids: Option<Vec<Vec<i64>>>,
    /// The adapter of each sequence; that which the model names if there are none.
    pub adapter_ids: Option<Vec<i64>>,
    /// What an encoder put out, `[positions][hidden_size]` each, for a decoder that has none of its own and
    /// attends to one; without it the decoder attends to itself alone.
    pub encoder_hidden_states: Option<Vec<Vec<Vec<f32>>>>,
    /// As `attention_mask`, for these.
    pub encoder_attention_mask: Option<Vec<Vec<i64>>>,
    /// Spectrograms, `[mel_bins][frames]` each.
    pub input_features: Vec<Vec<Vec<f32>>>,
    /// How many sequences in a row are the choices of one question; 0 for all of them.
    pub choices: usize,
}

/// An output.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<R> {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub data: Vec<R>,
}

impl<R: Real> Tensor<R> {
    /// The elements of a matrix in another shape of as many.
    fn new(shape: Vec<usize>, matrix: Array2<R>) -> Tensor<R> {
        debug_assert_eq!(shape.iter().product::<usize>(), matrix.len());
        Tensor { shape, data: matrix.into_iter().collect() }
    }
}

/// What a model answers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Outputs<R> {
    /// The output of the last stack, `[batch, sequence, width]`.
    pub last_hidden_state: Tensor<R>,
    /// The output of the encoder of an encoder-decoder.
    pub encoder_last_hidden_state: Option<Tensor<R>>,
    /// The pooler's vector of each sequence, `[batch, hidden]`, where there is a pooler.
    pub pooler_output: Option<Tensor<R>>,
    /// The answers, in the order the tasks were given.
    pub tasks: Vec<Answer<R>>,
}

/// The answer of one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<R> {
    /// The task's id.
    pub task: String,
    /// The outputs by their names in `tasks.toml`.
    pub outputs: Vec<(&'static str, Tensor<R>)>,
}

impl<R> Outputs<R> {
    /// The outputs of stacks and pooler by their names.
    pub fn states(&self) -> Vec<(&'static str, &Tensor<R>)> {
        let states = [
            ("last_hidden_state", Some(&self.last_hidden_state)),
            ("encoder_last_hidden_state", self.encoder_last_hidden_state.as_ref()),
            ("pooler_output", self.pooler_output.as_ref()),
        ];
        states.into_iter().filter_map(|(name, state)| Some((name, state?))).collect()
    }

    /// All outputs by their names; a task's with its id before: `causal-lm.logits`.
    pub fn named(&self) -> Vec<(String, &Tensor<R>)> {
        let states = self.states().into_iter().map(|(name, state)| (name.to_owned(), state));
        let answers = self.tasks.iter().flat_map(|answer| {
            let outputs = answer.outputs.iter();
            outputs.map(|(name, tensor)| (format!("{}.{name}", answer.task), tensor))
        });
        states.chain(answers).collect()
    }
}

/// Sequences of one length, as attention sees them.
struct Batch {
    /// How many.
    size: usize,
    /// Of how many positions.
    len: usize,
    /// For each sequence and position, whether others see it.
    visible: Vec<Vec<bool>>,
    /// The position of each.
    positions: Vec<Vec<usize>>,
    /// Whether the positions were given; else tables count them as the model does.
    positions_given: bool,
    /// For each sequence and position, whether it is global; empty where none is.
    global: Vec<Vec<bool>>,
    /// The adapter of each sequence; empty where there are none.
    adapters: Vec<usize>,
    /// The type of each token, where types are given and attention tells them apart.
    types: Vec<usize>,
    /// How many of the first positions are learned rows, which see all and are seen by all.
    front: usize,
    /// How many of the first positions are tokens, where the others are rows of a stream that predicts; else 0.
    ahead_of: usize,
    /// The place of the first position, and how far apart two are, as relative sinusoids count.
    grid: (isize, isize),
}

/// One sequence of a [`Batch`].
#[derive(Clone, Copy)]
struct Sequence {
    index: usize,
    len: usize,
}

impl Sequence {
    /// Its rows in a matrix of `batch · n` rows.
    fn rows(self) -> Range<usize> {
        self.index * self.len..(self.index + 1) * self.len
    }
}

impl Batch {
    fn new(
        size: usize,
        len: usize,
        mask: Option<&Vec<Vec<i64>>>,
        positions: Option<&Vec<Vec<i64>>>,
    ) -> Result<Batch> {
        let visible = match mask {
            None => vec![vec![true; len]; size],
            Some(mask) => {
                check_shape("the attention mask", mask, size, len)?;
                mask.iter().map(|row| row.iter().map(|&shown| shown != 0).collect()).collect()
            }
        };
        let positions_given = positions.is_some();
        let positions = match positions {
            None => vec![(0..len).collect(); size],
            Some(positions) => {
                check_shape("the position ids", positions, size, len)?;
                let row = |row: &Vec<i64>| row.iter().map(|&id| number("position", id)).collect();
                positions.iter().map(row).collect::<Result<_>>()?
            }
        };
        let (global, adapters, types) = (Vec::new(), Vec::new(), Vec::new());
        let (front, ahead_of, grid) = (0, 0, (0, 1));
        Ok(Batch {
            size,
            len,
            visible,
            positions,
            positions_given,
            global,
            adapters,
            types,
            front,
            ahead_of,
            grid,
        })
    }

    /// Whether others see each row of a matrix `[batch · n, …]`.
    fn shown(&self) -> impl Iterator<Item = bool> + '_ {
        self.visible.iter().flatten().copied()
    }

    /// Makes the rows of padding zero.
    fn hide_padding<R: Real>(&self, x: &mut Array2<R>) {
        for (mut row, shown) in x.rows_mut().into_iter().zip(self.shown()) {
            if !shown {
                row.fill(R::zero());
            }
        }
    }

    fn has_global(&self) -> bool {
        self.global.iter().flatten().any(|global| *global)
    }

    /// Whether a position of a sequence is global.
    fn is_global(&self, sequence: usize, position: usize) -> bool {
        self.global.get(sequence).is_some_and(|global| global[position])
    }

    /// The types of the tokens of a sequence; none where they are not given.
    fn types_of(&self, sequence: Sequence) -> &[usize] {
        self.types.get(sequence.rows()).unwrap_or_default()
    }

    fn sequences(&self) -> impl Iterator<Item = Sequence> + use<> {
        let len = self.len;
        (0..self.size).map(move |index| Sequence { index, len })
    }
}

fn check_shape(what: &str, rows: &[Vec<i64>], size: usize, len: usize) -> Result<()> {
    if rows.len() == size && rows.iter().all(|row| row.len() == len) {
        return Ok(());
    }
    Err(broken(format!("{what} must have {size} rows of {len}")))
}

/// An id that counts something. No table has more rows than this, and no position is further.
fn number(what: &str, id: i64) -> Result<usize> {
    let id = i32::try_from(id).ok().and_then(|small| usize::try_from(small).ok());
    id.ok_or_else(|| broken(format!("an id of a {what} is negative or too large")))
}

fn flat(what: &str, rows: &[Vec<i64>]) -> Result<Vec<usize>> {
    rows.iter().flatten().map(|&id| number(what, id)).collect()
}

/// The outputs of a model for some inputs: of its stacks, and of each task.
///
/// # Errors
/// A tensor is missing, has another shape than the hyperparameters say, or is of no float dtype; a
/// hyperparameter is missing or senseless; ids are out of range, or inputs do not fit each other.
pub fn run<R: Real>(
    model: &Model,
    weights: &dyn Weights,
    inputs: &Inputs,
    tasks: &[&Task],
) -> Result<Outputs<R>> {
    let params = Params::new(weights, model);
    let keys = |stack| Keys::new(&model.hyperparameters, Some(stack));
    let has = |stack: &str| params.has_any(&format!("{stack}."));
    let (has_encoder, has_decoder) = (has("encoder"), has("decoder"));
    let (last, with_encoder) = match (has_encoder, has_decoder) {
        (true, false) => ("encoder", false),
        (with_encoder, true) => ("decoder", with_encoder),
        (false, false) => return Err(broken("there is neither an encoder nor a decoder")),
    };

    let first = if has_encoder { "encoder" } else { "decoder" };
    let (read, mut batch) = read_inputs(keys(first), inputs)?;
    let ids = match &read {
        Read::Tokens { ids, .. } => ids.clone(),
        Read::Spectrograms(_) => Vec::new(),
    };
    batch.global = global::positions(keys(first), &model.tokens, inputs, &batch, &ids)?;
    batch.adapters = adapter::choose(keys(first), inputs, &batch)?;
    let x = embed::embed(params, keys(first), &model.tokens, first, &read, &batch)?;
    let given = memory::given(keys(first), inputs, &batch)?;
    let given = given.as_ref().map(|(output, batch)| Memory { output, batch });
    let left = ahead::run(params, keys(first), first, (x, &ids), &batch, given.as_ref())?;
    let (output, mut predicted, mut summary) = (left.rows, left.predicted, left.summary);
    let ids = match left.fewer {
        Some(fewer) => {
            batch = fewer;
            Vec::new()
        }
        None => ids,
    };

    let (hidden, last_batch, encoded, last_ids);
    if with_encoder {
        let decoder_ids = shift::decoder_ids(model, keys(last), inputs, tasks)?;
        let len = decoder_ids.first().map_or(0, Vec::len);
        check_shape("the decoder's input ids", &decoder_ids, batch.size, len)?;
        let mask = inputs.decoder_attention_mask.as_ref();
        last_batch = Batch::new(batch.size, len, mask, None)?;
        last_ids = flat("token", &decoder_ids)?;
        let read = Read::tokens(last_ids.clone());
        let x = embed::embed(params, keys(last), &model.tokens, last, &read, &last_batch)?;
        let memory = Memory { output: &output, batch: &batch };
        let left =
            ahead::run(params, keys(last), last, (x, &last_ids), &last_batch, Some(&memory))?;
        (hidden, predicted, summary) = (left.rows, left.predicted, left.summary);
        encoded = Some(Tensor::new(vec![batch.size, batch.len, output.ncols()], output));
    } else {
        (hidden, last_batch, encoded, last_ids) = (output, batch, None, ids.clone());
    }

    let n_choices = if inputs.choices == 0 { last_batch.size.max(1) } else { inputs.choices };
    if !last_batch.size.is_multiple_of(n_choices) {
        let message = format!("{} sequences are not questions of {n_choices}", last_batch.size);
        return Err(broken(message));
    }
    // A decoder that reads the encoder's tokens shifted is pooled by the tokens themselves.
    let shifted = with_encoder && inputs.decoder_input_ids.is_none();
    let heads = Heads {
        params,
        keys: keys(last),
        tokens: &model.tokens,
        hidden: &hidden,
        predicted: predicted.as_ref(),
        summary: summary.as_ref(),
        batch: &last_batch,
        ids: if shifted { &ids } else { &last_ids },
        masked: !with_encoder && inputs.attention_mask.is_some(),
        choices: n_choices,
    };
    let pooler_output = match params.has("heads.pooler.dense.weight")? && 0 < last_batch.len {
        true => {
            let pooled = heads.pool("pooler", false)?;
            Some(Tensor::new(vec![last_batch.size, pooled.ncols()], pooled))
        }
        false => None,
    };
    let answer = |task: &&Task| {
        let outputs = heads.answer(task);
        let outputs = outputs.map_err(|err| err.context(&format!("task {}", task.id)))?;
        Ok(Answer { task: task.id.clone(), outputs })
    };
    let tasks = tasks.iter().map(answer).collect::<Result<_>>()?;
    let shape = vec![last_batch.size, last_batch.len, hidden.ncols()];
    Ok(Outputs {
        pooler_output,
        tasks,
        last_hidden_state: Tensor::new(shape, hidden),
        encoder_last_hidden_state: encoded,
    })
}

/// What the first stack reads.
fn read_inputs<R: Real>(keys: Keys<'_>, inputs: &Inputs) -> Result<(Read<R>, Batch)> {
    let mask = inputs.attention_mask.as_ref();
    let mel_bins = keys.count("audio.mel_bins")?;
    if mel_bins == 0 {
        let size = inputs.input_ids.len();
        let len = inputs.input_ids.first().map_or(0, Vec::len);
        check_shape("the input ids", &inputs.input_ids, size, len)?;
        let mut batch = Batch::new(size, len, mask, inputs.position_ids.as_ref())?;
        let mut types = match &inputs.token_type_ids {
            None => None,
            Some(types) => {
                check_shape("the token type ids", types, size, len)?;
                Some(flat("token type", types)?)
            }
        };
        if keys.bool("attn_segments")? {
            batch.types = types.take().unwrap_or_default();
        }
        let boxes = embed::boxes(inputs, &batch)?;
        let ids = flat("token", &inputs.input_ids)?;
        let aspects = aspects::read(keys, inputs, &batch)?;
        return Ok((Read::Tokens { ids, types, boxes, aspects }, batch));
    }
    let frames = inputs.input_features.first().and_then(|bins| bins.first()).map_or(0, Vec::len);
    let spectrograms = inputs.input_features.iter().map(|bins| {
        if bins.len() != mel_bins || bins.iter().any(|bin| bin.len() != frames) {
            let message = format!("a spectrogram is not {mel_bins} bins of {frames} frames");
            return Err(broken(message));
        }
        Ok(Array2::from_shape_fn((mel_bins, frames), |(bin, frame)| R::from_f32(bins[bin][frame])))
    });
    let spectrograms: Vec<_> = spectrograms.collect::<Result<_>>()?;
    if spectrograms.is_empty() {
        return Err(broken("the model reads spectrograms, and there is none"));
    }
    let stem = conv::Stem::read(keys)?;
    let mask = mask.map(|mask| stem.mask(mask, frames));
    let batch = Batch::new(spectrograms.len(), stem.len(frames), mask.as_ref(), None)?;
    Ok((Read::Spectrograms(spectrograms), batch))
}
