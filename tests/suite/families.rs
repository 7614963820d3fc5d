//! Every family of `fixtures/families`: into the standard and back, bit for bit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::convert::{Failure, Report, Request, convert, read_model};
use llmstd::folder;
use llmstd::package::Model;
use llmstd::spec::Spec;
use safetensors::SafeTensors;

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/families");
    let only = std::env::var("FAMILY").ok();
    let mut folders: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .filter(|path| only.as_ref().is_none_or(|only| path.ends_with(only)))
        .collect();
    folders.sort();
    folders
}

fn run(spec: &Spec, from: &Path, to: &Path, format: &str) -> Result<Report, String> {
    let opened = folder::open(from).map_err(|err| err.to_string())?;
    let request = Request { verify: true, check_outputs: true, ..Request::new(spec, to, format) };
    convert(opened, &request).map_err(|failure| match failure {
        Failure::Error(err) => err.to_string(),
        Failure::Findings(findings) => {
            let messages = findings.iter().map(|finding| {
                format!(
                    "{} {} {:?} {:?}",
                    finding.rule, finding.message, finding.expected, finding.found
                )
            });
            messages.take(8).collect::<Vec<_>>().join("\n    ")
        }
    })
}

type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

fn tensors(file: &Path) -> Tensors {
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .iter()
        .map(|(name, view)| {
            let dtype = format!("{:?}", view.dtype());
            (name.to_owned(), (dtype, view.shape().to_vec(), view.data().to_vec()))
        })
        .collect()
}

fn model(package: &Path) -> Model {
    read_model(&mut folder::open(package).unwrap()).unwrap()
}

fn there_and_back(spec: &Spec, fixture: &Path) -> Result<(), String> {
    let scratch = tempfile::tempdir().unwrap();
    let package = scratch.path().join("std");
    let back = scratch.path().join("hf");
    let report = run(spec, fixture, &package, "std")?;
    // Files of the fixture that are no part of a model, and names that it spells otherwise.
    let odd = report.findings.iter().filter(|finding| !["P041", "R005"].contains(&finding.rule));
    let odd: Vec<_> = odd.map(|finding| finding.message.clone()).collect();
    if !odd.is_empty() {
        return Err(format!("findings: {}", odd.join("; ")));
    }
    run(spec, &package, &back, "hf").map_err(|why| format!("back: {why}"))?;
    let (theirs, ours) =
        (tensors(&fixture.join("model.safetensors")), tensors(&back.join("model.safetensors")));
    if theirs != ours {
        let differ = theirs.iter().find(|(name, tensor)| ours.get(*name) != Some(tensor));
        return Err(format!("{:?} does not come back", differ.map(|(name, _)| name)));
    }
    // Without what is remembered of the source, the package alone says the same.
    fs::remove_file(package.join("source.json")).unwrap();
    let alone = scratch.path().join("alone");
    run(spec, &package, &alone, "hf").map_err(|why| format!("without source.json: {why}"))?;
    let again = scratch.path().join("again");
    run(spec, &alone, &again, "std").map_err(|why| format!("again: {why}"))?;
    same_model(&model(&package), &model(&again)).map_err(|why| format!("again: {why}"))?;

    // What the other writer says of the same model is the same model.
    let other = fixture.join("config-v4.json");
    if other.exists() {
        let folder = scratch.path().join("v4");
        fs::create_dir(&folder).unwrap();
        fs::copy(&other, folder.join("config.json")).unwrap();
        fs::copy(fixture.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
        let v4 = scratch.path().join("v4-std");
        run(spec, &folder, &v4, "std").map_err(|why| format!("config-v4.json: {why}"))?;
        let (mut ours, mut theirs) = (model(&package), model(&v4));
        // transformers 5 fills in the class's count where 4 says nothing; the files have no such layer.
        for model in [&mut ours, &mut theirs] {
            model.hyperparameters.remove("mtp_layers");
        }
        same_model(&ours, &theirs).map_err(|why| format!("config-v4.json: {why}"))?;
    }
    Ok(())
}

fn same_model(left: &Model, right: &Model) -> Result<(), String> {
    let keys = left.hyperparameters.keys().chain(right.hyperparameters.keys());
    for key in keys {
        let (left, right) = (left.hyperparameters.get(key), right.hyperparameters.get(key));
        if left != right {
            return Err(format!("`{key}` is {left:?} and {right:?}"));
        }
    }
    if left.tokens != right.tokens {
        return Err(format!("the tokens are {:?} and {:?}", left.tokens, right.tokens));
    }
    if left.tasks != right.tasks {
        return Err("the tasks differ".to_owned());
    }
    Ok(())
}

#[test]
fn every_family_goes_there_and_back() {
    // From the folder: the same files as the embedded ones, and no build between a change and a run.
    let spec = Spec::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/1.1")).unwrap();
    let mut failed = Vec::new();
    let fixtures = fixtures();
    for fixture in &fixtures {
        if let Err(why) = there_and_back(&spec, fixture) {
            failed.push(format!("{}: {why}", fixture.file_name().unwrap().display()));
        }
    }
    assert!(!fixtures.is_empty());
    assert!(
        failed.is_empty(),
        "{} of {} fail\n{}",
        failed.len(),
        fixtures.len(),
        failed.join("\n")
    );
}

/// A fixture with other tensors: some are taken away, some are added.
fn changed(fixture: &str, keep: impl Fn(&str) -> bool, added: &[&str]) -> tempfile::TempDir {
    use safetensors::tensor::{Dtype, TensorView};
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/families").join(fixture);
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, TensorView<'_>)> =
        theirs.tensors().into_iter().filter(|(name, _)| keep(name)).collect();
    let numbers: Vec<u8> = [0.5f32, -1.25, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    for name in added {
        let view = TensorView::new(Dtype::F32, vec![3, 1], &numbers).unwrap();
        tensors.push(((*name).to_owned(), view));
    }
    let folder = tempfile::tempdir().unwrap();
    fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let bytes = safetensors::serialize(tensors, None).unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

/// A model type that is added takes nothing from another: a class alone still says which model it is,
/// and so does an architecture that is asked for.
#[test]
fn a_class_or_an_architecture_chooses_one_mapping() {
    let spec = Spec::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/1.1")).unwrap();
    let cases = [
        ("families/gpt2-classifier", "gpt2", true),
        ("families/deepseek_v3", "deepseek_v3", true),
        ("hf/llama-untied/src", "llama", false), // Several families use its class.
    ];
    for (fixture, arch, by_class) in cases {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
        let text = fs::read_to_string(from.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        for of_another in [false, true] {
            if !of_another && !by_class {
                continue;
            }
            let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            config["model_type"] =
                if of_another { "of_another".into() } else { serde_json::Value::Null };
            fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let tensors = "model.safetensors";
            fs::copy(from.join(tensors), folder.path().join(tensors)).unwrap();
            let package = out.path().join("std");
            let asked_for = of_another.then_some(arch);
            let request = Request { arch: asked_for, ..Request::new(&spec, &package, "std") };
            if let Err(failure) = convert(folder::open(folder.path()).unwrap(), &request) {
                let why = match failure {
                    Failure::Error(err) => err.to_string(),
                    Failure::Findings(found) => found.iter().map(|found| &*found.message).collect(),
                };
                panic!("{fixture}: {why}");
            }
            assert_eq!(model(&package).architecture.as_deref(), Some(arch), "{fixture}");
        }
    }
}

/// What stands beside a whole model is kept and told, and comes back; what is known to stand there is
/// kept without a word; what stands in a layer is refused.
#[test]
fn strays_beside_a_whole_model_are_kept() {
    let spec = &Spec::current();
    for (stray, told) in [("my_head.0.weight", true), ("v_head.summary.weight", false)] {
        let source = changed("bert", |_| true, &[stray]);
        let scratch = tempfile::tempdir().unwrap();
        let (package, back) = (scratch.path().join("std"), scratch.path().join("hf"));
        let report = run(spec, source.path(), &package, "std").unwrap();
        let of_it: Vec<_> =
            report.findings.iter().filter(|found| found.message.contains(stray)).collect();
        assert_eq!(
            of_it.iter().map(|found| found.rule).collect::<Vec<_>>(),
            vec!["P006"; usize::from(told)]
        );
        run(spec, &package, &back, "hf").unwrap();
        let file = "model.safetensors";
        assert_eq!(tensors(&source.path().join(file)), tensors(&back.join(file)));
    }
    let source = changed("bert", |_| true, &["bert.encoder.layer.1.adapter.weight"]);
    let scratch = tempfile::tempdir().unwrap();
    let why = run(spec, source.path(), &scratch.path().join("std"), "std").unwrap_err();
    assert!(why.contains("P006") && why.contains("layer.1.adapter.weight"), "{why}");
    // Not whole without what is missing: both are told.
    let source = changed("bert", |name| !name.ends_with("word_embeddings.weight"), &["emb.weight"]);
    let why = run(spec, source.path(), &scratch.path().join("std"), "std").unwrap_err();
    assert!(why.contains("P006") && why.contains("P008"), "{why}");
}

/// A class may promise a head that a file lacks: the model is what is there.
/// DeBERTa V3 as published has a head of its training, and a table of positions that its config says is not added.
#[test]
fn what_deberta_v3_has_besides_is_left_out_and_comes_back() {
    let spec = Spec::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/1.1")).unwrap();
    let besides = [
        "mask_predictions.LayerNorm.weight",
        "mask_predictions.LayerNorm.bias",
        "mask_predictions.classifier.weight",
        "mask_predictions.classifier.bias",
        "mask_predictions.dense.weight",
        "mask_predictions.dense.bias",
        "deberta.embeddings.position_embeddings.weight",
    ];
    let folder = changed("deberta-v2", |_| true, &besides);
    let scratch = tempfile::tempdir().unwrap();
    let [package, back] = ["std", "back"].map(|name| scratch.path().join(name));
    run(&spec, folder.path(), &package, "std").unwrap();
    run(&spec, &package, &back, "hf").unwrap();
    let file = "model.safetensors";
    assert!(tensors(&folder.path().join(file)) == tensors(&back.join(file)));
    let without = scratch.path().join("without");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/families/deberta-v2");
    run(&spec, &fixture, &without, "std").unwrap();
    same_model(&model(&package), &model(&without)).unwrap();
}

/// What the tool knows that transformers does not open, or opens as something else, is said where it is written.
#[test]
fn what_transformers_makes_nothing_of_without_the_source_is_told() {
    let spec = Spec::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/1.1")).unwrap();
    for (name, wanted) in [
        ("longcat_flash", "the experts that give back what they get"),
        ("minimax_m3_vl_text", "for the whole model alone"),
        ("minimax_m3_vl", "for the whole model alone"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let [package, back, alone] = ["std", "back", "alone"].map(|name| scratch.path().join(name));
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/families").join(name);
        run(&spec, &fixture, &package, "std").unwrap();
        let told = |report: Report| {
            report
                .findings
                .iter()
                .any(|found| found.rule == "P042" && found.message.contains(wanted))
        };
        assert!(!told(run(&spec, &package, &back, "hf").unwrap()), "{name}");
        fs::remove_file(package.join("source.json")).unwrap();
        assert!(told(run(&spec, &package, &alone, "hf").unwrap()), "{name}");
    }
}

#[test]
fn a_promised_head_may_be_missing() {
    let spec = &Spec::current();
    for (fixture, head) in [("mpnet", "lm_head."), ("roberta", "lm_head."), ("bert", "classifier.")]
    {
        let source = changed(fixture, |name| !name.starts_with(head), &[]);
        let scratch = tempfile::tempdir().unwrap();
        let (package, back) = (scratch.path().join("std"), scratch.path().join("hf"));
        let report = run(spec, source.path(), &package, "std").unwrap();
        let rules: Vec<&str> = report.findings.iter().map(|found| found.rule).collect();
        assert!(rules.contains(&"P018"), "{fixture}: {rules:?}");
        assert!(model(&package).tasks.is_empty(), "{fixture}");
        run(spec, &package, &back, "hf").unwrap();
        let file = "model.safetensors";
        assert_eq!(tensors(&source.path().join(file)), tensors(&back.join(file)), "{fixture}");
    }
}

/// Of several classes the one with a task counts, and a tied head needs no tensor.
#[test]
fn a_base_model_with_a_tied_head_serves_it() {
    let spec = &Spec::current();
    let source =
        changed("bart", |name| name != "final_logits_bias" && name != "lm_head.weight", &[]);
    let path = source.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace(
        "\"BartForConditionalGeneration\"",
        "\"BartModel\", \"BartForConditionalGeneration\"",
    );
    fs::write(&path, text).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let package = scratch.path().join("std");
    run(spec, source.path(), &package, "std").unwrap();
    let tasks: Vec<String> = model(&package).tasks.into_iter().map(|task| task.id).collect();
    assert_eq!(tasks, ["seq2seq-lm"]);
}

/// A config, and those of the models in it.
fn with_inner(config: &serde_json::Value, found: &mut Vec<serde_json::Value>) {
    let Some(entries) = config.as_object() else { return };
    found.push(config.clone());
    entries.values().for_each(|inner| with_inner(inner, found));
}

/// A mapping without a checkpoint that transformers made is a claim, not a support.
#[test]
fn every_mapping_has_a_fixture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut configs = Vec::new();
    for folder in ["families", "hf"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let case = entry.unwrap().path();
            let config = ["config.json", "src/config.json"].map(|name| case.join(name));
            let text = config.iter().find_map(|path| fs::read_to_string(path).ok());
            let config = text.map(|text| serde_json::from_str(&text).unwrap());
            config.iter().for_each(|config| with_inner(config, &mut configs));
        }
    }
    assert!(60 <= configs.len());
    let spec = Spec::current();
    let none = spec.maps.values().filter(|map| map.format == "hf").filter(|map| {
        !configs.iter().any(|config| {
            map.matches.iter().all(|(key, words)| {
                let found = key.split('.').try_fold(config, |inner, key| inner.get(key));
                let stated = found.map(|word| match word {
                    serde_json::Value::String(word) => word.clone(),
                    other => other.to_string(),
                });
                stated.is_some_and(|stated| words.contains(&stated))
            })
        })
    });
    let none: Vec<&str> = none.map(|map| map.name.as_str()).collect();
    assert!(none.is_empty(), "no fixture of {}", none.join(", "));
}
