//! What all kinds of attention are told: their heads, and the layer that they are in.

use super::Batch;
use super::keys::Keys;
use crate::base::error::{Error, Result};

/// The numbers of heads, and of dims of each.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) q: usize,
    pub(super) kv: usize,
    pub(super) dim: usize,
    pub(super) v_dim: usize,
}

/// What the end of a layer is about.
#[derive(Clone, Copy)]
pub(super) struct Fed<'a> {
    pub(super) layer: usize,
    /// Rows of a sequence.
    pub(super) len: usize,
    /// The token of each row; none of a spectrogram.
    pub(super) ids: &'a [usize],
}

/// What a layer's attention is about.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The layer as it is run, which windows, sinks and skips count by.
    pub(super) layer: usize,
    /// Whether it sees only its window.
    pub(super) sliding: bool,
    /// Its word in `layer_types`.
    pub(super) kind: &'a str,
    /// What its tensors' names begin with: `decoder.layers.3.attn`.
    pub(super) name: &'a str,
    /// What is added to its maps, where something is.
    pub(super) adapters: Option<Adapters<'a>>,
}

/// Narrow maps whose outputs are added to those of an attention.
#[derive(Clone, Copy)]
pub(super) struct Adapters<'a> {
    /// What their names begin with.
    pub(super) name: &'a str,
    pub(super) rank: usize,
}

/// Factors of what goes in, of keys and values, and of what comes out.
pub(super) struct Scales {
    pub(super) input: f64,
    pub(super) keys: f64,
    pub(super) values: f64,
    pub(super) output: f64,
}

impl Scales {
    pub(super) fn read(keys: Keys<'_>) -> Result<Scales> {
        Ok(Scales {
            input: keys.float("attn_in_scale")?,
            keys: keys.float("attn_key_scale")?,
            values: keys.float("attn_value_scale")?,
            output: keys.float("attn_out_scale")?,
        })
    }
}

/// The keys that queries of sliding layers see.
#[derive(Clone, Copy, Default)]
pub(super) struct Window {
    pub(super) left: Option<usize>,
    pub(super) right: Option<usize>,
    /// The length of chunks that do not see each other.
    pub(super) chunk: Option<usize>,
    /// By how much the first chunk is shorter.
    pub(super) shift: usize,
}

impl Window {
    pub(super) fn shows(&self, q: usize, k: usize) -> bool {
        self.left.is_none_or(|left| q.saturating_sub(k) <= left)
            && self.right.is_none_or(|right| k.saturating_sub(q) <= right)
            && self.chunk.is_none_or(|chunk| (q + self.shift) / chunk == (k + self.shift) / chunk)
    }
}

impl Batch {
    /// How far a key is before a query; `None` where it is behind it, or of another row of a stream that predicts.
    pub(super) fn behind(&self, q: usize, k: usize) -> Option<usize> {
        match (self.ahead_of, q.checked_sub(self.ahead_of)) {
            (0, _) | (_, None) => q.checked_sub(k),
            (_, Some(_)) if q == k => Some(0),
            (_, Some(place)) => (place + 1).checked_sub(k).filter(|&distance| 0 < distance),
        }
    }
}

/// Sequences longer than those whose attention is full: blocks are drawn at random for them.
pub(super) fn check_sparse(keys: Keys<'_>, name: &str, len: usize) -> Result<()> {
    let block = keys.count("attn_sparse.block_size")?;
    if block == 0 {
        return Ok(());
    }
    let most = keys
        .count("attn_sparse.random_blocks")?
        .saturating_mul(2)
        .saturating_add(5)
        .saturating_mul(block);
    if most < len {
        return Err(Error::unsupported(format!(
            "the {name} reads {len} positions: beyond {most} it attends to blocks that are drawn at \
             random, which nothing determines"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_predict_see_themselves_and_what_came_before() {
        let mut batch = Batch::new(1, 6, None, None).unwrap();
        assert_eq!([batch.behind(4, 1), batch.behind(1, 4)], [Some(3), None]);
        batch.ahead_of = 3;
        // Positions see no row; row 1 of the stream sees positions 0 and 1, and itself.
        assert_eq!([batch.behind(2, 0), batch.behind(2, 3)], [Some(2), None]);
        let seen: Vec<_> = (0..6).map(|k| batch.behind(4, k)).collect();
        assert_eq!(seen, [Some(2), Some(1), None, None, Some(0), None]);
        assert_eq!(batch.behind(5, 3), None);
    }
}
