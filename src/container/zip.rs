//! The zip archive, read so that no two readers can disagree on what it holds.
//!
//! ```text
//! (local header, payload, descriptor)*  directory  [zip64 end, locator]  end
//! ```
//!
//! Readers of zip files differ where a file says a thing twice: with two members of one name,
//! torch takes the first and Python the last; some believe the local header, some the directory.
//! This one refuses every file in which the two places differ, members overlap, or bytes lie
//! between the directory and the end record.
//!
//! Spec: PKWARE `APPNOTE.TXT` 6.3.10, sections 4.3 to 4.5.

mod directory;
mod extra;
mod local;
mod member;
pub mod write;

use std::collections::BTreeMap;

use self::directory::{find_end, read_directory};
use self::extra::quote;
use self::local::check_local_header;
use crate::base::error::{Error, Result};

pub use self::local::LOCAL_SIGNATURE;
pub use self::member::{Member, Method};

/// The names and places of the members of a zip file.
#[derive(Debug)]
pub struct Zip {
    members: Vec<Member>,
    by_name: BTreeMap<String, usize>,
}

impl Zip {
    /// Reads the directory of a whole zip file and checks it against every local header.
    ///
    /// # Errors
    /// The file is no zip file, is cut short, or can be read in more than one way.
    pub fn read(bytes: &[u8]) -> Result<Zip> {
        let end = find_end(bytes)?;
        let entries = read_directory(bytes, &end)?;
        let mut members = Vec::with_capacity(entries.len());
        let mut by_name = BTreeMap::new();
        let mut spans = Vec::with_capacity(entries.len());
        for entry in entries {
            if by_name.insert(entry.name.clone(), members.len()).is_some() {
                let message = format!(
                    "two members are named {}; readers disagree on which of them counts",
                    quote(&entry.name)
                );
                return Err(Error::malformed(entry.at, message));
            }
            let start = check_local_header(bytes, &entry, end.directory_start)?;
            spans.push((entry.header_start, start.saturating_add(entry.packed_len)));
            members.push(Member {
                name: entry.name,
                method: entry.method,
                start,
                packed_len: entry.packed_len,
                len: entry.len,
                crc: entry.crc,
            });
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if let [before, after] = pair
                && after.0 < before.1
            {
                let message = format!(
                    "two members overlap: one ends at byte {:#x}, the next starts before it",
                    before.1
                );
                return Err(Error::malformed(after.0, message));
            }
        }
        Ok(Zip { members, by_name })
    }

    /// The members, in the order of the directory.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of this name.
    pub fn find(&self, name: &str) -> Option<&Member> {
        self.members.get(*self.by_name.get(name)?)
    }

    /// The names that differ from the name of an earlier member only in the case of letters.
    pub fn case_twins(&self) -> Vec<(&str, &str)> {
        let mut folded = BTreeMap::new();
        let mut twins = Vec::new();
        for member in &self.members {
            let first = *folded.entry(member.name.to_lowercase()).or_insert(member.name.as_str());
            if first != member.name {
                twins.push((first, member.name.as_str()));
            }
        }
        twins
    }
}

#[cfg(test)]
mod tests;
