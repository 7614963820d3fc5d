//! V301 tokenizer-missing.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::manifest::is_whole_tokenizer;
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule};

/// There is no tokenizer.
pub(super) static RULE: Rule = Rule {
    id: "V301",
    name: "tokenizer-missing",
    level: Conformance::Full,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    // Added tokens and merges alone make no ids.
    if !view.files.keys().any(|name| is_whole_tokenizer(name)) {
        found.push(
            RULE.finding("there is no tokenizer")
                .mismatch("tokenizer.json, tokenizer.model, vocab.txt or the like", "none")
                .help("put the tokenizer's files beside the source and convert anew; without them the level is schema"),
        );
    }
    Ok(())
}
