//! Checkpoints with the names of other programs, brought to the names that mappings read, and back:
//! nothing is moved, only what is said of where elements are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::axes::{back, permuted};
use super::export::Export;
use super::several::several;
use super::{Options, Tensors};
use crate::base::diagnostic::Diagnostic;
use crate::base::name::Name;
use crate::checkpoint::{Checkpoint, Payload, Tensor};
use crate::package::{Dropped, Provenance, WayBack};
use crate::spec::Spec;
use crate::spec::dialect::{Dialect, Kind, Padded};
use crate::spec::names::StackNames;

/// A checkpoint in the terms of a mapping.
pub struct Translated {
    /// Its tensors, under the names of the mapping.
    pub checkpoint: Checkpoint,
    /// What the files say, by the names of the mapping.
    pub names: BTreeMap<String, Vec<Stored>>,
    /// What is no part of the model.
    pub aside: Vec<Dropped>,
}

impl Translated {
    /// Gives tensors other names, by those that they have.
    pub fn rename(&mut self, names: &BTreeMap<String, String>) {
        for tensor in &mut self.checkpoint.tensors {
            let Some(name) = names.get(&*tensor.name) else { continue };
            let old = std::mem::replace(&mut tensor.name, name.clone().into());
            if let Some(stored) = self.names.remove(&*old) {
                self.names.insert(name.clone(), stored);
            }
        }
    }
}

/// What a file says of a tensor: its name, and for each axis of the mapping the one of the file, where
/// the order is another.
pub type Stored = (String, Option<Vec<usize>>);

/// The dialect of a checkpoint's names, where mappings of another format read them.
pub fn of<'s>(spec: &'s Spec, format: &str, checkpoint: &Checkpoint) -> Option<&'s Dialect> {
    let names = || checkpoint.tensors.iter().map(|tensor| tensor.name.as_str());
    spec.dialects.iter().find(|dialect| dialect.fits(format, names()))
}

/// Brings a checkpoint to the terms of the mappings. A tensor that is stored under several names is
/// read once; `same` tells whether two tensors hold the same bytes.
///
/// # Errors
/// Two tensors of different values become one.
pub fn read(
    dialect: &Dialect,
    checkpoint: &Checkpoint,
    same: &dyn Fn(&Tensor, &Tensor) -> crate::base::error::Result<bool>,
) -> Result<Translated, Diagnostic> {
    let mut names: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    let mut firsts: BTreeMap<String, &Tensor> = BTreeMap::new();
    let (mut tensors, mut aside) = (Vec::new(), Vec::new());
    for tensor in &checkpoint.tensors {
        let float_axes = tensor.dtype.is_float().then_some(tensor.shape.len());
        if let Some(why) = dialect.aside(&tensor.name, float_axes) {
            aside.push(Dropped {
                name: tensor.name.to_string(),
                dtype: tensor.dtype.name().to_owned(),
                shape: tensor.shape.clone(),
                encoding: None,
                why: why.to_owned(),
                back: WayBack::Lost,
                component: None,
            });
            continue;
        }
        if let Some(several) = several(dialect, tensor) {
            for (name, part) in several {
                let spoken = dialect.ours(&name, &part.shape);
                let stored = (name, spoken.axes.clone());
                names.entry(spoken.name.clone()).or_default().push(stored);
                let part = match &spoken.axes {
                    Some(axes) => permuted(&part, axes),
                    None => part,
                };
                if firsts.insert(spoken.name.clone(), tensor).is_some() {
                    let message =
                        format!("`{}` is in `{}`, and stands alone too", spoken.name, tensor.name);
                    return Err(Diagnostic::error("P020", message).tensor(&tensor.name));
                }
                tensors.push(Tensor { name: spoken.name.into(), ..part });
            }
            continue;
        }
        let spoken = dialect.ours(&tensor.name, &tensor.shape);
        let stored = (tensor.name.to_string(), spoken.axes.clone());
        names.entry(spoken.name.clone()).or_default().push(stored);
        if let Some(first) = firsts.get(&spoken.name) {
            check_copy(dialect, first, tensor, &spoken.name, same)?;
            continue;
        }
        firsts.insert(spoken.name.clone(), tensor);
        let tensor = match &spoken.axes {
            Some(axes) => permuted(tensor, axes),
            None => tensor.clone(),
        };
        tensors.push(Tensor { name: spoken.name.into(), ..tensor });
    }
    let checkpoint = Checkpoint {
        format: checkpoint.format,
        tensors,
        signatures: checkpoint.signatures.clone(),
        ..Checkpoint::default()
    };
    Ok(Translated { checkpoint, names, aside })
}

/// A checkpoint of a format with the tensors that others hold in place of these; `None` where none does.
pub fn parted(spec: &Spec, format: &str, checkpoint: &Checkpoint) -> Option<Checkpoint> {
    let dialect = of(spec, format, checkpoint)?;
    let mut tensors = Vec::with_capacity(checkpoint.tensors.len());
    for tensor in &checkpoint.tensors {
        match several(dialect, tensor) {
            Some(parts) => {
                tensors.extend(
                    parts.into_iter().map(|(name, part)| Tensor { name: name.into(), ..part }),
                );
            }
            None => tensors.push(tensor.clone()),
        }
    }
    (tensors.len() != checkpoint.tensors.len()).then(|| Checkpoint {
        format: checkpoint.format,
        tensors,
        ..Checkpoint::default()
    })
}

/// The rule of [`trim`].
pub const PADDING: &str = "R061";

/// Leaves out the rows of tensors that nothing reads, and tells of them.
pub fn trim(dialect: &Dialect, translated: &mut Translated, config: &Json) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    for Padded { tensor: name, key } in &dialect.padded {
        let Some(wanted) = config.get(key).and_then(Json::as_u64) else { continue };
        let found = translated.checkpoint.tensors.iter_mut().find(|tensor| tensor.name == *name);
        let Some(tensor) = found else { continue };
        let Some(&rows) = tensor.shape.first().filter(|rows| wanted < **rows) else { continue };
        match &mut tensor.payload {
            Payload::Range(_) => {
                let Ok(view) = tensor.view() else { continue };
                tensor.payload = Payload::View(Box::new(view));
            }
            Payload::Tiles(tiles) => {
                tiles.retain(|tile| tile.at.first().is_some_and(|at| *at < wanted));
                for tile in tiles {
                    tile.shape[0] = tile.shape[0].min(wanted - tile.at[0]);
                }
            }
            _ => {}
        }
        tensor.shape[0] = wanted;
        let stored = translated.names.get(name).and_then(|stored| stored.first());
        let stored = stored.map_or(name, |(stored, _)| stored);
        let message = format!(
            "`{stored}` has {} rows of padding behind the {wanted} of `{key}`, which are left out",
            rows - wanted
        );
        told.push(Diagnostic::note(PADDING, message).tensor(stored));
    }
    told
}

/// Checks that a second tensor of a name holds what the first does.
fn check_copy(
    dialect: &Dialect,
    first: &Tensor,
    second: &Tensor,
    name: &str,
    same: &dyn Fn(&Tensor, &Tensor) -> crate::base::error::Result<bool>,
) -> Result<(), Diagnostic> {
    let alike = first.dtype == second.dtype && first.shape == second.shape;
    let is_same = if alike { same(first, second) } else { Ok(false) };
    let why = match is_same {
        Ok(true) => return Ok(()),
        Ok(false) => "hold different values".to_owned(),
        Err(err) => format!("cannot be compared: {err}"),
    };
    let message = format!(
        "`{}` and `{}` are both `{name}` in {}, and {why}",
        first.name, second.name, dialect.about
    );
    Err(Diagnostic::error("P020", message).tensor(&second.name).help("remove the wrong one"))
}

/// What is told of tensors that are left aside: one note for all of one reason.
pub fn told(aside: &[Dropped]) -> Vec<Diagnostic> {
    let reasons: BTreeSet<&str> = aside.iter().map(|dropped| dropped.why.as_str()).collect();
    let notes = reasons.into_iter().map(|why| {
        let of: Vec<&Dropped> = aside.iter().filter(|dropped| dropped.why == why).collect();
        let message = format!("{} tensors are left aside, as `{}`: {why}", of.len(), of[0].name);
        Diagnostic::note("P015", message)
    });
    notes.collect()
}

/// The record of a source in the terms of the mappings, and the names that its files have by those.
pub fn record(source: &Provenance) -> (Provenance, BTreeMap<String, Vec<Stored>>) {
    let mut record = source.clone();
    let mut names: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    for tensor in &mut record.tensors {
        if let Some(ours) = tensor.read_as.take() {
            let theirs = std::mem::replace(&mut tensor.name, ours.clone());
            names
                .entry(ours.into())
                .or_default()
                .push((theirs.into(), tensor.axes.take().map(Vec::from)));
        }
    }
    (record, names)
}

/// Brings what is written in the terms of a mapping to those of the dialect. `names` are those that
/// the source had.
///
/// # Errors
/// A tensor cannot be written so.
pub fn write(
    spec: &Spec,
    dialect: &Dialect,
    hparams: &StackNames<'_>,
    Export { tensors: exported, tied, config, .. }: &Export,
    names: &BTreeMap<String, Vec<Stored>>,
    options: Options,
) -> Result<Tensors, Diagnostic> {
    let mut written = Tensors { inputs: exported.inputs.clone(), ..Tensors::default() };
    let is_tied = dialect.ties(config);
    for (name, step) in exported.named_steps() {
        // Buffers that a recipe makes are of the mappings' own library.
        let Some((expr, dtype)) = exported.exprs.get(name) else { continue };
        let tied = tied.get(name.as_str());
        // What ties by its config has no second tensor.
        if tied.is_some() && is_tied && !names.contains_key(name.as_str()) {
            continue;
        }
        let has_own_head = tied.is_none() && matches!(&*step.from, [from] if *from == LM_HEAD);
        if has_own_head && dialect.always_ties() && !names.contains_key(name.as_str()) {
            let message = format!(
                "`{}` is a matrix of its own, and programs that read {} take the table of tokens in its \
                 place",
                name, dialect.format
            );
            let help = "they would compute something else: write a format that says what is tied";
            return Err(Diagnostic::error("P042", message).tensor(name).help(help));
        }
        let (expr, dtype) = (expr.clone(), *dtype);
        let rank = expr.layout.shape.len();
        let stored = match names.get(name.as_str()) {
            Some(stored) => stored.clone(),
            None => {
                let canonical = tied
                    .map(String::as_str)
                    .or(step.from.first().map(Name::as_str))
                    .unwrap_or_default();
                let role = spec.role(canonical);
                let stack = role.as_ref().and_then(|role| role.stack.as_deref());
                let stack = StackNames { stack: stack.or(hparams.stack), ..*hparams };
                let kind = match &role {
                    Some(role) if role.role.is_table => Kind::Table,
                    _ if is_norm(canonical) => Kind::Norm,
                    _ => Kind::Map,
                };
                let spoken = dialect.theirs(name, rank, kind, &stack);
                vec![(spoken.name, spoken.axes)]
            }
        };
        for (name, axes) in stored {
            let expr = match axes {
                Some(axes) => back(expr.clone(), &axes).map_err(|why| {
                    Diagnostic::error("P010", format!("`{name}`: {why}")).tensor(&name)
                })?,
                None => expr.clone(),
            };
            written.write(&name, expr, dtype, options, step.clone())?;
        }
    }
    Ok(written)
}

/// The matrix that gives logits of tokens, which many models tie to the table of tokens.
const LM_HEAD: &str = "heads.lm.proj.weight";

/// Whether a canonical tensor is of a norm.
fn is_norm(name: &str) -> bool {
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    let module = module.rsplit('.').next().unwrap_or_default();
    module == "norm" || module.ends_with("_norm")
}
