//! Shapes and sounds of tokens.
//!
//! Beside its row of the token table a token may have a row of a table of shapes (`shape_embed.rows` > 0) and a row of a table of
//! sounds (`sound_embed.rows` > 0), by ids that are given with the input. `token_aspects` says how they meet:
//!
//! - `joined`: `[token, shape, sound] Wᵀ + b`, by `joined_proj`, takes the place of the token's embedding before anything is
//!   added to it. Tables whose ids are not given give row 0.
//! - `averaged`: after the norm, `(x + shape + sound)/n`, where n is how many are added up. Tables whose ids are not given
//!   add nothing.

use ndarray::{Array2, Axis, concatenate};

use super::keys::{Keys, broken};
use super::real::Real;
use super::weights::{Bias, Params};
use super::{Batch, Inputs, check_shape, flat};
use crate::base::error::Result;

/// The ids of shapes and of sounds, `[batch · n]` each, where they are given.
pub(super) type Ids = [Option<Vec<usize>>; 2];

/// The tables: the name of the role, and what the hyperparameters begin with.
const TABLES: [(&str, &str); 2] = [("shapes", "shape"), ("sounds", "sound")];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Meet {
    Joined,
    Averaged,
}

/// `None` where tokens have neither shapes nor sounds.
pub(super) fn meet(keys: Keys<'_>) -> Result<Option<Meet>> {
    Ok(match keys.opt_word("token_aspects")?.as_deref() {
        None => None,
        Some("joined") => Some(Meet::Joined),
        Some("averaged") => Some(Meet::Averaged),
        Some(other) => return Err(broken(format!("`token_aspects` is {other:?}"))),
    })
}

/// The ids that are given.
pub(super) fn read(keys: Keys<'_>, inputs: &Inputs, batch: &Batch) -> Result<Ids> {
    let mut ids = Ids::default();
    let given = [&inputs.shape_ids, &inputs.sound_ids];
    for ((ids, given), (_, what)) in ids.iter_mut().zip(given).zip(TABLES) {
        let Some(given) = given else { continue };
        if keys.count(&format!("{what}_embed.rows"))? == 0 {
            return Err(broken(format!("the model knows no {what} of a token")));
        }
        check_shape(&format!("the {what} ids"), given, batch.size, batch.len)?;
        *ids = Some(flat(what, given)?);
    }
    Ok(ids)
}

/// What a map makes of the tokens' embeddings, shapes and sounds.
pub(super) fn join<R: Real>(
    params: Params<'_>,
    keys: Keys<'_>,
    stack: &str,
    x: Array2<R>,
    ids: &Ids,
) -> Result<Array2<R>> {
    let (first, width) = (vec![0; x.nrows()], x.ncols());
    let mut parts = vec![x];
    for (ids, table) in ids.iter().zip(TABLES) {
        let rows = ids.as_ref().unwrap_or(&first);
        parts.extend(lookup(params, keys, stack, table, rows)?);
    }
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    let joined = concatenate(Axis(1), &views)
        .map_err(|err| broken(format!("shapes and sounds do not go together: {err}")))?;
    params.linear(&joined, &format!("{stack}.embed.joined_proj"), width, Bias::Is(true))
}

/// The mean of what is normed and the shapes and sounds that are given.
pub(super) fn average<R: Real>(
    params: Params<'_>,
    keys: Keys<'_>,
    stack: &str,
    mut x: Array2<R>,
    ids: &Ids,
) -> Result<Array2<R>> {
    let mut n = R::one();
    for (ids, table) in ids.iter().zip(TABLES) {
        let Some(rows) = ids else { continue };
        let Some(part) = lookup(params, keys, stack, table, rows)? else { continue };
        if part.dim() != x.dim() {
            return Err(broken("shapes or sounds are not as wide as what they are averaged with"));
        }
        x += &part;
        n += R::one();
    }
    Ok(x / n)
}

/// Rows of one of the tables; `None` where the model does not have it.
fn lookup<R: Real>(
    params: Params<'_>,
    keys: Keys<'_>,
    stack: &str,
    (role, what): (&str, &str),
    rows: &[usize],
) -> Result<Option<Array2<R>>> {
    let n = keys.count(&format!("{what}_embed.rows"))?;
    if n == 0 {
        return Ok(None);
    }
    let shape = [n, keys.count(&format!("{what}_embed.dim"))?];
    params.lookup(&format!("{stack}.embed.{role}.weight"), shape, rows, what).map(Some)
}
