//! Which samples a mapping needs so that every rule of it is used.

use std::collections::BTreeSet;

use super::Part;
use crate::spec::Spec;
use crate::spec::ecosystem::config::CLASSES;
use crate::spec::map::{Each, Map, Rule, TaskRule};

/// The class of a sample: its tasks, and the heads that it has.
pub(super) struct Class<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) tasks: Vec<&'a TaskRule>,
    pub(super) heads: BTreeSet<String>,
}

/// Whether what the architecture fixes already says that a rule never holds: it is there for other
/// mappings that share its file.
fn is_off(spec: &Spec, map: &Map, rule: &Rule) -> bool {
    let fixed = spec.arch(&map.arch).map(|arch| &arch.fixed);
    let names = |name: &str| {
        let value = fixed.and_then(|fixed| fixed.get(name));
        value.cloned().ok_or_else(|| format!("`{name}` is free"))
    };
    rule.when.as_ref().is_some_and(|when| when.eval_bool(&names) == Ok(false))
}

/// The rules of a mapping that none of some samples uses, and that the architecture does not switch
/// off, by what they read.
pub fn unused<'a>(spec: &'a Spec, map: &'a Map, parts: &BTreeSet<Part>) -> Vec<&'a str> {
    let unused = unused_rules(spec, map, parts);
    unused.map(|rule| rule.from.first().map_or("", |from| from.text.as_str())).collect()
}

pub(super) fn unused_rules<'a>(
    spec: &'a Spec,
    map: &'a Map,
    parts: &BTreeSet<Part>,
) -> impl Iterator<Item = &'a Rule> {
    let used: BTreeSet<usize> = parts.iter().map(|(rule, _)| *rule).collect();
    let unused = map.rules.iter().enumerate().filter(move |(at, rule)| {
        !used.contains(at) && !rule.is_alternative && !is_off(spec, map, rule)
    });
    unused.map(|(_, rule)| rule)
}

/// One class for each that the mapping knows, and one more with the heads that no task has.
pub(super) fn classes(map: &Map) -> Vec<Class<'_>> {
    let heads_of = |rule: &TaskRule| rule.head.iter().chain(&rule.needs).cloned().collect();
    let mut classes: Vec<Class<'_>> = Vec::new();
    for rule in &map.tasks {
        let heads: Vec<String> = heads_of(rule);
        for name in &rule.class {
            let heads = heads.clone();
            match classes.iter_mut().find(|class| class.name == Some(name)) {
                Some(class) => {
                    class.heads.extend(heads);
                    class.tasks.push(rule);
                }
                None => classes.push(Class {
                    name: Some(name),
                    tasks: vec![rule],
                    heads: heads.into_iter().collect(),
                }),
            }
        }
    }
    let known: BTreeSet<&String> = classes.iter().flat_map(|class| &class.heads).collect();
    let mut rest = BTreeSet::new();
    for rule in &map.rules {
        for to in rule.to.iter().filter_map(|to| to.text.strip_prefix("heads.")) {
            // A head's name may be one of the words of its rule: `{x.1}`.
            let variable = to.strip_prefix('{').and_then(|open| open.split_once('}'));
            match variable {
                None => rest.extend(to.split('.').next().map(str::to_owned)),
                Some((variable, _)) => rest.extend(words(&rule.each, variable)),
            }
        }
    }
    rest.retain(|head| !known.contains(head));
    let name = map.base_classes.first().map(String::as_str);
    // A mapping that is chosen by a class reads no config that names none.
    if name.is_some() || !map.matches.contains_key(CLASSES) {
        classes.push(Class { name, tasks: Vec::new(), heads: rest });
    }
    classes
}

/// The words that a variable of a rule stands for.
pub(super) fn words(each: &[(String, Each)], variable: &str) -> Vec<String> {
    let (name, index) = variable.split_once('.').unwrap_or((variable, "0"));
    let index: usize = index.parse().unwrap_or(0);
    let texts = each.iter().filter(|(each, _)| each == name).flat_map(|(_, each)| match each {
        Each::Texts(texts) => texts.iter().filter_map(|texts| texts.get(index)).collect(),
        Each::Count(_) => Vec::new(),
    });
    texts.cloned().collect()
}
