//! Where the ecosystems that mappings lead to differ beyond what the data files say of them: where the keys
//! of a model stand, and how tensors may be packed.

/// The programs that share one layout of checkpoints.
#[derive(Debug)]
pub struct Ecosystem {
    /// The format of its mappings, `gguf`.
    pub format: &'static str,
    /// Whether the keys of a model are entries with types in the file of its tensors, one number of each kind
    /// for a whole model; else they are a JSON config beside it.
    pub typed_keys: bool,
    /// Whether quantized tensors are blocks within one tensor; else they are several tensors.
    pub blocks: bool,
    /// Whether one file of several that are named names all of them.
    pub joins_shards: bool,
}

/// The ecosystem of llama.cpp.
pub static GGUF: Ecosystem =
    Ecosystem { format: "gguf", typed_keys: true, blocks: true, joins_shards: true };

/// That of libraries, whose configs are JSON.
static LIBRARIES: Ecosystem =
    Ecosystem { format: "hf", typed_keys: false, blocks: false, joins_shards: false };

impl Ecosystem {
    /// The ecosystem that a format of mappings belongs to.
    pub fn of(format: &str) -> &'static Ecosystem {
        if format == GGUF.format { &GGUF } else { &LIBRARIES }
    }
}

/// Entries of a JSON config that mean the same for every model.
pub mod config {
    /// The classes that the model was saved from.
    pub const CLASSES: &str = "architectures";
    /// The word by which a library chooses the code.
    pub const MODEL_TYPE: &str = "model_type";
    /// The labels of the outputs, by their numbers.
    pub const LABELS: &str = "id2label";
    /// The numbers of the outputs, by their labels.
    pub const LABEL_NUMBERS: &str = "label2id";
    /// How many labels there are, which newer libraries leave out.
    pub const N_LABELS: &str = "num_labels";
    /// The dtype of the weights, as libraries of today call it and as they used to.
    pub const DTYPES: [&str; 2] = ["dtype", "torch_dtype"];
    /// How tensors are packed.
    pub const QUANTIZATION: &str = "quantization_config";
}
