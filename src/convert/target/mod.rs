//! The formats that are written: one file and one line of [`TARGETS`] each.

mod archive;
mod flax;
mod gguf;
mod hf;
mod megatron;
mod meta;
mod mistral;
mod npz;
mod safetensors;
mod tf;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

pub use super::ranks::{Kind, Ranks};
use crate::base::diagnostic::Diagnostic;
use crate::base::name::Name;
use crate::checkpoint::{DType, Encoding};
use crate::exec::container::{Container, Safetensors};
use crate::exec::write::{Shard, shards};
use crate::metadata::Metadata;
use crate::package::TENSORS_STEM;
use crate::plan::program::Output;
use crate::plan::{Options, Tensors};

/// The formats that are written beside the standard's own.
pub static TARGETS: &[&Target] = &[
    &hf::TARGET,
    &gguf::TARGET,
    &safetensors::TARGET,
    &flax::TARGET,
    &tf::TARGET,
    &npz::TARGET,
    &megatron::TARGET,
    &meta::TARGET,
    &mistral::TARGET,
];

/// A format that is written.
pub struct Target {
    /// Its name in arguments and reports. Where names are translated, mappings and dialects of this
    /// name do it.
    pub id: &'static str,
    /// The id of the format that its files are read as.
    pub format: &'static str,
    /// Whether tensors keep the names that they have: of a package those of the standard, else those
    /// of the source.
    pub keeps_names: bool,
    /// The ending of a destination that is one file and no folder.
    pub ending: Option<&'static str>,
    /// What the files of a folder are named, without their endings.
    pub stem: &'static str,
    /// Whether a large model becomes several files where nothing is said of their size.
    pub is_split: bool,
    /// Whether the programs that read it take one file alone.
    pub is_single: bool,
    /// The file that says which shard a tensor is in.
    pub index_file: Option<&'static str>,
    /// Distributes tensors over files of at most so many bytes.
    pub shards: fn(&[Output], Option<u64>, stem: &str, ending: &str) -> Vec<Shard>,
    /// Brings tensors into the order that they have in files.
    pub sort: fn(&mut Tensors),
    /// Whether the config is a file of its own.
    pub has_config: bool,
    /// Files that are the same for every model, with their texts.
    pub extra: &'static [(&'static str, &'static str)],
    /// The kinds of ranks that a model can be cut over.
    pub ranks: &'static [Kind],
    /// Cuts what is written apart: the tensors of a rank are then named `FILE/NAME`, where `FILE` is its
    /// file without the ending.
    ///
    /// # Errors
    /// It cannot be cut so.
    pub cut: fn(Tensors, &Cut<'_>) -> Result<Tensors, Diagnostic>,
    /// Whether its readers have a dtype.
    pub has: fn(DType) -> bool,
    /// What the files are beside the tensors.
    pub container: for<'a> fn(&Content<'a>) -> Box<dyn Container + 'a>,
}

/// How what is written is to be cut.
pub struct Cut<'a> {
    /// Over how many ranks.
    pub ranks: Ranks,
    /// The config that is written, in the words of its programs.
    pub config: &'a Json,
    /// Casts.
    pub options: Options,
}

/// What files hold beside tensors.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    /// Free text.
    pub text: &'a BTreeMap<String, String>,
    /// Keys with kinds.
    pub keys: &'a Metadata,
    /// What the tensors of bytes are, by name.
    pub encodings: &'a BTreeMap<Name, Encoding>,
    /// What the files are named, without their endings.
    pub stem: &'a str,
    /// The config, in the words of the programs that read it.
    pub config: &'a Json,
    /// Over how many ranks the model is cut.
    pub ranks: Ranks,
}

impl Target {
    /// What most formats have in common.
    const DEFAULT: Target = Target {
        id: "",
        format: "",
        keeps_names: false,
        ending: None,
        stem: TENSORS_STEM,
        is_split: true,
        is_single: false,
        index_file: None,
        shards,
        sort: |_| (),
        has_config: true,
        extra: &[],
        ranks: &[],
        cut: |tensors, _| Ok(tensors),
        has: |_| true,
        container: |content| Box::new(Safetensors(content.text)),
    };

    /// Whether a destination is one file, and no folder.
    pub fn is_file(&self, destination: &Path) -> bool {
        let ending = destination.extension().and_then(|ending| ending.to_str());
        ending.is_some() && ending == self.ending
    }

    /// Refuses tensors of dtypes that its readers do not have.
    ///
    /// # Errors
    /// There are some.
    pub fn check_dtypes(&self, outputs: &[Output]) -> Result<(), Diagnostic> {
        let mut lacking = outputs.iter().filter(|output| !(self.has)(output.dtype));
        let Some(Output { name, dtype, .. }) = lacking.next() else { return Ok(()) };
        let n = 1 + lacking.count();
        let message =
            format!("`{name}` is {dtype}, a dtype that {} does not have ({n} such)", self.id);
        let finding = Diagnostic::error("P025", message).tensor(name);
        Err(match dtype.is_float() {
            true => finding.help("add --dtype f32, which holds every number of it"),
            false => finding.help("write another format: --to safetensors keeps every dtype"),
        })
    }
}

/// The format of this name.
pub fn find(id: &str) -> Option<&'static Target> {
    TARGETS.iter().copied().find(|target| target.id == id)
}
