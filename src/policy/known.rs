//! Keys that the schema does not have, named with what was meant.

use serde_json::Value as Json;
use toml::Value;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::near::did_you_mean;

/// Holds the keys of a value to a JSON Schema.
///
/// # Errors
/// A key is not among the properties of its object.
pub(super) fn keys(value: &Value, schema: &Json) -> Result<()> {
    walk(value, schema, schema, "")
}

fn walk(value: &Value, schema: &Json, root: &Json, place: &str) -> Result<()> {
    let schema = resolve(schema, root);
    match value {
        Value::Table(table) => {
            let known = schema.get("properties").and_then(Json::as_object);
            let others = schema.get("additionalProperties");
            for (key, value) in table {
                let here = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                let inner =
                    known.and_then(|known| known.get(key)).or(others.filter(|one| one.is_object()));
                match (inner, known) {
                    (Some(inner), _) => walk(value, inner, root, &here)?,
                    (None, Some(known)) => return Err(unknown(key, known, &here)),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    walk(item, inner, root, &format!("{place}[{index}]"))?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn unknown(key: &str, known: &serde_json::Map<String, Json>, place: &str) -> Error {
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    let meant = did_you_mean(key, names.iter().copied());
    let at = if place == key { String::new() } else { format!(" at `{place}`") };
    let message = format!("unknown key `{key}`{at}{meant}; keys there are {}", names.join(", "));
    Error::new(ErrorKind::Malformed, message)
}

/// What a reference, or a choice with one object in it, stands for.
fn resolve<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    if let Some(target) = schema.get("$ref").and_then(Json::as_str) {
        let inner = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return inner.map_or(schema, |inner| resolve(inner, root));
    }
    let choices = schema.get("anyOf").and_then(Json::as_array);
    let inner = choices.into_iter().flatten().find(|one| one.get("$ref").is_some());
    inner.map_or(schema, |inner| resolve(inner, root))
}
