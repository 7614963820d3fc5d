//! From ids to the input of the first layer.
//!
//! The sum of the rows of the token table times `embed_scale`, of the position table (position p is
//! row `p + position_offset`, or a sinusoid, which is computed), of the token type table, and of row
//! 0 of the task table; then
//! the norm, where there is one, or, where `embed_norm_of` says so, the norm of the tokens alone
//! before anything is added to them. With `box_positions` > 0 come the rows for a token's box on its
//! page: those of its left and right sides from one table, of upper and lower from another, of height
//! and of width. A decoder with `decoder_vocab_size` > 0 has a token table of its
//! own. Where `embed_own_token` is not null, that token has `embed.own_token` in place of its row, which no factor multiplies. Where `hash_embed.primes` is not null,
//! the token table is `embed.hashes`, a table of `hash_embed.buckets` = b rows for each prime p: an id has row `((id + 1)·p) mod b` of each,
//! one behind the other. With `embed_mask_ratio` r, tokens that are the mask are zeros, and the others take the factor
//! `(1 − r)/(1 − m)`, where m is the number of masks by that of positions the mask shows. Tokens may also have shapes and sounds (Shapes
//! and sounds of tokens).
//! Where the token table is narrower than the stream, `in_proj` widens
//! it: before the position is added where positions are as wide as the stream, else last. With
//! `embed_neighbours` it reads `[t_(p+1), t_p, t_(p−1)]` for the token table's row t_p at position p, before anything is added, with zeros
//! outside the sequence.
//!
//! A sinusoid of n = hidden/2 frequencies is `[sin(r·f_0), …, sin(r·f_(n−1)), cos(r·f_0), …]` at
//! row r, with `f_k = 10000^(−k/n)` (`half`) or `10000^(−k/(n−1))` (`half_minus_one`).

use ndarray::{Array1, Array2};

use super::keys::{Keys, broken};
use super::norm::Norm;
use super::real::Real;
use super::weights::{Bias, Params};
use super::{Batch, Inputs, aspects, conv, number};
use crate::base::error::Result;
use crate::package::{Hparams, Value};

/// What a stack reads.
pub(super) enum Read<R> {
    /// Ids of tokens and of token types, one for each position of each sequence.
    Tokens {
        ids: Vec<usize>,
        types: Option<Vec<usize>>,
        boxes: Option<Vec<[usize; 4]>>,
        aspects: aspects::Ids,
    },
    /// A spectrogram `[mel_bins, frames]` for each sequence.
    Spectrograms(Vec<Array2<R>>),
}

impl<R> Read<R> {
    /// Nothing but tokens.
    pub(super) fn tokens(ids: Vec<usize>) -> Read<R> {
        Read::Tokens { ids, types: None, boxes: None, aspects: aspects::Ids::default() }
    }
}

/// The input of the first layer, `[batch · n, hidden]`.
pub(super) fn embed<R: Real>(
    params: Params<'_>,
    keys: Keys<'_>,
    tokens: &Hparams,
    stack: &str,
    read: &Read<R>,
    batch: &Batch,
) -> Result<Array2<R>> {
    let hidden = keys.count("hidden_size")?;
    let meet = aspects::meet(keys)?;
    let embed_dim = keys.count("embed_dim")?;
    let mut x = match read {
        Read::Tokens { ids, aspects, .. } => {
            let own = if stack == "decoder" { keys.count("decoder_vocab_size")? } else { 0 };
            let x: Array2<R> = match own {
                0 if keys.opt_counts("hash_embed.primes")?.is_some() => {
                    hashed(params, keys, stack, embed_dim, ids)?
                }
                0 => {
                    let shape = [keys.count("vocab_size")?, embed_dim];
                    params.lookup("embed.tokens.weight", shape, ids, "the id")?
                }
                rows => {
                    let name = format!("{stack}.embed.tokens.weight");
                    params.lookup(&name, [rows, embed_dim], ids, "the id")?
                }
            };
            let mut x = x * R::of(keys.float("embed_scale")?);
            if let Some(token) = keys.opt_count("embed_own_token")? {
                let own: Array1<R> = params.vector("embed.own_token", embed_dim)?;
                for (row, _) in ids.iter().enumerate().filter(|(_, id)| **id == token) {
                    x.row_mut(row).assign(&own);
                }
            }
            if let Some(ratio) = keys.opt_float("embed_mask_ratio")? {
                leave_masks(&mut x, ratio, tokens, ids, batch)?;
            }
            if meet == Some(aspects::Meet::Joined) {
                x = aspects::join(params, keys, stack, x, aspects)?;
            }
            x
        }
        Read::Spectrograms(spectrograms) => {
            let stem = conv::Stem::read(keys)?;
            let parts: Vec<Array2<R>> = spectrograms
                .iter()
                .map(|spectrogram| stem.apply(params, spectrogram, hidden))
                .collect::<Result<_>>()?;
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            let x = ndarray::concatenate(ndarray::Axis(0), &views)
                .map_err(|err| broken(format!("the spectrograms do not go together: {err}")))?;
            x * R::of(keys.float("embed_scale")?)
        }
    };
    let in_proj = format!("{stack}.embed.in_proj");
    let widen = |x: Array2<R>| {
        if x.ncols() == hidden && !params.has(&format!("{in_proj}.weight"))? {
            return Ok(x);
        }
        params.linear(&x, &in_proj, hidden, Bias::Stored)
    };
    let mut widened = matches!(read, Read::Spectrograms(_));
    let neighbours = keys.bool("embed_neighbours")?;
    if !widened && (neighbours || positions_are_wide(keys)?) {
        x = widen(if neighbours { with_neighbours(&x, batch) } else { x })?;
        widened = true;
    }
    let norm_first = match keys.bool("embed_norm")? {
        true => match keys.word("embed_norm_of")?.as_str() {
            "tokens" => Some(true),
            "sum" => Some(false),
            other => return Err(broken(format!("`embed_norm_of` is {other:?}"))),
        },
        false => None,
    };
    let norm = |x: &Array2<R>| -> Result<Array2<R>> {
        Norm::read(keys)?.apply(params, &format!("{stack}.embed.norm"), x)
    };
    if norm_first == Some(true) {
        x = norm(&x)?;
    }
    if let Some(positions) =
        positions(params, keys, stack, x.ncols(), &places(keys, tokens, read, batch)?)?
    {
        x += &positions;
    }
    if let Read::Tokens { types, boxes, .. } = read {
        let n_places = keys.count("box_positions")?;
        if 0 < n_places {
            let shape = [n_places, x.ncols()];
            let none = vec![[0; 4]; x.nrows()];
            add_boxes(params, stack, &mut x, shape, boxes.as_ref().unwrap_or(&none))?;
        } else if boxes.is_some() {
            return Err(broken("the model has no places on a page"));
        }
        let n_types = keys.count("type_vocab_size")?;
        if 0 < n_types {
            let name = format!("{stack}.embed.token_types.weight");
            let first = vec![0; x.nrows()];
            let rows = types.as_ref().unwrap_or(&first);
            x += &params.lookup(&name, [n_types, x.ncols()], rows, "the token type")?;
        } else if types.is_some() {
            return Err(broken("the model has no token types"));
        }
        let n_tasks = keys.count("task_vocab_size")?;
        if 0 < n_tasks {
            let name = format!("{stack}.embed.tasks.weight");
            let first = vec![0; x.nrows()];
            x += &params.lookup(&name, [n_tasks, x.ncols()], &first, "the task")?;
        }
    }
    if norm_first == Some(false) {
        x = norm(&x)?;
    }
    if let (Some(aspects::Meet::Averaged), Read::Tokens { aspects, .. }) = (meet, read) {
        x = aspects::average(params, keys, stack, x, aspects)?;
    }
    if widened { Ok(x) } else { widen(x) }
}

/// A row of each table that ids are hashed into, one behind the other.
fn hashed<R: Real>(
    params: Params<'_>,
    keys: Keys<'_>,
    stack: &str,
    width: usize,
    ids: &[usize],
) -> Result<Array2<R>> {
    let (primes, buckets) = (keys.counts("hash_embed.primes")?, keys.count("hash_embed.buckets")?);
    if primes.is_empty() || !width.is_multiple_of(primes.len()) || buckets == 0 {
        return Err(broken("tables that ids are hashed into share an embedding equally"));
    }
    let shape = [primes.len().saturating_mul(buckets), width / primes.len()];
    // Ids and factors are below 2^31: their products fit.
    let row = |id: usize, table: usize| {
        table * buckets + ((id as u64 + 1) * primes[table] as u64 % buckets as u64) as usize
    };
    let rows: Vec<usize> = ids
        .iter()
        .flat_map(|&id| (0..primes.len()).map(move |table| (id, table)))
        .map(|(id, table)| row(id, table))
        .collect();
    let name = format!("{stack}.embed.hashes.weight");
    let x: Array2<R> = params.lookup(&name, shape, &rows, "the hash")?;
    x.into_shape_with_order((ids.len(), width)).map_err(|err| broken(err.to_string()))
}

/// Each position's embedding between that behind it and that before it: `[next, own, last]`.
fn with_neighbours<R: Real>(x: &Array2<R>, batch: &Batch) -> Array2<R> {
    let width = x.ncols();
    Array2::from_shape_fn((x.nrows(), 3 * width), |(row, column)| {
        let place = row % batch.len + 2 - column / width;
        match place.checked_sub(1).filter(|&place| place < batch.len) {
            Some(place) => x[[row - row % batch.len + place, column % width]],
            None => R::zero(),
        }
    })
}

/// The box of each token on its page, where boxes are given.
pub(super) fn boxes(inputs: &Inputs, batch: &Batch) -> Result<Option<Vec<[usize; 4]>>> {
    let Some(boxes) = &inputs.boxes else { return Ok(None) };
    if boxes.len() != batch.size || boxes.iter().any(|row| row.len() != batch.len) {
        return Err(broken(format!("boxes must have {} rows of {}", batch.size, batch.len)));
    }
    let mut places = Vec::with_capacity(batch.size * batch.len);
    for sides in boxes.iter().flatten() {
        let mut place = [0; 4];
        for (place, &side) in place.iter_mut().zip(sides) {
            *place = number("place on a page", side)?;
        }
        places.push(place);
    }
    Ok(Some(places))
}

/// Adds the rows for the sides of each token's box `[left, upper, right, lower]`, its height and its
/// width.
fn add_boxes<R: Real>(
    params: Params<'_>,
    stack: &str,
    x: &mut Array2<R>,
    shape: [usize; 2],
    boxes: &[[usize; 4]],
) -> Result<()> {
    let mut add = |table: &str, row: &dyn Fn(&[usize; 4]) -> Option<usize>| -> Result<()> {
        let rows: Option<Vec<usize>> = boxes.iter().map(row).collect();
        let rows = rows.ok_or_else(|| broken("a box ends before it begins"))?;
        let name = format!("{stack}.embed.box.{table}.weight");
        *x += &params.lookup(&name, shape, &rows, "the place on the page")?;
        Ok(())
    };
    add("x", &|sides| Some(sides[0]))?;
    add("y", &|sides| Some(sides[1]))?;
    add("x", &|sides| Some(sides[2]))?;
    add("y", &|sides| Some(sides[3]))?;
    add("h", &|sides| sides[3].checked_sub(sides[1]))?;
    add("w", &|sides| sides[2].checked_sub(sides[0]))
}

/// Makes the rows of the mask token zero, and the others greater by as much as there are fewer of it
/// than in training.
fn leave_masks<R: Real>(
    x: &mut Array2<R>,
    ratio: f64,
    tokens: &Hparams,
    ids: &[usize],
    batch: &Batch,
) -> Result<()> {
    let mask = match tokens.get("mask") {
        Some(Value::Int(mask)) => usize::try_from(*mask).ok(),
        _ => None,
    };
    let mask = mask.ok_or_else(|| broken("`embed_mask_ratio` is there, and no mask token"))?;
    for sequence in batch.sequences() {
        let rows = sequence.rows();
        let n_masks = ids[rows.clone()].iter().filter(|&&id| id == mask).count();
        let shown = batch.visible[sequence.index].iter().filter(|shown| **shown).count();
        let factor = R::of((1.0 - ratio) / (1.0 - n_masks as f64 / shown as f64));
        for row in rows {
            let factor = if ids[row] == mask { R::zero() } else { factor };
            x.row_mut(row).mapv_inplace(|x| x * factor);
        }
    }
    Ok(())
}

/// Whether positions are added at the width of the stream, which embeddings may not have.
fn positions_are_wide(keys: Keys<'_>) -> Result<bool> {
    Ok(match positions_from(keys)? {
        Some(From::Table) => keys.count("position_dim")? != keys.count("embed_dim")?,
        Some(From::Sinusoid) => true,
        None => false,
    })
}

/// What positions add comes from a table, or is computed.
enum From {
    Table,
    Sinusoid,
}

/// `None` where positions add nothing here.
fn positions_from(keys: Keys<'_>) -> Result<Option<From>> {
    Ok(match keys.word("position")?.as_str() {
        "learned" => Some(From::Table),
        "disentangled" if keys.bool("disentangled.absolute")? => Some(From::Table),
        "sinusoidal" => Some(From::Sinusoid),
        _ => None,
    })
}

/// The position of each place for a table, as `position_count` says; `None` is position −1.
fn places<R>(
    keys: Keys<'_>,
    tokens: &Hparams,
    read: &Read<R>,
    batch: &Batch,
) -> Result<Vec<Option<usize>>> {
    let all = || batch.positions.iter().flatten().copied().map(Some).collect();
    if batch.positions_given || positions_from(keys)?.is_none() {
        return Ok(all());
    }
    let ids = match read {
        Read::Tokens { ids, .. } => ids.as_slice(),
        Read::Spectrograms(_) => &[],
    };
    let counts: Vec<bool> = match keys.word("position_count")?.as_str() {
        "all" => return Ok(all()),
        "shown" => batch.shown().collect(),
        "not_pad" => {
            let pad = match tokens.get("pad") {
                Some(Value::Int(pad)) => usize::try_from(*pad).ok(),
                _ => None,
            };
            if ids.len() != batch.size * batch.len {
                return Err(broken("no token says which positions of a spectrogram count"));
            }
            ids.iter().map(|&id| Some(id) != pad).collect()
        }
        other => return Err(broken(format!("`position_count` is {other:?}"))),
    };
    let mut places = Vec::with_capacity(counts.len());
    for sequence in batch.sequences() {
        let mut next = 0;
        for &counted in &counts[sequence.rows()] {
            places.push(counted.then_some(next));
            next += usize::from(counted);
        }
    }
    Ok(places)
}

/// What positions add, `[batch · n, width]`.
fn positions<R: Real>(
    params: Params<'_>,
    keys: Keys<'_>,
    stack: &str,
    width: usize,
    places: &[Option<usize>],
) -> Result<Option<Array2<R>>> {
    let Some(from) = positions_from(keys)? else { return Ok(None) };
    let offset = keys.count("position_offset")?;
    // Position −1 is the row before that of position 0.
    let row = |place: &Option<usize>| place.map_or(offset.saturating_sub(1), |p| p + offset);
    let rows: Vec<usize> = places.iter().map(row).collect();
    if matches!(from, From::Table) {
        let name = format!("{stack}.embed.positions.weight");
        let shape = [keys.count("num_positions")?, width];
        return params.lookup(&name, shape, &rows, "the position").map(Some);
    }
    if !width.is_multiple_of(2) {
        return Err(broken("a sinusoid has as many sines as cosines, and the width is odd"));
    }
    let half = width / 2;
    let last = match keys.word("sinusoid.step")?.as_str() {
        "half" => half as f64,
        "half_minus_one" => half as f64 - 1.0,
        other => return Err(broken(format!("`sinusoid.step` is {other:?}"))),
    };
    Ok(Some(Array2::from_shape_fn((rows.len(), width), |(row, column)| {
        let angle = |k: usize| rows[row] as f64 * 10_000f64.powf(-(k as f64) / last);
        if places[row].is_none() {
            return R::zero();
        }
        R::of(if column < half { angle(column).sin() } else { angle(column - half).cos() })
    })))
}
