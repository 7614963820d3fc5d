//! The LLM Standard and its tool: one layout of model checkpoints as the hub, every foreign layout
//! a spoke that data describes.
//!
//! What most programs need stands at the root of the crate: [`open`], [`read`], [`convert()`],
//! [`validate()`], [`inspect()`], [`diff()`] and their types. Without the feature `cli`, which is on by
//! default, neither the command line is built nor the texts of reports.
//!
//! ```
//! // Opens a checkpoint of any format by its headers, and reads a tensor.
//! # use std::path::Path;
//! # let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo/v1");
//! let opened = llmstd::open(&model)?;
//! let tensor = &opened.checkpoint.tensors[0];
//! let bytes = llmstd::read(&opened.source, tensor)?;
//! assert_eq!(Some(bytes.len() as u64), tensor.n_bytes());
//! # Ok::<(), llmstd::Error>(())
//! ```
//!
//! ```
//! // Reads a tensor of any checkpoint under its standard name, without a conversion.
//! use llmstd::{Spec, TensorReader};
//!
//! # use std::path::Path;
//! # let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo/v1");
//! let opened = llmstd::open(&model)?;
//! let (model, tensors) = TensorReader::standard(opened, &Spec::current(), None, false)?;
//! let info = tensors.info("embed.tokens.weight")?;
//! assert_eq!(model.architecture.as_deref(), Some("llama"));
//! assert_eq!(Some(tensors.read("embed.tokens.weight")?.len() as u64), info.n_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```
//! // Converts it into a package of the standard, and reads back what was written.
//! use llmstd::{Request, Spec};
//!
//! # use std::path::Path;
//! # let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo/v1");
//! # let folder = tempfile::tempdir().unwrap();
//! # let package = folder.path().join("package");
//! let spec = Spec::current();
//! let request = Request { verify: true, ..Request::new(&spec, &package, "std") };
//! let report = llmstd::convert(llmstd::open(&model)?, &request)?;
//! assert_eq!(report.conformance, Some(llmstd::Conformance::Full));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```
//! // Validates a model, and says what is wrong with it.
//! use llmstd::{Selection, Spec, ValidateOptions};
//!
//! # use std::path::Path;
//! # let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo/v1");
//! let rules = Selection::default();
//! let options = ValidateOptions { deep: true, ..ValidateOptions::new(&rules) };
//! let report = llmstd::validate(&model, &Spec::current(), &options)?;
//! for finding in &report.findings {
//!     println!("{} {}", finding.rule, finding.message);
//! }
//! # Ok::<(), llmstd::Error>(())
//! ```
//!
//! # Code map
//!
//! A module uses only modules that stand above it here; `tests/suite/modules.rs` holds that.
//!
//! | Module | What it has |
//! | --- | --- |
//! | `base` | what every room stands on: errors and findings, mapped files and bytes, JSON |
//! | `metadata` | keys and values that keep the kind of every number |
//! | `checkpoint` | what every reader returns: names, dtypes, shapes, and where the bytes are |
//! | `encoding` | the arithmetic of quantized payloads, and which tensors make one |
//! | `package` | the files of a standard package as types |
//! | `container` | byte containers that several formats use |
//! | `format` | one file or folder a format: bytes to a checkpoint, headers only |
//! | `folder` | which files of a folder are the checkpoint, and reading them as one |
//! | `spec` | the data files of the standard, parsed: roles, keys, architectures, mappings, tasks |
//! | `tokenizer` | the files of a tokenizer as the keys of GGUF |
//! | `plan` | checkpoint, config and spec to a complete plan, or to findings |
//! | `exec` | a plan to bytes: gathered, hashed, written, compared |
//! | `forward` | the outputs of a model, from its tensors and hyperparameters |
//! | `manifest` | the hashes and digests of a model |
//! | `rule` | validation rules, one file each, and the verdict over all of them |
//! | `convert` | the conversion: open, plan, execute, rename when whole |
//! | `tensors` | the tensors of a model one at a time, under their own names or the standard's |
//! | `run` | what a model answers: any supported checkpoint through the reference forward |
//! | `validate` | validation end to end: open, apply the rules, report |
//! | `verify` | the bytes of a package held to a manifest |
//! | `policy` | what a project asks of its models: `llmstd.toml`, waivers, baselines |
//! | `version` | one side of a diff: any input in the terms of a manifest |
//! | `supply` | a model in the terms of signatures and bills of materials |
//! | `diff` | what changed between two versions, and whom it breaks |
//! | `inspect` | what a checkpoint is, from its headers |
//! | `interface` | what a model can be asked, in its own terms and in those of servers |
//! | `remote` | inputs on other machines, fetched as they are read |
//! | `author` | for writers of data files: names, tiny checkpoints, checks, drafts |
//! | `schema` | the JSON Schemas of what is written and printed |
//! | `report` | results to text |
//! | `cli` | the command line: arguments, what is printed, signals, the exit status |
//!
//! ```text
//! path -open-> Source -detect-> format::read -> Checkpoint + foreign config --+  headers only
//!                                                                            v
//! spec/ -parse-> Spec ----------------------------------------------------> plan -> Plan | findings
//!                                                                            |
//!                                          Package <- exec <-----------------+  bytes, hashed as they pass
//! ```
//!
//! # Glossary
//!
//! The words of the standard are those of `spec/`; these are the ones that the code leans on.
//!
//! | Word | What it means here |
//! | --- | --- |
//! | checkpoint | the tensors of a model as files have them: names, dtypes, shapes, and where the bytes are |
//! | package | a checkpoint as the standard has it: a folder with `model.json`, `manifest.json` and safetensors |
//! | foreign | of any other form; the opposite of standard |
//! | format | a kind of file: safetensors, GGUF, a pickle of PyTorch |
//! | ecosystem | what surrounds the tensors in a foreign world: Hugging Face's config files, GGUF's typed keys |
//! | dialect | another program's names for what a mapping reads: Flax for those of Hugging Face |
//! | role | a tensor's place in any model, under its standard name: `layers.{i}.attn.q.weight` |
//! | stack | layers of one kind, counted from 0: those of a decoder, of an encoder, of a vision tower |
//! | hyperparameter | a number or word that shapes and formulas need, under the standard's key |
//! | architecture | which roles and hyperparameters a family of models has |
//! | mapping | how one foreign layout becomes an architecture and comes back: rules for tensors, keys for the config |
//! | op, chain | one change of a tensor that has an inverse (transpose, split, cast), and several in a row |
//! | exactness | what the way back of a chain gives: every bit, every value up to rounding, or less |
//! | compound | a model whose text model is a part of more |
//! | encoding | how quantized numbers are stored: blocks in line, or several tensors |
//! | layout | how one quantized tensor is stored as several (`layouts.toml`); in `plan`, which elements go where |
//! | payload | where the elements of a tensor are: a range, a strided view, tiles, several tensors |
//! | tile | a box of a tensor with a place of its own, perhaps compressed: a rank's shard, a chunk |
//! | plan | all that a conversion will do, proven from headers before a byte is read |
//! | program | what a plan says of one output: strided copies, and what happens to each element |
//! | target | a format that is written, with its files |
//! | sidecar file | what lies beside the weights and goes along: a tokenizer, a licence |
//! | finding | something wrong or worth knowing about a model, with the id of its rule; an [`Error`] is what could not be done |
//! | level | of a finding: error, warning, note; of a package: container, schema, full ([`Conformance`]) |
//! | verdict | which rules were applied to a model and what each said, or what a diff means for users |
//! | manifest | the hashes and digests of a package |
//! | version | one side of a diff; of the standard: 1.0, 1.1 |
//!
//! # Invariants
//!
//! - A plan covers every input tensor exactly once and makes every output exactly once, with all
//!   shapes proven in both directions; or it does not exist.
//! - No name of a model or of a family stands in `src/`: what differs between them is data.
//! - A file is never believed: lengths, counts and offsets are checked before they are used, and
//!   no path in a file leads out of its folder. No pickle is run.
//! - Output appears under its final name only when it is whole.
//! - The bytes written depend on the input, the spec and the version alone, not on threads.
//! - Nothing but `cli` prints, exits or reads the environment.

// What only the tests and the fuzzer use is no fault of a build without them.
#![cfg_attr(not(feature = "internals"), allow(dead_code, unreachable_pub, unused_imports))]

// The modules are the crate's own: their names change without a word. The feature `internals` opens them to the tests,
// the fuzzer, the benches and the Python module of this repository.
#[cfg(feature = "internals")]
pub mod author;
#[cfg(not(feature = "internals"))]
mod author;
#[cfg(feature = "internals")]
pub mod base;
#[cfg(not(feature = "internals"))]
mod base;
#[cfg(feature = "internals")]
pub mod checkpoint;
#[cfg(not(feature = "internals"))]
mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "internals")]
pub mod container;
#[cfg(not(feature = "internals"))]
mod container;
#[cfg(feature = "internals")]
pub mod convert;
#[cfg(not(feature = "internals"))]
mod convert;
#[cfg(feature = "internals")]
pub mod diff;
#[cfg(not(feature = "internals"))]
mod diff;
#[cfg(feature = "internals")]
pub mod encoding;
#[cfg(not(feature = "internals"))]
mod encoding;
#[cfg(feature = "internals")]
pub mod exec;
#[cfg(not(feature = "internals"))]
mod exec;
#[cfg(feature = "internals")]
pub mod folder;
#[cfg(not(feature = "internals"))]
mod folder;
#[cfg(feature = "internals")]
pub mod format;
#[cfg(not(feature = "internals"))]
mod format;
#[cfg(feature = "internals")]
pub mod forward;
#[cfg(not(feature = "internals"))]
mod forward;
#[cfg(feature = "internals")]
pub mod inspect;
#[cfg(not(feature = "internals"))]
mod inspect;
#[cfg(feature = "internals")]
pub mod interface;
#[cfg(not(feature = "internals"))]
mod interface;
#[cfg(feature = "internals")]
pub mod manifest;
#[cfg(not(feature = "internals"))]
mod manifest;
#[cfg(feature = "internals")]
pub mod metadata;
#[cfg(not(feature = "internals"))]
mod metadata;
#[cfg(feature = "internals")]
pub mod package;
#[cfg(not(feature = "internals"))]
mod package;
#[cfg(feature = "internals")]
pub mod plan;
#[cfg(not(feature = "internals"))]
mod plan;
#[cfg(feature = "internals")]
pub mod policy;
#[cfg(not(feature = "internals"))]
mod policy;
#[cfg(all(feature = "remote", feature = "internals"))]
pub mod remote;
#[cfg(all(feature = "remote", not(feature = "internals")))]
mod remote;
#[cfg(all(feature = "cli", feature = "internals"))]
pub mod report;
#[cfg(all(feature = "cli", not(feature = "internals")))]
mod report;
#[cfg(feature = "internals")]
pub mod rule;
#[cfg(not(feature = "internals"))]
mod rule;
#[cfg(feature = "internals")]
pub mod run;
#[cfg(not(feature = "internals"))]
mod run;
#[cfg(feature = "internals")]
pub mod schema;
#[cfg(not(feature = "internals"))]
mod schema;
#[cfg(feature = "internals")]
pub mod spec;
#[cfg(not(feature = "internals"))]
mod spec;
#[cfg(feature = "internals")]
pub mod supply;
#[cfg(not(feature = "internals"))]
mod supply;
#[cfg(feature = "internals")]
pub mod tensors;
#[cfg(not(feature = "internals"))]
mod tensors;
#[cfg(feature = "internals")]
pub mod tokenizer;
#[cfg(not(feature = "internals"))]
mod tokenizer;
#[cfg(feature = "internals")]
pub mod validate;
#[cfg(not(feature = "internals"))]
mod validate;
#[cfg(feature = "internals")]
pub mod verify;
#[cfg(not(feature = "internals"))]
mod verify;
#[cfg(feature = "internals")]
pub mod version;
#[cfg(not(feature = "internals"))]
mod version;

pub use self::base::diagnostic::{Diagnostic, Level};
pub use self::base::error::{Error, ErrorKind, Result};
pub use self::base::source::{Extent, FileId, Source};
pub use self::checkpoint::{Checkpoint, DType, Encoding, Payload, Tensor, View};
pub use self::convert::{Failure, Progress, Report as ConvertReport, Request, Silent, convert};
pub use self::diff::{Change, Diff, compare as diff};
pub use self::exec::produce::read;
pub use self::folder::{How, Opened, open, open_as};
pub use self::forward::{Inputs, Outputs};
pub use self::inspect::{Inspection, inspect};
pub use self::interface::{Interface, interface};
pub use self::manifest::{Digests, Manifest};
pub use self::package::{Conformance, Model, Provenance, Task, Value};
pub use self::policy::Policy;
pub use self::rule::{Outcome, Selection, Verdict};
pub use self::run::{Loaded, load, run};
pub use self::spec::Spec;
pub use self::tensors::{TensorInfo, TensorReader};
pub use self::validate::{Options as ValidateOptions, Report as ValidateReport, validate};
pub use self::verify::{Verified, verify};
pub use self::version::{Options as VersionOptions, Version};
