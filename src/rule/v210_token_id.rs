//! V210 token-id.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE, Value};
use crate::rule::{About, Checked, PackageView, Rule, TOKENS};

/// The id of a special token is no row of the token table.
pub(super) static RULE: Rule = Rule {
    id: "V210",
    name: "token-id",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    about: About::Model,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let model = view.model()?;
    let vocab_size = match model.hyperparameters.get("vocab_size") {
        Some(Value::Int(int)) => *int,
        _ => i64::MAX, // V202 tells of it.
    };
    let range = match vocab_size {
        i64::MAX => "an id of the token table".to_owned(),
        size => format!("an id from 0 to {}", size.saturating_sub(1)),
    };
    for (token, value) in &model.tokens {
        let about =
            |message: String| RULE.finding(message).file(MODEL_FILE).key(format!("tokens.{token}"));
        if !TOKENS.contains(&token.as_str()) {
            found.push(
                about(format!("there is no special token {token:?}"))
                    .mismatch(format!("one of {}", TOKENS.join(", ")), token)
                    .help("remove it, or correct its name"),
            );
            continue;
        }
        let ids: Option<Vec<i64>> = match value {
            Value::Null => Some(Vec::new()),
            Value::Int(id) => Some(vec![*id]),
            Value::List(items) if token == "eos" => items.iter().map(int).collect(),
            _ => None,
        };
        let Some(ids) = ids else {
            found.push(
                about(format!("the token `{token}` is {value}, which is no id"))
                    .mismatch(&range, value)
                    .help("a token has one id, and `eos` a list of them"),
            );
            continue;
        };
        for id in ids.into_iter().filter(|id| !(0..vocab_size).contains(id)) {
            // Published models carry ids that a default of their config gave them and that
            // nothing ever looks up: suspicious, and no reason to refuse the model.
            let finding =
                about(format!("the token `{token}` is {id}, which is no row of the token table"));
            found.push(
                Diagnostic { level: Level::Warning, ..finding }
                    .mismatch(&range, id)
                    .help("a program that looks it up reads outside the table: correct the id in the source's config"),
            );
        }
    }
    Ok(())
}

fn int(value: &Value) -> Option<i64> {
    if let Value::Int(id) = value { Some(*id) } else { None }
}
