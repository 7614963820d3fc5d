//! A difference as text: the verdict first, then what changed, alike changes together.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::anchor::Anchors;
use super::document::{Check, Document, Group, Section, shown};
use super::fingerprint::{fingerprints, mark};
use super::fold::{fill, pattern};
use super::group::groups;
use super::{Context, Report, Style, pretty};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::diff::rules::{self, Class};
use crate::diff::{Change, Diff, Side, prefixes};
use crate::manifest::Census;
use crate::rule::{NEEDS_DEEP, Outcome};

/// A difference, and from which class on it fails.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// The difference.
    pub diff: &'a Diff,
    /// The least class that fails.
    pub fail_on: Class,
}

impl Report for Compared<'_> {
    fn text(&self, context: &Context<'_>) -> String {
        text(self.diff, context.style)
    }

    fn json(&self, context: &Context<'_>) -> serde_json::Result<String> {
        let found = self.findings();
        let groups = groups(&found);
        let [old, new] = self.sides(context);
        let mut marked = self.diff.clone();
        let places = marked.changes.iter_mut().map(|one| &mut one.fingerprint);
        let found: Vec<&Diagnostic> = found.iter().collect();
        mark(&groups, &fingerprints(&groups, &title(&old, &new)), &found, places);
        pretty(&marked)
    }

    fn document(&self, context: &Context<'_>) -> Document {
        let diff = self.diff;
        let mut document = Document::new("diff", context);
        document.passes = diff.verdict.class < self.fail_on;
        document.headline = format!("{}: {}", diff.verdict.class.name(), headline(diff));
        let [old, new] = self.sides(context);
        let title = title(&old, &new);
        let found = self.findings();
        let groups = groups(&found);
        let mut anchors = Anchors::new(std::path::Path::new(&diff.new.path), &new);
        let all = groups.iter().zip(fingerprints(&groups, &title)).map(|(group, fingerprint)| {
            Group::of(group, document.name(group.rule()), fingerprint, &mut anchors, None)
        });
        let all = all.collect();
        let mut facts = vec![("old", self::side(&diff.old)), ("new", self::side(&diff.new))];
        let census = census(&diff.old.dtypes, &diff.new.dtypes);
        if !census.is_empty() {
            facts.push(("dtypes", census.join(", ")));
        }
        let concerns: Vec<&str> = diff.verdict.concerns.iter().map(|one| one.name()).collect();
        if !concerns.is_empty() {
            facts.push(("concerns", concerns.join(", ")));
        }
        document.sections.push(Section {
            fail_on: Level::Error,
            title,
            summary: document.headline.clone(),
            error: None,
            facts,
            groups: all,
            checks: rules::RULES.iter().map(|rule| self.check(rule)).collect(),
        });
        document
    }
}

impl Compared<'_> {
    /// How much a class weighs: an error is what fails.
    fn level(&self, class: Class) -> Level {
        match class {
            class if self.fail_on <= class => Level::Error,
            Class::Identical | Class::Metadata => Level::Note,
            _ => Level::Warning,
        }
    }

    /// The changes as findings, in their order.
    fn findings(&self) -> Vec<Diagnostic> {
        self.diff.changes.iter().map(|one| self.finding(one)).collect()
    }

    /// How both sides are told.
    fn sides(&self, context: &Context<'_>) -> [String; 2] {
        let side = |side: &Side| shown(std::path::Path::new(&side.path), &context.root);
        [side(&self.diff.old), side(&self.diff.new)]
    }

    fn finding(&self, change: &Change) -> Diagnostic {
        let level = self.level(change.class);
        let finding = Diagnostic::new(change.rule, level, change.message.clone() + &note(change));
        let finding = finding.help(format!("{}: {}", change.class.name(), change.reason));
        match is_about_tensor(change.name) {
            true => finding.tensor(&change.subject),
            false => finding.key(&change.subject),
        }
    }

    fn check(&self, rule: &'static rules::Rule) -> Check {
        let found = self.diff.changes.iter().filter(|change| change.rule == rule.id);
        let worst = found.map(|change| self.level(change.class)).max();
        let needs_bytes = [rules::VALUES_NOT_FINITE, rules::LAYOUT_CHANGED]
            .iter()
            .any(|known| known.id == rule.id);
        let (outcome, why) = match worst {
            Some(Level::Error) => (Outcome::Fail, None),
            None if needs_bytes && !self.diff.deep => {
                (Outcome::Skipped, Some(NEEDS_DEEP.to_owned()))
            }
            _ => (Outcome::Pass, None),
        };
        Check { rule: rule.id, name: rule.name, level: rule.class.name(), outcome, why }
    }
}

/// What was compared.
fn title(old: &str, new: &str) -> String {
    format!("{old} → {new}")
}

/// Whether the subject of a change is a tensor, by the name of its rule.
fn is_about_tensor(rule: &str) -> bool {
    ["tensor-", "head-", "values-", "dtype-", "layout-"].iter().any(|start| rule.starts_with(start))
}

/// Lines of one kind of change that are shown before the others are counted.
const SHOWN: usize = 20;

/// A difference for people.
pub fn text(diff: &Diff, style: Style) -> String {
    let options = Options { style, limit: style.limit(SHOWN) };
    let mut text = String::new();
    let verdict = &diff.verdict;
    let class = paint(verdict.class.name(), verdict.class, options);
    let _ = writeln!(text, "{class}: {}", headline(diff));
    if !verdict.concerns.is_empty() {
        let names: Vec<&str> = verdict.concerns.iter().map(|one| one.name()).collect();
        let _ = writeln!(text, "concerns {}", names.join(", "));
    }
    text.push('\n');
    let _ = writeln!(text, "old  {}", side(&diff.old));
    let _ = writeln!(text, "new  {}", side(&diff.new));
    let census = census(&diff.old.dtypes, &diff.new.dtypes);
    if !census.is_empty() {
        let _ = writeln!(text, "dtypes  {}", census.join(", "));
    }
    let mut groups: Vec<Vec<&Change>> = Vec::new();
    for change in &diff.changes {
        match groups.last_mut() {
            Some(group) if group[0].rule == change.rule => group.push(change),
            _ => groups.push(vec![change]),
        }
    }
    // The worst first; the changes are in the order of the rules already.
    groups.sort_by_key(|group| std::cmp::Reverse(group[0].class));
    for group in groups {
        let first = group[0];
        let label = format!("{}[{}]", first.class.name(), first.rule);
        let label = paint(&label, first.class, options);
        let _ = writeln!(text, "\n{label} {}: {}", first.name, first.reason);
        if group.iter().any(|change| change.unproven) {
            text.push_str("  (counted as the worst it can be: compare the folders to know)\n");
        }
        let lines = lines(&group);
        for line in lines.iter().take(options.limit) {
            let _ = writeln!(text, "  {line}");
        }
        if options.limit < lines.len() {
            let _ = writeln!(text, "  … and {} more; -v shows all", lines.len() - options.limit);
        }
    }
    text.push_str(&ranking(diff, options));
    let same: Vec<&str> =
        diff.same.iter().filter(|(_, same)| **same == Some(true)).map(|(name, _)| *name).collect();
    if !diff.changes.is_empty() && !same.is_empty() {
        let _ = writeln!(text, "\nthe same: {}", same.join(", "));
    }
    text
}

/// How a difference is printed.
#[derive(Clone, Copy, Debug)]
struct Options {
    style: Style,
    /// The most lines of one kind of change.
    limit: usize,
}

/// Why the verdict is what it is, in one line.
fn headline(diff: &Diff) -> String {
    let believed = match diff.old.believed.max(diff.new.believed) {
        0 => "",
        _ => ", by their manifests; bytes not read: --deep reads them",
    };
    let Some(rule) = diff.verdict.rule else {
        let model = diff.new.model.as_deref().and_then(|model| model.get(..12));
        return match model {
            Some(model) if diff.old.model == diff.new.model => {
                format!("the same model, {model}{believed}")
            }
            _ => format!("no difference{believed}"),
        };
    };
    let group: Vec<&Change> = diff.changes.iter().filter(|change| change.rule == rule).collect();
    let reason = diff.verdict.reason.unwrap_or_default();
    let reason = reason.split_once(": ").map_or(reason, |(first, _)| first);
    let what = match group.as_slice() {
        [change] => change.message.clone(),
        changes => count(changes, diff),
    };
    let weights = match diff.same_weights() {
        true => format!("weights identical ({0} of {0}){believed}; ", diff.equal_tensors),
        false => String::new(),
    };
    format!("{weights}{what}; {reason} [{rule}]")
}

/// How far each tensor that was read is apart, the furthest first.
fn ranking(diff: &Diff, options: Options) -> String {
    let ranked = diff.ranked();
    if ranked.is_empty() {
        return String::new();
    }
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3e}"));
    let mut text = "\n  relative L2      cosine     max abs  tensor\n".to_owned();
    for (change, values) in ranked.iter().take(options.limit) {
        let cosine = values.cosine.map_or("-".to_owned(), |cosine| format!("{cosine:.7}"));
        let (l2, worst) = (number(values.relative_l2), number(values.max_difference));
        let _ = writeln!(text, "{l2:>13}  {cosine:>10}  {worst:>10}  {}", change.subject);
    }
    if options.limit < ranked.len() {
        let _ = writeln!(text, "  … and {} more; -v shows all", ranked.len() - options.limit);
    }
    text
}

fn count(changes: &[&Change], diff: &Diff) -> String {
    let n = changes.len();
    let name = changes[0].name;
    let verb = match name {
        "tensor-added" | "head-added" => "tensors are new",
        "tensor-removed" => "tensors are gone",
        "tensor-renamed" => "tensors have other names",
        "tensor-reshaped" => "tensors have other shapes",
        "values-changed" => {
            return format!("{n} of {} tensors hold other values", diff.new.tensors);
        }
        "dtype-narrowed" | "dtype-widened" | "dtype-changed" => {
            return format!("{n} of {} tensors have another dtype", diff.new.tensors);
        }
        "semantics-changed" | "dimension-changed" | "hyperparameter-changed" => {
            let keys: Vec<&str> = changes.iter().map(|change| change.subject.as_str()).collect();
            return match keys.as_slice() {
                [a, b, c, _, ..] => format!("{a}, {b}, {c} and {} more changed", keys.len() - 3),
                keys => format!("{} changed", keys.join(", ")),
            };
        }
        _ => return format!("{n} × {name}"),
    };
    format!("{n} {verb}")
}

fn side(side: &Side) -> String {
    let kind = match side.kind {
        "package" => "package",
        "manifest" => "manifest alone",
        "planned" => "foreign, in the standard's terms",
        _ => "foreign, under its own names",
    };
    let bytes: u64 = side.dtypes.values().fold(0, |sum, census| sum.saturating_add(census.bytes));
    let model = side.model.as_deref().and_then(|model| model.get(..12)).unwrap_or("-");
    let arch = side.architecture.as_deref().unwrap_or("architecture not known");
    format!(
        "{}  ({kind}; {arch}, {} tensors, {bytes} bytes, model {model})",
        side.path, side.tensors
    )
}

fn census(old: &BTreeMap<String, Census>, new: &BTreeMap<String, Census>) -> Vec<String> {
    if old == new {
        return Vec::new();
    }
    let all: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let n = |census: &BTreeMap<String, Census>, name: &str| {
        census.get(name).map_or(0, |census| census.tensors)
    };
    let line = |name: &String| match (n(old, name), n(new, name)) {
        (old, new) if old == new => format!("{name} {new}"),
        (old, new) => format!("{name} {old} → {new}"),
    };
    all.into_iter().map(line).collect()
}

/// The lines of changes of one kind.
fn lines(group: &[&Change]) -> Vec<String> {
    match group[0].name {
        "tensor-renamed" => renames(group),
        "tensor-added" | "tensor-removed" | "head-added" | "tensor-reshaped" | "values-changed"
        | "dtype-changed" | "dtype-narrowed" | "dtype-widened" | "layout-changed"
        | "values-not-finite"
            if 1 < group.len() || group[0].values.is_some() =>
        {
            tensors(group)
        }
        _ => group.iter().map(|change| change.message.clone() + &note(change)).collect(),
    }
}

fn note(change: &Change) -> String {
    change.layout.as_ref().map_or_else(String::new, |layout| format!(", {layout}"))
}

/// Renames by how the names changed.
fn renames(group: &[&Change]) -> Vec<String> {
    let mut kinds: BTreeMap<(String, String), Vec<(String, String)>> = BTreeMap::new();
    let mut order = Vec::new();
    for change in group {
        let new = change.new.as_ref().and_then(|new| new.as_str()).unwrap_or_default();
        let (from, to, _) = prefixes(&change.subject, new);
        let kind = (pattern(from).0, pattern(to).0);
        if !kinds.contains_key(&kind) {
            order.push(kind.clone());
        }
        kinds.entry(kind).or_default().push((change.subject.clone(), new.to_owned()));
    }
    let mut lines = Vec::new();
    for kind in order {
        let pairs = &kinds[&kind];
        match pairs.as_slice() {
            [(old, new)] => lines.push(format!("`{old}` → `{new}`")),
            pairs => {
                let (from, to) = &kind;
                let (old, new) = &pairs[0];
                lines.push(format!(
                    "{} tensors renamed: `{from}*` → `{to}*` (`{old}` → `{new}` …)",
                    pairs.len()
                ));
            }
        }
    }
    lines
}

/// Tensors by their names with the numbers left open, and what they share.
fn tensors(group: &[&Change]) -> Vec<String> {
    #[derive(Default)]
    struct Kind {
        /// Of each place of a number, those of all rows.
        numbers: Vec<Vec<u64>>,
        rows: usize,
        worst: Option<Worst>,
    }
    let mut kinds: BTreeMap<(String, String), Kind> = BTreeMap::new();
    let mut order = Vec::new();
    for change in group {
        let (name, numbers) = pattern(&change.subject);
        let key = (name, detail(change));
        if !kinds.contains_key(&key) {
            order.push(key.clone());
        }
        let kind = kinds.entry(key).or_default();
        kind.rows += 1;
        kind.numbers.resize(numbers.len(), Vec::new());
        for (of_place, number) in kind.numbers.iter_mut().zip(numbers) {
            of_place.push(number);
        }
        if let Some(worst) = Worst::of(change) {
            kind.worst.get_or_insert_default().add(&worst);
        }
    }
    let line = |key: &(String, String)| {
        let kind = &kinds[key];
        let (name, detail) = key;
        let mut line = fill(name, &kind.numbers);
        if 1 < kind.rows {
            let _ = write!(line, "  ×{}", kind.rows);
        }
        if !detail.is_empty() {
            let _ = write!(line, "  {detail}");
        }
        if let Some(worst) = &kind.worst {
            let _ = write!(line, "  {}", worst.text());
        }
        line
    };
    order.iter().map(line).collect()
}

/// What changed about a tensor, where that is short.
fn detail(change: &Change) -> String {
    let word = |value: &serde_json::Value| match value {
        serde_json::Value::String(word) => word.clone(),
        value => value.to_string(),
    };
    let detail = match (change.name, &change.old, &change.new) {
        ("values-changed", ..) => String::new(),
        (_, Some(old), Some(new)) => format!("{} → {}", word(old), word(new)),
        (_, Some(one), None) | (_, None, Some(one)) => word(one),
        _ => String::new(),
    };
    let detail = detail + &note(change);
    detail.strip_prefix(", ").map_or(detail.clone(), str::to_owned)
}

/// The worst of several tensors.
#[derive(Clone, Debug, Default)]
struct Worst {
    elements: u64,
    changed: u64,
    difference: Option<f64>,
    relative: Option<f64>,
}

impl Worst {
    fn of(change: &Change) -> Option<Worst> {
        let values = change.values.as_ref()?;
        Some(Worst {
            elements: values.elements,
            changed: values.changed,
            difference: values.max_difference,
            relative: values.max_relative_difference,
        })
    }

    fn add(&mut self, other: &Worst) {
        self.elements = self.elements.saturating_add(other.elements);
        self.changed = self.changed.saturating_add(other.changed);
        let max = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        self.difference = max(self.difference, other.difference);
        self.relative = max(self.relative, other.relative);
    }

    fn text(&self) -> String {
        if self.changed == 0 {
            return "every value is equal".to_owned();
        }
        let share = 100.0 * self.changed as f64 / self.elements.max(1) as f64;
        let mut text = format!("{share:.3}% of values changed");
        if let Some(difference) = self.difference {
            let _ = write!(text, ", by at most {difference:.3e}");
        }
        if let Some(relative) = self.relative {
            let _ = write!(text, " (relative {relative:.3e})");
        }
        text
    }
}

fn paint(text: &str, class: Class, options: Options) -> String {
    let code = match class {
        Class::Identical | Class::Metadata => "32",
        Class::Weights | Class::Compatible => "33",
        Class::Breaking => "31",
    };
    options.style.paint(text, code)
}
