//! `llmstd.toml`, waivers, baselines, and many inputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

/// A folder of models: `good` and `bad` are packages, `models/one.gguf` and `models/two` are foreign,
/// `models/none` has nothing, `models/odd` a file that is no model.
struct Project(tempfile::TempDir);

impl Project {
    fn new() -> Project {
        let scratch = tempfile::tempdir().unwrap();
        let project = Project(scratch);
        let demo = root().join("fixtures/demo/v1");
        let demo = demo.to_str().unwrap();
        for name in ["good", "bad"] {
            assert!(project.run(&["convert", demo, name, "-q"]).status.success());
        }
        let text = project.read("bad/model.json");
        project.write("bad/model.json", &text.replace("\"embed_dim\": 24", "\"embed_dim\": 12"));
        project
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_llmstd"))
            .args(args)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// The exit status and the report of `validate`.
    #[track_caller]
    fn validate(&self, args: &[&str]) -> (i32, Json) {
        let output = self.run(&[&["validate", "--format", "json"], args].concat());
        let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|err| {
            panic!("{err}: {}", String::from_utf8_lossy(&output.stderr));
        });
        (output.status.code().unwrap(), json)
    }

    /// The exit status and what was said of `validate` where it is refused.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.run(&[&["validate"], args].concat());
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rules of the findings of the first input.
fn rules(json: &Json) -> Vec<&str> {
    rules_of(&json["inputs"][0]["report"]["findings"])
}

fn rules_of(findings: &Json) -> Vec<&str> {
    findings.as_array().unwrap().iter().map(|one| one["rule"].as_str().unwrap()).collect()
}

#[test]
fn what_a_policy_cannot_say_is_an_error_that_names_it() {
    let project = Project::new();
    for (text, wanted) in [
        ("levle = 'full'", "unknown key `levle`; did you mean `level`?"),
        ("fail_on = 'note'", "did you mean `fail-on`?"),
        ("[require]\nlicense = ['mit']", "at `require.license`; did you mean `licences`?"),
        ("[[path]]\nmatch = 'a'\n[path.require]\ndtype = ['F32']", "`path[0].require.dtype`"),
        ("[[waiver]]\nrule = 'V205'\nreson = 'x'\nreason = 'x'", "did you mean `reason`?"),
        ("[[waiver]]\nrule = 'V205'\nreason = ' '", "has no reason"),
        ("[[waiver]]\nrule = 'V205'\nreason = 'x'\nexpires = 'soon'", "is no day"),
        ("[[waiver]]\nrule = 'V205'", "reason"),
        ("ignore = ['V999']", "there is no rule \"V999\""),
        ("[severity]\nV205 = 'fatal'", "fatal"),
        ("level = 'ful'", "ful"),
        ("[require]\ntasks = ['causal-ml']", "did you mean `causal-lm`?"),
        ("[require]\nmax-size = '16 gigs'", "max-size"),
        ("[require.digests]\nmodl = 'sha256:00'", "did you mean `model`?"),
        ("[require.digests]\nmodel = 'sha256:00'", "64 hex digits"),
        ("[[path]]\nmatch = 'a/***'", "is no pattern"),
        ("level = ", "llmstd.toml"),
    ] {
        project.write("llmstd.toml", text);
        let told = project.refused(&["good"]);
        assert!(told.contains(wanted) && told.contains("llmstd.toml"), "{text}: {told}");
    }
    // It is not read where it is not asked for.
    assert!(project.run(&["validate", "good", "--isolated"]).status.success());
}

#[test]
fn a_policy_is_found_upward_and_the_command_line_stands_over_it() {
    let project = Project::new();
    project.write("llmstd.toml", "level = 'container'\nignore = ['V118']\n");
    let (status, json) = project.validate(&["bad"]);
    assert_eq!((status, rules(&json)), (0, Vec::new()));
    let report = &json["inputs"][0]["report"];
    assert_eq!(report["level"], "container");
    // A level is claimed only where its rules were checked.
    assert_eq!((&report["left_out"][0], &report["reached"]), (&Json::from("V118"), &Json::Null));
    let (status, json) = project.validate(&["bad", "--level", "full"]);
    assert_eq!((status, rules(&json)), (1, vec!["V205"]));
    let (status, json) = project.validate(&["bad", "--isolated"]);
    assert_eq!((status, rules(&json)), (1, vec!["V118", "V205"]));
    project.write("other.toml", "fail-on = 'note'\nselect = ['V205']\n[severity]\nV205 = 'note'\n");
    let (status, json) = project.validate(&["bad", "--config", "other.toml"]);
    assert_eq!((status, rules(&json)), (1, vec!["V205"]));
    assert_eq!(json["inputs"][0]["report"]["findings"][0]["level"], "note");
    let args = ["bad", "--config", "other.toml", "--fail-on", "error"];
    let (status, json) = project.validate(&args);
    // What breaks the standard still does; the project does not fail on it.
    assert_eq!((status, &json["passes"], &json["valid"]), (0, &true.into(), &false.into()));
    // What a model brings with it is no policy; else the nearest file counts, and sections the later
    // over the earlier.
    project.write("bad/llmstd.toml", "[[waiver]]\nrule = 'V'\nreason = 'trust me'\n");
    let (status, json) = project.validate(&["bad"]);
    // An unlisted file, and nothing is waived.
    assert_eq!((status, rules(&json)), (0, vec!["V106"]));
    fs::remove_file(project.at("bad/llmstd.toml")).unwrap();
    project.write(
        "llmstd.toml",
        "level = 'container'\n[[path]]\nmatch = '*'\nlevel = 'schema'\n[[path]]\nmatch = 'b*'\n\
         level = 'full'\n[path.severity]\nV = 'warning'\nV118 = 'note'\n",
    );
    let (status, json) = project.validate(&["bad", "good"]);
    let report = |at: usize| &json["inputs"][at]["report"];
    assert_eq!(
        (status, &report(0)["level"], &report(1)["level"]),
        (0, &"full".into(), &"schema".into())
    );
    let levels: Vec<&Json> =
        report(0)["findings"].as_array().unwrap().iter().map(|one| &one["level"]).collect();
    assert_eq!(levels, ["note", "warning"]);
}

#[test]
fn what_a_model_must_be() {
    let project = Project::new();
    for (require, wanted) in [
        ("licences = ['mit']", Some(("L101", "no licence is stated"))),
        ("dtypes = ['BF16', 'f32']", None),
        ("dtypes = ['BF16']", Some(("L102", "29 tensors have the dtype F32"))),
        ("encodings = []", None),
        ("max-size = '46 kB'", None),
        ("max-size = 45887", Some(("L104", "take 45888 bytes"))),
        ("tasks = ['causal-lm']", None),
        ("tasks = ['causal-lm', 'embedding']", Some(("L105", "the task embedding is required"))),
        (
            "digests.tokenizer = '0000000000000000000000000000000000000000000000000000000000000000'",
            Some(("L106", "the digest tokenizer is another one")),
        ),
    ] {
        project.write("llmstd.toml", &format!("[require]\n{require}\n"));
        let (status, json) = project.validate(&["good"]);
        let report = &json["inputs"][0]["report"];
        assert_eq!(report["policy"].as_array().map(Vec::len), Some(1), "{require}");
        match wanted {
            None => assert_eq!((status, rules(&json)), (0, Vec::new()), "{require}"),
            Some((rule, message)) => {
                assert_eq!((status, rules(&json)), (1, vec![rule]), "{require}");
                let told = report["findings"][0]["message"].as_str().unwrap();
                assert!(told.contains(message), "{require}: {told}");
                assert_eq!((&report["valid"], &report["reached"]), (&true.into(), &"full".into()));
            }
        }
    }
    project.write("llmstd.toml", "[require]\nlicences = ['mit', 'Apache-2.0']\n");
    // A file that is not in the manifest is a finding of its own, so a foreign folder is asked.
    let source = root().join("fixtures/demo/v1");
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        fs::create_dir_all(project.at("foreign")).unwrap();
        fs::copy(&path, project.at("foreign").join(name)).unwrap();
    }
    for (card, status) in [
        ("---\nlicense: apache-2.0\n---\n# A model", 0),
        ("---\nlicense:\n- mit\n- llama3\n---\n", 1),
        ("---\nlicense: [mit]\n---\n", 0),
        ("# license: mit", 1),
    ] {
        project.write("foreign/README.md", card);
        assert_eq!(project.validate(&["foreign"]).0, status, "{card}");
    }
    // Packed tensors have an encoding instead of a dtype.
    let packed = root().join("fixtures/quant/models/gptq");
    for (encodings, wanted) in [("[]", &["L103"][..]), ("['GPTQ']", &[])] {
        project.write("llmstd.toml", &format!("[require]\nencodings = {encodings}\n"));
        let args = [packed.to_str().unwrap(), "--config", "llmstd.toml"];
        let (status, json) = project.validate(&args);
        assert_eq!((status, rules(&json)), (i32::from(!wanted.is_empty()), wanted.to_vec()));
    }
}

#[test]
fn a_digest_is_expected_on_the_command_line() {
    let project = Project::new();
    let manifest: Json = serde_json::from_str(&project.read("good/manifest.json")).unwrap();
    let model = manifest["digests"]["model"].as_str().unwrap();
    assert_eq!(project.validate(&["good", "--expect", &format!("model=sha256:{model}")]).0, 0);
    let other = format!("weights={model}");
    let (status, json) = project.validate(&["good", "--expect", &other]);
    assert_eq!((status, rules(&json)), (1, vec!["L106"]));
    assert!(project.refused(&["good", "--expect", "modle=00"]).contains("did you mean `model`?"));
    let foreign = root().join("fixtures/demo/v1");
    let (status, json) = project.validate(&[foreign.to_str().unwrap(), "--expect", &other]);
    assert_eq!((status, rules(&json)), (1, vec!["L106"]));
}

#[test]
fn waivers_have_a_place_and_a_day() {
    let project = Project::new();
    let waiver = |rest: &str| {
        format!(
            "[[waiver]]\nrule = 'V205'\nreason = 'known'\n{rest}\n[[waiver]]\nrule = 'V118'\nreason = 'too'\n"
        )
    };
    let of_policy = |json: &Json| -> Vec<String> {
        let policies = json["policies"].as_array().cloned().unwrap_or_default();
        policies.iter().flat_map(|one| rules_of(&one["findings"])).map(str::to_owned).collect()
    };
    for (rest, status, found, told) in [
        ("", 0, &[][..], &[][..]),
        ("expires = 2999-12-31", 0, &[], &[]),
        ("expires = '2999-12-31'", 0, &[], &[]),
        ("expires = 2020-01-01", 1, &["V205"], &["L002"]),
        ("path = 'b?d'", 0, &[], &[]),
        ("path = 'models/**'", 1, &["V205"], &[]),
        ("place = 'embed.*'", 0, &[], &[]),
        ("place = 'heads.*'", 1, &["V205"], &["L001"]),
    ] {
        project.write("llmstd.toml", &waiver(rest));
        let (got, json) = project.validate(&["bad"]);
        assert_eq!((got, rules(&json)), (status, found.to_vec()), "{rest}: {json}");
        assert_eq!(of_policy(&json), told, "{rest}");
        let waived = &json["inputs"][0]["report"]["waived"];
        assert_eq!(waived.as_array().unwrap().len(), 2 - found.len());
        // It is waived and still wrong.
        assert_eq!(json["valid"], false);
    }
    // A rule that is not looked at does not make its waiver stale.
    project.write("llmstd.toml", "[[waiver]]\nrule = 'V122'\nreason = 'masks'\n");
    assert_eq!(of_policy(&project.validate(&["good"]).1), [""; 0]);
    assert_eq!(of_policy(&project.validate(&["good", "--deep"]).1), ["L001"]);
    assert_eq!(project.validate(&["good", "--deep", "--fail-on", "warning"]).0, 1);
    // It is told at its line.
    project.write("llmstd.toml", "\n\n[[waiver]]\nrule = 'V105'\nreason = 'none'\n");
    let output = project.run(&["validate", "good", "--format", "github"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("::warning file=llmstd.toml,line=3,"), "{text}");
}

#[test]
fn a_baseline_is_written_kept_and_outgrown() {
    let project = Project::new();
    fs::create_dir_all(project.at("ci")).unwrap();
    let (status, json) = project.validate(&["bad", "good", "--write-baseline", "ci/base.json"]);
    assert_eq!((status, rules(&json)), (0, vec!["V118", "V205"]));
    let text = project.read("ci/base.json");
    let base: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(rules_of(&base["findings"]), ["V118", "V205"]);
    assert_eq!(base["findings"][0]["input"], "../bad");
    let (status, json) = project.validate(&["bad", "--baseline", "ci/base.json"]);
    assert_eq!((status, rules(&json)), (0, Vec::new()));
    assert_eq!(json["inputs"][0]["report"]["waived"][0]["reason"], "in the baseline");
    // What is new counts; what is gone is told.
    let model = project.read("bad/model.json");
    project.write("bad/model.json", &model.replace("\"embed_dim\": 12", "\"embed_dim\": 24"));
    let tokenizer = project.read("bad/tokenizer.json");
    project.write("bad/tokenizer.json", &format!("{tokenizer} "));
    let (status, json) = project.validate(&["bad", "--baseline", "ci/base.json"]);
    assert_eq!((status, rules(&json)), (1, vec!["V105"]));
    assert_eq!(rules_of(&json["policies"][0]["findings"]), ["L003", "L003"]);
    project.write("ci/base.json", "{\"schema\": \"x\", \"findings\": []}");
    assert!(project.refused(&["bad", "--baseline", "ci/base.json"]).contains("is no baseline"));
}

#[test]
fn what_no_rule_looked_for_is_not_gone() {
    let project = Project::new();
    let path = project.at("good/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path, bytes).unwrap();
    let (status, _) = project.validate(&["good", "--deep", "--write-baseline", "base.json"]);
    assert_eq!(status, 0);
    assert!(project.read("base.json").contains("V122"));
    let told = |args: &[&str]| {
        let (_, json) = project.validate(args);
        let policies = json["policies"].as_array().cloned().unwrap_or_default();
        policies.iter().map(|one| rules_of(&one["findings"]).len()).sum::<usize>()
    };
    assert_eq!(told(&["good", "--baseline", "base.json", "--deep"]), 0);
    assert_eq!(told(&["good", "--baseline", "base.json"]), 0);
    project.write("llmstd.toml", "[[waiver]]\nrule = 'V12'\nreason = 'known'\n");
    assert_eq!(told(&["good"]), 0);
    assert_eq!(told(&["good", "--deep"]), 0);
}

#[test]
fn what_a_policy_fails_on_counts_for_itself_and_in_every_form() {
    let project = Project::new();
    let stale = "[[waiver]]\nrule = 'V105'\nreason = 'old'\n";
    for (folder, text) in [("a", "fail-on = 'warning'\n".to_owned()), ("b", stale.to_owned())] {
        fs::create_dir_all(project.at(folder)).unwrap();
        for entry in fs::read_dir(project.at("good")).unwrap() {
            let entry = entry.unwrap();
            let to = project.at(&format!("{folder}/m/{}", entry.file_name().to_str().unwrap()));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(entry.path(), to).unwrap();
        }
        project.write(&format!("{folder}/llmstd.toml"), &text);
    }
    // What one policy fails on is not asked of what another says.
    assert_eq!(project.validate(&["a/m", "b/m"]).0, 0);
    project.write("b/llmstd.toml", &format!("fail-on = 'warning'\n{stale}"));
    assert_eq!(project.validate(&["b/m"]).0, 1);
    let junit = project.run(&["validate", "b/m", "--format", "junit"]);
    let junit = String::from_utf8(junit.stdout).unwrap();
    assert!(junit.contains("failures=\"1\""), "{junit}");
}

#[test]
fn a_result_is_printed_though_a_report_cannot_be_written() {
    let project = Project::new();
    let args = ["validate", "good", "--report", "sarif=no/such/x", "--report", "json=ok.json"];
    let output = project.run(&args);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).contains("keeps level full"));
    assert!(project.at("ok.json").is_file());
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write no/such/x"));
}

#[test]
fn inputs_below_a_folder() {
    let project = Project::new();
    fs::create_dir_all(project.at("models/none")).unwrap();
    fs::create_dir_all(project.at("models/.cache")).unwrap();
    fs::rename(project.at("good"), project.at("models/good")).unwrap();
    fs::rename(project.at("bad"), project.at("models/deep-bad")).unwrap();
    fs::copy(root().join("fixtures/gguf/t.gguf"), project.at("models/t.gguf")).unwrap();
    fs::copy(root().join("fixtures/gguf/t.gguf"), project.at("models/u.gguf")).unwrap();
    fs::copy(root().join("fixtures/gguf/t.gguf"), project.at("models/.cache/v.gguf")).unwrap();
    project.write("models/odd/model.safetensors", "<html>sign in</html>");
    let (status, json) = project.validate(&["-r", "models"]);
    let inputs = json["inputs"].as_array().unwrap();
    let paths: Vec<&str> = inputs.iter().map(|input| input["path"].as_str().unwrap()).collect();
    let wanted = ["models/t.gguf", "models/u.gguf", "models/deep-bad", "models/good", "models/odd"];
    assert_eq!(paths, wanted);
    assert_eq!(status, 1, "{json}");
    let output = project.run(&["validate", "-r", "models"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let table: Vec<&str> = text.lines().skip_while(|line| !line.starts_with(" input")).collect();
    assert_eq!(table.len(), 6, "{text}");
    assert!(project.refused(&["-r", "models/none"]).contains("no package and no checkpoint"));
}

#[test]
fn a_manifest_alone_is_judged_by_what_it_tells() {
    let project = Project::new();
    fs::copy(project.at("good/manifest.json"), project.at("lone.json")).unwrap();
    let (status, json) = project.validate(&["lone.json"]);
    let report = &json["inputs"][0]["report"];
    assert_eq!((status, &report["kind"]), (0, &"manifest".into()), "{json}");
    assert_eq!((&report["tensors"], &report["complete"]), (&29.into(), &false.into()));
    let outcome = |json: &Json, rule: &str| -> String {
        let checks = json["inputs"][0]["report"]["checks"].as_array().unwrap().clone();
        let check = checks.into_iter().find(|check| check["rule"] == rule).unwrap();
        check["outcome"].as_str().unwrap().to_owned()
    };
    for (rule, wanted) in [
        ("V104", "pass"),
        ("V205", "pass"),
        ("V301", "pass"),
        ("V105", "skipped"),
        ("V303", "skipped"),
    ] {
        assert_eq!(outcome(&json, rule), wanted, "{rule}");
    }
    // A shape that the architecture does not give, and the digests that no longer hold.
    let text = project.read("lone.json").replacen("\"shape\":[99,24]", "\"shape\":[98,24]", 1);
    project.write("lone.json", &text);
    let (status, json) = project.validate(&["lone.json"]);
    assert_eq!(status, 1);
    assert!(rules(&json).contains(&"V206") && rules(&json).contains(&"V104"), "{json}");
    let output = project.run(&["validate", "lone.json", "--format", "github"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("::error file=lone.json,line=36,title=V206"), "{text}");
    // A manifest that is none is told by its rule.
    project.write("manifest.json", "{\"schema\": \"llmstd.manifest/1\"");
    let (status, json) = project.validate(&["manifest.json"]);
    assert_eq!((status, rules(&json)), (1, vec!["V103"]));
}
