//! How much of a checkpoint a mapping knows by name, and what it does not.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::author::tiny::expressions;
use crate::plan::keys;
use crate::spec::ecosystem::config::{CLASSES, DTYPES, LABEL_NUMBERS, LABELS, MODEL_TYPE};
use crate::spec::map::{Each, KeyRule, Map, Rule};
use crate::spec::template::{Template, alternatives};

/// Entries of a config that say nothing about what a model computes.
const SILENT: &[&str] = &[
    "_name_or_path",
    CLASSES,
    DTYPES[0],
    LABELS,
    LABEL_NUMBERS,
    MODEL_TYPE,
    "problem_type",
    DTYPES[1],
    "transformers_version",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "initializer_range",
    "return_dict",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
];

/// A name with `#` for every index.
pub(super) fn pattern(name: &str) -> String {
    let index = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.split('.').map(|part| if index(&part) { "#" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// The rules that a rule is, one for each choice of the words of its names; `weight` and `bias` stay
/// together, as a bias may be absent.
pub(super) fn choices(rule: &Rule) -> Vec<(Vec<String>, Vec<String>)> {
    let texts = |templates: &[Template]| -> Vec<String> {
        templates.iter().map(|template| template.text.clone()).collect()
    };
    let mut all = vec![(texts(&rule.from), texts(&rule.to))];
    for (variable, values) in rule.each.iter().filter(|(variable, _)| variable != "p") {
        let Each::Texts(choices) = values else { continue };
        all = all
            .iter()
            .flat_map(|(from, to)| {
                choices.iter().map(move |words| {
                    let fill = |texts: &[String]| -> Vec<String> {
                        texts.iter().map(|text| fill(text, variable, words)).collect()
                    };
                    (fill(from), fill(to))
                })
            })
            .collect();
    }
    all
}

/// A name with the words of a variable in it.
fn fill(text: &str, variable: &str, words: &[String]) -> String {
    match words {
        [word] => text.replace(&format!("{{{variable}}}"), word),
        words => words.iter().enumerate().fold(text.to_owned(), |text, (at, word)| {
            text.replace(&format!("{{{variable}.{at}}}"), word)
        }),
    }
}

/// The patterns that a rule knows, without what stands for `@`.
fn patterns(rule: &Rule) -> Vec<String> {
    let mut texts: Vec<String> =
        rule.from.iter().chain(&rule.also).map(|from| from.text.clone()).collect();
    for (variable, values) in &rule.each {
        let replace = |text: &String| -> Vec<String> {
            match values {
                Each::Count(_) => vec![text.replace(&format!("{{{variable}}}"), "#")],
                Each::Texts(all) => all.iter().map(|words| fill(text, variable, words)).collect(),
            }
        };
        texts = texts.iter().flat_map(replace).collect();
    }
    if let Some((variable, _)) = &rule.over {
        texts = texts.iter().map(|text| text.replace(&format!("{{{variable}}}"), "#")).collect();
    }
    texts.iter().map(|text| pattern(text)).collect()
}

/// What of a checkpoint a mapping knows by name.
pub(super) struct Cover<'a> {
    pub(super) map: &'a Map,
    pub(super) prefix: String,
    /// Whether each tensor is known.
    pub(super) known: Vec<bool>,
    /// Patterns of rules that no tensor has.
    n_idle: usize,
    /// How many of the config's entries it reads.
    pub(super) n_keys: usize,
    /// How many keys it has a default for, as the config says nothing of them.
    n_defaults: usize,
}

pub(super) fn cover<'a>(map: &'a Map, names: &[String], config: &Json) -> Cover<'a> {
    let all: BTreeSet<String> = map.rules.iter().flat_map(patterns).collect();
    let drops = map.drops.iter().map(|drop| pattern(&drop.name.text.replace("{i}", "0")));
    let all: BTreeSet<String> = all.into_iter().chain(drops).collect();
    let with = |prefix: &String| {
        let spelled: BTreeSet<String> = all
            .iter()
            .map(|text| match text.strip_prefix('@') {
                Some(rest) => format!("{}{rest}", pattern(prefix)),
                None => text.clone(),
            })
            .collect();
        let known: Vec<bool> = names.iter().map(|name| spelled.contains(name)).collect();
        let have: BTreeSet<&String> = names.iter().collect();
        let n_idle = spelled.iter().filter(|name| !have.contains(name)).count();
        (prefix.clone(), known, n_idle)
    };
    let count = |known: &[bool]| known.iter().filter(|known| **known).count();
    // What most names begin with may be the family's own prefix.
    let first = |name: &String| name.split_once('.').map(|(first, _)| format!("{first}."));
    let firsts: BTreeSet<String> = names.iter().filter_map(first).collect();
    let own = firsts.into_iter().find(|own| {
        let n_own = names.iter().filter(|name| name.starts_with(own.as_str())).count();
        names.len() < 2 * n_own && !map.prefixes.contains(own)
    });
    let best = map
        .prefixes
        .iter()
        .chain(&own)
        .map(with)
        .reduce(|best, other| if count(&best.1) < count(&other.1) { other } else { best });
    let (prefix, known, n_idle) = best.unwrap_or_else(|| with(&String::new()));
    let n_keys = leaves(config).iter().filter(|path| reads(map, path)).count();
    let has_default = |rule: &&KeyRule| {
        let is_token = rule.to.starts_with("tokens.");
        let stated = rule.from.iter().any(|path| keys::lookup(config, path).is_some());
        !is_token && !rule.from.is_empty() && rule.value.is_none() && !stated
    };
    let n_defaults = map.keys.iter().filter(has_default).count();
    Cover { map, prefix, known, n_idle, n_keys, n_defaults }
}

impl Cover<'_> {
    /// How many tensors it knows.
    pub(super) fn n_known(&self) -> usize {
        self.known.iter().filter(|known| **known).count()
    }

    /// The closer, the greater: tensors first, then what is known of the config against what is
    /// taken for granted, then the rules that nothing uses.
    pub(super) fn rank(&self) -> impl Ord {
        let keys = 2 * self.n_keys as i64 - self.n_defaults as i64;
        (self.n_known(), keys, Reverse(self.n_idle))
    }
}

/// The paths of a config's entries.
pub(super) fn leaves(config: &Json) -> Vec<String> {
    fn walk(json: &Json, path: &str, all: &mut Vec<String>) {
        match json {
            Json::Object(object) => object.iter().for_each(|(key, inner)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(inner, &path, all);
            }),
            _ => all.push(path.to_owned()),
        }
    }
    let mut all = Vec::new();
    walk(config, "", &mut all);
    let silent = |path: &str| {
        SILENT.contains(&path.split('.').next().unwrap_or_default()) || path.contains("dropout")
    };
    all.retain(|path| !silent(path));
    all
}

/// Whether a mapping reads an entry of the config, or something inside of it.
pub(super) fn reads(map: &Map, path: &str) -> bool {
    map.keys.iter().any(|rule| {
        let asked = expressions(rule)
            .flat_map(|expr| expr.names())
            .filter_map(|name| name.strip_prefix("config."));
        rule.from.iter().map(String::as_str).chain(asked).any(|from| from == path)
    }) || map.config.contains_key(path)
        || map.tasks.iter().any(|task| task.config.contains_key(path))
}

/// What of a mapping no tensor has.
#[derive(Default)]
pub(super) struct Idle {
    /// Rules to leave out, by what their first foreign name says, as `without` has it.
    pub(super) without: Vec<String>,
    /// What acts of rules that are left out: foreign name, canonical name, count of layers.
    pub(super) kept: Vec<(String, String, Option<String>)>,
    /// Canonical names that nothing makes.
    pub(super) gone: BTreeSet<String>,
}

/// What of a mapping no tensor has. Heads stay, as another file has them, and so does what a
/// condition switches.
pub(super) fn idle(map: &Map, names: &[String], prefix: &str) -> Idle {
    let have: BTreeSet<&String> = names.iter().collect();
    let prefix = pattern(prefix);
    let acts = |from: &[String]| {
        let leaves = if from.iter().any(|text| text.contains("{p}")) {
            vec!["weight", "bias"]
        } else {
            vec![""]
        };
        leaves.iter().any(|leaf| {
            from.iter().any(|text| {
                // What is left in braces counts.
                let text: Vec<&str> = text
                    .split('.')
                    .map(|part| match part {
                        "{p}" => leaf,
                        part if part.starts_with('{') => "#",
                        part => part,
                    })
                    .collect();
                let text = pattern(&text.join("."));
                let spelled = text.strip_prefix('@').map(|rest| format!("{prefix}{rest}"));
                have.contains(&spelled.unwrap_or(text))
            })
        })
    };
    let mut idle = Idle::default();
    for rule in &map.rules {
        let is_head = rule.to.iter().any(|to| to.text.starts_with("heads."));
        let Some(text) = rule.from.first().map(|from| from.text.clone()) else { continue };
        // Another rule of this text may act under its own condition.
        let n_alike = map.rules.iter().filter(|other| other.from == rule.from).count();
        if is_head || rule.when.is_some() || 1 < n_alike {
            continue;
        }
        let (used, unused): (Vec<_>, Vec<_>) =
            choices(rule).into_iter().partition(|(from, _)| acts(from));
        if unused.is_empty() || !used.is_empty() && !rule.ops.is_empty() {
            continue;
        }
        idle.without.push(text);
        for (from, to) in used {
            let count = rule.each.iter().find_map(|(_, values)| match values {
                Each::Count(count) => Some(count.text.clone()),
                Each::Texts(_) => None,
            });
            idle.kept.extend(from.into_iter().zip(to).map(|(from, to)| (from, to, count.clone())));
        }
        for name in unused.into_iter().flat_map(|(_, to)| to) {
            idle.gone.extend(alternatives(&name).unwrap_or_default());
        }
    }
    idle
}
