//! `llmstd spec conformance`: the vectors of `spec/conformance`, asked of this program or of any other
//! that answers the requests of `spec/conformance/README.md`.

mod edit;
mod files;
mod own;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use self::edit::Edit;
use self::files::{Source, bad};
use crate::base::error::{Error, Result};
use crate::base::json::parse;
use crate::convert::{self, Failure, Request};
use crate::folder;
use crate::package::{Conformance, MODEL_FILE};
use crate::spec::{Spec, conformance_file};

pub use self::edit::seal;
pub use self::own::Own;

/// A program that answers requests.
pub trait Subject {
    /// What it answers to a request; an object with `unsupported` where it does not do such things.
    ///
    /// # Errors
    /// It does not answer, or not with an object.
    fn ask(&mut self, request: &Json) -> std::result::Result<Json, String>;
}

/// What came of the vectors.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Results {
    /// `llmstd.spec-conformance/1`.
    pub schema: &'static str,
    /// The version of the standard.
    pub spec: String,
    /// Whether nothing failed, and something passed.
    pub passed: bool,
    /// The sections, in order.
    pub sections: Vec<Section>,
}

/// What came of the vectors of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Section {
    /// What they are about; `spec/conformance/README.md` has the sections.
    pub name: String,
    /// How many came out as they should.
    pub passed: usize,
    /// How many the program does not answer.
    pub unsupported: usize,
    /// What came out otherwise, one sentence each.
    pub failures: Vec<String>,
}

/// A source with the package that comes of it.
#[derive(Clone, Debug, Deserialize)]
struct PackageVector {
    name: String,
    #[serde(flatten)]
    source: Source,
    shard_bytes: Option<u64>,
    #[serde(default)]
    generic: bool,
    #[serde(default)]
    expected: Json,
}

/// A package that is wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InvalidVector {
    base: String,
    rule: String,
    severity: String,
    edits: Vec<Edit>,
}

/// How far outputs may be from those of the vectors, relative to the greatest of them.
const TOLERANCE: f64 = 1e-3;
/// How many numbers of an output a vector has.
const N_OUTPUTS: usize = 12;

fn vectors(name: &str) -> Result<Json> {
    let text = conformance_file(&format!("{name}.json"));
    parse(text.ok_or_else(|| bad(format!("there are no vectors {name}")))?.as_bytes(), 0)
}

fn list<T: serde::de::DeserializeOwned>(mut file: Json, key: &str) -> Result<Vec<T>> {
    serde_json::from_value(file[key].take()).map_err(|err| bad(format!("{key}: {err}")))
}

struct Course<'a> {
    spec: &'a Spec,
    subject: &'a mut dyn Subject,
    scratch: &'a Path,
    sections: Vec<Section>,
}

/// Asks a program every vector. Packages are made in the scratch folder, which is empty at first.
///
/// # Errors
/// A vector does not hold together, or the scratch folder cannot be written.
pub fn run(spec: &Spec, subject: &mut dyn Subject, scratch: &Path) -> Result<Results> {
    let mut course = Course { spec, subject, scratch, sections: Vec::new() };
    course.simple("names", |row| json!({"name": row["name"]}), "name", &["legal"])?;
    course.simple(
        "order",
        |row| json!({"names": row["names"], "encoded": row["encoded"]}),
        "order",
        &["ordered"],
    )?;
    course.simple("canonical", |row| json!({"json": row["json"]}), "canonical", &["text"])?;
    let tensor = ["name", "dtype", "shape", "sha256"];
    let leaf = |row: &Json| {
        let members = tensor.map(|key| (key.to_owned(), row[key].clone()));
        Json::Object(members.into_iter().collect())
    };
    course.simple("leaves", leaf, "leaves", &["leaf", "content"])?;
    course.expressions()?;
    course.ops()?;
    course.encodings()?;
    let packages = course.packages()?;
    course.invalid(&packages)?;
    let sections = course.sections;
    let failed = sections.iter().any(|section| !section.failures.is_empty());
    let some = sections.iter().any(|section| section.passed != 0);
    Ok(Results {
        schema: "llmstd.spec-conformance/1",
        spec: spec.version.clone(),
        passed: some && !failed,
        sections,
    })
}

impl Course<'_> {
    fn begin(&mut self, name: &str) {
        self.sections.push(Section { name: name.to_owned(), ..Section::default() });
    }

    /// Asks one thing; `judge` says what is wrong with the answer.
    fn ask(
        &mut self,
        about: &str,
        mut request: Json,
        action: &str,
        judge: impl FnOnce(&Json) -> Option<String>,
    ) {
        request["do"] = action.into();
        let answer = self.subject.ask(&request);
        let section = self.sections.last_mut().expect("a section was begun");
        match answer {
            Ok(answer) if answer.get("unsupported").is_some() => section.unsupported += 1,
            Ok(answer) => match judge(&answer) {
                None => section.passed += 1,
                Some(why) => section.failures.push(format!("{about}: {action}: {why}")),
            },
            Err(why) => section.failures.push(format!("{about}: {action}: {why}")),
        }
    }

    /// Vectors whose answer is what stands beside the question.
    fn simple(
        &mut self,
        name: &str,
        question: impl Fn(&Json) -> Json,
        action: &str,
        answers: &[&str],
    ) -> Result<()> {
        self.begin(name);
        for row in list::<Json>(vectors(name)?, "vectors")? {
            let about = question(&row).to_string();
            self.ask(&about, question(&row), action, |answer| {
                let wrong = answers.iter().find(|key| answer[**key] != row[**key])?;
                Some(format!("{wrong} is {}, not {}", answer[*wrong], row[*wrong]))
            });
        }
        Ok(())
    }

    fn expressions(&mut self) -> Result<()> {
        self.begin("expressions");
        let file = vectors("expressions")?;
        let names = file["names"].clone();
        for row in list::<Json>(file, "vectors")? {
            let about = row["text"].to_string();
            let request = json!({"text": row["text"], "names": names});
            self.ask(&about, request, "expression", |answer| {
                let same = answer["value"] == row["value"];
                (!same).then(|| format!("{}, not {}", answer["value"], row["value"]))
            });
        }
        Ok(())
    }

    fn ops(&mut self) -> Result<()> {
        self.begin("ops");
        for row in list::<Json>(vectors("ops")?, "vectors")? {
            let ways = [
                ("import", "foreign", "canonical", false),
                ("export", "canonical", "foreign", row["back"] == "exact"),
            ];
            for (direction, from, to, is_exact) in ways {
                let request = json!({"ops": row["ops"], "names": row["names"], "tensors": row[from],
                    "direction": direction, "folder": self.scratch});
                let about = format!("{} {direction}", row["ops"]);
                let is_exact = is_exact || (direction == "import" && row["back"] == "exact");
                self.ask(&about, request, "ops", |answer| {
                    let tolerance = if is_exact { 0.0 } else { 1e-5 };
                    let same = shapes(&answer["tensors"]) == shapes(&row[to])
                        && are_near(&flat(&answer["tensors"]), &flat(&row[to]), tolerance);
                    (!same).then(|| format!("{}, not {}", answer["tensors"], row[to]))
                });
            }
        }
        Ok(())
    }

    /// Each encoding as a package of level container with one tensor.
    fn encodings(&mut self) -> Result<()> {
        self.begin("encodings");
        for (number, row) in list::<Json>(vectors("encodings")?, "vectors")?.iter().enumerate() {
            let package = self.scratch.join(format!("encoding-{number}"));
            own::write_encoded(self.spec, row, &package)?;
            let request = json!({"package": package, "tensor": own::ENCODED});
            self.ask(&row["encoding"].to_string(), request, "values", |answer| {
                let wrong = ["shape", "sha256"].into_iter().find(|key| answer[key] != row[key])?;
                Some(format!("{wrong} is {}, not {}", answer[wrong], row[wrong]))
            });
        }
        Ok(())
    }

    /// The packages that come of sources; where they are, by name.
    fn packages(&mut self) -> Result<BTreeMap<String, PathBuf>> {
        self.begin("packages");
        let mut packages = BTreeMap::new();
        for vector in list::<PackageVector>(vectors("packages")?, "sources")? {
            let name = vector.name.as_str();
            let expected = &vector.expected;
            let (source, package) = (
                self.scratch.join(format!("{name}-source")),
                self.scratch.join(format!("{name}-package")),
            );
            make(self.spec, &vector, &source, &package)?;
            // A program that converts makes the same package.
            let theirs = self.scratch.join(format!("{name}-theirs"));
            let request = json!({"source": source, "package": theirs, "generic": vector.generic,
                "shard_bytes": vector.shard_bytes});
            self.ask(name, request, "convert", |answer| {
                if let Some(refused) = answer.get("refused") {
                    return Some(format!("refused: {refused}"));
                }
                differs(expected, &facts(&theirs).unwrap_or_default())
            });
            self.ask(name, json!({"package": package}), "open", |answer| {
                if let Some(refused) = answer.get("refused") {
                    return Some(format!("refused: {refused}"));
                }
                let rows = expected["tensors"].as_array().into_iter().flatten();
                let names: Vec<&Json> = rows.map(|row| &row[0]).collect();
                if answer["digests"] != expected["digests"] {
                    return Some(format!("digests {}", answer["digests"]));
                }
                (answer["tensors"] != json!(names)).then(|| format!("order {}", answer["tensors"]))
            });
            let level = &expected["model"]["conformance"];
            let request = json!({"package": package, "level": level});
            self.ask(name, request, "validate", |answer| {
                (answer["errors"] != json!([])).then(|| format!("errors {}", answer["errors"]))
            });
            if let Some(outputs) = expected.get("outputs") {
                let request = json!({"package": package, "inputs": expected["inputs"]});
                self.ask(name, request, "run", |answer| {
                    let wrong = outputs.as_object()?.iter().find(|(key, wanted)| {
                        let near = |wanted: &Json, found: &Json| {
                            let (wanted, found) = (numbers(wanted), numbers(found));
                            are_near(&found[..found.len().min(N_OUTPUTS)], &wanted, TOLERANCE)
                        };
                        answer["outputs"][*key]["shape"] != wanted["shape"]
                            || !near(&wanted["first"], &answer["outputs"][*key]["data"])
                    });
                    wrong.map(|(key, wanted)| format!("{key} is not {wanted}"))
                });
            }
            packages.insert(vector.name, package);
        }
        Ok(packages)
    }

    /// Packages that are wrong. A reader refuses those that break level container by an error; a
    /// validator names the rule.
    fn invalid(&mut self, packages: &BTreeMap<String, PathBuf>) -> Result<()> {
        self.begin("invalid");
        for (number, vector) in
            list::<InvalidVector>(vectors("invalid")?, "vectors")?.iter().enumerate()
        {
            let InvalidVector { base, rule, severity, edits } = vector;
            let package = self.scratch.join(format!("invalid-{number}"));
            let base = packages.get(base).ok_or_else(|| bad(format!("there is no {base}")))?;
            copy(base, &package)?;
            edit::apply(self.spec, &package, edits)
                .map_err(|err| bad(format!("invalid {number}, {rule}: {err}")))?;
            let about = format!("invalid {number}, {rule}");
            let row = self.spec.rule_row(rule).ok_or_else(|| bad(format!("no rule {rule}")))?;
            if row.level == Some(Conformance::Container) && severity == "error" {
                self.ask(&about, json!({"package": package}), "open", |answer| {
                    answer.get("refused").is_none().then(|| "it is not refused".to_owned())
                });
            }
            let level = row.level.map(Conformance::name);
            let request = json!({"package": package, "level": level});
            let key = format!("{severity}s");
            self.ask(&about, request, "validate", |answer| {
                let found = answer[&key].as_array().cloned().unwrap_or_default();
                (!found.contains(&json!(rule))).then(|| format!("{key} are {}", answer[&key]))
            });
        }
        Ok(())
    }
}

/// Writes a source, and the package that comes of it.
fn make(spec: &Spec, vector: &PackageVector, source: &Path, package: &Path) -> Result<()> {
    vector.source.write(source)?;
    own::convert(spec, source, package, vector.generic, vector.shard_bytes)
        .map_err(|why| bad(format!("{}: {why}", vector.name)))
}

/// What a package says, as vectors have it: the model without its history, the tensors in order, the digests.
fn facts(package: &Path) -> Result<Json> {
    let read = |name: &str| parse(&files::read(&package.join(name))?, 0);
    let (mut model, manifest) = (read(MODEL_FILE)?, read(crate::package::MANIFEST_FILE)?);
    if let Some(members) = model.as_object_mut() {
        members.shift_remove("history");
    }
    let tensors = manifest["tensors"].as_array().into_iter().flatten();
    let row = |t: &Json| json!([t["name"], t["dtype"], t["shape"], t["sha256"]]);
    Ok(json!({
        "model": model,
        "tensors": tensors.map(row).collect::<Vec<_>>(),
        "digests": manifest["digests"],
    }))
}

fn differs(expected: &Json, found: &Json) -> Option<String> {
    ["model", "tensors", "digests"].into_iter().find_map(|key| {
        // `1` and `1.0` are one number.
        let text = |value: &Json| crate::base::canonical_json::text(value);
        (text(&expected[key]) != text(&found[key])).then(|| format!("other {key}: {}", found[key]))
    })
}

fn numbers(list: &Json) -> Vec<f64> {
    list.as_array().into_iter().flatten().filter_map(Json::as_f64).collect()
}

fn shapes(tensors: &Json) -> Vec<Json> {
    tensors.as_array().into_iter().flatten().map(|tensor| tensor["shape"].clone()).collect()
}

fn flat(tensors: &Json) -> Vec<f64> {
    tensors.as_array().into_iter().flatten().flat_map(|tensor| numbers(&tensor["data"])).collect()
}

fn are_near(found: &[f64], wanted: &[f64], tolerance: f64) -> bool {
    let scale = wanted.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
    found.len() == wanted.len()
        && found.iter().zip(wanted).all(|(x, y)| x == y || (x - y).abs() <= tolerance * scale)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for file in folder::list(from)? {
        files::write(&to.join(&file.name), &files::read(&from.join(&file.name))?)?;
    }
    Ok(())
}

/// The vectors `packages` with what this program makes of the sources, to be looked at before they are published.
///
/// # Errors
/// A source does not convert, or a package cannot be computed with.
pub fn bless(spec: &Spec, scratch: &Path) -> Result<String> {
    let mut file = vectors("packages")?;
    let rows: Vec<Json> = list(file.clone(), "sources")?;
    let mut lines = Vec::new();
    for mut row in rows {
        let vector: PackageVector =
            serde_json::from_value(row.clone()).map_err(|err| bad(err.to_string()))?;
        let name = &vector.name;
        let (source, package) = (scratch.join(name), scratch.join(format!("{name}-package")));
        make(spec, &vector, &source, &package)?;
        let mut expected = facts(&package)?;
        let inputs = own::inputs(&expected);
        let request = json!({"do": "run", "package": package, "inputs": inputs});
        let answer = Own::new(spec).ask(&request).map_err(bad)?;
        if let Some(outputs) = answer["outputs"].as_object() {
            let short = outputs.iter().map(|(key, output)| {
                let first = numbers(&output["data"]).into_iter().take(N_OUTPUTS);
                let first: Vec<f32> = first.map(|x| x as f32).collect();
                (key.clone(), json!({"shape": output["shape"], "first": first}))
            });
            expected["outputs"] = Json::Object(short.collect::<Map<_, _>>());
            expected["inputs"] = inputs;
        }
        row["expected"] = expected;
        lines.push(format!("    {row}"));
    }
    let schema = file["schema"].take();
    Ok(format!("{{\n  \"schema\": {schema},\n  \"sources\": [\n{}\n  ]\n}}\n", lines.join(",\n")))
}

/// The error of a conversion that was refused.
fn refusal(failure: Failure) -> String {
    match failure {
        Failure::Error(err) => err.to_string(),
        Failure::Findings(found) => {
            let told = found.iter().map(|finding| format!("{}: {}", finding.rule, finding.message));
            told.collect::<Vec<_>>().join("; ")
        }
    }
}

/// Converts, as the vectors are converted.
fn convert_to(
    spec: &Spec,
    source: &Path,
    package: &Path,
    generic: bool,
    max_shard_bytes: Option<u64>,
) -> std::result::Result<(), String> {
    let request = Request { generic, max_shard_bytes, ..Request::new(spec, package, "std") };
    let opened = folder::open(source).map_err(|err: Error| err.to_string())?;
    convert::convert(opened, &request).map(drop).map_err(refusal)
}
