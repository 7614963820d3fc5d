//! Foreign names: which prefix and spellings a file uses, and what each rule is for each layer.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::diagnostic::Diagnostic;
use crate::base::limits::{Backing, Budget};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::package::Value;
use crate::spec::expr::{Expr, Names};
use crate::spec::map::{DropRule, Each, Map, Rule, Spell};
use crate::spec::names::missing;
use crate::spec::template::{Bindings, Template};

/// The tensors of a checkpoint, against which the counts of a config are held.
pub fn backing(checkpoint: &Checkpoint) -> Backing {
    Backing::of(checkpoint.tensors.iter().map(Tensor::logical_shape))
}

/// One rule, for one choice of its variables.
#[derive(Clone, Debug)]
pub struct Instance<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The foreign names.
    pub from: Vec<String>,
    /// Foreign names that may hold the same bytes again.
    pub also: Vec<String>,
    /// The canonical names.
    pub to: Vec<String>,
    /// Foreign names of which one has to be in the file; none: no condition.
    pub requires_any: Vec<String>,
    /// Foreign names of which none may be in the file.
    pub requires_none: Vec<String>,
    /// The choice.
    pub bindings: Bindings,
}

impl Instance<'_> {
    /// Whether a file with these names is one that the rule reads.
    pub fn holds(&self, present: &BTreeSet<&str>) -> bool {
        let here = |name: &String| present.contains(name.as_str());
        (self.requires_any.is_empty() || self.requires_any.iter().any(here))
            && !self.requires_none.iter().any(here)
    }
}

/// One drop, for one choice of its variables.
#[derive(Clone, Debug)]
pub struct DropInstance<'a> {
    /// The drop.
    pub drop: &'a DropRule,
    /// The foreign name.
    pub name: String,
    /// The choice.
    pub bindings: Bindings,
}

/// What a file chose where its format leaves a choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// What names that start with `@` have in front.
    pub prefix: String,
    /// The spellings in use: the mapping's, the file's.
    pub spellings: Vec<[String; 2]>,
}

/// Names with the variables of an instance on top.
pub struct Bound<'a> {
    /// The names below.
    pub names: &'a dyn Names,
    /// The variables.
    pub bindings: &'a Bindings,
}

impl Names for Bound<'_> {
    fn value(&self, name: &str) -> Result<Value, String> {
        match self.bindings.get(name) {
            Some(text) => Ok(match text.parse() {
                Ok(int) => Value::Int(int),
                Err(_) => Value::Symbol(text.clone()),
            }),
            None => self.names.value(name),
        }
    }
}

/// Every instance of every rule of a mapping.
///
/// # Errors
/// A variable or condition has no value, or a count is more than there are tensors for.
pub fn instances<'a>(
    map: &'a Map,
    choices: &Choices,
    names: &dyn Names,
    backing: Backing,
) -> Result<Vec<Instance<'a>>, String> {
    let mut instances = Vec::new();
    let mut budget = Budget::new();
    for rule in &map.rules {
        for bindings in choose(&rule.each, names, backing)? {
            budget.take(1)?;
            let bound = Bound { names, bindings: &bindings };
            if let Some(when) = &rule.when
                && !is_so(when, &bound)?
            {
                continue;
            }
            let fill = |templates: &[Template], bindings: &Bindings| {
                let names = templates.iter().map(|template| template.fill(bindings));
                names
                    .map(|name| name.map(|name| spell(&name, choices)))
                    .collect::<Result<Vec<_>, _>>()
            };
            let (from, also) = match &rule.over {
                None => (fill(&rule.from, &bindings)?, fill(&rule.also, &bindings)?),
                Some((variable, count)) => {
                    let values: Vec<String> = match count.eval(&bound)? {
                        Value::List(items) => items.into_iter().map(text).collect(),
                        _ => {
                            let count = bounded(count, &bound, backing.max_rows(), backing)?;
                            (0..count).map(|index| index.to_string()).collect()
                        }
                    };
                    budget.take(values.len() as u64)?;
                    // Nothing stands for what a hyperparameter counts none of.
                    if values.is_empty() {
                        continue;
                    }
                    let list = |templates: &[Template]| -> Result<Vec<String>, String> {
                        let mut names = Vec::new();
                        for value in &values {
                            let mut bindings = bindings.clone();
                            bindings.insert(variable.clone(), value.clone());
                            names.append(&mut fill(templates, &bindings)?);
                        }
                        Ok(names)
                    };
                    if rule.is_list() {
                        (list(&rule.from)?, fill(&rule.also, &bindings)?)
                    } else {
                        let from = fill(&rule.from, &bindings)?;
                        let mut also = list(&rule.also)?;
                        also.retain(|name| !from.contains(name));
                        (from, also)
                    }
                }
            };
            let to = rule.to.iter().map(|template| template.fill(&bindings));
            instances.push(Instance {
                rule,
                from,
                also,
                requires_any: fill(&rule.requires_any, &bindings)?,
                requires_none: fill(&rule.requires_none, &bindings)?,
                to: to.collect::<Result<_, _>>()?,
                bindings,
            });
        }
    }
    Ok(instances)
}

/// Every instance of every drop of a mapping. Those with `*` at their end are of the names in
/// `present` that begin so.
///
/// # Errors
/// A variable has no value, or a count is more than there are tensors for.
pub fn drops<'a>(
    map: &'a Map,
    choices: &Choices,
    names: &dyn Names,
    present: &BTreeSet<&str>,
    backing: Backing,
) -> Result<Vec<DropInstance<'a>>, String> {
    let mut instances = Vec::new();
    let mut budget = Budget::new();
    for drop in &map.drops {
        for bindings in choose(&drop.each, names, backing)? {
            budget.take(1)?;
            let bound = Bound { names, bindings: &bindings };
            if let Some(when) = &drop.when
                && !when.eval_bool(&bound)?
            {
                continue;
            }
            let fill = |template: &Template| Ok(spell(&template.fill(&bindings)?, choices));
            let beside = drop.requires_any.iter().map(fill).collect::<Result<Vec<_>, String>>()?;
            if !beside.is_empty() && !beside.iter().any(|name| present.contains(name.as_str())) {
                continue;
            }
            let name = fill(&drop.name)?;
            let Some(start) = name.strip_suffix('*') else {
                instances.push(DropInstance { drop, name, bindings });
                continue;
            };
            for name in present.iter().filter(|name| name.starts_with(start)) {
                let (name, bindings) = ((*name).to_owned(), bindings.clone());
                instances.push(DropInstance { drop, name, bindings });
            }
        }
    }
    Ok(instances)
}

/// A count, if it is one that what is there can back.
fn bounded(count: &Expr, names: &dyn Names, most: u64, backing: Backing) -> Result<u64, String> {
    let n = count.eval_size(names)?;
    if most < n {
        return Err(format!("`{}` is {n}, and {backing}", count.text));
    }
    Ok(n)
}

/// Checks that the tensors can be as many as the counts of a mapping. `origins` says where the
/// values of hyperparameters come from.
///
/// # Errors
/// There are too few for a count.
pub fn check_counts(
    map: &Map,
    names: &dyn Names,
    backing: Backing,
    origins: &BTreeMap<String, String>,
) -> Result<(), Diagnostic> {
    fn each(each: &[(String, Each)]) -> impl Iterator<Item = &Expr> {
        each.iter().filter_map(|(_, each)| match each {
            Each::Count(count) => Some(count),
            Each::Texts(_) => None,
        })
    }
    let rules = map.rules.iter().flat_map(|rule| each(&rule.each));
    let layers = rules.chain(map.drops.iter().flat_map(|drop| each(&drop.each)));
    let rows = map.rules.iter().filter_map(|rule| Some(&rule.over.as_ref()?.1));
    let layers = layers.map(|count| (count, backing.max_layers()));
    for (count, most) in layers.chain(rows.map(|count| (count, backing.max_rows()))) {
        // A count without a value is of a rule that does not apply, or told where it does.
        let Ok(n) = count.eval_size(names) else { continue };
        if most < n {
            let name = count.text.as_str();
            let origin = origins.get(name).map(|origin| format!(" (from {origin})"));
            let origin = origin.unwrap_or_default();
            return Err(Diagnostic::error(
                "P024",
                format!("`{name}` is {n}{origin}, and {backing}"),
            )
            .key(name)
            .mismatch(format!("at most {most}"), n)
            .help("the numbers are of another model, or shards of this one are missing"));
        }
    }
    Ok(())
}

/// Every choice of the variables of a rule.
pub(super) fn choose(
    each: &[(String, Each)],
    names: &dyn Names,
    backing: Backing,
) -> Result<Vec<Bindings>, String> {
    let mut choices = vec![Bindings::new()];
    for (variable, each) in each {
        let values: Vec<Vec<String>> = match each {
            Each::Texts(texts) => texts.clone(),
            Each::Count(expr) => match expr.eval(names)? {
                Value::List(items) => items.into_iter().map(|item| vec![text(item)]).collect(),
                _ => {
                    let count = bounded(expr, names, backing.max_layers(), backing)?;
                    (0..count).map(|index| vec![index.to_string()]).collect()
                }
            },
        };
        let n_choices = (choices.len() as u64).saturating_mul(values.len() as u64);
        Budget::new().take(n_choices)?;
        let longer = choices.iter().flat_map(|choice| {
            values.iter().map(|texts| {
                let mut choice = choice.clone();
                match texts.as_slice() {
                    [text] => {
                        choice.insert(variable.clone(), text.clone());
                    }
                    texts => {
                        for (index, text) in texts.iter().enumerate() {
                            choice.insert(format!("{variable}.{index}"), text.clone());
                        }
                    }
                }
                choice
            })
        });
        choices = longer.collect();
    }
    Ok(choices)
}

/// An entry of a list as it stands in a name.
fn text(item: Value) -> String {
    match item {
        Value::Symbol(word) => word,
        other => other.to_string(),
    }
}

pub(super) fn spell(name: &str, choices: &Choices) -> String {
    let mut name = match name.strip_prefix('@') {
        Some(rest) => format!("{}{rest}", choices.prefix),
        None => name.to_owned(),
    };
    for [ours, theirs] in &choices.spellings {
        if let Some(stem) = name.strip_suffix(ours.as_str()) {
            name = format!("{stem}{theirs}");
            break;
        }
    }
    name
}

/// Finds out which prefix and spellings a file uses. `unknown` says what a mapping whose counts have no value is told by.
///
/// # Errors
/// It uses two at once.
pub fn choices(
    map: &Map,
    present: &BTreeSet<&str>,
    names: &dyn Names,
    backing: Backing,
    unknown: &dyn Fn(String) -> Vec<Diagnostic>,
) -> Result<Choices, Vec<Diagnostic>> {
    let mut choices = Choices::default();
    for Spell { ours, theirs } in &map.spells {
        let ends = |end: &str| present.iter().find(|name| name.ends_with(end)).copied();
        match (ends(ours), ends(theirs)) {
            (_, None) => {}
            (None, Some(_)) => choices.spellings.push([ours.clone(), theirs.clone()]),
            (Some(our_name), Some(their_name)) => {
                return Err(vec![
                    Diagnostic::error(
                        "P002",
                        format!("`{our_name}` and `{their_name}` spell one thing in two ways"),
                    )
                    .mismatch(format!("`{ours}` or `{theirs}` throughout"), "both")
                    .help("rename the tensors so that one spelling is left"),
                ]);
            }
        }
    }
    // The prefix under which the most names have a rule; the first of equals.
    let mut counts = Vec::new();
    for prefix in &map.prefixes {
        choices.prefix.clone_from(prefix);
        let known = known_names(map, &choices, names, present, backing).map_err(unknown)?;
        let hits: Vec<&str> =
            present.iter().copied().filter(|name| known.contains(*name)).collect();
        counts.push((hits.len(), prefix));
    }
    let most = counts.iter().map(|(count, _)| *count).max().unwrap_or(0);
    let best = counts.iter().find(|(count, _)| *count == most);
    choices.prefix = best.map(|(_, prefix)| (*prefix).clone()).unwrap_or_default();
    Ok(choices)
}

/// Every foreign name that a rule or a drop reads.
fn known_names(
    map: &Map,
    choices: &Choices,
    names: &dyn Names,
    present: &BTreeSet<&str>,
    backing: Backing,
) -> Result<BTreeSet<String>, String> {
    let rules = instances(map, choices, names, backing)?.into_iter();
    let mut known: BTreeSet<String> =
        rules.flat_map(|instance| instance.from.into_iter().chain(instance.also)).collect();
    known.extend(drops(map, choices, names, present, backing)?.into_iter().map(|drop| drop.name));
    Ok(known)
}

/// Every foreign name that a rule or a drop reads, under any of the prefixes, in the mapping's own
/// spelling; none where a variable has no value.
pub fn known_under_any_prefix(
    map: &Map,
    present: &BTreeSet<&str>,
    names: &dyn Names,
    backing: Backing,
) -> BTreeSet<String> {
    let of = |prefix: &String| {
        let choices = Choices { prefix: prefix.clone(), ..Choices::default() };
        known_names(map, &choices, names, present, backing).unwrap_or_default()
    };
    map.prefixes.iter().flat_map(of).collect()
}

/// How many of the names present a mapping knows.
pub fn n_known(map: &Map, present: &BTreeSet<&str>, names: &dyn Names, backing: Backing) -> usize {
    let Ok(choices) = choices(map, present, names, backing, &|_| Vec::new()) else { return 0 };
    let Ok(known) = known_names(map, &choices, names, present, backing) else { return 0 };
    present.iter().filter(|name| known.contains(**name)).count()
}

/// Whether the condition of a rule holds: not where it asks for the id of a token that the model has not.
fn is_so(when: &Expr, names: &dyn Names) -> Result<bool, String> {
    match when.eval_bool(names) {
        Err(why) if missing(&why).is_some_and(|name| name.starts_with("tokens.")) => Ok(false),
        other => other,
    }
}
