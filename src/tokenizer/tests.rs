//! What fixtures of whole tokenizers do not show: files that are wrong, and choices between files. One
//! file, as all of them are changes of one small tokenizer.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value as Json, json};

use super::{Keys, Named, from_gguf, to_gguf};
use crate::base::diagnostic::Diagnostic;
use crate::metadata::{Array, Metadata, Value};
use crate::spec::Spec;

static SPEC: LazyLock<Spec> = LazyLock::new(Spec::current);

/// Converts files by name with `rows` rows.
fn convert_named(
    files: &[(&str, &[u8])],
    rows: u64,
    named: &Named,
) -> Result<Keys, Vec<Diagnostic>> {
    let files: BTreeMap<&str, &[u8]> = files.iter().copied().collect();
    let read = |name: &str| Ok(files.get(name).map(|bytes| bytes.to_vec()));
    to_gguf(&read, rows, &BTreeMap::new(), named, &SPEC.pretokenizers)
}

fn convert(files: &[(&str, &[u8])], rows: u64) -> Result<Keys, Vec<Diagnostic>> {
    convert_named(files, rows, &Named::new())
}

/// What a conversion of one file finds, as one line.
#[track_caller]
fn refused(files: &[(&str, &[u8])], rows: u64, expected: &str) {
    let findings = convert(files, rows).expect_err("it is refused");
    let text: Vec<String> = findings
        .iter()
        .map(|finding| {
            let part = |name: &str, value: &Option<String>| {
                value.as_ref().map_or(String::new(), |value| format!(" {name}={value}"))
            };
            format!(
                "{} {}{}{}{}{}{}",
                finding.rule,
                finding.message,
                part("file", &finding.file),
                part("key", &finding.key),
                finding.bytes.map_or(String::new(), |bytes| format!(" bytes={bytes:?}")),
                part("expected", &finding.expected),
                part("found", &finding.found),
            )
        })
        .collect();
    assert_eq!(text.join("\n"), expected);
}

fn bytes_json(vocab: Json, merges: Json, added: Json) -> Vec<u8> {
    let words = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
    let model = json!({"type": "BPE", "vocab": vocab, "merges": merges});
    json!({"added_tokens": added, "pre_tokenizer": words, "model": model}).to_string().into_bytes()
}

fn value(keys: &Keys, key: &str) -> Json {
    keys.metadata.get(key).map_or(Json::Null, |value| value.to_json())
}

#[test]
fn broken_files_are_told_of_with_their_place() {
    refused(
        &[],
        4,
        "T001 there is no vocabulary beside the tensors expected=tokenizer.json, a SentencePiece model, vocab.json with merges.txt, or vocab.txt found=none of them",
    );
    refused(
        &[("tokenizer.json", b"{\"model\": ")],
        4,
        "T001 JSON: EOF while parsing a value file=tokenizer.json bytes=[9, 10]",
    );
    refused(
        &[("tokenizer.json", b"{}"), ("config.json", b"[1]")],
        4,
        "T001 the file is an object file=config.json expected={…} found=[1]",
    );
    refused(
        &[("tokenizer.json", b"{}")],
        4,
        "T002 no program that reads GGUF has a tokenizer of this kind file=tokenizer.json key=/model/type expected=BPE, Unigram or WordPiece found=a kind that is not said",
    );
    refused(
        &[("tokenizer.json", b"[]")],
        4,
        "T002 no program that reads GGUF has a tokenizer of this kind file=tokenizer.json key=/model/type expected=BPE, Unigram or WordPiece found=a kind that is not said",
    );
    refused(
        &[("vocab.txt", b"a\n\xff")],
        4,
        "T001 the file is UTF-8, and this is none file=vocab.txt bytes=[2, 3]",
    );
    refused(
        &[("vocab.txt", b"a\nb\na\n")],
        4,
        "T001 two lines have the token \"a\" file=vocab.txt expected=one line found=lines 1 and 3",
    );
    refused(
        &[("tokenizer.model", &[0x0a, 9, 1])],
        4,
        "T001 field 1 of model takes 9 bytes, 1 are left file=tokenizer.model bytes=[2, 3]",
    );
    refused(
        &[("sentencepiece.bpe.model", &[])],
        4,
        "T002 the pieces of sentencepiece.bpe.model have other ids, each class its own file=config.json key=/model_type expected=a class of pretokenizers.toml found=none",
    );
    refused(
        &[("vocab.txt", b"a\n")],
        u64::MAX,
        "T002 an embedding of so many rows belongs to no vocabulary expected=at most 16777216 found=18446744073709551615",
    );
}

#[test]
fn ids_that_contradict_each_other_are_refused() {
    let tokenizer = |vocab, merges, added| bytes_json(vocab, merges, added);
    let twice = tokenizer(json!({"a": 0, "b": 0}), json!([]), json!([]));
    refused(
        &[("tokenizer.json", &twice)],
        4,
        "T001 the id 0 stands for two tokens file=tokenizer.json key=/model/vocab/b expected=\"a\" found=\"b\"",
    );
    let negative = tokenizer(json!({"a": -1}), json!([]), json!([]));
    refused(
        &[("tokenizer.json", &negative)],
        4,
        "T001 the id of a token is a number file=tokenizer.json key=/model/vocab/a expected=0 or more found=-1",
    );
    let added = tokenizer(json!({"a": 0}), json!([]), json!([{"id": 0, "content": "<s>"}]));
    refused(
        &[("tokenizer.json", &added)],
        4,
        "T001 the id 0 stands for two tokens file=tokenizer.json key=/added_tokens/0 expected=\"a\" found=\"<s>\"",
    );
    let no_id = tokenizer(json!({"a": 0}), json!([]), json!([{"content": "<s>"}]));
    refused(
        &[("tokenizer.json", &no_id)],
        4,
        "T001 an added token has an id and a content file=tokenizer.json key=/added_tokens/0 expected={id, content, …} found={\"content\":\"<s>\"}",
    );
    // A row without a token has a name that is taken.
    let taken = tokenizer(json!({"[PAD1]": 0}), json!([]), json!([]));
    refused(
        &[("tokenizer.json", &taken)],
        2,
        "T001 two ids stand for the token \"[PAD1]\" file=tokenizer.json expected=one id found=0 and 1",
    );
}

#[test]
fn merges_join_tokens_to_tokens() {
    let vocab = json!({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "ĠĠ": 4});
    let tokenizer = |merges| bytes_json(vocab.clone(), merges, json!([]));
    let keys = convert(&[("tokenizer.json", &tokenizer(json!(["a b", ["Ġ", "Ġ"]])))], 5).unwrap();
    assert_eq!(value(&keys, "tokenizer.ggml.merges"), json!({"array": {"string": ["a b", "Ġ Ġ"]}}));
    for (merge, found) in
        [(json!("b a"), "\"ba\""), (json!("a c"), "\"c\""), (json!(["", "d"]), "\"\"")]
    {
        let expected = format!(
            "T001 a merge joins tokens to a token file=tokenizer.json key=/model/merges/0 expected=a token found={found}"
        );
        refused(&[("tokenizer.json", &tokenizer(json!([merge])))], 5, &expected);
    }
    for merge in [json!("a"), json!("a b a"), json!(["a"]), json!(3)] {
        let expected = format!(
            "T001 a merge is two parts file=tokenizer.json key=/model/merges/0 expected=\"a b\" or [\"a\", \"b\"] found={merge}"
        );
        refused(&[("tokenizer.json", &tokenizer(json!([merge])))], 5, &expected);
    }
    let pair = |merges: &[u8]| {
        let vocab = vocab.to_string();
        let config = br#"{"tokenizer_class": "GPT2TokenizerFast"}"#;
        convert(
            &[
                ("vocab.json", vocab.as_bytes()),
                ("merges.txt", merges),
                ("tokenizer_config.json", config),
            ],
            5,
        )
    };
    assert!(pair(b"#version: 0.2\na b\n").is_ok());
    let findings = pair(b"#version: 0.2\na b\nb a\n").unwrap_err();
    assert_eq!(findings[0].bytes, Some([18, 21]));
}

#[test]
fn a_token_without_a_row_is_left_out_and_told_of() {
    let vocab = json!({"a": 0, "b": 1, "ab": 2, "aab": 4});
    let added = json!([{"id": 5, "content": "[PAD]", "special": true}]);
    let tokenizer = bytes_json(vocab, json!(["a b", "a ab"]), added);
    let keys = convert(&[("tokenizer.json", &tokenizer)], 4).unwrap();
    let tokens = json!({"array": {"string": ["a", "b", "ab", "[PAD3]"]}});
    assert_eq!(value(&keys, "tokenizer.ggml.tokens"), tokens);
    // Nothing merges what is not there.
    assert_eq!(value(&keys, "tokenizer.ggml.merges"), json!({"array": {"string": ["a b"]}}));
    let [finding] = keys.findings.as_slice() else { panic!("{:#?}", keys.findings) };
    assert_eq!(finding.rule, "T003");
    assert_eq!(
        finding.message,
        "2 tokens, \"aab\" the first, have no row in the embedding and are left out"
    );
}

#[test]
fn what_is_special_is_what_its_own_entry_says() {
    let vocab = json!({"a": 0});
    let added = json!([
        {"id": 1, "content": "\u{2581}\u{2581}", "special": false},
        {"id": 2, "content": "<tool>", "special": false},
        {"id": 3, "content": "<end>", "special": true}
    ]);
    let tokenizer = bytes_json(vocab, json!([]), added);
    let kinds = |settings: Json| {
        let settings = settings.to_string().into_bytes();
        let files: [(&str, &[u8]); 2] =
            [("tokenizer.json", &tokenizer), ("tokenizer_config.json", &settings)];
        value(&convert(&files, 4).unwrap(), "tokenizer.ggml.token_type")
    };
    let listed = json!(["\u{2581}\u{2581}", "<tool>", "<end>"]);
    let plain = json!({"array": {"i32": [1, 4, 4, 3]}});
    assert_eq!(kinds(json!({"extra_special_tokens": listed})), plain);
    let all = json!({"array": {"i32": [1, 3, 3, 3]}});
    assert_eq!(kinds(json!({"additional_special_tokens": listed})), all);
}

#[test]
fn a_space_in_a_merge_is_spelled_as_bytes_are() {
    let vocab = json!({" ": 0, "a": 1, " a": 2});
    let keys =
        convert(&[("tokenizer.json", &bytes_json(vocab, json!([[" ", "a"]]), json!([])))], 3);
    let merges = value(&keys.unwrap(), "tokenizer.ggml.merges");
    assert_eq!(merges, json!({"array": {"string": ["Ġ a"]}}));
}

#[test]
fn rows_without_tokens_are_filled_and_marked() {
    let vocab = json!({"a": 0, "b": 3});
    let keys = convert(&[("tokenizer.json", &bytes_json(vocab, json!([]), json!([])))], 5).unwrap();
    let tokens = json!({"array": {"string": ["a", "[PAD1]", "[PAD2]", "b", "[PAD4]"]}});
    assert_eq!(value(&keys, "tokenizer.ggml.tokens"), tokens);
    assert_eq!(
        value(&keys, "tokenizer.ggml.token_type"),
        json!({"array": {"i32": [1, 5, 5, 1, 5]}})
    );
}

#[test]
fn a_cut_into_words_that_is_not_known_is_refused() {
    let mut json: Json =
        serde_json::from_slice(&bytes_json(json!({"a": 0}), json!([]), json!([]))).unwrap();
    let bytes = json!({"type": "ByteLevel", "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"});
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
    let file = json.to_string().into_bytes();
    let files: &[(&str, &[u8])] = &[("tokenizer.json", &file)];
    let findings = convert(files, 1).unwrap_err();
    assert_eq!((findings[0].rule, findings[0].key.as_deref()), ("T002", Some("/pre_tokenizer")));
}

#[test]
fn a_mapping_names_tokens_that_only_the_family_knows_of() {
    let added = json!([{"id": 1, "content": "\u{2581}<EOT>", "special": true}]);
    let file = bytes_json(json!({"a": 0}), json!([]), added);
    let named = |eot: &str| Named::from([("eot".to_owned(), eot.to_owned())]);
    for (eot, expected) in [("\u{2581}<EOT>", json!({"u32": 1})), ("<EOT>", Json::Null)] {
        let keys = convert_named(&[("tokenizer.json", &file)], 2, &named(eot)).unwrap();
        assert_eq!(value(&keys, "tokenizer.ggml.eot_token_id"), expected);
    }
}

#[test]
fn steps_that_programs_leave_out_are_warned_of() {
    let mut json: Json =
        serde_json::from_slice(&bytes_json(json!({"a": 0}), json!([]), json!([]))).unwrap();
    json["pre_tokenizer"]["add_prefix_space"] = json!(true);
    json["normalizer"] =
        json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]});
    json["model"]["ignore_merges"] = json!(true);
    let file = json.to_string().into_bytes();
    let keys = convert(&[("tokenizer.json", &file)], 1).unwrap();
    let found: Vec<_> =
        keys.findings.iter().map(|finding| (finding.rule, finding.key.clone())).collect();
    let key = |key: &str| ("T003", Some(key.to_owned()));
    assert_eq!(found, [key("/normalizer"), key("/pre_tokenizer"), key("/pre_tokenizer")]);
}

#[test]
fn pieces_keep_what_they_are() {
    // <unk>, <s>, a user's own with a space, a byte, a piece that is not used.
    let piece = |text: &str, kind: u8| {
        let mut bytes = vec![0x0a, text.len() as u8 + 4, 0x0a, text.len() as u8];
        bytes.extend(text.bytes().chain([0x18, kind]));
        bytes
    };
    let pieces = [("<unk>", 2), ("<s>", 3), ("\u{2581}x", 4), ("<0x0A>", 6), ("y", 5)];
    let model: Vec<u8> = pieces.iter().flat_map(|(text, kind)| piece(text, *kind)).collect();
    let keys = convert(&[("tokenizer.model", &model)], 6).unwrap();
    assert_eq!(value(&keys, "tokenizer.ggml.model"), json!({"string": "t5"}));
    assert_eq!(
        value(&keys, "tokenizer.ggml.token_type"),
        json!({"array": {"i32": [2, 3, 4, 6, 5, 5]}})
    );
    let tokens = json!({"array": {"string": ["<unk>", "<s>", " x", "<0x0A>", "y", "[PAD5]"]}});
    assert_eq!(value(&keys, "tokenizer.ggml.tokens"), tokens);
    assert_eq!(value(&keys, "tokenizer.ggml.bos_token_id"), json!({"u32": 1}));
    // Its id of ends is that of the user's own: no token of ends.
    assert_eq!(value(&keys, "tokenizer.ggml.eos_token_id"), Json::Null);
    let fewer = convert(&[("tokenizer.model", &model)], 3).unwrap();
    assert_eq!(fewer.findings[0].rule, "T003");
    // Of settings without added tokens, as transformers 5 writes them, tokenizer.json has them.
    let json = json!({"added_tokens": [{"id": 5, "content": "<end>", "special": true}]});
    let json = json.to_string().into_bytes();
    let with = |settings: &[u8]| {
        let files: [(&str, &[u8]); 3] = [
            ("tokenizer.model", &model),
            ("tokenizer.json", &json),
            ("tokenizer_config.json", settings),
        ];
        let keys = convert(&files, 6).unwrap();
        value(&keys, "tokenizer.ggml.tokens")["array"]["string"][5].clone()
    };
    assert_eq!(with(b"{}"), "<end>");
    assert_eq!(with(br#"{"added_tokens_decoder": {"5": {"content": "<own>"}}}"#), "<own>");
    // Merges, by `model_type`: spaces that the normalizer takes away stay.
    let merges: Vec<u8> = model.iter().copied().chain([0x12, 2, 0x18, 2]).collect();
    let keys = convert(&[("tokenizer.model", &merges)], 6).unwrap();
    assert_eq!(value(&keys, "tokenizer.ggml.model"), json!({"string": "llama"}));
    assert_eq!(keys.findings[0].key.as_deref(), Some("normalizer_spec.remove_extra_whitespaces"));
}

/// Keys of a vocabulary of bytes, and what is changed of them.
fn gguf(changes: &[(&str, Value)]) -> Metadata {
    let texts =
        |list: &[&str]| Value::Array(Array::String(Box::new(list.iter().copied().collect())));
    let mut keys = Metadata::default();
    keys.set("tokenizer.ggml.model", "gpt2".into());
    keys.set("tokenizer.ggml.pre", "llama-bpe".into());
    keys.set("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "<s>", "[PAD4]"]));
    keys.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1, 1, 1, 3, 5])));
    keys.set("tokenizer.ggml.merges", texts(&["a b"]));
    keys.set("tokenizer.ggml.bos_token_id", Value::U32(3));
    for (key, value) in changes {
        keys.set(&format!("tokenizer.ggml.{key}"), value.clone());
    }
    keys
}

#[test]
fn keys_become_files_or_a_reason_why_not() {
    let texts =
        |list: &[&str]| Value::Array(Array::String(Box::new(list.iter().copied().collect())));
    let files = from_gguf(&gguf(&[]), &SPEC.pretokenizers).unwrap().unwrap();
    let json: Json = serde_json::from_str(&files.files[0].1).unwrap();
    // A row for the shape of the embedding only is no token; programs put the first one there.
    assert_eq!(json["model"]["vocab"], json!({"a": 0, "b": 1, "ab": 2, "<s>": 3}));
    assert_eq!(json["model"]["ignore_merges"], json!(true));
    assert_eq!(json["added_tokens"][0]["id"], json!(3));
    let template = &json["post_processor"]["processors"][1]["single"];
    assert_eq!(template[0], json!({"SpecialToken": {"id": "<s>", "type_id": 0}}));
    assert_eq!(from_gguf(&Metadata::default(), &SPEC.pretokenizers), Ok(None));
    assert_eq!(from_gguf(&gguf(&[("model", "none".into())]), &SPEC.pretokenizers), Ok(None));

    let check = |changes: &[(&str, Value)], expected: &str| {
        let found = from_gguf(&gguf(changes), &SPEC.pretokenizers).expect_err(expected);
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let text = format!(
            "{} {}: {}, {} not {}",
            found.rule,
            part(&found.key).trim_start_matches("tokenizer.ggml."),
            found.message,
            part(&found.expected),
            part(&found.found)
        );
        assert_eq!(text, expected);
    };
    check(
        &[("pre", "default".into())],
        "T002 pre: no regular expression is known for how this id cuts texts into words, an id of \
         pretokenizers.toml not default",
    );
    check(
        &[("model", "rwkv".into())],
        "T002 model: tokenizer.json has no tokenizer of this kind, gpt2, llama, t5, bert not rwkv",
    );
    check(&[("tokens", Value::U32(1))], "T001 tokens: these are texts, [string] not u32");
    check(
        &[("token_type", Value::Array(Array::I32(vec![1])))],
        "T001 token_type: every token has one, 5 of them not 1",
    );
    check(
        &[("tokens", texts(&["a", "b", "ab", "a", "c"]))],
        "T001 tokens: two ids stand for the token \"a\", one id not 0 and 3",
    );
    check(
        &[("merges", texts(&["a b", "b c"]))],
        "T001 merges: merge 1 joins tokens to a token, a token not \"c\"",
    );
    check(&[("merges", texts(&["ab"]))], "T001 merges: merge 0 is two parts, a b not \"ab\"");
    let pieces = |rest: &[(&'static str, Value)]| -> Vec<(&'static str, Value)> {
        let mut changes = vec![("model", Value::from("t5"))];
        changes.extend(rest.iter().cloned());
        changes
    };
    check(
        &pieces(&[]),
        "T001 scores: pieces have scores, by which texts are split, [f32] not none",
    );
    let scores = |last: f32| ("scores", Value::Array(Array::F32(vec![0.0, 0.0, 0.0, 0.0, last])));
    check(
        &pieces(&[scores(f32::NAN)]),
        "T001 scores: the score of token 4 is a number, a number not NaN",
    );
    check(
        &pieces(&[
            scores(0.0),
            ("precompiled_charsmap", Value::Array(Array::U8(vec![8, 0, 0, 0, 1]))),
        ]),
        "T001 precompiled_charsmap: the rules begin with the length of their trie, a multiple of 4 \
         below 1 not 8",
    );
    check(
        &[("model", "bert".into())],
        "T001 unknown_token_id: words that are none of the vocabulary have a token, an id not none",
    );
    // Of every model, keys of any kind are no panic.
    for model in ["gpt2", "llama", "t5", "bert"] {
        for key in ["tokens", "token_type", "scores", "merges", "bos_token_id", "add_bos_token"] {
            let others = [
                Value::U64(u64::MAX),
                Value::I32(-1),
                Value::F32(f32::NAN),
                "".into(),
                texts(&[]),
                texts(&["", "\u{2581}", "\u{2581}\u{2581}", "é", "[PAD4]"]),
                Value::Array(Array::I32(vec![9; 5])),
                Value::Array(Array::F32(vec![-1e30; 5])),
            ];
            for other in others {
                let changes = [("model", model.into()), (key, other)];
                let _ = from_gguf(&gguf(&changes), &SPEC.pretokenizers);
            }
        }
    }
}

#[test]
fn what_is_cut_or_changed_anywhere_is_never_a_panic() {
    let file = bytes_json(
        json!({"a": 0, "b": 1, "ab": 2}),
        json!(["a b"]),
        json!([{"id": 3, "content": "<s>", "special": true}]),
    );
    for len in 0..file.len() {
        let _ = convert(&[("tokenizer.json", &file[..len])], 4);
    }
    // Every value in turn as something else.
    let text = String::from_utf8(file).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    let mut pointers = vec![String::new()];
    let mut index = 0;
    while let Some(pointer) = pointers.get(index).cloned() {
        index += 1;
        match json.pointer(&pointer) {
            Some(Json::Object(object)) => {
                pointers.extend(object.keys().map(|key| format!("{pointer}/{key}")));
            }
            Some(Json::Array(list)) => {
                pointers.extend((0..list.len()).map(|item| format!("{pointer}/{item}")));
            }
            _ => {}
        }
    }
    assert!(10 < pointers.len());
    for pointer in pointers {
        for other in
            [Json::Null, json!(-1), json!(1e300), json!("x"), json!([]), json!({}), json!([{}])]
        {
            let mut changed = json.clone();
            *changed.pointer_mut(&pointer).unwrap() = other;
            let changed = changed.to_string();
            for name in ["tokenizer.json", "tokenizer_config.json", "vocab.json"] {
                let _ = convert(&[(name, changed.as_bytes()), ("merges.txt", b"a b")], 4);
            }
        }
    }
}

#[test]
fn one_id_ends_a_generation_and_the_others_have_keys_of_their_own() {
    let vocab = json!({"a": 0, "<s>": 1, "</s>": 2, "<|eot_id|>": 3, "<stop>": 4, "<halt>": 5});
    let added = json!([
        {"id": 1, "content": "<s>", "special": true}, {"id": 2, "content": "</s>", "special": true},
        {"id": 3, "content": "<|eot_id|>", "special": true}, {"id": 4, "content": "<stop>"},
        {"id": 5, "content": "<halt>"},
    ]);
    let tokenizer = bytes_json(vocab, json!([]), added);
    let files = |config: &'static [u8], settings: &'static [u8]| {
        let files = [
            ("tokenizer.json", tokenizer.as_slice()),
            ("config.json", config),
            ("tokenizer_config.json", settings),
        ];
        convert(&files, 6).unwrap()
    };
    let id = |keys: &Keys, role: &str| value(keys, &format!("tokenizer.ggml.{role}_token_id"));
    // The tokenizer's own counts; what readers know by its text needs no key.
    let keys = files(
        br#"{"eos_token_id": [2, 3, 4, 5, 90], "pad_token_id": -1}"#,
        br#"{"eos_token": "<|eot_id|>"}"#,
    );
    assert_eq!(id(&keys, "eos"), json!({"u32": 3}));
    assert_eq!(id(&keys, "eot"), json!({"u32": 2}));
    assert_eq!(id(&keys, "eom"), json!({"u32": 4}));
    assert_eq!(id(&keys, "padding"), Json::Null);
    // Readers stop at control tokens.
    assert_eq!(
        value(&keys, "tokenizer.ggml.token_type"),
        json!({"array": {"i32": [1, 3, 3, 3, 3, 3]}})
    );
    let told: Vec<&str> = keys.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert!(told.iter().any(|text| text.contains("no key left for \"<halt>\"")), "{told:?}");
    assert!(told.iter().any(|text| text.contains("the id of eos has no row")), "{told:?}");
    // Without a name the first of the list counts.
    let keys = files(br#"{"eos_token_id": [3, 2]}"#, b"{}");
    assert_eq!((id(&keys, "eos"), id(&keys, "eot")), (json!({"u32": 3}), json!({"u32": 2})));
    // Another one than the config's is told.
    let keys = files(br#"{"eos_token_id": 2}"#, br#"{"eos_token": "<|eot_id|>"}"#);
    assert_eq!(id(&keys, "eos"), json!({"u32": 3}));
    assert!(keys.findings[0].message.contains("another eos_token_id"), "{:?}", keys.findings);
}

#[test]
fn what_readers_know_for_longer_is_written_where_the_ids_are_the_same() {
    let recent = SPEC.pretokenizers.list.iter().find(|entry| {
        let same = |other: &&crate::spec::pretokenizers::Pretokenizer| {
            !other.recent && other.splits == entry.splits
        };
        entry.recent && SPEC.pretokenizers.list.iter().any(|other| same(&other))
    });
    let recent = recent.expect("one has an older twin");
    let steps = super::pre::to_json(&recent.splits[0]);
    let pre = |merges: Json| {
        let vocab = json!({"a": 0, "b": 1, "ab": 2});
        let model = json!({"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": true});
        let json = json!({"pre_tokenizer": steps, "model": model}).to_string().into_bytes();
        let keys = convert(&[("tokenizer.json", &json)], 3).unwrap();
        (value(&keys, "tokenizer.ggml.pre"), keys.findings)
    };
    let (id, findings) = pre(json!(["a b"]));
    assert_ne!(id, json!({"string": recent.ids[0]}));
    assert!(findings.iter().any(|finding| finding.message.contains("known for longer")));
    // No merge leads to `ab`: an older id would split it.
    assert_eq!(pre(json!([])).0, json!({"string": recent.ids[0]}));
}
