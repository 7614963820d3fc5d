//! What the command line does, with its JSON as the result.

use std::ffi::OsString;
use std::path::PathBuf;

use llmstd::convert::Request;
use llmstd::diff::rules::Class;
use llmstd::folder::{How, Links};
use llmstd::format::Format;
use llmstd::package::Conformance;
use llmstd::plan::{self, Decode};
use llmstd::report::diff::Compared;
use llmstd::report::{Context, Report, Style};
use llmstd::rule::Selection;
use llmstd::validate::{Input, InputResult, Validation};
use llmstd::{Silent, Spec, ValidateOptions, Version, VersionOptions};
use pyo3::prelude::*;
use serde::Serialize;

use crate::errors::Fault;
use crate::work::{self, OnSignal, format, n_threads, spec};

/// A result as the command prints it.
fn report(report: &dyn Report, spec: &Spec) -> Result<String, Fault> {
    let style = Style { color: false, verbose: false };
    let root = std::env::current_dir().unwrap_or_default();
    Ok(report.json(&Context { spec, style, root, statistics: false })?)
}

fn text(value: &impl Serialize) -> Result<String, Fault> {
    Ok(serde_json::to_string(value)?)
}

/// The command line: `arguments` with the name of the program first. The exit status.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| llmstd::cli::main(arguments).code())
}

#[pyfunction]
#[pyo3(signature = (
    source, destination, *, to=None, arch=None, dtype=None, lossy=false, decode=false, quant=None,
    generic=false, force=false, verify=false, check_outputs=false, strict=false, dry_run=false,
    allow_no_tokenizer=false, max_shard_size=None, follow_links=true, format=None, config=None,
    step=None, threads=None, spec=None,
))]
#[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)] // They are keywords in Python.
pub(crate) fn convert(
    py: Python<'_>,
    source: PathBuf,
    destination: PathBuf,
    to: Option<String>,
    arch: Option<String>,
    dtype: Option<String>,
    lossy: bool,
    decode: bool,
    quant: Option<String>,
    generic: bool,
    force: bool,
    verify: bool,
    check_outputs: bool,
    strict: bool,
    dry_run: bool,
    allow_no_tokenizer: bool,
    max_shard_size: Option<u64>,
    follow_links: bool,
    format: Option<String>,
    config: Option<PathBuf>,
    step: Option<String>,
    threads: Option<usize>,
    spec: Option<String>,
) -> PyResult<String> {
    work::run(py, OnSignal::Cancel, move |cancel| {
        let spec = self::spec(spec.as_deref())?;
        let destination = llmstd::convert::strip_slash(&destination);
        let to = llmstd::convert::target(&destination, to.as_deref())?;
        let how = How {
            format: self::format(format.as_deref())?,
            links: if follow_links { Links::Follow } else { Links::Refuse },
            config: config.as_deref(),
            step: step.as_deref(),
            ..spec.how()
        };
        let dtype = dtype.as_deref().map(llmstd::convert::parse_dtype).transpose()?;
        let quantize = quant.as_deref().map(llmstd::convert::parse_quant).transpose()?;
        let decode = if decode { Decode::All } else { Decode::Nothing };
        let request = Request {
            arch: arch.as_deref(),
            generic,
            plan: plan::Options { dtype, lossy, decode, quantize, ..plan::Options::default() },
            max_shard_bytes: max_shard_size.or(llmstd::convert::max_shard_bytes(to, &destination)),
            n_threads: n_threads(threads),
            force,
            allow_no_tokenizer,
            verify,
            check_outputs,
            dry_run,
            strict,
            cancel: Some(cancel),
            ..Request::new(&spec, &destination, to)
        };
        let mut report = llmstd::convert(llmstd::open_as(&source, &how)?, &request)?;
        report.source = source.display().to_string();
        text(&report)
    })
}

#[pyfunction]
#[pyo3(signature = (
    paths, *, level=None, deep=false, files=false, select=Vec::new(), ignore=Vec::new(), format=None,
    threads=None, spec=None,
))]
#[allow(clippy::too_many_arguments)] // They are keywords in Python.
pub(crate) fn validate(
    py: Python<'_>,
    paths: Vec<PathBuf>,
    level: Option<String>,
    deep: bool,
    files: bool,
    select: Vec<String>,
    ignore: Vec<String>,
    format: Option<String>,
    threads: Option<usize>,
    spec: Option<String>,
) -> PyResult<String> {
    work::run(py, OnSignal::Leave, move |_| {
        let spec: Spec = self::spec(spec.as_deref())?;
        for rule in select.iter().chain(&ignore) {
            spec.check_rule(rule)?;
        }
        let selection = Selection { select, ignore };
        let options = ValidateOptions {
            level: level.as_deref().map(conformance).transpose()?,
            deep,
            whole_files: files,
            n_threads: n_threads(threads),
            format: self::format(format.as_deref())?,
            ..ValidateOptions::new(&selection)
        };
        let inputs = paths.into_iter().map(|path| {
            let result = match llmstd::validate(&path, &spec, &options) {
                Ok(report) => InputResult::Report(Box::new(report)),
                Err(err) => InputResult::Error(err.to_string()),
            };
            Input { path: path.display().to_string(), result }
        });
        report(&Validation::of(inputs.collect()), &spec)
    })
}

/// The level of a word.
fn conformance(word: &str) -> Result<Conformance, Fault> {
    let all = [Conformance::Container, Conformance::Schema, Conformance::Full];
    all.into_iter().find(|level| level.name() == word).ok_or_else(|| {
        Fault::Argument(format!("there is no level {word:?}: container, schema, full"))
    })
}

#[pyfunction]
#[pyo3(signature = (old, new, *, deep=false, arch=None, generic=false, format=None, threads=None, spec=None))]
#[allow(clippy::too_many_arguments)] // They are keywords in Python.
pub(crate) fn diff(
    py: Python<'_>,
    old: PathBuf,
    new: PathBuf,
    deep: bool,
    arch: Option<String>,
    generic: bool,
    format: Option<String>,
    threads: Option<usize>,
    spec: Option<String>,
) -> PyResult<String> {
    work::run(py, OnSignal::Leave, move |_| {
        let spec = self::spec(spec.as_deref())?;
        let format = self::format(format.as_deref())?;
        let options = versions(&spec, arch.as_deref(), generic, format, threads);
        let options = VersionOptions { rehash: deep, whole_files: false, ..options };
        let [old, new] = Version::open_two([&old, &new], &options).map_err(|(_, why)| why)?;
        let mut diff = llmstd::diff(&old, &new, &spec);
        if deep {
            llmstd::diff::deepen(&mut diff, &old, &new, &spec, options.n_threads, &Silent)?;
        }
        // Which class fails changes nothing of what is said.
        report(&Compared { diff: &diff, fail_on: Class::Breaking }, &spec)
    })
}

#[pyfunction]
#[pyo3(signature = (path, *, arch=None, generic=false, format=None, threads=None, spec=None))]
pub(crate) fn manifest(
    py: Python<'_>,
    path: PathBuf,
    arch: Option<String>,
    generic: bool,
    format: Option<String>,
    threads: Option<usize>,
    spec: Option<String>,
) -> PyResult<String> {
    work::run(py, OnSignal::Leave, move |_| {
        let spec = self::spec(spec.as_deref())?;
        let format = self::format(format.as_deref())?;
        let options = versions(&spec, arch.as_deref(), generic, format, threads);
        let options = VersionOptions { rehash: true, ..options };
        Ok(Version::open(&path, &options)?.manifest.to_text())
    })
}

fn versions<'a>(
    spec: &'a Spec,
    arch: Option<&'a str>,
    generic: bool,
    format: Option<&'static Format>,
    threads: Option<usize>,
) -> VersionOptions<'a> {
    let n_threads = n_threads(threads);
    VersionOptions { arch, generic, n_threads, format, ..VersionOptions::new(spec) }
}

#[pyfunction]
#[pyo3(signature = (path, *, format=None, config=None, step=None, spec=None))]
pub(crate) fn inspect(
    py: Python<'_>,
    path: PathBuf,
    format: Option<String>,
    config: Option<PathBuf>,
    step: Option<String>,
    spec: Option<String>,
) -> PyResult<String> {
    work::run(py, OnSignal::Leave, move |_| {
        let spec = self::spec(spec.as_deref())?;
        let how = work::how(format.as_deref(), config.as_deref(), step.as_deref(), &spec)?;
        text(&llmstd::inspect::inspect_as(&path, &how, &spec)?)
    })
}

#[pyfunction]
#[pyo3(signature = (path, *, name=None, arch=None, spec=None))]
pub(crate) fn interface(
    py: Python<'_>,
    path: PathBuf,
    name: Option<String>,
    arch: Option<String>,
    spec: Option<String>,
) -> PyResult<String> {
    work::run(py, OnSignal::Leave, move |_| {
        if let Some(name) = name.as_deref().filter(|name| !llmstd::interface::is_name(name)) {
            return Err(Fault::Argument(format!("{name:?} is no name: it has no / and no \\")));
        }
        let spec = self::spec(spec.as_deref())?;
        text(&llmstd::interface(&path, &spec, arch.as_deref(), name.as_deref())?)
    })
}

#[pyfunction]
#[pyo3(signature = (path, *, against=None, threads=None, spec=None))]
pub(crate) fn verify(
    py: Python<'_>,
    path: PathBuf,
    against: Option<PathBuf>,
    threads: Option<usize>,
    spec: Option<String>,
) -> PyResult<String> {
    work::run(py, OnSignal::Leave, move |_| {
        let spec = self::spec(spec.as_deref())?;
        let verified =
            llmstd::verify(&path, against.as_deref(), &spec, n_threads(threads), &Silent)?;
        report(&verified, &spec)
    })
}
