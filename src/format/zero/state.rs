//! What the files of one rank hold.

use std::collections::BTreeSet;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::{DType, Tensor, View, row_major_strides};
use crate::format::pickle::{Node, NodeId};
use crate::format::pytorch::object::{self, Object};
use crate::format::pytorch::quote;

/// A parameter by name, and its shape.
type Shapes = Vec<(String, Vec<u64>)>;

/// What a file of the model's state says.
pub(super) struct ModelState {
    pub(super) file: FileId,
    /// The parameters of each group, in their order in the flat vector.
    pub(super) groups: Vec<Shapes>,
    pub(super) frozen: Vec<(String, Vec<u64>, Tensor)>,
    /// Names for parameters that have another one.
    pub(super) shared: Vec<(String, String)>,
    /// The copies of the parameters that the model computes with, and the buffers. At stage 3 the
    /// parameters are placeholders.
    pub(super) module: Vec<Tensor>,
    /// Which of them are buffers.
    pub(super) buffers: BTreeSet<String>,
    pub(super) step: Option<i64>,
}

impl ModelState {
    pub(super) fn read(source: &Source, file: FileId) -> Result<ModelState> {
        object::read(source, source.extent(file), |of| {
            let (pickle, root) = (of.pickle, of.pickle.root());
            let due = |name: &str| {
                let found = pickle.value(root, name);
                found.ok_or_else(|| malformed(&format!("it has no `{name}`: it is of no ZeRO run")))
            };
            let groups = match due("param_shapes")? {
                list if pickle.sequence(list).is_some() => {
                    let groups = pickle.sequence(list).unwrap_or_default();
                    groups.iter().map(|&group| shapes(of, group)).collect::<Result<_>>()?
                }
                one => vec![shapes(of, one)?],
            };
            let mut frozen = Vec::new();
            if let Some(list) = pickle.value(root, "frozen_param_shapes")
                && !matches!(pickle.node(list), Node::None)
            {
                let fragments = due("frozen_param_fragments")?;
                for (name, shape) in shapes(of, list)? {
                    let fragment = pickle.value(fragments, &name).and_then(|id| of.tensor(id));
                    let fragment = fragment.ok_or_else(|| {
                        malformed(&format!("it has no values of the frozen {}", quote(&name)))
                    })?;
                    frozen.push((name, shape, fragment));
                }
            }
            let shared = pickle.value(root, "shared_params").and_then(|id| pickle.items(id));
            let shared = shared.unwrap_or_default().into_iter().map(|(name, of)| {
                let pair = pickle.text(name).zip(pickle.text(of));
                let pair = pair.map(|(name, of)| (name.to_owned(), of.to_owned()));
                pair.ok_or_else(|| malformed("its shared parameters are no texts"))
            });
            let module = pickle.value(root, "module").and_then(|module| pickle.items(module));
            let module = module.unwrap_or_default().into_iter().filter_map(|(name, value)| {
                let name = pickle.text(name)?.to_owned();
                Some(Tensor { name: name.into(), ..of.tensor(value)? })
            });
            let buffers = pickle.value(root, "buffer_names").and_then(|id| pickle.members(id));
            let buffers = buffers.unwrap_or_default().iter().filter_map(|&name| pickle.text(name));
            Ok(ModelState {
                file,
                groups,
                frozen,
                shared: shared.collect::<Result<_>>()?,
                module: module.collect(),
                buffers: buffers.map(str::to_owned).collect(),
                step: pickle.value(root, "global_steps").and_then(|id| pickle.int(id)),
            })
        })
    }

    /// Holds the state of one rank against that of the first.
    pub(super) fn check(&self, first: &ModelState, source: &Source) -> Result<()> {
        let other = source.name(first.file);
        let what = if self.step != first.step {
            let step = |state: &ModelState| state.step.map_or("none".to_owned(), |n| n.to_string());
            format!("is of the step {}, and `{other}` of {}", step(self), step(first))
        } else if self.groups != first.groups {
            format!("has other parameters or shapes than `{other}`: they are of two runs")
        } else {
            return Ok(());
        };
        Err(malformed(&what).in_file(source.path(self.file)))
    }
}

/// A dictionary of shapes.
fn shapes(of: &Object<'_>, id: NodeId) -> Result<Shapes> {
    let items = of.pickle.items(id).ok_or_else(|| malformed("its shapes are in no dictionary"))?;
    let shape = |(name, shape): (NodeId, NodeId)| {
        let name = of.pickle.text(name).ok_or_else(|| malformed("a name is no text"))?;
        let shape = of.pickle.sizes(shape);
        let shape = shape.ok_or_else(|| malformed(&format!("{} has no shape", quote(name))))?;
        Ok((name.to_owned(), shape))
    };
    items.into_iter().map(shape).collect()
}

/// What a file of the optimizer's state has.
pub(super) struct OptimizerState {
    file: FileId,
    pub(super) stage: u64,
    pub(super) world: u64,
    /// The part of this rank of each flat vector.
    pub(super) flats: Vec<Flat>,
    /// Elements behind each parameter of each group that are none of its own.
    pub(super) paddings: Vec<Vec<u64>>,
}

/// Elements in a row.
#[derive(Clone)]
pub(super) struct Flat {
    pub(super) dtype: DType,
    pub(super) data: View,
    pub(super) len: u64,
}

impl Flat {
    pub(super) fn of(tensor: &Tensor) -> Result<Flat> {
        let data = tensor.view().map_err(|reason| malformed(&reason))?;
        let is_packed = data.strides == row_major_strides(&tensor.shape);
        let len = tensor.n_elements().filter(|_| is_packed);
        let len = len.ok_or_else(|| malformed("a flat vector does not lie in a row"))?;
        Ok(Flat { dtype: tensor.dtype, data, len })
    }
}

impl OptimizerState {
    pub(super) fn read(source: &Source, file: FileId) -> Result<OptimizerState> {
        object::read(source, source.extent(file), |of| {
            let pickle = of.pickle;
            let state = pickle.value(pickle.root(), "optimizer_state_dict");
            let value = |name: &str| pickle.value(state?, name);
            let stage = value("zero_stage").and_then(|id| number(of, id));
            let stage =
                stage.ok_or_else(|| malformed("it has no `zero_stage`: it is of no ZeRO run"))?;
            let key = match stage {
                0..=2 => "single_partition_of_fp32_groups",
                3 => "fp32_flat_groups",
                _ => return Err(Error::unsupported(format!("stage {stage} of ZeRO"))),
            };
            let counts = value("partition_count");
            let counts: Option<Vec<u64>> = match counts {
                Some(id) if pickle.sequence(id).is_some() => pickle.sizes(id),
                Some(id) => number(of, id).map(|n| vec![n]),
                None => None,
            };
            let counts = counts.unwrap_or_default();
            let Some(&world) = counts.first() else {
                return Err(malformed(
                    "it does not say how many ranks there are (`partition_count`)",
                ));
            };
            if counts.iter().any(|count| *count != world) {
                let message = "its groups lie on different numbers of ranks, as those of experts do; \
                               make a universal checkpoint of it with DeepSpeed";
                return Err(Error::unsupported(message));
            }
            let groups = value(key).and_then(|id| pickle.members(id));
            let groups = groups.ok_or_else(|| {
                malformed(&format!("it has no `{key}`: the master weights were left out of it"))
            })?;
            let flat = |&id: &NodeId| {
                let tensor =
                    of.tensor(id).ok_or_else(|| malformed("a flat vector is no tensor"))?;
                Flat::of(&tensor)
            };
            let paddings = value("param_alignment_paddings").and_then(|id| pickle.sequence(id));
            let paddings = paddings.unwrap_or_default().iter().map(|&id| {
                pickle.members(id)?.iter().map(|&id| u64::try_from(pickle.int(id)?).ok()).collect()
            });
            let paddings: Option<Vec<Vec<u64>>> = paddings.collect();
            Ok(OptimizerState {
                file,
                stage,
                world,
                flats: groups.iter().map(flat).collect::<Result<_>>()?,
                paddings: paddings.ok_or_else(|| malformed("its paddings are no numbers"))?,
            })
        })
    }

    /// Holds the state of one rank against that of the first.
    pub(super) fn check(&self, first: &OptimizerState, source: &Source) -> Result<()> {
        let lens = |of: &OptimizerState| of.flats.iter().map(|flat| flat.len).collect::<Vec<_>>();
        let tell = |of: &OptimizerState| {
            format!("stage {}, {} ranks, vectors of {:?}", of.stage, of.world, lens(of))
        };
        let (own, theirs) = (tell(self), tell(first));
        // Before stage 3 the last rank's vectors are stored without what fills them up.
        let same_lens = self.stage < 3 && self.flats.len() == first.flats.len();
        let same_run = (self.stage, self.world) == (first.stage, first.world);
        if own == theirs || (same_lens && same_run) {
            return Ok(());
        }
        let other = source.name(first.file);
        let message = format!("has {own}, and `{other}` has {theirs}: they are of two runs");
        Err(malformed(&message).in_file(source.path(self.file)))
    }
}

/// A number, or a member of an enumeration that stands for one.
fn number(of: &Object<'_>, id: NodeId) -> Option<u64> {
    let int = match of.pickle.node(id) {
        Node::Object(object) => of.pickle.int(*of.pickle.sequence(object.args)?.first()?),
        _ => of.pickle.int(id),
    };
    u64::try_from(int?).ok()
}

pub(super) fn malformed(message: &str) -> Error {
    Error::new(ErrorKind::Malformed, message)
}
