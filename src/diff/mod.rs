//! What changed between two versions of a model, and whom it breaks.
//!
//! Two manifests are enough. What only files or weights can tell is added where they are at hand,
//! and may only refine the verdict: a change that manifests cannot judge counts as the worst that
//! it can be, and says so.
//!
//! Tensors are equal by their hashes and by nothing else; statistics describe a change that is
//! proven already.

mod deep;
mod model;
pub mod rules;
mod tensors;
mod tokenizer;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::exec::compare::Values;
use crate::manifest::{Census, Manifest};
use crate::spec::Spec;
use crate::version::{Kind, Version};

use self::rules::{Class, Consumer, Rule};

pub use self::deep::deepen;
#[cfg(feature = "cli")]
pub(crate) use self::tensors::prefixes;

/// The schema of [`Diff`].
pub const SCHEMA: &str = "llmstd.diff/1";

/// What changed between two versions.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Diff {
    /// `SCHEMA`.
    pub schema: &'static str,
    /// The old version.
    pub old: Side,
    /// The new version.
    pub new: Side,
    /// What it comes to.
    pub verdict: Verdict,
    /// Whether the two share each digest of the manifest; `null` where neither has the aspect.
    pub same: BTreeMap<&'static str, Option<bool>>,
    /// How many tensors have the same name, dtype, shape and bytes.
    pub equal_tensors: u64,
    /// Whether the changed weights were read.
    pub deep: bool,
    /// Every change, in the order of the rules.
    pub changes: Vec<Change>,
    /// The tensors whose values were compared, the furthest apart first: by the relative norm of the
    /// difference, then by its greatest element. Each is the subject of a change that has the values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<String>,
}

/// One of two versions.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Side {
    /// The path it was given by.
    pub path: String,
    /// What it is: `package`, `manifest`, `planned` (a foreign checkpoint in the standard's terms)
    /// or `plain` (one under its own names).
    pub kind: &'static str,
    /// The architecture, if it is known.
    pub architecture: Option<String>,
    /// The digest of the whole model.
    pub model: Option<String>,
    /// The number of tensors.
    pub tensors: u64,
    /// Of how many tensors a manifest was believed: their bytes were not read.
    pub believed: u64,
    /// How many tensors, elements and bytes there are of each dtype.
    pub dtypes: BTreeMap<String, Census>,
}

/// What a difference comes to.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Verdict {
    /// The worst class among the changes.
    pub class: Class,
    /// The rule that decided it; absent where nothing changed.
    pub rule: Option<&'static str>,
    /// Why, by that rule.
    pub reason: Option<&'static str>,
    /// Whom the changes of that class concern.
    pub concerns: Vec<Consumer>,
    /// Whether something counts as the worst it can be, as only files that are not at hand could
    /// tell.
    pub unproven: bool,
}

/// One change.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Change {
    /// The rule's number, `D102`.
    pub rule: &'static str,
    /// The rule's name.
    pub name: &'static str,
    /// How much it weighs.
    pub class: Class,
    /// Whom it concerns.
    pub concerns: &'static [Consumer],
    /// What changed: a tensor, a hyperparameter, a task, a file …, by its name in the old version
    /// or, where that has none, in the new one.
    pub subject: String,
    /// What happened, in words that stand alone.
    pub message: String,
    /// What it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Json>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Json>,
    /// Why it weighs that much.
    pub reason: &'static str,
    /// Whether it counts as the worst it can be, as only files that are not at hand could tell.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproven: bool,
    /// How far the values are apart, where the weights were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
    /// How one tensor's values lie in the other: `transposed`, where the weights were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// In reports: the same for the same change from run to run, and for changes that are alike; SARIF
    /// and GitLab have it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

impl Change {
    /// A change of this kind.
    fn new(rule: &'static Rule, subject: impl Into<String>, message: impl Into<String>) -> Change {
        Change {
            rule: rule.id,
            name: rule.name,
            class: rule.class,
            concerns: rule.concerns,
            subject: subject.into(),
            message: message.into(),
            old: None,
            new: None,
            reason: rule.reason,
            unproven: false,
            values: None,
            layout: None,
            fingerprint: None,
        }
    }

    /// Says what it was and what it is.
    fn values(mut self, old: impl Serialize, new: impl Serialize) -> Change {
        let json = |value| Some(value).filter(|value: &Json| !value.is_null());
        self.old = json(serde_json::to_value(old).unwrap_or_default());
        self.new = json(serde_json::to_value(new).unwrap_or_default());
        self
    }

    /// Says that it counts as the worst it can be.
    fn unproven(mut self) -> Change {
        self.unproven = true;
        self
    }
}

/// Compares two versions, without reading weights.
pub fn compare(old: &Version, new: &Version, spec: &Spec) -> Diff {
    let mut changes = Vec::new();
    let (before, after) = (
        tensors::wholes(&old.manifest, &spec.layouts),
        tensors::wholes(&new.manifest, &spec.layouts),
    );
    let tensors = tensors::compare(&before, &after, &mut changes);
    model::compare(&old.manifest, &new.manifest, &tensors, spec, &mut changes);
    tokenizer::compare(old, new, &mut changes);
    if tensors.n_equal == before.tensors.len() && tensors.n_equal == after.tensors.len() {
        packing(&old.manifest, &new.manifest, &mut changes);
    }
    let digests = old.manifest.digests.each().into_iter().zip(new.manifest.digests.each());
    let same = digests.map(|((name, old), (_, new))| {
        (name, (old.is_some() || new.is_some()).then_some(old == new))
    });
    let mut diff = Diff {
        schema: SCHEMA,
        old: Side::of(old, spec),
        new: Side::of(new, spec),
        verdict: Verdict::of(&[]),
        same: same.collect(),
        equal_tensors: tensors.n_equal as u64,
        deep: false,
        changes,
        ranking: Vec::new(),
    };
    diff.judge();
    diff
}

impl Diff {
    /// Whether every tensor of both versions has the same name, dtype, shape and bytes.
    pub fn same_weights(&self) -> bool {
        self.equal_tensors != 0
            && self.equal_tensors == self.old.tensors
            && self.equal_tensors == self.new.tensors
    }

    /// The changes whose values were compared, as [`Diff::ranking`] has them.
    pub fn ranked(&self) -> Vec<(&Change, &Values)> {
        let compared = self.changes.iter().filter_map(|one| Some((one, one.values.as_ref()?)));
        let mut ranked: Vec<_> = compared.filter(|(_, values)| values.changed != 0).collect();
        // Where every old value is 0, nothing is further away.
        let far = |values: &Values| {
            let far = values.relative_l2.or(values.max_difference.map(|_| f64::INFINITY));
            (far.unwrap_or(-1.0), values.max_difference.unwrap_or(-1.0))
        };
        ranked.sort_by(|(_, a), (_, b)| {
            let ((a, worst_a), (b, worst_b)) = (far(a), far(b));
            b.total_cmp(&a).then(worst_b.total_cmp(&worst_a))
        });
        ranked
    }

    /// Puts the changes in order, and says what they come to.
    fn judge(&mut self) {
        self.changes.sort_by_key(|change| change.rule);
        self.verdict = Verdict::of(&self.changes);
    }
}

impl Side {
    fn of(version: &Version, spec: &Spec) -> Side {
        let manifest = &version.manifest;
        Side {
            path: version.label.clone(),
            kind: match version.kind {
                Kind::Package => "package",
                Kind::Manifest => "manifest",
                Kind::Planned => "planned",
                Kind::Plain => "plain",
            },
            architecture: architecture(manifest).map(str::to_owned),
            model: manifest.digests.model.clone(),
            tensors: tensors::wholes(manifest, &spec.layouts).tensors.len() as u64,
            believed: version.n_believed,
            dtypes: manifest.dtypes.clone(),
        }
    }
}

impl Verdict {
    fn of(changes: &[Change]) -> Verdict {
        let class = changes.iter().map(|change| change.class).max().unwrap_or(Class::Identical);
        let worst: Vec<&Change> = changes.iter().filter(|change| change.class == class).collect();
        let decided = worst.iter().min_by_key(|change| change.rule);
        let mut concerns: Vec<Consumer> =
            worst.iter().flat_map(|change| change.concerns).copied().collect();
        concerns.sort_unstable();
        concerns.dedup();
        Verdict {
            class,
            rule: decided.map(|change| change.rule),
            reason: decided.map(|change| change.reason),
            concerns,
            unproven: !worst.is_empty() && worst.iter().all(|change| change.unproven),
        }
    }
}

fn architecture(manifest: &Manifest) -> Option<&str> {
    manifest.model.as_ref()?.architecture.as_deref()
}

/// Where the tensors lie, for two versions that hold the same.
fn packing(old: &Manifest, new: &Manifest, changes: &mut Vec<Change>) {
    fn places(manifest: &Manifest) -> Option<Vec<(&str, &str, u64)>> {
        let places = manifest.tensors.iter();
        places.map(|t| Some((t.name.as_str(), t.file.as_deref()?, t.start?))).collect()
    }
    let (Some(old), Some(new)) = (places(old), places(new)) else { return };
    if old == new {
        return;
    }
    let files = |places: &[(&str, &str, u64)]| {
        let files: std::collections::BTreeSet<&str> =
            places.iter().map(|(_, file, _)| *file).collect();
        files.len()
    };
    let (n_old, n_new) = (files(&old), files(&new));
    let files = |n: usize| format!("{n} file{}", if n == 1 { "" } else { "s" });
    let message = format!("the tensors lie in {}, they lay in {}", files(n_new), files(n_old));
    changes.push(Change::new(rules::PACKING_CHANGED, "tensors", message).values(n_old, n_new));
}
