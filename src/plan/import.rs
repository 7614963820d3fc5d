//! From a foreign checkpoint to the standard.

mod stray;

pub use self::stray::STRAY;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::generic::unreadable;
use super::keys::{self, Keys};
use super::names::{self, Bound, Instance};
use super::ops::{Direction, TensorExpr, describe, exactness, run};
use super::program::{Make, Recipe};
use super::{Exactness, Facts, Options, Step, Tensors, by_name, tasks, unread};
use crate::base::diagnostic::Diagnostic;
use crate::base::limits::Backing;
use crate::base::near::did_you_mean;
use crate::checkpoint::{Checkpoint, DType, Payload, Tensor, row_major_strides};
use crate::encoding::layout::LAYOUTS;
use crate::package::{Dropped, ForeignTensor, Hparams, MapUsed, Task, Value, WayBack};
use crate::plan::layout::Layout;
use crate::spec::Spec;
use crate::spec::arch::Arch;
use crate::spec::expr::{Names, as_float, as_int};
use crate::spec::hparams::StackNames;
use crate::spec::map::{Head, MakeRule, Map};

/// Why tensors of what is quantized while a model runs are no canonical ones.
const RUNTIME: &str = "says how activations are quantized, which are not here";

/// A plan of the way in.
pub struct Import {
    /// The tensors of the package.
    pub tensors: Tensors,
    /// Foreign buffers that are kept beside the package, as no recipe gives their bytes.
    pub buffers: Tensors,
    /// The architecture.
    pub arch: String,
    /// The hyperparameters and the ids of special tokens.
    pub keys: Keys,
    /// Tensors that are stored once under the second name.
    pub ties: Vec<[String; 2]>,
    /// What the model can be asked.
    pub tasks: Vec<Task>,
    /// The mapping, and what it chose.
    pub map: MapUsed,
    /// The foreign tensors, in their order.
    pub foreign: Vec<ForeignTensor>,
    /// Foreign tensors that hold what another one holds.
    pub copies: Vec<[String; 2]>,
    /// Foreign tensors that the standard does not store.
    pub dropped: Vec<Dropped>,
    /// What is suspicious.
    pub findings: Vec<Diagnostic>,
}

/// Plans the way in by one mapping.
///
/// # Errors
/// Everything that keeps the plan from being complete.
pub fn import(
    spec: &Spec,
    map: &Map,
    checkpoint: &Checkpoint,
    config: &Json,
    facts: &dyn Facts,
    options: Options,
) -> Result<Import, Vec<Diagnostic>> {
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let mut keys = keys::read(spec, map, arch, config)?;
    let present: BTreeSet<&str> =
        checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let hparams = keys.hparams.clone();
    let tokens = keys.tokens.clone();
    let stack_names =
        |stack| StackNames { hparams: &hparams, tokens: Some(&tokens), stack, layer: None };
    let main = arch.stacks.first().map(String::as_str);
    let names = stack_names(main);
    let backing = backing(checkpoint);
    names::check_counts(map, &names, backing, &keys.origins).map_err(|finding| vec![finding])?;
    let choices = names::choices(map, &present, &names, backing)?;
    let data = |why: String| vec![data_error(map, &why)];
    let mut instances = names::instances(map, &choices, &names, backing).map_err(data)?;
    instances.retain(|instance| instance.holds(&present));
    let drops = names::drops(map, &choices, &names, &present, backing).map_err(data)?;

    let mut planner = Planner {
        spec,
        arch,
        facts,
        options,
        foreign: by_name(checkpoint),
        backing,
        names: &names,
        hparams: &hparams,
        used: BTreeMap::new(),
        tensors: Tensors::default(),
        buffers: Tensors::default(),
        copies: Vec::new(),
        dropped: Vec::new(),
        findings: Vec::new(),
        errors: Vec::new(),
    };
    let strays = planner.cover(map, checkpoint, &choices.prefix, &instances, &drops, config);
    for instance in &instances {
        planner.plan_instance(instance);
    }
    let mut tied = hparams.get("tie_embeddings") == Some(&Value::Bool(true));
    let mut ties = Vec::new();
    for instance in instances.iter().filter(|instance| instance.rule.tie.is_some()) {
        let tie = Tie { map, config, prefix: &choices.prefix, instances: &instances };
        planner.plan_tie(&tie, instance, &mut tied, &mut ties);
    }
    for drop in &drops {
        planner.plan_drop(drop);
    }
    if hparams.contains_key("tie_embeddings") {
        keys.hparams.insert("tie_embeddings".to_owned(), Value::Bool(tied));
    }
    planner.check_complete(&instances, &keys.hparams, &ties);
    planner.blame_class(map, config);
    planner.plan_strays(map, &strays, config);

    let heads = planner.heads(map, tasks::class_of(map, config), &ties);
    let Planner { mut tensors, buffers, copies, dropped, mut findings, errors, .. } = planner;
    if !errors.is_empty() {
        return Err(errors);
    }
    tensors.sort_by_key(|name| spec.order(name));
    stray::check_promised_heads(map, config, &heads, &mut findings);
    findings.extend(unread::findings(spec, map, config));
    let tasks = tasks::read(spec, map, config, &keys.hparams, &heads, &mut findings);
    let foreign = checkpoint.stored().map(|tensor| ForeignTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.name().to_owned(),
        read_as: None,
        axes: None,
    });
    Ok(Import {
        tensors,
        buffers,
        arch: arch.id.clone(),
        keys,
        ties,
        tasks,
        map: MapUsed {
            name: map.name.clone(),
            revision: map.revision,
            spec_hash: spec.hash().to_owned(),
            prefix: choices.prefix,
            spellings: choices.spellings,
        },
        foreign: foreign.collect(),
        copies,
        dropped,
        findings,
    })
}

/// The tensors of a checkpoint, against which the counts of a config are held.
pub fn backing(checkpoint: &Checkpoint) -> Backing {
    Backing::of(checkpoint.tensors.iter().map(Tensor::logical_shape))
}

/// The mapping for a foreign config: by what the config says, or else by its class, or else by
/// the tensors' names.
///
/// # Errors
/// None fits, or several do.
pub fn choose<'a>(
    spec: &'a Spec,
    format: &str,
    checkpoint: &Checkpoint,
    config: &Json,
    arch: Option<&str>,
    findings: &mut Vec<Diagnostic>,
) -> Result<&'a Map, Diagnostic> {
    let says = |head: &Head| {
        !head.matches.is_empty()
            && head.matches.iter().all(|(path, words)| {
                let stated = keys::lookup(config, path);
                stated.is_some_and(|stated| match stated {
                    Json::String(word) => words.contains(word),
                    other => words.contains(&other.to_string()),
                })
            })
            && head.when.as_ref().is_none_or(|when| {
                let names = |name: &str| match name.strip_prefix("config.") {
                    Some(path) => keys::stated(config, path),
                    None => Err(format!("`{name}` is nothing of the config")),
                };
                when.eval_bool(&names) == Ok(true)
            })
    };
    let leads = |head: &Head| arch.is_none_or(|arch| head.arch == arch);
    let mut fitting: Vec<&Map> =
        spec.maps_chosen(format, |head| leads(head) && says(head)).collect();
    let most = fitting.iter().map(|map| map.matches.len()).max().unwrap_or(0);
    fitting.retain(|map| map.matches.len() == most);
    match fitting.as_slice() {
        [map] => return Ok(map),
        [_, _, ..] => {
            let names: Vec<&str> = fitting.iter().map(|map| map.name.as_str()).collect();
            return Err(Diagnostic::error(
                "P001",
                format!("several mappings fit: {}", names.join(", ")),
            )
            .help("choose one with --arch"));
        }
        [] => {}
    }
    let maps: Vec<&Map> = spec.maps_chosen(format, leads).collect();
    if maps.is_empty() {
        let of_format = spec.maps_of(format);
        let arch = arch.unwrap_or_default();
        let meant = did_you_mean(arch, of_format.map(|map| map.arch.as_str()));
        return Err(Diagnostic::error(
            "P001",
            format!("there is no {format} mapping for the architecture {arch:?}{meant}"),
        )
        .help("`llmstd spec list` shows the architectures"));
    }
    // What mappings of the format are chosen by, and the config's word for it.
    let paths: BTreeSet<&String> = maps.iter().flat_map(|map| map.matches.keys()).collect();
    let stated =
        paths.iter().find_map(|path| Some((path.as_str(), keys::lookup(config, path)?.as_str()?)));
    let present: BTreeSet<&str> =
        checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let class = tasks::class(config);
    let of_class = |map: &&&Map| {
        let classes = map.tasks.iter().flat_map(|task| &task.class).chain(&map.base_classes);
        class.is_some_and(|class| classes.into_iter().any(|other| other == class))
    };
    if let (Some((path, word)), None) = (stated, arch) {
        let whole: Vec<&str> = maps
            .iter()
            .filter(|map| knows_all(spec, map, &present, checkpoint, config).is_some())
            .map(|map| map.arch.as_str())
            .collect();
        let of_class: Vec<&str> =
            maps.iter().filter(of_class).map(|map| map.arch.as_str()).collect();
        let both: Vec<&str> =
            whole.iter().copied().filter(|arch| of_class.contains(arch)).collect();
        let whole = if both.is_empty() { whole } else { both };
        let help = match whole.as_slice() {
            [] => "`llmstd spec list` shows what there is; --arch tries the mapping of another \
                   architecture, --generic keeps names and bytes as they are"
                .to_owned(),
            some => format!(
                "all {} tensors have names of {}: if the config means the same there, add {}; --generic \
                 keeps names and bytes as they are",
                present.len(),
                some.join(", "),
                some.iter().map(|arch| format!("--arch {arch}")).collect::<Vec<_>>().join(" or ")
            ),
        };
        return Err(Diagnostic::error(
            "P001",
            format!("there is no {format} mapping for the {path} {word:?}"),
        )
        .key(path)
        .help(help));
    }
    if let [map] = maps.as_slice() {
        return Ok(map); // The only one of the architecture that was asked for.
    }
    // Without a model type: the class, then the names.
    let by_class: Vec<&Map> = maps.iter().filter(of_class).copied().collect();
    if let [map] = by_class.as_slice() {
        findings.push(guess(map, "its class"));
        return Ok(map);
    }
    // Of several that lead to the architecture that was asked for, the one that has its name.
    if let Some(map) = maps.iter().find(|map| arch == Some(map.name.as_str())) {
        return Ok(map);
    }
    let mut fitting: Vec<(&Map, bool)> = maps
        .iter()
        .filter_map(|map| Some((*map, knows_all(spec, map, &present, checkpoint, config)?)))
        .collect();
    if 1 < fitting.len() && fitting.iter().any(|(_, claims)| *claims) {
        fitting.retain(|(_, claims)| *claims);
    }
    let by_names: Vec<&Map> = fitting.into_iter().map(|(map, _)| map).collect();
    match by_names.as_slice() {
        [map] => {
            findings.push(guess(map, "the names of its tensors"));
            Ok(map)
        }
        others => {
            let names: Vec<&str> = others.iter().map(|map| map.name.as_str()).collect();
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(Diagnostic::error("P001", "the config does not say which architecture this is")
                .key("model_type")
                .mismatch("one mapping that knows every tensor", found)
                .help("name it with --arch, or keep names and bytes as they are with --generic"))
        }
    }
}

/// Whether a mapping knows every tensor, and then whether it claims such a config for itself.
fn knows_all(
    spec: &Spec,
    map: &Map,
    present: &BTreeSet<&str>,
    checkpoint: &Checkpoint,
    config: &Json,
) -> Option<bool> {
    let arch = spec.arch(&map.arch).expect("checked when it is read");
    let keys = keys::read(spec, map, arch, config).ok()?;
    let stack = arch.stacks.first().map(String::as_str);
    let names =
        StackNames { hparams: &keys.hparams, tokens: Some(&keys.tokens), stack, layer: None };
    let backing = backing(checkpoint);
    if !super::aliases::may_know(map, present, &names, backing) {
        return None;
    }
    let claims = map.claims_untyped.as_ref().is_some_and(|when| when.eval_bool(&names) == Ok(true));
    let knows = names::n_known(map, present, &names, backing) == present.len();
    let is_whole = || {
        // Names of other programs and of older versions, as they will be read.
        let aliases = super::aliases::find(spec, map, checkpoint, config);
        matches!(aliases, Ok(Some(aliases)) if aliases.is_whole)
    };
    (knows || is_whole()).then_some(claims)
}

fn guess(map: &Map, by: &str) -> Diagnostic {
    Diagnostic::warning(
        "P001",
        format!("the config has no model_type; {} was recognised by {by}", map.arch),
    )
    .key("model_type")
    .help("name it with --arch to be sure")
}

fn data_error(map: &Map, why: &str) -> Diagnostic {
    Diagnostic::error("P003", format!("the mapping {}/{}: {why}", map.format, map.name))
}

/// What decides whether a head that is not there is tied.
struct Tie<'t> {
    map: &'t Map,
    config: &'t Json,
    /// What the file's names have in front.
    prefix: &'t str,
    instances: &'t [Instance<'t>],
}

struct Planner<'a> {
    spec: &'a Spec,
    arch: &'a Arch,
    facts: &'a dyn Facts,
    options: Options,
    foreign: BTreeMap<&'a str, &'a Tensor>,
    backing: Backing,
    names: &'a StackNames<'a>,
    hparams: &'a Hparams,
    /// What reads each foreign tensor: the first foreign name of its rule.
    used: BTreeMap<&'a str, String>,
    tensors: Tensors,
    buffers: Tensors,
    copies: Vec<[String; 2]>,
    dropped: Vec<Dropped>,
    findings: Vec<Diagnostic>,
    errors: Vec<Diagnostic>,
}

impl<'a> Planner<'a> {
    /// Checks that exactly one rule reads each foreign tensor; returns those that none reads, and
    /// that a model may be whole without.
    fn cover(
        &mut self,
        map: &Map,
        checkpoint: &'a Checkpoint,
        prefix: &str,
        instances: &[Instance<'_>],
        drops: &[names::DropInstance<'_>],
        config: &Json,
    ) -> Vec<&'a Tensor> {
        let rules = instances.iter().flat_map(|instance| {
            let rule = instance.rule.from.first().map_or("", |from| &from.text);
            instance.from.iter().chain(&instance.also).map(move |name| (name, rule))
        });
        let drops = drops.iter().map(|drop| (&drop.name, drop.drop.name.text.as_str()));
        for (name, rule) in rules.chain(drops) {
            let Some((&name, _)) = self.foreign.get_key_value(name.as_str()) else { continue };
            if let Some(other) = self.used.insert(name, rule.to_owned())
                && other != rule
            {
                self.errors.push(
                    Diagnostic::error(
                        "P007",
                        format!("two rules read `{name}`: `{other}` and `{rule}`"),
                    )
                    .tensor(name),
                );
            }
        }
        let mut seen = BTreeSet::new();
        let mut strays = Vec::new();
        for tensor in &checkpoint.tensors {
            let name = tensor.name.as_str();
            if !seen.insert(name) {
                self.errors.push(
                    Diagnostic::error("P007", format!("the checkpoint has two tensors `{name}`"))
                        .tensor(name),
                );
            }
            if self.used.contains_key(name) {
                continue;
            }
            if LAYOUTS.is_runtime(name, config) {
                self.drop(tensor, RUNTIME, WayBack::Kept);
                continue;
            }
            if let Some((layer, n_layers)) = beyond_last_layer(map, name, self.hparams) {
                self.errors.push(
                    Diagnostic::error(
                        "P011",
                        format!("`{name}` is of layer {layer}, the config has {n_layers} layers"),
                    )
                    .tensor(name)
                    .mismatch(format!("layers 0 to {}", n_layers.saturating_sub(1)), layer),
                );
            } else if stray::is_in_layer(map, prefix, name) {
                self.errors.push(Self::unread(map, name, config));
            } else {
                strays.push(tensor);
            }
        }
        strays
    }

    /// Plans what a rule makes of the tensors it reads, if they are there.
    fn plan_instance(&mut self, instance: &Instance<'_>) {
        if instance.rule.tie.is_some() {
            return; // Bytes decide, when everything else is known.
        }
        let mut from: Vec<&str> = instance.from.iter().map(String::as_str).collect();
        let here = |name: &str| self.foreign.contains_key(name);
        if let ([name], Some(copy)) =
            (from.as_slice(), instance.also.iter().find(|name| here(name)))
            && !here(name)
        {
            from = vec![copy];
        }
        let n_here = from.iter().filter(|name| here(name)).count();
        if n_here == 0 {
            return;
        }
        if n_here < from.len() {
            for name in from.iter().filter(|name| !self.foreign.contains_key(**name)) {
                let rest = from.iter().find(|name| self.foreign.contains_key(**name));
                self.errors.push(
                    Diagnostic::error(
                        "P008",
                        format!("`{name}` is missing beside `{}`", rest.unwrap_or(&"")),
                    )
                    .tensor(*name),
                );
            }
            return;
        }
        self.plan_copies(instance, from[0]);
        let from: Vec<String> = from.into_iter().map(str::to_owned).collect();
        self.plan_rule(instance, &from);
    }

    /// Checks that tensors which repeat another one hold the same bytes.
    fn plan_copies(&mut self, instance: &Instance<'_>, first: &str) {
        let Some(&original) = self.foreign.get(first) else { return };
        let others = instance.also.iter().chain(&instance.from).filter(|name| *name != first);
        for name in others.filter(|_| instance.from.len() == 1) {
            let Some(&copy) = self.foreign.get(name.as_str()) else { continue };
            match same(self.facts, original, copy) {
                Ok(true) => self.copies.push([name.clone(), instance.to[0].clone()]),
                Ok(false) => self.errors.push(
                    Diagnostic::error(
                        "P020",
                        format!("`{first}` and `{name}` are one tensor, and hold different values"),
                    )
                    .tensor(name)
                    .help("remove the wrong one"),
                ),
                Err(err) => self.errors.push(unreadable(name, &err.to_string())),
            }
        }
    }

    fn plan_rule(&mut self, instance: &Instance<'_>, from: &[String]) {
        if let Err(diagnostics) = self.try_plan_rule(instance, from) {
            self.errors.extend(diagnostics);
        }
    }

    fn try_plan_rule(
        &mut self,
        instance: &Instance<'_>,
        from: &[String],
    ) -> Result<(), Vec<Diagnostic>> {
        let fail = |diagnostic: Diagnostic| vec![diagnostic.tensor(&from[0])];
        let mut exprs = Vec::with_capacity(from.len());
        let mut dtypes = BTreeSet::new();
        let mut shapes = Vec::with_capacity(from.len());
        for name in from {
            let tensor = self.foreign[name.as_str()];
            let read = self.tensors.read(tensor);
            let (expr, dtype) = read.map_err(|why| fail(unreadable(name, &why)))?;
            exprs.push(expr);
            dtypes.insert(dtype);
            shapes.push(tensor.logical_shape().to_vec());
        }
        let dtype = *dtypes.first().expect("a rule reads one tensor at least");
        if 1 < dtypes.len() {
            let found: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
            return Err(fail(
                Diagnostic::error(
                    "P012",
                    format!(
                        "`{}` and its like become one tensor, and have different dtypes",
                        from[0]
                    ),
                )
                .mismatch("one dtype", found.join(", ")),
            ));
        }
        if dtype.bits() % 8 != 0 && !instance.rule.ops.is_empty() {
            return Err(fail(Diagnostic::error(
                "P012",
                format!("the rows of `{}` are of {dtype}, which cannot be moved apart", from[0]),
            )));
        }
        let role = self.spec.role(&instance.to[0]);
        let stack = role.as_ref().and_then(|role| role.stack.clone());
        let stack_names =
            StackNames { stack: stack.as_deref().or(self.names.stack), ..*self.names };
        let bound = Bound { names: &stack_names, bindings: &instance.bindings };
        let exprs = run(&instance.rule.ops, Direction::Import, &bound, exprs).map_err(|why| {
            let message = format!("`{}` does not fit its rule: {why}", from[0]);
            fail(
                Diagnostic::error("P010", message)
                    .mismatch(describe(&instance.rule.ops), format!("{shapes:?}")),
            )
        })?;
        if exprs.len() != instance.to.len() {
            let message = format!(
                "the rule of `{}` makes {} tensors and names {}",
                from[0],
                exprs.len(),
                instance.to.len()
            );
            return Err(fail(Diagnostic::error("P010", message)));
        }
        let mut errors = Vec::new();
        for (name, expr) in instance.to.iter().zip(&exprs) {
            errors.extend(self.check_shape(name, &expr.layout.shape, dtype, &from[0], &shapes[0]));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        check_way_back(instance, &bound, &exprs, &shapes).map_err(|why| {
            fail(Diagnostic::error("P010", format!("`{}` does not come back: {why}", from[0])))
        })?;
        let class = exactness(&instance.rule.ops, Direction::Import);
        for (name, expr) in instance.to.iter().zip(exprs) {
            let step = Step {
                name: name.clone(),
                from: from.to_vec(),
                ops: describe(&instance.rule.ops),
                class,
            };
            self.tensors
                .write(name, expr, dtype, self.options, step)
                .map_err(|diagnostic| vec![diagnostic])?;
        }
        Ok(())
    }

    /// Compares a tensor's shape with its role's, and names the hyperparameters that disagree.
    fn check_shape(
        &self,
        name: &str,
        units: &[u64],
        dtype: DType,
        from: &str,
        foreign_shape: &[u64],
    ) -> Vec<Diagnostic> {
        let mut shape = units.to_vec();
        if let Some(last) = shape.last_mut()
            && !dtype.bits().is_multiple_of(8)
        {
            *last = *last * 8 / dtype.bits();
        }
        let Some(role) = self.spec.role(name) else {
            return vec![
                Diagnostic::error("P009", format!("`{name}` is the name of no role")).tensor(from),
            ];
        };
        let names = StackNames {
            stack: role.stack.as_deref().or(self.names.stack),
            layer: role.layer,
            ..*self.names
        };
        let expected = match role.shape(&names) {
            Ok(expected) => expected,
            Err(why) => {
                return vec![
                    Diagnostic::error("P010", format!("the shape of `{name}` is not known: {why}"))
                        .tensor(from),
                ];
            }
        };
        let fits = expected.len() == shape.len()
            && expected
                .iter()
                .zip(&shape)
                .all(|(want, have)| want.is_none_or(|want| want == *have));
        if fits {
            return Vec::new();
        }
        let formula: Vec<&str> =
            role.role.shape.iter().map(|dim| dim.as_ref().map_or("?", |expr| &expr.text)).collect();
        let keys: BTreeSet<&str> =
            role.role.shape.iter().flatten().flat_map(|expr| expr.names()).collect();
        let values =
            keys.iter().filter_map(|key| Some(format!("{key} = {}", names.value(key).ok()?)));
        let values: Vec<String> = values.collect();
        let expected: Vec<String> =
            expected.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string())).collect();
        vec![
            Diagnostic::error(
                "P010",
                format!(
                    "`{from}` has shape {foreign_shape:?}, which makes `{name}` {shape:?}; the config \
                     makes it [{}]",
                    expected.join(", ")
                ),
            )
            .tensor(from)
            .mismatch(
                format!("[{}] = [{}], as {}", formula.join(", "), expected.join(", "), values.join(", ")),
                format!("{shape:?}"),
            )
            .help(why_not(foreign_shape, &shape, &expected)),
        ]
    }

    /// Decides by bytes whether a head is tied.
    fn plan_tie(
        &mut self,
        tie: &Tie<'_>,
        instance: &Instance<'_>,
        tied: &mut bool,
        ties: &mut Vec<[String; 2]>,
    ) {
        let Tie { map, config, prefix: in_front, instances } = *tie;
        let target = instance.rule.tie.as_deref().expect("only tie rules come here");
        let (foreign, canonical) = (instance.from[0].as_str(), instance.to[0].as_str());
        let head = canonical.strip_prefix("heads.").and_then(|rest| rest.split('.').next());
        let Some(&tensor) = self.foreign.get(foreign) else {
            let class = tasks::class_of(map, config);
            let wanted = head.and_then(|head| tasks::class_wants_head(map, class, head));
            let prefix = format!("heads.{}.", head.unwrap_or_default());
            let parts = self.tensors.outputs.iter().any(|output| output.name.starts_with(&prefix));
            // A head that has other parts, none of which is here, is not here either.
            let alone = || {
                let made = instances.iter().flat_map(|instance| &instance.to);
                !made.into_iter().any(|name| name.starts_with(&prefix) && name != canonical)
            };
            if !wanted.unwrap_or_else(|| (*tied || instance.rule.ignore_tie_flag) && alone())
                && !parts
            {
                return; // The checkpoint has no such head.
            }
            // A class may promise a head that was never saved: of one with several parts none is
            // here, or the names are those of a model without a head.
            let headless = wanted == Some(true) && !parts;
            if headless && !self.is_whole_head(&prefix, canonical) {
                return;
            }
            if *tied || instance.rule.ignore_tie_flag {
                *tied = true;
                ties.push([canonical.to_owned(), target.to_owned()]);
            } else if headless
                && in_front.is_empty()
                && map.prefixes.iter().any(|prefix| !prefix.is_empty())
            {
                return;
            } else {
                self.errors.push(
                    Diagnostic::error(
                        "P008",
                        format!("`{foreign}` is missing, and the config says it is not tied"),
                    )
                    .tensor(foreign)
                    .key("tie_embeddings")
                    .help("set tie_word_embeddings to true if the head repeats the embedding"),
                );
            }
            return;
        };
        let original = self.tensors.steps.iter().find(|step| step.name == target);
        let original = original.and_then(|step| self.foreign.get(step.from[0].as_str()).copied());
        let equal = original.map_or(Ok(false), |original| same(self.facts, original, tensor));
        match (equal, *tied) {
            (Err(err), _) => self.errors.push(unreadable(foreign, &err.to_string())),
            (Ok(true), flag) if flag || instance.rule.ignore_tie_flag => {
                *tied = true;
                ties.push([canonical.to_owned(), target.to_owned()]);
                self.copies.push([foreign.to_owned(), target.to_owned()]);
            }
            (Ok(equal), flag) => {
                if equal != flag && !instance.rule.ignore_tie_flag {
                    let message = if equal {
                        format!(
                            "`{foreign}` repeats `{target}` and the config says it is not tied; both are kept"
                        )
                    } else {
                        format!(
                            "the config says `{foreign}` is tied, and it differs from `{target}`; both are kept"
                        )
                    };
                    self.findings.push(
                        Diagnostic::warning("P016", message)
                            .tensor(foreign)
                            .key("tie_embeddings")
                            .mismatch(flag, equal)
                            .help("bytes decide; correct tie_word_embeddings in the config"),
                    );
                }
                *tied = false;
                self.plan_rule(instance, &instance.from);
            }
        }
    }

    /// Whether a head needs nothing but its tied projection.
    fn is_whole_head(&self, prefix: &str, projection: &str) -> bool {
        let outputs = self.tensors.outputs.iter().map(|output| output.name.as_str());
        let present: BTreeSet<&str> = outputs.chain([projection]).collect();
        let expected = self.spec.expected(self.arch, self.hparams, &present, self.backing);
        expected.is_ok_and(|expected| {
            let mut parts = expected.iter().filter(|part| part.name.starts_with(prefix));
            parts.all(|part| !part.required || present.contains(part.name.as_str()))
        })
    }

    /// Compares a dropped buffer with its recipe; what differs is kept beside the package.
    fn plan_drop(&mut self, drop: &names::DropInstance<'_>) {
        let Some(&tensor) = self.foreign.get(drop.name.as_str()) else { return };
        let bound = Bound { names: self.names, bindings: &drop.bindings };
        let why = &drop.drop.why;
        if drop.drop.kept {
            self.drop(tensor, why, WayBack::Kept);
            return;
        }
        let Some(rule) = &drop.drop.make else {
            self.findings.push(
                Diagnostic::warning(
                    "P015",
                    format!("`{}` is dropped for good: {why}", tensor.name),
                )
                .tensor(&tensor.name),
            );
            self.drop(tensor, why, WayBack::Lost);
            return;
        };
        let made = match make(rule, tensor.dtype, &bound) {
            Ok(made) => made,
            Err(why) => {
                let message = format!("the recipe of `{}` does not hold: {why}", tensor.name);
                self.errors.push(Diagnostic::error("P015", message).tensor(&tensor.name));
                return;
            }
        };
        let equal = made.shape == tensor.shape
            && match self.facts.made(tensor, &made) {
                Ok(equal) => equal,
                Err(err) => {
                    self.errors.push(unreadable(&tensor.name, &err.to_string()));
                    return;
                }
            };
        if equal {
            let is_half = matches!(tensor.dtype, DType::F16 | DType::BF16);
            if is_half && matches!(made.recipe, Recipe::Sinusoid) {
                let message = format!(
                    "`{}` is stored as {} and is computed anew: where that is done in F32, it lacks \
                     the rounding that the file has",
                    tensor.name, tensor.dtype
                );
                self.findings.push(
                    Diagnostic::note("P015", message)
                        .tensor(&tensor.name)
                        .help("no more than the model's other tensors lost by that dtype"),
                );
            }
            self.drop(tensor, why, WayBack::Made);
            return;
        }
        self.findings.push(
            Diagnostic::warning(
                "P015",
                format!("the buffer `{}` is not what the config makes it", tensor.name),
            )
            .tensor(&tensor.name)
            .mismatch(
                format!("{} of shape {:?}", rule.function, made.shape),
                format!("{:?}", tensor.shape),
            )
            .help("its bytes are kept beside the package; a wrong one may mean a wrong config"),
        );
        self.drop(tensor, why, WayBack::Kept);
    }

    /// Notes a tensor that is no canonical one; what is to be kept is kept beside the package.
    fn drop(&mut self, tensor: &Tensor, why: &str, back: WayBack) {
        if back == WayBack::Kept {
            self.keep(tensor);
        }
        self.dropped.push(Dropped {
            name: tensor.name.clone(),
            dtype: tensor.dtype.name().to_owned(),
            shape: tensor.shape.clone(),
            why: why.to_owned(),
            back,
            component: None,
        });
    }

    /// Keeps a tensor's bytes beside the package.
    fn keep(&mut self, tensor: &Tensor) {
        let step = Step {
            name: tensor.name.clone(),
            from: vec![tensor.name.clone()],
            ops: "copy".to_owned(),
            class: Exactness::Exact,
        };
        let written = match self.buffers.read(tensor) {
            Ok((expr, dtype)) => {
                self.buffers.write(&tensor.name, expr, dtype, Options::default(), step)
            }
            Err(why) => Err(unreadable(&tensor.name, &why)),
        };
        self.errors.extend(written.err());
    }

    /// Checks that the architecture's tensors are all there, and no others.
    fn check_complete(
        &mut self,
        instances: &[Instance<'_>],
        hparams: &Hparams,
        ties: &[[String; 2]],
    ) {
        if !self.errors.is_empty() {
            // What a refused tensor would have become is not missing on top of that.
            return;
        }
        let tied: BTreeSet<&str> = ties.iter().map(|[tied, _]| tied.as_str()).collect();
        let mut made = BTreeSet::new();
        let mut errors = Vec::new();
        for output in &self.tensors.outputs {
            if !made.insert(output.name.as_str()) {
                let message = format!("two rules make `{}`", output.name);
                errors.push(Diagnostic::error("P007", message).tensor(&output.name));
            }
        }
        let present: BTreeSet<&str> = made.union(&tied).copied().collect();
        let expected = match self.spec.expected(self.arch, hparams, &present, self.backing) {
            Ok(expected) => expected,
            Err(why) => {
                self.errors.push(Diagnostic::error("P003", why));
                return;
            }
        };
        let sources: BTreeMap<&str, &str> = instances
            .iter()
            .flat_map(|instance| {
                let from = instance.from.first().map_or("", String::as_str);
                instance.to.iter().map(move |to| (to.as_str(), from))
            })
            .collect();
        let mut known = BTreeSet::new();
        for tensor in &expected {
            known.insert(tensor.name.as_str());
            if tensor.required && !present.contains(tensor.name.as_str()) {
                let name = &tensor.name;
                let source = sources.get(name.as_str()).copied();
                let message = match source {
                    Some(source) => format!("`{source}` is missing, which makes `{name}`"),
                    None => format!("`{name}` is missing, and no rule makes it"),
                };
                errors.push(Diagnostic::error("P008", message).tensor(source.unwrap_or(name)));
            }
        }
        for step in &self.tensors.steps {
            let whole = self.tensors.wholes.get(&step.name).unwrap_or(&step.name);
            if !known.contains(whole.as_str()) {
                let message = format!(
                    "`{}` makes `{}`, which {} does not have under this config",
                    step.from[0], step.name, self.arch.id
                );
                errors.push(Diagnostic::error("P009", message).tensor(&step.from[0]));
            }
        }
        self.errors.append(&mut errors);
    }

    /// Says first of a class that the mapping does not know that its tensors may be others.
    fn blame_class(&mut self, map: &Map, config: &Json) {
        let is_missing = |error: &Diagnostic| error.rule == "P008";
        let Some(class) = tasks::class_of(map, config) else { return };
        let known = map.tasks.iter().flat_map(|task| &task.class).chain(&map.base_classes);
        let known: BTreeSet<&str> = known.map(String::as_str).collect();
        if known.is_empty() || known.contains(class) || !self.errors.iter().any(is_missing) {
            return;
        }
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!(
            "the config names the class {class}, which the mapping {} does not know; tensors of those it \
             knows are missing",
            map.name
        );
        let finding = Diagnostic::error("P008", message).key("architectures");
        self.errors.insert(0, finding.mismatch(format!("one of {known}"), class));
    }

    /// The heads that are there, with the rows of each one's projection.
    fn heads(
        &self,
        map: &Map,
        class: Option<&str>,
        ties: &[[String; 2]],
    ) -> BTreeMap<String, Option<u64>> {
        let mut heads = BTreeMap::new();
        let outputs = self.tensors.outputs.iter().map(|output| {
            let encoding = self.tensors.encodings.get(&output.name);
            let shape = encoding.map_or(&output.shape, |encoding| &encoding.shape);
            (output.name.as_str(), Some(shape))
        });
        let tied = ties.iter().map(|[tied, _]| (tied.as_str(), None));
        for (name, shape) in outputs.chain(tied) {
            let Some((head, part)) =
                name.strip_prefix("heads.").and_then(|rest| rest.split_once('.'))
            else {
                continue;
            };
            let rows = heads.entry(head.to_owned()).or_insert(None);
            if part == "proj.weight" {
                *rows = shape.and_then(|shape| shape.first().copied()).or(*rows);
            }
        }
        // A tied head without tensors of its own is there only if the class does not deny it.
        heads.retain(|head, _| {
            let prefix = format!("heads.{head}.");
            self.tensors.outputs.iter().any(|output| output.name.starts_with(&prefix))
                || tasks::class_wants_head(map, class, head) != Some(false)
        });
        heads
    }
}

fn same(facts: &dyn Facts, left: &Tensor, right: &Tensor) -> crate::base::error::Result<bool> {
    if left.dtype != right.dtype || left.shape != right.shape {
        return Ok(false);
    }
    if let (Payload::Parts(left), Payload::Parts(right)) = (&left.payload, &right.payload) {
        for (left, right) in left.iter().zip(right) {
            if left.role != right.role || !same(facts, &left.tensor, &right.tensor)? {
                return Ok(false);
            }
        }
        return Ok(left.len() == right.len());
    }
    // Two names of one storage need no reading.
    let one_place = match (&left.payload, &right.payload) {
        (Payload::Range(left), Payload::Range(right)) => left == right,
        (Payload::View(left), Payload::View(right)) => left == right,
        (Payload::Tiles(left), Payload::Tiles(right)) => left == right,
        _ => false,
    };
    if one_place { Ok(true) } else { facts.equal(left, right) }
}

/// Runs the ops back on made-up tensors of the canonical shapes: every element must land where it
/// came from.
fn check_way_back(
    instance: &Instance<'_>,
    names: &dyn Names,
    exprs: &[TensorExpr],
    shapes: &[Vec<u64>],
) -> Result<(), String> {
    if instance.rule.ops.is_empty() {
        return Ok(());
    }
    let canonical = exprs.iter().enumerate().map(|(index, expr)| {
        let shape = &expr.layout.shape;
        TensorExpr::new(Layout::of_input(index, 0, shape, &row_major_strides(shape)))
    });
    let back = run(&instance.rule.ops, Direction::Export, names, canonical.collect())?;
    if back.len() != shapes.len() {
        return Err(format!("{} tensors come back of {}", back.len(), shapes.len()));
    }
    for (expr, shape) in back.iter().zip(shapes) {
        if expr.layout.shape != *shape || !expr.layout.is_full() {
            return Err(format!("the shape {:?} comes back, not {shape:?}", expr.layout.shape));
        }
    }
    if exprs.iter().any(|expr| !expr.layout.is_full()) {
        return Err("not every element is filled".to_owned());
    }
    Ok(())
}

/// The layer of a name of the mapping that lies beyond the last one, and the number of layers.
fn beyond_last_layer(map: &Map, name: &str, hparams: &Hparams) -> Option<(u64, u64)> {
    // An encoder-decoder counts the layers of each stack.
    let counts = ["num_layers", "encoder.num_layers", "decoder.num_layers"];
    let counts = counts.iter().filter_map(|key| hparams.get(*key).and_then(as_int));
    let n_layers = u64::try_from(counts.max()?).ok()?;
    let layer = name.split('.').find_map(|segment| segment.parse::<u64>().ok())?;
    let pattern = |name: &str| {
        let parts = name.trim_start_matches('@').split('.').map(|part| {
            let index = part == "{i}" || part.bytes().all(|byte| byte.is_ascii_digit());
            if index { "#" } else { part }
        });
        parts.collect::<Vec<_>>().join(".")
    };
    let names = map.rules.iter().flat_map(|rule| {
        rule.from.iter().flat_map(|from| {
            let text = if from.text.contains("{p}") {
                vec![from.text.replace("{p}", "weight"), from.text.replace("{p}", "bias")]
            } else {
                vec![from.text.clone()]
            };
            text.into_iter()
        })
    });
    let wanted = pattern(name);
    let known =
        names.into_iter().any(|from| wanted.ends_with(&pattern(&from)) || from.contains("{x"));
    (n_layers <= layer && known).then_some((layer, n_layers))
}

/// A recipe with its numbers filled in.
///
/// # Errors
/// A number it needs has no value, or the mapping names a recipe that does not exist.
pub(crate) fn make(rule: &MakeRule, dtype: DType, names: &dyn Names) -> Result<Make, String> {
    let shape = rule.shape.iter().map(|dim| dim.eval_size(names)).collect::<Result<_, _>>()?;
    let float = |expr: &Option<crate::spec::expr::Expr>, what: &str| -> Result<f64, String> {
        let expr = expr.as_ref().ok_or_else(|| format!("it has no `{what}`"))?;
        let value = expr.eval(names)?;
        as_float(&value).ok_or_else(|| format!("its `{what}` is {value}, which is no number"))
    };
    let recipe = match rule.function.as_str() {
        "constant" => Recipe::Constant(float(&rule.value, "value")?),
        "list" => {
            let values = rule.values.as_ref().ok_or("it has no `values`")?.eval(names)?;
            let Value::List(items) = &values else {
                return Err(format!("its `values` are {values}, which is no list"));
            };
            let items = items.iter().map(as_float).collect::<Option<_>>();
            Recipe::List(items.ok_or("one of its `values` is no number")?)
        }
        "iota" => Recipe::Iota,
        "sinusoid" => Recipe::Sinusoid,
        "causal_mask" => {
            let window = rule.window.as_ref().map(|window| window.eval(names)).transpose()?;
            let window = window.as_ref().and_then(as_int).and_then(|int| u64::try_from(int).ok());
            Recipe::CausalMask { window }
        }
        "rope_inv_freq" => {
            let dim = rule.dim.as_ref().ok_or("it has no `dim`")?.eval_size(names)?;
            Recipe::RopeInvFreq { theta: float(&rule.theta, "theta")?, dim }
        }
        "llama3_factors" => {
            let number = |name: &str| {
                let value = names.value(&format!("rope_scaling.{name}"))?;
                as_float(&value).ok_or_else(|| format!("`rope_scaling.{name}` is {value}"))
            };
            let dim = rule.dim.as_ref().ok_or("it has no `dim`")?.eval_size(names)?;
            Recipe::Llama3Factors {
                theta: float(&rule.theta, "theta")?,
                dim,
                factor: number("factor")?,
                turns: [number("low_freq_factor")?, number("high_freq_factor")?],
                original: number("original_max_positions")? as u64,
            }
        }
        other => return Err(format!("there is no recipe `{other}`")),
    };
    let dtype = rule.dtype.map_or(dtype, |name| name.0);
    Ok(Make { dtype, shape, recipe })
}

/// What may have happened to a tensor of a shape that does not fit, and what to do.
fn why_not(stored: &[u64], shape: &[u64], expected: &[String]) -> &'static str {
    let is_turned =
        1 < shape.len() && shape.iter().rev().map(u64::to_string).eq(expected.iter().cloned());
    if stored == [0] {
        "it was saved empty, as DeepSpeed ZeRO-3 leaves the parameters of other ranks: gather them with \
         its zero_to_fp32.py, and convert what that writes"
    } else if is_turned {
        "rows and columns are exchanged: other code than this mapping is of has written it (a `Linear` \
         holds [out, in], a `Conv1D` of GPT-2 [in, out]); transpose it, or name the config of that code"
    } else {
        "the config or the tensor is wrong: two witnesses must agree"
    }
}
