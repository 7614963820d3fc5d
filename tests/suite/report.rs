//! Every form of a report, held to its published schema or read by a standard reader.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use llmstd::base::diagnostic::Diagnostic;
use llmstd::report::{Context, FORMATS, Style, format};
use llmstd::rule::Selection;
use llmstd::spec::Spec;
use llmstd::validate::{Input, InputResult, Options, Validation, validate};
use serde_json::Value as Json;

fn llmstd(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llmstd")).args(args).current_dir(folder).output().unwrap()
}

fn stdout(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with a good package, one with faults, and a later version of the good one.
fn models() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/demo");
    for (source, name) in [("v1", "good"), ("v1", "bad"), ("v2", "later")] {
        let source = demo.join(source);
        let args = ["convert", source.to_str().unwrap(), name, "-q"];
        assert!(llmstd(scratch.path(), &args).status.success());
    }
    let model = scratch.path().join("bad/model.json");
    let text = fs::read_to_string(&model).unwrap();
    fs::write(&model, text.replace("\"embed_dim\": 24", "\"embed_dim\": 12")).unwrap();
    scratch
}

fn schema(name: &str) -> jsonschema::Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/schemas").join(name);
    let schema: Json = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

#[track_caller]
fn keeps(validator: &jsonschema::Validator, text: &str) -> Json {
    let json: Json = serde_json::from_str(text).unwrap();
    let problems: Vec<String> = validator
        .iter_errors(&json)
        .map(|problem| format!("{}: {problem}", problem.instance_path()))
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    json
}

/// The elements of an XML text, with their attributes; panics where it is not well-formed.
fn elements(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut found, mut depth) = (Vec::new(), 0);
    loop {
        let event = reader.read_event().unwrap();
        match &event {
            Event::Start(start) | Event::Empty(start) => {
                let name = String::from_utf8(start.name().as_ref().to_vec()).unwrap();
                let attributes = start.attributes().map(|one| {
                    let one = one.unwrap();
                    let key = String::from_utf8(one.key.as_ref().to_vec()).unwrap();
                    (key, one.unescape_value().unwrap().into_owned())
                });
                found.push((name, attributes.collect()));
                depth += i32::from(matches!(event, Event::Start(_)));
            }
            Event::End(_) => depth -= 1,
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
    found
}

/// Each form is one file of the module and one line of the list.
#[test]
fn the_list_has_every_form() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report");
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("static FORMAT: Format") {
            files.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    let listed: BTreeSet<String> = FORMATS.iter().map(|format| format.id.to_owned()).collect();
    assert_eq!(files, listed);
    assert_eq!(listed.len(), FORMATS.len());
}

#[test]
fn sarif_keeps_its_schema_and_points_to_lines() {
    let models = models();
    let validator = schema("sarif-2.1.0-rtm.5.json");
    let args = ["validate", "good", "bad", "nothere", "--format", "sarif"];
    let output = llmstd(models.path(), &args);
    assert_eq!(output.status.code(), Some(2));
    let log = keeps(&validator, &stdout(output));
    let run = &log["runs"][0];
    assert_eq!(run["invocations"][0]["executionSuccessful"], false);
    let results = run["results"].as_array().unwrap();
    let manifest = fs::read_to_string(models.path().join("bad/manifest.json")).unwrap();
    let mut rules = Vec::new();
    for result in results {
        let rule = result["ruleId"].as_str().unwrap();
        rules.push(rule);
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], rule);
        let place = &result["locations"][0]["physicalLocation"];
        if rule == "V205" {
            assert_eq!(place["artifactLocation"]["uri"], "bad/manifest.json");
            let line = usize::try_from(place["region"]["startLine"].as_u64().unwrap()).unwrap();
            let line = manifest.lines().nth(line - 1).unwrap();
            assert!(line.contains("\"name\":\"embed.tokens.weight\""), "{line}");
        }
    }
    assert_eq!(rules, ["V118", "V205"], "{results:#?}");

    let args = ["diff", "good", "later", "--format", "sarif"];
    let log = keeps(&validator, &stdout(llmstd(models.path(), &args)));
    let results = log["runs"][0]["results"].as_array().unwrap();
    let levels: Vec<(&str, &str)> = results
        .iter()
        .map(|one| (one["ruleId"].as_str().unwrap(), one["level"].as_str().unwrap()))
        .collect();
    assert_eq!(levels, [("D102", "error"), ("D119", "warning")]);
    let place = &results[0]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "later/model.json");
    let line = usize::try_from(place["region"]["startLine"].as_u64().unwrap()).unwrap();
    let model = fs::read_to_string(models.path().join("later/model.json")).unwrap();
    assert!(model.lines().nth(line - 1).unwrap().contains("\"rope_theta\""));
}

#[test]
fn junit_has_a_case_for_each_rule() {
    let models = models();
    let args = ["validate", "good", "bad", "--format", "junit"];
    let text = stdout(llmstd(models.path(), &args));
    let found = elements(&text);
    let of = |name: &str| found.iter().filter(|(known, _)| known == name).count();
    assert_eq!(of("testsuite"), 2);
    assert_eq!(of("testcase"), 2 * llmstd::rule::RULES.len());
    assert!(8 <= of("skipped"), "{text}");
    let suite = |name: &str, wanted: &str| -> String {
        let is_it = |(element, attributes): &&(String, Vec<(String, String)>)| {
            element == "testsuite" && attributes[0].1 == name
        };
        let (_, attributes) = found.iter().find(is_it).unwrap();
        attributes.iter().find(|(key, _)| key == wanted).unwrap().1.clone()
    };
    assert_eq!(suite("good", "failures"), "0");
    assert_ne!(suite("bad", "failures"), "0");
    assert_eq!(of("failure").to_string(), suite("bad", "failures"));
    let text = stdout(llmstd(models.path(), &["diff", "good", "later", "--format", "junit"]));
    let cases = elements(&text).iter().filter(|(name, _)| name == "testcase").count();
    assert_eq!(cases, llmstd::diff::rules::RULES.len());
}

#[test]
fn a_rule_that_warned_has_not_just_passed() {
    let models = models();
    fs::write(models.path().join("good/notes.txt"), "x").unwrap();
    let text = stdout(llmstd(models.path(), &["validate", "good", "-v"]));
    let line = text.lines().find(|line| line.starts_with(" V106")).unwrap();
    assert!(line.contains("warned"), "{line}");
    let markdown = stdout(llmstd(models.path(), &["validate", "good", "--format", "markdown"]));
    assert!(markdown.contains("0 failed, 1 warned, "), "{markdown}");
    let passed = markdown.lines().find(|line| line.starts_with("- passed: ")).unwrap();
    assert!(passed.contains("V105") && !passed.contains("V106"), "{passed}");
    // Values that are others fail nothing here, and the page says so.
    let args = ["diff", "good", "later", "--fail-on", "breaking", "--format", "html"];
    let html = stdout(llmstd(models.path(), &args));
    let row = html.split("<tr>").find(|row| row.contains("\"row\">D119<")).unwrap();
    assert!(row.contains("<td>warned</td>"), "{row}");
}

#[test]
fn several_forms_in_one_run() {
    let models = models();
    let args = [
        "validate",
        "good",
        "bad",
        "--statistics",
        "--report",
        "gitlab=out.gitlab",
        "--report",
        "github=out.github",
        "--report",
        "markdown=out.md",
        "--report",
        "html=out.html",
        "--report",
        "json=out.json",
        "--output",
        "out.txt",
    ];
    let output = llmstd(models.path(), &args);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(output), "");
    let read = |name: &str| fs::read_to_string(models.path().join(name)).unwrap();
    let text = read("out.txt");
    assert!(text.contains("good: llama, 29 tensors; keeps level full"), "{text}");
    assert!(text.contains("findings  rule  name"), "{text}");
    let issues = keeps(&schema("gitlab-code-quality.json"), &read("out.gitlab"));
    let issues = issues.as_array().unwrap();
    assert!(!issues.is_empty());
    let of_gitlab = schema("gitlab-codeclimate.json");
    assert!(issues.iter().all(|issue| of_gitlab.is_valid(issue)));
    let prints: BTreeSet<&str> =
        issues.iter().map(|issue| issue["fingerprint"].as_str().unwrap()).collect();
    assert_eq!(prints.len(), issues.len());
    let github = read("out.github");
    let errors = github.lines().filter(|line| line.starts_with("::error file=bad/")).count();
    assert_eq!(errors, issues.len());
    assert!(read("out.md").starts_with("### ❌ llmstd validate\n"));
    let page = read("out.html");
    assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"));
    // Nothing is fetched, and nothing runs.
    for word in ["http://", "https://", "<script", "src=", "@import", "url("] {
        assert!(!page.contains(word), "{word}");
    }
    let json: Json = serde_json::from_str(&read("out.json")).unwrap();
    assert_eq!((&json["valid"], &json["passes"]), (&Json::Bool(false), &Json::Bool(false)));
}

/// The fingerprints of a command's findings, in three forms.
fn fingerprints(folder: &Path, args: &[&str]) -> [BTreeSet<String>; 3] {
    let said = |form: &str| -> Json {
        let output = llmstd(folder, &[args, &["--format", form]].concat());
        serde_json::from_str(&stdout(output)).unwrap()
    };
    let texts =
        |found: Vec<&Json>| found.iter().map(|one| one.as_str().unwrap().to_owned()).collect();
    let json = said("json");
    let found = match json["inputs"].as_array() {
        Some(inputs) => {
            inputs.iter().flat_map(|one| one["report"]["findings"].as_array().unwrap()).collect()
        }
        None => json["changes"].as_array().unwrap().iter().collect::<Vec<_>>(),
    };
    let (gitlab, sarif) = (said("gitlab"), said("sarif"));
    let issues = gitlab.as_array().unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    [
        texts(found.iter().map(|one| &one["fingerprint"]).collect()),
        texts(issues.iter().map(|one| &one["fingerprint"]).collect()),
        texts(results.iter().map(|one| &one["partialFingerprints"]["llmstdGroup/v1"]).collect()),
    ]
}

#[test]
fn json_has_the_fingerprints_of_sarif_and_gitlab() {
    let models = models();
    for args in [&["validate", "good", "bad"][..], &["diff", "good", "later"]] {
        let [json, gitlab, sarif] = fingerprints(models.path(), args);
        assert!(2 <= json.len(), "{args:?}");
        assert_eq!(json, gitlab, "{args:?}");
        assert_eq!(json, sarif, "{args:?}");
    }
    // Findings that are alike have one.
    let json: Json = serde_json::from_str(&rendered("json", &many())).unwrap();
    let found = json["inputs"][0]["report"]["findings"].as_array().unwrap();
    assert_eq!(found.len(), many().len());
    let prints: BTreeSet<&str> =
        found.iter().map(|one| one["fingerprint"].as_str().unwrap()).collect();
    let gitlab: Json = serde_json::from_str(&rendered("gitlab", &many())).unwrap();
    assert_eq!(prints.len(), gitlab.as_array().unwrap().len());
}

#[test]
fn arguments_that_have_no_effect_are_errors() {
    let models = models();
    for (args, wanted) in [
        (&["inspect", "good", "--format", "sarif"][..], "text and json"),
        (&["validate", "good", "--report", "sarf=x"], "did you mean `sarif`?"),
        (&["validate", "good", "--report", "sarif"], "FORMAT=FILE"),
        (&["validate", "good", "--format", "json", "--statistics"], "--statistics"),
        (&["validate", "good", "--report", "sarif=no/such/folder"], "cannot write"),
    ] {
        let output = llmstd(models.path(), args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains(wanted), "{args:?}: {told}");
    }
}

/// A report in a form, of these findings.
fn rendered(id: &str, findings: &[Diagnostic]) -> String {
    let spec = Spec::current();
    let root = Path::new("/reports");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hf/llama-tied/src");
    let selection = Selection::default();
    let options = Options::new(&selection);
    let mut report = validate(&source, &spec, &options).unwrap();
    report.architecture = Some("llama\u{1b}]0;x\u{7}".to_owned());
    report.findings = findings.to_vec();
    (report.valid, report.passes) = (false, false);
    let path = root.join("models/one").display().to_string();
    let input = Input { path, result: InputResult::Report(Box::new(report)) };
    let context = Context {
        spec: &spec,
        style: Style { color: false, verbose: false },
        root: root.to_owned(),
        statistics: false,
    };
    (format(id).unwrap().render)(&Validation::of(vec![input]), &context).unwrap()
}

/// Ten thousand tensors of three kinds, each with a fault, one in shards of its own.
fn many() -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    for layer in 0..5000 {
        for (part, shape) in [("up", "[4, 9]"), ("down", "[9, 4]")] {
            let name = format!("decoder.layers.{layer}.mlp.{part}_proj.weight");
            let message = format!("`{name}` has the shape {shape}");
            let finding = Diagnostic::error("V205", message).mismatch("[4, 4]", shape).tensor(name);
            let file = format!("model-{:05}-of-00100.safetensors", layer / 50);
            findings.push(finding.file(file).bytes(8, 16).help("convert anew"));
        }
    }
    findings
        .push(Diagnostic::note("V303", "@here: |a| <b> `c` # \u{1b}[31m").help("see ::error::"));
    findings
}

#[test]
fn ten_thousand_broken_tensors_are_read_in_a_minute() {
    let findings = many();
    let text = rendered("text", &findings);
    assert!(text.lines().count() < 20, "{text}");
    let line =
        "error[V205]: `decoder.layers.{0-4999}.mlp.up_proj.weight` has the shape [4, 9]  ×5000";
    assert!(text.starts_with(line), "{text}");
    let log = keeps(&schema("sarif-2.1.0-rtm.5.json"), &rendered("sarif", &findings));
    let results = log["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    let names = results[0]["locations"][0]["logicalLocations"].as_array().unwrap();
    assert_eq!(names.len(), 2);
    assert_eq!(results[0]["properties"]["findings"], 10_000);
    keeps(&schema("gitlab-code-quality.json"), &rendered("gitlab", &findings));
    elements(&rendered("junit", &findings));
    for id in ["github", "gitlab", "junit", "markdown", "html"] {
        let text = rendered(id, &findings);
        assert!(text.len() < 60_000, "{id}: {}", text.len());
        assert!(text.contains("decoder.layers.{0-4999}.mlp.up") || id == "markdown", "{id}");
    }
    // What a model says of itself is no mark-up.
    let markdown = rendered("markdown", &findings);
    assert!(!markdown.contains("@here") && markdown.contains("&lt;b&gt;"), "{markdown}");
    assert!(rendered("html", &findings).contains("&lt;b&gt;"));
    let github = rendered("github", &findings);
    assert_eq!(github.lines().filter(|line| line.starts_with("::")).count(), 2, "{github}");
}

#[test]
fn reports_do_not_depend_on_wording_or_on_the_run() {
    let findings = many();
    let prints = |findings: &[Diagnostic]| -> Vec<String> {
        let log: Json = serde_json::from_str(&rendered("sarif", findings)).unwrap();
        let results = log["runs"][0]["results"].as_array().unwrap();
        let print = |one: &Json| one["partialFingerprints"]["llmstdGroup/v1"].to_string();
        results.iter().map(print).collect()
    };
    let before = prints(&findings);
    let mut reworded = findings.clone();
    for finding in &mut reworded {
        finding.message = format!("tensor: {}", finding.message);
        finding.help = Some("another word".to_owned());
    }
    // Another layer with the same fault is the same fault.
    reworded.pop();
    reworded.truncate(9000);
    assert_eq!(prints(&reworded), before[..1]);
    for format in FORMATS {
        let (one, other) = (rendered(format.id, &findings), rendered(format.id, &findings));
        assert_eq!(one, other, "{}", format.id);
        assert!(!one.contains("/reports/") || ["json", "text"].contains(&format.id));
        // What a model says of itself does not steer a terminal.
        assert!(!one.contains('\u{1b}'), "{}", format.id);
    }
}

/// What a workflow shows after `pipeline/run.sh`: the outputs of the step, and its summary.
#[cfg(unix)]
fn run_step(folder: &Path, command: &str, paths: &str) -> (String, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipeline/run.sh");
    let program = Path::new(env!("CARGO_BIN_EXE_llmstd")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    for name in ["step-output", "step-summary"] {
        fs::write(folder.join(name), "").unwrap();
    }
    let output = Command::new("bash")
        .arg(script)
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", program.display()))
        .env("LLMSTD_COMMAND", command)
        .env("LLMSTD_PATHS", paths)
        .env("RUNNER_TEMP", folder)
        .env("GITHUB_OUTPUT", folder.join("step-output"))
        .env("GITHUB_STEP_SUMMARY", folder.join("step-summary"))
        .output()
        .unwrap();
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    (stdout(output), read("step-output"), read("step-summary"))
}

#[cfg(unix)]
#[test]
fn the_step_of_a_workflow_says_what_was_found_in_every_form() {
    let models = models();
    let (shown, outputs, summary) = run_step(models.path(), "validate", "good bad");
    assert!(shown.contains("::error file=bad/"), "{shown}");
    assert!(outputs.starts_with("status=1\nsarif="), "{outputs}");
    let sarif = outputs.trim().rsplit_once("sarif=").unwrap().1;
    let sarif: Json = serde_json::from_str(&fs::read_to_string(sarif).unwrap()).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    assert!(summary.contains("bad") && summary.contains("failed"), "{summary}");
    let (_, outputs, _) = run_step(models.path(), "validate", "good");
    assert!(outputs.starts_with("status=0\n"), "{outputs}");
    let (_, outputs, _) = run_step(models.path(), "validate", "none-of-this-name");
    assert!(outputs.starts_with("status=2\n"), "{outputs}");
    let (_, outputs, _) = run_step(models.path(), "diff", "good later");
    assert!(outputs.starts_with("status=1\n"), "{outputs}");
}

#[test]
fn completions_know_the_values_of_arguments() {
    let scratch = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let text = stdout(llmstd(scratch.path(), &["completions", shell]));
        for word in ["q4_k", "bf16", "safetensors", "gemma3_text", "V443"] {
            assert!(text.contains(word), "{shell} does not know {word}");
        }
    }
}
