//! `manifest.json`: the hashes of every tensor and file, and digests of each aspect of a model.
//!
//! # Leaves
//!
//! Each tensor has the SHA-256 of its bytes (little-endian, row-major, packed), and two leaves
//! that are computed from it, so that renames are provable without reading weights:
//!
//! ```text
//! leaf    = SHA-256( text("llmstd.tensor.v1")  text(name) text(dtype) shape sha256 )
//! content = SHA-256( text("llmstd.content.v1")            text(dtype) shape sha256 )
//!
//! text(t) = the number of bytes of t, u64 little-endian; the bytes of t, UTF-8
//! shape   = the rank, u64 little-endian; each dimension, slowest first, u64 little-endian
//! sha256  = the 32 bytes of the hash, not their hex
//! ```
//!
//! # Digests
//!
//! Each digest is the SHA-256 of the canonical text (RFC 8785) of one JSON document:
//!
//! | Digest | Document |
//! | --- | --- |
//! | `weights` | `{"digest":"llmstd.weights.v1","tensors":[[name,dtype,shape,sha256],…]}` |
//! | `structure` | `{"digest":"llmstd.structure.v1","tensors":[[name,dtype,shape],…],"architecture":…,"hyperparameters":…,"ties":…,"encodings":…}` |
//! | `tokenizer` | `{"digest":"llmstd.tokenizer.v1","files":{name:sha256,…},"settings":{key:value,…}}` |
//! | `config` | `{"digest":"llmstd.config.v1","architecture":…,"hyperparameters":…}` |
//! | `interface` | `{"digest":"llmstd.interface.v1","tasks":…,"tokens":…}` |
//! | `template` | `{"digest":"llmstd.template.v1","templates":{name:sha256,…}}` |
//! | `model` | `{"digest":"llmstd.model.v1","spec":major,"weights":…,"structure":…,"tokenizer":…,"config":…,"interface":…,"template":…}` |
//!
//! Tensors are sorted by the bytes of their names, ties by both of theirs. Tasks keep their order, as the first is the
//! default. An aspect that a model does not have is `null`, never the hash of nothing. Nothing
//! here depends on the files that tensors lie in, on their container, or on their order.
//!
//! The files of a tokenizer are those that decide which ids a text becomes: `ids` in `files.toml`.
//! Of `tokenizer_config.json` only the keys [`TOKENIZER_SETTINGS`] count, as the rest decides
//! nothing about ids. A template is the text of `chat_template.jinja`, the value of `chat_template`
//! in `tokenizer_config.json`, or that of the key in `tokenizer.gguf`; all spellings give one digest.

mod build;
mod digest;
mod document;
mod entry;
mod facts;
mod leaf;
mod lines;
mod role;
mod texts;

pub use self::document::{
    Census, Digests, FileEntry, Manifest, SCHEMA, Semantics, Tokenizer, Tool,
};
pub use self::entry::TensorEntry;
pub use self::facts::{FileFacts, ManifestInput, TensorFacts};
pub use self::leaf::{content_leaf, leaf};
pub use self::role::{FileRole, is_tokenizer_file, is_whole_tokenizer, needs_text};
pub use self::texts::{TEMPLATE_KEY, TOKENIZER_SETTINGS};

#[cfg(test)]
mod tests;
