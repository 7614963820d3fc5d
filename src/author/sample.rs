//! Tiny synthetic checkpoints in a foreign layout, made from the mapping alone: one for each way in
//! which a config or a class of the foreign framework switches rules on, until every rule acts.
//!
//! What they hold is noise. They prove that a mapping is whole and that it comes back, not that it
//! means what the foreign framework means: that takes a checkpoint of that framework.

mod write;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::tiny::{self, Change, Tiny};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::Backing;
use crate::base::source::{Extent, Source};
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, n_elements};
use crate::metadata::Metadata;
use crate::package::{
    Conformance, DenseStep, Dropped, ForeignTensor, Hparams, MapUsed, Model, Provenance,
    SOURCE_SCHEMA, Task, Value, WayBack,
};
use crate::plan::export::Origin;
use crate::plan::names::{self, Bound, Choices};
use crate::plan::program::Make;
use crate::plan::{self, Facts, Tensors, export, import};
use crate::spec::Spec;
use crate::spec::hparams::StackNames;
use crate::spec::map::{Each, Map, Rule, TaskRule};

pub use self::write::write;

/// The rows of heads that no hyperparameter tells of.
const ROWS: u64 = 3;

/// The most combinations of two changes that are tried for the rules that no single one reaches: of
/// those of which the first says something that the conditions of such rules ask for, and of others.
const MAX_PAIRS: [usize; 2] = [4_000, 500];

/// A part of a mapping: a rule, and the words that its variables have.
pub type Part = (usize, Vec<String>);

/// One tiny checkpoint, before it is written.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What sets it apart, `base` or `hidden_act="gelu"`.
    pub label: String,
    /// The package that it is made from.
    pub model: Model,
    /// Where that says it came from: names, copies and buffers that the foreign file has.
    pub source: Provenance,
    /// The canonical tensors with their shapes.
    pub tensors: Vec<(String, Vec<u64>)>,
    /// What of the mapping acts.
    pub parts: BTreeSet<Part>,
    /// Whether it has the files of modules beside the transformer.
    modules: usize,
}

/// The class of a sample: its tasks, and the heads that it has.
struct Class<'a> {
    name: Option<&'a str>,
    tasks: Vec<&'a TaskRule>,
    heads: BTreeSet<String>,
}

/// The samples of a mapping: the first is the plainest, and together they use every part that any
/// config found uses.
///
/// # Errors
/// No tiny config was found, or the mapping does not bring a sample there and back.
pub fn samples(spec: &Spec, map: &Map, start: Option<&Json>) -> Result<Vec<Sample>> {
    let fail = |why: &str| {
        let message = format!("the mapping {}/{}: {why}", map.format, map.name);
        Error::new(ErrorKind::Malformed, message)
    };
    if map.format == export::GGUF {
        let message = "no samples are made of gguf mappings: such a file says less than a model is; \
                       write a sample of the hf mapping with `convert --to gguf`";
        return Err(Error::unsupported(message));
    }
    let base = tiny::config(spec, map, start).map_err(|findings| {
        let why: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
        fail(&format!("no tiny config is one it reads: {}", why.join("; ")))
    })?;
    let classes = classes(map);
    let mut found = Vec::new();
    let mut covered = BTreeSet::new();
    let mut problem = None;
    // The plainest comes first, whatever it covers.
    let mut consider = |label: &str, config: &Json, covered: &mut BTreeSet<Part>| {
        let mut any = false;
        for class in &classes {
            match sample(spec, map, config, class, label) {
                Ok(sample) if sample.parts.is_subset(covered) => {}
                Ok(sample) => match check(spec, map, &sample) {
                    Ok(()) => {
                        covered.extend(sample.parts.iter().cloned());
                        found.push(sample);
                        any = true;
                    }
                    Err(findings) => {
                        problem = problem.take().or_else(|| Some(messages(label, findings)));
                    }
                },
                Err(why) => problem = problem.take().or(Some(why)),
            }
        }
        any
    };
    if !consider("base", &base.config, &mut covered) {
        return Err(fail(&problem.unwrap_or_else(|| "no rule acts".to_owned())));
    }
    if start.is_none() {
        let changes = tiny::changes(spec, map, &base);
        let mut useful: Vec<(Change, Tiny)> = Vec::new();
        let mut silent = Vec::new();
        for change in changes {
            let config = change.apply(&base.config);
            let Ok(keys) = read(spec, map, &config) else { continue };
            if !tiny::alike(&keys.hparams, &base.keys.hparams) {
                consider(&change.to_string(), &config, &mut covered);
                useful.push((change, Tiny { config, keys }));
            } else {
                silent.push(change);
            }
        }
        // Those first that say something which the conditions of the rules left over ask for.
        let asked: BTreeSet<&str> = unused_rules(spec, map, &covered)
            .filter_map(|rule| rule.when.as_ref())
            .flat_map(|when| when.names())
            .collect();
        let says = |change: &Change, tiny: &Tiny| {
            asked.iter().any(|name| match name.strip_prefix("config.") {
                Some(path) => change.path == path,
                None => tiny.keys.hparams.get(*name) != base.keys.hparams.get(*name),
            })
        };
        // Of a rule without a condition the architecture says when it acts: any change may matter.
        let is_open = unused_rules(spec, map, &covered).any(|rule| rule.when.is_none());
        let (near, far): (Vec<_>, Vec<_>) =
            useful.iter().partition(|(change, tiny)| says(change, tiny));
        // Of two one may say nothing without the other.
        let n_most = if is_open { [MAX_PAIRS[0]; 2] } else { MAX_PAIRS };
        let pairs = [near, far].into_iter().zip(n_most).flat_map(|(firsts, n_most)| {
            let with_silent: Vec<_> = firsts
                .iter()
                .flat_map(|(first, tiny)| silent.iter().map(move |second| (first, tiny, second)))
                .take(n_most)
                .collect();
            let with_useful = firsts.into_iter().flat_map(|(first, tiny)| {
                useful.iter().map(move |(second, _)| (first, tiny, second))
            });
            with_silent.into_iter().chain(with_useful.take(n_most))
        });
        let mut is_whole = unused(spec, map, &covered).is_empty();
        for (first, tiny, second) in pairs.filter(|(first, _, second)| first.path != second.path) {
            if is_whole {
                break;
            }
            let config = second.apply(&tiny.config);
            if read(spec, map, &config).is_ok()
                && consider(&format!("{first} {second}"), &config, &mut covered)
            {
                is_whole = unused(spec, map, &covered).is_empty();
            }
        }
    }
    Ok(found)
}

fn read(spec: &Spec, map: &Map, config: &Json) -> std::result::Result<plan::keys::Keys, ()> {
    let arch = spec.arch(&map.arch).ok_or(())?;
    plan::keys::read(spec, map, arch, config).map_err(|_| ())
}

/// Whether what the architecture fixes already says that a rule never holds: it is there for other
/// mappings that share its file.
fn is_off(spec: &Spec, map: &Map, rule: &Rule) -> bool {
    let fixed = spec.arch(&map.arch).map(|arch| &arch.fixed);
    let names = |name: &str| {
        let value = fixed.and_then(|fixed| fixed.get(name));
        value.cloned().ok_or_else(|| format!("`{name}` is free"))
    };
    rule.when.as_ref().is_some_and(|when| when.eval_bool(&names) == Ok(false))
}

/// The rules of a mapping that none of some samples uses, and that the architecture does not switch
/// off, by what they read.
pub fn unused<'a>(spec: &'a Spec, map: &'a Map, parts: &BTreeSet<Part>) -> Vec<&'a str> {
    let unused = unused_rules(spec, map, parts);
    unused.map(|rule| rule.from.first().map_or("", |from| from.text.as_str())).collect()
}

fn unused_rules<'a>(
    spec: &'a Spec,
    map: &'a Map,
    parts: &BTreeSet<Part>,
) -> impl Iterator<Item = &'a Rule> {
    let used: BTreeSet<usize> = parts.iter().map(|(rule, _)| *rule).collect();
    let unused = map.rules.iter().enumerate().filter(move |(at, rule)| {
        !used.contains(at) && !rule.is_alternative && !is_off(spec, map, rule)
    });
    unused.map(|(_, rule)| rule)
}

/// One class for each that the mapping knows, and one more with the heads that no task has.
fn classes(map: &Map) -> Vec<Class<'_>> {
    let heads_of = |rule: &TaskRule| rule.head.iter().chain(&rule.needs).cloned().collect();
    let mut classes: Vec<Class<'_>> = Vec::new();
    for rule in &map.tasks {
        let heads: Vec<String> = heads_of(rule);
        for name in &rule.class {
            let heads = heads.clone();
            match classes.iter_mut().find(|class| class.name == Some(name)) {
                Some(class) => {
                    class.heads.extend(heads);
                    class.tasks.push(rule);
                }
                None => classes.push(Class {
                    name: Some(name),
                    tasks: vec![rule],
                    heads: heads.into_iter().collect(),
                }),
            }
        }
    }
    let known: BTreeSet<&String> = classes.iter().flat_map(|class| &class.heads).collect();
    let mut rest = BTreeSet::new();
    for rule in &map.rules {
        for to in rule.to.iter().filter_map(|to| to.text.strip_prefix("heads.")) {
            // A head's name may be one of the words of its rule: `{x.1}`.
            let variable = to.strip_prefix('{').and_then(|open| open.split_once('}'));
            match variable {
                None => rest.extend(to.split('.').next().map(str::to_owned)),
                Some((variable, _)) => rest.extend(words(&rule.each, variable)),
            }
        }
    }
    rest.retain(|head| !known.contains(head));
    let name = map.base_classes.first().map(String::as_str);
    classes.push(Class { name, tasks: Vec::new(), heads: rest });
    classes
}

fn messages(label: &str, findings: Vec<Diagnostic>) -> String {
    let messages: Vec<String> = findings.into_iter().map(|finding| finding.message).collect();
    format!("{label}: {}", messages.join("; "))
}

/// The words that a variable of a rule stands for.
fn words(each: &[(String, Each)], variable: &str) -> Vec<String> {
    let (name, index) = variable.split_once('.').unwrap_or((variable, "0"));
    let index: usize = index.parse().unwrap_or(0);
    let texts = each.iter().filter(|(each, _)| each == name).flat_map(|(_, each)| match each {
        Each::Texts(texts) => texts.iter().filter_map(|texts| texts.get(index)).collect(),
        Each::Count(_) => Vec::new(),
    });
    texts.cloned().collect()
}

/// The sample of a config and a class.
fn sample(
    spec: &Spec,
    map: &Map,
    config: &Json,
    class: &Class<'_>,
    label: &str,
) -> std::result::Result<Sample, String> {
    let arch = spec.arch(&map.arch).ok_or("it leads to no architecture")?;
    let keys = plan::keys::read(spec, map, arch, config);
    let keys = keys.map_err(|findings| messages(label, findings))?;
    let mut hparams = keys.hparams;
    let names = StackNames {
        hparams: &hparams,
        tokens: Some(&keys.tokens),
        stack: arch.stacks.first().map(String::as_str),
        layer: None,
    };
    let own = class.tasks.iter().find_map(|task| task.prefix.as_ref());
    let prefix = own.or(map.prefixes.first()).cloned().unwrap_or_default();
    let choices = Choices { prefix, spellings: Vec::new() };
    let mut instances = names::instances(map, &choices, &names, Backing::config_alone())?;
    instances.retain(|instance| !instance.rule.is_alternative);

    let heads: BTreeSet<String> =
        class.heads.iter().map(|head| format!("heads.{head}.x")).collect();
    let present: BTreeSet<&str> = heads.iter().map(String::as_str).collect();
    let expected = spec.expected(arch, &hparams, &present, Backing::config_alone())?;
    let tied = hparams.get("tie_embeddings") == Some(&Value::Bool(true));
    let made: BTreeSet<&str> =
        instances.iter().flat_map(|instance| &instance.to).map(String::as_str).collect();
    let mut tensors: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for tensor in &expected {
        if tensor.required || made.contains(tensor.name.as_str()) {
            let shape = shape(&tensor.name, &tensor.shape, &hparams);
            tensors.insert(tensor.name.clone(), shape);
        }
    }
    let mut ties = Vec::new();
    let mut parts = BTreeSet::new();
    let mut foreign = Vec::new();
    for instance in &instances {
        if let (Some(target), true) = (&instance.rule.tie, tied || instance.rule.ignore_tie_flag)
            && let Some(name) = instance.to.first()
            && class.heads.iter().any(|head| name.starts_with(&format!("heads.{head}.")))
        {
            tensors.remove(name);
            ties.push([name.clone(), target.clone()]);
        } else if !instance.to.iter().all(|name| tensors.contains_key(name)) {
            continue;
        }
        let rule = map.rules.iter().position(|rule| std::ptr::eq(rule, instance.rule));
        let words = instance.bindings.iter().filter(|(name, _)| {
            let texts = |(each, values): &(String, Each)| {
                matches!(values, Each::Texts(_)) && name.split('.').next() == Some(each)
            };
            instance.rule.each.iter().any(texts)
        });
        let words = words.map(|(_, word)| word.clone()).collect();
        parts.insert((rule.ok_or("a rule of another mapping")?, words));
        foreign.extend(instance.from.iter().chain(&instance.also).cloned());
    }
    let modules = (1..)
        .take_while(|n| foreign.iter().any(|name| name.starts_with(&format!("dense.{n}/"))))
        .count();
    let dropped = buffers(map, &choices, &names)?;
    foreign.extend(dropped.iter().map(|dropped| dropped.name.clone()));
    if hparams.contains_key("tie_embeddings") {
        hparams.insert("tie_embeddings".to_owned(), Value::Bool(!ties.is_empty() || tied));
    }
    let tasks = tasks(spec, &hparams, class, &tensors, modules);
    let foreign = foreign.into_iter();
    let source = Provenance {
        schema: SOURCE_SCHEMA.to_owned(),
        format: map.format.clone(),
        container: "safetensors".to_owned(),
        map: Some(MapUsed {
            name: map.name.clone(),
            revision: map.revision,
            spec_hash: spec.hash().to_owned(),
            prefix: choices.prefix,
            spellings: Vec::new(),
        }),
        tool: concat!("llmstd ", env!("CARGO_PKG_VERSION")).to_owned(),
        tensors: foreign
            .map(|name| ForeignTensor { name, dtype: "F32".to_owned(), read_as: None, axes: None })
            .collect(),
        copies: Vec::new(),
        dropped,
        losses: BTreeMap::new(),
        files: Vec::new(),
        config: None,
    };
    let model = Model {
        spec: spec.first.clone(),
        requires: Vec::new(),
        conformance: Conformance::Schema,
        architecture: Some(arch.id.clone()),
        hyperparameters: hparams,
        tokens: keys.tokens,
        ties,
        encodings: BTreeMap::new(),
        tasks,
        history: Vec::new(),
    };
    let label = match class.name {
        Some(name) => format!("{label}, {name}"),
        None => label.to_owned(),
    };
    let tensors = tensors.into_iter().collect();
    Ok(Sample { label, model, source, tensors, parts, modules })
}

/// The shape of a canonical tensor; of dimensions that are open, those of heads are rows of labels,
/// and the inner ones are as wide as the model.
fn shape(name: &str, expected: &[Option<u64>], hparams: &Hparams) -> Vec<u64> {
    let hidden = tiny::count(hparams, "hidden_size").unwrap_or(1);
    // Modules that follow one another are as wide as each other; a head's projection has labels.
    let open = |axis: usize| match (
        name.ends_with(".proj.weight") || name.ends_with(".proj.bias"),
        axis,
    ) {
        (true, 0) => ROWS,
        _ => hidden,
    };
    expected.iter().enumerate().map(|(axis, dim)| dim.unwrap_or_else(|| open(axis))).collect()
}

/// The buffers of the foreign layout, in the dtype that frameworks keep each in.
fn buffers(
    map: &Map,
    choices: &Choices,
    names: &StackNames<'_>,
) -> std::result::Result<Vec<Dropped>, String> {
    let mut dropped = Vec::new();
    for drop in names::drops(map, choices, names, &BTreeSet::new(), Backing::config_alone())? {
        let Some(rule) = &drop.drop.make else { continue };
        let dtype = if rule.function == "iota" { DType::I64 } else { DType::F32 };
        let bound = Bound { names, bindings: &drop.bindings };
        // A buffer of what this config does not have has no shape.
        let Ok(made) = import::make(rule, dtype, &bound) else { continue };
        if made.shape.contains(&0) || dropped.iter().any(|other: &Dropped| other.name == drop.name)
        {
            continue;
        }
        dropped.push(Dropped {
            name: drop.name.clone(),
            dtype: dtype.name().to_owned(),
            shape: made.shape,
            why: drop.drop.why.clone(),
            back: WayBack::Made,
            component: None,
        });
    }
    Ok(dropped)
}

fn tasks(
    spec: &Spec,
    hparams: &Hparams,
    class: &Class<'_>,
    tensors: &BTreeMap<String, Vec<u64>>,
    modules: usize,
) -> Vec<Task> {
    let mut tasks = Vec::new();
    for rule in &class.tasks {
        if tasks.iter().any(|task: &Task| task.id == rule.id && task.head == rule.head) {
            continue; // Another pooling, which the config chooses.
        }
        let rows = rule
            .head
            .as_ref()
            .and_then(|head| tensors.get(&format!("heads.{head}.proj.weight"))?.first().copied());
        let Some((inputs, outputs)) = spec.task_ports(&rule.id, hparams, rows) else { continue };
        let labels = rows.filter(|_| rule.labels);
        let label = |rows| (0..rows).map(|row| format!("LABEL_{row}")).collect();
        tasks.push(Task {
            id: rule.id.clone(),
            head: rule.head.clone(),
            pool: rule.pool.clone(),
            normalize: rule.normalize,
            activation: rule.activation.clone(),
            dense: Vec::new(),
            problem: labels.map(|_| "single".to_owned()),
            labels: labels.map(label),
            inputs,
            outputs,
        });
    }
    let hidden = tiny::count(hparams, "hidden_size");
    if let (1.., Some((inputs, outputs))) = (modules, spec.task_ports("embedding", hparams, hidden))
    {
        let head = |n: usize| match n {
            0 => "embedding".to_owned(),
            n => format!("embedding_{}", n + 1),
        };
        let step = |n| DenseStep { head: head(n), activation: Some("tanh".to_owned()) };
        tasks.push(Task {
            id: "embedding".to_owned(),
            head: None,
            pool: Some("mean".to_owned()),
            normalize: Some(false),
            activation: None,
            dense: (0..modules).map(step).collect(),
            problem: None,
            labels: None,
            inputs,
            outputs,
        });
    }
    tasks
}

/// Nothing is read: what was planned as a copy is one.
pub(crate) struct AsPlanned;

impl Facts for AsPlanned {
    fn equal(&self, _: &Tensor, _: &Tensor) -> Result<bool> {
        Ok(true)
    }

    fn made(&self, _: &Tensor, _: &Make) -> Result<bool> {
        Ok(true)
    }
}

/// Plans the way out and the way in again, from names and shapes alone.
fn check(spec: &Spec, map: &Map, sample: &Sample) -> std::result::Result<(), Vec<Diagnostic>> {
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let source = Source::from_bytes("sample", &[]);
    let storage = source.files().next().map(|file| source.extent(file));
    let storage = storage.expect("it has one file");
    let canonical = header(&sample.tensors, storage);
    let canonical = Tensors::of_checkpoint(&canonical).map_err(|finding| vec![finding])?;
    let plan = plan::Options::default();
    let (model, origin) = (&sample.model, Origin { provenance: &sample.source, config: None });
    let out = export::export(spec, map, model, &canonical, None, Some(&origin), plan)?;
    let outputs = out.tensors.outputs.iter();
    let foreign: Vec<Tensor> = outputs
        .map(|output| Tensor {
            dtype: output.dtype,
            payload: Payload::Range(Extent { len: output.n_bytes(), ..storage }),
            ..tensor(&output.name, &output.shape, storage)
        })
        .collect();
    let foreign = Checkpoint { tensors: foreign, ..header(&[], storage) };
    let back = import::import(spec, map, &foreign, &out.config, &AsPlanned, plan)?;
    let mut found: Vec<(String, Vec<u64>)> =
        back.tensors.outputs.iter().map(|out| (out.name.clone(), out.shape.clone())).collect();
    found.sort();
    let wrong =
        |message: String| Err(vec![Diagnostic::error("P021", message).key(arch.id.clone())]);
    if found != sample.tensors {
        return wrong("other tensors come back".to_owned());
    }
    if back.arch != arch.id || !tiny::alike(&back.keys.hparams, &model.hyperparameters) {
        return wrong("other hyperparameters come back".to_owned());
    }
    Ok(())
}

fn header(tensors: &[(String, Vec<u64>)], storage: Extent) -> Checkpoint {
    Checkpoint {
        format: "safetensors",
        tensors: tensors.iter().map(|(name, shape)| tensor(name, shape, storage)).collect(),
        metadata: BTreeMap::new(),
        typed_metadata: Metadata::default(),
        findings: Vec::new(),
        checksums: Vec::new(),
    }
}

/// A tensor whose bytes nobody reads: they lie beyond the end of the file, as many as it takes.
fn tensor(name: &str, shape: &[u64], storage: Extent) -> Tensor {
    let len = n_elements(shape).and_then(|n| DType::F32.n_bytes(n)).unwrap_or(u64::MAX);
    let storage = Extent { len, ..storage };
    Tensor {
        name: name.to_owned(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        encoding: None,
        payload: Payload::Range(storage),
    }
}
