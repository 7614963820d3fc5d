//! What `torch.save` wrote as a whole, for readers that know what a program puts where.

use super::archive::Archive;
use super::storage::Storages;
use super::{report_globals, tensor};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::{Extent, Source};
use crate::checkpoint::Tensor;
use crate::format::pickle::{NodeId, Pickle};

/// An object of a file, none of which was run.
pub struct Object<'o> {
    /// The recorded object.
    pub pickle: &'o Pickle<'o>,
    storages: &'o Storages,
}

/// Reads the object of an archive that is a file or a part of one. A pickle that calls what no
/// checkpoint needs is refused.
///
/// # Errors
/// The archive or its pickle is broken or calls such a function, or `read` fails. The error names the
/// file.
pub fn read<T>(
    source: &Source,
    extent: Extent,
    read: impl FnOnce(&Object<'_>) -> Result<T>,
) -> Result<T> {
    let open = || {
        let archive = Archive::open(source, extent)?;
        let (pickle, _) = archive.pickle()?;
        refuse_calls(&pickle)?;
        read(&Object { pickle: &pickle, storages: &archive.storages })
    };
    open().map_err(|err| {
        let err = match extent.start {
            0 => err,
            start => err.context(&format!("the entry at byte {start}")),
        };
        err.in_file(source.path(extent.file))
    })
}

/// Refuses a pickle that calls what no checkpoint needs.
///
/// # Errors
/// It does; the error has the name of the function.
pub fn refuse_calls(pickle: &Pickle<'_>) -> Result<()> {
    let mut findings = Vec::new();
    report_globals(pickle, &mut findings);
    refused(&findings).map_or(Ok(()), Err)
}

/// The error of the first finding on a call that no checkpoint needs.
pub fn refused(findings: &[Diagnostic]) -> Option<Error> {
    let found = findings
        .iter()
        .find(|found| found.level == Level::Error && found.rule == super::rule::OPAQUE_GLOBAL)?;
    Some(Error::new(ErrorKind::Malformed, found.message.clone()))
}

impl Object<'_> {
    /// The tensor that a node is, under no name.
    pub fn tensor(&self, id: NodeId) -> Option<Tensor> {
        Some(tensor::read(self.pickle, self.storages, id)?.named(String::new()))
    }
}
