//! What stands around the tensors of a package or of a foreign checkpoint: files, configs, tokenizer,
//! chat templates.

use std::collections::BTreeMap;

use super::template::{KeyedTemplate, templates_of};
use crate::base::name::Name;
use crate::checkpoint::DType;
use crate::folder::{FolderFile, Opened};

/// What a folder holds beside what a plan would make of it.
#[derive(Default)]
pub struct Surroundings {
    /// All files with their lengths.
    pub files: BTreeMap<String, u64>,
    /// The files that the tensors were read from.
    pub weights: Vec<String>,
    /// The tensors as they are stored: names and dtypes, of parts each by itself.
    pub tensors: Vec<(Name, DType)>,
    /// The chat templates among the keys of the weight file.
    pub templates: Vec<KeyedTemplate>,
}

impl Surroundings {
    /// Files of which nothing is known but their names and lengths.
    pub fn of_files(files: &[FolderFile]) -> Surroundings {
        let files = files.iter().map(|file| (file.name.clone(), file.len)).collect();
        Surroundings { files, ..Surroundings::default() }
    }

    /// Those of a foreign checkpoint.
    pub fn of(opened: &Opened) -> Surroundings {
        let tensors = opened.checkpoint.tensors.iter();
        Surroundings {
            weights: opened.weights.clone(),
            tensors: tensors.map(|tensor| (tensor.name.clone(), tensor.dtype)).collect(),
            templates: opened.weights.first().map_or_else(Vec::new, |file| {
                templates_of(file, &opened.checkpoint.typed_metadata)
            }),
            ..Surroundings::of_files(&opened.files)
        }
    }
}
