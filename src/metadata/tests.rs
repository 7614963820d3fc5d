use serde_json::Value as Json;

use super::entries::Metadata;
use super::text::{Text, Texts};
use super::value::{Array, Value};

#[track_caller]
fn check(value: &Value, expected: &str) {
    let json = value.to_json();
    assert_eq!(json.to_string(), expected);
    let read: Json = serde_json::from_str(expected).unwrap();
    let back = Value::from_json(&read).expect("what was written can be read");
    // NaN is not equal to itself; its text is.
    assert_eq!(format!("{back:?}"), format!("{value:?}"));
    assert_eq!(back.to_json().to_string(), expected);
}

#[test]
fn values_come_back_from_json_as_they_were() {
    check(&Value::U8(255), r#"{"u8":255}"#);
    check(&Value::I64(i64::MIN), r#"{"i64":-9223372036854775808}"#);
    check(&Value::U64(u64::MAX), r#"{"u64":18446744073709551615}"#);
    check(&Value::F32(1e-5), r#"{"f32":9.999999747378752e-6}"#);
    check(&Value::F32(-0.0), r#"{"f32":-0.0}"#);
    check(&Value::F32(f32::from_bits(0x7fc0_0001)), r#"{"f32":"0x7fc00001"}"#);
    check(&Value::F64(f64::NEG_INFINITY), r#"{"f64":"0xfff0000000000000"}"#);
    check(&Value::Bool(true), r#"{"bool":true}"#);
    check(&Value::from("ä\0"), r#"{"string":"ä\u0000"}"#);
    check(&Value::String(Text(vec![0xff, 0x0a])), r#"{"string":{"hex":"ff0a"}}"#);
    let mut texts: Texts = ["", "a"].into_iter().collect();
    texts.push(&[0x80]);
    let texts = Array::String(Box::new(texts));
    check(&Value::Array(texts.clone()), r#"{"array":{"string":["","a",{"hex":"80"}]}}"#);
    let nested = Array::Array(vec![Array::I32(vec![-1]), texts, Array::Bool(Vec::new())]);
    check(
        &Value::Array(nested),
        r#"{"array":{"array":[{"i32":[-1]},{"string":["","a",{"hex":"80"}]},{"bool":[]}]}}"#,
    );
}

#[test]
fn what_is_no_value_is_refused() {
    let deep = format!("{}{{\"u8\":[]}}{}", "{\"array\":[".repeat(40), "]}".repeat(40));
    for text in [
        r#"{"u8":256}"#,
        r#"{"u8":-1}"#,
        r#"{"i32":1.5}"#,
        r#"{"f32":0.1}"#,
        r#"{"bool":1}"#,
        r#"{"string":{"hex":"f"}}"#,
        r#"{"string":1}"#,
        r#"{"u8":1,"i8":1}"#,
        r#"{"array":[1]}"#,
        r#"{"u7":1}"#,
        "1",
        &format!("{{\"array\":{deep}}}"),
    ] {
        let json: Json = serde_json::from_str(text).unwrap();
        assert_eq!(Value::from_json(&json), None, "{text}");
    }
    let twice = r#"{"a":{"u8":1},"a":{"u8":1}}"#;
    assert!(serde_json::from_str::<Metadata>(twice).is_err());
}

#[test]
fn keys_keep_their_order_and_are_there_once() {
    let mut metadata = Metadata::default();
    assert!(metadata.push("b".to_owned(), Value::U8(1)));
    assert!(metadata.push("a".to_owned(), Value::U8(2)));
    assert!(!metadata.push("b".to_owned(), Value::U8(3)));
    metadata.set("b", Value::U8(4));
    metadata.set("c", Value::from("x"));
    let text = serde_json::to_string(&metadata).unwrap();
    assert_eq!(text, r#"{"b":{"u8":4},"a":{"u8":2},"c":{"string":"x"}}"#);
    assert_eq!(serde_json::from_str::<Metadata>(&text).unwrap(), metadata);
    metadata.retain(|key| key != "b");
    assert_eq!(metadata.get("c").and_then(Value::as_str), Some("x"));
    assert_eq!(metadata.get("b"), None);
}
