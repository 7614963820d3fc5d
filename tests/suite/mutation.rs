//! What every rule of every mapping does is held by values: a mapping with one thing wrong in it
//! refuses a fixture, or does not compute what transformers computed.
//!
//! Coverage and shapes cannot see two tensors of one shape that are exchanged, nor rows in another
//! order. So each rule is left out, each op is taken away, and each two canonical names of one
//! shape are exchanged, one at a time; the fixtures of the mapping must notice each. What mappings
//! share by `extends` is one rule: the fixtures of any of them may notice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use llmstd::folder;
use llmstd::package::Hparams;
use llmstd::plan::import;
use llmstd::plan::ops::describe;
use llmstd::spec::Spec;
use llmstd::spec::map::{Each, Map, Op, Rule};
use llmstd::spec::names::StackNames;
use llmstd::spec::template::{Bindings, Template};

use crate::oracle::{Fixture, compare, fixtures, foreign_fixtures, open, spec};

/// Pairs of canonical names whose exchange no fixture can notice, since the model computes the same,
/// in how many mappings, and why. The test fails where one of these is noticed, too.
const ALIKE: &[(&str, &str, usize, &str)] = &[
    (
        "decoder.layers.{i}.attn.k_proj.bias",
        "decoder.layers.{i}.cross_attn.k_proj.bias",
        5,
        "a bias of keys adds one number to all scores of a query, which the softmax takes out",
    ),
    (
        "decoder.layers.{i}.ssm.b_norm.weight",
        "decoder.layers.{i}.ssm.c_norm.weight",
        1,
        "each product of the scan has one factor of each",
    ),
    (
        "decoder.layers.{i}.attn.o_proj.bias",
        "decoder.layers.{i}.mlp.down_proj.bias",
        3,
        "attention and MLP stand side by side: both are added to one sum",
    ),
    (
        "decoder.layers.{i}.attn.q_norm.weight",
        "decoder.layers.{i}.attn.k_norm.weight",
        1,
        "normed after the turn, each product of a score has one factor of each",
    ),
    (
        "decoder.layers.{i}.cross_attn.q_norm.weight",
        "decoder.layers.{i}.cross_attn.k_norm.weight",
        1,
        "nothing turns what is given: each product of a score has one factor of each norm",
    ),
    (
        "encoder.layers.{i}.attn.k_proj.bias",
        "encoder.layers.{i}.attn.global_k_proj.bias",
        2,
        "each adds one number to all scores of its queries, which the softmax takes out",
    ),
    (
        "decoder.layers.{i}.attn.lambda_q1",
        "decoder.layers.{i}.attn.lambda_k1",
        1,
        "their product alone is read",
    ),
    (
        "decoder.layers.{i}.attn.lambda_q2",
        "decoder.layers.{i}.attn.lambda_k2",
        1,
        "the product of the second two alone is read",
    ),
];

/// A change of one mapping, and what it is called, alike for each mapping that has the rule.
struct Mutation {
    what: String,
    rules: Vec<Rule>,
}

/// The texts of a rule as the data file has them.
fn told(rule: &Rule) -> String {
    let texts = |templates: &[Template]| {
        templates.iter().map(|template| template.text.as_str()).collect::<Vec<_>>().join(" ")
    };
    let when = rule.when.as_ref().map(|when| format!(" when {}", when.text)).unwrap_or_default();
    format!("{} -> {}{when}", texts(&rule.from), texts(&rule.to))
}

/// A rule as one for each choice of its words, without variables but for counts.
fn apart(rule: &Rule) -> Vec<Rule> {
    let mut rules = vec![rule.clone()];
    for (variable, values) in &rule.each {
        let Each::Texts(choices) = values else { continue };
        let one = |rule: Rule| {
            choices.iter().map(move |texts| {
                let words = texts.iter().enumerate().map(|(at, text)| match texts.len() {
                    1 => (variable.clone(), text),
                    _ => (format!("{variable}.{at}"), text),
                });
                let words: Vec<_> = words.collect();
                let fill = |templates: &mut Vec<Template>| {
                    for template in templates {
                        let text =
                            words.iter().fold(template.text.clone(), |text, (word, value)| {
                                text.replace(&format!("{{{word}}}"), value)
                            });
                        *template = Template::parse(&text).unwrap();
                    }
                };
                let mut rule = rule.clone();
                for each in &mut rule.each {
                    if each.0 == *variable {
                        // Conditions and ops may ask for it.
                        each.1 = Each::Texts(vec![texts.clone()]);
                    }
                }
                let Rule { from, also, to, requires_any, requires_none, .. } = &mut rule;
                [from, also, to, requires_any, requires_none].into_iter().for_each(fill);
                rule
            })
        };
        rules = rules.into_iter().flat_map(one).collect();
    }
    rules
}

/// Every chain of ops with one op taken away, also inside of `each`.
fn stripped(ops: &[Op]) -> Vec<Vec<Op>> {
    let mut all = Vec::new();
    for at in 0..ops.len() {
        let mut less = ops.to_vec();
        less.remove(at);
        all.push(less);
        let Op::Each { ops: chains } = &ops[at] else { continue };
        for (chain, inner) in chains.iter().enumerate() {
            for inner in stripped(inner) {
                let mut chains = chains.clone();
                chains[chain] = inner;
                let mut less = ops.to_vec();
                less[at] = Op::Each { ops: chains };
                all.push(less);
            }
        }
    }
    all
}

/// The shape of a canonical name under some hyperparameters, in its first layer that exists.
fn shape(spec: &Spec, template: &Template, hparams: &Hparams) -> Option<Vec<Option<u64>>> {
    let bindings = template.variables().map(|name| (name.to_owned(), "0".to_owned()));
    let name = template.fill(&bindings.collect::<Bindings>()).ok()?;
    let role = spec.role(&name)?;
    let stack = role.stack.as_deref().or(Some("decoder"));
    role.shape(&StackNames { hparams, tokens: None, stack, layer: Some(0) }).ok()
}

/// Every mutation of a mapping; `models` are the hyperparameters of its fixtures.
fn mutations(spec: &Spec, map: &Map, models: &[Hparams]) -> Vec<Mutation> {
    let mut all = Vec::new();
    for (at, rule) in map.rules.iter().enumerate() {
        for ops in stripped(&rule.ops) {
            let (all_ops, left) = (describe(&rule.ops), describe(&ops));
            let what = format!("{}: {left} of {all_ops}", told(rule));
            let mut rules = map.rules.clone();
            rules[at].ops = ops;
            all.push(Mutation { what, rules });
        }
    }
    let rules: Vec<Rule> = map.rules.iter().flat_map(apart).collect();
    for (at, rule) in rules.iter().enumerate() {
        let mut less = rules.clone();
        less.remove(at);
        all.push(Mutation { what: format!("{}: left out", told(rule)), rules: less });
    }
    let places: Vec<(usize, usize)> = rules
        .iter()
        .enumerate()
        .flat_map(|(at, rule)| (0..rule.to.len()).map(move |to| (at, to)))
        .collect();
    let counts = |rule: &Rule| -> Vec<String> {
        let counts = rule.each.iter().filter_map(|(variable, values)| match values {
            Each::Count(count) => Some(format!("{variable}: {}", count.text)),
            Each::Texts(_) => None,
        });
        counts.collect()
    };
    for (index, &(at, to)) in places.iter().enumerate() {
        for &(other, other_to) in &places[index + 1..] {
            let (left, right) = (&rules[at].to[to], &rules[other].to[other_to]);
            let alike = counts(&rules[at]) == counts(&rules[other])
                && left != right
                && models.iter().any(|hparams| {
                    let shapes = [left, right].map(|name| shape(spec, name, hparams));
                    shapes[0].is_some() && shapes[0] == shapes[1]
                });
            if !alike {
                continue;
            }
            let mut swapped = rules.clone();
            swapped[at].to[to] = right.clone();
            swapped[other].to[other_to] = left.clone();
            let what = format!("{} <-> {}", told(&rules[at]), told(&rules[other]));
            let what = format!("{what}: {} and {} exchanged", left.text, right.text);
            all.push(Mutation { what, rules: swapped });
        }
    }
    all
}

#[test]
fn a_mapping_with_one_thing_wrong_is_noticed() {
    let spec = spec();
    let mut of_map: BTreeMap<(String, String), Vec<(&Fixture, Hparams)>> = BTreeMap::new();
    let mut fixtures = fixtures();
    fixtures.extend(foreign_fixtures());
    let mut in_compounds = Vec::new();
    for fixture in &fixtures {
        let mut opened = folder::open(&fixture.checkpoint).unwrap();
        let config = opened.json("config.json").unwrap().unwrap();
        if let Some(compound) = spec.compound("hf", &config) {
            in_compounds.push((fixture, opened, compound.inner(&config)));
            continue;
        }
        let found = &mut Vec::new();
        let map = import::choose(&spec, "hf", &opened.checkpoint, &config, None, found).unwrap();
        let loaded = open(&spec, &fixture.checkpoint).unwrap();
        let key = (map.format.clone(), map.name.clone());
        of_map.entry(key).or_default().push((fixture, loaded.model().hyperparameters.clone()));
    }
    // The mapping of a text model has fixtures of its own, but maybe not under every name that compounds have.
    let mut more: BTreeMap<(String, String), Vec<&Fixture>> = BTreeMap::new();
    for (fixture, opened, config) in in_compounds {
        let map = import::choose(&spec, "hf", &opened.checkpoint, &config, None, &mut Vec::new());
        if let Ok(map) = map {
            more.entry((map.format.clone(), map.name.clone())).or_default().push(fixture);
        }
    }
    // By name, the mappings that have it, each with its rules.
    type Places<'a> = Vec<(&'a (String, String), Vec<Rule>)>;
    let mut all: BTreeMap<String, Places<'_>> = BTreeMap::new();
    for (key, fixtures) in &of_map {
        let models: Vec<Hparams> = fixtures.iter().map(|(_, hparams)| hparams.clone()).collect();
        for mutation in mutations(&spec, spec.maps.get(key).unwrap(), &models) {
            all.entry(mutation.what).or_default().push((key, mutation.rules));
        }
    }
    let all: Vec<_> = all.into_iter().collect();
    let next = AtomicUsize::new(0);
    let survivors = Mutex::new(BTreeSet::new());
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                let mut spec = self::spec();
                while let Some((what, places)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let noticed = places.iter().any(|(key, rules)| {
                        let map = spec.maps.get_mut(*key).unwrap();
                        let kept = std::mem::replace(&mut map.rules, rules.clone());
                        let own = of_map[*key].iter().map(|(fixture, _)| *fixture);
                        let noticed = own
                            .chain(more.get(*key).into_iter().flatten().copied())
                            .any(|fixture| compare::<f32>(&spec, fixture).is_err());
                        spec.maps.get_mut(*key).unwrap().rules = kept;
                        noticed
                    });
                    if !noticed {
                        survivors.lock().unwrap().insert(what.as_str());
                    }
                }
            });
        }
    });
    let survivors = survivors.into_inner().unwrap();
    let is = |what: &str, (left, right, ..): &(&str, &str, usize, &str)| {
        what.ends_with(&format!(": {left} and {right} exchanged"))
    };
    let new: Vec<&str> = survivors
        .iter()
        .filter(|what| !ALIKE.iter().any(|alike| is(what, alike)))
        .copied()
        .collect();
    let gone: Vec<&str> = ALIKE
        .iter()
        .filter(|alike| !survivors.iter().any(|what| is(what, alike)))
        .map(|(.., why)| *why)
        .collect();
    // Each of the pairs survives in that many mappings, and in no others.
    let ways =
        |(.., ways, why): &(&str, &str, usize, &str)| if gone.contains(why) { 0 } else { *ways };
    assert_eq!(
        survivors.len() - new.len(),
        ALIKE.iter().map(ways).sum::<usize>(),
        "not noticed: {survivors:#?}"
    );
    let told = |what: &&str| {
        let places = all.iter().find(|(known, _)| known == what).map(|(_, places)| places);
        let names = places.into_iter().flatten().map(|((_, name), _)| name.as_str());
        format!("{}: {what}", names.collect::<Vec<_>>().join(", "))
    };
    let new: Vec<String> = new.iter().map(told).collect();
    assert!(1000 < all.len(), "{}", all.len());
    assert!(
        new.is_empty() && gone.is_empty(),
        "of {} changes {} are not noticed:\n{}\nlisted, and noticed or gone:\n{}",
        all.len(),
        new.len(),
        new.join("\n"),
        gone.join("\n")
    );
}
