//! What a mapping says, as names: each foreign name or pattern beside the standard's, for readers
//! that are not this program.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::base::diagnostic::Diagnostic;
use crate::base::limits::Backing;
use crate::base::near::did_you_mean;
use crate::plan::keys;
use crate::plan::names::{self, Choices};
use crate::plan::ops::describe;
use crate::spec::Spec;
use crate::spec::map::{DropRule, Each, Map, Op, Rule};
use crate::spec::names::StackNames;
use crate::spec::template::Template;

/// A mapping as names, as `llmstd spec map` prints it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NameMap {
    /// `llmstd.spec-map/1`.
    pub schema: &'static str,
    /// The mapping, `hf/NAME`.
    pub map: String,
    /// Counts the changes of the mapping that changed its output.
    pub revision: u32,
    /// The architecture that it leads to.
    pub architecture: String,
    /// What `@` stands for at the start of foreign names, in the order to try.
    pub prefixes: Vec<String>,
    /// Other spellings of the ends of foreign names: `[here, in some files]`.
    pub spellings: Vec<[String; 2]>,
    /// The tensors.
    pub rules: Vec<RuleNames>,
    /// Foreign buffers that the standard does not store.
    pub drops: Vec<DropNames>,
    /// The names themselves, where a config or a checkpoint was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<Pair>>,
}

/// Which foreign tensors become which of the standard's.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RuleNames {
    /// The variables in braces, and what each goes through.
    pub each: Vec<Variable>,
    /// The variable over which the foreign side is a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<Variable>,
    /// The foreign names.
    pub foreign: Vec<String>,
    /// The standard's names.
    pub standard: Vec<String>,
    /// What happens on the way in, as in the data files; `ops.toml` says what each means and what
    /// undoes it.
    pub ops: Vec<Op>,
    /// When the rule holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The tensor that this one repeats where it is tied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tie: Option<String>,
    /// Foreign names that may hold the same bytes again.
    pub also: Vec<String>,
    /// Foreign names of which one has to be in the file.
    pub requires_any: Vec<String>,
    /// Foreign names of which none may be in the file.
    pub requires_none: Vec<String>,
}

/// A variable of a rule.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// The hyperparameters' expression that it counts up to, or whose entries it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<String>,
    /// The texts that it takes; of several at once, the first is `{name.0}`.
    pub texts: Vec<Vec<String>>,
}

/// A foreign buffer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DropNames {
    /// The variables in braces, and what each goes through.
    pub each: Vec<Variable>,
    /// Its foreign name.
    pub foreign: String,
    /// The recipe that computes it; without one it is dropped for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// Why it is no part of the model.
    pub why: String,
}

/// The names of one use of a rule.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Pair {
    /// The foreign names; absent ones too, where only a config was given.
    pub foreign: Vec<String>,
    /// The standard's names.
    pub standard: Vec<String>,
    /// What happens on the way in, in short.
    pub ops: String,
}

impl NameMap {
    /// The names of a mapping.
    pub fn of(map: &Map) -> NameMap {
        NameMap {
            schema: "llmstd.spec-map/1",
            map: format!("{}/{}", map.format, map.name),
            revision: map.revision,
            architecture: map.arch.clone(),
            prefixes: map.prefixes.clone(),
            spellings: map
                .spells
                .iter()
                .map(|spell| [spell.ours.clone(), spell.theirs.clone()])
                .collect(),
            rules: map.rules.iter().map(rule_names).collect(),
            drops: map.drops.iter().map(drop_names).collect(),
            names: None,
        }
    }

    /// Adds the names themselves for a config: those of the tensors of a file, or of every one that
    /// a rule could read.
    ///
    /// # Errors
    /// The config is not one that the mapping reads, or the file spells one thing in two ways.
    pub fn with_names(
        mut self,
        spec: &Spec,
        map: &Map,
        config: &Json,
        file: Option<&BTreeSet<&str>>,
    ) -> Result<NameMap, Vec<Diagnostic>> {
        let arch =
            spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
        let keys = keys::read(spec, map, arch, config)?;
        let stack = arch.stacks.first().map(String::as_str);
        let whole = spec.complete_hparams(&keys.hparams);
        let names = StackNames { hparams: &whole, tokens: Some(&keys.tokens), stack, layer: None };
        // The names of a file are here, its shapes are not: counts have the limits of a config.
        let backing = Backing::config_alone();
        let choices = match file {
            Some(present) => {
                let unknown = |why: String| {
                    let message = format!("the mapping {}/{}: {why}", map.format, map.name);
                    vec![Diagnostic::error("P003", message)]
                };
                names::choices(map, present, &names, backing, &unknown)?
            }
            None => {
                let prefix = map.prefixes.first().cloned().unwrap_or_default();
                Choices { prefix, spellings: Vec::new() }
            }
        };
        let mut instances = names::instances(map, &choices, &names, backing)
            .map_err(|why| vec![Diagnostic::error("P003", why)])?;
        if let Some(present) = file {
            instances.retain(|instance| {
                let mut all = instance.from.iter().chain(&instance.also);
                instance.holds(present) && all.any(|name| present.contains(name.as_str()))
            });
        }
        let pairs = instances.into_iter().map(|instance| Pair {
            ops: describe(&instance.rule.ops),
            foreign: instance.from,
            standard: instance.to,
        });
        self.names = Some(pairs.collect());
        Ok(self)
    }

    /// The names for people.
    pub fn to_text(&self) -> String {
        let mut text = format!("{} -> {}\n", self.map, self.architecture);
        if self.prefixes.iter().any(|prefix| !prefix.is_empty()) {
            let prefixes: Vec<String> =
                self.prefixes.iter().map(|prefix| format!("\"{prefix}\"")).collect();
            let _ = writeln!(text, "@ is {}", prefixes.join(" or "));
        }
        for [ours, theirs] in &self.spellings {
            let _ = writeln!(text, "{ours} is {theirs} in some files");
        }
        if let Some(names) = &self.names {
            for Pair { foreign, standard, ops } in names {
                let ops = if ops == "copy" { String::new() } else { format!("  [{ops}]") };
                let _ = writeln!(text, "{} -> {}{ops}", foreign.join(" + "), standard.join(" + "));
            }
            return text;
        }
        for rule in &self.rules {
            let ops = if rule.ops.is_empty() {
                String::new()
            } else {
                format!("  [{}]", describe(&rule.ops))
            };
            let (foreign, standard) = (rule.foreign.join(" + "), rule.standard.join(" + "));
            let _ = writeln!(text, "\n{foreign}\n  -> {standard}{ops}");
            for variable in rule.each.iter().chain(&rule.over) {
                let _ = writeln!(text, "  {}", variable.to_text());
            }
            let notes = [("when", &rule.when), ("may be tied to", &rule.tie)];
            for (what, note) in notes {
                let _ = note.iter().try_for_each(|note| writeln!(text, "  {what} {note}"));
            }
            let lists = [
                ("also read", &rule.also),
                ("beside one of", &rule.requires_any),
                ("unless there is", &rule.requires_none),
            ];
            for (what, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
                let _ = writeln!(text, "  {what} {}", list.join(", "));
            }
        }
        for drop in &self.drops {
            let recipe = drop.recipe.as_deref().unwrap_or("for good");
            let _ = writeln!(text, "\n{}\n  dropped ({recipe}): {}", drop.foreign, drop.why);
        }
        text
    }
}

impl Variable {
    fn to_text(&self) -> String {
        match &self.count {
            Some(count) => format!("{{{}}} up to {count}", self.name),
            None => {
                let texts: Vec<String> = self.texts.iter().map(|texts| texts.join("/")).collect();
                format!("{{{}}} is {}", self.name, texts.join(", "))
            }
        }
    }
}

fn texts(templates: &[Template]) -> Vec<String> {
    templates.iter().map(|template| template.text.clone()).collect()
}

fn variables(each: &[(String, Each)]) -> Vec<Variable> {
    let variables = each.iter().map(|(name, each)| match each {
        Each::Count(count) => {
            Variable { name: name.clone(), count: Some(count.text.clone()), texts: Vec::new() }
        }
        Each::Texts(texts) => Variable { name: name.clone(), count: None, texts: texts.clone() },
    });
    variables.collect()
}

fn rule_names(rule: &Rule) -> RuleNames {
    RuleNames {
        each: variables(&rule.each),
        over: rule.over.as_ref().map(|(name, count)| Variable {
            name: name.clone(),
            count: Some(count.text.clone()),
            texts: Vec::new(),
        }),
        foreign: texts(&rule.from),
        standard: texts(&rule.to),
        ops: rule.ops.clone(),
        when: rule.when.as_ref().map(|when| when.text.clone()),
        tie: rule.tie.clone(),
        also: texts(&rule.also),
        requires_any: texts(&rule.requires_any),
        requires_none: texts(&rule.requires_none),
    }
}

fn drop_names(drop: &DropRule) -> DropNames {
    DropNames {
        each: variables(&drop.each),
        foreign: drop.name.text.clone(),
        recipe: drop.make.as_ref().map(|make| make.function.clone()),
        why: drop.why.clone(),
    }
}

/// The mapping that a person means: `NAME` of a format, or the only one that leads to an
/// architecture of this name.
///
/// # Errors
/// There is none, or there are several.
pub fn find<'a>(spec: &'a Spec, format: &str, name: &str) -> Result<&'a Map, String> {
    let of_format = || spec.maps_of(format);
    if of_format().next().is_none() {
        let formats: BTreeSet<&str> = spec.maps.keys().map(|(format, _)| format.as_str()).collect();
        let formats: Vec<&str> = formats.into_iter().collect();
        return Err(format!("there are no mappings of {format:?}, only of {}", formats.join(", ")));
    }
    if let Some(map) = spec.map(format, name) {
        return Ok(map);
    }
    let leading: Vec<&Map> = of_format().filter(|map| map.arch == name).collect();
    match leading.as_slice() {
        [map] => Ok(map),
        [] => {
            let meant = did_you_mean(name, of_format().map(|map| map.name.as_str()));
            let message = format!("there is no {format} mapping of {name:?}{meant}");
            Err(format!("{message}; `llmstd spec list` shows what there is"))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|map| map.name.as_str()).collect();
            Err(format!("several {format} mappings lead to {name:?}: {}", names.join(", ")))
        }
    }
}
