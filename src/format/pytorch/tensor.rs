//! Tensors: recorded calls of torch's `_rebuild_*` functions.

use crate::base::source::Extent;
use crate::checkpoint::{DType, Payload, Tensor};
use crate::format::pickle::{Node, NodeId, Object, Pickle};

use super::locate::locate;
use super::storage::{self, Class, Storages};
use super::{dtensor, quote_global};

/// The most dimensions torch allows a tensor.
const MAX_DIMS: usize = 64;

/// The most entries of a tensor's metadata; torch writes two.
const MAX_METADATA: usize = 16;

/// The most parts of a sparse tensor; torch writes up to five.
const MAX_SPARSE_PARTS: usize = 8;

/// How many calls may be wrapped around a tensor: a parameter of a subclass with a state has two.
const MAX_WRAPS: u32 = 8;

/// A tensor that has no name yet.
pub(super) struct Entry {
    pub(super) dtype: DType,
    pub(super) shape: Vec<u64>,
    pub(super) payload: Payload,
}

impl Entry {
    /// The tensor of this name.
    pub(super) fn named(self, name: String) -> Tensor {
        let Entry { dtype, shape, payload } = self;
        Tensor { name: name.into(), dtype, shape, encoding: None, payload }
    }
}

/// What a function rebuilds, by the place of its arguments.
#[derive(Clone, Copy)]
enum Rebuild {
    /// `(storage, offset, size, stride, …)`.
    Tensor,
    /// `(storage, offset, size, stride, requires_grad, hooks, metadata)`.
    TensorV2,
    /// `(storage, offset, size, stride, requires_grad, hooks, dtype, metadata)`.
    TensorV3,
    /// `(storage, offset, size, stride, quantizer, …)`.
    Quantized,
    /// `(data, …)`, where `data` is a tensor that means the same.
    Wrapped,
    /// `(function, type, arguments, state)`.
    FromType,
    /// `(layout, (…, values, size, …))`.
    Sparse,
    /// `(buffer, sizes, strides, offsets)`.
    Nested,
    /// `(dtype, size, stride, requires_grad)`.
    Meta,
    /// `(class, dtype, size, …)`.
    Subclass,
    /// `(data, dtype, device, requires_grad)`, where `data` is a tensor.
    Device,
    /// `(array, dtype, device, requires_grad)`, where `array` is of NumPy.
    DeviceNumpy,
}

/// The functions and classes that make tensors, by name. Their modules moved between versions of
/// torch; all are in `torch`.
const REBUILDS: &[(&str, Rebuild)] = &[
    ("_rebuild_tensor", Rebuild::Tensor),
    ("_rebuild_tensor_v2", Rebuild::TensorV2),
    ("_rebuild_tensor_v3", Rebuild::TensorV3),
    ("_rebuild_qtensor", Rebuild::Quantized),
    ("_rebuild_parameter", Rebuild::Wrapped),
    ("_rebuild_parameter_with_state", Rebuild::Wrapped),
    ("_rebuild_from_type", Rebuild::FromType),
    ("_rebuild_from_type_v2", Rebuild::FromType),
    ("_rebuild_sparse_tensor", Rebuild::Sparse),
    ("_rebuild_sparse_csr_tensor", Rebuild::Sparse),
    ("_rebuild_nested_tensor", Rebuild::Nested),
    ("_rebuild_meta_tensor_no_storage", Rebuild::Meta),
    ("_rebuild_wrapper_subclass", Rebuild::Subclass),
    ("_rebuild_device_tensor_from_cpu_tensor", Rebuild::Device),
    ("_rebuild_device_tensor_from_numpy", Rebuild::DeviceNumpy),
    ("_rebuild_xla_tensor", Rebuild::DeviceNumpy),
    // torch before 0.4 made variables and parameters by calling their class.
    ("Variable", Rebuild::Wrapped),
    ("Parameter", Rebuild::Wrapped),
];

/// Tells whether a node is a tensor.
pub(super) fn is_tensor(pickle: &Pickle<'_>, id: NodeId) -> bool {
    match pickle.node(id) {
        Node::Object(object) => rebuild_of(pickle, object.callable).is_some(),
        // In tar files alone; elsewhere such ids are tuples.
        Node::Persistent(id) => storage::key_text(pickle, *id).is_some(),
        _ => false,
    }
}

/// Reads a node as a tensor, if it is one.
pub(super) fn read(pickle: &Pickle<'_>, storages: &Storages, id: NodeId) -> Option<Entry> {
    Reader { pickle, storages }.read(id, MAX_WRAPS)
}

fn rebuild_of(pickle: &Pickle<'_>, callable: NodeId) -> Option<Rebuild> {
    let (module, name) = pickle.class_of(callable)?;
    if module != "torch" && !module.starts_with("torch.") {
        return None;
    }
    REBUILDS.iter().find(|(of, _)| *of == name).map(|(_, rebuild)| *rebuild)
}

fn unreadable(dtype: DType, shape: Vec<u64>, reason: impl Into<String>) -> Entry {
    Entry { dtype, shape, payload: Payload::Unreadable(reason.into()) }
}

struct Reader<'r, 'a> {
    pickle: &'r Pickle<'a>,
    storages: &'r Storages,
}

impl Reader<'_, '_> {
    fn read(&self, id: NodeId, n_wraps: u32) -> Option<Entry> {
        if let Node::Persistent(key) = self.pickle.node(id) {
            return self.listed(*key);
        }
        let Node::Object(Object { callable, args, .. }) = self.pickle.node(id) else { return None };
        let rebuild = rebuild_of(self.pickle, *callable)?;
        let args = self.pickle.sequence(*args).unwrap_or_default();
        Some(self.rebuild(rebuild, args, n_wraps))
    }

    /// A tensor that the container lists under a key.
    fn listed(&self, key: NodeId) -> Option<Entry> {
        let key = storage::key_text(self.pickle, key)?;
        let tensor = self.storages.tensors.get(&key);
        Some(match tensor {
            Some(Tensor { dtype, shape, payload, .. }) => {
                Entry { dtype: *dtype, shape: shape.clone(), payload: payload.clone() }
            }
            None => {
                let reason = format!("the tensor {} is not in the file", super::quote(&key));
                unreadable(DType::Unknown, Vec::new(), reason)
            }
        })
    }

    fn rebuild(&self, rebuild: Rebuild, args: &[NodeId], n_wraps: u32) -> Entry {
        let Some(n_wraps) = n_wraps.checked_sub(1) else {
            let reason = format!("it is wrapped in more than {MAX_WRAPS} calls");
            return unreadable(DType::Unknown, Vec::new(), reason);
        };
        match (rebuild, args) {
            (Rebuild::Tensor, [storage, offset, size, stride, ..]) => {
                self.dense([*storage, *offset, *size, *stride], None, None)
            }
            (Rebuild::TensorV2, [storage, offset, size, stride, _, _, rest @ ..]) => {
                let fault = self.lazy_bits(rest.first());
                self.dense([*storage, *offset, *size, *stride], None, fault)
            }
            (Rebuild::TensorV3, [storage, offset, size, stride, _, _, dtype, rest @ ..]) => {
                let fault = self.lazy_bits(rest.first());
                match self.dtype(*dtype) {
                    Ok(class) => {
                        self.dense([*storage, *offset, *size, *stride], Some(class), fault)
                    }
                    Err(reason) => unreadable(DType::Unknown, self.shape_or_none(*size), reason),
                }
            }
            (Rebuild::Quantized, [storage, offset, size, stride, quantizer, ..]) => {
                let fault = format!(
                    "it is quantized ({}), and the stored integers are not its values; \
                     dequantize it with torch",
                    self.quantizer(*quantizer)
                );
                self.dense([*storage, *offset, *size, *stride], None, Some(fault))
            }
            (Rebuild::Wrapped, [data, ..]) => match self.read(*data, n_wraps) {
                Some(entry) => entry,
                None => {
                    let reason =
                        format!("a tensor is due in it, {} is there", self.pickle.kind(*data));
                    unreadable(DType::Unknown, Vec::new(), reason)
                }
            },
            (Rebuild::FromType, [function, _, args, state @ ..]) => {
                let rebuild = rebuild_of(self.pickle, *function);
                match (rebuild, self.pickle.sequence(*args)) {
                    (Some(Rebuild::Subclass), Some(args)) => {
                        let distributed = self.distributed(args, state.first().copied(), n_wraps);
                        distributed
                            .unwrap_or_else(|| self.rebuild(Rebuild::Subclass, args, n_wraps))
                    }
                    (Some(rebuild), Some(args)) => self.rebuild(rebuild, args, n_wraps),
                    _ => {
                        let reason = "the function that makes it is not known";
                        unreadable(DType::Unknown, Vec::new(), reason)
                    }
                }
            }
            (Rebuild::Sparse, [layout, data, ..]) => self.sparse(*layout, *data, n_wraps),
            (Rebuild::Nested, [buffer, ..]) => {
                let dtype = self.read(*buffer, n_wraps).map_or(DType::Unknown, |entry| entry.dtype);
                unreadable(dtype, Vec::new(), "it is nested, and has no one shape")
            }
            (Rebuild::Meta, [dtype, size, ..]) => {
                let dtype = self.dtype(*dtype).map_or(DType::Unknown, |class| class.dtype);
                let reason = "it was on the meta device, which has shapes and no values";
                unreadable(dtype, self.shape_or_none(*size), reason)
            }
            (Rebuild::Subclass, [class, dtype, size, ..]) => {
                let dtype = self.dtype(*dtype).map_or(DType::Unknown, |class| class.dtype);
                let class = match self.pickle.class_of(*class) {
                    Some((module, name)) => quote_global(module, name),
                    None => "not known".to_owned(),
                };
                let reason = format!(
                    "its class {class} keeps the values in a form of its own; convert it to a \
                     plain tensor with the library that wrote it"
                );
                unreadable(dtype, self.shape_or_none(*size), reason)
            }
            (Rebuild::Device, [data, dtype, ..]) => {
                let wanted = self.dtype(*dtype).map_or(DType::Unknown, |class| class.dtype);
                match self.read(*data, n_wraps) {
                    Some(entry) if entry.dtype == wanted => entry,
                    Some(entry) => {
                        let reason = format!("it is kept as {} and was {wanted}", entry.dtype);
                        unreadable(wanted, entry.shape, reason)
                    }
                    None => unreadable(wanted, Vec::new(), "no tensor is in it"),
                }
            }
            (Rebuild::DeviceNumpy, [array, dtype, ..]) => {
                let dtype = self.dtype(*dtype).map_or(DType::Unknown, |class| class.dtype);
                let reason = "its values are a NumPy array inside the pickle; move it to the CPU \
                              with torch and save it again";
                unreadable(dtype, self.numpy_shape(*array), reason)
            }
            _ => {
                let reason =
                    format!("the call that makes it has {} arguments, too few", args.len());
                unreadable(DType::Unknown, Vec::new(), reason)
            }
        }
    }

    /// A tensor that lies on several ranks, of which the file has one, if it is one.
    fn distributed(&self, args: &[NodeId], state: Option<NodeId>, n_wraps: u32) -> Option<Entry> {
        let [class, dtype, size, ..] = args else { return None };
        let (_, class) = self.pickle.class_of(*class)?;
        // Shards that are distributed again would multiply.
        let local = |id: NodeId| Some(self.read(id, n_wraps.min(2))?.named(String::new()));
        let shape = self.shape_or_none(*size);
        let dtype = self.dtype(*dtype).map_or(DType::Unknown, |class| class.dtype);
        let state = state?;
        let payload = match class {
            "DTensor" => {
                let dict = self.pickle.attributes_of(state);
                dtensor::parts(self.pickle, dtype, &shape, dict, local)
            }
            "ShardedTensor" => {
                let [shards, metadata, ..] = self.pickle.sequence(state)? else { return None };
                dtensor::shards(self.pickle, &shape, dtype, *shards, *metadata, local)
            }
            _ => return None,
        };
        Some(match payload {
            Ok(payload) => Entry { dtype, shape, payload },
            Err(reason) => unreadable(dtype, shape, reason),
        })
    }

    /// A strided view of a storage, of the storage's class unless one is given.
    fn dense(
        &self,
        [storage, offset, size, stride]: [NodeId; 4],
        class: Option<&'static Class>,
        fault: Option<String>,
    ) -> Entry {
        let storage = match self.storages.find(self.pickle, storage) {
            Ok(storage) => storage,
            Err(reason) => {
                let dtype = class.map_or(DType::Unknown, |class| class.dtype);
                return unreadable(dtype, self.shape_or_none(size), reason);
            }
        };
        let class = class.unwrap_or(storage.class);
        let shape = match self.counts(size, "shape") {
            Ok(shape) => shape,
            Err(reason) => return unreadable(class.dtype, Vec::new(), reason),
        };
        let fault = fault.or_else(|| class.fault.map(str::to_owned));
        let located = match (fault, storage.bytes) {
            (Some(reason), _) | (None, Err(reason)) => Err(reason),
            (None, Ok(bytes)) => self.locate(bytes, offset, &shape, stride, class),
        };
        match located {
            Ok(payload) if class.dtype == DType::F4 => unpack_pairs(shape, payload),
            Ok(payload) => Entry { dtype: class.dtype, shape, payload },
            Err(reason) => unreadable(class.dtype, shape, reason),
        }
    }

    fn locate(
        &self,
        bytes: Extent,
        offset: NodeId,
        shape: &[u64],
        stride: NodeId,
        class: &Class,
    ) -> Result<Payload, String> {
        let offset = storage::count(self.pickle, offset)
            .ok_or_else(|| format!("its offset is {}", self.show(offset)))?;
        let strides = self.counts(stride, "strides")?;
        locate(bytes, offset, shape, strides, class, self.storages.big_endian)
    }

    /// What the metadata of a tensor leaves to be done to every value, if anything.
    fn lazy_bits(&self, metadata: Option<&NodeId>) -> Option<String> {
        let Node::Dict(items) = self.pickle.node(*metadata?) else { return None };
        if MAX_METADATA < items.len() {
            return Some(format!("its metadata has {} entries, and few are known", items.len()));
        }
        let is_set = |bit: &str| {
            items.iter().any(|(key, value)| {
                self.pickle.text(*key) == Some(bit)
                    && !matches!(self.pickle.node(*value), Node::Bool(false))
            })
        };
        let bits = match (is_set("conj"), is_set("neg")) {
            (false, false) => return None,
            (true, false) => "conjugates",
            (false, true) => "negatives",
            (true, true) => "negative conjugates",
        };
        Some(format!("its values are the {bits} of the stored ones; resolve that with torch"))
    }

    fn sparse(&self, layout: NodeId, data: NodeId, n_wraps: u32) -> Entry {
        let data = self.pickle.sequence(data).unwrap_or_default();
        let data = data.get(..MAX_SPARSE_PARTS).unwrap_or(data);
        // The values are the last tensor, the size the sequence after it.
        let values = data.iter().rposition(|&part| is_tensor(self.pickle, part));
        let dtype = values.and_then(|at| self.read(*data.get(at)?, n_wraps));
        let size = values.and_then(|at| data.get(at.checked_add(1)?));
        let layout = match self.pickle.node(layout) {
            Node::Object(Object { args, .. }) => match self.pickle.sequence(*args) {
                Some([name, ..]) => self.pickle.text(*name),
                _ => None,
            },
            _ => self.pickle.global(layout).map(|(_, name)| name),
        };
        let layout = super::quote(layout.unwrap_or("not known"));
        unreadable(
            dtype.map_or(DType::Unknown, |entry| entry.dtype),
            size.map_or_else(Vec::new, |&size| self.shape_or_none(size)),
            format!("it is sparse, with the layout {layout}; call `to_dense()` on it with torch"),
        )
    }

    fn quantizer(&self, quantizer: NodeId) -> String {
        let Some([scheme, parameters @ ..]) = self.pickle.sequence(quantizer) else {
            return "in an unknown way".to_owned();
        };
        let scheme = self.pickle.global(*scheme).map_or("unknown scheme", |(_, name)| name);
        let scheme = super::cut(scheme);
        match parameters {
            [scale, zero_point] => match (self.pickle.node(*scale), self.pickle.int(*zero_point)) {
                (Node::Float(scale), Some(zero_point)) => {
                    format!("{scheme}, scale {scale}, zero point {zero_point}")
                }
                _ => scheme.to_owned(),
            },
            _ => scheme.to_owned(),
        }
    }

    fn dtype(&self, id: NodeId) -> Result<&'static Class, String> {
        let Some((module, name)) = self.pickle.global(id) else {
            return Err(format!("a dtype is due, {} is there", self.pickle.kind(id)));
        };
        storage::dtype(module, name)
            .ok_or_else(|| format!("its dtype {} is not known", quote_global(module, name)))
    }

    /// The state of a NumPy array is `(version, shape, dtype, is_fortran, bytes)`.
    fn numpy_shape(&self, array: NodeId) -> Vec<u64> {
        let Node::Object(object) = self.pickle.node(array) else { return Vec::new() };
        let state = object.states().last().and_then(|&state| self.pickle.sequence(state));
        match state {
            Some([_, shape, ..]) => self.shape_or_none(*shape),
            _ => Vec::new(),
        }
    }

    fn shape_or_none(&self, size: NodeId) -> Vec<u64> {
        self.counts(size, "shape").unwrap_or_default()
    }

    /// A tuple of sizes or strides, which may be wrapped as `torch.Size`.
    fn counts(&self, id: NodeId, what: &str) -> Result<Vec<u64>, String> {
        let id = match self.pickle.node(id) {
            Node::Object(Object { args, .. }) => match self.pickle.sequence(*args) {
                Some([sizes]) => *sizes,
                _ => id,
            },
            _ => id,
        };
        let Some(members) = self.pickle.sequence(id) else {
            return Err(format!(
                "a tuple is due for its {what}, {} is there",
                self.pickle.kind(id)
            ));
        };
        if MAX_DIMS < members.len() {
            let n_dims = members.len();
            return Err(format!("its {what} has {n_dims} dimensions, torch allows {MAX_DIMS}"));
        }
        let counts = members.iter().map(|&member| {
            storage::count(self.pickle, member)
                .ok_or_else(|| format!("its {what} holds {}", self.show(member)))
        });
        counts.collect()
    }

    fn show(&self, id: NodeId) -> String {
        match self.pickle.int(id) {
            Some(int) => int.to_string(),
            None => self.pickle.kind(id).to_owned(),
        }
    }
}

/// torch counts the bytes of a dtype with two values in each; a checkpoint counts the values.
fn unpack_pairs(mut shape: Vec<u64>, payload: Payload) -> Entry {
    let doubled = shape.last().and_then(|last| last.checked_mul(2));
    match (&payload, shape.last_mut().zip(doubled)) {
        (Payload::Range(_), Some((last, doubled))) => {
            *last = doubled;
            Entry { dtype: DType::F4, shape, payload }
        }
        _ => {
            let reason = "it is a strided view of bytes with two values each; make it contiguous";
            unreadable(DType::F4, shape, reason)
        }
    }
}
