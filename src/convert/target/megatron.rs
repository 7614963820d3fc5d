//! The files that Megatron-LM reads, one for each rank: matrices cut over tensor ranks, layers over the
//! stages of a pipeline, experts over the ranks of experts.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::archive::{self, Archives};
use super::{Cut, Kind, Ranks, Target};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::format::megatron::{FILES, Share, folder_of, share_of};
use crate::format::pytorch;
use crate::format::pytorch::write::{Pickler, Value};
use crate::plan::layout::Layout;
use crate::plan::ops::TensorExpr;
use crate::plan::{Tensors, cut};

/// What Megatron loads as weights alone, without the state of a run.
const STEP: &str = "release";
/// The table of tokens has a multiple of so many rows on each rank, if nothing else is asked for.
const VOCABULARY_MULTIPLE: u64 = 128;
/// The layout of queries, keys and values within a matrix.
const LAYOUT_VERSION: f64 = 3.0;

pub(super) static TARGET: Target = Target {
    id: "megatron",
    format: "megatron",
    is_split: false,
    has_config: false,
    ranks: &[Kind::Tensor, Kind::Pipeline, Kind::Expert],
    cut: over_ranks,
    extra: &[("latest_checkpointed_iteration.txt", STEP)],
    shards: |outputs, _, _, _| archive::shards(outputs, ".pt"),
    has: pytorch::has,
    container: |content| {
        let (config, ranks) = (content.config, content.ranks);
        Box::new(Archives { wrap: Box::new(move |tensors| pickle(config, ranks, tensors)) })
    },
    ..Target::DEFAULT
};

fn pickle(config: &Json, ranks: Ranks, tensors: Vec<(&str, Value<'_>)>) -> Result<Vec<u8>> {
    let mut args: BTreeMap<&str, Value<'_>> = BTreeMap::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        let value = match value {
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(int) => Value::Int(int),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text),
            _ => continue,
        };
        args.insert(key, value);
    }
    let number = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    args.insert("tensor_model_parallel_size", number(ranks.tensor));
    args.insert("pipeline_model_parallel_size", number(ranks.pipeline));
    args.insert("expert_model_parallel_size", number(ranks.expert));
    args.insert("padded_vocab_size", number(padded(vocabulary(config), ranks)));
    Pickler::pickle(&Value::Dict(vec![
        ("args", Value::Namespace(args.into_iter().collect())),
        ("checkpoint_version", Value::Float(LAYOUT_VERSION)),
        ("iteration", Value::Int(0)),
        ("model", Value::Dict(tensors)),
    ]))
}

fn vocabulary(config: &Json) -> u64 {
    config.get("vocab_size").and_then(Json::as_u64).unwrap_or(0)
}

/// The rows of the table of tokens.
fn padded(vocabulary: u64, ranks: Ranks) -> u64 {
    let multiple = VOCABULARY_MULTIPLE.checked_mul(ranks.tensor);
    multiple.and_then(|of| vocabulary.checked_next_multiple_of(of)).unwrap_or(vocabulary)
}

/// Where a tensor goes.
struct Place {
    /// Its name there.
    name: String,
    stage: u64,
    /// The rank of the experts that has it; all where there is none.
    expert: Option<u64>,
}

/// The numbers that the ranks share, by the arguments that state them.
struct Counts {
    layers: u64,
    experts: u64,
}

fn over_ranks(tensors: Tensors, cut: &Cut<'_>) -> Result<Tensors, Diagnostic> {
    let Ranks { tensor: n_tensor, pipeline, expert: n_expert } = cut.ranks;
    let number = |key: &str| cut.config.get(key).and_then(Json::as_u64);
    let shared = [
        ("num_attention_heads", n_tensor, "--tp"),
        ("num_query_groups", n_tensor, "--tp"),
        ("num_layers", pipeline, "--pp"),
        ("num_experts", n_expert, "--ep"),
    ];
    for (key, ranks, flag) in shared {
        match number(key) {
            Some(number) => cut::check_shares(key, number, ranks, flag)?,
            None if key == "num_experts" => cut::check_shares(key, 1, ranks, flag)?,
            None => {}
        }
    }
    let counts = Counts {
        layers: number("num_layers").unwrap_or(1) / pipeline,
        experts: number("num_experts").unwrap_or(1) / n_expert,
    };
    let is_tied = cut.config.get("untie_embeddings_and_output_weights") == Some(&Json::Bool(false));
    let is_gated = cut.config.get("swiglu") == Some(&Json::Bool(true));
    let mut ranks = Tensors { inputs: tensors.inputs.clone(), ..Tensors::default() };
    for stage in 0..pipeline {
        for expert in 0..n_expert {
            for tensor in 0..n_tensor {
                let part = |n: u64, many: u64| (1 < many).then_some(n);
                let folder = folder_of(tensor, part(stage, pipeline), part(expert, n_expert));
                let stem = FILES[0].trim_end_matches(".pt");
                for (from, step) in tensors.named_steps() {
                    // One that is alone takes the table of tokens itself.
                    if is_tied && pipeline == 1 && *from == OUTPUT {
                        continue;
                    }
                    let place = place_of(from, &counts, pipeline);
                    if place.stage != stage || place.expert.is_some_and(|of| of != expert) {
                        continue;
                    }
                    let name = format!("{STEP}/{folder}/{stem}/{}", place.name);
                    let share = |expr| shared_part(from, expr, is_gated, tensor, cut);
                    ranks.change_from(&tensors, (from, step), &name, cut.options, &share)?;
                }
            }
        }
    }
    Ok(ranks)
}

/// The matrix of the head, and the tables of tokens and positions.
const OUTPUT: &str = "output_layer.weight";
const EMBEDDINGS: &str = "embedding.";

fn place_of(name: &str, counts: &Counts, pipeline: u64) -> Place {
    let parse = |text: &str| text.parse::<u64>().ok();
    let layer = name.strip_prefix("decoder.layers.").and_then(|rest| rest.split_once('.'));
    let Some((layer, rest)) = layer.and_then(|(layer, rest)| Some((parse(layer)?, rest))) else {
        let stage = if name.starts_with(EMBEDDINGS) { 0 } else { pipeline - 1 };
        return Place { name: name.to_owned(), stage, expert: None };
    };
    let layers = counts.layers.max(1);
    let (stage, layer) = (layer / layers, layer % layers);
    let of_expert = rest.strip_prefix("mlp.experts.local_experts.");
    let of_expert = of_expert.and_then(|rest| rest.split_once('.'));
    match of_expert.and_then(|(expert, rest)| Some((parse(expert)?, rest))) {
        Some((expert, rest)) => {
            let experts = counts.experts.max(1);
            let (rank, expert) = (expert / experts, expert % experts);
            let name = format!("decoder.layers.{layer}.mlp.experts.local_experts.{expert}.{rest}");
            Place { name, stage, expert: Some(rank) }
        }
        None => Place { name: format!("decoder.layers.{layer}.{rest}"), stage, expert: None },
    }
}

/// The share of a tensor rank.
fn shared_part(
    name: &str,
    expr: TensorExpr,
    is_gated: bool,
    rank: u64,
    cut: &Cut<'_>,
) -> Result<TensorExpr, Diagnostic> {
    let share = |expr, axis| cut::share(name, expr, axis, (rank, cut.ranks.tensor), "--tp");
    let wrong = |why: String| Diagnostic::error("P010", format!("`{name}`: {why}")).tensor(name);
    let of_vocabulary = name == OUTPUT || name.ends_with("word_embeddings.weight");
    expr.movable().map_err(wrong)?;
    match share_of(name, is_gated) {
        Share::Whole => Ok(expr),
        Share::Axis(axis) if of_vocabulary => {
            share(with_padding(expr, cut.ranks).map_err(wrong)?, axis)
        }
        Share::Axis(axis) => share(expr, axis),
        Share::Halves => {
            let rows = expr.layout.shape.first().copied().unwrap_or(0);
            cut::check_shares(&format!("axis 0 of {name}"), rows, 2, "--tp")?;
            let half = |from: u64, to: u64| {
                let layout = expr.layout.slice(0, from, to);
                share(TensorExpr { layout, kernels: expr.kernels.clone() }, 0)
            };
            let (gate, up) = (half(0, rows / 2)?, half(rows / 2, rows)?);
            let layout = Layout::concat(0, vec![gate.layout, up.layout]).map_err(wrong)?;
            Ok(TensorExpr { layout, kernels: expr.kernels })
        }
    }
}

/// The table of tokens with the rows that Megatron pads it with, which nothing reads: the first ones
/// once more.
fn with_padding(expr: TensorExpr, ranks: Ranks) -> Result<TensorExpr, String> {
    let rows = expr.layout.shape.first().copied().unwrap_or(0);
    let wanted = padded(rows, ranks);
    let mut pieces = vec![expr.layout.clone()];
    let mut have = rows;
    while 0 < rows && have < wanted {
        let more = rows.min(wanted - have);
        pieces.push(expr.layout.slice(0, 0, more));
        have += more;
    }
    Ok(TensorExpr { layout: Layout::concat(0, pieces)?, kernels: expr.kernels })
}
