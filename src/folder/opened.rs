//! What was opened: a checkpoint, and what stands beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::list::{CONFIG_FILE, FolderFile};
use super::modules::listed;
use super::sentence_transformers::MODULES_FILE;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::json;
use crate::base::source::Source;
use crate::base::yaml;
use crate::checkpoint::Checkpoint;
use crate::encoding::layout::{self, Layouts};
use crate::format;

/// A checkpoint with the files around it.
#[non_exhaustive]
pub struct Opened {
    /// What was named: the folder, the weight file or the index.
    pub path: PathBuf,
    /// The files whose tensors are read.
    pub source: Source,
    /// The tensors.
    pub checkpoint: Checkpoint,
    /// Whether it is a package of the standard.
    pub is_package: bool,
    /// The files of the folder, sorted by path; all of them for a folder, those that belong to
    /// the checkpoint by their name for a file.
    pub files: Vec<FolderFile>,
    /// The weight files, in the order they are read.
    pub weights: Vec<String>,
    /// The names that files have for tensors that the checkpoint has under other ones.
    pub renamed: BTreeMap<String, String>,
    /// How libraries store one tensor as several, where it was said when it was opened.
    pub(super) layouts: Option<Arc<Layouts>>,
}

/// A text file that is read whole is not longer than this.
const MAX_TEXT_LEN: u64 = 256 << 20;

impl Opened {
    /// A checkpoint that is no package, under the names of its files.
    pub(super) fn new(
        path: &Path,
        source: Source,
        checkpoint: Checkpoint,
        files: Vec<FolderFile>,
        weights: Vec<String>,
    ) -> Opened {
        Opened {
            path: path.to_owned(),
            source,
            checkpoint,
            is_package: false,
            files,
            weights,
            renamed: BTreeMap::new(),
            layouts: None,
        }
    }

    fn layouts(&self) -> Arc<Layouts> {
        self.layouts.clone().unwrap_or_else(Layouts::carried)
    }

    /// Gives stored tensors other names, by their old ones.
    pub fn rename(&mut self, names: &BTreeMap<String, String>) {
        for tensor in &mut self.checkpoint.tensors {
            let Some(name) = names.get(&*tensor.name) else { continue };
            let old = std::mem::replace(&mut tensor.name, name.clone().into());
            let first = self.renamed.remove(&*old).unwrap_or(old.to_string());
            self.renamed.insert(name.clone(), first);
        }
    }

    /// The folders of the modules that sentence-transformers lists.
    pub fn module_folders(&self) -> Vec<String> {
        if !self.has(MODULES_FILE) {
            return Vec::new();
        }
        let listed = listed(&self.source);
        listed.map(|json| crate::folder::sentence_transformers::folders(&json)).unwrap_or_default()
    }

    /// The name that the files have for a tensor.
    pub fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
        self.renamed.get(name).map_or(name, String::as_str)
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == name)
    }

    /// The text of a file of the folder, if it is there.
    ///
    /// # Errors
    /// It cannot be read, is no UTF-8, or is too long to be text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        let Some(file) = self.files.iter().find(|file| file.name == name) else { return Ok(None) };
        let path = self.source.place(name);
        if MAX_TEXT_LEN < file.len {
            let message = format!("{} bytes of text, at most {MAX_TEXT_LEN} are read", file.len);
            return Err(Error::new(ErrorKind::Limit, message).in_file(&path));
        }
        let id = self.source.add(name)?;
        let text = String::from_utf8(self.source.bytes(id).to_vec());
        text.map(Some).map_err(|err| {
            let offset = err.utf8_error().valid_up_to() as u64;
            Error::malformed(offset, "is not UTF-8").in_file(&path)
        })
    }

    /// A file of the folder as JSON, if it is there; strict but for the infinite numbers of
    /// Python's configs.
    ///
    /// # Errors
    /// It cannot be read, or is no JSON.
    pub fn json(&mut self, name: &str) -> Result<Option<Json>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let path = self.source.place(name);
        if text.starts_with('\u{feff}') {
            let message = "begins with a byte order mark (BOM), which no JSON has; save it as UTF-8 \
                           without BOM";
            return Err(Error::malformed(0, message).in_file(&path));
        }
        json::parse_python(text.as_bytes(), 0).map(Some).map_err(|err| err.in_file(&path))
    }

    /// A file of the folder that is YAML, if it is there.
    ///
    /// # Errors
    /// It cannot be read, or is no YAML.
    pub fn yaml(&mut self, name: &str) -> Result<Option<Json>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let path = self.source.place(name);
        yaml::parse(text.as_bytes()).map(Some).map_err(|err| err.in_file(&path))
    }

    /// The checkpoint of a foreign folder with each tensor that is stored as several as the one
    /// that it is; `None` if it has none.
    ///
    /// # Errors
    /// The config, which says how they are stored, cannot be read.
    pub fn logical(&mut self) -> Result<Option<Checkpoint>> {
        if self.is_package || format::find(self.checkpoint.format).is_some_and(|of| of.is_complete)
        {
            return Ok(None);
        }
        let config = self.config()?.map(|(config, _)| config);
        Ok(layout::logical(&self.layouts(), &self.checkpoint, config.as_ref(), &self.source))
    }

    /// The config of a foreign folder and its text. Where it does not say how tensors are packed,
    /// and a file beside it does, with that.
    ///
    /// # Errors
    /// One of them cannot be read, or is no JSON.
    pub fn config(&mut self) -> Result<Option<(Json, String)>> {
        let Some(mut config) = self.json(CONFIG_FILE)? else { return Ok(None) };
        let layouts = self.layouts();
        if !layouts.is_told(&config) {
            for beside in &layouts.beside {
                if let Some(says) = self.json(&beside.file)? {
                    layouts.tell(&mut config, beside, says);
                    let text = serde_json::to_string_pretty(&config).expect("it was JSON");
                    return Ok(Some((config, text + "\n")));
                }
            }
        }
        let text = self.text(CONFIG_FILE)?;
        Ok(text.map(|text| (config, text)))
    }
}
