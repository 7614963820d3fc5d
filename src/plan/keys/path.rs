//! Places in a foreign config, and what stands there.

use serde_json::Value as Json;

use crate::base::json::FLOAT_TAG;
use crate::base::limits::MAX_LIST;
use crate::package::Value;

/// Follows a path with dots into a JSON object; a part may be a place in a list.
pub fn lookup<'a>(config: &'a Json, path: &str) -> Option<&'a Json> {
    // A key may have dots itself.
    if let Some(value) = config.get(path) {
        return Some(value);
    }
    if let (Json::Array(items), Ok(place)) = (config, path.parse::<usize>()) {
        return items.get(place);
    }
    let (first, rest) = path.split_once('.')?;
    let inner = match config {
        Json::Array(items) => items.get(first.parse::<usize>().ok()?),
        _ => config.get(first),
    };
    lookup(inner?, rest)
}

/// What a config says at a path, null if nothing.
///
/// # Errors
/// It is no value of the standard.
pub fn stated(config: &Json, path: &str) -> Result<Value, String> {
    lookup(config, path).map_or(Ok(Value::Null), from_json)
}

pub(crate) fn from_json(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(float)) if float.is_finite() => Value::Float(float),
            _ => return Err(format!("{number} is no number that can be kept")),
        },
        Json::String(word) => Value::Symbol(word.clone()),
        Json::Array(items) if MAX_LIST < items.len() => {
            return Err(format!("a list of {} entries, at most {MAX_LIST} are read", items.len()));
        }
        Json::Array(items) => Value::List(items.iter().map(from_json).collect::<Result<_, _>>()?),
        // An infinite number, as transformers 5 writes it, is a word: `'Infinity'`.
        Json::Object(object) if object.len() == 1 && object.contains_key(FLOAT_TAG) => {
            from_json(&object[FLOAT_TAG])?
        }
        Json::Object(_) => return Err("an object, where one value is read".to_owned()),
    })
}

pub(super) fn to_json(value: &Value) -> Json {
    serde_json::to_value(value).unwrap_or(Json::Null)
}

/// Writes a value at a path; a part in brackets, `[2]`, is a place in a list, which is made as long as that takes.
pub(crate) fn set(config: &mut Json, path: &str, value: Json) {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    let place = first.strip_prefix('[').and_then(|first| first.strip_suffix(']'));
    if let Some(place) = place.and_then(|place| place.parse::<usize>().ok()) {
        if !config.is_array() {
            *config = Json::Array(Vec::new());
        }
        let Json::Array(items) = config else { return };
        if items.len() <= place {
            items.resize(place.min(MAX_LIST) + 1, Json::Null);
        }
        match (rest, items.get_mut(place)) {
            (None, Some(item)) => *item = value,
            (Some(rest), Some(item)) => set(item, rest, value),
            (_, None) => {}
        }
        return;
    }
    if !config.is_object() {
        *config = Json::Object(serde_json::Map::new());
    }
    let Json::Object(object) = config else { return };
    // A key may have dots itself.
    if let Some(known) = object.get_mut(path) {
        *known = value;
        return;
    }
    match rest {
        None => {
            object.insert(first.to_owned(), value);
        }
        Some(rest) => set(object.entry(first).or_insert(Json::Null), rest, value),
    }
}

pub(crate) fn remove(config: &mut Json, path: &str) {
    let Json::Object(object) = config else { return };
    match path.split_once('.') {
        None => {
            object.shift_remove(path);
        }
        Some((first, rest)) => {
            if let Some(inner) = object.get_mut(first) {
                remove(inner, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_in_lists_are_read_and_written_anywhere_in_a_path() {
        let mut config = json!({ "blocks": [{ "mlp": { "width": 3 } }] });
        assert_eq!(lookup(&config, "blocks.0.mlp.width"), Some(&json!(3)));
        assert_eq!(lookup(&config, "blocks.1.mlp.width"), None);
        set(&mut config, "blocks.[2].mlp.width", json!(5));
        set(&mut config, "blocks.[0].mlp.width", json!(4));
        set(&mut config, "widths.[1]", json!(7));
        let blocks = json!([{ "mlp": { "width": 4 } }, null, { "mlp": { "width": 5 } }]);
        assert_eq!(config, json!({ "blocks": blocks, "widths": [null, 7] }));
    }
}
