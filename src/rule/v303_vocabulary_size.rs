//! V303 vocabulary-size.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, Value};
use crate::rule::{About, Checked, NotChecked, PackageView, Rule};

/// The tokenizer gives an id that is no row of the token table, or two tokens one id.
pub(super) static RULE: Rule = Rule {
    id: "V303",
    name: "vocabulary-size",
    level: Conformance::Full,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let rows = match view.model()?.hyperparameters.get("vocab_size") {
        Some(Value::Int(int)) => u64::try_from(*int).unwrap_or(0),
        _ => return Err(NotChecked::Blocked("nothing says what `vocab_size` is")),
    };
    let mut looked = false;
    for (name, vocabulary) in view.vocabularies() {
        let Ok(vocabulary) = vocabulary else { continue };
        let Some((token, largest)) = vocabulary.largest() else { continue };
        looked = true;
        if rows <= largest {
            found.push(
                RULE.finding(format!(
                    "{name} gives {token:?} the id {largest}, and the token table has {rows} rows"
                ))
                .file(name)
                .mismatch(format!("ids from 0 to {}", rows.saturating_sub(1)), largest)
                .help("a text with this token crashes or reads outside the table: the tokenizer is of another model, or the table was not resized"),
            );
        }
        if let Some((id, one, other)) = &vocabulary.twice {
            found.push(
                Diagnostic {
                    level: Level::Warning,
                    ..RULE.finding(format!("{name} gives {one:?} and {other:?} one id, {id}"))
                }
                .file(name)
                .help("one of the two can never be decoded"),
            );
        }
    }
    if !looked {
        return Err(NotChecked::NotApplicable(
            "no file of the tokenizer says ids in a form known here",
        ));
    }
    Ok(())
}
