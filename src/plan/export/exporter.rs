//! The foreign tensors that are planned, rule by rule.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::base::diagnostic::Diagnostic;
use crate::base::limits::Backing;
use crate::base::name::Name;
use crate::checkpoint::{Checkpoint, DType, Encoding, Parameters, Tensor};
use crate::encoding::BlockType;
use crate::package::{Dropped, MapUsed, Model, Provenance, WayBack};
use crate::plan::axes;
use crate::plan::import::make;
use crate::plan::names::{self, Bound, Choices, Instance};
use crate::plan::ops::{Direction, TensorExpr, describe, exactness, run};
use crate::plan::{Exactness, Options, Step, Tensors};
use crate::spec::Spec;
use crate::spec::map::Map;
use crate::spec::names::StackNames;

/// The prefix and spellings to write: those of the source, or of the class, or the mapping's first.
/// A checkpoint of the base class has no prefix where the mapping knows files without one.
pub(super) fn choices(
    map: &Map,
    used: Option<&MapUsed>,
    model: &Model,
    class: Option<&str>,
) -> Choices {
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

pub(super) struct Exporter<'a> {
    pub(super) spec: &'a Spec,
    pub(super) names: &'a StackNames<'a>,
    pub(super) options: Options,
    /// The dtype that tensors of one axis have.
    pub(super) vector_dtype: Option<DType>,
    pub(super) stored: &'a BTreeMap<Name, (TensorExpr, DType)>,
    pub(super) ties: BTreeMap<&'a str, &'a str>,
    /// The foreign names of the source, if there was one.
    pub(super) recorded: Option<BTreeSet<&'a str>>,
    /// For foreign names the order of the axes that the source had, where that is another.
    pub(super) turned: BTreeMap<&'a str, &'a [usize]>,
    pub(super) used: BTreeSet<String>,
    pub(super) backing: Backing,
    pub(super) tied: BTreeMap<String, String>,
    pub(super) tensors: Tensors,
    pub(super) errors: Vec<Diagnostic>,
}

impl Exporter<'_> {
    /// Whether the source had a tensor of this name.
    pub(super) fn was_recorded(&self, name: &str) -> bool {
        self.recorded.as_ref().is_some_and(|names| names.contains(name))
    }

    pub(super) fn plan_instance(&mut self, instance: &Instance<'_>) {
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
        let every_copy = match (&self.recorded, &instance.rule.also_when) {
            (None, Some(when)) => {
                let bound = Bound { names: self.names, bindings: &instance.bindings };
                when.eval_bool(&bound)
            }
            _ => Ok(false),
        };
        let every_copy = every_copy.unwrap_or_else(|why| {
            self.errors.push(Diagnostic::error("P003", why));
            false
        });
        let recorded = |name: &&String| self.was_recorded(name);
        let wanted = |name: &&String| every_copy || recorded(name);
        let copies: Vec<String> = instance.also.iter().filter(wanted).cloned().collect();
        // A source may have had the copy alone.
        let only_copies = self.recorded.is_some()
            && !copies.is_empty()
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
        for (name, mut expr) in foreign.iter().zip(exprs) {
            if let Some(axes) = self.turned.get(name.as_str()) {
                expr = axes::back(expr, axes).map_err(|why| {
                    Diagnostic::error("P010", format!("`{name}`: {why}")).tensor(name)
                })?;
            }
            let step = Step {
                from: canonical.iter().map(Name::from).collect(),
                ops: describe(&instance.rule.ops).into(),
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

    /// Makes the buffers that readers of the foreign layout miss, in the dtype of the token table;
    /// sines in F32.
    pub(super) fn plan_without_source(&mut self, map: &Map, choices: &Choices) {
        let drops = names::drops(map, choices, self.names, &BTreeSet::new(), self.backing)
            .unwrap_or_default();
        let dtype = self.stored.get("embed.tokens.weight").map_or(DType::F32, |(_, dtype)| *dtype);
        for drop in drops.iter().filter(|drop| drop.drop.emit_without_source) {
            let Some(rule) = &drop.drop.make else { continue };
            let bound = Bound { names: self.names, bindings: &drop.bindings };
            // Sines are what the package says, without the rounding of half precision.
            let dtype = if rule.function == "sinusoid" { DType::F32 } else { dtype };
            match make(rule, dtype, &bound) {
                Ok(made) => {
                    let step = Step {
                        from: Box::default(),
                        ops: rule.function.clone().into(),
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
    pub(super) fn plan_dropped(
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
                from: Box::new([from.into()]),
                ops: ops.into(),
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
                            let tensor = in_blocks(tensor, dropped)?;
                            let (expr, dtype) = self.tensors.read(&tensor)?;
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

/// A kept buffer as what it is: where its bytes are those of blocks, these.
fn in_blocks<'t>(tensor: &'t Tensor, dropped: &Dropped) -> Result<Cow<'t, Tensor>, String> {
    let Some(id) = dropped.encoding.as_ref().filter(|_| tensor.encoding.is_none()) else {
        return Ok(Cow::Borrowed(tensor));
    };
    let unknown = || format!("its bytes are no blocks of {id}");
    let blocks = BlockType::find(id).ok_or_else(unknown)?;
    let mut shape = tensor.shape.clone();
    let last = shape.last_mut().ok_or_else(unknown)?;
    if !last.is_multiple_of(blocks.block_bytes as u64) {
        return Err(unknown());
    }
    *last = *last / blocks.block_bytes as u64 * blocks.block_len as u64;
    let encoding = Encoding { id: id.clone(), shape, parameters: Parameters::default() };
    Ok(Cow::Owned(Tensor { encoding: Some(Box::new(encoding)), ..tensor.clone() }))
}
