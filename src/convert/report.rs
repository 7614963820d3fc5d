//! What was, or would be, done.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::request::Request;
use super::sidecar::left_behind;
use super::tensor_reports::TensorReports;
use crate::base::diagnostic::Diagnostic;
use crate::exec::staging::free_space;
use crate::exec::write;
use crate::folder::Opened;
use crate::format;
use crate::package::{Conformance, Dropped, Loss};
use crate::plan::Tensors;
use crate::spec::ecosystem::Ecosystem;

/// What was, or would be, done.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Report {
    /// `llmstd.convert/1`.
    pub schema: &'static str,
    /// The input.
    pub source: String,
    /// The format and container of the input.
    pub from: String,
    /// The format of the output.
    pub to: String,
    /// The architecture, if there is one.
    pub architecture: Option<String>,
    /// The mapping, `hf/NAME`, if there is one.
    pub map: Option<String>,
    /// The output.
    pub destination: String,
    /// Whether it was only planned.
    pub dry_run: bool,
    /// The level of conformance of a package.
    pub conformance: Option<Conformance>,
    /// The tensors that are written, and how each is made.
    pub tensors: TensorReports,
    /// Bytes of tensors.
    pub tensor_bytes: u64,
    /// Most bytes of memory for tensors under way, whatever the size of the model.
    pub peak_memory: u64,
    /// Bytes free on the disk of the destination, where the system says so.
    pub free_disk: Option<u64>,
    /// The foreign tensors that the standard does not store, and how each comes back.
    pub dropped: Vec<Dropped>,
    /// The foreign tensors that repeat another one: `[copy, canonical name]`.
    pub copies: Vec<[String; 2]>,
    /// Files carried over byte for byte.
    pub carried: Vec<String>,
    /// Files left behind.
    pub left: Vec<String>,
    /// What value ops and casts changed, over all tensors.
    pub loss: Option<Loss>,
    /// What `--verify` proved.
    pub verified: Option<Verified>,
    /// How far the outputs of source and result are apart, by `--check-outputs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<OutputDifference>>,
    /// The shards and the digest of the plan, where it is made for units or carried out by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<UnitsReport>,
    /// What is suspicious.
    pub findings: Vec<Diagnostic>,
}

impl Report {
    /// How many bytes of disk the conversion takes at most.
    pub fn needed_disk(&self) -> u64 {
        // Headers, JSON and carried files are small beside the tensors; 16 MiB cover them.
        self.tensor_bytes.saturating_add(16 << 20)
    }
}

/// What came of reading back what was written, and comparing it with the source.
///
/// A package is exported to the format of its source, a foreign checkpoint imported; both sides of a
/// foreign checkpoint are compared as the numbers of canonical tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Verified {
    /// The tensors that come back equal: in the same dtype every byte, in another one every number.
    pub equal: u64,
    /// Those that were changed on purpose.
    pub changed: u64,
    /// How many of them by what: `cast`, `quantized`, `decoded`, `computed`, `left out in part`.
    pub changed_by: BTreeMap<String, u64>,
    /// The greatest difference of two numbers of those that were changed; absent where none was
    /// computed.
    pub max_difference: Option<f64>,
    /// Those of the equal ones whose rows of padding are left out: the rows of the model are equal.
    pub padded: Vec<String>,
    /// Tensors that are not written, each told of by a finding.
    pub left_out: Vec<String>,
    /// Hyperparameters that the written format does not keep as they are.
    pub hyperparameters: Vec<String>,
}

/// How far an output of the result is from that of the source.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct OutputDifference {
    /// The output, `causal-lm.logits`.
    pub name: String,
    /// The greatest difference of two elements.
    pub max_abs: f32,
    /// The greatest element of the source's output, without its sign.
    pub scale: f32,
}

/// The format of a checkpoint that is no package.
pub(super) fn foreign_format(opened: &Opened) -> &'static str {
    format::find(opened.checkpoint.format).map_or("hf", |format| format.dialect)
}

/// The ecosystem that an input comes from.
pub(super) fn ecosystem(opened: &Opened) -> &'static Ecosystem {
    Ecosystem::of(foreign_format(opened))
}

pub(super) fn report(
    opened: &Opened,
    request: &Request<'_>,
    tensors: &Arc<Tensors>,
    carried: Vec<String>,
    left: Vec<String>,
) -> Report {
    let kind = if opened.is_package { "std" } else { foreign_format(opened) };
    let mut findings = opened.checkpoint.findings.clone();
    findings.extend(left_behind(&left));
    Report {
        schema: "llmstd.convert/1",
        source: opened.source.root().display().to_string(),
        from: format!("{kind} ({})", opened.checkpoint.format),
        to: request.to.to_owned(),
        architecture: None,
        map: None,
        destination: request.destination.display().to_string(),
        dry_run: request.dry_run,
        conformance: None,
        tensors: TensorReports::planned(&opened.source, tensors),
        tensor_bytes: tensors.n_bytes(),
        peak_memory: write::PEAK_MEMORY,
        free_disk: free_space(request.destination),
        dropped: Vec::new(),
        copies: Vec::new(),
        carried,
        left,
        loss: None,
        verified: None,
        outputs: None,
        units: None,
        findings,
    }
}

/// The shards of a conversion, and what tells its plan from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnitsReport {
    /// The SHA-256 over this program's version, the standard, the files of the source, and how each
    /// tensor is made and where it is put. Units of another plan are not joined.
    pub digest: String,
    /// The arguments of the run that made the plan; each unit is planned by them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// The shards.
    pub shards: Vec<ShardReport>,
    /// The shards that this run made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<String>,
    /// The shards of its share that were there already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

/// One file of tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShardReport {
    /// Its name.
    pub name: String,
    /// How many tensors it has.
    pub tensors: u64,
    /// The bytes of these.
    pub bytes: u64,
}
