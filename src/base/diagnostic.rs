//! A finding: something that is wrong, or worth knowing, about a model that could be read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much a finding weighs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Level {
    /// Worth knowing; changes no verdict.
    Note,
    /// Suspicious; changes no exit code.
    Warning,
    /// Breaks the standard.
    Error,
}

/// One finding, as data. Text and JSON are both printed from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The rule's number, `C001`; `llmstd explain` has its page.
    pub rule: &'static str,
    /// How much it weighs.
    pub level: Level,
    /// What is wrong, in one sentence that stands alone.
    pub message: String,
    /// The file, relative to the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// The key: a hyperparameter, or a JSON pointer into `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The bytes of `file` it is about: first, and one past the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<[u64; 2]>,
    /// What the rule wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What to do now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// In reports: the same for the same fault at the same place from run to run, and for findings
    /// that are alike; SARIF and GitLab have it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// Why a checkpoint was refused, as `--format json` prints it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Refusal {
    /// `llmstd.refusal/1`.
    pub schema: &'static str,
    /// What keeps it from being put in the standard's terms.
    pub findings: Vec<Diagnostic>,
}

impl Refusal {
    /// A refusal for these reasons.
    pub fn new(findings: Vec<Diagnostic>) -> Refusal {
        Refusal { schema: "llmstd.refusal/1", findings }
    }
}

impl Diagnostic {
    /// Makes an error.
    pub fn error(rule: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(rule, Level::Error, message)
    }

    /// Makes a warning.
    pub fn warning(rule: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(rule, Level::Warning, message)
    }

    /// Makes a note.
    pub fn note(rule: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(rule, Level::Note, message)
    }

    /// Makes a finding of the given weight.
    pub fn new(rule: &'static str, level: Level, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            rule,
            level,
            message: message.into(),
            file: None,
            tensor: None,
            key: None,
            bytes: None,
            expected: None,
            found: None,
            help: None,
            fingerprint: None,
        }
    }

    /// Where it is, however it is worded: the tensor, whichever shard it lies in, or else the file;
    /// and the key.
    pub fn place(&self) -> String {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        match &self.tensor {
            Some(tensor) => format!("{tensor}#{}", part(&self.key)),
            None => format!("{}##{}", part(&self.file), part(&self.key)),
        }
    }

    /// Names the file.
    #[must_use]
    pub fn file(mut self, file: impl Into<String>) -> Diagnostic {
        self.file = Some(file.into());
        self
    }

    /// Names the tensor.
    #[must_use]
    pub fn tensor(mut self, tensor: impl Into<String>) -> Diagnostic {
        self.tensor = Some(tensor.into());
        self
    }

    /// Names the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Diagnostic {
        self.key = Some(key.into());
        self
    }

    /// Names the bytes of the file, from `start` to before `end`.
    #[must_use]
    pub fn bytes(mut self, start: u64, end: u64) -> Diagnostic {
        self.bytes = Some([start, end]);
        self
    }

    /// Says what the rule wants and what is there.
    #[must_use]
    pub fn mismatch(mut self, expected: impl ToString, found: impl ToString) -> Diagnostic {
        self.expected = Some(expected.to_string());
        self.found = Some(found.to_string());
        self
    }

    /// Says what to do now.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}
