//! From the standard to a foreign layout.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::import::make;
use super::names::{self, Bound, Choices, Instance};
use super::ops::{Direction, TensorExpr, describe, exactness, run};
use super::{DECODE_HELP, Exactness, Options, PartNames, Step, Tensors, keys, tasks, typed};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::limits::Backing;
use crate::checkpoint::{Checkpoint, DType, Encoding};
use crate::encoding::layout::LAYOUTS;
use crate::package::{ForeignTensor, MapUsed, Model, Provenance, Task, Value, WayBack};
use crate::spec::Spec;
use crate::spec::arch::Arch;
use crate::spec::expr::{as_float, same};
use crate::spec::hparams::{StackNames, plain_name};
use crate::spec::map::Map;

/// A plan of the way out.
pub struct Export {
    /// The foreign tensors.
    pub tensors: Tensors,
    /// The foreign config.
    pub config: Json,
    /// What cannot come back, and what is suspicious.
    pub findings: Vec<Diagnostic>,
    /// The foreign tensors that are written once more for a tied one, with its canonical name.
    pub tied: BTreeMap<String, String>,
}

/// Where canonical tensors came from, when that was the format that is written.
pub struct Origin<'a> {
    /// What the exact way back needs.
    pub provenance: &'a Provenance,
    /// The foreign config.
    pub config: Option<Json>,
}

/// Plans the way out by one mapping, from canonical tensors that lie in a package or are in the
/// making. `buffers` are what the package keeps beside its tensors.
///
/// # Errors
/// Everything that keeps the plan from being complete.
pub fn export(
    spec: &Spec,
    map: &Map,
    model: &Model,
    canonical: &Tensors,
    buffers: Option<&Checkpoint>,
    origin: Option<&Origin<'_>>,
    options: Options,
) -> Result<Export, Vec<Diagnostic>> {
    let provenance = origin.map(|origin| origin.provenance);
    let original = origin.and_then(|origin| origin.config.as_ref());
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let stored = |name: &str| canonical.exprs.contains_key(name);
    let (hparams, tokens) = (&model.hyperparameters, &model.tokens);
    let is_typed = map.format == GGUF;
    let write = |original| keys::write(spec, map, arch, hparams, tokens, original, &stored);
    // Keys of a GGUF file say together with the tensors what the model is: they come last.
    let mut config = Json::Null;
    if !is_typed {
        config = write(original)?;
        tasks::write(map, &model.tasks, &mut config);
    }

    let names = StackNames {
        hparams: &model.hyperparameters,
        tokens: Some(&model.tokens),
        stack: arch.stacks.first().map(String::as_str),
        layer: None,
    };
    let used =
        provenance.and_then(|source| source.map.as_ref()).filter(|used| used.name == map.name);
    let backing = Backing::of(canonical.exprs.values().map(|(expr, _)| &*expr.layout.shape));
    names::check_counts(map, &names, backing, &BTreeMap::new()).map_err(|finding| vec![finding])?;
    let choices = choices(map, used, model, tasks::class_of(map, &config));
    let data = |why: String| {
        vec![Diagnostic::error("P003", format!("the mapping {}/{}: {why}", map.format, map.name))]
    };
    let instances = names::instances(map, &choices, &names, backing).map_err(data)?;
    let mut exporter = Exporter {
        spec,
        names: &names,
        options: Options {
            part_names: if is_typed { PartNames::InLine } else { PartNames::Library },
            ..options
        },
        vector_dtype: map.vector_dtype,
        stored: &canonical.exprs,
        ties: model.ties.iter().map(|[tied, stored]| (tied.as_str(), stored.as_str())).collect(),
        recorded: provenance
            .map(|source| source.tensors.iter().map(ForeignTensor::known_name).collect()),
        used: BTreeSet::new(),
        backing,
        tied: BTreeMap::new(),
        tensors: Tensors { inputs: canonical.inputs.clone(), ..Tensors::default() },
        errors: Vec::new(),
    };
    let (alternative, usual): (Vec<&Instance<'_>>, Vec<&Instance<'_>>) =
        instances.iter().partition(|instance| instance.rule.is_alternative);
    // Where the source has the names of an alternative, the usual rule's are not written.
    let alternative: Vec<&Instance<'_>> = alternative
        .into_iter()
        .filter(|instance| instance.from.iter().all(|name| exporter.was_recorded(name)))
        .collect();
    let made: BTreeSet<&String> = alternative.iter().flat_map(|instance| &instance.to).collect();
    for instance in usual {
        if !instance.to.iter().any(|name| made.contains(name)) {
            exporter.plan_instance(instance);
        }
    }
    for instance in alternative {
        exporter.plan_instance(instance);
    }
    let mut findings = Vec::new();
    // A file that comes back as it was is no worse than its source.
    if used.is_none() {
        let found = readers(map, &names).map_err(data)?;
        let (errors, warnings): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| found.level == Level::Error);
        exporter.errors.extend(errors);
        findings.extend(warnings);
    }
    for dropped in &map.dropped_heads {
        let prefix = format!("heads.{}.", dropped.head);
        let parts = canonical.exprs.keys().filter(|name| name.starts_with(&prefix));
        let parts: Vec<&String> = parts.filter(|name| !exporter.used.contains(*name)).collect();
        let tied = model.ties.iter().any(|[tied, _]| tied.starts_with(&prefix));
        if parts.is_empty() && !tied {
            continue;
        }
        let message = format!(
            "the head `{}` ({} tensors) is left out: {}",
            dropped.head,
            parts.len(),
            dropped.why
        );
        findings.push(Diagnostic::warning("P006", message).tensor(format!("{prefix}*")));
        exporter.used.extend(parts.into_iter().cloned());
    }
    for name in canonical.exprs.keys() {
        if !exporter.used.contains(name) {
            let message =
                format!("no rule of the mapping {}/{} takes `{name}`", map.format, map.name);
            exporter.errors.push(Diagnostic::error("P006", message).tensor(name));
        }
    }
    match provenance {
        Some(source) => {
            exporter.plan_dropped(map, &choices, source, buffers, &mut findings);
        }
        None => exporter.plan_without_source(map, &choices),
    }
    let Exporter { mut tensors, errors, tied, .. } = exporter;
    if !errors.is_empty() {
        return Err(errors);
    }
    match provenance {
        Some(source) => {
            let order: BTreeMap<&str, usize> = source
                .tensors
                .iter()
                .enumerate()
                .map(|(index, tensor)| (tensor.known_name(), index))
                .collect();
            tensors.sort_by_key(|name| {
                (order.get(name).copied().unwrap_or(usize::MAX), name.to_owned())
            });
        }
        None => tensors.sort_by_key(str::to_owned),
    }
    if is_typed {
        let sized = |mut config: Json| {
            typed::add_sizes(&mut config, &tensors);
            config
        };
        // Where the source says what the model is, it is repeated as it was.
        let says = |config: &Json| {
            keys::read(spec, map, arch, config)
                .is_ok_and(|read| read.hparams == *hparams && read.tokens == *tokens)
        };
        refuse_blocks(GGUF, &tensors.encodings)?;
        config = match original.cloned().map(sized).filter(says) {
            Some(original) => original,
            None => {
                let mut config = write(original)?;
                tasks::write(map, &model.tasks, &mut config);
                sized(config)
            }
        };
    } else {
        refuse_blocks(&map.format, &tensors.encodings)?;
        LAYOUTS.keep_config(&mut config, !tensors.encodings.is_empty()).map_err(|why| {
            let (name, encoding) = tensors.encodings.first_key_value().expect("some are kept");
            let message = format!("`{name}` is in {}, and {why}", encoding.id);
            vec![Diagnostic::error("P012", message).tensor(name).help(DECODE_HELP)]
        })?;
        write_dtype(&mut config, &tensors, origin.map(|origin| origin.provenance));
    }
    let renamed: BTreeMap<&str, &str> = provenance
        .into_iter()
        .flat_map(|source| &source.tensors)
        .filter_map(|tensor| Some((tensor.read_as.as_deref()?, tensor.name.as_str())))
        .collect();
    if !renamed.is_empty() {
        tensors.rename(&|name| renamed.get(name).map(|name| (*name).to_owned()));
    }
    findings.extend(check_config(spec, map, arch, (model, &names, &stored), &config)?);
    if is_typed {
        findings.extend(check_tasks(spec, map, model, canonical, &config)?);
    }
    Ok(Export { tensors, config, findings, tied })
}

/// What programs that read the format do otherwise than the model says.
///
/// # Errors
/// A condition of the mapping cannot be computed.
fn readers(map: &Map, names: &StackNames<'_>) -> Result<Vec<Diagnostic>, String> {
    let mut findings = Vec::new();
    for reader in &map.readers {
        if reader.when.eval_bool(names)? {
            let level = if reader.warn { Level::Warning } else { Level::Error };
            let message = format!("programs that read {}: {}", map.format, reader.does);
            let used = reader.when.names();
            let finding = Diagnostic::new("P042", level, message);
            findings.push(match used.first() {
                Some(key) => finding.key(*key),
                None => finding,
            });
        }
    }
    Ok(findings)
}

/// The format whose configs are keys with kinds, and whose tensors may be blocks.
pub const GGUF: &str = "gguf";

/// Refuses packed tensors in a format whose readers do not know them.
///
/// # Errors
/// There are some.
pub fn refuse_blocks(
    format: &str,
    encodings: &BTreeMap<String, Encoding>,
) -> Result<(), Vec<Diagnostic>> {
    let refused = |encoding: &&Encoding| match LAYOUTS.find(&encoding.id) {
        Some(_) => format == GGUF,
        None => format != GGUF,
    };
    let mut found = encodings.iter().filter(|(_, encoding)| refused(encoding));
    let Some((name, encoding)) = found.next() else { return Ok(()) };
    let n = 1 + found.count();
    let id = &encoding.id;
    let message = format!("`{name}` is in {id}, which no reader of {format} knows ({n} such)");
    Err(vec![Diagnostic::error("P012", message).tensor(name).help(DECODE_HELP)])
}

/// Reads a config of a dialect, in the words of the mappings, that is written in the place of theirs: it
/// must say what the model is.
///
/// # Errors
/// It says something else.
pub fn check_own_config(
    spec: &Spec,
    map: &Map,
    model: &Model,
    canonical: &Tensors,
    config: &Json,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let names = StackNames {
        hparams: &model.hyperparameters,
        tokens: Some(&model.tokens),
        stack: arch.stacks.first().map(String::as_str),
        layer: None,
    };
    let stored = |name: &str| canonical.exprs.contains_key(name);
    check_config(spec, map, arch, (model, &names, &stored), config)
}

/// Reads the config that was written: it must say what the package says.
#[allow(clippy::type_complexity)] // What conditions speak of.
fn check_config(
    spec: &Spec,
    map: &Map,
    arch: &Arch,
    (model, hparams, stored): (&Model, &StackNames<'_>, &dyn Fn(&str) -> bool),
    config: &Json,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let read = keys::read(spec, map, arch, config)?;
    let wanted = &model.hyperparameters;
    let names: BTreeSet<&String> = wanted.keys().chain(read.hparams.keys()).collect();
    let ignore_tie_flag = map.rules.iter().any(|rule| rule.ignore_tie_flag)
        // Where nothing is tied and there is no matrix of a head, it decides nothing.
        || map.format == GGUF && model.ties.is_empty() && !stored("heads.lm.proj.weight");
    // `null`, and what it stands for.
    let is_usual = |name: &str, value: &Value| {
        let usual = map.keys.iter().find(|key| key.to == name)?.usual.as_ref()?;
        let usual = as_float(&usual.eval(hparams).ok()?)?;
        Some((as_float(value)? - usual).abs() < 1e-6)
    };
    let differ = names.into_iter().filter(|name| {
        if ignore_tie_flag && *name == "tie_embeddings" {
            return false; // The tensors say it, not the config.
        }
        let values = (wanted.get(*name), read.hparams.get(*name));
        let same = if map.format == GGUF { same_single } else { same };
        match values {
            (Some(wanted), Some(read)) if same(wanted, read) => false,
            (Some(Value::Null), Some(value)) | (Some(value), Some(Value::Null)) => {
                is_usual(name, value) != Some(true)
            }
            _ => true,
        }
    });
    let inexpressible = |name: &str| {
        let is_it = |to: &str| to == name || plain_name(to) == Some(name);
        map.keys.iter().any(|key| is_it(&key.to) && key.inexpressible)
    };
    let findings: Vec<Diagnostic> = differ
        .map(|name| {
            let text = |value: Option<&Value>| {
                value.map_or_else(|| "nothing".to_owned(), Value::to_string)
            };
            let level = if inexpressible(name) { Level::Warning } else { Level::Error };
            Diagnostic::new(
                "P005",
                level,
                format!(
                    "the {} config of {} cannot say that `{name}` is {}",
                    map.format,
                    map.name,
                    text(wanted.get(name))
                ),
            )
            .key(name.clone())
            .mismatch(text(wanted.get(name)), text(read.hparams.get(name)))
        })
        .collect();
    if findings.iter().all(|found| found.level == Level::Warning) {
        Ok(findings)
    } else {
        Err(findings)
    }
}

/// Reads the tasks of the file that was planned: they must be those of the package, but for heads
/// that are left out, and for what is told.
fn check_tasks(
    spec: &Spec,
    map: &Map,
    model: &Model,
    canonical: &Tensors,
    config: &Json,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let mut heads: BTreeMap<String, Option<u64>> = BTreeMap::new();
    let stored =
        canonical.exprs.iter().map(|(name, (expr, _))| (name.as_str(), Some(&expr.layout)));
    let tied = model.ties.iter().map(|[tied, _]| (tied.as_str(), None));
    for (name, layout) in stored.chain(tied) {
        let Some((head, part)) = name.strip_prefix("heads.").and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        let rows = heads.entry(head.to_owned()).or_insert(None);
        if part == "proj.weight" {
            *rows = layout.and_then(|layout| layout.shape.first().copied());
        }
    }
    let read = tasks::read(spec, map, config, &model.hyperparameters, &heads, &mut Vec::new());
    let is_left = |task: &&Task| {
        let head = task.head.as_deref();
        map.dropped_heads.iter().any(|dropped| head == Some(dropped.head.as_str()))
    };
    let mut findings = Vec::new();
    for task in model.tasks.iter().filter(|task| !is_left(task)) {
        let id = &task.id;
        let mut tell = |level: Level, what: &str, wanted: String, found: String| {
            let message = format!("the {} config of {} cannot say {what}", map.format, map.name);
            let finding = Diagnostic::new("P005", level, message).key(id.clone());
            findings.push(finding.mismatch(wanted, found));
        };
        let Some(read) = read.iter().find(|read| read.id == *id && read.head == task.head) else {
            // Without the head's task its tensors would be taken for another's.
            let level = if task.head.is_some() { Level::Error } else { Level::Warning };
            let pool = task.pool.as_ref().map(|pool| format!(", pooled by {pool:?}"));
            let wanted = format!("{id}{}", pool.unwrap_or_default());
            tell(level, &format!("that the model serves {wanted}"), wanted, "nothing".to_owned());
            continue;
        };
        let words = |word: &Option<String>| word.clone().unwrap_or_else(|| "none".to_owned());
        for (what, wanted, found) in [
            ("pooling", &task.pool, &read.pool),
            ("activation", &task.activation, &read.activation),
        ] {
            if wanted != found {
                let (wanted, found) = (words(wanted), words(found));
                let what = format!("that the {what} of {id} is {wanted}");
                tell(Level::Error, &what, wanted, found);
            }
        }
        if let (Some(wanted), Some(found)) = (task.normalize, read.normalize)
            && wanted != found
        {
            let what = format!("whether {id} is scaled to length 1; readers do by default");
            tell(Level::Warning, &what, wanted.to_string(), found.to_string());
        }
        if task.problem != read.problem {
            let (wanted, found) = (words(&task.problem), words(&read.problem));
            tell(Level::Warning, &format!("that {id} is of {wanted} labels"), wanted, found);
        }
        if task.labels != read.labels {
            let text = |labels: &Option<Vec<String>>| labels.as_deref().unwrap_or(&[]).join(", ");
            let (wanted, found) = (text(&task.labels), text(&read.labels));
            tell(Level::Warning, &format!("the labels of {id}"), wanted, found);
        }
    }
    if findings.iter().all(|found| found.level == Level::Warning) {
        Ok(findings)
    } else {
        Err(findings)
    }
}

/// Whether two values are the same where numbers are kept as F32.
fn same_single(left: &Value, right: &Value) -> bool {
    let single = |value: &Value| match value {
        Value::Float(value) => Value::Float(f64::from(*value as f32)),
        value => value.clone(),
    };
    match (left, right) {
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| same_single(left, right))
        }
        (left, right) => same(&single(left), &single(right)),
    }
}

/// The prefix and spellings to write: those of the source, or of the class, or the mapping's first.
/// A checkpoint of the base class has no prefix where the mapping knows files without one.
fn choices(map: &Map, used: Option<&MapUsed>, model: &Model, class: Option<&str>) -> Choices {
    if let Some(used) = used {
        return Choices { prefix: used.prefix.clone(), spellings: used.spellings.clone() };
    }
    let has_head = model.tasks.iter().any(|task| task.head.is_some());
    let bare = map.prefixes.iter().find(|prefix| prefix.is_empty() && !has_head);
    let mut rules =
        map.tasks.iter().filter(|rule| rule.class.iter().any(|own| Some(&**own) == class));
    let own = rules.find_map(|rule| rule.prefix.as_ref());
    let prefix = own.or(bare).or(map.prefixes.first()).cloned().unwrap_or_default();
    Choices { prefix, spellings: Vec::new() }
}

/// A dtype in the words of configs; F32 where nothing says it.
pub fn dtype_word(dtype: Option<DType>) -> &'static str {
    match dtype {
        Some(DType::BF16) => "bfloat16",
        Some(DType::F16) => "float16",
        Some(DType::F64) => "float64",
        _ => "float32",
    }
}

/// States the dtype of the weights, in the words of old and of new readers.
fn write_dtype(config: &mut Json, tensors: &Tensors, source: Option<&Provenance>) {
    let Json::Object(object) = config else { return };
    let mut sizes: BTreeMap<DType, u64> = BTreeMap::new();
    for output in tensors.outputs.iter().filter(|output| output.dtype.is_float()) {
        *sizes.entry(output.dtype).or_default() += output.n_bytes();
    }
    let most = sizes.iter().max_by_key(|(_, bytes)| **bytes).map(|(dtype, _)| *dtype);
    // What the source said stands for tensors that are as they were there, however often they were
    // converted in between.
    let recorded: BTreeMap<&str, &str> = source
        .iter()
        .flat_map(|source| &source.tensors)
        .map(|tensor| (tensor.name.as_str(), tensor.dtype.as_str()))
        .collect();
    let is_cast = tensors.outputs.iter().filter(|output| output.dtype.is_float()).any(|output| {
        let dtype = recorded.get(output.name.as_str()).and_then(|name| DType::parse(name));
        dtype.is_some_and(|dtype| dtype.is_float() && dtype != output.dtype)
    });
    let stated = ["dtype", "torch_dtype"]
        .iter()
        .find_map(|key| object.get(*key).filter(|stated| stated.is_string() && !is_cast).cloned());
    let word = stated.unwrap_or_else(|| dtype_word(most).into());
    object.insert("torch_dtype".to_owned(), word.clone());
    object.insert("dtype".to_owned(), word);
}

struct Exporter<'a> {
    spec: &'a Spec,
    names: &'a StackNames<'a>,
    options: Options,
    /// The dtype that tensors of one axis have.
    vector_dtype: Option<DType>,
    stored: &'a BTreeMap<String, (TensorExpr, DType)>,
    ties: BTreeMap<&'a str, &'a str>,
    /// The foreign names of the source, if there was one.
    recorded: Option<BTreeSet<&'a str>>,
    used: BTreeSet<String>,
    backing: Backing,
    tied: BTreeMap<String, String>,
    tensors: Tensors,
    errors: Vec<Diagnostic>,
}

impl Exporter<'_> {
    /// Whether the source had a tensor of this name.
    fn was_recorded(&self, name: &str) -> bool {
        self.recorded.as_ref().is_some_and(|names| names.contains(name))
    }

    fn plan_instance(&mut self, instance: &Instance<'_>) {
        let tied_to = instance.to.first().and_then(|name| self.ties.get(name.as_str()).copied());
        let n_stored =
            instance.to.iter().filter(|name| self.stored.contains_key(name.as_str())).count();
        if let (Some(target), 0) = (tied_to, n_stored) {
            // A tied tensor is written where the source had it, and left out where not; without a
            // source it is written where readers differ in what the config's flag ties.
            let name = &instance.from[0];
            let wanted = match &self.recorded {
                Some(names) => names.contains(name.as_str()),
                None => instance.rule.ignore_tie_flag,
            };
            if wanted {
                self.tied.insert(name.clone(), instance.to[0].clone());
                self.plan_rule(instance, &[target.to_owned()], std::slice::from_ref(name));
            }
            return;
        }
        if n_stored == 0 {
            return;
        }
        if n_stored < instance.to.len() {
            let missing =
                instance.to.iter().filter(|name| !self.stored.contains_key(name.as_str()));
            for name in missing {
                let message = format!("`{name}` is missing, which `{}` needs", instance.from[0]);
                self.errors.push(Diagnostic::error("P008", message).tensor(name));
            }
            return;
        }
        self.used.extend(instance.to.iter().cloned());
        let recorded = |name: &&String| self.was_recorded(name);
        let copies: Vec<String> = instance.also.iter().filter(recorded).cloned().collect();
        // A source may have had the copy alone.
        let only_copies = !copies.is_empty()
            && instance.from.len() == 1
            && instance.from.iter().all(|name| !recorded(&name));
        if !only_copies {
            self.plan_rule(instance, &instance.to, &instance.from);
        }
        for copy in copies {
            self.plan_rule(instance, &instance.to, &[copy]);
        }
    }

    fn plan_rule(&mut self, instance: &Instance<'_>, canonical: &[String], foreign: &[String]) {
        if let Err(diagnostic) = self.try_plan_rule(instance, canonical, foreign) {
            self.errors.push(diagnostic);
        }
    }

    fn try_plan_rule(
        &mut self,
        instance: &Instance<'_>,
        canonical: &[String],
        foreign: &[String],
    ) -> Result<(), Diagnostic> {
        let mut exprs = Vec::with_capacity(canonical.len());
        let mut dtypes = BTreeSet::new();
        for name in canonical {
            let (expr, dtype) = self.stored.get(name.as_str()).ok_or_else(|| {
                Diagnostic::error("P008", format!("`{name}` is missing")).tensor(name)
            })?;
            exprs.push(expr.clone());
            dtypes.insert(*dtype);
        }
        let dtype = *dtypes.first().expect("a rule has one canonical tensor at least");
        if 1 < dtypes.len() {
            let found: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
            let message = format!("`{}` is made of tensors with different dtypes", foreign[0]);
            return Err(Diagnostic::error("P012", message)
                .tensor(&canonical[0])
                .mismatch("one dtype", found.join(", ")));
        }
        let stack = self.spec.role(&instance.to[0]).and_then(|role| role.stack);
        let names = StackNames { stack: stack.as_deref().or(self.names.stack), ..*self.names };
        let bound = Bound { names: &names, bindings: &instance.bindings };
        let exprs = run(&instance.rule.ops, Direction::Export, &bound, exprs).map_err(|why| {
            let message = format!("`{}` does not fit its rule: {why}", canonical[0]);
            Diagnostic::error("P010", message).tensor(&canonical[0])
        })?;
        if exprs.len() != foreign.len() {
            let message = format!(
                "the rule of `{}` makes {} tensors and names {}",
                foreign[0],
                exprs.len(),
                foreign.len()
            );
            return Err(Diagnostic::error("P010", message).tensor(&canonical[0]));
        }
        let class = exactness(&instance.rule.ops, Direction::Export);
        for (name, expr) in foreign.iter().zip(exprs) {
            let step = Step {
                name: name.clone(),
                from: canonical.to_vec(),
                ops: describe(&instance.rule.ops),
                class,
            };
            let options = self.options_for(instance, name, &expr);
            self.tensors.write(name, expr, dtype, options, step)?;
        }
        Ok(())
    }

    /// What is asked for, but where the format leaves no choice. What the source had stays.
    fn options_for(&self, instance: &Instance<'_>, name: &str, expr: &TensorExpr) -> Options {
        let is_vector = expr.layout.shape.len() < 2;
        let only = instance.rule.dtype.or(self.vector_dtype.filter(|_| is_vector));
        let Some(only) = only else { return self.options };
        let kept = self.was_recorded(name);
        let dtype = (!kept).then_some(only);
        Options { dtype, lossy: true, quantize: None, ..self.options }
    }

    /// Makes the buffers that readers of the foreign layout miss, in the dtype of the token table.
    fn plan_without_source(&mut self, map: &Map, choices: &Choices) {
        let drops = names::drops(map, choices, self.names, &BTreeSet::new(), self.backing)
            .unwrap_or_default();
        let dtype = self.stored.get("embed.tokens.weight").map_or(DType::F32, |(_, dtype)| *dtype);
        for drop in drops.iter().filter(|drop| drop.drop.emit_without_source) {
            let Some(rule) = &drop.drop.make else { continue };
            let bound = Bound { names: self.names, bindings: &drop.bindings };
            match make(rule, dtype, &bound) {
                Ok(made) => {
                    let step = Step {
                        name: drop.name.clone(),
                        from: Vec::new(),
                        ops: rule.function.clone(),
                        class: Exactness::Exact,
                    };
                    self.tensors.make(&drop.name, made, step);
                }
                Err(why) => {
                    let message = format!("the buffer `{}` cannot be made: {why}", drop.name);
                    self.errors.push(Diagnostic::error("P015", message).tensor(&drop.name));
                }
            }
        }
    }

    /// Brings back the buffers that the standard does not store.
    fn plan_dropped(
        &mut self,
        map: &Map,
        choices: &Choices,
        source: &Provenance,
        buffers: Option<&Checkpoint>,
        findings: &mut Vec<Diagnostic>,
    ) {
        let drops = names::drops(map, choices, self.names, &BTreeSet::new(), self.backing)
            .unwrap_or_default();
        for dropped in &source.dropped {
            let step = |from: &str, ops: &str| Step {
                name: dropped.name.clone(),
                from: vec![from.to_owned()],
                ops: ops.to_owned(),
                class: Exactness::Exact,
            };
            let result = match dropped.back {
                WayBack::Lost => {
                    findings.push(
                        Diagnostic::warning(
                            "P015",
                            format!("`{}` does not come back: {}", dropped.name, dropped.why),
                        )
                        .tensor(&dropped.name),
                    );
                    Ok(())
                }
                WayBack::Made => {
                    let drop = drops.iter().find(|drop| drop.name == dropped.name);
                    let made = drop.and_then(|drop| Some((drop, drop.drop.make.as_ref()?)));
                    let made = made.ok_or_else(|| "no rule of the mapping makes it".to_owned());
                    let dtype =
                        DType::parse(&dropped.dtype).ok_or("its dtype is not known".to_owned());
                    made.and_then(|(drop, rule)| {
                        let bound = Bound { names: self.names, bindings: &drop.bindings };
                        let made = make(rule, dtype?, &bound)?;
                        self.tensors.make(&dropped.name, made, step("", &rule.function));
                        Ok(())
                    })
                }
                WayBack::Kept => {
                    let kept = buffers.and_then(|buffers| {
                        buffers.tensors.iter().find(|tensor| tensor.name == dropped.name)
                    });
                    kept.ok_or_else(|| "it is not among the buffers kept".to_owned()).and_then(
                        |tensor| {
                            let (expr, dtype) = self.tensors.read(tensor)?;
                            let step = step(&dropped.name, "copy");
                            let written = self.tensors.write(
                                &dropped.name,
                                expr,
                                dtype,
                                Options::default(),
                                step,
                            );
                            written.map_err(|diagnostic| diagnostic.message)
                        },
                    )
                }
            };
            if let Err(why) = result {
                let message =
                    format!("the buffer `{}` cannot be brought back: {why}", dropped.name);
                findings.push(Diagnostic::warning("P015", message).tensor(&dropped.name));
            }
        }
    }
}
