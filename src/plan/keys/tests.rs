use serde_json::json;

use super::path::{lookup, remove, set};
use super::writer::writer_is;

#[test]
fn the_writers_version_chooses_among_defaults() {
    let old = json!({"transformers_version": "4.57.1"});
    let new = json!({"transformers_version": "5.0.0.dev0"});
    assert!(writer_is(&old, "transformers < 5"));
    assert!(writer_is(&old, "transformers >= 4.46"));
    assert!(!writer_is(&new, "transformers < 5"));
    assert!(writer_is(&json!({}), "transformers < 4"));
}

#[test]
fn paths_lead_into_objects_and_make_them() {
    let mut config = json!({"a": null, "b.c": 1});
    set(&mut config, "a.x.y", json!(2));
    assert_eq!(config, json!({"a": {"x": {"y": 2}}, "b.c": 1}));
    assert_eq!(lookup(&config, "a.x.y"), Some(&json!(2)));
    assert_eq!(lookup(&config, "b.c"), Some(&json!(1)));
    remove(&mut config, "a.x");
    assert_eq!(config, json!({"a": {}, "b.c": 1}));
}
