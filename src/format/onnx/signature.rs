//! What a graph takes and gives.
//!
//! ```text
//! GraphProto 11 input, 12 output -> ValueInfoProto 1 name, 2 type -> 1 tensor -> 1 dtype, 2 shape -> 1 dim { 1 size }
//! ```

use std::collections::BTreeSet;

use crate::base::error::{Error, Result};
use crate::checkpoint::DType;
use crate::checkpoint::signature::{Signature, SignaturePort};
use crate::container::protobuf::{Field, walk};

/// More dimensions than these no value has.
const MAX_DIMS: usize = 64;
/// What the one signature of a graph is called.
const NAME: &str = "graph";

/// The ports of a graph as the file has them.
#[derive(Default)]
pub(super) struct Ports {
    inputs: Vec<SignaturePort>,
    outputs: Vec<SignaturePort>,
}

impl Ports {
    /// Adds what the message of an input says.
    pub(super) fn add_input(&mut self, bytes: &[u8], base: u64) -> Result<()> {
        self.inputs.push(port(bytes, base)?);
        Ok(())
    }

    /// Adds what the message of an output says.
    pub(super) fn add_output(&mut self, bytes: &[u8], base: u64) -> Result<()> {
        self.outputs.push(port(bytes, base)?);
        Ok(())
    }

    /// The signature, without the inputs that are tensors of the graph, as old ones list them.
    pub(super) fn signature(&self, tensors: &BTreeSet<&str>) -> Option<Signature> {
        let is_asked = |port: &&SignaturePort| !tensors.contains(port.name.as_str());
        let inputs: Vec<SignaturePort> = self.inputs.iter().filter(is_asked).cloned().collect();
        let outputs = self.outputs.clone();
        (!inputs.is_empty() && !outputs.is_empty()).then(|| Signature {
            name: NAME.to_owned(),
            inputs,
            outputs,
        })
    }
}

fn port(bytes: &[u8], base: u64) -> Result<SignaturePort> {
    let mut port = SignaturePort { name: String::new(), dtype: DType::Unknown, shape: None };
    for field in walk(bytes, base) {
        match field? {
            (1, Field::Bytes(name, _)) => port.name = String::from_utf8_lossy(name).into_owned(),
            (2, Field::Bytes(kind, at)) => {
                for field in walk(kind, at) {
                    let (1, Field::Bytes(tensor, at)) = field? else { continue };
                    tensor_type(tensor, at, &mut port)?;
                }
            }
            _ => {}
        }
    }
    Ok(port)
}

fn tensor_type(bytes: &[u8], base: u64, port: &mut SignaturePort) -> Result<()> {
    for field in walk(bytes, base) {
        match field? {
            (1, Field::Varint(number)) => {
                port.dtype = super::kind(number).map_or(DType::Unknown, |kind| kind.dtype);
            }
            (2, Field::Bytes(shape, at)) => {
                let mut dims = Vec::new();
                for field in walk(shape, at) {
                    let (1, Field::Bytes(dim, at)) = field? else { continue };
                    let mut size = None;
                    for field in walk(dim, at) {
                        if let (1, Field::Varint(number)) = field? {
                            size = i64::try_from(number).ok().map(|_| number);
                        }
                    }
                    if MAX_DIMS <= dims.len() {
                        return Err(Error::limit(at, format!("more than {MAX_DIMS} dimensions")));
                    }
                    dims.push(size);
                }
                port.shape = Some(dims);
            }
            _ => {}
        }
    }
    Ok(())
}
