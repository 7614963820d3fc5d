//! Static checks of the data files.

mod names;
mod rule;

use std::collections::BTreeSet;

use super::Spec;
use super::map::{Each, KeyRule, Map, Rule};
use crate::package::Value;

impl Spec {
    /// What is wrong with the data files, beyond their form.
    pub fn check(&self) -> Vec<String> {
        let mut problems = names::of_standard(self);
        for arch in self.archs.values() {
            for (name, value) in &arch.fixed {
                match self.key(name) {
                    None => problems.push(format!("arch/{}: there is no key `{name}`", arch.id)),
                    Some(key) => {
                        problems.extend(key.problem(&key.normal(value.clone())).map(|wanted| {
                            format!("arch/{}: `{name}` is {value}, and has to be {wanted}", arch.id)
                        }))
                    }
                }
            }
            for task in arch.tasks.iter().filter(|task| self.task(task).is_none()) {
                problems.push(format!("arch/{}: there is no task `{task}`", arch.id));
            }
            for template in arch.templates() {
                let name = template.replace("{i}", "0").replace("{name}", "x");
                if self.role(&name).is_none() {
                    problems.push(format!("arch/{}: there is no role `{template}`", arch.id));
                }
            }
            problems.extend(names::of_arch(self, arch));
        }
        for known in &self.parameters {
            let unknown = known.tasks.iter().filter(|task| self.task(task).is_none());
            problems.extend(
                unknown.map(|task| format!("tasks: `{}`: there is no task `{task}`", known.name)),
            );
        }
        for known in &self.dimensions {
            let max = known.max.iter().filter(|max| self.key(max).is_none());
            problems
                .extend(max.map(|max| format!("tasks: `{}`: there is no key `{max}`", known.name)));
        }
        for map in self.maps.values() {
            let at = format!("map/{}/{}", map.format, map.name);
            let arch = self.arch(&map.arch).expect("mappings lead to what there is");
            problems.extend(rule::check(self, map).into_iter().map(|why| format!("{at}: {why}")));
            problems.extend(names::of_map(self, map));
            for key in &map.keys {
                let name = key.to.as_str();
                let is_token = name.starts_with("tokens.");
                if !is_token && !name.starts_with('_') && self.key(name).is_none() {
                    problems.push(format!("{at}: there is no key `{name}`"));
                }
                problems.extend(self.check_key(key).map(|why| format!("{at}: `{name}`: {why}")));
            }
            for key in &self.keys {
                let has = |name: &str| {
                    map.keys.iter().any(|rule| rule.to == name) || arch.fixed.contains_key(name)
                };
                let stacked = arch.stacks.iter().any(|stack| has(&format!("{stack}.{}", key.name)));
                // What a package may leave out, a mapping may leave unsaid.
                let is_needed = key.when.is_none() && key.absent.is_none();
                if is_needed && !has(&key.name) && !stacked {
                    problems.push(format!("{at}: nothing gives `{}`", key.name));
                }
            }
            for task in map.tasks.iter().filter(|task| !arch.tasks.contains(&task.id)) {
                problems.push(format!("{at}: {} does not serve {}", arch.id, task.id));
            }
            for task in &map.tasks {
                for head in task.head.iter().chain(&task.needs) {
                    if !map.rules.iter().any(|rule| makes_head(rule, head)) {
                        problems.push(format!("{at}: no rule makes the head `{head}`"));
                    }
                }
                let prefix = task.prefix.iter().filter(|prefix| !map.prefixes.contains(prefix));
                problems.extend(
                    prefix.map(|prefix| format!("{at}: {prefix:?} is none of its prefixes")),
                );
            }
        }
        problems.extend(self.check_matches());
        problems.extend(self.check_files());
        // A role that no architecture uses is dead; a bias has its role from its weight.
        let mut used = BTreeSet::new();
        for template in self.archs.values().flat_map(|arch| arch.templates()) {
            let name = template.replace("{i}", "0").replace("{name}", "x");
            used.extend(self.role(&name).map(|found| stem(&found.role.template.text)));
        }
        let dead = self.roles.iter().map(|role| &role.template.text);
        let dead = dead.filter(|role| !used.contains(stem(role)));
        problems.extend(dead.map(|role| format!("roles: no architecture has `{role}`")));
        problems
    }

    /// What is wrong with how a key is read.
    fn check_key(&self, rule: &KeyRule) -> impl Iterator<Item = String> {
        let mut problems = Vec::new();
        let has_source = !rule.from.is_empty() || !rule.defaults.is_empty();
        let has_value = rule.value.is_some() || rule.otherwise.is_some() || rule.each.is_some();
        if !has_source && !has_value {
            problems.push("nothing says what it is".to_owned());
        }
        for when in rule.defaults.iter().filter_map(|default| default.when.as_deref()) {
            let words: Vec<&str> = when.split_whitespace().collect();
            let is_version = |text: &str| text.split('.').all(|part| part.parse::<u64>().is_ok());
            if !matches!(words[..], [_, "<" | "<=" | ">" | ">=", version] if is_version(version)) {
                problems.push(format!("`{when}` is no condition on a writer's version"));
            }
        }
        // What another expression is made of has no kind of its own.
        if let (Some(key), None) = (self.key(&rule.to), &rule.expr) {
            let one = |value: &Value| key.problem(&key.normal(value.clone()));
            let item = |value: &Value| match value {
                Value::List(_) | Value::Null => one(value),
                value => one(value).and_then(|_| one(&Value::List(vec![value.clone()]))),
            };
            let words = rule.words.iter().map(|(_, value)| value);
            let defaults = rule.defaults.iter().map(|default| &default.value);
            for value in words.chain(defaults) {
                problems.extend(
                    item(value).map(|_| format!("{value} is no value of it: {}", key.wanted())),
                );
            }
        }
        problems.into_iter()
    }

    /// Two mappings that one config chooses.
    fn check_matches(&self) -> Vec<String> {
        let maps: Vec<&Map> = self.maps.values().filter(|map| !map.matches.is_empty()).collect();
        let mut problems = Vec::new();
        for (at, left) in maps.iter().enumerate() {
            for right in maps[at + 1..].iter().filter(|right| right.format == left.format) {
                // Conditions on the config tell two apart that are chosen by the same values.
                let told_apart = left.when.is_some() && right.when.is_some();
                let same = !told_apart
                    && left.matches.len() == right.matches.len()
                    && left.matches.iter().all(|(path, words)| {
                        let others = right.matches.get(path);
                        others.is_some_and(|others| others.iter().any(|word| words.contains(word)))
                    });
                if same {
                    let (format, left, right) = (&left.format, &left.name, &right.name);
                    problems.push(format!("map/{format}/{right}: one config is also {left}'s"));
                }
            }
        }
        problems
    }

    /// Files that nothing lists.
    fn check_files(&self) -> Vec<String> {
        let unlisted = self.files.keys().filter(|path| {
            let Some(name) = path.strip_suffix(".toml") else { return false };
            match name.split('/').collect::<Vec<_>>()[..] {
                ["arch", name] => !name.starts_with('_') && self.arch(name).is_none(),
                ["map", format, name] => !name.starts_with('_') && self.map(format, name).is_none(),
                _ => false,
            }
        });
        unlisted.map(|path| format!("{path}: spec.toml does not list it")).collect()
    }
}

/// A name without its leaf.
fn stem(name: &str) -> &str {
    name.strip_suffix(".bias").or_else(|| name.strip_suffix(".weight")).unwrap_or(name)
}

/// Whether a rule makes tensors of a head.
fn makes_head(rule: &Rule, head: &str) -> bool {
    rule.to.iter().filter_map(|to| to.text.strip_prefix("heads.")).any(|rest| {
        let name = rest.split('.').next().unwrap_or_default();
        name == head
            || name.starts_with('{') && {
                let texts = rule.each.iter().filter_map(|(_, each)| match each {
                    Each::Texts(texts) => Some(texts),
                    Each::Count(_) => None,
                });
                texts.flatten().flatten().any(|text| text == head)
            }
    })
}
