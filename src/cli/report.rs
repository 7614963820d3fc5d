//! Where reports go, and in which form.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::base::mirror;
use crate::report::{Context, FORMATS, Format, Report, format};
use crate::spec::Spec;
use anyhow::Context as _;

use super::{Global, output};

/// Arguments of the commands whose results have every form.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Write the result of --format there instead of printing it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also write the result in another form: sarif=out.sarif; may be given again
    #[arg(long, value_name = "FORMAT=FILE", value_parser = report_to)]
    report: Vec<ReportTo>,
    /// End text with how often each rule is broken
    #[arg(long)]
    statistics: bool,
}

/// A form, and the file it goes to.
#[derive(Clone)]
struct ReportTo {
    format: &'static Format,
    file: PathBuf,
}

fn report_to(word: &str) -> Result<ReportTo, String> {
    let known = || FORMATS.iter().map(|format| format.id);
    let all = known().collect::<Vec<_>>().join(", ");
    let Some((id, file)) = word.split_once('=').filter(|(_, file)| !file.is_empty()) else {
        return Err(format!("write FORMAT=FILE, as sarif=out.sarif; formats are {all}"));
    };
    let unknown = || {
        let meant = crate::base::near::did_you_mean(id, known());
        format!("there is no format {id:?}{meant}; there are {all}")
    };
    Ok(ReportTo { format: format(id).ok_or_else(unknown)?, file: PathBuf::from(file) })
}

impl Args {
    /// Prints and writes a result in each form that was asked for.
    pub(crate) fn write(
        &self,
        report: &dyn Report,
        spec: &Spec,
        global: &Global,
    ) -> anyhow::Result<()> {
        let all = || self.report.iter().map(|to| to.format).chain([global.report]);
        anyhow::ensure!(
            !self.statistics || all().any(|format| format.id == "text"),
            "--statistics ends the text report, and none is written: add --format text or \
             --report text=FILE; programs count the findings of --format json"
        );
        let context = |style| Context {
            spec,
            style,
            root: std::env::current_dir().unwrap_or_default(),
            statistics: self.statistics,
        };
        let plain = crate::report::Style { color: false, ..global.style() };
        // A file that cannot be written does not keep the result from the others.
        let printed = match &self.output {
            Some(file) => put(file, &(global.report.render)(report, &context(plain))?),
            None => output::print_data(&(global.report.render)(report, &context(global.style()))?),
        };
        let written = self
            .report
            .iter()
            .map(|ReportTo { format, file }| put(file, &(format.render)(report, &context(plain))?));
        let written: Vec<anyhow::Result<()>> = written.collect();
        written.into_iter().fold(printed, anyhow::Result::and)
    }
}

/// Writes a text under a name, which it has when it is whole.
pub(crate) fn put(file: &Path, text: &str) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", file.display());
    // What is there and is no file, a pipe or a terminal, is written to.
    if file.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return std::fs::write(file, mirror::told(text).as_bytes()).with_context(cannot);
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // Less the umask.
    let whole = builder.tempfile_in(folder.unwrap_or(Path::new(".")));
    let mut whole = whole.with_context(cannot)?;
    whole.write_all(mirror::told(text).as_bytes()).with_context(cannot)?;
    whole.persist(file).with_context(cannot)?;
    Ok(())
}
