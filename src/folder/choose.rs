//! Which files of a folder are the weights.

use std::collections::BTreeSet;
use std::path::Path;

use super::list::FolderFile;
use crate::base::error::{Error, ErrorKind, Result};
use crate::format::{self, FORMATS, Format, known};
use crate::package;

/// Files that have the endings of weights and are none: of trainers, and of packages.
const NOT_WEIGHTS: &[&str] = &[
    package::METADATA_FILE,
    "training_args.bin",
    "optimizer.bin",
    "optimizer.pt",
    "scheduler.pt",
    "scheduler.bin",
    "scaler.pt",
    "rng_state.pth",
    "random_states_0.pkl",
];

/// The starts of names of files that trainers write for each rank beside the weights.
const NOT_WEIGHTS_STARTS: &[&str] = &["rng_state_", "random_states_"];

/// Whether a file of the folder itself can be weights, by its name.
pub(super) fn is_weights(name: &str) -> bool {
    !name.contains('/')
        && format::of_ending(ending(name)).is_some()
        && !NOT_WEIGHTS.contains(&name)
        && !NOT_WEIGHTS_STARTS.iter().any(|start| name.starts_with(start))
}

pub(super) enum Choice {
    Index(String),
    Files(Vec<String>),
}

/// The weights of a folder: by index, by the usual name, by a scheme of shard names, or the only
/// file that can be meant; safetensors first.
pub(super) fn choose(
    folder: &Path,
    files: &[FolderFile],
    wanted: Option<&'static Format>,
) -> Result<Choice> {
    let top: Vec<&str> =
        files.iter().map(|file| file.name.as_str()).filter(|name| !name.contains('/')).collect();
    let formats = || FORMATS.iter().filter(|format| wanted.is_none_or(|of| of.id == format.id));
    let ends = formats().flat_map(|format| format.endings.iter().map(move |end| (format, *end)));
    for (format, end) in ends {
        // transformers takes the single file before an index; so does everyone who tests with it.
        let has = |name: &str| files.iter().any(|file| file.name == name);
        let is_of = |name: &str| ending(name) == end || !name.contains('.');
        let single = format.singles.iter().find(|name| is_of(name) && has(name));
        if let Some(single) = single {
            return Ok(Choice::Files(vec![(*single).to_string()]));
        }
        // The index that ends alike: `model.safetensors.index.json`, and with a variant
        // `model.safetensors.index.fp16.json`.
        let indexes: Vec<&&str> = top
            .iter()
            .filter(|name| name.contains(&format!(".{end}.index.")) && name.ends_with(".json"))
            .collect();
        let plain = indexes.iter().find(|name| name.ends_with(&format!(".{end}.index.json")));
        if let Some(index) = plain.or(indexes.first()) {
            return Ok(Choice::Index((**index).to_string()));
        }
        let candidates: Vec<&str> =
            top.iter().copied().filter(|name| ending(name) == end && is_weights(name)).collect();
        let shards: Vec<Shard<'_>> = candidates.iter().filter_map(|name| shard(name)).collect();
        if let Some(first) = shards.first() {
            let kin: Vec<&Shard<'_>> =
                shards.iter().filter(|shard| shard.series == first.series).collect();
            if kin.len() < shards.len() {
                let message = format!(
                    "two series of shards: `{}` and `{}`",
                    first.name,
                    shards.iter().find(|shard| shard.series != first.series).map_or("", |s| s.name)
                );
                return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
            }
            let numbers: BTreeSet<u64> = kin.iter().map(|shard| shard.number).collect();
            if let Some(missing) = (1..=first.count).find(|number| !numbers.contains(number)) {
                let message = format!(
                    "shard {missing} of {} is missing beside `{}`",
                    first.count, first.name
                );
                return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
            }
            if numbers.len() as u64 != first.count || kin.len() != numbers.len() {
                let message = format!("{} files are shards of {}", kin.len(), first.count);
                return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
            }
            let mut kin = kin;
            kin.sort_by_key(|shard| shard.number);
            return Ok(Choice::Files(kin.iter().map(|shard| shard.name.to_owned()).collect()));
        }
        match candidates.as_slice() {
            [] => {}
            [name] => return Ok(Choice::Files(vec![(*name).to_owned()])),
            several => {
                let message = format!(
                    "several files could be the weights: {}; name one of them instead of the folder",
                    several.join(", ")
                );
                return Err(Error::unsupported(message).in_file(folder));
            }
        }
    }
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let found = names.iter().find_map(|name| Some((name, known::of_name(name)?)));
    if let Some((name, kind)) = found {
        let message = format!("has no weights that are read here; `{name}` {kind}");
        return Err(Error::unsupported(message).in_file(folder));
    }
    let is_single = |name: &str| formats().any(|format| format.singles.contains(&name));
    let below = names.iter().filter_map(|name| name.rsplit_once('/'));
    if let Some((below, _)) = below.clone().find(|(_, name)| is_single(name)) {
        let message =
            format!("has no weights itself; there are some in `{below}`: name that folder");
        return Err(Error::unsupported(message).in_file(folder));
    }
    let mut ends: Vec<String> = Vec::new();
    for end in formats().flat_map(|format| format.endings).map(|end| format!(".{end}")) {
        // Two formats may have one ending.
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    let Some((last, rest)) = ends.split_last() else {
        let name = wanted.map_or("", |wanted| wanted.name);
        return Err(Error::unsupported(format!("has no checkpoint of {name}")).in_file(folder));
    };
    let listed = match rest {
        [] => last.clone(),
        rest => format!("{} or {last}", rest.join(", ")),
    };
    let message = format!("has no weights: no {listed} file, and no shard index");
    Err(Error::unsupported(message).in_file(folder))
}

/// What stands behind the last dot of a name.
pub(super) fn ending(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, end)| end)
}

/// One file of a series, `model-00001-of-00014.safetensors` or
/// `model.safetensors-00001-of-00014.safetensors`.
struct Shard<'a> {
    name: &'a str,
    series: (&'a str, &'a str, u64),
    number: u64,
    count: u64,
}

fn shard(name: &str) -> Option<Shard<'_>> {
    let (before, after) = name.split_once("-of-")?;
    let digits = before.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (stem, number) = before.split_at(before.len() - digits);
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    let (count, rest) = after.split_at(end);
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    Some(Shard { name, series: (stem, rest, count), number, count })
}

/// The number of a file in its series, counted from 1, and how many the series has.
pub fn shard_number(name: &str) -> Option<(u64, u64)> {
    shard(name).map(|shard| (shard.number, shard.count))
}

/// Refuses a file that is named like the shards of an index, and is none of them.
pub(super) fn check_no_extra_shard(
    folder: &Path,
    files: &[FolderFile],
    weights: &[String],
) -> Result<()> {
    let known: BTreeSet<&str> = weights.iter().map(String::as_str).collect();
    let series: BTreeSet<_> = weights
        .iter()
        .filter_map(|name| shard(name))
        .map(|shard| (shard.series.0, shard.series.1))
        .collect();
    for file in files {
        let Some(shard) = shard(&file.name) else { continue };
        if series.contains(&(shard.series.0, shard.series.1)) && !known.contains(shard.name) {
            let message = format!("the shard `{}` is not in the index", file.name);
            return Err(Error::new(ErrorKind::Malformed, message).in_file(folder));
        }
    }
    Ok(())
}
