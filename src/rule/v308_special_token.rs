//! V308 special-token.

use serde_json::Value as Json;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, Value};
use crate::rule::{About, Checked, NotChecked, PackageView, Rule};

/// The tokenizer and the model give a special token two ids.
pub(super) static RULE: Rule = Rule {
    id: "V308",
    name: "special-token",
    level: Conformance::Full,
    weight: Level::Warning,
    deep: false,
    about: About::Model,
    check,
};

const CONFIG: &str = "tokenizer_config.json";

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let model = view.model()?;
    let Some(config) = view.json(CONFIG) else {
        return Err(NotChecked::NotApplicable("there is no tokenizer_config.json"));
    };
    for (name, stated) in &model.tokens {
        let ids: Vec<i64> = match stated {
            Value::Int(id) => vec![*id],
            Value::List(items) => items
                .iter()
                .filter_map(|item| if let Value::Int(id) = item { Some(*id) } else { None })
                .collect(),
            _ => continue,
        };
        let said = config.get(format!("{name}_token"));
        let text = said.and_then(|said| said.as_str().or_else(|| said.get("content")?.as_str()));
        let Some((text, id)) = text.and_then(|text| Some((text, id_of(view, &config, text)?)))
        else {
            continue;
        };
        if !i64::try_from(id).is_ok_and(|id| ids.contains(&id)) {
            found.push(
                RULE.finding(format!(
                    "the token `{name}` is {stated} for the model, and {id} ({text:?}) for the tokenizer"
                ))
                .file(CONFIG)
                .key(format!("{name}_token"))
                .mismatch(stated, id)
                .help("one of the two is right: a wrong `eos` never ends, a wrong `pad` is attended to"),
            );
        }
    }
    Ok(())
}

/// The id of a token, by the tokenizer's own list of added tokens, or by its vocabulary.
fn id_of(view: &PackageView<'_>, config: &Json, text: &str) -> Option<u64> {
    let added = config.get("added_tokens_decoder").and_then(Json::as_object);
    let by_config = added.into_iter().flatten().find_map(|(id, token)| {
        let is_it = token.get("content").and_then(Json::as_str) == Some(text);
        if is_it { id.parse().ok() } else { None }
    });
    let mut vocabularies = view.vocabularies().iter();
    by_config
        .or_else(|| vocabularies.find_map(|(_, vocabulary)| vocabulary.as_ref().ok()?.id(text)))
}
