//! Errors of the library as exceptions, with its own words.

use llmstd::Diagnostic;
use llmstd::convert::Failure;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

pyo3::create_exception!(
    llmstd,
    Error,
    PyException,
    "It could not be done. `kind` says whose fault that is: io (the system), malformed (the input), \
     unsupported (this program) or limit (it is too large)."
);
pyo3::create_exception!(
    llmstd,
    Refused,
    Error,
    "Something is wrong with the model. `findings` has what, as JSON: a list of dicts with rule, level, \
     message, file, tensor, key, expected, found and help, where they are known."
);

/// What a call of the library did not do.
pub(crate) enum Fault {
    Error(llmstd::Error),
    Findings(Vec<Diagnostic>),
    /// An argument, or a value that has no form in JSON.
    Argument(String),
}

impl From<llmstd::Error> for Fault {
    fn from(err: llmstd::Error) -> Fault {
        Fault::Error(err)
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Fault {
        match failure {
            Failure::Error(err) => Fault::Error(err),
            Failure::Findings(findings) => Fault::Findings(findings),
        }
    }
}

impl From<serde_json::Error> for Fault {
    fn from(err: serde_json::Error) -> Fault {
        Fault::Argument(err.to_string())
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Fault {
        Fault::Argument(message)
    }
}

impl Fault {
    /// The exception.
    pub(crate) fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            Fault::Argument(message) => pyo3::exceptions::PyValueError::new_err(message),
            Fault::Error(err) => {
                let raised = Error::new_err(err.to_string());
                with(py, raised, "kind", err.kind().as_str().to_owned())
            }
            Fault::Findings(findings) => {
                let words = findings.iter().map(|one| format!("{}: {}", one.rule, one.message));
                let raised = Refused::new_err(words.collect::<Vec<_>>().join("\n"));
                let raised = with(py, raised, "kind", "findings".to_owned());
                let json = serde_json::to_string(&findings).unwrap_or_else(|_| "[]".to_owned());
                match py.import("json").and_then(|of| of.call_method1("loads", (json,))) {
                    Ok(list) => match raised.value(py).setattr("findings", list) {
                        Ok(()) => raised,
                        Err(err) => err,
                    },
                    Err(err) => err,
                }
            }
        }
    }
}

/// An exception with one more attribute.
fn with(py: Python<'_>, raised: PyErr, name: &str, value: String) -> PyErr {
    match raised.value(py).setattr(name, value) {
        Ok(()) => raised,
        Err(err) => err,
    }
}
