//! Architectures: which tensors exist when, and which hyperparameters are fixed.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use super::expr::Expr;
use super::names::StackNames;
use super::template::{Bindings, Template, all_alternatives};
use super::{Spec, bad, from_toml};
use crate::base::error::Result;
use crate::base::limits::{Backing, Budget, MAX_EXTENDS};
use crate::package::{Hparams, Value};

/// One architecture.
#[derive(Clone, Debug)]
pub struct Arch {
    /// Its id.
    pub id: String,
    /// The version of the standard it came with.
    pub since: String,
    /// Its stacks.
    pub stacks: Vec<String>,
    /// The tasks it can serve.
    pub tasks: Vec<String>,
    /// Hyperparameters with one legal value.
    pub fixed: Hparams,
    /// Its tensors, in groups.
    pub tensors: Vec<Group>,
    /// What it is, for people.
    pub about: String,
}

impl Arch {
    /// The names of all its tensors, with their variables.
    pub fn templates(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().flat_map(|group| &group.names).map(|template| template.text.as_str())
    }

    /// The expressions that decide which of its tensors there are.
    pub fn conditions(&self) -> impl Iterator<Item = &Expr> {
        self.tensors
            .iter()
            .flat_map(|group| group.each.iter().map(|(_, count)| count).chain(&group.when))
    }
}

/// Tensors that exist under one condition.
#[derive(Clone, Debug)]
pub struct Group {
    /// The variable that it repeats over, and its count or list.
    pub each: Option<(String, Expr)>,
    /// When they exist.
    pub when: Option<Expr>,
    /// The head they are of; `*` is every head that no group names.
    pub head: Option<String>,
    /// Whether they may be missing.
    pub optional: bool,
    /// Their names.
    pub names: Vec<Template>,
}

/// A tensor that a package of an architecture may or must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub name: String,
    /// Its shape; `None` where any size is right.
    pub shape: Vec<Option<u64>>,
    /// Whether it must be there.
    pub required: bool,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ArchFile {
    arch: ArchHead,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    fixed: BTreeMap<String, toml::Value>,
    /// Fixed keys of the architecture this one extends that are free here.
    #[serde(default)]
    free: Vec<String>,
    #[serde(default)]
    tensor: Vec<GroupFile>,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ArchHead {
    id: String,
    since: String,
    extends: Option<String>,
    /// Tensor names of the architecture this one extends that do not exist here.
    #[serde(default)]
    without: Vec<String>,
    #[serde(default)]
    stacks: Vec<String>,
    #[serde(default)]
    tasks: Vec<String>,
    about: String,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GroupFile {
    #[serde(default)]
    each: BTreeMap<String, String>,
    when: Option<String>,
    head: Option<String>,
    #[serde(default)]
    optional: bool,
    names: Vec<String>,
}

pub(super) fn resolve(id: &str, load: &dyn Fn(&str) -> Result<ArchFile>) -> Result<Arch> {
    resolve_nested(id, load, 0)
}

fn resolve_nested(id: &str, load: &dyn Fn(&str) -> Result<ArchFile>, depth: usize) -> Result<Arch> {
    let file = load(id)?;
    let fail = |why: &str| bad(&format!("arch/{id}.toml"), why);
    if file.arch.id != id {
        return Err(fail(&format!("its id is {:?}", file.arch.id)));
    }
    let mut arch = match &file.arch.extends {
        Some(_) if MAX_EXTENDS < depth => {
            return Err(fail("architectures extend each other too deep, or in a circle"));
        }
        Some(parent) => resolve_nested(parent, load, depth + 1)?,
        None => Arch {
            id: String::new(),
            since: String::new(),
            stacks: Vec::new(),
            tasks: Vec::new(),
            fixed: Hparams::new(),
            tensors: Vec::new(),
            about: String::new(),
        },
    };
    arch.id = file.arch.id;
    arch.since = file.arch.since;
    arch.about = file.arch.about;
    if !file.arch.stacks.is_empty() {
        arch.stacks = file.arch.stacks;
    }
    if !file.arch.tasks.is_empty() {
        arch.tasks = file.arch.tasks;
    }
    for name in &file.free {
        arch.fixed.remove(name).ok_or_else(|| fail(&format!("`{name}` was not fixed")))?;
    }
    for (name, value) in &file.fixed {
        arch.fixed.insert(name.clone(), from_toml(value).map_err(|why| fail(&why))?);
    }
    let without = all_alternatives(&file.arch.without).map_err(|why| fail(&why))?;
    for name in without {
        let mut found = false;
        for group in &mut arch.tensors {
            let n_names = group.names.len();
            group.names.retain(|template| template.text != name);
            found |= group.names.len() < n_names;
        }
        if !found {
            return Err(fail(&format!("there was no tensor `{name}` to leave out")));
        }
    }
    for group in file.tensor {
        arch.tensors.push(group_of(group).map_err(|why| fail(&why))?);
    }
    Ok(arch)
}

fn group_of(file: GroupFile) -> std::result::Result<Group, String> {
    let mut each = file.each.into_iter();
    let (first, second) = (each.next(), each.next());
    if second.is_some() {
        return Err("a group of tensors repeats over one variable at most".to_owned());
    }
    let each = match first {
        Some((variable, count)) => Some((variable, Expr::parse(&count)?)),
        None => None,
    };
    let names = all_alternatives(&file.names)?.into_iter();
    Ok(Group {
        each,
        when: file.when.as_deref().map(Expr::parse).transpose()?,
        head: file.head,
        optional: file.optional,
        names: names.map(|name| Template::parse(&name)).collect::<std::result::Result<_, _>>()?,
    })
}

impl Group {
    /// The stack that its tensors are of.
    fn stack<'a>(&self, arch: &'a Arch) -> Option<&'a str> {
        self.names.iter().find_map(|name| {
            let first = name.text.split('.').next()?;
            arch.stacks.iter().find(|stack| *stack == first).map(String::as_str)
        })
    }
}

/// The layers, or what else a group repeats over; one `None` where it does not repeat.
fn indices(
    arch: &Arch,
    group: &Group,
    hparams: &Hparams,
    backing: Backing,
) -> std::result::Result<Vec<Option<u64>>, String> {
    let Some((_, count)) = &group.each else { return Ok(vec![None]) };
    let names = StackNames { hparams, tokens: None, stack: group.stack(arch), layer: None };
    if let Value::List(items) = count.eval(&names)? {
        let index = |item| super::expr::as_int(item).and_then(|int| u64::try_from(int).ok());
        return Ok(items.iter().map(index).collect());
    }
    let n = count.eval_size(&names)?;
    if backing.max_layers() < n {
        return Err(format!("`{}` is {n}, and {backing}", count.text));
    }
    Ok((0..n).map(Some).collect())
}

impl Spec {
    /// The tensors of a package of this architecture, given which names and ties it has: the
    /// heads that are there decide which head tensors must be.
    ///
    /// # Errors
    /// A hyperparameter that decides about tensors has no value, or counts more than there are
    /// tensors for.
    pub fn expected(
        &self,
        arch: &Arch,
        hparams: &Hparams,
        present: &BTreeSet<&str>,
        backing: Backing,
    ) -> std::result::Result<Vec<Expected>, String> {
        let hparams = &self.complete_hparams(hparams);
        let heads: BTreeSet<&str> = present
            .iter()
            .filter_map(|name| name.strip_prefix("heads.")?.split('.').next())
            .collect();
        let named: BTreeSet<&str> =
            arch.tensors.iter().filter_map(|group| group.head.as_deref()).collect();
        let mut expected = Vec::new();
        let mut budget = Budget::new();
        for group in &arch.tensors {
            let group_heads: Vec<Option<&str>> = match group.head.as_deref() {
                None => vec![None],
                Some("*") => {
                    let free = heads.iter().filter(|head| !named.contains(*head));
                    free.map(|head| Some(*head)).collect()
                }
                Some(head) if heads.contains(head) => vec![Some(head)],
                Some(_) => continue,
            };
            for head in group_heads {
                let indices = indices(arch, group, hparams, backing)?;
                let n_names = (indices.len() as u64).saturating_mul(group.names.len() as u64);
                budget.take(n_names)?;
                self.expand(arch, group, head, hparams, &indices, &mut expected)?;
            }
        }
        Ok(expected)
    }

    fn expand(
        &self,
        arch: &Arch,
        group: &Group,
        head: Option<&str>,
        hparams: &Hparams,
        indices: &[Option<u64>],
        expected: &mut Vec<Expected>,
    ) -> std::result::Result<(), String> {
        let stack = group.stack(arch);
        let mut names = StackNames { hparams, tokens: None, stack, layer: None };
        for &index in indices {
            names.layer = index;
            if let Some(when) = &group.when
                && !when.eval_bool(&names)?
            {
                continue;
            }
            let mut bindings = Bindings::new();
            if let (Some((variable, _)), Some(index)) = (&group.each, index) {
                bindings.insert(variable.clone(), index.to_string());
            }
            if let Some(head) = head {
                bindings.insert("name".to_owned(), head.to_owned());
            }
            for template in &group.names {
                let name = template.fill(&bindings)?;
                let role = self.role(&name).ok_or_else(|| format!("`{name}` has no role"))?;
                // One group may name tensors of two stacks, each with its own hyperparameters.
                let stack = role.stack.as_deref().or(names.stack);
                let shape = role.shape(&StackNames { stack, ..names })?;
                expected.push(Expected { name, shape, required: !group.optional });
            }
        }
        Ok(())
    }
}
