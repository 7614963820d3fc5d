//! Static checks of the rules of a mapping.

use std::collections::BTreeMap;

use crate::spec::Spec;
use crate::spec::expr::Expr;
use crate::spec::map::{Each, Map, Op, Rule};
use crate::spec::template::{Bindings, Template};

/// What is wrong with the rules of a mapping.
pub(super) fn check(spec: &Spec, map: &Map) -> Vec<String> {
    let mut problems = Vec::new();
    for rule in &map.rules {
        let from = rule.from.first().map_or("", |from| &from.text);
        let mut tell = |why: String| problems.push(format!("`{from}`: {why}"));
        unbound(rule).into_iter().for_each(&mut tell);
        arity(rule).err().into_iter().for_each(&mut tell);
        without_inverse(&rule.ops).into_iter().for_each(&mut tell);
        without_role(spec, rule).into_iter().for_each(&mut tell);
        if let Some((over, _)) = &rule.over
            && !rule.from.iter().chain(&rule.also).any(|name| name.has(over))
        {
            tell(format!("it is a list over {{{over}}}, which no foreign name has"));
        }
        if let Some(tie) = &rule.tie
            && spec.role(tie).is_none()
        {
            tell(format!("there is no role `{tie}`"));
        }
    }
    problems
}

/// Variables of names that nothing gives a value.
fn unbound(rule: &Rule) -> Vec<String> {
    let bound = |variable: &str, over: bool| {
        let (name, index) = variable.split_once('.').unwrap_or((variable, ""));
        let is_over = rule.over.iter().any(|(over, _)| over == name);
        over && is_over || rule.each.iter().any(|(each, values)| each == name && has(values, index))
    };
    // The standard's side is one name for the whole list.
    let foreign =
        rule.from.iter().chain(&rule.also).chain(&rule.requires_any).chain(&rule.requires_none);
    let both = foreign.map(|name| (name, true)).chain(rule.to.iter().map(|name| (name, false)));
    both.flat_map(|(template, over)| {
        let computed = move |text: &str| {
            Expr::parse(text)
                .is_ok_and(|expr| expr.names().into_iter().all(|name| bound(name, over)))
        };
        let unbound = template
            .variables()
            .filter(move |variable| !bound(variable, over) && !computed(variable));
        unbound.map(|variable| format!("`{}`: {{{variable}}} is not bound", template.text))
    })
    .collect()
}

/// Whether a variable has an entry of this index; none stands for the only one.
pub(super) fn has(values: &Each, index: &str) -> bool {
    match values {
        Each::Count(_) => index.is_empty(),
        Each::Texts(texts) => texts.iter().all(|texts| match index {
            "" => texts.len() == 1,
            index => index.parse().is_ok_and(|index: usize| index < texts.len()),
        }),
    }
}

/// How many tensors there are between two ops: a list has any number.
#[derive(Clone, Copy, PartialEq)]
enum Tensors {
    Some(usize),
    List,
}

impl std::fmt::Display for Tensors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Tensors::Some(n) => write!(f, "{n}"),
            Tensors::List => f.write_str("a list of"),
        }
    }
}

/// Each op is given as many tensors as it takes, and the last leaves as many as there are names.
fn arity(rule: &Rule) -> Result<(), String> {
    let n_from = rule.from.len();
    let start = if rule.is_list() { Tensors::List } else { Tensors::Some(n_from) };
    let n = chain(&rule.ops, start)?;
    if n == Tensors::Some(rule.to.len()) {
        return Ok(());
    }
    Err(format!("its ops make {n} tensors, and {} are named", rule.to.len()))
}

fn chain(ops: &[Op], mut n: Tensors) -> Result<Tensors, String> {
    for op in ops {
        let cut = |parts: usize, name: &str| match n {
            Tensors::Some(1) => Ok(Tensors::Some(parts)),
            n => Err(format!("{name} cuts one tensor, and is given {n}")),
        };
        n = match op {
            Op::Split { sizes, .. } => cut(sizes.len(), "split")?,
            Op::QkvConcat => cut(3, "qkv_concat")?,
            Op::QkvGrouped => cut(3, "qkv_grouped")?,
            Op::Blocks { parts, .. } => cut(*parts, "blocks")?,
            Op::Pairs { .. } => cut(2, "pairs")?,
            Op::Stack { .. } => Tensors::Some(1),
            Op::Each { ops } => {
                if n != Tensors::Some(ops.len()) {
                    return Err(format!("each has {} chains for {n} tensors", ops.len()));
                }
                for ops in ops {
                    if chain(ops, Tensors::Some(1))? != Tensors::Some(1) {
                        return Err("a chain of each makes several tensors".to_owned());
                    }
                }
                n
            }
            Op::Transpose { .. }
            | Op::Reshape { .. }
            | Op::RopeHalf { .. }
            | Op::SwapHalves { .. }
            | Op::UnusedRows { .. }
            | Op::Add { .. }
            | Op::Scale { .. }
            | Op::Divide { .. }
            | Op::DivideRows { .. }
            | Op::ZeroRows { .. }
            | Op::MissingRows { .. }
            | Op::NegExp
            | Op::LnNeg => n,
        };
    }
    Ok(n)
}

/// Ops that lose something whatever they are given.
fn without_inverse(ops: &[Op]) -> Vec<String> {
    let mut problems = Vec::new();
    for op in ops {
        match op {
            Op::Transpose { perm: Some(perm) } => {
                let mut axes = perm.clone();
                axes.sort_unstable();
                if !axes.iter().copied().eq(0..perm.len()) {
                    problems.push(format!("transpose {perm:?} is no order of its axes"));
                }
            }
            Op::Scale { c } if c.text.parse() == Ok(0.0) => {
                problems.push("scale by 0 does not come back".to_owned());
            }
            Op::Divide { c } if c.text.parse() == Ok(0.0) => {
                problems.push("a factor of 0 does not come back".to_owned());
            }
            Op::Blocks { parts: 0, .. } => problems.push("blocks of no parts".to_owned()),
            Op::Each { ops } => {
                problems.extend(ops.iter().flat_map(|ops| without_inverse(ops)));
            }
            _ => {}
        }
    }
    problems
}

/// Canonical names that no role has.
fn without_role(spec: &Spec, rule: &Rule) -> Vec<String> {
    let mut choices = vec![Bindings::new()];
    for (variable, values) in &rule.each {
        let texts: Vec<Vec<String>> = match values {
            Each::Count(_) => vec![vec!["0".to_owned()]],
            Each::Texts(texts) => texts.clone(),
        };
        let longer = choices.iter().flat_map(|choice| {
            texts.iter().map(|texts| {
                let mut choice = choice.clone();
                for (at, text) in texts.iter().enumerate() {
                    choice.insert(format!("{variable}.{at}"), text.clone());
                }
                if let [text] = texts.as_slice() {
                    choice.insert(variable.clone(), text.clone());
                }
                choice
            })
        });
        choices = longer.collect();
    }
    let name = |template: &Template, choice: &BTreeMap<String, String>| template.fill(choice).ok();
    let names = rule.to.iter().flat_map(|to| choices.iter().filter_map(|choice| name(to, choice)));
    names
        .filter(|name| spec.role(name).is_none())
        .map(|name| format!("`{name}` is the name of no role"))
        .collect()
}
