//! Which program wrote a config, and in which version.

use serde_json::Value as Json;

/// Whether the config was written by such a version: `transformers < 5`, `transformers >= 4.46`.
/// A config without a version is older than any.
pub(super) fn writer_is(config: &Json, condition: &str) -> bool {
    let mut words = condition.split_whitespace();
    let (Some(writer), Some(op), Some(version)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let written = config.get(format!("{writer}_version")).and_then(Json::as_str).unwrap_or("0");
    let numbers = |text: &str| -> Vec<u64> {
        let mut numbers: Vec<u64> = text
            .split('.')
            .map_while(|part| {
                let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
                part[..digits].parse().ok()
            })
            .collect();
        numbers.resize(3, 0);
        numbers
    };
    let (written, version) = (numbers(written), numbers(version));
    match op {
        "<" => written < version,
        "<=" => written <= version,
        ">" => version < written,
        ">=" => version <= written,
        _ => false,
    }
}
