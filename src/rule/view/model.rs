//! What rules ask of a model: its architecture, hyperparameters, layers, heads, and the tensors that it should have.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::{PackageView, Stored};
use crate::base::error::{Error, Result};
use crate::base::limits::Backing;
use crate::checkpoint::Encoding;
use crate::encoding::layout;
use crate::package::{Hparams, Value};
use crate::rule::NotChecked;
use crate::spec::arch::{Arch, Expected};
use crate::spec::hparams::Problem;
use crate::tokenizer::vocabulary::Vocabulary;

impl<'a> PackageView<'a> {
    /// The architecture.
    ///
    /// # Errors
    /// It is not known.
    pub fn arch(&self) -> Result<&'a Arch, NotChecked> {
        let id = self.model()?.architecture.as_deref();
        let spec = self.spec;
        id.and_then(|id| spec.arch(id)).ok_or(NotChecked::Blocked("the architecture is not known"))
    }

    /// The tensors of all files.
    ///
    /// # Errors
    /// A file cannot be read, so that tensors are missing here.
    pub fn all_tensors(&self) -> Result<&[Stored], NotChecked> {
        if self.shards.iter().any(|shard| shard.header.good().is_none()) {
            return Err(NotChecked::Blocked("a tensor file cannot be read"));
        }
        Ok(&self.tensors)
    }

    /// The hyperparameters, where they are as they should be.
    ///
    /// # Errors
    /// Something is wrong with them.
    pub fn hparams(&self) -> Result<&Hparams, NotChecked> {
        let hparams = &self.model()?.hyperparameters;
        if !self.problems()?.is_empty() {
            return Err(NotChecked::Blocked("the hyperparameters are wrong"));
        }
        Ok(hparams)
    }

    /// What is wrong with the hyperparameters of the model.
    ///
    /// # Errors
    /// There are none to look at.
    pub fn problems(&self) -> Result<&[Problem], NotChecked> {
        let (arch, hparams) = (self.arch()?, &self.model()?.hyperparameters);
        Ok(self.problems.get_or_init(|| self.spec.check_hparams(arch, hparams)))
    }

    /// The number of layers that a stack stores.
    pub fn n_layers(hparams: &Hparams, stack: &str) -> Option<u64> {
        // Where layers share their weights, fewer are stored than run.
        let stated = ["num_stored_layers", "num_layers"]
            .iter()
            .find_map(|key| hparams.get(&format!("{stack}.{key}")).or_else(|| hparams.get(*key)));
        match stated {
            Some(Value::Int(int)) => u64::try_from(*int).ok(),
            _ => None,
        }
    }

    /// The layers that tensors are stored of, each with its stack.
    ///
    /// # Errors
    /// A tensor file cannot be read.
    pub fn stored_layers(&self) -> Result<BTreeSet<(String, u64)>, NotChecked> {
        let layers = self.all_tensors()?.iter().filter_map(|tensor| {
            let role = self.spec.role(&tensor.name)?;
            Some((role.stack?, role.layer?))
        });
        Ok(layers.collect())
    }

    /// The layers that the hyperparameters count and no tensor is of.
    ///
    /// # Errors
    /// As [`PackageView::expected`].
    pub fn missing_layers(&self) -> Result<BTreeSet<(String, u64)>, NotChecked> {
        let stored = self.stored_layers()?;
        Ok(self.expected_layers()?.into_iter().filter(|layer| !stored.contains(layer)).collect())
    }

    /// The layers that have tensors by the hyperparameters, each with its stack: sublayers may be switched off one by
    /// one, and a layer of none has no tensors.
    ///
    /// # Errors
    /// As [`PackageView::expected`].
    pub fn expected_layers(&self) -> Result<BTreeSet<(String, u64)>, NotChecked> {
        let layers = self.expected()?.iter().filter_map(|tensor| {
            let role = self.spec.role(&tensor.name)?;
            Some((role.stack?, role.layer?))
        });
        Ok(layers.collect())
    }

    /// The rows of a head's projection, whether it is stored or tied.
    pub fn head_rows(&self, head: &str) -> Option<u64> {
        self.rows(&format!("heads.{head}.proj.weight"))
    }

    /// The number of rows of a map, also where it is tied to another one.
    pub fn rows(&self, name: &str) -> Option<u64> {
        let ties = self.model.good().into_iter().flat_map(|model| &model.ties);
        let target = ties.into_iter().find(|[tied, _]| *tied == name);
        let stored = target.map_or(name, |[_, target]| target);
        let tensor = self.tensor(stored)?;
        self.shape(tensor).first().copied()
    }

    /// The dimensions of a tensor's values, where it is of a known encoding; else its own.
    pub fn shape(&self, tensor: &Stored) -> Vec<u64> {
        let entry = self.model.good().and_then(|model| model.encodings.get(&*tensor.name));
        let encoding = entry.and_then(|entry| self.encoding(tensor, entry).ok());
        encoding.map_or_else(|| tensor.shape.clone(), |encoding| encoding.shape)
    }

    /// What a package says of a tensor of blocks or of parts, held against what is stored.
    ///
    /// # Errors
    /// It says what is not so, or names no encoding; the reason.
    pub fn encoding(&self, tensor: &Stored, entry: &Json) -> std::result::Result<Encoding, String> {
        let stored: Vec<layout::Stored<'_>> = self
            .spec
            .layouts
            .companions(&tensor.name, entry)
            .iter()
            .filter_map(|name| self.tensor(name))
            .chain([tensor])
            .map(|Stored { name, dtype, shape, .. }| layout::Stored { name, dtype: *dtype, shape })
            .collect();
        let find = |name: &str| stored.iter().position(|stored| stored.name == name);
        match self.spec.layouts.packaged(&tensor.name, entry, &stored, find)? {
            Some((encoding, ..)) => Ok(encoding),
            None => self.spec.encodings.encoding(entry, tensor.dtype, &tensor.shape),
        }
    }

    /// How many tensors there are; those of parts are one each.
    pub fn n_tensors(&self) -> usize {
        self.tensors.iter().filter(|tensor| self.whole_of(&tensor.name).is_none()).count()
    }

    /// The name of the tensor that a stored one is a part of, beside the payload.
    pub fn whole_of(&self, name: &str) -> Option<&str> {
        let (whole, _) = name.rsplit_once('.')?;
        let (whole, entry) = self.model.good()?.encodings.get_key_value(whole)?;
        self.spec.layouts.companions(whole, entry).iter().any(|part| part == name).then_some(whole)
    }

    /// The stored tensor of a name, the first of those that have it.
    pub fn tensor(&self, name: &str) -> Option<&Stored> {
        let places = self.places.get_or_init(|| {
            let tensors = self.tensors.iter().enumerate().rev();
            tensors.map(|(place, tensor)| (tensor.name.clone(), place)).collect()
        });
        self.tensors.get(*places.get(name)?).filter(|tensor| tensor.name == *name)
    }

    /// The names of tensors that are stored, and of those that are tied to one.
    pub fn present(&self) -> BTreeSet<&str> {
        let ties = self.model.good().into_iter().flat_map(|model| &model.ties);
        let tied = ties.map(|[tied, _]| tied.as_str());
        self.tensors.iter().map(|tensor| tensor.name.as_str()).chain(tied).collect()
    }

    /// The tensors that the architecture has under these hyperparameters.
    ///
    /// # Errors
    /// The architecture or the hyperparameters do not say.
    pub fn expected(&self) -> Result<&[Expected], NotChecked> {
        let hparams = self.hparams()?;
        let arch = self.arch()?;
        self.all_tensors()?;
        // A layer has one tensor at least: a claim of more layers is wrong, and not to be
        // written out.
        let n_tensors = self.tensors.len() as u64;
        let wrong = |stack: &String| {
            PackageView::n_layers(hparams, stack).is_some_and(|n_layers| n_tensors < n_layers)
        };
        if arch.stacks.iter().any(wrong) {
            return Err(NotChecked::Blocked("there are fewer tensors than layers"));
        }
        let expected = self.expected.get_or_init(|| {
            let backing = Backing::of(self.tensors.iter().map(|tensor| tensor.shape.as_slice()));
            self.spec.expected(arch, hparams, &self.present(), backing)
        });
        let why = NotChecked::Blocked("the hyperparameters do not say which tensors there are");
        expected.as_deref().map_err(|_| why)
    }

    /// What the files of the tokenizer say about ids, each with its name.
    pub fn vocabularies(&self) -> &[(String, Result<Vocabulary, Error>)] {
        self.vocabularies.get_or_init(|| {
            let known = self.files.keys().filter_map(|name| {
                let read = Vocabulary::reader(name)?;
                let path = self.source.place(name);
                let read = read(self.bytes(name)?).map_err(|err| err.in_file(&path));
                Some((name.clone(), read))
            });
            known.collect()
        })
    }
}
