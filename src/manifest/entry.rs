//! One tensor of a manifest, whose leaves are kept only where they are not those that follow from it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use super::leaf::{content_leaf, leaf};
use crate::base::hex::Hex;
use crate::base::name::Name;
use crate::checkpoint::DType;

/// One tensor.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Form")]
pub struct TensorEntry {
    /// Its name.
    pub name: Name,
    /// Its dtype, `BF16`.
    pub dtype: Cow<'static, str>,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// How its payload is encoded, as `model.json` says; absent where it is plain.
    pub encoding: Option<Box<Json>>,
    /// The file that holds it; absent where no single range of a file does.
    pub file: Option<Arc<str>>,
    /// Its first byte in that file.
    pub start: Option<u64>,
    /// The number of its bytes.
    pub len: u64,
    /// The SHA-256 of its bytes, in hex.
    pub sha256: Hex,
    /// The leaves that a document says and that do not follow from the rest: `leaf`, then `content`.
    pub wrong_leaves: Option<Box<[Hex; 2]>>,
}

impl TensorEntry {
    /// The leaf over name, dtype, shape and bytes.
    pub fn leaf(&self) -> Hex {
        self.leaves()[0].clone()
    }

    /// The leaf over dtype, shape and bytes: the same under any name.
    pub fn content(&self) -> Hex {
        self.leaves()[1].clone()
    }

    /// What the document says: `leaf`, then `content`; without a hash there are none.
    fn leaves(&self) -> [Hex; 2] {
        let wrong = self.wrong_leaves.as_deref().cloned();
        wrong.or_else(|| self.true_leaves()).unwrap_or_else(|| ["", ""].map(Hex::from))
    }

    /// What follows from the rest, if there is a hash.
    pub(super) fn true_leaves(&self) -> Option<[Hex; 2]> {
        let sha256 = self.sha256.bytes()?;
        let named = leaf(&self.name, &self.dtype, &self.shape, &sha256);
        Some([named, content_leaf(&self.dtype, &self.shape, &sha256)].map(Hex::Hash))
    }
}

/// One tensor.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "TensorEntry", deny_unknown_fields)]
struct Form {
    /// Its name.
    name: Name,
    /// Its dtype, `BF16`.
    #[serde(deserialize_with = "DType::read_name")]
    dtype: Cow<'static, str>,
    /// Its dimensions, slowest first.
    shape: Vec<u64>,
    /// How its payload is encoded, as `model.json` says; absent where it is plain.
    #[serde(default)]
    encoding: Option<Box<Json>>,
    /// The file that holds it; absent where no single range of a file does.
    #[serde(default, deserialize_with = "shared_text")]
    file: Option<Arc<str>>,
    /// Its first byte in that file.
    #[serde(default)]
    start: Option<u64>,
    /// The number of its bytes.
    len: u64,
    /// The SHA-256 of its bytes, in hex.
    sha256: Hex,
    /// The leaf over name, dtype, shape and bytes.
    leaf: Hex,
    /// The leaf over dtype, shape and bytes.
    content: Hex,
}

impl From<Form> for TensorEntry {
    fn from(form: Form) -> TensorEntry {
        let Form { name, dtype, mut shape, encoding, file, start, len, sha256, leaf, content } =
            form;
        shape.shrink_to_fit();
        let wrong_leaves = None;
        let mut entry =
            TensorEntry { name, dtype, shape, encoding, file, start, len, sha256, wrong_leaves };
        let said = [leaf, content];
        if entry.true_leaves().as_ref() != Some(&said) {
            entry.wrong_leaves = Some(Box::new(said));
        }
        entry
    }
}

impl Serialize for TensorEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut form = serializer.serialize_struct("TensorEntry", 10)?;
        form.serialize_field("name", &self.name)?;
        form.serialize_field("dtype", &self.dtype)?;
        form.serialize_field("shape", &self.shape)?;
        match &self.encoding {
            Some(encoding) => form.serialize_field("encoding", encoding)?,
            None => form.skip_field("encoding")?,
        }
        match &self.file {
            Some(file) => form.serialize_field("file", file)?,
            None => form.skip_field("file")?,
        }
        match &self.start {
            Some(start) => form.serialize_field("start", start)?,
            None => form.skip_field("start")?,
        }
        form.serialize_field("len", &self.len)?;
        form.serialize_field("sha256", &self.sha256)?;
        let [leaf, content] = self.leaves();
        form.serialize_field("leaf", &leaf)?;
        form.serialize_field("content", &content)?;
        form.end()
    }
}

impl JsonSchema for TensorEntry {
    fn schema_name() -> Cow<'static, str> {
        Form::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Form::json_schema(generator)
    }
}

/// A text that is shared with the entry before it where both have the same: the tensors of a file stand one after
/// the other.
fn shared_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    thread_local! {
        static LAST: RefCell<Arc<str>> = RefCell::new("".into());
    }
    let Some(text) = Option::<Cow<'_, str>>::deserialize(deserializer)? else { return Ok(None) };
    LAST.with_borrow_mut(|last| {
        if **last != *text {
            *last = text.into();
        }
        Ok(Some(Arc::clone(last)))
    })
}
