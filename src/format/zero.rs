//! Checkpoints of DeepSpeed ZeRO: every rank has a part of flat vectors in F32, and the shapes of the
//! parameters that they are cut into lie in another file.
//!
//! ```text
//! mp_rank_00_model_states.pt                       shapes, frozen and shared parameters, buffers
//! zero_pp_rank_3_mp_rank_00_model_states.pt        the same of each rank, at stage 3
//! bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt   the part of rank 3 of each flat vector
//! ```
//!
//! At stages 1 and 2 the parts of the ranks follow each other, and the parameters in them. At stage 3
//! each parameter is cut into as many pieces as there are ranks, all of them at the same place of the
//! vector of their rank. What is read are the master weights, not the copies in half precision.
//!
//! Spec: `deepspeed/utils/zero_to_fp32.py` and `deepspeed/checkpoint/constants.py` of DeepSpeed 0.19.

use std::collections::{BTreeMap, BTreeSet};

use super::pickle::{Node, NodeId};
use super::pytorch::names::strip_prefixes;
use super::pytorch::object::{self, Object};
use super::pytorch::{self, quote};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::tiles::{Tile, boxes_of_run, prove_cover};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, View, n_elements, row_major_strides};

const MODEL_END: &str = "model_states.pt";
const OPTIMIZER_END: &str = "_optim_states.pt";
/// More ranks than this are no run.
const MAX_RANKS: u64 = 65_536;

/// A file of a rank, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RankFile<'n> {
    /// The rank of those that share the data, if the name has it.
    rank: Option<u64>,
    /// The rank of those that share the tensors.
    model_rank: u64,
    name: &'n str,
}

impl<'n> RankFile<'n> {
    /// `[bf16_][zero_pp_rank_N_]mp_rank_MM` and the end.
    fn parse(name: &'n str, end: &str) -> Option<RankFile<'n>> {
        let rest = name.strip_suffix(end)?.trim_end_matches('_');
        let (before, model_rank) = rest.split_once("mp_rank_")?;
        let rank = match before.split_once("zero_pp_rank_") {
            Some((_, rank)) => Some(rank.trim_end_matches('_').parse().ok()?),
            None => None,
        };
        Some(RankFile { rank, model_rank: model_rank.parse().ok()?, name })
    }
}

/// Whether a file is of such a checkpoint.
pub fn is_file(name: &str) -> bool {
    name.ends_with(MODEL_END) || name.ends_with(OPTIMIZER_END)
}

/// Reads the files of all ranks in a folder, and gives their names.
///
/// # Errors
/// A rank is missing, damaged or of another run, or the parts do not make the parameters.
pub fn read(
    source: &mut Source,
    folder: &str,
    names: &[&str],
) -> Result<(Checkpoint, Vec<String>)> {
    let place = source.place(folder);
    let about = |message: String| Error::new(ErrorKind::Malformed, message).in_file(&place);
    let of = |end: &str| {
        let files = names.iter().filter_map(|name| RankFile::parse(name, end));
        let files: BTreeSet<RankFile<'_>> = files.collect();
        files.into_iter().collect::<Vec<_>>()
    };
    let (models, optimizers) = (of(MODEL_END), of(OPTIMIZER_END));
    for pair in models.windows(2).chain(optimizers.windows(2)) {
        if (pair[0].rank, pair[0].model_rank) == (pair[1].rank, pair[1].model_rank) {
            let (first, second) = (pair[0].name, pair[1].name);
            return Err(about(format!(
                "`{first}` and `{second}` are of one rank: the files of two runs lie in one folder"
            )));
        }
    }
    let parallel = models.iter().chain(&optimizers).find(|file| file.model_rank != 0);
    let others = names.iter().find(|name| {
        name.ends_with(MODEL_END) && (name.starts_with("layer_") || name.contains("expp_rank"))
    });
    if let Some(name) = parallel.map(|file| &file.name).or(others) {
        let message = format!(
            "`{name}` is a part of a model whose tensors, layers or experts lie on several ranks; make a \
             universal checkpoint of it with DeepSpeed's ds_to_universal, which is read"
        );
        return Err(Error::unsupported(message).in_file(&place));
    }
    let Some(first) = models.first() else {
        return Err(about("has no file `*_model_states.pt`, which says what is where".to_owned()));
    };
    let mut weights = Vec::new();
    let mut open = |source: &mut Source, name: &str| -> Result<FileId> {
        let name = format!("{folder}{name}");
        let file = source.add(&name)?;
        weights.push(name);
        Ok(file)
    };
    let file = open(source, first.name)?;
    if optimizers.is_empty() {
        if first.rank.is_some() {
            return Err(about(format!(
                "`{}` has placeholders; the weights are in `*_optim_states.pt` of each rank, and \
                 there is none",
                first.name
            )));
        }
        // Without ZeRO the file has all weights.
        let checkpoint = pytorch::read(source, file)?;
        return Ok((checkpoint, weights));
    }
    let mut states = vec![ModelState::read(source, file)?];
    let mut parts = Vec::new();
    for optimizer in &optimizers {
        let file = open(source, optimizer.name)?;
        let part = OptimizerState::read(source, file)?;
        if let Some((_, first)) = parts.first() {
            part.check(first, source)?;
        }
        parts.push((optimizer.rank.unwrap_or(0), part));
    }
    let Some((_, first_part)) = parts.first() else { return Err(about("is empty".to_owned())) };
    let (stage, world) = (first_part.stage, first_part.world);
    if MAX_RANKS < world {
        return Err(about(format!(
            "says that there are {world} ranks; up to {MAX_RANKS} are read"
        )));
    }
    check_ranks(&parts.iter().map(|(rank, _)| *rank).collect(), world, OPTIMIZER_END)
        .map_err(about)?;
    if stage == 3 {
        for model in &models[1..] {
            let file = open(source, model.name)?;
            let state = ModelState::read(source, file)?;
            state.check(&states[0], source)?;
            states.push(state);
        }
        let ranks = models.iter().filter_map(|file| file.rank).collect();
        check_ranks(&ranks, world, MODEL_END).map_err(about)?;
    }
    let parts: Vec<OptimizerState> = parts.into_iter().map(|(_, part)| part).collect();
    let mut checkpoint = merged(source, &states, &parts)?;
    let stripped = strip_prefixes(&mut checkpoint.tensors);
    if !stripped.is_empty() {
        let message = format!("the names are given without {}", quote(&stripped.join(" ")));
        checkpoint.findings.push(Diagnostic::note("R005", message));
    }
    Ok((checkpoint, weights))
}

/// Finds a rank that has no file.
fn check_ranks(there: &BTreeSet<u64>, world: u64, end: &str) -> Result<(), String> {
    let end = end.trim_start_matches('_');
    if let Some(rank) = (0..world).find(|rank| !there.contains(rank)) {
        let n = there.len();
        return Err(format!(
            "has {n} of the files of {world} ranks: `*zero_pp_rank_{rank}_*_{end}` is missing"
        ));
    }
    match there.iter().find(|rank| world <= **rank) {
        Some(rank) => Err(format!(
            "has `*zero_pp_rank_{rank}_*_{end}`, and its run has {world} ranks: it is of another run"
        )),
        None => Ok(()),
    }
}

/// A parameter by name, and its shape.
type Shapes = Vec<(String, Vec<u64>)>;

/// What a file of the model's state says.
struct ModelState {
    file: FileId,
    /// The parameters of each group, in their order in the flat vector.
    groups: Vec<Shapes>,
    frozen: Vec<(String, Vec<u64>, Tensor)>,
    /// Names for parameters that have another one.
    shared: Vec<(String, String)>,
    /// The copies of the parameters that the model computes with, and the buffers. At stage 3 the
    /// parameters are placeholders.
    module: Vec<Tensor>,
    /// Which of them are buffers.
    buffers: BTreeSet<String>,
    step: Option<i64>,
}

impl ModelState {
    fn read(source: &Source, file: FileId) -> Result<ModelState> {
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
                Some(Tensor { name, ..of.tensor(value)? })
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
    fn check(&self, first: &ModelState, source: &Source) -> Result<()> {
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
struct OptimizerState {
    file: FileId,
    stage: u64,
    world: u64,
    /// The part of this rank of each flat vector.
    flats: Vec<Flat>,
    /// Elements behind each parameter of each group that are none of its own.
    paddings: Vec<Vec<u64>>,
}

/// Elements in a row.
#[derive(Clone)]
struct Flat {
    dtype: DType,
    data: View,
    len: u64,
}

impl Flat {
    fn of(tensor: &Tensor) -> Result<Flat> {
        let data = tensor.view().map_err(|reason| malformed(&reason))?;
        let is_packed = data.strides == row_major_strides(&tensor.shape);
        let len = tensor.n_elements().filter(|_| is_packed);
        let len = len.ok_or_else(|| malformed("a flat vector does not lie in a row"))?;
        Ok(Flat { dtype: tensor.dtype, data, len })
    }
}

impl OptimizerState {
    fn read(source: &Source, file: FileId) -> Result<OptimizerState> {
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
    fn check(&self, first: &OptimizerState, source: &Source) -> Result<()> {
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

fn malformed(message: &str) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

/// A run of a flat vector.
struct Run<'f> {
    flat: &'f Flat,
    start: u64,
    len: u64,
}

/// The parameters, cut out of the flat vectors of all ranks.
fn merged(source: &Source, states: &[ModelState], parts: &[OptimizerState]) -> Result<Checkpoint> {
    let (state, part) = (&states[0], &parts[0]);
    let about = |err: Error| err.in_file(source.path(state.file));
    let mut tensors = if part.stage == 3 {
        pieces_of_each(state, parts).map_err(about)?
    } else {
        one_after_the_other(state, parts).map_err(about)?
    };
    for (index, (name, shape, fragment)) in state.frozen.iter().enumerate() {
        if part.stage != 3 {
            if fragment.shape != *shape {
                let message =
                    format!("the frozen {} has the shape {:?}", quote(name), fragment.shape);
                return Err(about(malformed(&message)));
            }
            tensors.push(Tensor { name: name.clone(), ..fragment.clone() });
            continue;
        }
        let fragments = states.iter().map(|state| match state.frozen.get(index) {
            Some((of, _, fragment)) if of == name => Flat::of(fragment),
            _ => Err(malformed(&format!("has no frozen {}", quote(name)))
                .in_file(source.path(state.file))),
        });
        let fragments: Vec<Flat> = fragments.collect::<Result<_>>().map_err(about)?;
        let runs = fragments.iter().map(|flat| Run { flat, start: 0, len: flat.len }).collect();
        tensors.push(parameter(name, shape, runs).map_err(about)?);
    }
    for (name, of) in &state.shared {
        if let Some(tensor) = tensors.iter().find(|tensor| tensor.name == *of).cloned() {
            tensors.push(Tensor { name: name.clone(), ..tensor });
        }
    }
    // At stage 1 DeepSpeed keeps frozen parameters in the module alone.
    let module = state.module.iter();
    tensors
        .extend(module.filter(|of| part.stage != 3 || state.buffers.contains(&of.name)).cloned());
    let mut names = BTreeSet::new();
    tensors.retain(|tensor| names.insert(tensor.name.clone()));
    let mut metadata = BTreeMap::from([
        ("trainer".to_owned(), format!("DeepSpeed ZeRO {}", part.stage)),
        ("trainer.ranks".to_owned(), part.world.to_string()),
    ]);
    if let Some(step) = state.step {
        metadata.insert("trainer.step".to_owned(), step.to_string());
    }
    Ok(Checkpoint { format: pytorch::FORMAT.id, tensors, metadata, ..Checkpoint::default() })
}

/// Stages 1 and 2: a vector for each group, in which the parameters follow each other.
fn one_after_the_other(state: &ModelState, parts: &[OptimizerState]) -> Result<Vec<Tensor>> {
    let part = &parts[0];
    if state.groups.len() != part.flats.len() {
        let (n, of) = (state.groups.len(), part.flats.len());
        return Err(malformed(&format!("it has {n} groups of parameters, the vectors {of}")));
    }
    let mut tensors = Vec::new();
    for (index, group) in state.groups.iter().enumerate() {
        let flats: Vec<&Flat> = parts.iter().map(|part| &part.flats[index]).collect();
        let paddings = part.paddings.get(index);
        if paddings.is_some_and(|paddings| paddings.len() != group.len()) {
            return Err(malformed("it has not one padding for each parameter of a group"));
        }
        let mut next = 0u64;
        for (place, (name, shape)) in group.iter().enumerate() {
            let n = n_elements(shape);
            let end = n.and_then(|n| next.checked_add(n));
            let end = end.ok_or_else(|| too_large(name, shape))?;
            tensors.push(parameter(name, shape, runs_of(&flats, next, end))?);
            let padding = paddings.map_or(0, |paddings| paddings[place]);
            next = end.checked_add(padding).ok_or_else(|| too_large(name, shape))?;
        }
        let total = flats.iter().try_fold(0u64, |sum, flat| sum.checked_add(flat.len));
        // The ends are rounded in two ways, by up to this many elements.
        let align = part.world.saturating_mul(2).max(1);
        if total.map(|total| total.div_ceil(align)) != Some(next.div_ceil(align)) {
            let total = total.unwrap_or(u64::MAX);
            return Err(malformed(&format!(
                "the parameters of group {index} take {next} elements, and the ranks have {total}"
            )));
        }
    }
    Ok(tensors)
}

/// The runs of vectors that follow each other from one element to another.
fn runs_of<'f>(flats: &[&'f Flat], start: u64, end: u64) -> Vec<Run<'f>> {
    let mut runs = Vec::new();
    let mut passed = 0u64;
    for &flat in flats {
        let (from, to) = (start.max(passed), end.min(passed.saturating_add(flat.len)));
        if from < to {
            runs.push(Run { flat, start: from - passed, len: to - from });
        }
        passed = passed.saturating_add(flat.len);
    }
    runs
}

/// Stage 3: a piece of each parameter on each rank, at the same place.
fn pieces_of_each(state: &ModelState, parts: &[OptimizerState]) -> Result<Vec<Tensor>> {
    let world = parts[0].world.max(1);
    let flats: Vec<Vec<&Flat>> = parts.iter().map(|part| part.flats.iter().collect()).collect();
    let mut tensors = Vec::new();
    let mut next = 0u64;
    for (name, shape) in state.groups.iter().flatten() {
        let n = n_elements(shape).ok_or_else(|| too_large(name, shape))?;
        let len = n.div_ceil(world);
        let end = next.checked_add(len).ok_or_else(|| too_large(name, shape))?;
        let runs = flats.iter().flat_map(|flats| runs_of(flats, next, end)).collect();
        tensors.push(parameter(name, shape, runs)?);
        next = end;
    }
    let total = flats[0].iter().try_fold(0u64, |sum, flat| sum.checked_add(flat.len));
    if total != Some(next) {
        let total = total.unwrap_or(u64::MAX);
        return Err(malformed(&format!(
            "the parameters take {next} elements of each rank, and the ranks have {total}"
        )));
    }
    Ok(tensors)
}

fn too_large(name: &str, shape: &[u64]) -> Error {
    malformed(&format!("{} of the shape {shape:?} has more than 2^64 elements", quote(name)))
}

/// A parameter whose elements are those of the runs; behind them there may be padding.
fn parameter(name: &str, shape: &[u64], runs: Vec<Run<'_>>) -> Result<Tensor> {
    let n = n_elements(shape).ok_or_else(|| too_large(name, shape))?;
    let mut dtype = None;
    let mut tiles = Vec::new();
    let mut passed = 0u64;
    for run in runs {
        if *dtype.get_or_insert(run.flat.dtype) != run.flat.dtype {
            return Err(malformed(&format!("{} has parts of different dtypes", quote(name))));
        }
        let len = run.len.min(n - passed);
        let boxes = boxes_of_run(shape, passed, len).unwrap_or_default();
        for (at, shape, offset) in boxes {
            // What a run has lies inside of its storage.
            let offset = run.flat.data.offset + run.start + offset;
            let data = View { offset, strides: row_major_strides(&shape), ..run.flat.data.clone() };
            tiles.push(Tile { at, shape, data, coding: None });
        }
        passed += len;
    }
    let dtype = dtype.unwrap_or(DType::F32);
    prove_cover(shape, &tiles).map_err(|_| {
        malformed(&format!("{} has {n} elements, and the ranks have {passed} of it", quote(name)))
    })?;
    Ok(Tensor {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        encoding: None,
        payload: Payload::Tiles(tiles),
    })
}
