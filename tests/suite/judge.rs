//! A judge for scripts: one process that converts and computes whatever folders it is named.
//!
//! Each line of the standard input names a folder of a checkpoint with `oracle.json` beside it; each gets
//! a line of JSON: what became of it. `back` asks for the checkpoint that comes back out of the package,
//! `plan_only` for the plan alone.
//! `SPEC` names a folder of data files of one's own.

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use llmstd::base::diagnostic::Diagnostic;
use llmstd::convert::{Failure, Request, convert};
use llmstd::folder;
use llmstd::spec::Spec;
use serde_json::{Value as Json, json};

use crate::oracle::{Fixture, farthest, open, spec};

#[test]
#[ignore = "a tool of tests/oracle/probe.py, which writes to its standard input"]
fn judge() {
    let spec = spec();
    for line in std::io::stdin().lock().lines() {
        let job: Json = serde_json::from_str(&line.unwrap()).unwrap();
        let folder = Path::new(job["folder"].as_str().unwrap());
        let verdict = catch_unwind(AssertUnwindSafe(|| verdict(&spec, folder, &job)));
        let verdict = verdict.unwrap_or_else(|panic| {
            let why = panic.downcast_ref::<String>().cloned();
            json!({"verdict": "panic", "why": why.unwrap_or_default()})
        });
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{verdict}").unwrap();
        out.flush().unwrap();
    }
}

fn verdict(spec: &Spec, folder: &Path, job: &Json) -> Json {
    let scratch = tempfile::tempdir_in(folder.parent().unwrap()).unwrap();
    let package = scratch.path().join("std");
    let plan_only = job["plan_only"] == true;
    let findings = match converted(spec, folder, &package, "std", plan_only) {
        Ok(findings) => findings,
        Err(why) => return json!({"verdict": "refused", "why": why}),
    };
    if plan_only {
        return json!({"verdict": "planned", "findings": findings});
    }
    let oracle = std::fs::read_to_string(folder.join("oracle.json")).unwrap();
    let fixture = Fixture {
        name: folder.display().to_string(),
        checkpoint: package.clone(),
        oracle: serde_json::from_str(&oracle).unwrap(),
    };
    let far = open(spec, &package).and_then(|loaded| farthest::<f32>(&loaded, &fixture));
    let far = match far {
        Ok(far) => far,
        Err(why) => return json!({"verdict": "uncomputed", "why": why, "findings": findings}),
    };
    let mut back = Json::Null;
    if let Some(to) = job["back"].as_str() {
        // By what the package says alone, not by what is remembered of the source.
        std::fs::remove_file(package.join("source.json")).unwrap();
        back = match converted(spec, &package, Path::new(to), "hf", false) {
            Ok(_) => json!(true),
            Err(why) => json!(why),
        };
    }
    // The greatest first; what is no number is farther than any.
    let far = far.iter().max_by(|a, b| a.relative.abs().total_cmp(&b.relative.abs())).unwrap();
    json!({
        "verdict": "computed",
        "output": far.name,
        "relative": if far.relative.is_finite() { json!(far.relative) } else { json!("not finite") },
        "findings": findings,
        "back": back,
    })
}

/// Converts, and gives what there is to say of it: rule, key and message; or why it cannot be done.
fn converted(
    spec: &Spec,
    from: &Path,
    to: &Path,
    format: &str,
    dry_run: bool,
) -> Result<Json, String> {
    let told = |findings: &[Diagnostic]| -> Vec<String> {
        let told = findings.iter().filter(|finding| finding.rule != "P041").map(|finding| {
            let key = finding.key.as_deref().unwrap_or("");
            format!("{} {:?} {key}: {}", finding.rule, finding.level, finding.message)
        });
        told.collect()
    };
    let opened = folder::open(from).map_err(|err| err.to_string())?;
    match convert(opened, &Request { dry_run, ..Request::new(spec, to, format) }) {
        Ok(report) => Ok(json!(told(&report.findings))),
        Err(Failure::Error(err)) => Err(err.to_string()),
        Err(Failure::Findings(findings)) => Err(told(&findings).join("; ")),
    }
}
