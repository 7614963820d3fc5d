//! Streams that predict tokens (`predict_streams` = n > 0).
//!
//! Beside the positions of a sequence there are n streams, which have a row for each position. Row p of stream s is at first
//! `P_(p + 1) + E_((s + n − 1) mod n)`, with P the position table and E `embed.predict_streams`, through the norm of the embeddings where
//! there is one. The streams go through the layers as positions do, by the same tensors; they attend to an encoder as these do. In the
//! attention of the stack to itself positions see no streams, and row p of stream s sees itself, position 0 and the positions up to p − s;
//! by relative buckets position k is `p + 1 − k` before it, and it is at distance 0 from itself.
//!
//! The LM head reads what leaves the last layer of stream 0; the others predict the tokens behind that, and no output is made of them.

use ndarray::{Array2, Axis, concatenate, s};

use super::Batch;
use super::keys::{Keys, broken};
use super::memory::Memory;
use super::norm::Norm;
use super::real::Real;
use super::stack::{self, Left};
use super::weights::Params;
use crate::base::error::Result;

/// The output of a stack, for its positions and for the first stream that predicts, where there are such.
pub(super) fn run<R: Real>(
    params: Params<'_>,
    keys: Keys<'_>,
    name: &str,
    (x, ids): (Array2<R>, &[usize]),
    batch: &Batch,
    memory: Option<&Memory<'_, R>>,
) -> Result<Left<R>> {
    let n_streams = keys.count("predict_streams")?;
    if n_streams == 0 || batch.len == 0 {
        return stack::run(params, keys, name, (x, ids), batch, memory);
    }
    check(keys, batch)?;
    let rows = stream(params, keys, name, n_streams, batch)?;
    let mut longer = Batch::new(batch.size, 2 * batch.len, None, None)?;
    longer.ahead_of = batch.len;
    longer.adapters.clone_from(&batch.adapters);
    let mut both = Vec::new();
    for sequence in batch.sequences() {
        let (visible, positions) =
            (&batch.visible[sequence.index], &batch.positions[sequence.index]);
        longer.visible[sequence.index][..batch.len].clone_from_slice(visible);
        longer.positions[sequence.index] = [positions.as_slice(), positions].concat();
        both.push(x.slice(s![sequence.rows(), ..]));
        both.push(rows.slice(s![sequence.rows(), ..]));
    }
    let both = concatenate(Axis(0), &both).map_err(|err| broken(err.to_string()))?;
    let left = stack::run(params, keys, name, (both, ids), &longer, memory)?;
    let part = |of_stream: bool| {
        let is_of = |row: &usize| (batch.len <= row % longer.len) == of_stream;
        let rows: Vec<usize> = (0..left.rows.nrows()).filter(is_of).collect();
        left.rows.select(Axis(0), &rows)
    };
    let (rows, predicted) = (part(false), Some(part(true)));
    Ok(Left { rows, predicted, ..left })
}

/// The first stream before the first layer, `[batch · n, hidden]`.
fn stream<R: Real>(
    params: Params<'_>,
    keys: Keys<'_>,
    name: &str,
    n_streams: usize,
    batch: &Batch,
) -> Result<Array2<R>> {
    let hidden = keys.count("hidden_size")?;
    let offset = keys.count("position_offset")?;
    let next: Vec<usize> = batch.positions.iter().flatten().map(|p| p + 1 + offset).collect();
    let table = format!("{name}.embed.positions.weight");
    let shape = [keys.count("num_positions")?, hidden];
    let mut rows = params.lookup(&table, shape, &next, "the position")?;
    let streams = format!("{name}.embed.predict_streams.weight");
    let streams: Array2<R> = params.matrix(&streams, [n_streams, hidden])?;
    rows += &streams.row(n_streams - 1);
    match keys.bool("embed_norm")? {
        true => Norm::read(keys)?.apply(params, &format!("{name}.embed.norm"), &rows),
        false => Ok(rows),
    }
}

/// That rows which are no tokens can stand behind the positions.
fn check(keys: Keys<'_>, batch: &Batch) -> Result<()> {
    let plain = keys.word("position")? == "learned"
        && keys.bool("causal")?
        && (!keys.bool("embed_norm")? || keys.word("embed_norm_of")? == "sum")
        && keys.word("position_count")? == "all"
        && keys.words("layer_types")?.iter().all(|kind| kind == "full")
        && keys.word("ssm.kind")? == "none"
        && keys.count("moe.num_experts")? == 0
        && keys.opt_counts("pool.layers")?.is_none()
        && keys.count("layer_embed.dim")? == 0
        && keys.count("embed_conv.kernel")? == 0
        && keys.count("hyper.streams")? == 0
        && keys.count("altup.streams")? <= 1
        && !batch.has_global();
    match plain {
        true => Ok(()),
        false => Err(broken("streams that predict stand beside positions of a plain decoder")),
    }
}
