//! How the ranks share a tensor, by its name.

use std::collections::BTreeMap;

use crate::checkpoint::Tensor;

/// How the ranks share a tensor.
pub(super) struct Split {
    /// The end of its name, or of that of its module.
    end: &'static str,
    /// The axis that it is split along; of two, the first is right where the other axis has the width
    /// of [`WIDTH`].
    pub(super) axes: &'static [usize],
    /// The runs along the axis of which every rank has a share.
    runs: Runs,
}

/// What lies one after the other along the axis that is split: each is shared by all ranks.
enum Runs {
    /// One.
    One,
    /// So many of one length.
    Equal(u64),
    /// Queries, keys and values: there are as many queries as entries along an axis of the tensor whose name
    /// has this end in place of its own.
    Queries(&'static str, usize),
    /// As many of one length as such a tensor has entries along an axis.
    Each(&'static str, usize),
}

/// More runs than this has no model.
const MAX_RUNS: u64 = 65_536;

/// A tensor that every rank has whole, of the width of the model.
pub(super) const WIDTH: &str = "norm.weight";

/// The table of tokens of Meta's code.
const TABLE: &str = "tok_embeddings.weight";

const fn split(end: &'static str, axes: &'static [usize]) -> Split {
    Split { end, axes, runs: Runs::One }
}

/// The tensors that are split: the rest is whole on every rank. A bias of a matrix that is split along its
/// inputs has no such axis, and is whole, too.
static SPLIT: &[Split] = &[
    split("tok_embeddings", &[0, 1]),
    split("output", &[0]),
    split("wq", &[0]),
    split("wk", &[0]),
    split("wv", &[0]),
    split("wo", &[1]),
    split("w1", &[0]),
    split("w2", &[1]),
    split("w3", &[0]),
    // What newer releases of Meta have fused, and their experts
    Split { end: "wqkv", axes: &[0], runs: Runs::Queries("wo", 1) },
    Split { end: "mlp.fc1_weight", axes: &[0], runs: Runs::Equal(2) },
    split("mlp.fc2_weight", &[1]),
    split("w_in_shared_FD", &[0]),
    split("w_swiglu_FD", &[0]),
    split("w_out_shared_DF", &[1]),
    split("experts.moe_w_in_eD_F", &[1]),
    split("experts.moe_w_swiglu_eD_F", &[1]),
    Split { end: "experts.moe_w_out_eF_D", axes: &[0], runs: Runs::Each("router_DE", 1) },
    // Its tower for pictures
    split("mlp.c_fc", &[0]),
    split("mlp.c_proj", &[1]),
    split("conv1._linear", &[0]),
    split("vision_projection", &[0]),
    // What has other names in the code of DeepSeek
    split("embed", &[0]),
    split("head", &[0]),
    split("wq_b", &[0]),
    split("wkv_b", &[0]),
];

/// Statistics of a run, which ranks have of their own and no reader of a model looks at.
const APART: &[&str] = &["global_gate_stats_3E", "running_gate_stats_3E", "expert_activation_DE"];

/// What stands behind the name of a module.
const ENDS: &[&str] = &["weight", "bias"];

/// How the ranks share a tensor of this name; `None` where all have it whole.
pub(super) fn split_of(name: &str) -> Option<&'static Split> {
    SPLIT.iter().find(|split| split.start(name).is_some())
}

/// The axes that a matrix may be split along, by its name: one, or the first where the other axis has
/// the width of the model; none of what every rank has whole.
pub fn axes_of(name: &str) -> &'static [usize] {
    split_of(name).map_or(&[], |split| split.axes)
}

/// Whether tensors have the names of Meta's layout, in whatever files.
pub fn is_named_so(tensors: &[Tensor]) -> bool {
    let has = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
    has(TABLE) && has(WIDTH)
}

/// Whether ranks may have other values of a tensor that each has whole.
pub(super) fn is_apart(name: &str) -> bool {
    APART.iter().any(|end| name.rsplit('.').next() == Some(*end))
}

/// The module of a tensor, and its own name in there, if it is one that modules have.
fn module_of(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, end)| ENDS.contains(end))
}

impl Split {
    /// What stands before the end of a name, if it ends so.
    fn start<'n>(&self, name: &'n str) -> Option<&'n str> {
        let before = |name: &'n str| {
            let rest = name.strip_suffix(self.end)?;
            (rest.is_empty() || rest.ends_with('.')).then_some(rest)
        };
        before(name).or_else(|| before(module_of(name)?.0))
    }

    /// The lengths of the runs of which a rank has a share, which make its axis.
    pub(super) fn runs(
        &self,
        tensor: &Tensor,
        axis: usize,
        all: &BTreeMap<&str, &Tensor>,
    ) -> Result<Vec<u64>, String> {
        let whole = tensor.shape[axis];
        let beside = |end: &str, at: usize| {
            let own = module_of(&tensor.name).filter(|(module, _)| module.ends_with(self.end));
            let own = own.map_or_else(String::new, |(_, own)| format!(".{own}"));
            let name = format!("{}{end}{own}", self.start(&tensor.name).unwrap_or_default());
            let found = all.get(name.as_str()).and_then(|tensor| tensor.shape.get(at));
            found.copied().ok_or_else(|| format!("is shared as `{name}` says, which is not there"))
        };
        let equal = |n: u64| match whole.checked_div(n) {
            Some(each) if each * n == whole && n <= MAX_RUNS => Ok(vec![each; n as usize]),
            _ => {
                Err(format!("has {whole} entries along axis {axis}, which are no {n} equal parts"))
            }
        };
        match self.runs {
            Runs::One => Ok(vec![whole]),
            Runs::Equal(n) => equal(n),
            Runs::Each(end, at) => equal(beside(end, at)?),
            Runs::Queries(end, at) => {
                let queries = beside(end, at)?;
                match whole.checked_sub(queries) {
                    Some(rest) if rest % 2 == 0 => Ok(vec![queries, rest / 2, rest / 2]),
                    _ => Err(format!(
                        "has {whole} rows, which are not those of {queries} queries and as many keys as values"
                    )),
                }
            }
        }
    }
}
