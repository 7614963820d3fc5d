//! The conversion: open, plan, execute, write beside the destination, rename when whole.

mod canonical;
mod check;
pub(crate) mod components;
mod copies;
mod destination;
mod export;
mod facts;
mod foreign;
pub mod formats;
pub(crate) mod gguf;
mod intact;
mod job;
pub mod migrate;
mod modules;
mod outputs;
mod package;
mod ranks;
mod read;
mod report;
mod request;
mod same;
mod sidecar;
pub mod target;
mod tensor_reports;
mod unit;
pub mod units;
mod verify;
mod words;
mod write;

use self::foreign::to_foreign;
use self::package::{repack, to_std};
use crate::base::error::Error;
use crate::folder::Opened;

pub use self::canonical::model_of;
pub(crate) use self::canonical::{canonical, canonical_or_decoded, config_of, written_files};
pub(crate) use self::copies::generic_copies;
pub(crate) use self::intact::stored_checksums;
pub use self::read::read_model;
pub use self::report::{Report, Verified};
pub use self::request::{Failure, Progress, Request, STD, Silent};
pub(crate) use self::sidecar::sidecar_files;
pub use self::tensor_reports::{ReadRange, TensorReport, TensorReports};
pub use self::words::{max_shard_bytes, parse_dtype, parse_quant, parse_size, strip_slash, target};

/// Converts a checkpoint.
///
/// # Errors
/// It cannot be read, the plan is not complete, or the destination cannot be written. Nothing is
/// left under the destination's name then.
pub fn convert(mut opened: Opened, request: &Request<'_>) -> std::result::Result<Report, Failure> {
    // Planning asks nothing of the destination; the refusal comes early all the same.
    destination::check(&opened, request)?;
    check::flags(&mut opened, request)?;
    check::sidecars(&opened, request.spec)?;
    match (target::find(request.to), opened.is_package) {
        (Some(target), _) if target.keeps_names => same::write(&mut opened, request, target),
        (Some(target), _) => to_foreign(&mut opened, request, target),
        (None, is_package) if request.to == STD => match is_package {
            true => repack(&mut opened, request),
            false => to_std(&mut opened, request),
        },
        (None, _) => {
            let known: Vec<&str> = target::TARGETS.iter().map(|target| target.id).collect();
            let (to, known) = (request.to, known.join(", "));
            let message = format!("there is no format {to:?} to write: {STD}, {known}");
            Err(Error::unsupported(message).into())
        }
    }
}
