//! Which tasks a foreign checkpoint serves, and with which labels.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::keys;
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::signature::{Signature, SignaturePort};
use crate::package::{Extents, Hparams, Port, Task, Value};
use crate::spec::Spec;
use crate::spec::ecosystem::config::{CLASSES, LABEL_NUMBERS, LABELS, N_LABELS};
use crate::spec::expr::{as_int, same};
use crate::spec::map::{Map, TaskRule};

/// The rows of the maps of a head, where they are stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadRows {
    /// Of the projection to outputs.
    pub proj: Option<u64>,
    /// Of the map before it, or of the only one.
    pub dense: Option<u64>,
}

impl HeadRows {
    /// Takes the rows of a tensor of the head.
    pub fn add(&mut self, part: &str, rows: Option<u64>) {
        match part {
            "proj.weight" => self.proj = rows.or(self.proj),
            "dense.weight" => self.dense = rows.or(self.dense),
            _ => {}
        }
    }
}

/// The class that the foreign config names, `BertForMaskedLM`.
pub fn class(config: &Json) -> Option<&str> {
    config.get(CLASSES)?.get(0)?.as_str()
}

/// The class that counts of those that the foreign config names: the first that a mapping knows a
/// task of, else the first.
pub fn class_of<'c>(map: &Map, config: &'c Json) -> Option<&'c str> {
    let named = config.get(CLASSES)?.as_array()?;
    let mut names = named.iter().filter_map(Json::as_str);
    let serves =
        |class: &&str| map.tasks.iter().any(|rule| rule.class.iter().any(|other| other == class));
    names.clone().find(serves).or_else(|| names.next())
}

/// Whether the foreign class asks for this head: `None` if there is no class, or one the mapping
/// does not know.
pub fn class_wants_head(map: &Map, class: Option<&str>, head: &str) -> Option<bool> {
    let class = class?;
    let mut known = map.base_classes.iter().any(|base| base == class);
    let mut wanted = false;
    for rule in &map.tasks {
        if rule.class.iter().any(|other| other == class) {
            known = true;
            wanted |= rule.head.as_deref() == Some(head);
        }
    }
    known.then_some(wanted)
}

/// The tasks of a checkpoint whose heads are there; `heads` has the rows of each one's maps. Of
/// several tasks of one head the class of the config decides, and else what the file says of its model's
/// inputs and outputs.
pub fn read(
    spec: &Spec,
    map: &Map,
    config: &Json,
    hparams: &Hparams,
    heads: &BTreeMap<String, HeadRows>,
    signatures: &[Signature],
    findings: &mut Vec<Diagnostic>,
) -> Vec<Task> {
    let class = class_of(map, config);
    let served = map.tasks.iter().filter(|rule| {
        let head = rule.head.iter();
        head.chain(&rule.needs).chain(&rule.dense).all(|head| heads.contains_key(head))
            && says(spec, map, config, rule)
    });
    let served: Vec<&TaskRule> = served.collect();
    let names_class =
        |rule: &TaskRule| class.is_some_and(|class| rule.class.iter().any(|other| other == class));
    if !served.iter().any(|rule| names_class(rule)) {
        let mut of_class = map.tasks.iter().filter(|rule| names_class(rule));
        findings.extend(of_class.find_map(|rule| said_otherwise(config, rule, heads)));
    }
    findings.extend(unknown_use(map, class, &served, heads));
    let mut tasks: Vec<Task> = Vec::new();
    for rule in &served {
        // Several tasks may use a head of one name: then the class says which, or a signature.
        let rivals: Vec<&&TaskRule> =
            served.iter().filter(|rival| rival.head == rule.head && rival.id != rule.id).collect();
        if !rivals.is_empty() && !names_class(rule) {
            let decided = rivals.iter().any(|rival| names_class(rival));
            let alike: Vec<&TaskRule> =
                served.iter().filter(|other| other.head == rule.head).copied().collect();
            let rows = rule.head.as_ref().and_then(|head| heads.get(head)?.proj);
            let ports = |id: &str| spec.task_ports(id, hparams, rows);
            let said = if decided { None } else { only_fitting(&alike, signatures, &ports) };
            let taken = said.or(alike.first().map(|first| first.id.as_str()));
            if decided || taken.is_some_and(|taken| taken != rule.id) {
                continue;
            }
            let head = rule.head.as_deref().unwrap_or_default();
            let others: Vec<&str> = rivals.iter().map(|rival| rival.id.as_str()).collect();
            let others = others.join(" or ");
            let served = format!("the head `{head}` may serve {} or {others}", rule.id);
            let finding = match said {
                Some(id) => Diagnostic::note(
                    "P018",
                    format!(
                        "{served}, and the config names no class; what the file says of inputs and outputs is those of {id}"
                    ),
                ),
                None => Diagnostic::warning(
                    "P018",
                    format!("{served}, and the config names no class; {} is taken", rule.id),
                )
                .help("add \"architectures\" to config.json"),
            };
            findings.push(finding.key(CLASSES));
        }
        if tasks.iter().any(|task| task.id == rule.id && task.head == rule.head) {
            continue;
        }
        let rows = rule.head.as_ref().and_then(|head| heads.get(head)?.proj);
        // What no head makes is as wide as the model.
        let width = hparams.get("hidden_size").and_then(as_int);
        let width = width.and_then(|width| u64::try_from(width).ok());
        let mapped = rule.dense.last().and_then(|head| heads.get(head)?.dense);
        let n_outputs = if rule.head.is_some() { rows } else { mapped.or(width) };
        let Some((inputs, outputs)) = spec.task_ports(&rule.id, hparams, n_outputs) else {
            continue;
        };
        let (labels, problem) = match rows {
            Some(rows) if rule.labels => {
                (Some(labels(config, rule, rows, findings)), Some(problem(config, rows)))
            }
            _ => (None, None),
        };
        tasks.push(Task {
            id: rule.id.clone(),
            head: rule.head.clone(),
            pool: rule.pool.clone(),
            normalize: rule.normalize,
            activation: rule.activation.clone(),
            dense: rule.dense_steps(),
            problem,
            labels,
            inputs,
            outputs,
        });
    }
    tasks
}

/// What is said of a class whose head is there, and whose task the config describes in a way that no rule knows.
fn said_otherwise(
    config: &Json,
    rule: &TaskRule,
    heads: &BTreeMap<String, HeadRows>,
) -> Option<Diagnostic> {
    let head = rule.head.as_ref().filter(|head| heads.contains_key(*head))?;
    if !rule.needs.iter().all(|head| heads.contains_key(head)) {
        return None;
    }
    let said = rule.config.keys().filter_map(|path| {
        let stated = keys::lookup(config, path).filter(|stated| !stated.is_null())?;
        Some(format!("`{path}` {stated}"))
    });
    let said: Vec<String> = said.collect();
    let message = format!(
        "the head `{head}` is there, and with {} the task {} is none of the standard: it is left out",
        said.join(" and "),
        rule.id
    );
    (!said.is_empty()).then(|| {
        let help = "the tensors are kept, and no client is told of the task: compute it by the config's own class";
        Diagnostic::warning("P018", message).key(CLASSES).help(help)
    })
}

/// What is said of heads that no task reads, and of those beside that of a language model where the class which uses
/// them is not known.
fn unknown_use(
    map: &Map,
    class: Option<&str>,
    served: &[&TaskRule],
    heads: &BTreeMap<String, HeadRows>,
) -> Vec<Diagnostic> {
    let uses = |rule: &TaskRule, head: &String| {
        rule.head.as_ref() == Some(head) || rule.needs.contains(head)
    };
    // One without a projection to outputs is a pooling, which many classes give beside the states.
    let idle = heads.iter().filter(|(_, rows)| rows.proj.is_some()).map(|(head, _)| head);
    let idle = idle.filter(|head| !map.tasks.iter().any(|rule| uses(rule, head)));
    let mut findings: Vec<Diagnostic> = idle
        .map(|head| {
            let message = format!(
                "the head `{head}` is there, and no task of {} models reads it: none is described",
                map.name
            );
            let help = "the tensors are kept, and no client is told what they are for: compute it by the config's own class";
            Diagnostic::warning("P018", message).key(CLASSES).help(help)
        })
        .collect();
    // Classes around a text model are many, and what they share is its language model.
    let rule = served.iter().find(|rule| rule.labels || rule.pool.is_some());
    if let (Some(class), Some(TaskRule { id, head: Some(head), .. })) = (class, rule)
        && class_wants_head(map, Some(class), head).is_none()
    {
        let message =
            format!("the class {class} is not known: its head `{head}` is taken to serve {id}");
        findings.push(
            Diagnostic::warning("P018", message).key(CLASSES).help(
                "where that is not so, name the class that it is one of in \"architectures\"",
            ),
        );
    }
    findings
}

/// The inputs and outputs of a task.
type Ports = (Vec<Port>, Vec<Port>);

/// The one task of several that is called as a signature says, if it is one.
fn only_fitting<'r>(
    rules: &[&'r TaskRule],
    signatures: &[Signature],
    ports: &dyn Fn(&str) -> Option<Ports>,
) -> Option<&'r str> {
    let fit = |rule: &&&TaskRule| {
        let ports = ports(&rule.id);
        ports.is_some_and(|(inputs, outputs)| {
            signatures.iter().any(|said| fits(said, &inputs, &outputs))
        })
    };
    let ids: BTreeSet<&str> = rules.iter().filter(fit).map(|rule| rule.id.as_str()).collect();
    let mut ids = ids.into_iter();
    ids.next().filter(|_| ids.next().is_none())
}

/// Whether a signature takes what a task needs, and gives what it answers, of such shapes.
fn fits(said: &Signature, inputs: &[Port], outputs: &[Port]) -> bool {
    let port = |of: &[SignaturePort], wanted: &Port| {
        let found = of.iter().find(|port| port.name == wanted.name);
        found.is_some_and(|port| is_shape(port.shape.as_deref(), &wanted.shape))
    };
    // The one output of a function may have any name.
    let only = |wanted: &Port| match said.outputs.as_slice() {
        [port] if outputs.len() == 1 => is_shape(port.shape.as_deref(), &wanted.shape),
        _ => false,
    };
    inputs.iter().all(|wanted| wanted.optional || port(&said.inputs, wanted))
        && outputs.iter().all(|wanted| port(&said.outputs, wanted) || only(wanted))
}

/// Whether dimensions, of which some are left open, can be these.
fn is_shape(said: Option<&[Option<u64>]>, wanted: &[Extents]) -> bool {
    said.is_some_and(|said| {
        said.len() == wanted.len()
            && said.iter().zip(wanted).all(|pair| match pair {
                (Some(size), Extents::Fixed(wanted)) => size == wanted,
                _ => true,
            })
    })
}

/// Whether the config has the entries that go with a rule; where it has none of them, the first
/// rule of the task and head holds, if there is a head to tell that the task is there.
fn says(spec: &Spec, map: &Map, config: &Json, rule: &TaskRule) -> bool {
    let class = || spec.classes.get(&map.format)?.of(map, config);
    let states = |(path, wanted): (&String, &toml::Value)| {
        let is_wanted = |stated: &Value| {
            crate::spec::from_toml(wanted).is_ok_and(|wanted| same(stated, &wanted))
        };
        match keys::stated(config, path) {
            // What a config leaves out is as its class has it.
            Ok(Value::Null) => {
                let usual = class().and_then(|class| class.default(path));
                usual.filter(|usual| *usual != Value::Null).map(|usual| is_wanted(&usual))
            }
            Ok(stated) => Some(is_wanted(&stated)),
            Err(_) => Some(false),
        }
    };
    let first = map.tasks.iter().find(|other| other.id == rule.id && other.head == rule.head);
    let is_first = first.is_some_and(|first| std::ptr::eq(first, rule));
    let unsaid = is_first && rule.head.is_some();
    rule.config.iter().all(|entry| states(entry).unwrap_or(unsaid))
}

/// The labels in the order of the head's rows. Keys of `id2label` are numbers in text, and are
/// sorted as numbers.
fn labels(
    config: &Json,
    rule: &TaskRule,
    rows: u64,
    findings: &mut Vec<Diagnostic>,
) -> Vec<String> {
    let path = rule.label_list.as_deref().unwrap_or(LABELS);
    let stated = keys::lookup(config, path);
    let n_stated = match stated {
        Some(Json::Object(stated)) => stated.len(),
        Some(Json::Array(stated)) => stated.len(),
        _ => return (0..rows).map(default_label).collect(),
    };
    let of_row = |row: u64| match stated? {
        Json::Array(stated) => stated.get(usize::try_from(row).ok()?)?.as_str(),
        stated => stated.get(row.to_string())?.as_str(),
    };
    if n_stated as u64 != rows {
        findings.push(
            Diagnostic::warning(
                "P019",
                format!("the config has {n_stated} labels, the head has {rows} rows"),
            )
            .key(path)
            .mismatch(format!("{rows} labels"), n_stated)
            .help("the rows decide; rows without a label are called LABEL_n"),
        );
    }
    (0..rows).map(|row| of_row(row).map_or_else(|| default_label(row), str::to_owned)).collect()
}

fn default_label(row: u64) -> String {
    format!("LABEL_{row}")
}

fn problem(config: &Json, rows: u64) -> String {
    let stated = config.get("problem_type").and_then(Json::as_str);
    let problem = match stated {
        Some("regression") => "regression",
        Some("multi_label_classification") => "multi",
        Some(_) => "single",
        None if rows == 1 => "regression",
        None => "single",
    };
    problem.to_owned()
}

/// Writes tasks into a foreign config: class and labels.
pub fn write(map: &Map, tasks: &[Task], config: &mut Json) {
    let wants = |rule: &&TaskRule| {
        tasks.iter().any(|task| {
            let alike = rule.config.is_empty()
                || (task.pool == rule.pool
                    && task.activation == rule.activation
                    && (rule.dense.is_empty() || task.dense == rule.dense_steps()));
            task.id == rule.id && task.head == rule.head && alike
        })
    };
    // The class that serves the most of the tasks; the first of equals.
    let mut classes: Vec<(&str, usize)> = Vec::new();
    for class in map.tasks.iter().filter(wants).flat_map(|rule| &rule.class) {
        match classes.iter_mut().find(|(known, _)| known == class) {
            Some((_, count)) => *count += 1,
            None => classes.push((class, 1)),
        }
    }
    let most = classes.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let best = classes.iter().find(|(_, count)| *count == most).map(|(class, _)| *class);
    let class = best.or(map.base_classes.first().map(String::as_str));
    // Of several spellings of one task the first stands.
    for (path, value) in map.tasks.iter().rev().filter(wants).flat_map(|rule| &rule.config) {
        keys::set(config, path, serde_json::to_value(value).unwrap_or(Json::Null));
    }
    let labels = tasks.iter().find_map(|task| task.labels.as_ref());
    let lists = map.tasks.iter().filter(wants).filter_map(|rule| rule.label_list.as_deref());
    for (path, labels) in lists.zip(labels) {
        keys::set(config, path, Json::from(labels.as_slice()));
    }
    // What follows is of formats whose configs name a class.
    let (Some(class), Json::Object(object)) = (class, config) else { return };
    if !object.contains_key(CLASSES) {
        object.insert(CLASSES.to_owned(), Json::from(vec![class]));
    }
    let Some(labels) = labels else { return };
    let id2label =
        labels.iter().enumerate().map(|(id, label)| (id.to_string(), label.clone().into()));
    object.insert(LABELS.to_owned(), Json::Object(id2label.collect()));
    let label2id = labels.iter().enumerate().map(|(id, label)| (label.clone(), id.into()));
    object.insert(LABEL_NUMBERS.to_owned(), Json::Object(label2id.collect()));
    // `num_labels` beside `id2label` wins in some readers, and loses in others.
    object.shift_remove(N_LABELS);
}
