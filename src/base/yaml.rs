//! YAML, as the value that JSON has for it.

use serde_json::Value as Json;

use super::error::{Error, ErrorKind, Result};

/// The longest text.
const MAX_LEN: usize = 16 << 20;

/// Reads a text.
///
/// # Errors
/// It is too long, no UTF-8 or no YAML.
pub fn parse(bytes: &[u8]) -> Result<Json> {
    let refuse = |message: String| Err(Error::new(ErrorKind::Malformed, message));
    if MAX_LEN < bytes.len() {
        return refuse(format!("{} bytes of YAML, at most {MAX_LEN} are read", bytes.len()));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return refuse("is not UTF-8".to_owned()) };
    serde_saphyr::from_str::<Json>(text).or_else(|err| {
        let message = err.to_string();
        refuse(format!("is no YAML: {}", message.lines().next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_json() {
        let text = "a: 1e-5\nb: [1, null, ~]\nc: {d: 'x'}\ne: true\nf: 1.0e-06\n";
        let json = parse(text.as_bytes()).unwrap();
        let wanted = serde_json::json!({
            "a": 1e-5, "b": [1, null, null], "c": {"d": "x"}, "e": true, "f": 1e-6
        });
        assert_eq!(json, wanted);
        // Aliases that grow without an end are refused.
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (old, new) in ('a'..'h').zip('b'..='h') {
            let list = vec![format!("*{old}"); 10].join(", ");
            text.push_str(&format!("{new}: &{new} [{list}]\n"));
        }
        assert!(parse(text.as_bytes()).unwrap_err().to_string().contains("is no YAML"));
        assert!(parse(b"a: [1").is_err());
    }
}
