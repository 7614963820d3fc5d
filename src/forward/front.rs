//! Learned rows in front of the positions (`front_rows` = g > 0).
//!
//! Each sequence of a stack begins with the g rows of `embed.front_rows`, which are no tokens and have no positions. They see all that is
//! shown, all see them, and they go through the layers as positions do, but for the norm before attention, which is
//! `attn.front_norm` for them. Before the final norm they are left out.
//!
//! In sliding layers, where `attn_chunk_shifts` is not null, positions p and q are in the same chunk where `⌊(p + s)/attn_chunk⌋` and
//! `⌊(q + s)/attn_chunk⌋` are equal, with the entry s of the layer.

use ndarray::{Array2, s};

use super::Batch;
use super::keys::{Keys, broken};
use super::norm::Norm;
use super::real::Real;
use super::weights::Params;
use crate::base::error::Result;

/// Learned rows, and the length of sequences with them.
#[derive(Clone, Copy)]
pub(super) struct Front {
    rows: usize,
    len: usize,
}

impl Front {
    /// `None` where there are none.
    pub(super) fn read(keys: Keys<'_>, batch: &Batch) -> Result<Option<Front>> {
        let rows = keys.count("front_rows")?;
        if rows == 0 {
            return Ok(None);
        }
        let position = keys.word("position")?;
        if !matches!(position.as_str(), "none" | "learned" | "sinusoidal") || keys.bool("causal")? {
            return Err(broken(
                "rows in front have no place, and see all: positions are added, and nothing is causal",
            ));
        }
        Ok(Some(Front { rows, len: batch.len + rows }))
    }

    /// The sequences with their rows in front.
    pub(super) fn join<R: Real>(
        &self,
        params: Params<'_>,
        stack: &str,
        x: &Array2<R>,
        batch: &Batch,
    ) -> Result<(Array2<R>, Batch)> {
        let name = format!("{stack}.embed.front_rows.weight");
        let rows: Array2<R> = params.matrix(&name, [self.rows, x.ncols()])?;
        let mut joined = Array2::zeros((batch.size * self.len, x.ncols()));
        for sequence in batch.sequences() {
            let start = sequence.index * self.len;
            joined.slice_mut(s![start..start + self.rows, ..]).assign(&rows);
            let mut own = joined.slice_mut(s![start + self.rows..start + self.len, ..]);
            own.assign(&x.slice(s![sequence.rows(), ..]));
        }
        let mut longer = Batch::new(batch.size, self.len, None, None)?;
        for (longer, own) in longer.visible.iter_mut().zip(&batch.visible) {
            longer[self.rows..].clone_from_slice(own);
        }
        longer.front = self.rows;
        Ok((joined, longer))
    }

    /// The norm before attention, whose output for positions is `y`: the rows in front have one of their own.
    pub(super) fn norm<R: Real>(
        &self,
        norm: &Norm,
        params: Params<'_>,
        attn: &str,
        x: &Array2<R>,
        mut y: Array2<R>,
    ) -> Result<Array2<R>> {
        let own = norm.apply(params, &format!("{attn}.front_norm"), x)?;
        for start in (0..x.nrows()).step_by(self.len) {
            let rows = s![start..start + self.rows, ..];
            y.slice_mut(rows).assign(&own.slice(rows));
        }
        Ok(y)
    }

    /// The sequences without these rows.
    pub(super) fn leave<R: Real>(&self, x: &Array2<R>) -> Array2<R> {
        let rows: Vec<usize> = (0..x.nrows()).filter(|row| self.rows <= row % self.len).collect();
        x.select(ndarray::Axis(0), &rows)
    }
}
