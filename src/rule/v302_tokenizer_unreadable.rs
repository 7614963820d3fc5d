//! V302 tokenizer-unreadable.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{About, Checked, NotChecked, PackageView, Rule, unreadable};

/// A file of the tokenizer does not keep its format.
pub(super) static RULE: Rule = Rule {
    id: "V302",
    name: "tokenizer-unreadable",
    level: Conformance::Full,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    if view.vocabularies().is_empty() {
        return Err(NotChecked::NotApplicable("no file of the tokenizer is of a form known here"));
    }
    for (name, vocabulary) in view.vocabularies() {
        if let Err(err) = vocabulary {
            found.push(unreadable(&RULE, name, err).help("get the file again"));
        }
    }
    Ok(())
}
