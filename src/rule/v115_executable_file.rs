//! V115 executable-file.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::pickle::is_pickle;
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
        if let Some(what) = danger(name, view.bytes(name).unwrap_or_default()) {
            found.push(
                RULE.finding(format!("{name} is {what}"))
                    .file(name)
                    .help("a package holds data only: remove the file"),
            );
        }
    }
    Ok(())
}

fn danger(name: &str, bytes: &[u8]) -> Option<&'static str> {
    if is_pickle(name, bytes) {
        return Some("a pickle");
    }
    let lower = name.to_ascii_lowercase();
    let end = lower.rsplit_once('.').map_or("", |(_, end)| end);
    let is_program = matches!(
        end,
        "exe"
            | "dylib"
            | "so"
            | "dll"
            | "bat"
            | "ps1"
            | "sh"
            | "py"
            | "pyc"
            | "ipynb"
            | "js"
            | "jar"
            | "wasm"
    );
    (is_program || bytes.starts_with(b"\x7fELF") || bytes.starts_with(b"#!")).then_some("a program")
}
