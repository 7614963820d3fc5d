//! The versions that the program carries.

use super::*;

/// The build puts versions together and parses them: both as is done with files from elsewhere.
#[test]
fn what_the_build_made_is_what_the_files_say() {
    for carried in VERSIONS {
        let files = embedded_files(carried.version).unwrap();
        let (made, read) = (carried.whole(), versions::whole(files, &embedded_files).unwrap());
        assert_eq!(made.later, read.later);
        assert!(made.files.keys().eq(read.files.keys()));
        for (path, text) in &made.files {
            assert_eq!(**text, *read.files[path], "{path}");
            if path.ends_with(".toml") {
                let plain = Text::from(text.to_string());
                let (json, toml) = (text.parse::<toml::Value>(), plain.parse::<toml::Value>());
                assert_eq!(json.unwrap(), without_infinities(toml.unwrap()), "{path}");
            }
        }
        let (made, read) = (Spec::lazily(made).unwrap(), Spec::lazily(read).unwrap());
        assert_eq!(made.hash(), read.hash());
    }
}

fn without_infinities(value: toml::Value) -> toml::Value {
    let members = |members: toml::Table| {
        members.into_iter().map(|(name, value)| (name, without_infinities(value)))
    };
    match value {
        toml::Value::Float(number) if number.is_infinite() => number.to_string().into(),
        toml::Value::Array(items) => {
            toml::Value::Array(items.into_iter().map(without_infinities).collect())
        }
        toml::Value::Table(table) => toml::Value::Table(members(table).collect()),
        other => other,
    }
}

#[test]
fn the_embedded_standard_parses() {
    let files = Spec::embedded(CURRENT).unwrap().files().clone();
    let spec = Spec::from_files(files).unwrap();
    assert!(!spec.maps.is_empty());
    for (key, head) in spec.maps.keys().map(|key| (key, spec.heads.get(key).unwrap())) {
        let map = spec.maps.get(key).unwrap();
        assert_eq!((&head.arch, &head.matches), (&map.arch, &map.matches), "{key:?}");
    }
    assert!(spec.role("decoder.layers.3.attn.q_proj.weight").is_some());
    assert!(spec.role("decoder.layers.03.attn.q_proj.weight").is_none());
    assert!(spec.role("heads.sentiment.proj.weight").is_some());
}
