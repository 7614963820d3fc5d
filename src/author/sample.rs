//! Tiny synthetic checkpoints in a foreign layout, made from the mapping alone: one for each way in
//! which a config or a class of the foreign framework switches rules on, until every rule acts.
//!
//! What they hold is noise. They prove that a mapping is whole and that it comes back, not that it
//! means what the foreign framework means: that takes a checkpoint of that framework.

mod check;
mod choose;
mod make;
mod write;

use std::collections::BTreeSet;

use serde_json::Value as Json;

use self::check::check;
use self::choose::{classes, unused_rules};
use self::make::sample;
use super::tiny::{self, Change, Tiny};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::package::{Hparams, Model, Provenance};
use crate::plan::{self, export};
use crate::spec::Spec;
use crate::spec::map::{Map, Rule};

pub(crate) use self::check::AsPlanned;
pub use self::choose::unused;
pub use self::write::write;

/// The rows of heads that no hyperparameter tells of.
const ROWS: u64 = 3;

/// The most combinations of two changes that are tried for the rules that no single one reaches: of
/// those of which the first says something that the conditions of such rules ask for, and of others.
const MAX_PAIRS: [usize; 2] = [4_000, 500];

/// A part of a mapping: a rule, and the words that its variables have.
pub type Part = (usize, Vec<String>);

/// One tiny checkpoint, before it is written.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What sets it apart, `base` or `hidden_act="gelu"`.
    pub label: String,
    /// The package that it is made from.
    pub model: Model,
    /// Where that says it came from: names, copies and buffers that the foreign file has.
    pub source: Provenance,
    /// The canonical tensors with their shapes.
    pub tensors: Vec<(String, Vec<u64>)>,
    /// What of the mapping acts.
    pub parts: BTreeSet<Part>,
    /// Whether it has the files of modules beside the transformer.
    modules: usize,
}

/// The samples of a mapping: the first is the plainest, and together they use every part that any
/// config found uses.
///
/// # Errors
/// No tiny config was found, or the mapping does not bring a sample there and back.
pub fn samples(spec: &Spec, map: &Map, start: Option<&Json>) -> Result<Vec<Sample>> {
    let fail = |why: &str| {
        let message = format!("the mapping {}/{}: {why}", map.format, map.name);
        Error::new(ErrorKind::Malformed, message)
    };
    if map.format == export::GGUF {
        let message = "no samples are made of gguf mappings: such a file says less than a model is; \
                       write a sample of the hf mapping with `convert --to gguf`";
        return Err(Error::unsupported(message));
    }
    let base = tiny::config(spec, map, start).map_err(|findings| {
        let why: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
        fail(&format!("no tiny config is one it reads: {}", why.join("; ")))
    })?;
    let classes = classes(map);
    let mut found = Vec::new();
    let mut covered = BTreeSet::new();
    let mut problem = None;
    let mut seen: Vec<Hparams> = Vec::new();
    // The plainest comes first, whatever it covers.
    let mut consider = |label: &str, config: &Json, covered: &mut BTreeSet<Part>| {
        let mut any = false;
        for class in &classes {
            match sample(spec, map, config, class, label) {
                Ok(sample) if sample.parts.is_subset(covered) => {}
                Ok(sample) => match check(spec, map, &sample) {
                    Ok(()) => {
                        covered.extend(sample.parts.iter().cloned());
                        found.push(sample);
                        any = true;
                    }
                    Err(findings) => {
                        problem = problem.take().or_else(|| Some(messages(label, findings)));
                    }
                },
                Err(why) => problem = problem.take().or(Some(why)),
            }
        }
        any
    };
    if !consider("base", &base.config, &mut covered) {
        return Err(fail(&problem.unwrap_or_else(|| "no rule acts".to_owned())));
    }
    if start.is_none() {
        let changes = tiny::changes(spec, map, &base);
        let mut useful: Vec<(Change, Tiny)> = Vec::new();
        let mut silent = Vec::new();
        for change in changes {
            let config = change.apply(&base.config);
            let Ok(keys) = read(spec, map, &config) else { continue };
            if !tiny::alike(&keys.hparams, &base.keys.hparams) {
                if !seen.iter().any(|seen| tiny::alike(seen, &keys.hparams)) {
                    consider(&change.to_string(), &config, &mut covered);
                    seen.push(keys.hparams.clone());
                }
                useful.push((change, Tiny { config, keys }));
            } else {
                silent.push(change);
            }
        }
        // Those first that say something which the conditions of the rules left over ask for, and
        // those of the tensors that they make.
        let left: Vec<&Rule> = unused_rules(spec, map, &covered).collect();
        let of_tensors =
            spec.arch(&map.arch).into_iter().flat_map(|arch| &arch.tensors).filter(|group| {
                let mut names = group.names.iter();
                names.any(|name| {
                    left.iter()
                        .any(|rule| rule.to.iter().any(|to| to.matches(&name.text).is_some()))
                })
            });
        let of_tensors = of_tensors.filter_map(|group| group.when.as_ref());
        let asked: BTreeSet<&str> = left
            .iter()
            .filter_map(|rule| rule.when.as_ref())
            .chain(of_tensors)
            .flat_map(|when| when.names())
            .collect();
        // One that says nothing alone may say it beside another.
        let is_asked = |change: &Change| {
            let mut rules = map.keys.iter().filter(|rule| asked.contains(rule.to.as_str()));
            rules.any(|rule| rule.from.contains(&change.path))
        };
        let (near, far): (Vec<_>, Vec<_>) = silent.into_iter().partition(is_asked);
        let silent: Vec<Change> = near.into_iter().chain(far).collect();
        let says = |change: &Change, tiny: &Tiny| {
            asked.iter().any(|name| match name.strip_prefix("config.") {
                Some(path) => change.path == path,
                None => tiny.keys.hparams.get(*name) != base.keys.hparams.get(*name),
            })
        };
        // Of a rule without a condition the architecture says when it acts: any change may matter.
        let is_open = left.iter().any(|rule| rule.when.is_none());
        let (near, far): (Vec<_>, Vec<_>) =
            useful.iter().partition(|(change, tiny)| says(change, tiny));
        // Of two one may say nothing without the other.
        let n_most = if is_open { [MAX_PAIRS[0]; 2] } else { MAX_PAIRS };
        let pairs = [near, far].into_iter().zip(n_most).flat_map(|(firsts, n_most)| {
            let with_silent: Vec<_> = firsts
                .iter()
                .flat_map(|(first, tiny)| silent.iter().map(move |second| (first, tiny, second)))
                .take(n_most)
                .collect();
            let with_useful = firsts.into_iter().flat_map(|(first, tiny)| {
                useful.iter().map(move |(second, _)| (first, tiny, second))
            });
            with_silent.into_iter().chain(with_useful.take(n_most))
        });
        let mut is_whole = unused(spec, map, &covered).is_empty();
        for (first, tiny, second) in pairs.filter(|(first, _, second)| first.path != second.path) {
            if is_whole {
                break;
            }
            let config = second.apply(&tiny.config);
            let Ok(keys) = read(spec, map, &config) else { continue };
            if seen.iter().any(|seen| tiny::alike(seen, &keys.hparams)) {
                continue;
            }
            if consider(&format!("{first} {second}"), &config, &mut covered) {
                is_whole = unused(spec, map, &covered).is_empty();
            }
            seen.push(keys.hparams);
        }
    }
    Ok(found)
}

fn read(spec: &Spec, map: &Map, config: &Json) -> std::result::Result<plan::keys::Keys, ()> {
    let arch = spec.arch(&map.arch).ok_or(())?;
    plan::keys::read(spec, map, arch, config).map_err(|_| ())
}

fn messages(label: &str, findings: Vec<Diagnostic>) -> String {
    let messages: Vec<String> = findings.into_iter().map(|finding| finding.message).collect();
    format!("{label}: {}", messages.join("; "))
}
