//! `llmstd spec conformance`: the vectors, asked of this program or of another one.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::author::conformance::{self, Own, Results, Subject};
use anyhow::Context as _;
use serde_json::Value as Json;

use super::{Format, Global, Status, output};

/// A program that answers one line of JSON with another.
struct Program {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    asked: u64,
}

impl Program {
    fn start(command: &str) -> anyhow::Result<Program> {
        let mut words = command.split_whitespace();
        let program = words.next().context("--reader is empty")?;
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().context("it has no output")?);
        Ok(Program { child, to, from, asked: 0 })
    }
}

impl Subject for Program {
    fn ask(&mut self, request: &Json) -> Result<Json, String> {
        self.asked += 1;
        let mut request = request.clone();
        request["id"] = self.asked.into();
        let to = self.to.as_mut().ok_or("it takes no input")?;
        writeln!(to, "{request}")
            .and_then(|()| to.flush())
            .map_err(|err| format!("it takes no more requests: {err}"))?;
        let mut line = String::new();
        let n_bytes = self.from.read_line(&mut line).map_err(|err| err.to_string())?;
        if n_bytes == 0 {
            return Err("it ended without an answer".to_owned());
        }
        let answer: Json =
            serde_json::from_str(&line).map_err(|err| format!("its answer is no JSON: {err}"))?;
        match answer["id"].as_u64() == Some(self.asked) {
            true => Ok(answer),
            false => Err(format!("its answer has the id {}, not {}", answer["id"], self.asked)),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.to.take();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(reader: Option<&str>, global: &Global) -> anyhow::Result<Status> {
    let spec = output::spec(global)?;
    let scratch = tempfile::tempdir().context("cannot make a scratch folder")?;
    let results = match reader {
        None => conformance::run(spec, &mut Own::new(spec), scratch.path())?,
        Some(command) => conformance::run(spec, &mut Program::start(command)?, scratch.path())?,
    };
    match global.format {
        Format::Json => output::print_json(&results)?,
        Format::Text => output::print(&text(&results))?,
    }
    Ok(if results.passed { Status::SUCCESS } else { Status::from(1) })
}

fn text(results: &Results) -> String {
    let mut table = output::table();
    table.set_header(["vectors", "passed", "failed", "not answered"]);
    for section in &results.sections {
        let n_failed = section.failures.len();
        let numbers = [section.passed, n_failed, section.unsupported].map(|n| n.to_string());
        let [passed, failed, unsupported] = numbers;
        table.add_row([section.name.clone(), passed, failed, unsupported]);
    }
    let mut text = format!("{}\n", table.trim_fmt());
    for section in &results.sections {
        for failure in &section.failures {
            let _ = writeln!(text, "\n{}: {failure}", section.name);
        }
    }
    let verdict = if results.passed { "holds" } else { "does not hold" };
    let _ = writeln!(text, "\nconformance to {} {verdict}", results.spec);
    text
}
