//! The files of the modules that sentence-transformers lists: where the transformer lies, and the
//! weights of what follows it.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::choose::ending;
use super::join::Joined;
use super::list::CONFIG_FILE;
use super::list::FolderFile;
use super::sentence_transformers::{self, MODULES_FILE};
use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::base::json;
use crate::base::source::Source;
use crate::checkpoint::Checkpoint;
use crate::format::{self, read_file};

/// The files that may belong to a weight file that was named by itself: those of its folder, and those of
/// the modules that the folder lists. What lies in other folders is of other models.
pub(super) fn beside(source: &Source, files: Vec<FolderFile>) -> Result<Vec<FolderFile>> {
    let mut folders = vec![TEMPLATES.to_owned()];
    if files.iter().any(|file| file.name == MODULES_FILE) {
        folders.extend(sentence_transformers::folders(&listed(source)?));
    }
    let belongs = |file: &FolderFile| match file.name.rsplit_once('/') {
        None => true,
        Some((folder, _)) => folders.iter().any(|of| of.trim_end_matches('/') == folder),
    };
    Ok(files.into_iter().filter(belongs).collect())
}

/// What `modules.json` lists.
pub(super) fn listed(source: &Source) -> Result<Json> {
    let mut source = source.again();
    let id = source.add(MODULES_FILE)?;
    json::parse(source.bytes(id), 0).map_err(|err| err.in_file(source.path(id)))
}

/// The folder of further chat templates.
const TEMPLATES: &str = "additional_chat_templates";

/// Lays out a folder of the first releases of sentence-transformers as later ones write it: there the
/// transformer lies in a folder of its own, as the other modules do.
pub(super) fn lay_out(
    source: &mut Source,
    files: Vec<FolderFile>,
    checkpoint: &mut Checkpoint,
) -> Result<Vec<FolderFile>> {
    let has = |name: &str| files.iter().any(|file| file.name == name);
    let has_weights = |file: &FolderFile| {
        !file.name.contains('/') && format::of_ending(ending(&file.name)).is_some()
    };
    if !has(MODULES_FILE) || files.iter().any(has_weights) {
        return Ok(files);
    }
    let Some((home, listed)) = sentence_transformers::at_home(&listed(source)?) else {
        return Ok(files);
    };
    if !has(&format!("{home}/{CONFIG_FILE}")) {
        return Ok(files);
    }
    let text = serde_json::to_string_pretty(&listed).expect("it was JSON") + "\n";
    let replaced = BTreeMap::from([(MODULES_FILE.to_owned(), text.clone().into_bytes())]);
    source.lay_out(home.as_ref(), replaced);
    let message =
        format!("the transformer lies in `{home}`; its files are read as the folder's own");
    checkpoint.findings.push(Diagnostic::note("R017", message).file(MODULES_FILE));
    let mut laid: BTreeMap<String, u64> = BTreeMap::new();
    let below = format!("{home}/");
    let (of_home, rest): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|file| file.name.starts_with(&below));
    laid.extend(rest.into_iter().map(|file| (file.name, file.len)));
    laid.extend(of_home.into_iter().map(|file| (file.name[below.len()..].to_owned(), file.len)));
    laid.insert(MODULES_FILE.to_owned(), text.len() as u64);
    Ok(laid.into_iter().map(|(name, len)| FolderFile { name, len }).collect())
}

/// Reads the weights of the modules that follow a transformer, which lie in folders of their own.
pub(super) fn read_modules(
    source: &mut Source,
    files: &[FolderFile],
    checkpoint: &mut Checkpoint,
    weights: &mut Vec<String>,
) -> Result<()> {
    if !files.iter().any(|file| file.name == MODULES_FILE) {
        return Ok(());
    }
    let listed = listed(source)?;
    for (index, path) in sentence_transformers::dense_paths(&listed).iter().enumerate() {
        let names =
            sentence_transformers::DENSE_WEIGHTS.iter().map(|name| format!("{path}/{name}"));
        let found = names.into_iter().find(|name| files.iter().any(|file| file.name == *name));
        let Some(name) = found else { continue };
        let id = source.add(&name)?;
        let mut part = read_file(source, id, None)?;
        for tensor in &mut part.tensors {
            tensor.name = sentence_transformers::dense_name(index + 1, &tensor.name).into();
        }
        // The container is that of the transformer.
        part.format = checkpoint.format;
        let mut joined = Joined::new(std::mem::take(checkpoint));
        joined.append(part, &name);
        *checkpoint = joined.finish()?;
        weights.push(name);
    }
    Ok(())
}
