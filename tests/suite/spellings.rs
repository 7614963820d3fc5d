//! One model has one spelling that counts: whatever a program writes for the same `model.json`, either the
//! digests are the same, or a rule speaks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use llmstd::author::conformance::seal;
use llmstd::base::diagnostic::Level;
use llmstd::convert::{self, Request};
use llmstd::folder;
use llmstd::rule::Selection;
use llmstd::spec::Spec;
use llmstd::validate::{Options, validate};
use serde_json::{Map, Value as Json, json};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A text of a value: members in any order, white space, and numbers in any spelling.
/// Integers only where `integers` says so: they have one spelling.
fn text(json: &Json, integers: bool, random: &mut Random) -> String {
    let space = [" ", "", "\n", "\t "][random.below(4)];
    match json {
        Json::Object(members) => {
            let mut members: Vec<(&String, &Json)> = members.iter().collect();
            for at in (1..members.len()).rev() {
                members.swap(at, random.below(at + 1));
            }
            let member = |(key, value): (&String, &Json)| {
                format!("{space}{}:{space}{}", json!(key), text(value, integers, random))
            };
            format!("{{{}}}", members.into_iter().map(member).collect::<Vec<_>>().join(","))
        }
        Json::Array(items) => {
            let items: Vec<String> =
                items.iter().map(|item| text(item, integers, random)).collect();
            format!("[{}{space}]", items.join(","))
        }
        Json::Number(number) if integers || number.is_f64() => {
            let x = number.as_f64().unwrap();
            match random.below(4) {
                0 if x.fract() == 0.0 && x.abs() < 1e9 => format!("{x:.1}"),
                1 => format!("{x:e}"),
                2 if x.fract() == 0.0 && x.abs() < 1e9 => format!("{x:.0}"),
                _ => number.to_string(),
            }
        }
        other => other.to_string(),
    }
}

/// The same model in the words of another writer; its name, for the report.
fn respell(model: &mut Json, random: &mut Random) -> Option<&'static str> {
    let members = model.as_object_mut().unwrap();
    let hparams = |members: &mut Map<String, Json>| {
        members["hyperparameters"].as_object_mut().unwrap().clone()
    };
    match random.below(12) {
        0 => {
            members["tokens"]["eos"] = members["tokens"]["eos"][0].clone();
            Some("eos as a number")
        }
        1 => {
            members["tokens"]["mask"] = Json::Null;
            Some("an absent token as null")
        }
        2 => {
            let empty: Vec<String> = members
                .iter()
                .filter(|(_, value)| **value == json!([]) || **value == json!({}))
                .map(|(key, _)| key.clone())
                .collect();
            let key = empty.get(random.below(empty.len().max(1)))?;
            members.remove(key);
            Some("an empty member left out")
        }
        3 => {
            members["tasks"][0]["dense"] = json!([]);
            Some("an empty list of maps")
        }
        4 => {
            members["tasks"][0]["normalize"] = json!(false);
            Some("normalize of a task that has none")
        }
        5 => {
            let inputs = members["tasks"][0]["inputs"].as_array_mut().unwrap();
            inputs[0]["optional"] = json!(false);
            Some("optional as false")
        }
        6 => {
            for key in ["pool", "labels", "problem", "activation"] {
                members["tasks"][0].as_object_mut().unwrap().entry(key).or_insert(Json::Null);
            }
            Some("absent words of a task as null")
        }
        7 => {
            // A key of all stacks, for each of them.
            let values = hparams(members);
            let keys = ["num_layers", "num_heads", "activation", "norm_eps", "causal"];
            let key = keys[random.below(keys.len())];
            let value = values.get(key)?.clone();
            let hparams = members["hyperparameters"].as_object_mut().unwrap();
            for stack in ["encoder", "decoder"] {
                hparams.insert(format!("{stack}.{key}"), value.clone());
            }
            if random.one_in(2) {
                hparams.remove(key);
            }
            Some("a key of stacks apart, where it is one")
        }
        8 => {
            let ties = members["ties"].as_array_mut().unwrap();
            ties.reverse();
            None // Digests take them sorted.
        }
        _ => None,
    }
}

fn errors(spec: &Spec, package: &Path) -> BTreeSet<&'static str> {
    let selection = Selection::default();
    let options = Options::new(&selection);
    let report = validate(package, spec, &options).unwrap();
    let errors = report.findings.iter().filter(|finding| finding.level == Level::Error);
    errors.map(|finding| finding.rule).collect()
}

fn digests(package: &Path) -> Json {
    let text = fs::read(package.join("manifest.json")).unwrap();
    serde_json::from_slice::<Json>(&text).unwrap()["digests"].take()
}

#[test]
fn a_model_has_one_digest_or_a_finding() {
    let spec = Spec::current();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for source in
        ["fixtures/hf/llama-tied/src", "fixtures/families/bart", "fixtures/hf/bert-seqcls/src"]
    {
        let scratch = tempfile::tempdir().unwrap();
        let package = scratch.path().join("package");
        let opened = folder::open(&root.join(source)).unwrap();
        convert::convert(opened, &Request::new(&spec, &package, "std")).unwrap();
        assert_eq!(errors(&spec, &package), BTreeSet::new());
        let (good, wanted) = (fs::read(package.join("model.json")).unwrap(), digests(&package));
        let (mut same, mut refused) = (0, 0);
        for seed in 0..120 {
            let mut random = Random(seed);
            let mut model: Json = serde_json::from_slice(&good).unwrap();
            let other = respell(&mut model, &mut random);
            let integers = random.one_in(3);
            let text = text(&model, integers, &mut random);
            fs::write(package.join("model.json"), &text).unwrap();
            // What does not parse has no manifest.
            let sealed = seal(&package).is_ok();
            let found = errors(&spec, &package);
            match other {
                Some(what) if model != serde_json::from_slice::<Json>(&good).unwrap() => {
                    assert!(!found.is_empty(), "{source}, seed {seed}: {what}: {text}");
                    refused += 1;
                }
                _ if integers && !found.is_empty() => refused += 1,
                _ => {
                    assert!(sealed && found.is_empty(), "{source}, seed {seed}: {found:?}: {text}");
                    assert_eq!(digests(&package), wanted, "{source}, seed {seed}");
                    same += 1;
                }
            }
            fs::write(package.join("model.json"), &good).unwrap();
        }
        assert!(20 < same && 20 < refused, "{source}: {same} the same, {refused} refused");
    }
}
