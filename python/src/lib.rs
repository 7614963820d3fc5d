//! The native half of the Python module `llmstd`: calls of the library, with JSON as text for what
//! becomes dicts. `python/llmstd/__init__.py` is what people import.

mod calls;
mod errors;
mod reader;
mod work;

use pyo3::prelude::*;

/// Calls of the library.
#[pymodule]
mod _llmstd {
    #[pymodule_export]
    use super::calls::{convert, diff, inspect, interface, main, manifest, validate, verify};
    #[pymodule_export]
    use super::errors::{Error, Refused};
    #[pymodule_export]
    use super::reader::{Reader, describe};
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
