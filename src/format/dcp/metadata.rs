//! What `.metadata` says, read as data.

use std::collections::HashMap;

use crate::base::cursor::Cursor;
use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::DType;
use crate::format::pickle::{Node, NodeId, Pickle};
use crate::format::pytorch::{self, quote};

/// The most parts of a key path.
const MAX_PATH: usize = 32;

/// What is where.
#[derive(Default)]
pub(super) struct Metadata {
    /// The keys of everything, in the order of the file.
    pub(super) order: Vec<String>,
    /// The tensors by their keys.
    pub(super) wholes: HashMap<String, Whole>,
    /// By key and the start of a box, where the box is.
    pub(super) places: HashMap<(String, Vec<u64>), Place>,
    /// The keys of the nested dictionaries that lead to a value, by its own key; never empty.
    paths: HashMap<String, Vec<String>>,
}

/// A tensor: `TensorStorageMetadata`.
pub(super) struct Whole {
    pub(super) dtype: DType,
    pub(super) shape: Vec<u64>,
    /// Where each box begins, and its shape.
    pub(super) boxes: Vec<(Vec<u64>, Vec<u64>)>,
}

/// Where a box is: `_StorageInfo`.
pub(super) struct Place {
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// What its bytes went through.
    pub(super) transforms: Vec<String>,
}

impl Metadata {
    /// Reads the pickle.
    ///
    /// # Errors
    /// It is broken, calls what no checkpoint needs, or is no `Metadata` of torch.
    pub(super) fn read(bytes: &[u8]) -> Result<Metadata> {
        let pickle = Pickle::read(&mut Cursor::new(bytes, 0))?;
        pytorch::object::refuse_calls(&pickle)?;
        let root = pickle.root();
        if pickle.class_name(root) != Some("Metadata") {
            let message = format!("`Metadata` of torch is due, {} is there", pickle.kind(root));
            return Err(Error::malformed(0, message));
        }
        let part = |name: &str| pickle.attribute(root, name).and_then(|part| pickle.items(part));
        let due = |name: &str| part(name).ok_or_else(|| malformed(&format!("it has no `{name}`")));
        let mut metadata = Metadata::default();
        for (key, value) in due("state_dict_metadata")? {
            let key = text(&pickle, key)?;
            if pickle.class_name(value) == Some("TensorStorageMetadata") {
                let whole = Whole::read(&pickle, value).map_err(|err| err.context(&quote(&key)))?;
                metadata.wholes.insert(key.clone(), whole);
            }
            metadata.paths.insert(key.clone(), vec![key.clone()]);
            metadata.order.push(key);
        }
        for (key, value) in due("storage_data")? {
            let about = pickle.attribute(key, "fqn").ok_or_else(|| malformed("a key without name"));
            let about = text(&pickle, about?)?;
            let at = pickle.attribute(key, "offset").and_then(|at| pickle.sizes(at));
            let place = Place::read(&pickle, value).map_err(|err| err.context(&quote(&about)))?;
            metadata.places.insert((about, at.unwrap_or_default()), place);
        }
        // A planner that does not flatten has none.
        for (key, path) in part("planner_data").unwrap_or_default() {
            let key = text(&pickle, key)?;
            let members = pickle.members(path).unwrap_or_default().iter().take(MAX_PATH);
            let path = members.map(|&part| match (pickle.text(part), pickle.int(part)) {
                (Some(text), _) => Some(text.to_owned()),
                (_, Some(int)) => Some(int.to_string()),
                _ => None,
            });
            let path: Vec<String> = path.collect::<Option<_>>().unwrap_or_default();
            if let Some(known) = metadata.paths.get_mut(&key)
                && !path.is_empty()
            {
                *known = path;
            }
        }
        Ok(metadata)
    }

    /// The keys that lead to a value.
    pub(super) fn path<'m>(&'m self, key: &'m String) -> &'m [String] {
        self.paths.get(key).map_or(std::slice::from_ref(key), Vec::as_slice)
    }
}

impl Whole {
    fn read(pickle: &Pickle<'_>, id: NodeId) -> Result<Whole> {
        let properties = pickle.attribute(id, "properties");
        let dtype = properties.and_then(|id| dtype(pickle, id));
        let sizes = |id: NodeId, name: &str| {
            pickle.attribute(id, name).and_then(|sizes| pickle.sizes(sizes))
        };
        let shape = sizes(id, "size").ok_or_else(|| malformed("it has no shape"))?;
        let chunks = pickle.attribute(id, "chunks").and_then(|chunks| pickle.members(chunks));
        let chunks = chunks.ok_or_else(|| malformed("it has no `chunks`"))?;
        let boxes = chunks.iter().map(|&chunk| {
            let place = sizes(chunk, "offsets").zip(sizes(chunk, "sizes"));
            place.ok_or_else(|| malformed("a chunk does not say where it is"))
        });
        let dtype = dtype.ok_or_else(|| malformed("its dtype is not known"))?;
        Ok(Whole { dtype, shape, boxes: boxes.collect::<Result<_>>()? })
    }
}

/// The dtype of `TensorProperties`, whose state is a tuple that begins with it.
fn dtype(pickle: &Pickle<'_>, id: NodeId) -> Option<DType> {
    let Node::Object(object) = pickle.node(id) else { return None };
    let state = *object.states().last()?;
    let dtype = match pickle.sequence(state) {
        Some([dtype, ..]) => *dtype,
        _ => pickle.value(state, "dtype")?,
    };
    let (module, name) = pickle.global(dtype)?;
    pytorch::dtype(module, name)
}

impl Place {
    fn read(pickle: &Pickle<'_>, id: NodeId) -> Result<Place> {
        let count = |name: &str| {
            let id = pickle.attribute(id, name)?;
            u64::try_from(pickle.int(id)?).ok()
        };
        let file = pickle.attribute(id, "relative_path").ok_or_else(|| malformed("it has no file"));
        let transforms = pickle.attribute(id, "transform_descriptors");
        let transforms = transforms.and_then(|steps| pickle.members(steps)).unwrap_or_default();
        Ok(Place {
            file: text(pickle, file?)?,
            offset: count("offset").ok_or_else(|| malformed("it has no offset"))?,
            len: count("length").ok_or_else(|| malformed("it has no length"))?,
            transforms: transforms.iter().map(|&step| text(pickle, step)).collect::<Result<_>>()?,
        })
    }
}

fn text(pickle: &Pickle<'_>, id: NodeId) -> Result<String> {
    let text = pickle.text(id).map(str::to_owned);
    text.ok_or_else(|| malformed(&format!("a text is due, {} is there", pickle.kind(id))))
}

fn malformed(message: &str) -> Error {
    Error::new(ErrorKind::Malformed, message)
}
