//! The files that Meta's own code reads, one for each rank that shares the matrices.

use super::archive::{self, Archives};
use super::{Cut, Kind, Target};
use crate::base::diagnostic::Diagnostic;
use crate::format::consolidated::{axes_of, stem_of};
use crate::format::pytorch;
use crate::format::pytorch::write::{Pickler, Value};
use crate::plan::{Tensors, cut};

pub(super) static TARGET: Target = Target {
    id: "meta",
    format: "meta",
    is_split: false,
    ranks: &[Kind::Tensor],
    cut: over_ranks,
    shards: |outputs, _, _, _| archive::shards(outputs, ".pth"),
    has: pytorch::has,
    container: |_| {
        Box::new(Archives { wrap: Box::new(|tensors| Pickler::pickle(&Value::Dict(tensors))) })
    },
    ..Target::DEFAULT
};

/// The number of heads, and the number of those of keys and values; every rank has whole ones.
const HEADS: [&str; 2] = ["n_heads", "n_kv_heads"];

fn over_ranks(tensors: Tensors, cut: &Cut<'_>) -> Result<Tensors, Diagnostic> {
    let n = cut.ranks.tensor;
    for key in HEADS {
        let heads = cut.config.get(key).and_then(serde_json::Value::as_u64).unwrap_or(n);
        cut::check_shares(key, heads, n, "--tp")?;
    }
    // The code of the releases without this key cuts the table of tokens by columns.
    let has_columns = cut.config.get("rope_theta").is_none();
    let axis = |name: &str| match axes_of(name) {
        [rows, columns] => Some(if has_columns { *columns } else { *rows }),
        axes => axes.first().copied(),
    };
    let mut ranks = Tensors { inputs: tensors.inputs.clone(), ..Tensors::default() };
    for rank in 0..n {
        for (from, step) in tensors.named_steps() {
            let name = format!("{}/{from}", stem_of(rank));
            match axis(from) {
                None => ranks.copy_from(&tensors, (from, step), &name, cut.options)?,
                Some(axis) => {
                    let share = |expr| cut::share(from, expr, axis, (rank, n), "--tp");
                    ranks.change_from(&tensors, (from, step), &name, cut.options, &share)?;
                }
            }
        }
    }
    Ok(ranks)
}
