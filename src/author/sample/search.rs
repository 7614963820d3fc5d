//! Which configs are made into samples: the plainest, those with one entry changed, and those with two.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::check::{check, messages};
use super::choose::{Class, classes, unused, unused_rules};
use super::make::sample;
use super::{Part, Sample};
use crate::author::tiny::{self, Change, Tiny};
use crate::package::Hparams;
use crate::plan::keys::{self, Keys};
use crate::spec::Spec;
use crate::spec::map::{Map, Rule};

/// The most combinations of two changes that are tried for the rules that no single one reaches: of
/// those of which the first says something that the conditions of such rules ask for, and of others.
const MAX_PAIRS: [usize; 2] = [4_000, 500];

/// The samples of a mapping, as far as they are found.
pub(super) struct Search<'a> {
    spec: &'a Spec,
    map: &'a Map,
    classes: Vec<Class<'a>>,
    pub(super) found: Vec<Sample>,
    covered: BTreeSet<Part>,
    /// Hyperparameters of configs that were considered.
    seen: Vec<Hparams>,
    /// What was wrong with the first sample that is none.
    pub(super) problem: Option<String>,
}

impl<'a> Search<'a> {
    pub(super) fn new(spec: &'a Spec, map: &'a Map) -> Search<'a> {
        let (found, covered, seen) = (Vec::new(), BTreeSet::new(), Vec::new());
        Search { spec, map, classes: classes(map), found, covered, seen, problem: None }
    }

    /// Takes the samples of a config, one for each class, that use a part which none before uses. Returns whether
    /// there is one.
    pub(super) fn consider(&mut self, label: &str, config: &Json) -> bool {
        let n_found = self.found.len();
        for class in &self.classes {
            let problem = match sample(self.spec, self.map, config, class, label) {
                Ok(sample) if sample.parts.is_subset(&self.covered) => continue,
                Ok(sample) => match check(self.spec, self.map, &sample) {
                    Ok(()) => {
                        self.covered.extend(sample.parts.iter().cloned());
                        self.found.push(sample);
                        continue;
                    }
                    Err(findings) => messages(label, findings),
                },
                Err(why) => why,
            };
            self.problem.get_or_insert(problem);
        }
        n_found < self.found.len()
    }

    /// Considers every change of one entry. Returns those that say something, and those that alone say nothing.
    pub(super) fn changes(&mut self, base: &Tiny) -> (Vec<(Change, Tiny)>, Vec<Change>) {
        let (mut telling, mut silent) = (Vec::new(), Vec::new());
        for change in tiny::changes(self.spec, self.map, base) {
            let config = change.apply(&base.config);
            let Some(keys) = self.read(&config) else { continue };
            if tiny::alike(&keys.hparams, &base.keys.hparams) {
                silent.push(change);
                continue;
            }
            if self.is_new(&keys.hparams) {
                self.consider(&change.to_string(), &config);
            }
            telling.push((change, Tiny { config, keys }));
        }
        (telling, silent)
    }

    /// Considers changes of two entries, until every rule acts: one may say nothing without the other. Those come
    /// first that say something which the conditions of the rules left over ask for.
    pub(super) fn pairs(
        &mut self,
        base: &Tiny,
        telling: &[(Change, Tiny)],
        mut silent: Vec<Change>,
    ) {
        let left: Vec<&Rule> = unused_rules(self.spec, self.map, &self.covered).collect();
        if left.is_empty() {
            return;
        }
        let asked = self.asked(&left);
        let is_asked = |change: &Change| {
            let mut rules = self.map.keys.iter().filter(|rule| asked.contains(rule.to.as_str()));
            rules.any(|rule| rule.from.contains(&change.path))
        };
        silent.sort_by_key(|change| !is_asked(change));
        let says = |(change, tiny): &&(Change, Tiny)| {
            asked.iter().any(|name| match name.strip_prefix("config.") {
                Some(path) => change.path == path,
                None => tiny.keys.hparams.get(*name) != base.keys.hparams.get(*name),
            })
        };
        // Of a rule without a condition the architecture says when it acts: any change may matter.
        let is_open = left.iter().any(|rule| rule.when.is_none());
        let n_most = if is_open { [MAX_PAIRS[0]; 2] } else { MAX_PAIRS };
        let (near, far): (Vec<_>, Vec<_>) = telling.iter().partition(says);
        for (firsts, n_most) in [near, far].into_iter().zip(n_most) {
            let with_silent =
                firsts.iter().flat_map(|first| silent.iter().map(move |second| (first, second)));
            let others = telling.iter().map(|(change, _)| change);
            let with_telling =
                firsts.iter().flat_map(|first| others.clone().map(move |second| (first, second)));
            let pairs = with_silent.take(n_most).chain(with_telling.take(n_most));
            for ((first, tiny), second) in pairs {
                if first.path == second.path {
                    continue;
                }
                let config = second.apply(&tiny.config);
                let Some(keys) = self.read(&config) else { continue };
                if self.is_new(&keys.hparams)
                    && self.consider(&format!("{first} {second}"), &config)
                    && unused(self.spec, self.map, &self.covered).is_empty()
                {
                    return;
                }
            }
        }
    }

    /// The names that the conditions of rules ask for, and of the tensors that they make.
    fn asked(&self, rules: &[&'a Rule]) -> BTreeSet<&'a str> {
        let groups = self.spec.arch(&self.map.arch).into_iter().flat_map(|arch| &arch.tensors);
        let of_tensors = groups.filter(|group| {
            let mut to = rules.iter().flat_map(|rule| &rule.to);
            to.any(|to| group.names.iter().any(|name| to.matches(&name.text).is_some()))
        });
        let of_tensors = of_tensors.filter_map(|group| group.when.as_ref());
        let of_rules = rules.iter().filter_map(|rule| rule.when.as_ref());
        of_rules.chain(of_tensors).flat_map(|when| when.names()).collect()
    }

    /// Whether no config that was considered says the same; it is one from here on.
    fn is_new(&mut self, hparams: &Hparams) -> bool {
        let is_new = !self.seen.iter().any(|seen| tiny::alike(seen, hparams));
        if is_new {
            self.seen.push(hparams.clone());
        }
        is_new
    }

    fn read(&self, config: &Json) -> Option<Keys> {
        keys::read(self.spec, self.map, self.spec.arch(&self.map.arch)?, config).ok()
    }
}
