//! Heads: whether one is tied, which bytes decide, and which are there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::planner::Planner;
use super::rule::same;
use crate::base::diagnostic::Diagnostic;
use crate::plan::generic::unreadable;
use crate::plan::names::Instance;
use crate::plan::tasks::{self, HeadRows};
use crate::spec::map::Map;

/// What decides whether a head that is not there is tied.
pub(super) struct Tie<'t> {
    pub(super) map: &'t Map,
    pub(super) config: &'t Json,
    /// What the file's names have in front.
    pub(super) prefix: &'t str,
    pub(super) instances: &'t [Instance<'t>],
}

impl<'a> Planner<'a> {
    /// Decides by bytes whether a head is tied.
    pub(super) fn plan_tie(
        &mut self,
        tie: &Tie<'_>,
        instance: &Instance<'_>,
        tied: &mut bool,
        ties: &mut Vec<[String; 2]>,
    ) {
        let Tie { map, config, prefix: in_front, instances } = *tie;
        let target = instance.rule.tie.as_deref().expect("only tie rules come here");
        let (foreign, canonical) = (instance.from[0].as_str(), instance.to[0].as_str());
        let head = canonical.strip_prefix("heads.").and_then(|rest| rest.split('.').next());
        let Some(&tensor) = self.foreign.get(foreign) else {
            let class = tasks::class_of(map, config);
            let wanted = head.and_then(|head| tasks::class_wants_head(map, class, head));
            let prefix = format!("heads.{}.", head.unwrap_or_default());
            let parts = self.tensors.outputs.iter().any(|output| output.name.starts_with(&prefix));
            // A head that has other parts, none of which is here, is not here either.
            let alone = || {
                let made = instances.iter().flat_map(|instance| &instance.to);
                !made.into_iter().any(|name| name.starts_with(&prefix) && name != canonical)
            };
            if !wanted.unwrap_or_else(|| (*tied || instance.rule.ignore_tie_flag) && alone())
                && !parts
            {
                return; // The checkpoint has no such head.
            }
            // A class may promise a head that was never saved: of one with several parts none is
            // here, or the names are those of a model without a head.
            let headless = wanted == Some(true) && !parts;
            if headless && !self.is_whole_head(&prefix, canonical) {
                return;
            }
            if *tied || instance.rule.ignore_tie_flag {
                *tied = true;
                ties.push([canonical.to_owned(), target.to_owned()]);
            } else if headless
                && in_front.is_empty()
                && map.prefixes.iter().any(|prefix| !prefix.is_empty())
            {
                return;
            } else {
                self.errors.push(
                    Diagnostic::error(
                        "P008",
                        format!("`{foreign}` is missing, and the config says it is not tied"),
                    )
                    .tensor(foreign)
                    .key("tie_embeddings")
                    .help("set tie_word_embeddings to true if the head repeats the embedding"),
                );
            }
            return;
        };
        let original = self.tensors.named_steps().find(|(name, _)| *name == target);
        let original =
            original.and_then(|(_, step)| self.foreign.get(step.from[0].as_str()).copied());
        let equal = original.map_or(Ok(false), |original| same(self.facts, original, tensor));
        match (equal, *tied) {
            (Err(err), _) => self.errors.push(unreadable(foreign, &err.to_string())),
            (Ok(true), flag) if flag || instance.rule.ignore_tie_flag => {
                *tied = true;
                ties.push([canonical.to_owned(), target.to_owned()]);
                self.copies.push([foreign.to_owned(), target.to_owned()]);
            }
            (Ok(equal), flag) => {
                if equal != flag && !instance.rule.ignore_tie_flag {
                    let message = if equal {
                        format!(
                            "`{foreign}` repeats `{target}` and the config says it is not tied; both are kept"
                        )
                    } else {
                        format!(
                            "the config says `{foreign}` is tied, and it differs from `{target}`; both are kept"
                        )
                    };
                    self.findings.push(
                        Diagnostic::warning("P016", message)
                            .tensor(foreign)
                            .key("tie_embeddings")
                            .mismatch(flag, equal)
                            .help("bytes decide; correct tie_word_embeddings in the config"),
                    );
                }
                *tied = false;
                self.plan_rule(instance, &instance.from);
            }
        }
    }

    /// Whether a head needs nothing but its tied projection.
    fn is_whole_head(&self, prefix: &str, projection: &str) -> bool {
        let outputs = self.tensors.outputs.iter().map(|output| output.name.as_str());
        let present: BTreeSet<&str> = outputs.chain([projection]).collect();
        let expected = self.spec.expected(self.arch, self.hparams, &present, self.backing);
        expected.is_ok_and(|expected| {
            let mut parts = expected.iter().filter(|part| part.name.starts_with(prefix));
            parts.all(|part| !part.required || present.contains(part.name.as_str()))
        })
    }

    /// The heads that are there, with the rows of each one's maps.
    pub(super) fn heads(
        &self,
        map: &Map,
        class: Option<&str>,
        ties: &[[String; 2]],
    ) -> BTreeMap<String, HeadRows> {
        let mut heads = BTreeMap::new();
        let outputs = self.tensors.outputs.iter().map(|output| {
            let encoding = self.tensors.encodings.get(&output.name);
            let shape = encoding.map_or(&output.shape, |encoding| &encoding.shape);
            (output.name.as_str(), Some(shape))
        });
        let tied = ties.iter().map(|[tied, _]| (tied.as_str(), None));
        for (name, shape) in outputs.chain(tied) {
            let Some((head, part)) =
                name.strip_prefix("heads.").and_then(|rest| rest.split_once('.'))
            else {
                continue;
            };
            let rows: &mut HeadRows = heads.entry(head.to_owned()).or_default();
            rows.add(part, shape.and_then(|shape| shape.first().copied()));
        }
        // A tied head without tensors of its own is there only if the class does not deny it.
        heads.retain(|head, _| {
            let prefix = format!("heads.{head}.");
            self.tensors.outputs.iter().any(|output| output.name.starts_with(&prefix))
                || tasks::class_wants_head(map, class, head) != Some(false)
        });
        heads
    }
}
