//! Attention to another stack's output.

use ndarray::{Array2, s};

use super::super::Batch;
use super::super::keys::broken;
use super::super::memory::{Memory, Merged};
use super::super::mix::{Mixing, mix, stacked};
use super::super::place::{Heads, Place};
use super::super::real::Real;
use super::Attention;
use crate::base::error::Result;

impl<R: Real> Attention<'_, R> {
    /// The attention of `x`, `[batch · n, hidden]`, to another stack's output,
    /// `[batch · m, hidden]`. Positions play no part.
    pub(in super::super) fn to_other(
        &self,
        name: &str,
        x: &Array2<R>,
        batch: &Batch,
        memory: &Array2<R>,
        memory_batch: &Batch,
    ) -> Result<Array2<R>> {
        let kv = if self.cross_grouped { self.heads.kv } else { self.heads.q };
        let heads = Heads { kv, ..self.heads };
        let (mut q, mut k, v) = self.maps.heads(name, x, [memory, memory], heads)?;
        if let Some(norm) = &self.cross_norm {
            norm.apply(self.params, &format!("{name}.q_norm"), &mut q, (heads.q, heads.dim))?;
            norm.apply(self.params, &format!("{name}.k_norm"), &mut k, (heads.kv, heads.dim))?;
        }
        let mut mixed = Vec::new();
        for (sequence, other) in batch.sequences().zip(memory_batch.sequences()) {
            mixed.push(mix(
                &q.slice(s![sequence.rows(), ..]).to_owned(),
                &k.slice(s![other.rows(), ..]).to_owned(),
                &v.slice(s![other.rows(), ..]).to_owned(),
                &Mixing::plain(heads, self.scale, self.softcap, &|_, k| {
                    memory_batch.visible[other.index][k]
                }),
            ));
        }
        self.maps.out(name, &stacked(mixed, heads.q * heads.v_dim), self.o_bias, None)
    }

    /// The attention of `x`, `[batch · n, hidden]`, to the rows that it was made of, `[batch · m, hidden]`.
    pub(in super::super) fn to_longer(
        &self,
        place: Place<'_>,
        (x, batch): (&Array2<R>, &Batch),
        (longer, longer_batch): (&Array2<R>, &Batch),
    ) -> Result<Array2<R>> {
        let sinusoid = self.sinusoid.as_ref();
        let sinusoid = sinusoid.ok_or_else(|| broken("rows of fewer positions have no places"))?;
        let sinusoid = sinusoid.of_layer(self.params, place.name, batch, longer_batch)?;
        let (q, k, v) = self.maps.heads(place.name, x, [longer, longer], self.heads)?;
        let mut mixed = Vec::new();
        for (sequence, other) in batch.sequences().zip(longer_batch.sequences()) {
            let q = q.slice(s![sequence.rows(), ..]).to_owned();
            let k = k.slice(s![other.rows(), ..]).to_owned();
            let v = v.slice(s![other.rows(), ..]).to_owned();
            let relative = sinusoid.scores(&q, &k, (batch, sequence), (longer_batch, other));
            let sees = |_, k: usize| longer_batch.visible[other.index][k];
            let plain = Mixing::plain(self.heads, self.scale, self.softcap, &sees);
            mixed.push(mix(&q, &k, &v, &Mixing { relative: Some(&relative), ..plain }));
        }
        self.maps.out(
            place.name,
            &stacked(mixed, self.heads.q * self.heads.v_dim),
            self.o_bias,
            None,
        )
    }

    /// Keys and values of another stack's output, by the maps and norms of the layer's own.
    pub(super) fn merge(
        &self,
        place: Place<'_>,
        memory: &Memory<'_, R>,
        own: Heads,
    ) -> Result<Merged<R>> {
        let adds = self.relative.is_some() || self.alibi.is_some() || self.sinusoid.is_some();
        let chooses = self.indexer.is_some() || self.key_bias.is_some() || self.compress.is_some();
        if adds || chooses || self.disentangled.is_some() || self.differential.is_some() {
            return Err(broken("keys of another stack have no places beside those of positions"));
        }
        let of = [memory.output; 2];
        let (mut keys, mut values) = self.maps.keys_and_values(place.name, of, own)?;
        keys *= R::of(self.scales.keys);
        values *= R::of(self.scales.values);
        if let Some(norm) = self.qk_norm.as_ref().filter(|norm| norm.is_in(place.layer)) {
            let name = format!("{}.k_norm", place.name);
            norm.apply(self.params, &name, &mut keys, (own.kv, own.dim))?;
        }
        Ok(Merged { keys, values, visible: memory.batch.visible.clone() })
    }
}
