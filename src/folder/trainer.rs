//! What trainers leave in a folder: files of ranks, folders of steps, and a config somewhere near.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::choose::{ending, is_weights};
use super::index::read_part;
use super::list::CONFIG_FILE;
use super::list::FolderFile;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Source;
use crate::checkpoint::Checkpoint;
use crate::format::consolidated::{self, PARAMS_FILE};
use crate::format::dcp::{self, METADATA_FILE};
use crate::format::ranks::{self, RankFile};
use crate::format::{
    self, FORMATS, Format, hf_storage, megatron, nemo, orbax, pytorch, safetensors, t5x, universal,
    zero,
};

/// Files whose text is the last step, or the folder of it.
const LATEST: &[&str] = &["latest", "latest_checkpointed_iteration.txt"];

/// The folder in which the config and the tokenizer lie beside files of ranks.
const CONFIG_FOLDER: &str = "huggingface/";

/// The starts of folders that have the state of optimizers.
const OPTIMIZER: &str = "optim";

/// The files of ranks that make one model.
pub(super) struct Run {
    /// The folder that they are in, empty or with a slash at the end.
    home: String,
    kind: Kind,
    findings: Vec<Diagnostic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A distributed checkpoint of PyTorch.
    Dcp,
    /// A file of distributed tensors for each rank.
    Ranks,
    /// Flat vectors of DeepSpeed ZeRO.
    Zero,
    /// A folder for each parameter, of DeepSpeed.
    Universal,
    /// Matrices split over the ranks of labs' own code, which are read as the format of this id.
    Consolidated(&'static str),
    /// Matrices, layers and experts split over the ranks of Megatron.
    Megatron,
    /// A folder for each tensor of Megatron, of zarr.
    Zarr,
    /// A tree of T5X, with a folder for each array.
    T5x,
    /// Safetensors of ranks, each with boxes of tensors.
    Shards,
}

impl Kind {
    /// What the files of one folder are.
    fn of(names: &[&str]) -> Option<Kind> {
        if names.contains(&METADATA_FILE) {
            return Some(Kind::Dcp);
        }
        if names.iter().any(|name| RankFile::parse(name).is_some()) {
            return Some(Kind::Ranks);
        }
        if universal::is_folder(names) {
            return Some(Kind::Universal);
        }
        if names.iter().any(|name| zero::is_file(name)) {
            return Some(Kind::Zero);
        }
        if megatron::is_folder(names) {
            return Some(Kind::Megatron);
        }
        if names.contains(&megatron::COMMON_FILE)
            && names.iter().any(|name| zarr_len(name) == Some(0))
        {
            return Some(Kind::Zarr);
        }
        if t5x::is_folder(names) {
            return Some(Kind::T5x);
        }
        if hf_storage::is_folder(names) {
            return Some(Kind::Shards);
        }
        consolidated::format_of(names).map(|format| Kind::Consolidated(format.id))
    }

    /// The format that it is read as.
    fn format(self) -> &'static Format {
        match self {
            Kind::Dcp => &dcp::FORMAT,
            Kind::Ranks | Kind::Zero | Kind::Universal => &pytorch::FORMAT,
            Kind::Consolidated(id) => format::find(id).unwrap_or(&consolidated::FORMAT),
            Kind::Megatron | Kind::Zarr => &megatron::FORMAT,
            Kind::Shards => &safetensors::FORMAT,
            Kind::T5x => &t5x::FORMAT,
        }
    }
}

/// Finds what a trainer left: in the folder itself, or in folders of steps below it. `step` names the
/// one that is wanted.
///
/// # Errors
/// There are several that could be meant, or not the one that is wanted.
pub(super) fn find(
    source: &Source,
    folder: &Path,
    files: &[FolderFile],
    wanted: Option<&'static Format>,
    step: Option<&str>,
) -> Result<Option<Run>> {
    let mut by_folder: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files {
        let own = || file.name.rfind('/').map_or(0, |slash| slash + 1);
        let cut = home_len(&file.name).unwrap_or_else(own);
        by_folder.entry(&file.name[..cut]).or_default().push(&file.name[cut..]);
    }
    let is_optimizer = |home: &str| home.split('/').any(|part| part.starts_with(OPTIMIZER));
    let found = by_folder.iter().filter_map(|(home, names)| Some((*home, Kind::of(names)?)));
    let mut found: Vec<(&str, Kind)> = found
        .filter(|(home, kind)| {
            !is_optimizer(home) && wanted.is_none_or(|wanted| wanted.id == kind.format().id)
        })
        .collect();
    let own = by_folder.get("").into_iter().flatten();
    // A model that libraries saved whole is taken before the parts of the same.
    let is_whole = |name: &str| {
        let mut singles = FORMATS.iter().flat_map(|format| format.singles);
        singles.any(|single| *single == name && *single != METADATA_FILE)
            || name.ends_with(".index.json")
    };
    let has_whole = wanted.is_none() && own.clone().any(|name| is_whole(name));
    if let Some((home, kind)) = found.iter().find(|(home, _)| home.is_empty())
        && step.is_none()
        && !has_whole
    {
        let run = Run { home: (*home).to_owned(), kind: *kind, findings: Vec::new() };
        return Ok(Some(run));
    }
    if found.is_empty() || (step.is_none() && own.clone().any(|name| is_weights(name))) {
        return match step {
            Some(step) => Err(no_step(folder, step, &[])),
            None => Ok(None),
        };
    }
    let homes: Vec<&str> = found.iter().map(|(home, _)| *home).collect();
    let mut findings = Vec::new();
    if let Some(step) = step {
        found.retain(|(home, _)| is_of_step(home, step));
        if found.is_empty() {
            return Err(no_step(folder, step, &homes));
        }
    } else {
        let (latest, why) = match latest(source, own)? {
            Some((file, latest)) => (Some(latest), format!("as `{file}` says")),
            // Of runs that lie side by side none is the last.
            None if found.len() < 2 || !of_one_run(&homes) => (None, String::new()),
            None => (
                homes.iter().filter_map(|home| number(home)).max().map(|n| n.to_string()),
                "the last one".to_owned(),
            ),
        };
        if let Some(latest) = latest {
            found.retain(|(home, _)| is_of_step(home, &latest));
            if found.is_empty() {
                let message = format!("there is no folder of the step {latest}, {why}");
                return Err(malformed(folder, message));
            }
            let others = homes.iter().filter(|home| found.iter().all(|(of, _)| of != *home));
            let others: Vec<String> = others.map(|home| shown(home)).collect();
            if !others.is_empty() {
                let message = format!(
                    "of several steps `{}` is taken, {why}; not {}",
                    shown(found[0].0),
                    others.join(", ")
                );
                findings.push(
                    Diagnostic::note("R018", message)
                        .help("--step takes another, or name its folder"),
                );
            }
        }
    }
    match found.as_slice() {
        [(home, kind)] => Ok(Some(Run { home: (*home).to_owned(), kind: *kind, findings })),
        several => {
            let names: Vec<String> = several.iter().map(|(home, _)| shown(home)).collect();
            let message = format!(
                "has the checkpoints of several models: {}; name the folder of one",
                names.join(", ")
            );
            Err(Error::unsupported(message).in_file(folder))
        }
    }
}

/// The length of the folder of a checkpoint whose files lie in folders below it, if a path is one.
fn home_len(path: &str) -> Option<usize> {
    megatron::home_len(path).or_else(|| universal::home_len(path)).or_else(|| zarr_len(path))
}

/// The description of an array of zarr, below the folder of its name.
const ARRAY_FILE: &str = "/.zarray";

/// The length of the folder that arrays of zarr lie in, if a path is the description of one.
fn zarr_len(path: &str) -> Option<usize> {
    let array = path.strip_suffix(ARRAY_FILE)?;
    Some(array.rfind('/').map_or(0, |slash| slash + 1))
}

/// A folder without the slash at its end.
fn shown(home: &str) -> String {
    home.trim_end_matches('/').to_owned()
}

fn malformed(folder: &Path, message: String) -> Error {
    Error::new(ErrorKind::Malformed, message).in_file(folder)
}

fn no_step(folder: &Path, step: &str, homes: &[&str]) -> Error {
    let there = match homes {
        [] => "no checkpoints of a trainer".to_owned(),
        homes => homes.iter().map(|home| shown(home)).collect::<Vec<_>>().join(", "),
    };
    malformed(folder, format!("has no step {step:?}; it has {there}"))
}

/// The step that a file of the folder says is the last, and that file.
fn latest<'n>(
    source: &Source,
    mut names: impl Iterator<Item = &'n &'n str>,
) -> Result<Option<(&'n str, String)>> {
    let Some(name) = names.find(|name| LATEST.contains(name)) else { return Ok(None) };
    let mut source = source.again();
    let id = source.add(name)?;
    let text = std::str::from_utf8(source.bytes(id)).unwrap_or_default().trim();
    Ok((!text.is_empty() && text.len() < 256).then(|| (*name, text.to_owned())))
}

/// The number that a folder is counted by: `global_step10`, `checkpoint-200`, `iter_0000300`.
fn number(home: &str) -> Option<u64> {
    home.split('/').rev().find_map(number_of)
}

fn number_of(part: &str) -> Option<u64> {
    const WORDS: &[&str] = &["step", "checkpoint", "iter", "epoch", "ckpt"];
    let digits = part.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (word, number) = part.split_at(part.len() - digits);
    let word = word.trim_end_matches(['-', '_', '=']);
    let is_step = word.is_empty() || WORDS.iter().any(|end| word.ends_with(end));
    number.parse().ok().filter(|_| is_step)
}

/// Whether folders differ in their steps alone.
fn of_one_run(homes: &[&str]) -> bool {
    let run = |home: &str| {
        let parts = home.split('/').map(|part| match number_of(part) {
            Some(_) => part.trim_end_matches(|c: char| c.is_ascii_digit()),
            None => part,
        });
        parts.collect::<Vec<_>>().join("/")
    };
    homes.windows(2).all(|pair| run(pair[0]) == run(pair[1]))
}

/// Whether a folder is of a step, which is named as its folder is or by its number.
fn is_of_step(home: &str, step: &str) -> bool {
    let step = step.trim_matches('/');
    let wanted = step.parse::<u64>().ok();
    let is_below = home.strip_prefix(step).is_some_and(|rest| rest.starts_with('/'));
    is_below || (wanted.is_some() && number(home) == wanted)
}

impl Run {
    /// Looks the config up near the files of ranks: beside them, in a folder that trainers put it in,
    /// or above. The files of its folder are then read as those of the whole.
    pub(super) fn lay_out(
        &mut self,
        source: &mut Source,
        files: Vec<FolderFile>,
    ) -> Vec<FolderFile> {
        let has = |home: &str| {
            let names = [CONFIG_FILE, PARAMS_FILE].map(|name| format!("{home}{name}"));
            files.iter().any(|file| names.contains(&file.name))
        };
        let mut above = self.home.as_str();
        let found = loop {
            let near = [above.to_owned(), format!("{above}{CONFIG_FOLDER}")];
            if let Some(found) = near.into_iter().find(|home| has(home)) {
                break Some(found);
            }
            let Some(rest) = above.strip_suffix('/') else { break None };
            above = &rest[..rest.rfind('/').map_or(0, |slash| slash + 1)];
        };
        let Some(config) = found.filter(|config| !config.is_empty()) else { return files };
        source.lay_out(config.as_ref(), BTreeMap::new());
        let message = format!("config and tokenizer are those of `{}`", shown(&config));
        self.findings.push(Diagnostic::note("R019", message));
        let (own, others): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| file.name.starts_with(&config));
        let own = own.into_iter().map(|file| (file.name[config.len()..].to_owned(), file.len));
        let others = others.into_iter().map(|file| (file.name, file.len));
        let laid: BTreeMap<String, u64> = others.chain(own).collect();
        if let Some(rest) = self.home.strip_prefix(&config) {
            self.home = rest.to_owned();
        }
        laid.into_iter().map(|(name, len)| FolderFile { name, len }).collect()
    }

    /// Reads the files of ranks as one checkpoint; gives their names, too.
    ///
    /// # Errors
    /// One is missing, damaged or of another run.
    pub(super) fn read(
        self,
        source: &mut Source,
        files: &[FolderFile],
    ) -> Result<(Checkpoint, Vec<String>)> {
        let names = files.iter().filter_map(|file| file.name.strip_prefix(&self.home));
        let is_own = |name: &&str| !name.contains('/') || home_len(name) == Some(0);
        let names: Vec<&str> = names.filter(is_own).collect();
        let (mut checkpoint, weights) = match self.kind {
            Kind::Dcp => {
                let name = format!("{}{METADATA_FILE}", self.home);
                let (name, checkpoint) = read_part(source, &name, Some(&dcp::FORMAT))?;
                (checkpoint, vec![name])
            }
            Kind::T5x => {
                let name = format!("{}{}", self.home, t5x::TREE_FILE);
                let (name, checkpoint) = read_part(source, &name, Some(&t5x::FORMAT))?;
                (checkpoint, vec![name])
            }
            Kind::Ranks => ranks::read(source, &self.home, &names)?,
            Kind::Zero => zero::read(source, &self.home, &names)?,
            Kind::Consolidated(_) => consolidated::read(source, &self.home, &names)?,
            Kind::Megatron => megatron::read(source, &self.home, &names)?,
            Kind::Universal => universal::read(source, &self.home, &names)?,
            Kind::Shards => hf_storage::read(source, &self.home, &names)?,
            Kind::Zarr => {
                let arrays = names.iter().filter_map(|name| name.strip_suffix(ARRAY_FILE));
                let arrays = arrays.map(str::to_owned);
                let tensors = orbax::arrays_of(source, &self.home, arrays)?;
                let format = megatron::FORMAT.id;
                (Checkpoint { format, tensors, ..Checkpoint::default() }, Vec::new())
            }
        };
        let is_distributed = matches!(self.kind, Kind::Dcp | Kind::Zarr);
        if is_distributed && megatron::is_named_so(&checkpoint.tensors) {
            let place = source.place(&self.home);
            megatron::unstack(&mut checkpoint).map_err(|err| err.in_file(&place))?;
            let is_dcp = self.kind == Kind::Dcp;
            megatron::read_common(source, &self.home, is_dcp, &mut checkpoint)?;
            checkpoint.format = megatron::FORMAT.id;
        }
        if checkpoint.format == megatron::FORMAT.id {
            nemo::configure(source, &self.home, &mut checkpoint)?;
        }
        // Trainers that have the names of Meta's code have its order of rows, too.
        if consolidated::is_named_so(&checkpoint.tensors) {
            checkpoint.format = consolidated::FORMAT.id;
        }
        if let Some(step) =
            number(&self.home).or_else(|| number_of(&source.root().file_name()?.to_string_lossy()))
        {
            checkpoint.metadata.entry("trainer.step".to_owned()).or_insert(step.to_string());
        }
        checkpoint.findings.splice(0..0, self.findings);
        Ok((checkpoint, weights))
    }
}

/// The files of a folder that were given the place of a foreign config: not its weights.
pub(super) fn beside_config(files: Vec<FolderFile>) -> Vec<FolderFile> {
    let known: BTreeSet<String> =
        files.iter().filter(|file| !is_weights(&file.name)).map(|file| file.name.clone()).collect();
    let keep = |file: &FolderFile| {
        known.contains(&file.name)
            && !(ending(&file.name) == "json" && file.name.contains(".index."))
    };
    files.into_iter().filter(keep).collect()
}
