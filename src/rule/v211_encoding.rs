//! V211 encoding.

use crate::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE};
use crate::rule::{Checked, Rule, Subject};

/// A quantized payload is of an encoding that the standard does not have.
pub(super) static RULE: Rule = Rule {
    id: "V211",
    name: "encoding",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    check,
};

fn check(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for (name, encoding) in &subject.model()?.encodings {
        // This version of the standard has none: every payload is plain.
        found.push(
            RULE.finding(format!("`{name}` is encoded in a way that is not known here"))
                .file(MODEL_FILE)
                .key("encodings")
                .tensor(name)
                .mismatch("a plain payload", encoding)
                .help("use a newer llmstd, or convert from the weights before quantization"),
        );
    }
    Ok(())
}
