//! How each tensor of a conversion is made, and what came of it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use crate::base::hex::Hex;
use crate::base::name::Name;
use crate::base::source::Source;
use crate::exec::write::WrittenTensor;
use crate::package::Loss;
use crate::plan::{Step, Tensors};

/// The tensors that are written, and how each is made. A model can have a million, so that each is told from the
/// plan when it is asked for.
#[derive(Clone, Default)]
pub struct TensorReports {
    plan: Arc<Tensors>,
    /// The files of the source.
    files: Vec<Arc<str>>,
    /// Those that are written, in their order.
    written: Vec<WrittenTensor>,
}

impl TensorReports {
    /// Of tensors that are planned.
    pub(super) fn planned(source: &Source, plan: &Arc<Tensors>) -> TensorReports {
        let files = source.files().map(|file| source.name(file).into()).collect();
        TensorReports { plan: Arc::clone(plan), files, ..TensorReports::default() }
    }

    /// Notes of the next tensors what was written.
    pub(super) fn note(&mut self, written: Vec<WrittenTensor>) {
        match self.written.is_empty() {
            true => self.written = written,
            false => self.written.extend(written),
        }
    }

    /// What was written, in the order of the files.
    pub(super) fn written(&self) -> &[WrittenTensor] {
        &self.written
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.plan.outputs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each of them, in the order of the files.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TensorReport> {
        (0..self.len()).map(|place| self.tell(place))
    }

    /// The names of those whose values were changed, with what was lost.
    pub fn losses(&self) -> impl Iterator<Item = (&str, &Loss)> {
        let written = self.plan.outputs.iter().zip(&self.written);
        written.filter_map(|(output, written)| Some((&*output.name, written.loss.as_deref()?)))
    }

    fn tell(&self, place: usize) -> TensorReport {
        let Tensors { inputs, outputs, steps, encodings, .. } = &*self.plan;
        let output = &outputs[place];
        let mut read = BTreeSet::new();
        for storage in output.inputs().flat_map(|input| inputs[input].storages()) {
            let file = Arc::clone(&self.files[storage.file.number() as usize]);
            read.insert(ReadRange { file, bytes: [storage.start, storage.end()] });
        }
        let written = self.written.get(place);
        TensorReport {
            name: output.name.clone(),
            step: steps[place].clone(),
            dtype: output.dtype.name(),
            shape: output.shape.clone(),
            encoding: encodings.get(&output.name).map(|encoding| encoding.id.clone()),
            read: read.into_iter().collect(),
            sha256: written.map(|written| Hex::Hash(written.sha256)),
            loss: written.and_then(|written| written.loss.as_deref().copied()),
        }
    }
}

impl fmt::Debug for TensorReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for TensorReports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl JsonSchema for TensorReports {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Vec::<TensorReport>::schema_name()
    }

    fn inline_schema() -> bool {
        Vec::<TensorReport>::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<TensorReport>::json_schema(generator)
    }
}

/// One tensor that is written.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TensorReport {
    /// The tensor that is written.
    pub name: Name,
    /// How it is made.
    #[serde(flatten)]
    pub step: Step,
    /// Its dtype.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What its bytes are, where they are blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// The storages it is read from.
    pub read: Vec<ReadRange>,
    /// Its SHA-256, when it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub sha256: Option<Hex>,
    /// What value ops and casts changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
}

/// A range of a file that a tensor is read from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct ReadRange {
    /// The file.
    #[schemars(with = "String")]
    pub file: Arc<str>,
    /// The first byte, and one past the last, of the storage.
    pub bytes: [u64; 2],
}
