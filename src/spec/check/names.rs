//! Every name in an expression of the data files is one that has a value there.

use crate::spec::Spec;
use crate::spec::arch::Arch;
use crate::spec::expr::Expr;
use crate::spec::map::{Each, KeyRule, Map, Op, Write};

use super::rule::has;

/// What is wrong with the expressions of roles, keys and witnesses.
pub(super) fn of_standard(spec: &Spec) -> Vec<String> {
    let known = |name: &str| name == "i" || spec.key(name).is_some();
    let roles = spec.roles.iter().flat_map(|role| {
        let rope = role.rope.iter().flat_map(|rope| [&rope.heads, &rope.dim]);
        let exprs = role.shape.iter().flatten().chain(rope);
        exprs.map(|expr| (format!("roles: `{}`", role.template.text), expr))
    });
    let keys = spec
        .keys
        .iter()
        .filter_map(|key| key.when.as_ref().map(|when| (format!("hparams: `{}`", key.name), when)));
    let witnesses = spec
        .witnesses
        .iter()
        .map(|witness| (format!("hparams: the witness `{}`", witness.tensor.text), &witness.expr));
    let all = roles.chain(keys).chain(witnesses);
    all.flat_map(|(at, expr)| unknown(&at, expr, &known)).collect()
}

/// What is wrong with the expressions of an architecture.
pub(super) fn of_arch(spec: &Spec, arch: &Arch) -> Vec<String> {
    let known = |name: &str| name == "i" || spec.key(name).is_some();
    let at = format!("arch/{}", arch.id);
    arch.conditions().flat_map(|expr| unknown(&at, expr, &known)).collect()
}

/// What is wrong with the expressions of a mapping.
pub(super) fn of_map(spec: &Spec, map: &Map) -> Vec<String> {
    let at = format!("map/{}/{}", map.format, map.name);
    let key = |name: &str| spec.key(name).is_some() || name.starts_with("tokens.");
    let mut problems = Vec::new();
    for rule in &map.rules {
        let known = |name: &str| {
            let (variable, index) = name.split_once('.').unwrap_or((name, ""));
            let each = |(each, values): &(String, Each)| each == variable && has(values, index);
            key(name) || rule.each.iter().any(each)
        };
        let from = rule.from.first().map_or("", |from| &from.text);
        let at = format!("{at}: `{from}`");
        let mut exprs: Vec<&Expr> = rule.when.iter().collect();
        exprs.extend(rule.over.iter().map(|(_, count)| count));
        exprs.extend(counts(&rule.each));
        of_ops(&rule.ops, &mut exprs);
        problems.extend(exprs.into_iter().flat_map(|expr| unknown(&at, expr, &known)));
    }
    for drop in &map.drops {
        let known = |name: &str| key(name) || drop.each.iter().any(|(each, _)| each == name);
        let at = format!("{at}: `{}`", drop.name.text);
        let mut exprs: Vec<&Expr> = counts(&drop.each).chain(&drop.when).collect();
        if let Some(make) = &drop.make {
            exprs.extend(&make.shape);
            exprs.extend(
                [&make.value, &make.values, &make.window, &make.theta, &make.dim]
                    .into_iter()
                    .flatten(),
            );
        }
        problems.extend(exprs.into_iter().flat_map(|expr| unknown(&at, expr, &known)));
    }
    for turned in &map.turned {
        let known = |name: &str| key(name) || turned.each.iter().any(|(each, _)| each == name);
        let at = format!("{at}: `{}`", turned.names.first().map_or("", |name| &name.text));
        let exprs = counts(&turned.each).chain(turned.shapes.iter().flatten());
        problems.extend(exprs.flat_map(|expr| unknown(&at, expr, &known)));
    }
    for rule in &map.keys {
        problems.extend(of_key(spec, map, rule, &at));
    }
    let config = |name: &str| name.starts_with("config.");
    problems.extend(map.when.iter().flat_map(|expr| unknown(&at, expr, &config)));
    problems.extend(map.claims_untyped.iter().flat_map(|expr| unknown(&at, expr, &key)));
    problems
}

fn of_key(spec: &Spec, map: &Map, rule: &KeyRule, at: &str) -> Vec<String> {
    let at = format!("{at}: `{}`", rule.to);
    let key = |name: &str| {
        let own = map.keys.iter().any(|rule| rule.to == name);
        own || name.starts_with("config.") || spec.key(name).is_some()
    };
    let with = |more: &'static [&'static str]| move |name: &str| more.contains(&name) || key(name);
    let mut problems = Vec::new();
    let mut check = |expr: &Expr, known: &dyn Fn(&str) -> bool| {
        problems.extend(unknown(&at, expr, known));
    };
    let KeyRule { expr, back, otherwise, each, value, when, write, .. } = rule;
    [otherwise, value, when].into_iter().flatten().for_each(|expr| check(expr, &key));
    [expr, back].into_iter().flatten().for_each(|expr| check(expr, &with(&["x"])));
    if let Some(each) = each {
        check(&each.count, &key);
        check(&each.value, &with(&["i"]));
        check(&each.rest, &with(&["i"]));
    }
    for place in write.iter().flatten() {
        if let Write::Rule { when, value, .. } = place {
            let both = [when, value].into_iter().flatten();
            both.for_each(|expr| check(expr, &with(&["x", "foreign", "i"])));
        }
    }
    problems
}

fn counts(each: &[(String, Each)]) -> impl Iterator<Item = &Expr> {
    each.iter().filter_map(|(_, values)| match values {
        Each::Count(count) => Some(count),
        Each::Texts(_) => None,
    })
}

fn of_ops<'a>(ops: &'a [Op], exprs: &mut Vec<&'a Expr>) {
    for op in ops {
        match op {
            Op::Reshape { from, to } => exprs.extend(from.iter().chain(to)),
            Op::Split { sizes, .. } => exprs.extend(sizes),
            Op::SwapHalves { heads } => exprs.push(heads),
            Op::RopeHalf { heads, dim, .. } => exprs.extend([heads, dim]),
            Op::Blocks { n, .. }
            | Op::UnusedRows { n }
            | Op::ZeroRows { n }
            | Op::MissingRows { n } => exprs.push(n),
            Op::Add { c } | Op::Scale { c } | Op::Divide { c } => exprs.push(c),
            Op::DivideRows { sizes, c } => exprs.extend(sizes.iter().chain([c])),
            Op::Each { ops } => ops.iter().for_each(|ops| of_ops(ops, exprs)),
            Op::Transpose { .. }
            | Op::Stack { .. }
            | Op::QkvConcat
            | Op::QkvGrouped
            | Op::Pairs { .. }
            | Op::NegExp
            | Op::LnNeg => {}
        }
    }
}

fn unknown(at: &str, expr: &Expr, known: &dyn Fn(&str) -> bool) -> Vec<String> {
    let unknown = expr.names().into_iter().filter(|name| !known(name));
    unknown.map(|name| format!("{at}: `{}`: there is no `{name}` here", expr.text)).collect()
}
