use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::document::Manifest;
use super::entry::TensorEntry;
use super::facts::{FileFacts, ManifestInput, TensorFacts};
use super::leaf::{content_leaf, leaf};
use super::role::FileRole;
use crate::checkpoint::{DType, n_elements};

fn tensor(name: &str, shape: &[u64], byte: u8) -> TensorFacts {
    let len = n_elements(shape).unwrap() * 4;
    let sha256 = Sha256::digest(vec![byte; len as usize]).into();
    let (name, shape) = (name.to_owned(), shape.to_vec());
    TensorFacts { name: name.into(), dtype: DType::F32, shape, len, sha256, place: None }
}

fn file<'a>(path: &str, text: &'a str) -> FileFacts<'a> {
    FileFacts {
        path: path.to_owned(),
        len: text.len() as u64,
        sha256: Sha256::digest(text).into(),
        text: Some(text.as_bytes()),
    }
}

fn build<'a>(tensors: Vec<TensorFacts>, files: Vec<FileFacts<'a>>) -> Manifest {
    let tensors = tensors.into_iter().map(TensorEntry::from).collect();
    Manifest::build(ManifestInput { spec: "1.0.0", model: None, tensors, files })
}

#[test]
fn leaves_have_the_bytes_that_the_doc_says() {
    let sha256 = [7u8; 32];
    let mut bytes = Vec::new();
    for text in ["llmstd.tensor.v1", "a.weight", "F32"] {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    for number in [2u64, 2, 3] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(sha256);
    let expected: [u8; 32] = Sha256::digest(&bytes).into();
    assert_eq!(leaf("a.weight", "F32", &[2, 3], &sha256), expected);
}

#[test]
fn the_same_bytes_of_another_shape_or_dtype_have_another_leaf() {
    let sha256 = [7u8; 32];
    let leaves: BTreeSet<[u8; 32]> = [
        content_leaf("F32", &[2, 8], &sha256),
        content_leaf("F32", &[4, 4], &sha256),
        content_leaf("I32", &[4, 4], &sha256),
        content_leaf("F32", &[16], &sha256),
        leaf("", "F32", &[16], &sha256),
    ]
    .into();
    assert_eq!(leaves.len(), 5);
}

#[test]
fn digests_do_not_depend_on_files_or_order() {
    let (a, b) = (tensor("a", &[2], 1), tensor("b", &[3], 2));
    let one = build(vec![a.clone(), b.clone()], vec![file("model.safetensors", "x")]);
    let place = |name: &str| Some((name.into(), 80));
    let b = TensorFacts { place: place("y.safetensors"), ..b };
    let two = build(vec![b, a], vec![file("x.safetensors", "x"), file("y.safetensors", "y")]);
    assert_eq!(one.digests, two.digests);
}

#[test]
fn absent_aspects_are_null() {
    let digests = build(vec![tensor("a", &[2], 1)], Vec::new()).digests;
    let absent: Vec<&str> =
        digests.each().iter().filter(|(_, digest)| digest.is_none()).map(|(n, _)| *n).collect();
    assert_eq!(absent, ["tokenizer", "config", "interface", "template"]);
}

#[test]
fn a_template_has_one_digest_in_both_spellings() {
    let inside = file("tokenizer_config.json", r#"{"chat_template": "{{ x }}\n"}"#);
    let named = file(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "{{ x }}\n"}]}"#,
    );
    let apart = file("chat_template.jinja", "{{ x }}\n");
    let digest = |file| build(Vec::new(), vec![file]).digests.template;
    assert!(digest(apart.clone()).is_some());
    assert_eq!(digest(inside), digest(apart.clone()));
    assert_eq!(digest(named), digest(apart));
}

#[test]
fn only_what_decides_ids_counts_for_the_tokenizer() {
    let digest = |config| {
        let files = vec![file("vocab.txt", "a\nb\n"), file("tokenizer_config.json", config)];
        build(Vec::new(), files).digests.tokenizer
    };
    let plain = digest("{}");
    assert!(plain.is_some());
    assert_eq!(digest(r#"{"chat_template": "x", "model_max_length": 512}"#), plain);
    assert_ne!(digest(r#"{"do_lower_case": false}"#), plain);
}

#[test]
fn a_manifest_comes_back_from_its_text() {
    let manifest =
        build(vec![tensor("a", &[2, 2], 1)], vec![file("README.md", "x"), file("LICENSE", "y")]);
    let text = manifest.to_text();
    let back: Manifest = serde_json::from_str(&text).unwrap();
    assert_eq!(back, manifest);
    assert_eq!(back.to_text(), text);
    assert_eq!(back.contradictions(), []);
}

#[test]
fn contradictions_are_found_where_they_are() {
    let good = build(vec![tensor("a", &[2], 1)], Vec::new());
    let text = good.to_text();
    assert_eq!(text.matches(r#""name":"a""#).count(), 1);
    let bad: Manifest =
        serde_json::from_str(&text.replace(r#""name":"a""#, r#""name":"b""#)).unwrap();
    assert_eq!(bad.to_text(), text.replace(r#""name":"a""#, r#""name":"b""#));
    let places: Vec<String> = bad.contradictions().into_iter().map(|(place, ..)| place).collect();
    let expected = ["/tensors/0/leaf", "/digests/weights", "/digests/structure", "/digests/model"];
    assert_eq!(places, expected);
    let mut bad = good;
    bad.tensors[0].sha256 = "XY".into();
    assert_eq!(bad.contradictions()[0].0, "/tensors/0/sha256");
}

/// Reads a text as a file.
fn read(text: &str) -> Option<Manifest> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.json");
    std::fs::write(&path, text).unwrap();
    Manifest::read(&path).ok().flatten()
}

#[test]
fn entries_are_read_by_lines_as_the_json_that_they_are() {
    let tensors =
        (0..40_000u32).map(|n| tensor(&format!("layer.{n}"), &[2, u64::from(n)], n as u8));
    let manifest = build(tensors.collect(), vec![file("README.md", "x")]);
    let text = manifest.to_text();
    assert!(8 << 20 < text.len(), "more than one round of parts");
    assert_eq!(read(&text).as_ref(), Some(&manifest));
    // Text that has no line for each entry, and spaces where nobody writes them.
    assert_eq!(read(&text.replace(",\n    {", ", {")).as_ref(), Some(&manifest));
    assert_eq!(read(&text.replace(":[2,", " : [ 2, ")).as_ref(), Some(&manifest));
    assert_eq!(read(&text.replace('\n', "\r\n")).as_ref(), Some(&manifest));
}

#[test]
fn lines_that_are_no_json_together_are_no_manifest() {
    let manifest = build(vec![tensor("a", &[2], 1), tensor("b", &[3], 2)], Vec::new());
    let text = manifest.to_text();
    assert_eq!(read(&text).as_ref(), Some(&manifest));
    let (start, end) = (text.find("\n    {").unwrap(), text.find("\n  ]").unwrap());
    let entries = &text[start..end];
    for wrong in [
        entries.replace("},\n", "}\n"),
        format!("{entries},"),
        entries.replace("},\n", "},,\n"),
        entries.replace("},\n", "},\n\n    ,\n"),
        entries.replace(r#""len""#, r#""length""#),
        entries.replace(r#""len""#, r#""len":1,"len""#),
    ] {
        let text = format!("{}{wrong}{}", &text[..start], &text[end..]);
        assert_eq!(read(&text), None, "{wrong}");
    }
    // Lines of another list that look like the entries are none.
    let decoy = format!(
        "{{\n  \"tokenizer\": {{\"files\": {{}}, \"settings\": {{\n  \"tensors\": [{entries}\n  ]\n  }}}},{}",
        text.strip_prefix('{').unwrap()
    );
    let read = read(&decoy).expect("it is a manifest");
    let settings = read.tokenizer.as_ref().unwrap().settings["tensors"].as_array().unwrap();
    assert_eq!((read.tensors.len(), settings.len()), (2, 2));
    let own = format!("\"tensors\": [{entries}\n  ]");
    let last = decoy.rfind(&own).unwrap();
    let empty = format!("{}\"tensors\": []{}", &decoy[..last], &decoy[last + own.len()..]);
    assert_eq!(self::read(&empty).expect("it is a manifest").tensors, []);
}

#[test]
fn files_have_the_role_of_their_name() {
    for (path, role) in [
        ("model-00001-of-00002.safetensors", FileRole::Tensors),
        ("model.safetensors.index.json", FileRole::Tensors),
        ("model.json", FileRole::Config),
        ("source.json", FileRole::Source),
        ("tokenizer_config.json", FileRole::Tokenizer),
        ("chat_template.jinja", FileRole::Template),
        ("LICENSE.txt", FileRole::License),
        ("README.md", FileRole::Docs),
        ("modeling_x.py", FileRole::Code),
        ("notes", FileRole::Other),
    ] {
        assert_eq!(FileRole::of(path), role, "{path}");
    }
}
