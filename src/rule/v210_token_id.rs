//! V210 token-id.

use crate::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, MODEL_FILE, Value};
use crate::rule::{Checked, Rule, Subject};

/// The id of a special token is no row of the token table.
pub(super) static RULE: Rule = Rule {
    id: "V210",
    name: "token-id",
    level: Conformance::Schema,
    weight: Level::Error,
    deep: false,
    check,
};

/// The tokens with a meaning.
const KNOWN: &[&str] = &["bos", "eos", "pad", "unk", "sep", "cls", "mask", "decoder_start"];

fn check(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let model = subject.model()?;
    let vocab_size = match model.hyperparameters.get("vocab_size") {
        Some(Value::Int(int)) => *int,
        _ => i64::MAX, // V202 tells of it.
    };
    let range = match vocab_size {
        i64::MAX => "an id of the token table".to_owned(),
        size => format!("an id from 0 to {}", size.saturating_sub(1)),
    };
    for (token, value) in &model.tokens {
        let about = |message: String| {
            RULE.finding(message).file(MODEL_FILE).key(format!("tokens.{token}"))
        };
        if !KNOWN.contains(&token.as_str()) {
            found.push(
                about(format!("there is no special token {token:?}"))
                    .mismatch(format!("one of {}", KNOWN.join(", ")), token)
                    .help("remove it, or correct its name"),
            );
            continue;
        }
        let is_id = |value: &Value| matches!(value, Value::Int(id) if (0..vocab_size).contains(id));
        let right = match value {
            Value::List(ids) => token == "eos" && ids.iter().all(is_id),
            Value::Null => true,
            value => is_id(value),
        };
        if !right {
            found.push(
                about(format!("the token `{token}` is {value}, which is no row of the token table"))
                    .mismatch(&range, value)
                    .help("correct the id: a reader that looks it up reads outside the table"),
            );
        }
    }
    Ok(())
}
