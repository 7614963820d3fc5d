//! The one spelling of what `model.json` says: the normal form of `spec/package.md`, which digests are
//! taken over.

use super::Spec;
use super::arch::Arch;
use super::expr::{as_int, same};
use super::names::StackNames;
use crate::package::{Hparams, Model, Value};

/// The task whose outputs may be scaled to length 1.
const EMBEDDING: &str = "embedding";

/// Ids as integers, however their numbers are spelled.
fn integers(value: Value) -> Value {
    match value {
        Value::List(ids) => Value::List(ids.into_iter().map(integers).collect()),
        value => as_int(&value).map_or(value, Value::Int),
    }
}

impl Spec {
    /// A model in the normal form.
    pub fn normal_model(&self, mut model: Model) -> Model {
        if let Some(arch) = model.architecture.as_deref().and_then(|id| self.arch(id)) {
            model.hyperparameters = self.normal_hparams(arch, &model.hyperparameters);
        }
        model.tokens.retain(|_, id| *id != Value::Null);
        for id in model.tokens.values_mut() {
            *id = integers(id.clone());
        }
        if let Some(eos) = model.tokens.get_mut("eos")
            && matches!(eos, Value::Int(_))
        {
            *eos = Value::List(vec![eos.clone()]);
        }
        for task in &mut model.tasks {
            task.normalize = (task.id == EMBEDDING).then(|| task.normalize == Some(true));
            task.labels.take_if(|labels| labels.is_empty());
        }
        model
    }

    /// The one spelling of hyperparameters: a key that each stack may have for itself stands once, as `KEY`,
    /// where all stacks for which its condition holds have one value, and as `STACK.KEY` for each
    /// of them where they differ. A key that came after the first version is left out where it has the
    /// value that a package without it means.
    pub fn normal_hparams(&self, arch: &Arch, hparams: &Hparams) -> Hparams {
        let mut spelled = self.respell(arch, hparams, |values| match values {
            [(_, first), rest @ ..] => rest.iter().all(|(_, value)| same(first, value)),
            [] => false,
        });
        for key in &self.keys {
            let is_meant = |value: &Value| key.absent.as_ref().is_some_and(|of| same(of, value));
            let of_stacks = ["encoder", "decoder"].map(|stack| format!("{stack}.{}", key.name));
            for name in [&key.name].into_iter().chain(&of_stacks) {
                if spelled.get(name).is_some_and(is_meant) {
                    spelled.remove(name);
                }
            }
        }
        spelled
    }

    /// Hyperparameters with those that came after the first version and are left out.
    pub fn complete_hparams(&self, hparams: &Hparams) -> Hparams {
        let mut whole = hparams.clone();
        for key in &self.keys {
            let Some(absent) = &key.absent else { continue };
            let is_there = |name: &String| hparams.contains_key(name);
            let of_stacks = ["encoder", "decoder"].map(|stack| format!("{stack}.{}", key.name));
            match (is_there(&key.name), of_stacks.iter().any(is_there)) {
                (true, _) => {}
                (false, false) => drop(whole.insert(key.name.clone(), absent.clone())),
                // One stack has it, and the other means what is meant without it.
                (false, true) => {
                    for name in of_stacks {
                        whole.entry(name).or_insert_with(|| absent.clone());
                    }
                }
            }
        }
        whole
    }

    /// Hyperparameters with `STACK.KEY` for each stack for which the key's condition holds, beside
    /// what [`Spec::normal_hparams`] writes: mappings may speak of either.
    pub fn wide_hparams(&self, arch: &Arch, hparams: &Hparams) -> Hparams {
        let hparams = &self.complete_hparams(hparams);
        let mut wide = self.respell(arch, hparams, |_| false);
        for (name, value) in hparams {
            wide.entry(name.clone()).or_insert_with(|| value.clone());
        }
        wide
    }

    /// Spells each key of stacks as `KEY` where `as_one` says so of its values, else as `STACK.KEY`.
    fn respell(
        &self,
        arch: &Arch,
        hparams: &Hparams,
        as_one: impl Fn(&[(&String, &Value)]) -> bool,
    ) -> Hparams {
        let normal = |(name, value): (&String, &Value)| {
            let value = value.clone();
            (name.clone(), self.key(name).map_or(value.clone(), |key| key.normal(value)))
        };
        let hparams: &Hparams = &hparams.iter().map(normal).collect();
        let mut spelled = hparams.clone();
        for key in self.keys.iter().filter(|key| key.per_stack) {
            let of_stack = |stack: &'_ str| format!("{stack}.{}", key.name);
            let holds = |stack: &String| {
                let names = StackNames { hparams, tokens: None, stack: Some(stack), layer: None };
                key.when.as_ref().is_none_or(|when| when.eval_bool(&names) == Ok(true))
            };
            let stated =
                |stack: &String| hparams.get(&of_stack(stack)).or_else(|| hparams.get(&key.name));
            let holding: Vec<&String> = arch.stacks.iter().filter(|stack| holds(stack)).collect();
            if holding.iter().all(|stack| stated(stack).is_none()) {
                continue;
            }
            // A stack that says nothing beside one that does means what is meant without the key.
            let value = |stack: &String| stated(stack).or(key.absent.as_ref());
            let values: Vec<(&String, &Value)> =
                holding.into_iter().filter_map(|stack| Some((stack, value(stack)?))).collect();
            spelled.remove(&key.name);
            for (stack, _) in &values {
                spelled.remove(&of_stack(stack));
            }
            if as_one(&values) || arch.stacks.len() == 1 {
                spelled.insert(key.name.clone(), values[0].1.clone());
            } else {
                let each = values.iter().map(|(stack, value)| (of_stack(stack), (*value).clone()));
                spelled.extend(each);
            }
        }
        spelled
    }
}
