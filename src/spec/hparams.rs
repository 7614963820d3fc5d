//! The hyperparameters: `hparams.toml`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spec;
use super::arch::Arch;
use super::expr::{Expr, Names as _, as_float, as_int, same};
use super::names::{StackNames, own, plain_name, value_of};
use super::template::Template;
use crate::package::{Hparams, Value};

/// One hyperparameter.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// The type of its value.
    pub kind: Kind,
    /// What it counts or measures.
    pub unit: String,
    /// When it is present; always if there is no condition.
    pub when: Option<Expr>,
    /// Whether `null` is a value.
    pub null: bool,
    /// Whether each stack of an encoder-decoder may have its own.
    pub per_stack: bool,
    /// The least legal number.
    pub min: Option<f64>,
    /// The greatest legal number.
    pub max: Option<f64>,
    /// The legal words; any if there are none.
    pub words: Vec<String>,
    /// What a package means that does not have it: of keys that came after the first version.
    pub absent: Option<Value>,
    /// What it is, for people.
    pub about: String,
}

/// The type of a hyperparameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An integer of at least 0.
    Count,
    /// A number.
    Float,
    /// True or false.
    Bool,
    /// One of its words.
    Word,
    /// A list of integers.
    Counts,
    /// A list of numbers.
    Floats,
    /// A list of its words.
    Words,
}

/// A tensor whose shape says what some hyperparameters must be.
#[derive(Clone, Debug)]
pub struct Witness {
    /// The tensor.
    pub tensor: Template,
    /// Which of its dimensions.
    pub axis: usize,
    /// What that dimension must be.
    pub expr: Expr,
}

/// What several hyperparameters must hold together, `[[constraint]]` of `hparams.toml`.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// When it is asked; always if there is no condition.
    pub when: Option<Expr>,
    /// What must be true.
    pub holds: Expr,
    /// What it means, for people.
    pub about: String,
    /// Its id, and what stands in its place in the version below, which asks for more.
    pub loosened: Option<(String, Box<Constraint>)>,
}

/// Something wrong with a set of hyperparameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The key.
    pub key: String,
    /// What kind of thing is wrong.
    pub kind: ProblemKind,
    /// What the standard wants.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// What can be wrong with a hyperparameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// It has to be there and is not.
    Missing,
    /// The standard or this architecture has no such key.
    Unknown,
    /// Its value has the wrong type, or is out of range.
    Value,
    /// The architecture fixes another value.
    Fixed,
    /// It does not go together with other hyperparameters.
    Constraint,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HparamsFile {
    key: Vec<KeyFile>,
    #[serde(default)]
    witness: Vec<WitnessFile>,
    #[serde(default)]
    constraint: Vec<ConstraintFile>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    name: String,
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    unit: String,
    when: Option<String>,
    #[serde(default)]
    null: bool,
    #[serde(default)]
    per_stack: bool,
    min: Option<f64>,
    max: Option<f64>,
    #[serde(default)]
    words: Vec<String>,
    absent: Option<Absent>,
    /// It says a key of a version below again, which it takes the place of.
    #[serde(default)]
    replaces: bool,
    about: String,
}

/// A value for what is not there; `"null"` stands for null.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Absent {
    Bool(bool),
    Int(i64),
    Float(f64),
    Word(String),
}

impl Absent {
    fn value(self) -> Value {
        match self {
            Absent::Bool(value) => Value::Bool(value),
            Absent::Int(value) => Value::Int(value),
            Absent::Float(value) => Value::Float(value),
            Absent::Word(word) if word == "null" => Value::Null,
            Absent::Word(word) => Value::Symbol(word),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WitnessFile {
    tensor: String,
    axis: usize,
    expr: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConstraintFile {
    when: Option<Expr>,
    holds: Expr,
    about: String,
    id: Option<String>,
    loosens: Option<String>,
}

/// What `hparams.toml` has.
pub(super) type Resolved = (Vec<Key>, Vec<Witness>, Vec<Constraint>);

impl HparamsFile {
    pub(super) fn resolve(self) -> Result<Resolved, String> {
        let keys = self.key.into_iter().map(|key| {
            let replaces = key.replaces;
            let key = Key {
                when: key.when.as_deref().map(Expr::parse).transpose()?,
                name: key.name,
                kind: key.kind,
                unit: key.unit,
                null: key.null,
                per_stack: key.per_stack,
                min: key.min,
                max: key.max,
                words: key.words,
                absent: key.absent.map(Absent::value),
                about: key.about,
            };
            Ok((key, replaces))
        });
        let witnesses = self.witness.into_iter().map(|witness| {
            let tensor = Template::parse(&witness.tensor)?;
            Ok(Witness { tensor, axis: witness.axis, expr: Expr::parse(&witness.expr)? })
        });
        let mut constraints: Vec<Constraint> = Vec::with_capacity(self.constraint.len());
        for ConstraintFile { when, holds, about, id, loosens } in self.constraint {
            let constraint = Constraint { when, holds, about, loosened: None };
            let (id, loosens) = match (id, loosens) {
                (Some(id), Some(loosens)) => (id, loosens),
                (None, None) => {
                    constraints.push(constraint);
                    continue;
                }
                _ => return Err("a constraint has `id` and `loosens`, or neither".to_owned()),
            };
            let known = constraints.iter_mut().find(|known| known.holds.text == loosens);
            let known = known.ok_or_else(|| {
                format!("the constraint `{id}` loosens one that is not there: `{loosens}`")
            })?;
            let before = std::mem::replace(known, constraint);
            known.loosened = Some((id, Box::new(before)));
        }
        let keys = put_together(keys.collect::<Result<_, String>>()?)?;
        Ok((keys, witnesses.collect::<Result<_, String>>()?, constraints))
    }
}

/// The keys of all versions: one that says an earlier one again stands in its place.
fn put_together(keys: Vec<(Key, bool)>) -> Result<Vec<Key>, String> {
    let mut all: Vec<Key> = Vec::with_capacity(keys.len());
    for (key, replaces) in keys {
        let name = &key.name;
        match (replaces, all.iter().position(|known| replaces && known.name == *name)) {
            (true, None) => return Err(format!("the key `{name}` replaces one that is not there")),
            (true, Some(at)) => all[at] = key,
            (false, _) => all.push(key),
        }
    }
    Ok(all)
}

impl Key {
    /// What is wrong with a value of this key: what is wanted instead.
    pub fn problem(&self, value: &Value) -> Option<String> {
        if *value == Value::Null {
            return (!self.null).then(|| self.wanted());
        }
        let in_range = |value: &Value| {
            as_float(value).is_some_and(|number| {
                number.is_finite()
                    && self.min.is_none_or(|min| min <= number)
                    && self.max.is_none_or(|max| number <= max)
            })
        };
        let is_count = |value: &Value| {
            matches!(value, Value::Int(_))
                && as_int(value).is_some_and(|int| 0 <= int)
                && in_range(value)
        };
        let is_word = |value: &Value| matches!(value, Value::Symbol(word) if self.words.is_empty() || self.words.contains(word));
        let all = |value: &Value, right: &dyn Fn(&Value) -> bool| matches!(value, Value::List(items) if items.iter().all(right));
        let right = match self.kind {
            Kind::Count => is_count(value),
            Kind::Float => in_range(value),
            Kind::Bool => matches!(value, Value::Bool(_)),
            Kind::Word => is_word(value),
            Kind::Counts => all(value, &is_count),
            Kind::Floats => all(value, &in_range),
            Kind::Words => all(value, &is_word),
        };
        (!right).then(|| self.wanted())
    }

    /// What its values are, in words.
    pub fn wanted(&self) -> String {
        let kind = match self.kind {
            Kind::Count => "an integer of at least 0".to_owned(),
            Kind::Float => "a number".to_owned(),
            Kind::Bool => "true or false".to_owned(),
            Kind::Word if self.words.is_empty() => "a word".to_owned(),
            Kind::Words if self.words.is_empty() => "a list of words".to_owned(),
            Kind::Word => format!("one of {}", self.words.join(", ")),
            Kind::Counts => "a list of integers of at least 0".to_owned(),
            Kind::Floats => "a list of numbers".to_owned(),
            Kind::Words => format!("a list of {}", self.words.join(", ")),
        };
        let min = self.min.map(|min| format!(", at least {min}")).unwrap_or_default();
        let max = self.max.map(|max| format!(", at most {max}")).unwrap_or_default();
        let null = if self.null { ", or null" } else { "" };
        format!("{kind}{min}{max}{null}")
    }

    /// The value in the form the standard writes it: counts as integers, floats as floats.
    pub fn normal(&self, value: Value) -> Value {
        match (self.kind, value) {
            (Kind::Count | Kind::Counts, value @ Value::Float(_)) => {
                as_int(&value).map_or(value, Value::Int)
            }
            (Kind::Float | Kind::Floats, Value::Int(int)) => Value::Float(int as f64),
            (_, Value::List(items)) => {
                Value::List(items.into_iter().map(|item| self.normal(item)).collect())
            }
            (_, value) => value,
        }
    }
}

impl Spec {
    /// The hyperparameter of this name; a stack in front of it is passed over.
    pub fn key(&self, name: &str) -> Option<&Key> {
        let stacked = plain_name(name)
            .and_then(|plain| self.keys.iter().find(|key| key.per_stack && key.name == plain));
        stacked.or_else(|| self.keys.iter().find(|key| key.name == name))
    }

    /// Everything that is wrong with the hyperparameters of a package of this architecture.
    pub fn check_hparams(&self, arch: &Arch, hparams: &Hparams) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut unsure = Vec::new();
        for key in &self.keys {
            let stacks: Vec<Option<&str>> = if key.per_stack {
                arch.stacks.iter().map(|stack| Some(stack.as_str())).collect()
            } else {
                vec![None]
            };
            for stack in stacks {
                let names = StackNames { hparams, tokens: None, stack, layer: None };
                // A condition on a key that is missing itself is told once, for that key.
                let applies = match &key.when {
                    Some(when) => when.eval_bool(&names).unwrap_or_else(|_| {
                        unsure.push(key.name.as_str());
                        false
                    }),
                    None => true,
                };
                let own = stack.and_then(|stack| own(hparams, stack, &key.name));
                let shared = hparams.get(&key.name);
                // What stacks share may be there for another one.
                let others = arch.stacks.iter().any(|other| {
                    let names =
                        StackNames { hparams, tokens: None, stack: Some(other), layer: None };
                    Some(other.as_str()) != stack
                        && key.when.as_ref().is_none_or(|when| when.eval_bool(&names) == Ok(true))
                });
                let value = match (applies, own) {
                    (false, None) if key.per_stack && others => None,
                    _ => own.or(shared).cloned(),
                };
                let name = || match stack {
                    Some(stack) if 1 < arch.stacks.len() => format!("{stack}.{}", key.name),
                    _ => key.name.clone(),
                };
                match (applies, value) {
                    (true, None) if key.absent.is_some() => {}
                    (true, Some(value))
                        if key.absent.as_ref().is_some_and(|of| same(of, &value)) =>
                    {
                        problems.push(Problem {
                            key: name(),
                            kind: ProblemKind::Value,
                            expected: "no such key, as that is what a package without it means"
                                .to_owned(),
                            found: value.to_string(),
                        });
                    }
                    (true, None) => problems.push(Problem {
                        key: name(),
                        kind: ProblemKind::Missing,
                        expected: key.wanted(),
                        found: "nothing".to_owned(),
                    }),
                    (false, Some(value)) => problems.push(Problem {
                        key: name(),
                        kind: ProblemKind::Unknown,
                        expected: format!(
                            "no such key, as `{}` does not hold",
                            key.when.as_ref().map_or("", |when| &when.text)
                        ),
                        found: value.to_string(),
                    }),
                    (true, Some(value)) => {
                        if let Some(wanted) = key.problem(&value) {
                            problems.push(Problem {
                                key: name(),
                                kind: ProblemKind::Value,
                                expected: wanted,
                                found: value.to_string(),
                            });
                        }
                    }
                    (false, None) => {}
                }
            }
        }
        for (name, value) in hparams {
            if self.key(name).is_none() {
                problems.push(Problem {
                    key: name.clone(),
                    kind: ProblemKind::Unknown,
                    expected: "a key of the standard".to_owned(),
                    found: value.to_string(),
                });
            }
        }
        for (name, fixed) in &arch.fixed {
            if let Some(value) = value_of(hparams, name)
                && !same(value, fixed)
            {
                problems.push(Problem {
                    key: name.clone(),
                    kind: ProblemKind::Fixed,
                    expected: fixed.to_string(),
                    found: value.to_string(),
                });
            }
        }
        problems.extend(self.broken_constraints(arch, hparams));
        // A key is not told of for its condition where that has no answer, for a key told of itself.
        let is_sure = |problem: &Problem| {
            problem.kind != ProblemKind::Unknown
                || !unsure
                    .iter()
                    .any(|key| plain_name(&problem.key).unwrap_or(&problem.key) == *key)
        };
        if problems.iter().any(is_sure) {
            problems.retain(is_sure);
        }
        problems
    }

    /// The ids of the constraints that are not kept as they were before they were loosened.
    pub(super) fn loosened(&self, arch: &Arch, hparams: &Hparams) -> Vec<&str> {
        let loosened =
            self.constraints.iter().filter_map(|constraint| constraint.loosened.as_ref());
        let used = loosened.filter(|(_, before)| {
            arch.stacks.iter().any(|stack| before.is_broken(&names_of(hparams, stack)))
        });
        used.map(|(id, _)| id.as_str()).collect()
    }

    /// The constraints that do not hold, once for each stack. One that names a key that is not there is
    /// passed over: either its feature is off, or the key is told of as missing.
    fn broken_constraints(&self, arch: &Arch, hparams: &Hparams) -> Vec<Problem> {
        let mut problems = Vec::new();
        for constraint in &self.constraints {
            for stack in &arch.stacks {
                let names = names_of(hparams, stack);
                if !constraint.is_broken(&names) {
                    continue;
                }
                let keys = constraint.holds.names();
                let mut said: Vec<String> = Vec::new();
                for key in &keys {
                    let Ok(value) = names.value(key) else { continue };
                    let text = format!("{key} = {}", brief(&value));
                    if !said.contains(&text) {
                        said.push(text);
                    }
                }
                let key = keys.first().copied().unwrap_or_default();
                let own = format!("{stack}.{key}");
                let problem = Problem {
                    key: if hparams.contains_key(&own) { own } else { key.to_owned() },
                    kind: ProblemKind::Constraint,
                    expected: format!("{}: {}", constraint.holds.text, constraint.about),
                    found: said.join(", "),
                };
                // What stacks share is told once.
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        problems
    }
}

fn names_of<'a>(hparams: &'a Hparams, stack: &'a str) -> StackNames<'a> {
    StackNames { hparams, tokens: None, stack: Some(stack), layer: None }
}

impl Constraint {
    /// Whether it is asked and does not hold.
    fn is_broken(&self, names: &StackNames<'_>) -> bool {
        let asked = self.when.as_ref().map_or(Ok(true), |when| when.eval_bool(names));
        asked == Ok(true) && self.holds.eval_bool(names) == Ok(false)
    }
}

/// A value on a short line: of a long list its beginning and its length.
fn brief(value: &Value) -> String {
    const MAX_ITEMS: usize = 8;
    match value {
        Value::List(items) if MAX_ITEMS < items.len() => {
            let first: Vec<String> = items[..MAX_ITEMS].iter().map(Value::to_string).collect();
            format!("[{}, … {} in all]", first.join(", "), items.len())
        }
        value => value.to_string(),
    }
}
