//! The mapping for a foreign config: by what the config says, or else by its class, or else by the
//! tensors' names.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::base::diagnostic::Diagnostic;
use crate::base::near::{self, did_you_mean};
use crate::checkpoint::Checkpoint;
use crate::plan::{keys, names, tasks};
use crate::spec::Spec;
use crate::spec::ecosystem::config::MODEL_TYPE;
use crate::spec::map::{Head, Map};
use crate::spec::names::StackNames;

/// At most so many architectures are proposed.
const MAX_PROPOSED: usize = 3;

/// The mapping for a foreign config: by what the config says, or else by its class, or else by
/// the tensors' names.
///
/// # Errors
/// None fits, or several do.
pub fn choose<'a>(
    spec: &'a Spec,
    format: &str,
    checkpoint: &Checkpoint,
    config: &Json,
    arch: Option<&str>,
    findings: &mut Vec<Diagnostic>,
) -> Result<&'a Map, Diagnostic> {
    let states = |path: &str, words: &[String]| {
        keys::lookup(config, path).is_some_and(|stated| match stated {
            Json::String(word) => words.contains(word),
            other => words.contains(&other.to_string()),
        })
    };
    let says = |head: &Head| {
        !head.matches.is_empty()
            && head.matches.iter().all(|(path, words)| states(path, words))
            && head.when.as_ref().is_none_or(|when| {
                let names = |name: &str| match name.strip_prefix("config.") {
                    Some(path) => keys::stated(config, path),
                    None => Err(format!("`{name}` is nothing of the config")),
                };
                when.eval_bool(&names) == Ok(true)
            })
    };
    let leads = |head: &Head| arch.is_none_or(|arch| head.arch == arch);
    let mut fitting: Vec<&Map> =
        spec.maps_chosen(format, |head| leads(head) && says(head)).collect();
    let most = fitting.iter().map(|map| map.matches.len()).max().unwrap_or(0);
    fitting.retain(|map| map.matches.len() == most);
    match fitting.as_slice() {
        [map] => return Ok(map),
        [_, _, ..] => {
            let names: Vec<&str> = fitting.iter().map(|map| map.name.as_str()).collect();
            return Err(Diagnostic::error(
                "P001",
                format!("several mappings fit: {}", names.join(", ")),
            )
            .help("choose one with --arch"));
        }
        [] => {}
    }
    let maps: Vec<&Map> = spec.maps_chosen(format, leads).collect();
    if maps.is_empty() {
        let of_format = spec.maps_of(format);
        let arch = arch.unwrap_or_default();
        let meant = did_you_mean(arch, of_format.map(|map| map.arch.as_str()));
        return Err(Diagnostic::error(
            "P001",
            format!("there is no {format} mapping for the architecture {arch:?}{meant}"),
        )
        .help("`llmstd spec list` shows the architectures"));
    }
    // What mappings of the format are chosen by, and the config's word for it.
    let paths: BTreeSet<&String> = maps.iter().flat_map(|map| map.matches.keys()).collect();
    let stated =
        paths.iter().find_map(|path| Some((path.as_str(), keys::lookup(config, path)?.as_str()?)));
    let present: BTreeSet<&str> =
        checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let class = tasks::class(config);
    let of_class = |map: &&&Map| {
        let classes = map.tasks.iter().flat_map(|task| &task.class).chain(&map.base_classes);
        class.is_some_and(|class| classes.into_iter().any(|other| other == class))
    };
    if let (Some((path, word)), None) = (stated, arch) {
        let whole: BTreeSet<&str> = maps
            .iter()
            .filter(|map| knows_all(spec, map, &present, checkpoint, config).is_some())
            .map(|map| map.arch.as_str())
            .collect();
        let of_class: BTreeSet<&str> =
            maps.iter().filter(of_class).map(|map| map.arch.as_str()).collect();
        let both: Vec<&str> = whole.intersection(&of_class).copied().collect();
        let mut whole = if both.is_empty() { whole.into_iter().collect() } else { both };
        // The nearest names first; of many that have the same tensors a few are enough.
        whole.sort_by_key(|arch| near::distance(word, arch));
        let others = match whole.len().saturating_sub(MAX_PROPOSED) {
            0 => String::new(),
            n => format!(" and {n} others"),
        };
        whole.truncate(MAX_PROPOSED);
        let help = match whole.as_slice() {
            [] => "`llmstd spec list` shows what there is; --arch tries the mapping of another \
                   architecture, --generic keeps names and bytes as they are"
                .to_owned(),
            some => format!(
                "all {} tensors have names of {}{others}: if the config means the same there, add {}; --generic \
                 keeps names and bytes as they are",
                present.len(),
                some.join(", "),
                some.iter().map(|arch| format!("--arch {arch}")).collect::<Vec<_>>().join(" or ")
            ),
        };
        return Err(Diagnostic::error(
            "P001",
            format!("there is no {format} mapping for the {path} {word:?}"),
        )
        .key(path)
        .help(help));
    }
    if let [map] = maps.as_slice() {
        return Ok(map); // The only one of the architecture that was asked for.
    }
    // Without a model type: the class, then the names, of those whose other conditions hold.
    let is_of_all = |path: &String| {
        let mut matched = maps.iter().filter(|map| !map.matches.is_empty());
        matched.all(|map| map.matches.contains_key(path))
    };
    let others_hold = |map: &&Map| {
        let mut others = map.matches.iter().filter(|(path, _)| !is_of_all(path));
        others.all(|(path, words)| states(path, words))
    };
    let maps: Vec<&Map> = maps.iter().filter(|map| others_hold(map)).copied().collect();
    let by_class: Vec<&Map> = maps.iter().filter(of_class).copied().collect();
    if let [map] = by_class.as_slice() {
        findings.push(guess(map, "its class"));
        return Ok(map);
    }
    // Of several that lead to the architecture that was asked for, the one that has its name.
    if let Some(map) = maps.iter().find(|map| arch == Some(map.name.as_str())) {
        return Ok(map);
    }
    let mut fitting: Vec<(&Map, bool)> = maps
        .iter()
        .filter_map(|map| Some((*map, knows_all(spec, map, &present, checkpoint, config)?)))
        .collect();
    if 1 < fitting.len() && fitting.iter().any(|(_, claims)| *claims) {
        fitting.retain(|(_, claims)| *claims);
    }
    let by_names: Vec<&Map> = fitting.into_iter().map(|(map, _)| map).collect();
    match by_names.as_slice() {
        [map] => {
            findings.push(guess(map, "the names of its tensors"));
            Ok(map)
        }
        others => {
            let names: Vec<&str> = others.iter().map(|map| map.name.as_str()).collect();
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(Diagnostic::error("P001", "the config does not say which architecture this is")
                .key(MODEL_TYPE)
                .mismatch("one mapping that knows every tensor", found)
                .help(
                    "where it is another program's, name the folder of the model's own with --config; else name \
                     the architecture with --arch, or keep names and bytes as they are with --generic",
                ))
        }
    }
}

/// Whether a mapping knows every tensor, and then whether it claims such a config for itself.
fn knows_all(
    spec: &Spec,
    map: &Map,
    present: &BTreeSet<&str>,
    checkpoint: &Checkpoint,
    config: &Json,
) -> Option<bool> {
    let arch = spec.arch(&map.arch).expect("checked when it is read");
    let keys = keys::read(spec, map, arch, config).ok()?;
    let stack = arch.stacks.first().map(String::as_str);
    let whole = spec.complete_hparams(&keys.hparams);
    let names = StackNames { hparams: &whole, tokens: Some(&keys.tokens), stack, layer: None };
    let backing = names::backing(checkpoint);
    if !crate::plan::aliases::may_know(map, present, &names, backing) {
        return None;
    }
    let claims = map.claims_untyped.as_ref().is_some_and(|when| when.eval_bool(&names) == Ok(true));
    let knows = names::n_known(map, present, &names, backing) == present.len();
    let is_whole = || {
        // Names of other programs and of older versions, as they will be read.
        let aliases = crate::plan::aliases::find(spec, map, checkpoint, config);
        matches!(aliases, Ok(Some(aliases)) if aliases.is_whole)
    };
    (knows || is_whole()).then_some(claims)
}

fn guess(map: &Map, by: &str) -> Diagnostic {
    Diagnostic::warning(
        "P001",
        format!("the config has no model_type; {} was recognised by {by}", map.arch),
    )
    .key(MODEL_TYPE)
    .help("name it with --arch to be sure")
}
