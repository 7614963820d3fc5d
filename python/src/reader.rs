//! The tensors of a model, and what it is.

use std::path::PathBuf;

use llmstd::folder::How;
use llmstd::{Spec, TensorReader};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use serde_json::json;

use crate::errors::Fault;
use crate::work::{self, OnSignal};

/// An opened model.
#[pyclass(frozen, module = "llmstd._llmstd")]
pub(crate) struct Reader {
    reader: TensorReader,
    /// The format of the files.
    #[pyo3(get)]
    format: String,
    /// Whether it is a package of the standard.
    #[pyo3(get)]
    is_package: bool,
    /// What it is, as JSON, where its tensors have the names of the standard.
    #[pyo3(get)]
    model: Option<String>,
}

/// Dtype, shape, and the id of the encoding of packed ones.
type Info = (&'static str, Vec<u64>, Option<String>);

/// File, its length, the first byte, and the number of bytes.
type Place = (PathBuf, u64, u64, u64);

#[pymethods]
impl Reader {
    #[new]
    #[pyo3(signature = (path, *, standard, decode, arch=None, format=None, config=None, step=None, spec=None))]
    #[allow(clippy::too_many_arguments)] // They are keywords in Python.
    fn new(
        py: Python<'_>,
        path: PathBuf,
        standard: bool,
        decode: bool,
        arch: Option<String>,
        format: Option<String>,
        config: Option<PathBuf>,
        step: Option<String>,
        spec: Option<String>,
    ) -> PyResult<Reader> {
        let open = move || -> Result<Reader, Fault> {
            // What is stored needs no standard.
            let spec = standard.then(|| work::spec(spec.as_deref())).transpose()?;
            let how = How {
                format: work::format(format.as_deref())?,
                config: config.as_deref(),
                step: step.as_deref(),
                ..spec.as_ref().map(Spec::how).unwrap_or_default()
            };
            let opened = llmstd::open_as(&path, &how)?;
            let (format, is_package) = (opened.checkpoint.format.to_owned(), opened.is_package);
            let Some(spec) = spec else {
                let reader = TensorReader::stored(opened, decode)?;
                return Ok(Reader { reader, format, is_package, model: None });
            };
            let (model, reader) = TensorReader::standard(opened, &spec, arch.as_deref(), decode)?;
            Ok(Reader { reader, format, is_package, model: Some(serde_json::to_string(&model)?) })
        };
        match standard {
            // Headers alone: a thread costs more than they do.
            false => py.detach(open).map_err(|fault| fault.raise(py)),
            true => work::run(py, OnSignal::Leave, move |_| open()),
        }
    }

    /// The names of all tensors.
    fn names(&self) -> Vec<&str> {
        self.reader.names().collect()
    }

    /// Whether there is such a tensor, stored or tied.
    fn has(&self, name: &str) -> bool {
        self.reader.has(name)
    }

    /// Dtype, shape and encoding of a tensor.
    fn info(&self, py: Python<'_>, name: &str) -> PyResult<Info> {
        let info = self.reader.info(name).map_err(|err| Fault::from(err).raise(py))?;
        Ok((info.dtype.name(), info.shape, info.encoding.map(|encoding| encoding.id)))
    }

    /// Where a tensor lies in a file as it is read, if it lies in one so.
    fn place(&self, py: Python<'_>, name: &str) -> PyResult<Option<Place>> {
        let place = self.reader.place(name).map_err(|err| Fault::from(err).raise(py))?;
        Ok(place.map(|at| (at.path.to_owned(), at.file_len, at.start, at.len)))
    }

    /// The bytes of a tensor: row-major, packed, little-endian.
    fn read<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyByteArray>> {
        let raise = |err: llmstd::Error| Fault::from(err).raise(py);
        let n_bytes = self.reader.info(name).map_err(raise)?.n_bytes();
        let len = n_bytes.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        PyByteArray::new_with(py, len, |bytes| {
            py.detach(|| self.reader.read_into(name, bytes)).map_err(raise)
        })
    }

    /// Raises if a file was changed since it was opened.
    fn check_unchanged(&self, py: Python<'_>) -> PyResult<()> {
        self.reader.check_unchanged().map_err(|err| Fault::from(err).raise(py))
    }
}

/// What a model is in the terms of the standard, as JSON: `model.json`, with every hyperparameter.
#[pyfunction]
#[pyo3(signature = (path, *, arch=None, format=None, config=None, step=None, spec=None))]
pub(crate) fn describe(
    py: Python<'_>,
    path: PathBuf,
    arch: Option<String>,
    format: Option<String>,
    config: Option<PathBuf>,
    step: Option<String>,
    spec: Option<String>,
) -> PyResult<String> {
    work::run(py, OnSignal::Leave, move |_| {
        let spec: Spec = work::spec(spec.as_deref())?;
        let how = work::how(format.as_deref(), config.as_deref(), step.as_deref(), &spec)?;
        let mut opened = llmstd::open_as(&path, &how)?;
        let (model, _) = llmstd::convert::model_of(&mut opened, &spec, arch.as_deref())?;
        Ok(json!(model).to_string())
    })
}
