//! Checkpoints of Megatron-LM: a file for each rank, whose matrices, layers and experts lie on several.
//!
//! ```text
//! latest_checkpointed_iteration.txt
//! iter_0000005/mp_rank_01_002/model_optim_rng.pt      tensor rank 1, stage 2 of the pipeline
//! iter_0000005/mp_rank_01_002_003/model_optim_rng.pt  and expert rank 3
//! ```
//!
//! A file has `model`, or with several chunks of layers on a rank `model0`, `model1` …, in which layers
//! and experts are counted from 0 on each rank; and `args`, how the run was started. `torch_dist`, the
//! other layout, is a distributed checkpoint of PyTorch in which the tensors of all layers are one;
//! `fsdp_dtensor`, a third, is one in which each layer has its own, and `linear_fc1.weight_w` and `_v` are the
//! halves of the first map of a gated MLP.
//!
//! Spec: NVIDIA/Megatron-LM `megatron/training/checkpointing.py`, `megatron/core/transformer` of
//! Megatron-Core 0.16.

mod args;
mod halves;
mod merge;
mod stacked;

use std::collections::BTreeMap;

use self::args::{ARGS, Args};
use self::merge::{Part, merged};
use super::pickle::Pickle;
use super::pytorch::{object, quote};
use super::{Format, dcp};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::{Checkpoint, Tensor};

pub use self::merge::{Share, share_of};
pub use self::stacked::{is_named_so, unstack};

/// The format for the registry. No file is told to be of it by itself: its folder is.
pub static FORMAT: Format =
    Format { id: "megatron", name: "Megatron", dialect: "megatron", ..Format::DEFAULT };

/// The names of the file of a rank, the one of today first.
pub const FILES: [&str; 3] = ["model_optim_rng.pt", "model_rng.pt", WEIGHTS_FILE];

/// The file of a rank that NeMo writes: the tensors and no more. It is alone where there is one rank.
pub const WEIGHTS_FILE: &str = "model_weights.ckpt";

/// What `torch_dist` has beside the tensors.
pub const COMMON_FILE: &str = "common.pt";

/// More ranks, stages or chunks than this are no run.
const MAX_RANKS: u64 = 65_536;

/// The length of the folder that the folders of ranks lie in, if a path is the file of a rank.
pub fn home_len(path: &str) -> Option<usize> {
    let (folder, file) = path.rsplit_once('/')?;
    let start = folder.rfind('/').map_or(0, |slash| slash + 1);
    (FILES.contains(&file) && numbers(&folder[start..]).is_some()).then_some(start)
}

/// Whether the files of a folder, by their paths in it, are of this layout.
pub fn is_folder(names: &[&str]) -> bool {
    names.iter().any(|name| is_rank(name))
}

fn is_rank(name: &str) -> bool {
    home_len(name) == Some(0) || name == WEIGHTS_FILE
}

/// The numbers of `mp_rank_00_001_002`, or of `tp_rank_00_pp_rank_001`.
fn numbers(folder: &str) -> Option<Vec<u64>> {
    let stages = folder.strip_prefix("tp_rank_").and_then(|rest| rest.split_once("_pp_rank_"));
    if let Some((tensor, stage)) = stages {
        return Some(vec![tensor.parse().ok()?, stage.parse().ok()?]);
    }
    let numbers = folder.strip_prefix("mp_rank_")?.split('_').map(str::parse);
    let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().ok()?;
    (1..=3).contains(&numbers.len()).then_some(numbers)
}

/// The folder of a rank.
pub fn folder_of(tensor: u64, stage: Option<u64>, expert: Option<u64>) -> String {
    let more = stage.into_iter().chain(expert).map(|number| format!("_{number:03}"));
    format!("mp_rank_{tensor:02}{}", more.collect::<String>())
}

/// What a rank's file holds.
struct Rank {
    file: FileId,
    tensor: u64,
    stage: u64,
    expert: u64,
    args: Args,
    iteration: Option<i64>,
    /// The tensors of each chunk of layers.
    chunks: Vec<Vec<Tensor>>,
}

/// Reads the files of all ranks below a folder, and gives their names.
///
/// # Errors
/// A rank is missing, damaged or of another run.
pub fn read(
    source: &mut Source,
    folder: &str,
    names: &[&str],
) -> Result<(Checkpoint, Vec<String>)> {
    let files: Vec<&str> = names.iter().copied().filter(|name| is_rank(name)).collect();
    let (mut ranks, mut weights) = (Vec::new(), Vec::new());
    for name in &files {
        let full = format!("{folder}{name}");
        let file = source.add(&full)?;
        let mut rank = read_rank(source, file)?;
        let of = name.split('/').next().and_then(numbers).unwrap_or_default();
        rank.tensor = of.first().copied().unwrap_or(0);
        (rank.stage, rank.expert) = match of[..] {
            [_, stage, expert] => (stage, expert),
            // The second number is the stage, or where there are no stages the rank of the experts.
            [_, expert] if rank.args.stages() == 1 && 1 < rank.args.experts() => (0, expert),
            [_, stage] => (stage, 0),
            _ => (0, 0),
        };
        weights.push(full);
        ranks.push(rank);
    }
    let sizes = check_ranks(source, folder, &ranks, &files)?;
    let mut checkpoint = Checkpoint { format: FORMAT.id, ..Checkpoint::default() };
    let Some(first) = ranks.first() else { return Ok((checkpoint, weights)) };
    let said = &mut checkpoint.metadata;
    said.insert("trainer".to_owned(), "Megatron".to_owned());
    said.insert("trainer.ranks".to_owned(), ranks.len().to_string());
    for (key, n) in [("tensor", sizes.0), ("pipeline", sizes.1), ("expert", sizes.2)] {
        if n != 1 {
            said.insert(format!("trainer.{key}-parallel"), n.to_string());
        }
    }
    if let Some(step) = first.iteration {
        said.insert("trainer.step".to_owned(), step.to_string());
    }
    first.args.keep(said);
    checkpoint.tensors = stages(source, &ranks, sizes)?;
    Ok((checkpoint, weights))
}

/// What a distributed checkpoint says beside its tensors: how the run was started.
///
/// # Errors
/// The file is broken.
pub fn read_common(
    source: &mut Source,
    folder: &str,
    is_dcp: bool,
    checkpoint: &mut Checkpoint,
) -> Result<()> {
    let name = format!("{folder}{COMMON_FILE}");
    let said = &mut checkpoint.metadata;
    let mut layout = "torch_dist";
    if source.has(&name) {
        let file = source.add(&name)?;
        let rank = read_rank(source, file)?;
        if let Some(step) = rank.iteration {
            said.insert("trainer.step".to_owned(), step.to_string());
        }
        rank.args.keep(said);
    } else if is_dcp && let Some(args) = dcp::value(source, folder, ARGS)? {
        layout = "fsdp_dtensor";
        object::read(source, args, |of| Ok(Args::read(of.pickle, Some(of.pickle.root()))))?
            .keep(said);
    }
    said.insert("trainer".to_owned(), format!("Megatron ({layout})"));
    Ok(())
}

fn read_rank(source: &Source, file: FileId) -> Result<Rank> {
    object::read(source, source.extent(file), |of| {
        let (pickle, root) = (of.pickle, of.pickle.root());
        let int = |name: &str| pickle.value(root, name).and_then(|id| pickle.int(id));
        let mut chunks = Vec::new();
        let is_bare = source.name(file).rsplit('/').next() == Some(WEIGHTS_FILE);
        let bare = is_bare.then_some(root);
        let several = (0..).map_while(|n: u32| pickle.value(root, &format!("model{n}")));
        let model = pickle.value(root, "model").or(bare);
        for model in model.into_iter().chain(several) {
            let items = pickle.items(model).unwrap_or_default();
            let mut tensors = Vec::with_capacity(items.len());
            for (key, value) in items {
                let Some(name) = pickle.text(key) else { continue };
                let name = name.strip_prefix("model.").filter(|_| is_bare).unwrap_or(name);
                if let Some(tensor) = of.tensor(value) {
                    tensors.push(Tensor { name: merge::usual(name).into(), ..tensor });
                } else if pickle.items(value).is_some() {
                    return Err(Error::unsupported(format!(
                        "{} of the model is a state dict of its own, as Megatron wrote before \
                         Megatron-Core; convert it with Megatron's tools first",
                        quote(name)
                    )));
                }
            }
            chunks.push(tensors);
        }
        Ok(Rank {
            file,
            tensor: 0,
            stage: 0,
            expert: 0,
            args: Args::read(pickle, pickle.value(root, "args")),
            iteration: int("iteration"),
            chunks,
        })
    })
}

/// Checks that there is one file of each rank, all of one run, and gives how many tensor ranks, stages
/// and expert ranks there are.
fn check_ranks(
    source: &Source,
    folder: &str,
    ranks: &[Rank],
    names: &[&str],
) -> Result<(u64, u64, u64)> {
    let about = |message: String| {
        Err(Error::new(ErrorKind::Malformed, message).in_file(&source.place(folder)))
    };
    let Some(first) = ranks.first() else { return Ok((1, 1, 1)) };
    let most = |of: &dyn Fn(&Rank) -> u64, said: Option<u64>| {
        ranks.iter().map(of).max().unwrap_or(0).saturating_add(1).max(said.unwrap_or(1))
    };
    let sizes = (
        most(&|rank| rank.tensor, first.args.number("tensor_model_parallel_size")),
        most(&|rank| rank.stage, Some(first.args.stages())),
        most(&|rank| rank.expert, Some(first.args.experts())),
    );
    let of_experts = first.args.number("expert_tensor_parallel_size").unwrap_or(sizes.0);
    if 1 < first.args.number("num_experts").unwrap_or(1) && of_experts != sizes.0 {
        let message = format!(
            "cuts experts over {of_experts} tensor ranks and all else over {}, which is not read; save \
             it as torch_dist",
            sizes.0
        );
        return Err(Error::unsupported(message).in_file(&source.place(folder)));
    }
    if MAX_RANKS < sizes.0.saturating_mul(sizes.1).saturating_mul(sizes.2) {
        return about(format!("says that there are {sizes:?} ranks; up to {MAX_RANKS} are read"));
    }
    let (mut by_place, mut n_chunks) = (BTreeMap::new(), first.chunks.len());
    for (rank, name) in ranks.iter().zip(names) {
        let wrong = |message: String| {
            Err(Error::new(ErrorKind::Malformed, message).in_file(source.path(rank.file)))
        };
        if let Some(other) = by_place.insert((rank.tensor, rank.stage, rank.expert), name) {
            return wrong(format!("is of the rank that `{other}` is of, too"));
        }
        n_chunks = n_chunks.max(rank.chunks.len());
        if let Some(what) = rank.args.differs(&first.args) {
            return wrong(format!("is of another run than `{}`: {what}", source.name(first.file)));
        }
        if rank.iteration != first.iteration {
            let of = |step: Option<i64>| step.map_or("none".to_owned(), |step| step.to_string());
            let (step, other) = (of(rank.iteration), of(first.iteration));
            let name = source.name(first.file);
            return wrong(format!("is of the step {step}, and `{name}` of {other}"));
        }
    }
    for tensor in 0..sizes.0 {
        for stage in 0..sizes.1 {
            for expert in 0..sizes.2 {
                if !by_place.contains_key(&(tensor, stage, expert)) {
                    let part = |n: u64, many: u64| (1 < many).then_some(n);
                    let name = folder_of(tensor, part(stage, sizes.1), part(expert, sizes.2));
                    return about(format!(
                        "has {} of the files of {} ranks: `{name}/{}` is missing",
                        ranks.len(),
                        sizes.0 * sizes.1 * sizes.2,
                        FILES[0]
                    ));
                }
            }
        }
    }
    match ranks.iter().find(|rank| rank.chunks.len() != n_chunks) {
        Some(rank) => Err(Error::new(
            ErrorKind::Malformed,
            format!("has {} chunks of layers, others have {n_chunks}", rank.chunks.len()),
        )
        .in_file(source.path(rank.file))),
        None if n_chunks == 0 => about(format!("`{}` has no `model`", names[0])),
        None => Ok(sizes),
    }
}

/// The tensors of all stages, with the layers counted through: first the first chunks of all stages,
/// then their second ones.
fn stages(
    source: &Source,
    ranks: &[Rank],
    (n_tensor, n_stages, n_expert): (u64, u64, u64),
) -> Result<Vec<Tensor>> {
    let by_place: BTreeMap<(u64, u64, u64), &Rank> =
        ranks.iter().map(|rank| ((rank.stage, rank.expert, rank.tensor), rank)).collect();
    let n_chunks = ranks.first().map_or(0, |rank| rank.chunks.len());
    let (mut tensors, mut n_layers) = (Vec::<Tensor>::new(), 0u64);
    let mut known: BTreeMap<String, FileId> = BTreeMap::new();
    for chunk in 0..n_chunks {
        for stage in 0..n_stages {
            let part = |expert: u64| -> Vec<Part<'_>> {
                let of = (0..n_tensor).filter_map(|tensor| by_place.get(&(stage, expert, tensor)));
                of.map(|rank| Part { file: rank.file, tensors: &rank.chunks[chunk] }).collect()
            };
            let experts: Vec<Vec<Part<'_>>> = (0..n_expert).map(part).collect();
            let n_before = n_layers;
            for tensor in merged(source, &experts)? {
                let (name, layer) = merge::shifted(&tensor.name, n_before).map_err(|message| {
                    Error::new(ErrorKind::Malformed, message)
                        .in_file(source.path(experts[0][0].file))
                })?;
                n_layers = n_layers.max(layer.map_or(0, |layer| layer + 1));
                let file = experts[0][0].file;
                if let Some(other) = known.insert(name.clone(), file) {
                    let message = format!("{} is in `{}`, too", quote(&name), source.name(other));
                    return Err(
                        Error::new(ErrorKind::Malformed, message).in_file(source.path(file))
                    );
                }
                tensors.push(Tensor { name: name.into(), ..tensor });
            }
        }
    }
    Ok(tensors)
}

/// What is recorded of a pickle, for the parts of this reader.
type Recorded<'a, 'b> = &'a Pickle<'b>;
