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

mod merge;
mod state;

use std::collections::BTreeSet;

use self::merge::merged;
use self::state::{ModelState, OptimizerState};
use super::pytorch::names::strip_prefixes;
use super::pytorch::{self, quote};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{FileId, Source};
use crate::checkpoint::Checkpoint;

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
