//! `llmstd.toml` as types.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::base::diagnostic::Level;
use crate::package::Conformance;

/// `llmstd.toml`: what a project asks of its models.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct File {
    /// What holds for every input.
    #[serde(flatten)]
    pub rules: Rules,
    /// What holds for some inputs besides, the later over the earlier.
    pub path: Vec<PathSection>,
    /// Findings that are known and do not count.
    pub waiver: Vec<Waiver>,
}

/// What holds for the inputs that a pattern is about.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct PathSection {
    /// A pattern for paths, relative to the folder of the file: `models/legacy/**`.
    #[serde(rename = "match")]
    pub matching: String,
    /// What holds for them.
    #[serde(flatten)]
    pub rules: Rules,
}

/// Which rules are looked at, and how much their findings weigh.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case")]
pub struct Rules {
    /// The level to hold inputs to, instead of the one that each claims.
    pub level: Option<Conformance>,
    /// The rules to apply, by numbers or their beginnings; all where there is none.
    pub select: Option<Vec<String>>,
    /// The rules to leave out, by numbers or their beginnings.
    pub ignore: Vec<String>,
    /// The least level of a finding that fails: `error` unless it is said.
    pub fail_on: Option<Level>,
    /// How much the findings of a rule weigh, by number or its beginning; the longest fits best.
    pub severity: BTreeMap<String, Level>,
    /// What the model itself must be.
    pub require: Require,
}

/// What a model must be.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "kebab-case")]
pub struct Require {
    /// The licences that are allowed, as model cards name them: `apache-2.0`.
    pub licences: Option<Vec<String>>,
    /// The dtypes that tensors may have: `BF16`.
    pub dtypes: Option<Vec<String>>,
    /// The encodings that packed tensors may have; none where the list is empty.
    pub encodings: Option<Vec<String>>,
    /// The most bytes of all tensors: a number, or with a unit, `16 GB` or `16 GiB`.
    pub max_size: Option<Size>,
    /// The tasks that must be served: `causal-lm`.
    pub tasks: Option<Vec<String>>,
    /// Digests of the manifest by name, in hex: `tokenizer = "sha256:…"`.
    pub digests: BTreeMap<String, String>,
}

/// A number of bytes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Size {
    /// In bytes.
    Bytes(u64),
    /// With a unit: `kB MB GB TB` (powers of 1000), `KiB MiB GiB TiB` (powers of 1024).
    Text(String),
}

impl Size {
    /// The number of bytes; `None` if the text is no size.
    pub fn bytes(&self) -> Option<u64> {
        let text = match self {
            Size::Bytes(bytes) => return Some(*bytes),
            Size::Text(text) => text.trim(),
        };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number: f64 = text[..end].parse().ok()?;
        let unit: f64 = match text[end..].trim() {
            "" | "B" => 1.0,
            "kB" | "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "TB" => 1e12,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return None,
        };
        let bytes = (number * unit).round();
        // Every count of bytes that a disk holds is exact so far.
        (bytes <= 9e15).then_some(bytes as u64)
    }
}

/// A finding that is known and does not count.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Waiver {
    /// The rule, by number or its beginning.
    pub rule: String,
    /// A pattern for the paths of inputs, relative to the folder of the file; every input without.
    #[serde(default)]
    pub path: Option<String>,
    /// A pattern for the tensor, the file or the key; every place without.
    #[serde(default)]
    pub place: Option<String>,
    /// Why it does not count.
    pub reason: String,
    /// The last day on which it does not count: 2026-12-31.
    #[serde(default)]
    pub expires: Option<String>,
}
