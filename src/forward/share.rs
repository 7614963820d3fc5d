//! What layers of one stack have different, and what they share: widths of heads, and keys and values.

use std::cell::RefCell;
use std::collections::BTreeMap;

use ndarray::Array2;

use super::keys::{Keys, broken};
use super::norm::Norm;
use super::place::Heads;
use super::real::Real;
use super::weights::Params;
use crate::base::error::Result;

/// Keys and values, `[batch · n, g·d]` and `[batch · n, g·e]`.
type KeysAndValues<R> = (Array2<R>, Array2<R>);

/// The heads of each layer, and whose keys and values it sees.
pub(super) struct Shares<R> {
    q_heads: Option<Vec<usize>>,
    head_dims: Option<Vec<usize>>,
    kv_heads: Option<Vec<usize>>,
    kv_from: Option<Vec<usize>>,
    /// Layers whose values are what the key map puts out.
    v_from_k: Vec<usize>,
    /// The norm of each head's values, where there is one.
    v_norm: Option<Norm>,
    /// Keys and values of layers that others see.
    kept: RefCell<BTreeMap<usize, KeysAndValues<R>>>,
}

impl<R: Real> Shares<R> {
    pub(super) fn read(keys: Keys<'_>) -> Result<Shares<R>> {
        let n_layers = keys.count("num_layers")?;
        let list = |name: &str| {
            let list = keys.opt_counts(name)?;
            match list.as_ref().filter(|list| list.len() != n_layers) {
                Some(list) => Err(broken(format!(
                    "`{name}` has {} entries, and there are {n_layers} layers",
                    list.len()
                ))),
                None => Ok(list),
            }
        };
        let shares = Shares {
            q_heads: list("q_heads")?,
            head_dims: list("head_dims")?,
            kv_heads: list("kv_heads")?,
            kv_from: list("kv_from")?,
            v_from_k: keys.opt_counts("v_from_k_layers")?.unwrap_or_default(),
            v_norm: match keys.bool("v_norm")? {
                true => Some(Norm::read(keys)?.without_weights()),
                false => None,
            },
            kept: RefCell::default(),
        };
        let plain = shares.q_heads.is_none()
            && shares.head_dims.is_none()
            && shares.kv_heads.is_none()
            && shares.kv_from.is_none()
            && shares.v_from_k.is_empty();
        if !plain && keys.count("mla.kv_lora_rank")? != 0 {
            return Err(broken("layers of latent attention are alike, and share nothing"));
        }
        Ok(shares)
    }

    /// The heads of a layer.
    pub(super) fn heads(&self, heads: Heads, layer: usize) -> Result<Heads> {
        let mut own = heads;
        if let Some(q) = &self.q_heads {
            own.q = q[layer];
        }
        if let Some(dims) = &self.head_dims {
            (own.dim, own.v_dim) = (dims[layer], dims[layer]);
        }
        if let Some(kv) = &self.kv_heads {
            own.kv = kv[layer];
        }
        if own.dim == 0 || own.kv == 0 || !own.q.is_multiple_of(own.kv) {
            return Err(broken(format!(
                "layer {layer}: {} query heads of {} dims do not share {} key heads",
                own.q, own.dim, own.kv
            )));
        }
        Ok(own)
    }

    /// The keys and values of another layer that this one sees; `None` if it has its own.
    pub(super) fn of_another(
        &self,
        layer: usize,
        heads: Heads,
    ) -> Result<Option<KeysAndValues<R>>> {
        let Some(from) = self.kv_from.as_ref().map(|from| from[layer]) else { return Ok(None) };
        if from == layer {
            return Ok(None);
        }
        let kept = self.kept.borrow().get(&from).cloned();
        let width = |(k, v): &KeysAndValues<R>| (k.ncols(), v.ncols());
        let wanted = (heads.kv * heads.dim, heads.kv * heads.v_dim);
        match kept.filter(|kept| width(kept) == wanted) {
            Some(kept) => Ok(Some(kept)),
            None => Err(broken(format!(
                "layer {layer} sees keys and values of layer {from}, which has none for its heads"
            ))),
        }
    }

    /// Keeps a layer's keys and values where others see them.
    pub(super) fn keep(&self, layer: usize, k: &Array2<R>, v: &Array2<R>) {
        let sees = |(other, from): (usize, &usize)| *from == layer && other != layer;
        if self.kv_from.iter().flatten().enumerate().any(sees) {
            self.kept.borrow_mut().insert(layer, (k.clone(), v.clone()));
        }
    }

    /// Whether a layer's values are what its key map puts out.
    pub(super) fn makes_values_of_keys(&self, layer: usize) -> bool {
        self.v_from_k.contains(&layer)
    }

    /// Norms each head of values, where they are normed.
    pub(super) fn norm_values(
        &self,
        params: Params<'_>,
        v: &mut Array2<R>,
        dim: usize,
    ) -> Result<()> {
        if let Some(norm) = &self.v_norm {
            *v = norm.apply_per_group(params, "values", v, dim, 1)?;
        }
        Ok(())
    }
}
