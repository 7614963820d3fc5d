//! Whether one rule reads each foreign tensor, and every tensor of the architecture is made.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::planner::Planner;
use crate::base::diagnostic::Diagnostic;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::package::{Hparams, WayBack};
use crate::plan::names::{self, Instance};
use crate::plan::tasks;
use crate::spec::expr::as_int;
use crate::spec::map::Map;

/// Why tensors of what is quantized while a model runs are no canonical ones.
const RUNTIME: &str = "says how activations are quantized, which are not here";

impl<'a> Planner<'a> {
    /// Checks that exactly one rule reads each foreign tensor; returns those that none reads, and
    /// that a model may be whole without.
    pub(super) fn cover(
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
            if self.spec.layouts.is_runtime(name, config) {
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
            } else if crate::plan::import::stray::is_in_layer(map, prefix, name) {
                self.errors.push(Self::unread(map, name, config));
            } else {
                strays.push(tensor);
            }
        }
        strays
    }

    /// Checks that the architecture's tensors are all there, and no others.
    pub(super) fn check_complete(
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
        for (name, step) in self.tensors.named_steps() {
            let whole = self.tensors.wholes.get(name).unwrap_or(name);
            if !known.contains(whole.as_str()) {
                let message = format!(
                    "`{}` makes `{}`, which {} does not have under this config",
                    step.from[0], name, self.arch.id
                );
                errors.push(Diagnostic::error("P009", message).tensor(&step.from[0]));
            }
        }
        self.errors.append(&mut errors);
    }

    /// Says first of a class that the mapping does not know that its tensors may be others.
    pub(super) fn blame_class(&mut self, map: &Map, config: &Json) {
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
}

/// The layer of a name of the mapping that lies beyond the last one, and the number of layers.
fn beyond_last_layer(map: &Map, name: &str, hparams: &Hparams) -> Option<(u64, u64)> {
    // An encoder-decoder counts the layers of each stack.
    let counts = ["num_layers", "encoder.num_layers", "decoder.num_layers"];
    let counts = counts.iter().filter_map(|key| hparams.get(*key).and_then(as_int));
    let n_layers = u64::try_from(counts.max()?).ok()?;
    let layer = name.split('.').find_map(|segment| segment.parse::<u64>().ok())?;
    // Whatever stands in front of the mapping's own names.
    let ends = || name.match_indices('.').map(|(at, _)| &name[at + 1..]).chain([name]);
    let mut texts = map.rules.iter().flat_map(|rule| &rule.from).map(|from| from.text.as_str());
    let known = texts.any(|text| {
        text.contains("{i") && ends().any(|end| is_of(text.trim_start_matches('@'), end))
    });
    (n_layers <= layer && known).then_some((layer, n_layers))
}

/// Whether a name is one of those that a template stands for: `{i}` is a number, other braces are a text
/// without dots.
fn is_of(template: &str, name: &str) -> bool {
    let Some((literal, rest)) = template.split_once('{') else { return template == name };
    let (Some(name), Some((variable, rest))) = (name.strip_prefix(literal), rest.split_once('}'))
    else {
        return false;
    };
    let len = name.find('.').unwrap_or(name.len());
    let is_layer = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mut ends = (1..=len).filter(|&end| name.is_char_boundary(end));
    ends.any(|end| (variable != "i" || is_layer(&name[..end])) && is_of(rest, &name[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_stands_for_its_names_and_no_others() {
        let template = "layers.{i}.mlp.{x.1}_proj.{p}";
        assert!(is_of(template, "layers.7.mlp.up_proj.weight"));
        assert!(is_of("h.{i}.{x}", "h.12.scale"));
        for name in [
            "layers.seven.mlp.up_proj.weight",
            "layers.7.mlp.up.weight",
            "layers.7.mlp.up_proj.weight.more",
            "layers.7.mlp.up_proj",
            "blocks.7.x",
        ] {
            assert!(!is_of(template, name), "{name}");
        }
    }
}
