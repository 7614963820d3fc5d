//! V115 executable-file.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// A file of the package is a program, or a pickle that runs one when it is loaded.
pub(super) static RULE: Rule = Rule {
    id: "V115",
    name: "executable-file",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    for name in view.files.keys() {
        let head = view.bytes(name).map(|bytes| &bytes[..bytes.len().min(512)]);
        if let Some(what) = danger(name, head.unwrap_or_default()) {
            found.push(
                RULE.finding(format!("{name} is {what}"))
                    .file(name)
                    .help("a package holds data only: remove the file"),
            );
        }
    }
    Ok(())
}

/// What a zip archive begins with.
const ZIP: &[u8] = b"PK\x03\x04";

fn danger(name: &str, head: &[u8]) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let end = lower.rsplit_once('.').map_or("", |(_, end)| end);
    match end {
        "pkl" | "pickle" | "joblib" | "dill" => return Some("a pickle"),
        "exe" | "dylib" | "so" | "dll" | "bat" | "ps1" | "sh" | "py" | "pyc" | "ipynb" | "js"
        | "jar" | "wasm" => return Some("a program"),
        _ => {}
    }
    if head.starts_with(b"\x7fELF") || head.starts_with(b"#!") {
        return Some("a program");
    }
    // Documents and tokenizers may begin with any byte; only what claims to be weights is asked.
    let is_weights = matches!(end, "bin" | "pt" | "pth" | "ckpt");
    // Protocols 2 to 5 begin so; older ones have no mark.
    let is_pickle = matches!(head, [0x80, 2..=5, ..]) || head.starts_with(ZIP);
    (is_weights && is_pickle).then_some("a pickle")
}
