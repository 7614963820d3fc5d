//! The tensors of a model, read one at a time: under the names of its files, or under those of the
//! standard. Nothing is written.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::name::Name;
use crate::base::source::{Extent, Source};
use crate::checkpoint::{DType, Encoding, Tensor, n_elements};
use crate::convert::{self, Failure, Request};
use crate::exec::produce::Producer;
use crate::folder::Opened;
use crate::package::Model;
use crate::plan::program::{Input, Output};
use crate::plan::whole::{numbers, whole};
use crate::plan::{self, Decode, Tensors};
use crate::spec::Spec;

/// As much of a tensor is made at once.
const CHUNK_LEN: u64 = 4 << 20;

/// The tensors of a model that was opened.
#[non_exhaustive]
pub struct TensorReader {
    source: Source,
    kind: Kind,
    places: HashMap<Name, usize>,
    ties: BTreeMap<String, String>,
}

enum Kind {
    /// As the files have them, or the numbers that packed ones stand for.
    Stored { tensors: Vec<Tensor>, decode: bool },
    /// Made of those by a plan.
    Planned(Tensors),
}

/// What is known of a tensor without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The dtype of its elements; U8 where they are bytes of blocks.
    pub dtype: DType,
    /// Its dimensions, slowest first; of blocks the last one counts bytes.
    pub shape: Vec<u64>,
    /// How the values are packed, where the elements are bytes of blocks.
    pub encoding: Option<Encoding>,
}

impl TensorInfo {
    /// The number of bytes, or `None` if it passes `u64`.
    pub fn n_bytes(&self) -> Option<u64> {
        self.dtype.n_bytes(n_elements(&self.shape)?)
    }
}

/// Where the elements of a tensor lie in a file as they are: row-major, packed and little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The file.
    pub path: &'a Path,
    /// The length of that file in bytes, when it was opened.
    pub file_len: u64,
    /// The first byte.
    pub start: u64,
    /// The number of bytes.
    pub len: u64,
}

impl TensorReader {
    /// The tensors under the names that the files have. With `decode`, one that is packed, in blocks
    /// or in several tensors, is the numbers that it stands for.
    ///
    /// # Errors
    /// The config, which says how tensors are packed, cannot be read.
    pub fn stored(mut opened: Opened, decode: bool) -> Result<TensorReader> {
        let logical = if decode { opened.logical()? } else { None };
        let Opened { source, checkpoint, .. } = opened;
        let tensors: Vec<Tensor> = match (decode, logical) {
            (true, logical) => logical.unwrap_or(checkpoint).tensors,
            (false, _) => checkpoint.stored().cloned().collect(),
        };
        let places = tensors.iter().enumerate().map(|(place, of)| (of.name.clone(), place));
        let places = places.collect();
        let kind = Kind::Stored { tensors, decode };
        Ok(TensorReader { source, kind, places, ties: BTreeMap::new() })
    }

    /// What the model is, and its tensors under the names of the standard, made of those of the files
    /// as they are read. A tied tensor is found under both of its names. With `decode`, one that is
    /// packed is the numbers that it stands for.
    ///
    /// # Errors
    /// It cannot be read, or it cannot be brought to the standard.
    pub fn standard(
        mut opened: Opened,
        spec: &Spec,
        arch: Option<&str>,
        decode: bool,
    ) -> std::result::Result<(Model, TensorReader), Failure> {
        let (model, mut reader) = if opened.is_package {
            let (model, _) = convert::model_of(&mut opened, spec, arch)?;
            (model, TensorReader::stored(opened, decode)?)
        } else {
            let decode = if decode { Decode::All } else { Decode::Nothing };
            let plan = plan::Options { decode, ..plan::Options::default() };
            let request =
                Request { arch, plan, dry_run: true, ..Request::new(spec, Path::new(""), "std") };
            let planned = convert::canonical(&mut opened, &request)?;
            let mut model = planned.model;
            model.hyperparameters = spec.complete_hparams(&model.hyperparameters);
            let outputs = planned.tensors.outputs.iter().enumerate();
            let places = outputs.map(|(place, of)| (of.name.clone(), place)).collect();
            let kind = Kind::Planned(planned.tensors);
            let reader =
                TensorReader { source: opened.source, kind, places, ties: BTreeMap::new() };
            (model, reader)
        };
        let ties = model.ties.iter().map(|[tied, stored]| (tied.clone(), stored.clone()));
        reader.ties = ties.collect();
        Ok((model, reader))
    }

    /// The names of all tensors, in the order of the files or of the standard; of tied ones the one
    /// that is stored.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.kind {
            Kind::Stored { tensors, .. } => Box::new(tensors.iter().map(|of| of.name.as_str())),
            Kind::Planned(tensors) => Box::new(tensors.outputs.iter().map(|of| of.name.as_str())),
        }
    }

    /// Whether there is such a tensor, stored or tied.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<usize> {
        let stored = || self.places.get(self.ties.get(name)?.as_str());
        self.places.get(name).or_else(stored).copied()
    }

    /// How a tensor is read: the inputs and the output.
    fn plan(&self, name: &str) -> Result<(Cow<'_, [Input]>, Cow<'_, Output>)> {
        let place = self.find(name).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, format!("there is no tensor `{name}`"))
        })?;
        match &self.kind {
            Kind::Stored { tensors, decode: true } if tensors[place].encoding.is_some() => {
                let (input, output) = numbers(&tensors[place], 0)?;
                Ok((Cow::Owned(vec![input]), Cow::Owned(output)))
            }
            Kind::Stored { tensors, .. } => {
                let (inputs, output) = whole(&tensors[place], 0)?;
                Ok((Cow::Owned(inputs), Cow::Owned(output)))
            }
            Kind::Planned(tensors) => {
                Ok((Cow::Borrowed(&tensors.inputs), Cow::Borrowed(&tensors.outputs[place])))
            }
        }
    }

    /// What is known of a tensor without reading it.
    ///
    /// # Errors
    /// There is no such tensor; or its values cannot be had.
    pub fn info(&self, name: &str) -> Result<TensorInfo> {
        let stored = match (&self.kind, self.find(name)) {
            (Kind::Stored { tensors, decode }, Some(place)) => Some((&tensors[place], *decode)),
            _ => None,
        };
        // Of what is read as it lies there is nothing to plan.
        if let Some((tensor, decode)) = stored
            && !(decode && tensor.encoding.is_some())
        {
            let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
            return Ok(TensorInfo { dtype, shape, encoding: tensor.encoding.as_deref().cloned() });
        }
        let (_, output) = self.plan(name)?;
        let encoding = match &self.kind {
            Kind::Planned(tensors) => tensors.encodings.get(&output.name).cloned(),
            Kind::Stored { .. } => None,
        };
        Ok(TensorInfo { dtype: output.dtype, shape: output.shape.clone(), encoding })
    }

    /// Where a tensor lies in a file as it is read; `None` if its bytes lie in no file so.
    ///
    /// # Errors
    /// There is no such tensor; or its values cannot be had.
    pub fn place(&self, name: &str) -> Result<Option<Place<'_>>> {
        let extent = match (&self.kind, self.find(name)) {
            (Kind::Stored { tensors, decode }, Some(place))
                if !(*decode && tensors[place].encoding.is_some()) =>
            {
                tensors[place].packed_extent()
            }
            _ => {
                let (inputs, output) = self.plan(name)?;
                let producer = Producer::new(&self.source, &inputs, &output)?;
                let bytes = producer.borrow(0..producer.len());
                bytes.and_then(|bytes| self.source.extent_of(bytes))
            }
        };
        let Some(Extent { file, start, len }) = extent.filter(|at| self.source.is_on_disk(at.file))
        else {
            return Ok(None);
        };
        let file_len = self.source.extent(file).len;
        Ok(Some(Place { path: self.source.path(file), file_len, start, len }))
    }

    /// Reads a tensor into `bytes`, which has [`TensorInfo::n_bytes`]: row-major, packed,
    /// little-endian.
    ///
    /// # Errors
    /// There is no such tensor, its values cannot be had, or `bytes` has another length.
    pub fn read_into(&self, name: &str, bytes: &mut [u8]) -> Result<()> {
        let (inputs, output) = self.plan(name)?;
        let producer = Producer::new(&self.source, &inputs, &output)?;
        if producer.len() != bytes.len() as u64 {
            let message =
                format!("`{name}` has {} bytes, {} are wanted", producer.len(), bytes.len());
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        if let Some(stored) = producer.borrow(0..producer.len()) {
            return self.source.copy(stored, bytes);
        }
        let mut scratch = Vec::new();
        for range in producer.chunks(CHUNK_LEN) {
            let part = &mut bytes[range.start as usize..range.end as usize];
            scratch.resize(producer.scratch_len(part.len()), 0);
            producer.fill(range.start, part, &mut scratch)?;
        }
        Ok(())
    }

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// There is no such tensor, its values cannot be had, or there is no memory for it.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let n_bytes = self.info(name)?.n_bytes().and_then(|n| usize::try_from(n).ok());
        let mut bytes = Vec::new();
        let len = n_bytes.unwrap_or(usize::MAX);
        bytes.try_reserve_exact(len).map_err(|err| {
            Error::new(ErrorKind::Limit, format!("`{name}` of {len} bytes: {err}"))
        })?;
        bytes.resize(len, 0);
        self.read_into(name, &mut bytes)?;
        Ok(bytes)
    }

    /// Refuses files that were changed since they were opened.
    ///
    /// # Errors
    /// As [`Source::check_unchanged`].
    pub fn check_unchanged(&self) -> Result<()> {
        self.source.check_unchanged()
    }
}
