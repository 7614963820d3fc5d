//! `llmstd diff` and `llmstd manifest`: one pair of packages for every rule, both ways round, with
//! the files at hand and from manifests alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::convert::{Failure, Request, Silent, convert};
use llmstd::diff::rules::{Class, RULES};
use llmstd::diff::{Diff, compare, deepen};
use llmstd::folder;
use llmstd::manifest::Manifest;
use llmstd::report::{Style, diff as report};
use llmstd::spec::Spec;
use llmstd::version::{Kind, Options, Version};
use serde_json::{Value as Json, json};

use crate::folders::copy;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hf").join(name).join("src")
}

fn package(spec: &Spec, from: &Path, to: &Path, max_shard_bytes: Option<u64>) {
    let request = Request { max_shard_bytes, ..Request::new(spec, to, "std") };
    if convert(folder::open(from).unwrap(), &request).is_err() {
        panic!("{} does not convert", from.display());
    }
}

fn open(spec: &Spec, path: &Path, rehash: bool) -> Version {
    let options = Options { rehash, ..Options::new(spec) };
    match Version::open(path, &options) {
        Ok(subject) => subject,
        Err(Failure::Error(err)) => panic!("{err}"),
        Err(Failure::Findings(findings)) => panic!("{findings:?}"),
    }
}

fn deep(spec: &Spec, old: &Version, new: &Version) -> Diff {
    let mut diff = compare(old, new, spec);
    deepen(&mut diff, old, new, spec, 2, &Silent).unwrap();
    diff
}

fn rules(diff: &Diff) -> BTreeSet<&'static str> {
    diff.changes.iter().map(|change| change.rule).collect()
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Json)) {
    let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
}

fn model(folder: &Path, change: impl FnOnce(&mut Json)) {
    edit_json(&folder.join("model.json"), change);
}

/// A tensor of a safetensors file.
#[derive(Clone)]
struct Raw {
    name: String,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Raw {
    fn of_f32(name: &str, shape: &[usize], value: f32) -> Raw {
        let n = shape.iter().product();
        let bytes = std::iter::repeat_n(value.to_le_bytes(), n).flatten().collect();
        Raw { name: name.to_owned(), dtype: safetensors::Dtype::F32, shape: shape.to_vec(), bytes }
    }
}

fn edit_tensors(folder: &Path, change: impl FnOnce(&mut Vec<Raw>)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<Raw> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| Raw {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    change(&mut tensors);
    write_tensors(&path, &tensors);
}

fn write_tensors(path: &Path, tensors: &[Raw]) {
    let views = tensors.iter().map(|raw| {
        let view =
            safetensors::tensor::TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes).unwrap();
        (raw.name.clone(), view)
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

const EMBED: &str = "embed.tokens.weight";
const Q: &str = "decoder.layers.0.attn.q_proj.weight";

fn find<'a>(tensors: &'a mut [Raw], name: &str) -> &'a mut Raw {
    tensors.iter_mut().find(|raw| raw.name == name).unwrap()
}

fn rows_reordered(raw: &mut Raw, order: impl Fn(usize) -> usize) {
    let row = raw.bytes.len() / raw.shape[0];
    let old = raw.bytes.clone();
    for to in 0..raw.shape[0] {
        let from = order(to);
        raw.bytes[to * row..(to + 1) * row].copy_from_slice(&old[from * row..(from + 1) * row]);
    }
}

/// What one edit of a package gives: the rules from the package to its edited copy, those of the
/// way back, and the edit.
type Case = (&'static str, &'static str, fn(&Path));

const CASES: &[Case] = &[
    ("D101", "D101", |p| model(p, |m| m["architecture"] = json!("mistral"))),
    ("D102", "D102", |p| model(p, |m| m["hyperparameters"]["rope_theta"] = json!(500000.0))),
    // Keys that shapes depend on are silent too, where no shape changed.
    ("D102", "D102", |p| model(p, |m| m["hyperparameters"]["num_heads"] = json!(3))),
    ("D103 D114", "D103 D114", |p| {
        model(p, |m| m["hyperparameters"]["vocab_size"] = json!(100));
        edit_tensors(p, |tensors| {
            let embed = find(tensors, EMBED);
            let row = embed.bytes.len() / embed.shape[0];
            embed.bytes.extend(vec![0; row]);
            embed.shape[0] += 1;
        });
    }),
    ("D104", "D105", |p| {
        model(p, |m| m["hyperparameters"]["rope_scaling.factor"] = json!(8.0));
    }),
    ("D106", "D107", |p| model(p, |m| m["hyperparameters"]["max_positions"] = json!(128))),
    ("D108", "D109", |p| model(p, |m| m["requires"] = json!(["example"]))),
    ("D110 D112", "D110 D111", |p| {
        model(p, |m| m["hyperparameters"]["norm_eps"] = json!(0.1));
        edit_tensors(p, |tensors| {
            tensors.push(Raw::of_f32("decoder.extra_norm.weight", &[24], 1.0))
        });
    }),
    ("D112", "D111", |p| {
        edit_tensors(p, |tensors| {
            tensors.push(Raw::of_f32("decoder.extra_norm.weight", &[24], 1.0))
        });
    }),
    ("D113", "D113", |p| {
        edit_tensors(p, |tensors| {
            find(tensors, Q).name = "decoder.layers.0.attn.query.weight".to_owned()
        });
    }),
    ("D114", "D114", |p| edit_tensors(p, |tensors| find(tensors, EMBED).shape.reverse())),
    ("D115", "D115", |p| model(p, |m| m["encodings"][EMBED] = json!({"kind": "example"}))),
    ("D116", "D116", |p| {
        edit_tensors(p, |tensors| find(tensors, EMBED).dtype = safetensors::Dtype::I32);
    }),
    ("D117", "D118", |p| {
        edit_tensors(p, |tensors| {
            let embed = find(tensors, EMBED);
            embed.dtype = safetensors::Dtype::BF16;
            embed.bytes =
                embed.bytes.as_chunks::<4>().0.iter().flat_map(|b| [b[2], b[3]]).collect();
        });
    }),
    ("D119", "D119", |p| edit_tensors(p, |tensors| find(tensors, EMBED).bytes[0] ^= 1)),
    ("D122", "D122", |p| {
        untie(p);
        edit_tensors(p, |tensors| find(tensors, "heads.lm.proj.weight").bytes[0] ^= 1);
    }),
    ("D123", "D123", untie),
    ("D124", "D111", |p| {
        edit_tensors(p, |tensors| {
            tensors.push(Raw::of_f32("heads.score.proj.weight", &[2, 24], 0.5))
        });
    }),
    ("D130", "D130", |p| model(p, |m| m["tokens"]["bos"] = json!(7))),
    ("D132", "D131", |p| model(p, |m| m["tokens"]["pad"] = json!(7))),
    ("D140", "D140", |p| {
        edit_json(&p.join("tokenizer.json"), |t| t["normalizer"] = json!({"type": "Lowercase"}));
    }),
    ("D141", "D142", |p| fs::remove_file(p.join("tokenizer.json")).unwrap()),
    ("D143", "D143", |p| {
        edit_json(&p.join("tokenizer_config.json"), |t| t["add_bos_token"] = json!(false));
    }),
    ("D144", "D144", |p| edit_json(&p.join("tokenizer.json"), |_| ())),
    ("D144", "D144", |p| edit_json(&p.join("tokenizer_config.json"), |_| ())),
    ("D145", "D146", |p| {
        edit_json(&p.join("tokenizer.json"), |t| {
            let mut token = t["added_tokens"][0].clone();
            (token["id"], token["content"]) = (json!(500), json!("<new>"));
            t["added_tokens"].as_array_mut().unwrap().push(token);
        });
    }),
    ("D146", "D146", |p| {
        edit_json(&p.join("tokenizer.json"), |t| {
            let vocab = t["model"]["vocab"].as_object_mut().unwrap();
            let names: Vec<String> = vocab.keys().rev().take(2).cloned().collect();
            let (a, b) = (vocab[&names[0]].clone(), vocab[&names[1]].clone());
            (vocab[&names[0]], vocab[&names[1]]) = (b, a);
        });
    }),
    ("D147", "D147", |p| {
        edit_json(&p.join("special_tokens_map.json"), |t| t["eos_token"] = json!("<s>"));
    }),
    ("D148", "D148", |p| {
        edit_json(&p.join("tokenizer_config.json"), |t| t["model_max_length"] = json!(65));
    }),
    ("D150", "D150", |p| fs::write(p.join("chat_template.jinja"), "{{ messages }}!").unwrap()),
    ("D151", "D152", |p| fs::remove_file(p.join("chat_template.jinja")).unwrap()),
    ("D161", "D160", |p| {
        model(p, |m| {
            m["tasks"]
                .as_array_mut()
                .unwrap()
                .push(json!({"id": "embedding", "inputs": [], "outputs": []}))
        });
    }),
    ("D161 D162", "D160 D162", |p| {
        model(p, |m| {
            m["tasks"]
                .as_array_mut()
                .unwrap()
                .insert(0, json!({"id": "embedding", "inputs": [], "outputs": []}))
        });
    }),
    // `input_ids` is wanted, the others are optional.
    ("D164", "D163", |p| {
        model(p, |m| drop(m["tasks"][0]["inputs"].as_array_mut().unwrap().remove(0)));
    }),
    ("D164", "D165", |p| {
        model(p, |m| drop(m["tasks"][0]["inputs"].as_array_mut().unwrap().pop()));
    }),
    ("D165", "D163", |p| model(p, |m| m["tasks"][0]["inputs"][0]["optional"] = json!(true))),
    ("D167", "D166", |p| {
        model(p, |m| {
            let port = json!({"name": "hidden", "dtype": "F32", "shape": ["batch"]});
            m["tasks"][0]["outputs"].as_array_mut().unwrap().push(port);
        });
    }),
    ("D168", "D168", |p| model(p, |m| m["tasks"][0]["outputs"][0]["dtype"] = json!("F16"))),
    ("D168", "D168", |p| {
        model(p, |m| m["tasks"][0]["inputs"].as_array_mut().unwrap().reverse());
    }),
    ("D169", "D169", |p| model(p, |m| m["tasks"][0]["labels"] = json!(["a", "b"]))),
    ("D170", "D170", |p| model(p, |m| m["tasks"][0]["pool"] = json!("last"))),
    ("D180", "D180", |p| fs::write(p.join("LICENSE"), "all rights").unwrap()),
    ("D181", "D181", |p| fs::write(p.join("README.md"), "a model").unwrap()),
    ("D182", "D182", |p| {
        edit_json(&p.join("generation_config.json"), |g| g["temperature"] = json!(0.1));
    }),
    ("D184", "D184", |p| fs::write(p.join("notes.txt"), "a note").unwrap()),
    ("D191", "D191", |p| model(p, |m| m["spec"] = json!("2.0.0"))),
    ("D192", "D192", |p| model(p, |m| m["spec"] = json!("1.1.0"))),
    ("D193", "D193", |p| model(p, |m| m["conformance"] = json!("schema"))),
];

/// Pairs whose difference only the weights can tell.
const DEEP_CASES: &[Case] = &[
    ("D119 D120", "D119", |p| {
        edit_tensors(p, |tensors| {
            find(tensors, EMBED).bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes())
        });
    }),
    // Six heads of four rotary rows each: from half-split to interleaved, and back.
    ("D119 D121", "D119 D121", |p| {
        edit_tensors(p, |tensors| {
            rows_reordered(find(tensors, Q), |to| to / 4 * 4 + [0, 2, 1, 3][to % 4])
        });
    }),
    ("D119 D121", "D119 D121", |p| {
        edit_tensors(p, |tensors| {
            let q = find(tensors, Q);
            let [rows, columns] = q.shape[..] else { panic!("two dimensions") };
            assert_eq!(rows, columns);
            let old = q.bytes.clone();
            for (to, bytes) in q.bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let from = to % columns * columns + to / columns;
                bytes.copy_from_slice(&old[from * 4..from * 4 + 4]);
            }
        });
    }),
    ("D119", "D119", |p| edit_tensors(p, |tensors| rows_reordered(find(tensors, Q), |to| 23 - to))),
];

/// Rules that pairs of other tests give.
const ELSEWHERE: &[&str] = &["D183", "D185", "D190"];

fn untie(folder: &Path) {
    model(folder, |m| {
        m["ties"] = json!([]);
        m["hyperparameters"]["tie_embeddings"] = json!(false);
    });
    edit_tensors(folder, |tensors| {
        let head = Raw { name: "heads.lm.proj.weight".to_owned(), ..find(tensors, EMBED).clone() };
        tensors.push(head);
    });
}

fn alone(subject: &Version) -> Version {
    Version::of_manifest("manifest.json", subject.manifest.clone())
}

#[test]
fn every_rule_has_a_pair_and_manifests_alone_give_the_same_verdict() {
    let spec = Spec::current();
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().join("base");
    package(&spec, &fixture("llama-tied"), &base, None);
    let old = open(&spec, &base, false);
    assert_eq!(rules(&compare(&old, &old, &spec)), BTreeSet::new());
    let schema = serde_json::to_value(schemars::schema_for!(Diff)).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();

    let mut wrong = Vec::new();
    let mut seen: BTreeSet<&str> = ELSEWHERE.iter().copied().collect();
    for (n, (there, back, edit)) in CASES.iter().chain(DEEP_CASES).enumerate() {
        let is_deep = CASES.len() <= n;
        let edited = temp.path().join(n.to_string());
        copy(&base, &edited);
        edit(&edited);
        fs::remove_file(edited.join("manifest.json")).unwrap();
        let new = open(&spec, &edited, false);
        for (from, to, expected) in [(&old, &new, there), (&new, &old, back)] {
            let diff = if is_deep { deep(&spec, from, to) } else { compare(from, to, &spec) };
            if rules(&diff) != words(expected) {
                let found: Vec<_> = diff.changes.iter().map(|c| (c.rule, &c.message)).collect();
                wrong.push(format!("case {n}, {expected} wanted: {found:#?}"));
            }
            seen.extend(words(expected));
            let json = serde_json::to_value(&diff).unwrap();
            assert!(schema.is_valid(&json), "case {n}: {json}");
            let text = report::text(&diff, Style { color: false, verbose: false });
            assert!(text.starts_with(diff.verdict.class.name()), "{text}");
            assert!(text.contains(diff.verdict.rule.unwrap()), "{text}");
            if is_deep {
                continue;
            }
            let without = compare(&alone(from), &alone(to), &spec);
            assert!(diff.verdict.class <= without.verdict.class, "case {n}");
            if !without.changes.iter().any(|change| change.unproven) {
                assert_eq!(rules(&without), rules(&diff), "case {n}");
                assert_eq!(without.verdict.class, diff.verdict.class, "case {n}");
            }
            assert!(diff.changes.iter().all(|change| !change.unproven), "case {n}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let all: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(seen, all);
}

#[test]
fn every_rule_has_a_page_and_every_page_a_rule() {
    let spec = Spec::current();
    let page = |id: &str, name: &str| spec.files().get(&format!("rules/{id}-{name}.md")).cloned();
    for rule in RULES {
        let page = page(rule.id, rule.name).unwrap_or_else(|| panic!("{} has no page", rule.id));
        assert!(page.starts_with(&format!("# {} {}\n", rule.id, rule.name)), "{}", rule.id);
        let names: Vec<&str> = rule.concerns.iter().map(|one| one.name()).collect();
        let concerns = match names.as_slice() {
            [] => "Concerns nobody's code.".to_owned(),
            names => format!("Concerns: {}.", names.join(", ")),
        };
        let line = format!("\nClass: {}. {concerns}\n", rule.class.name());
        assert!(page.contains(&line), "the page of {} does not say {line:?}", rule.id);
        for part in ["## Why it matters", "## What to do", "## Example"] {
            assert!(page.contains(part), "{}: {part}", rule.id);
        }
    }
    let pages = spec.files().keys().filter_map(|path| path.strip_prefix("rules/D"));
    let pages: BTreeSet<&str> = pages.filter_map(|rest| rest.split('-').next()).collect();
    let notes = ["001", "002", "003"];
    let known = RULES.iter().map(|rule| &rule.id[1..]).chain(notes).collect::<BTreeSet<&str>>();
    assert_eq!(pages, known);
    let ids: Vec<&str> = RULES.iter().map(|rule| rule.id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "the order of the rules decides the verdict");
}

#[test]
fn silent_changes_say_so() {
    let spec = Spec::current();
    let temp = tempfile::tempdir().unwrap();
    let (base, edited) = (temp.path().join("a"), temp.path().join("b"));
    package(&spec, &fixture("llama-tied"), &base, None);
    copy(&base, &edited);
    // The manifest is left as it was: what `model.json` says counts.
    model(&edited, |m| m["hyperparameters"]["norm_eps"] = json!(1e-5));
    let diff = compare(&open(&spec, &base, false), &open(&spec, &edited, false), &spec);
    assert_eq!(diff.verdict.class, Class::Breaking);
    let text = report::text(&diff, Style { color: false, verbose: false });
    let first = text.lines().next().unwrap();
    assert_eq!(
        first,
        "breaking: weights identical (29 of 29), by their manifests; bytes not read: --deep reads \
         them; norm_eps is 0.00001, it was 1e-6; loads silently, computes something else [D102]"
    );
}

#[test]
fn shards_are_no_difference_and_a_foreign_folder_is_its_package() {
    let spec = Spec::current();
    let temp = tempfile::tempdir().unwrap();
    for name in ["llama-tied", "gpt2-old-bin", "bert-seqcls"] {
        let (whole, parts) = (temp.path().join(name), temp.path().join(format!("{name}-parts")));
        package(&spec, &fixture(name), &whole, None);
        package(&spec, &whole, &parts, Some(10_000));
        let package = open(&spec, &whole, false);
        let diff = compare(&package, &open(&spec, &parts, false), &spec);
        assert_eq!(rules(&diff), words("D190"), "{name}");
        assert_eq!(diff.verdict.class, Class::Identical);

        let foreign = open(&spec, &fixture(name), false);
        assert_eq!(foreign.kind, Kind::Planned);
        assert_eq!(foreign.manifest.digests, package.manifest.digests, "{name}");
        let diff = deep(&spec, &foreign, &package);
        assert_eq!(rules(&diff), BTreeSet::new(), "{name}");

        let written = fs::read_to_string(whole.join("manifest.json")).unwrap();
        assert_eq!(open(&spec, &whole, true).manifest.to_text(), written, "{name}");
    }
}

#[test]
fn unknown_architectures_are_compared_by_their_own_names() {
    let spec = Spec::current();
    let temp = tempfile::tempdir().unwrap();
    let folder = |name: &str, config: &Json, tensors: &[Raw]| {
        let folder = temp.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        write_tensors(&folder.join("model.safetensors"), tensors);
        open(&spec, &folder, false)
    };
    // The biases are all zeros: which is which follows from the weights.
    let tensors = |prefix: &str, n: usize| -> Vec<Raw> {
        let layer = |i: usize| {
            let name = |end: &str| format!("{prefix}h.{i}.{end}");
            [Raw::of_f32(&name("w"), &[2, 2], i as f32 + 1.0), Raw::of_f32(&name("b"), &[2], 0.0)]
        };
        (0..n).flat_map(layer).collect()
    };
    let config = json!({"model_type": "nobody knows"});
    let old = folder("old", &config, &tensors("model.", 12));
    let new = folder("new", &config, &tensors("", 12));
    assert_eq!(old.kind, Kind::Plain);
    assert_eq!(old.findings.iter().map(|finding| finding.rule).collect::<Vec<_>>(), ["D003"]);
    let diff = compare(&old, &new, &spec);
    assert_eq!(rules(&diff), words("D113"));
    for change in &diff.changes {
        let expected = change.subject.strip_prefix("model.").unwrap();
        assert_eq!(change.new, Some(json!(expected)));
    }
    let text = report::text(&diff, Style { color: false, verbose: false });
    assert!(text.contains("24 tensors renamed: `model.*` → `*` ("), "{text}");

    // One layer is gone, so zeros cannot be paired by their order.
    let fewer = folder("fewer", &config, &tensors("", 11));
    let diff = compare(&old, &fewer, &spec);
    assert_eq!(rules(&diff), words("D111 D113"));
    let gone = diff.changes.iter().filter(|change| change.rule == "D111");
    let gone: BTreeSet<&str> = gone.map(|change| change.subject.as_str()).collect();
    assert_eq!(gone, words("model.h.11.w model.h.11.b"));

    let other = folder("other", &json!({"model_type": "somebody knows"}), &tensors("", 12));
    assert_eq!(rules(&compare(&new, &other, &spec)), words("D183"));
}

/// Packages whose manifests were believed are opened again where their weights are to be read.
#[test]
fn weights_of_believed_packages_can_be_read_too() {
    let spec = Spec::current();
    let temp = tempfile::tempdir().unwrap();
    let (base, edited) = (temp.path().join("a"), temp.path().join("b"));
    package(&spec, &fixture("llama-tied"), &base, None);
    copy(&base, &edited);
    edit_tensors(&edited, |tensors| rows_reordered(find(tensors, Q), |to| 23 - to));
    let manifest = open(&spec, &edited, true).manifest;
    fs::write(edited.join("manifest.json"), manifest.to_text()).unwrap();
    let sides = |rehash| [open(&spec, &base, rehash), open(&spec, &edited, rehash)];
    let [believed, read] = [sides(false), sides(true)];
    assert_eq!(believed[1].n_believed, 29);
    let [one, other] = [&believed, &read].map(|[old, new]| deep(&spec, old, new).changes);
    assert_eq!(json!(one), json!(other));
    assert!(one.iter().any(|change| change.values.is_some()));
}

#[test]
fn folders_without_weights_and_stale_manifests() {
    let spec = Spec::current();
    let temp = tempfile::tempdir().unwrap();
    let (base, light) = (temp.path().join("base"), temp.path().join("light"));
    package(&spec, &fixture("llama-tied"), &base, None);
    copy(&base, &light);
    fs::remove_file(light.join("model.safetensors")).unwrap();
    let old = open(&spec, &base, false);
    let new = open(&spec, &light, false);
    assert_eq!((new.kind, new.findings[0].rule), (Kind::Manifest, "D001"));
    assert_eq!(rules(&compare(&old, &new, &spec)), BTreeSet::new());
    let mut diff = compare(&old, &new, &spec);
    assert!(deepen(&mut diff, &old, &new, &spec, 1, &Silent).is_err());

    // A manifest that someone edited does not stand for anything.
    edit_json(&light.join("manifest.json"), |m| m["tensors"][0]["shape"] = json!([1]));
    let options = Options::new(&spec);
    assert!(Version::open(&light, &options).is_err());

    let stale = temp.path().join("stale");
    copy(&base, &stale);
    edit_tensors(&stale, |tensors| {
        tensors.push(Raw::of_f32("decoder.extra_norm.weight", &[24], 1.0));
    });
    let new = open(&spec, &stale, false);
    assert_eq!(new.findings[0].rule, "D002");
    assert_eq!(rules(&compare(&old, &new, &spec)), words("D112"));

    // Bytes that changed in place are believed from the manifest, and seen by `--deep`.
    let touched = temp.path().join("touched");
    copy(&base, &touched);
    let path = touched.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(rules(&compare(&old, &open(&spec, &touched, false), &spec)), BTreeSet::new());
    let (old, new) = (open(&spec, &base, true), open(&spec, &touched, true));
    let diff = deep(&spec, &old, &new);
    assert_eq!(rules(&diff), words("D119"));
    let values = diff.changes[0].values.as_ref().unwrap();
    assert_eq!(values.changed, 1);
}

#[test]
fn deep_says_how_far_values_are_apart() {
    let spec = Spec::current();
    let temp = tempfile::tempdir().unwrap();
    let folder = |name: &str, tensors: &[Raw]| {
        let folder = temp.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        write_tensors(&folder.join("model.safetensors"), tensors);
        open(&spec, &folder, false)
    };
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let raw = |name: &str, shape: &[usize], values: &[f32]| Raw {
        bytes: floats(values),
        ..Raw::of_f32(name, shape, 0.0)
    };
    let wide: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let narrow = Raw {
        dtype: safetensors::Dtype::BF16,
        bytes: wide
            .iter()
            .flat_map(|value| [value.to_le_bytes()[2], value.to_le_bytes()[3]])
            .collect(),
        ..raw("cast", &[6], &wide)
    };
    let old = folder(
        "old",
        &[
            narrow,
            raw("grown", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
            raw("turned", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            raw("tuned", &[4], &[1.0, -2.0, 0.0, 4.0]),
        ],
    );
    let new = folder(
        "new",
        &[
            raw("cast", &[6], &wide),
            raw("grown", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            raw("turned", &[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
            raw("tuned", &[4], &[1.0, -2.5, 1.0, 4.0]),
        ],
    );
    let diff = deep(&spec, &old, &new);
    let of = |name: &str| diff.changes.iter().find(|change| change.subject == name).unwrap();
    assert_eq!(of("cast").rule, "D118");
    assert_eq!(of("cast").values.as_ref().unwrap().changed, 0);
    assert_eq!(of("grown").layout.as_deref(), Some("with 1 rows appended, the other 2 unchanged"));
    assert_eq!(of("turned").layout.as_deref(), Some("transposed"));
    let values = of("tuned").values.as_ref().unwrap();
    assert_eq!((values.elements, values.changed), (4, 2));
    assert_eq!(values.max_difference, Some(1.0));
    assert_eq!(values.max_relative_difference, Some(0.25));
}

/// Renames, changes and equal tensors, many of each: the work grows with their number only.
#[test]
fn fifty_thousand_tensors_take_no_time() {
    use llmstd::checkpoint::DType;
    use llmstd::manifest::{ManifestInput, TensorEntry, TensorFacts};

    let spec = Spec::current();
    let manifest = |prefix: &str, n: u64| {
        let tensors = (0..n).map(|i| {
            let mut sha256 = [0; 32];
            // A third is equal under its name, a third renamed, a third all alike and renamed.
            sha256[..8].copy_from_slice(&(if i % 3 == 2 { 0 } else { i + 1 }).to_le_bytes());
            let prefix = if i % 3 == 0 { "" } else { prefix };
            let name = format!("{prefix}layers.{i}.weight");
            TensorEntry::from(TensorFacts {
                name: name.into(),
                dtype: DType::F32,
                shape: vec![2],
                len: 8,
                sha256,
                place: None,
            })
        });
        let input =
            ManifestInput { spec: "1.0.0", tensors: tensors.collect(), ..Default::default() };
        Version::of_manifest("m", Manifest::build(input))
    };
    let time = |n: u64| {
        let (old, new) = (manifest("old.", n), manifest("new.", n));
        let start = std::time::Instant::now();
        let diff = compare(&old, &new, &spec);
        let text = report::text(&diff, Style { color: false, verbose: false });
        assert!(text.contains("tensors renamed: `old*` → `new*`"), "{text}");
        assert_eq!(diff.changes.len() as u64, n / 3 * 2);
        start.elapsed()
    };
    let (short, long) = (time(6_000), time(60_000));
    assert!(long.as_secs_f64() < 5.0, "{long:?}");
    assert!(long < short * 60 + std::time::Duration::from_millis(200), "{short:?} and {long:?}");
}

#[test]
fn exit_codes_are_pinned() {
    let spec = Spec::current();
    let temp = tempfile::tempdir().unwrap();
    let (base, tuned, broken) =
        (temp.path().join("base"), temp.path().join("tuned"), temp.path().join("broken"));
    package(&spec, &fixture("llama-tied"), &base, None);
    for folder in [&tuned, &broken] {
        copy(&base, folder);
        fs::remove_file(folder.join("manifest.json")).unwrap();
    }
    edit_tensors(&tuned, |tensors| find(tensors, EMBED).bytes[0] ^= 1);
    model(&broken, |m| m["hyperparameters"]["rope_theta"] = json!(500000.0));
    let run = |args: &[&std::ffi::OsStr]| {
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_llmstd")).args(args).output();
        let run = run.unwrap();
        (run.status.code().unwrap(), String::from_utf8(run.stdout).unwrap())
    };
    for (new, fail_on, code) in [
        (&base, "any", 0),
        (&tuned, "breaking", 0),
        (&tuned, "compatible", 0),
        (&tuned, "weights", 1),
        (&tuned, "any", 1),
        (&broken, "breaking", 1),
        (&temp.path().join("nothing"), "any", 2),
    ] {
        let args = [
            "diff".as_ref(),
            base.as_os_str(),
            new.as_os_str(),
            "--fail-on".as_ref(),
            fail_on.as_ref(),
        ];
        assert_eq!(run(&args).0, code, "{} {fail_on}", new.display());
    }
    // A manifest that the command wrote stands for its package.
    let file = temp.path().join("old.json");
    let made = run(&["manifest".as_ref(), base.as_os_str(), "-o".as_ref(), file.as_os_str()]);
    assert_eq!(made.0, 0);
    assert_eq!(made.1.lines().filter(|line| line.len() == 14 + 64).count(), 7, "{}", made.1);
    assert_eq!(fs::read(&file).unwrap(), fs::read(base.join("manifest.json")).unwrap());
    let args = [
        "diff".as_ref(),
        file.as_os_str(),
        tuned.as_os_str(),
        "--format".as_ref(),
        "json".as_ref(),
    ];
    let (code, json) = run(&args);
    let json: Json = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["verdict"]["class"]), (0, &json!("weights")));
    assert_eq!(json["same"]["structure"], json!(true));
}
