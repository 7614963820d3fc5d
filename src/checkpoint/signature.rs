//! Signatures: what a file says that goes into its model, and what comes out.

use std::fmt;

use super::DType;

/// A function that a file says its model can be called by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Its name, `serving_default`.
    pub name: String,
    /// What it takes.
    pub inputs: Vec<SignaturePort>,
    /// What it gives.
    pub outputs: Vec<SignaturePort>,
}

/// One tensor that goes in or comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignaturePort {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions, of which some may be left to the caller; nothing where their number is too.
    pub shape: Option<Vec<Option<u64>>>,
}

impl fmt::Display for SignaturePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(shape) = &self.shape else {
            return write!(f, "{} {} [..]", self.name, self.dtype);
        };
        let dims = shape.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string()));
        write!(f, "{} {} [{}]", self.name, self.dtype, dims.collect::<Vec<_>>().join(","))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ports: &[SignaturePort]| {
            let ports: Vec<String> = ports.iter().map(SignaturePort::to_string).collect();
            ports.join(", ")
        };
        write!(f, "{} -> {}", list(&self.inputs), list(&self.outputs))
    }
}

/// How the keys of the metadata begin that have signatures as texts.
pub const METADATA_KEY: &str = "signature.";
