//! Names as files have them that were saved from inside a wrapper, or by a program with words of its
//! own, and the names that the rules of a mapping read them by.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::{keys, names};
use crate::base::diagnostic::Diagnostic;
use crate::base::limits::Backing;
use crate::checkpoint::Checkpoint;
use crate::format::wrappers::{MODULE, PARTS, without_parts};
use crate::spec::Spec;
use crate::spec::map::{Alias, Map};
use crate::spec::names::StackNames;

/// Stored tensors that are read by another name.
#[derive(Debug)]
pub struct Aliases {
    /// The name of the file, and the one that the mapping reads.
    pub names: BTreeMap<String, String>,
    /// What was done to the names, for people.
    pub note: Diagnostic,
    /// Whether the mapping then knows every tensor.
    pub is_whole: bool,
}

/// How many prefixes are tried.
const MAX_PREFIXES: usize = 8;

/// How many names of each kind a finding shows.
const MAX_SHOWN: usize = 3;

/// What is done to a name, in this order.
#[derive(Clone, Default)]
struct Change<'m> {
    parts: &'static [&'static str],
    prefix: String,
    aliases: Vec<(&'m str, &'m str)>,
}

/// [`PARTS`] and [`MODULE`].
const ALL_PARTS: &[&str] = &[PARTS[0], PARTS[1], PARTS[2], MODULE];

impl Change<'_> {
    fn unwrapped<'n>(&self, name: &'n str) -> std::borrow::Cow<'n, str> {
        match self.parts.is_empty() {
            true => name.into(),
            false => without_parts(name, self.parts).into(),
        }
    }

    /// The name without wrappers.
    fn bare(&self, name: &str) -> String {
        let name = self.unwrapped(name);
        name.strip_prefix(self.prefix.as_str()).unwrap_or(&name).to_owned()
    }

    /// The name with the mapping's words.
    fn spelled(&self, name: &str) -> String {
        let mut name = name.to_owned();
        for (theirs, ours) in &self.aliases {
            name = name.replacen(theirs, ours, 1);
        }
        name
    }
}

/// Finds what has to be taken off the names of a checkpoint, and which words replaced, for a mapping
/// to know them; `None` where that is nothing, or helps nothing.
///
/// # Errors
/// Two models lie in the file, each under a prefix of its own.
pub fn find(
    spec: &Spec,
    map: &Map,
    checkpoint: &Checkpoint,
    config: &Json,
) -> Result<Option<Aliases>, Diagnostic> {
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let Ok(keys) = keys::read(spec, map, arch, config) else { return Ok(None) };
    let stack = arch.stacks.first().map(String::as_str);
    let whole = spec.complete_hparams(&keys.hparams);
    let names = StackNames { hparams: &whole, tokens: Some(&keys.tokens), stack, layer: None };
    let present: BTreeSet<&str> =
        checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let n_before = names::n_known(map, &present, &names, names::backing(checkpoint));
    if n_before == present.len() {
        return Ok(None);
    }
    let known = names::known_under_any_prefix(map, &present, &names, names::backing(checkpoint));
    let count = |change: &Change<'_>| {
        let bare: BTreeSet<String> = present.iter().map(|name| change.bare(name)).collect();
        if bare.len() < present.len() || bare.contains("") {
            return 0; // Two names would become one.
        }
        let is_known = |name: &&String| {
            known.contains(name.as_str()) || known.contains(change.spelled(name).as_str())
        };
        bare.iter().filter(is_known).count()
    };
    let plain = Change { aliases: words(map), ..Change::default() };
    let mut best = (count(&plain), plain.clone());
    let scored = |parts: &'static [&'static str], prefix: String| {
        let change = Change { parts, prefix, ..plain.clone() };
        (count(&change), change)
    };
    let wrapped = |parts: &[&str]| {
        present.iter().any(|name| name.split_inclusive('.').any(|of| parts.contains(&of)))
    };
    for parts in [PARTS, ALL_PARTS] {
        let tried = scored(parts, String::new());
        if wrapped(parts) && best.0 < tried.0 {
            best = tried;
        }
    }
    let unprefixed = best.clone();
    let mut rivals: Vec<(usize, String)> = Vec::new();
    for parts in [&[], PARTS, ALL_PARTS] {
        if !parts.is_empty() && !wrapped(parts) {
            continue;
        }
        let base = Change { parts, ..plain.clone() };
        for prefix in prefixes(&base, &present, &known) {
            let (n, change) = scored(parts, prefix.clone());
            rivals.push((n, prefix));
            if best.0 < n {
                best = (n, change);
            }
        }
    }
    let (n_after, change) = best;
    // A few names more under a prefix are of something else that has like names.
    if !change.prefix.is_empty() && n_after < 2 * unprefixed.0 {
        return finish(map, checkpoint, &present, &known, unprefixed.1, n_before, &names);
    }
    let apart = |(n, other): &&(usize, String)| {
        *n == n_after
            && !other.starts_with(&change.prefix)
            && !change.prefix.starts_with(other.as_str())
    };
    if let Some((_, other)) = rivals.iter().find(apart)
        && !change.prefix.is_empty()
    {
        let message = format!(
            "two models lie in the checkpoint, and each of them is a whole one of the mapping {}/{}: \
             their names begin with `{}` and `{other}`",
            map.format, map.name, change.prefix
        );
        return Err(Diagnostic::error("P002", message)
            .help("save the state dict of the one that is meant, without the other"));
    }
    finish(map, checkpoint, &present, &known, change, n_before, &names)
}

/// The most bytes of a name that is known, in whatever words.
fn longest(change: &Change<'_>, known: &BTreeSet<String>) -> usize {
    let shorter =
        change.aliases.iter().map(|(theirs, ours)| theirs.len().saturating_sub(ours.len()));
    known.iter().map(String::len).max().unwrap_or(0).saturating_add(shorter.sum())
}

/// How many names [`may_know`] looks at.
const MAX_ASKED: usize = 64;

/// Whether a mapping may know every name of a checkpoint, under whatever prefix and in whatever words:
/// asked of some names, so that most mappings are passed over quickly.
pub(super) fn may_know(
    map: &Map,
    present: &BTreeSet<&str>,
    names: &StackNames<'_>,
    backing: Backing,
) -> bool {
    let step = present.len().div_ceil(MAX_ASKED).max(1);
    let asked: BTreeSet<&str> = present.iter().copied().step_by(step).collect();
    let known = names::known_under_any_prefix(map, &asked, names, backing);
    let change = Change { aliases: words(map), ..Change::default() };
    let longest = longest(&change, &known);
    let is_known = |name: &str| {
        let starts = name.rmatch_indices('.').map(|(at, _)| at + 1).chain([0]);
        let mut ends = starts.map(|at| &name[at..]).take_while(|end| end.len() <= longest);
        ends.any(|end| known.contains(end) || known.contains(&change.spelled(end)))
    };
    asked.iter().all(|name| {
        [&[], PARTS, ALL_PARTS].iter().any(|parts| is_known(&without_parts(name, parts)))
    })
}

/// The words of other programs, and the mapping's own for them.
fn words(map: &Map) -> Vec<(&str, &str)> {
    let aliases = map.aliases.iter().map(|Alias { theirs, ours }| (theirs.as_str(), ours.as_str()));
    let spells = map.spells.iter().map(|spell| (spell.theirs.as_str(), spell.ours.as_str()));
    aliases.chain(spells).collect()
}

/// What the names of most tensors may have in front of names that are known.
fn prefixes(
    change: &Change<'_>,
    present: &BTreeSet<&str>,
    known: &BTreeSet<String>,
) -> Vec<String> {
    let mut votes: BTreeMap<String, usize> = BTreeMap::new();
    let longest = longest(change, known);
    for name in present {
        let name = change.unwrapped(name);
        // From behind: names are as long as somebody likes, and what is known of them is short.
        for (at, _) in name.rmatch_indices('.') {
            let rest = &name[at + 1..];
            if longest < rest.len() {
                break;
            }
            if known.contains(rest) || known.contains(&change.spelled(rest)) {
                *votes.entry(name[..=at].to_owned()).or_default() += 1;
            }
        }
    }
    let most = votes.values().copied().max().unwrap_or(0);
    // The head has no part in what the backbone has in front.
    let mut votes: Vec<(usize, String)> =
        votes.into_iter().filter(|(_, n)| most < 2 * n).map(|(prefix, n)| (n, prefix)).collect();
    votes.sort_by(|left, right| right.0.cmp(&left.0).then(left.1.len().cmp(&right.1.len())));
    votes.truncate(MAX_PREFIXES);
    votes.into_iter().map(|(_, prefix)| prefix).collect()
}

/// Applies the change, if more names are known after it than before.
fn finish(
    map: &Map,
    checkpoint: &Checkpoint,
    present: &BTreeSet<&str>,
    known: &BTreeSet<String>,
    change: Change<'_>,
    n_before: usize,
    names: &StackNames<'_>,
) -> Result<Option<Aliases>, Diagnostic> {
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    let mut words: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut after: BTreeSet<String> = BTreeSet::new();
    let mut taken: BTreeSet<String> = present.iter().map(|name| change.bare(name)).collect();
    for tensor in &checkpoint.tensors {
        let bare = change.bare(&tensor.name);
        let spelled = change.spelled(&bare);
        let is_spelled = !known.contains(&bare)
            && spelled != bare
            && known.contains(&spelled)
            && taken.insert(spelled.clone());
        if is_spelled {
            words.extend(change.aliases.iter().filter(|(theirs, _)| bare.contains(theirs)));
        }
        // The parts of a packed tensor go with the whole.
        for stored in tensor.stored() {
            let name = change.bare(&stored.name);
            let name = if is_spelled { change.spelled(&name) } else { name };
            if name != stored.name {
                renamed.insert(stored.name.to_string(), name);
            }
        }
        after.insert(if is_spelled { spelled } else { bare });
    }
    let after: BTreeSet<&str> = after.iter().map(String::as_str).collect();
    let n_after = names::n_known(map, &after, names, names::backing(checkpoint));
    if renamed.is_empty() || n_after <= n_before {
        return Ok(None);
    }
    let mut done = Vec::new();
    let parts = change.parts.iter().filter(|part| present.iter().any(|name| name.contains(**part)));
    let prefix = Some(change.prefix.as_str()).filter(|prefix| !prefix.is_empty());
    let off: Vec<String> = parts.copied().chain(prefix).map(|text| format!("`{text}`")).collect();
    if !off.is_empty() {
        done.push(format!("without {}", off.join(", ")));
    }
    for (theirs, ours) in words.iter().take(MAX_SHOWN) {
        done.push(format!("with `{ours}` for `{theirs}`"));
    }
    if MAX_SHOWN < words.len() {
        done.push(format!("and {} words more", words.len() - MAX_SHOWN));
    }
    let message = format!(
        "{} of {} names are read {}, as the mapping {}/{} has them",
        renamed.len(),
        checkpoint.stored().count(),
        done.join(", "),
        map.format,
        map.name
    );
    let note = Diagnostic::note("R005", message)
        .help("the way back to the format of the source gives the names that the source has");
    Ok(Some(Aliases { names: renamed, note, is_whole: n_after == present.len() }))
}
