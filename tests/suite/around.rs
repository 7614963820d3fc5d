//! What stands around tensors: programs, chat templates among the keys of a file, and the level that is
//! left where there is no plan.

use std::fs;
use std::path::{Path, PathBuf};

use llmstd::spec::Spec;
use llmstd::validate::{Options, Report, validate};
use llmstd::{Conformance, Diagnostic, Request, Selection};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo/v1")
}

/// A copy of the tiny Llama.
fn copy() -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(demo()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    (scratch, folder)
}

fn run(path: &Path) -> Report {
    let selection = Selection::default();
    validate(path, &Spec::current(), &Options::new(&selection)).unwrap()
}

fn of<'r>(report: &'r Report, rule: &str) -> Vec<&'r Diagnostic> {
    report.findings.iter().filter(|finding| finding.rule == rule).collect()
}

fn edit(folder: &Path, name: &str, key: &str, value: Json) {
    let path = folder.join(name);
    let mut json: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn programs_that_auto_map_does_not_name_are_told() {
    let (_scratch, folder) = copy();
    edit(&folder, "config.json", "auto_map", json!({ "AutoModel": "modeling_x.XModel" }));
    fs::write(folder.join("modeling_x.py"), "import torch\nfrom .ops import norm\n").unwrap();
    let report = run(&folder);
    assert_eq!((of(&report, "V405").len(), of(&report, "V406").len()), (1, 0));
    fs::write(folder.join("ops.py"), "from .deep import x\n").unwrap();
    fs::write(folder.join("deep.py"), "").unwrap();
    fs::write(folder.join("setup.sh"), "").unwrap();
    let report = run(&folder);
    assert_eq!(of(&report, "V405").len(), 1);
    let [found] = of(&report, "V406")[..] else { panic!("{:#?}", report.findings) };
    let wanted = "programs lie beside the weights that `auto_map` does not name: deep.py (imported by \
                  ops.py), ops.py (imported by modeling_x.py), setup.sh";
    assert_eq!(found.message, wanted);
    assert!(found.help.as_deref().unwrap().starts_with("what is imported runs"), "{found:?}");
}

/// Writes a checkpoint of another format.
fn convert(from: &Path, to: &Path, format: &str) {
    let spec = Spec::current();
    let request = Request::new(&spec, to, format);
    llmstd::convert(llmstd::open(from).unwrap(), &request).unwrap();
}

#[test]
fn chat_templates_among_the_keys_of_a_file_are_looked_at() {
    let (scratch, folder) = copy();
    let gguf = scratch.path().join("good.gguf");
    convert(&folder, &gguf, "gguf");
    let good = run(&gguf);
    let looked = good.checks.iter().find(|check| check.rule == "V442").unwrap();
    assert_eq!(looked.outcome, llmstd::Outcome::Pass, "{:?}", looked.why);
    assert!(good.valid, "{:#?}", good.findings);

    let template = "{{ messages }}\n{{ ''.__class__ }}";
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
    let gguf = scratch.path().join("bad.gguf");
    convert(&folder, &gguf, "gguf");
    let report = run(&gguf);
    let [found] = of(&report, "V442")[..] else { panic!("{:#?}", report.findings) };
    assert_eq!(found.message, "the chat template of bad.gguf reaches for `__class__` on line 2");
    let at = (found.file.as_deref(), found.key.as_deref());
    assert_eq!(at, (Some("bad.gguf"), Some("tokenizer.chat_template")));
    assert!(!report.valid);
    assert_eq!(report.reached, None);

    // The package of it keeps the keys in a file of their own.
    let package = scratch.path().join("package");
    convert(&gguf, &package, "std");
    let report = run(&package);
    let [found] = of(&report, "V442")[..] else { panic!("{:#?}", report.findings) };
    assert_eq!(found.file.as_deref(), Some("tokenizer.gguf"));
    assert_eq!(report.reached, None);
}

#[test]
fn what_stands_around_a_folder_without_a_plan_counts_for_its_level() {
    let (_scratch, folder) = copy();
    edit(&folder, "config.json", "model_type", json!("no-such-model"));
    edit(&folder, "config.json", "architectures", json!(["NoSuchModel"]));
    let report = run(&folder);
    assert_eq!((report.valid, report.reached), (false, Some(Conformance::Container)));
    // A rule of a higher level leaves that.
    fs::write(folder.join("chat_template.jinja"), "{{ messages | no_such }}").unwrap();
    assert_eq!(run(&folder).reached, Some(Conformance::Container));
    fs::write(folder.join("chat_template.jinja"), "{{ ''.__class__ }}").unwrap();
    let report = run(&folder);
    assert_eq!(of(&report, "V442").len(), 1, "{:#?}", report.findings);
    assert_eq!(report.reached, None);
}
