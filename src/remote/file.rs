//! One file of a remote input, and which of its bytes are there.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::http::{Answer, Client, Place, Version, patiently};
use crate::base::error::Result;
use crate::format;

/// Weights are fetched by blocks of this length.
const BLOCK_LEN: u64 = 4 << 20;

/// So much is fetched of a file before anything is known of it; headers of most shards fit.
pub(super) const FIRST_LEN: u64 = 16 << 10;

/// Files up to this length are fetched whole when they are opened.
const MAX_WHOLE_LEN: u64 = 256 << 10;

/// Headers longer than this are not looked for: the file is fetched whole.
const MAX_HEADER_LEN: u64 = 256 << 20;

/// Files longer than this are not read.
const MAX_LEN: u64 = 1 << 44;

/// So much is asked for at once: an answer has a time in which it has to end.
const MAX_REQUEST_LEN: u64 = 64 << 20;

/// An answer that ends before this much of it came counts as one that failed.
const MIN_PROGRESS: u64 = 64 << 10;

/// A file as it was listed.
pub(super) struct Listed {
    pub(super) place: Place,
    pub(super) version: Version,
    /// Its first bytes, where they came with the list.
    pub(super) head: Vec<u8>,
}

pub(super) struct RemoteFile {
    place: Place,
    file: File,
    len: u64,
    name: String,
    state: Mutex<State>,
}

struct State {
    /// What it was at first; without a tag until the server gave one.
    version: Version,
    /// So many of its first bytes are there.
    prefix: u64,
    /// Which blocks are there.
    blocks: Vec<bool>,
}

impl RemoteFile {
    /// Makes a file of that length, with its first bytes, at a path.
    pub(super) fn create(path: &Path, listed: Listed) -> Result<RemoteFile> {
        let Listed { place, version, head } = listed;
        if MAX_LEN < version.len {
            let message = format!("has {} bytes, at most {MAX_LEN} are read", version.len);
            return Err(place.refusal(message));
        }
        let fail = |err: std::io::Error| place.error(format!("cannot be written down: {err}"));
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(fail)?;
        file.set_len(version.len).map_err(fail)?;
        write_at(&file, &head, 0).map_err(fail)?;
        let n_blocks = usize::try_from(version.len.div_ceil(BLOCK_LEN))
            .map_err(|_| place.refusal("is too long"))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let state = Mutex::new(State {
            prefix: head.len() as u64,
            blocks: vec![false; n_blocks],
            version: version.clone(),
        });
        Ok(RemoteFile { place, file, len: version.len, name, state })
    }

    /// Fetches the file, or its header where the format is one whose weights are asked for by ranges.
    /// How many of its first bytes are there.
    pub(super) fn open(&self, client: &Client) -> Result<u64> {
        let ending = self.name.rsplit('.').next().unwrap_or_default();
        match format::of_ending(ending).and_then(|format| format.header_len) {
            Some(header) if MAX_WHOLE_LEN < self.len => self.open_header(client, header),
            _ => self.fetch(client, 0..self.len).map(|()| self.len),
        }
    }

    fn open_header(&self, client: &Client, header: format::HeaderLen) -> Result<u64> {
        let mut want = FIRST_LEN;
        loop {
            let want_now = want.min(self.len);
            self.fetch_prefix(client, want_now)?;
            let head = self.read_head(want_now)?;
            match header(&head) {
                Some(len) if want_now < len && len <= self.len.min(MAX_HEADER_LEN) => want = len,
                None if want < self.len.min(MAX_HEADER_LEN) => want = want.saturating_mul(8),
                None if want < self.len => {
                    return self.fetch(client, 0..self.len).map(|()| self.len);
                }
                // What is wrong with a header that is longer than its file is said by its reader.
                _ => return Ok(want_now),
            }
        }
    }

    fn fetch_prefix(&self, client: &Client, end: u64) -> Result<()> {
        let start = self.lock().prefix;
        if start < end {
            self.load(client, start..end, end)?;
            let mut state = self.lock();
            state.prefix = state.prefix.max(end);
        }
        Ok(())
    }

    fn read_head(&self, len: u64) -> Result<Vec<u8>> {
        let mut head = vec![0; usize::try_from(len).unwrap_or(0)];
        read_at(&self.file, &mut head)
            .map_err(|err| self.place.error(format!("its copy cannot be read: {err}")))?;
        Ok(head)
    }

    /// Fetches those blocks of a range that are not there.
    pub(super) fn fetch(&self, client: &Client, bytes: Range<u64>) -> Result<()> {
        let bytes = bytes.start..bytes.end.min(self.len);
        if bytes.is_empty() || bytes.end <= self.lock().prefix {
            return Ok(());
        }
        let blocks = bytes.start / BLOCK_LEN..bytes.end.div_ceil(BLOCK_LEN);
        let mut missing: Vec<Range<u64>> = Vec::new();
        {
            let state = self.lock();
            for block in blocks {
                if state.blocks[block as usize] {
                    continue;
                }
                match missing.last_mut() {
                    Some(run) if run.end == block => run.end = block + 1,
                    _ => missing.push(block..block + 1),
                }
            }
        }
        for run in missing {
            if self.lock().blocks[run.start as usize..run.end as usize].iter().all(|there| *there) {
                continue;
            }
            let bytes = run.start * BLOCK_LEN..(run.end * BLOCK_LEN).min(self.len);
            self.load(client, bytes, self.len)?;
            let mut state = self.lock();
            state.blocks[run.start as usize..run.end as usize].fill(true);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets a range and writes it down, whatever is there. An answer that breaks off is asked for again
    /// from where it ended; one of a server that knows no ranges is read up to `end`.
    fn load(&self, client: &Client, bytes: Range<u64>, end: u64) -> Result<()> {
        let mut at = bytes.start;
        patiently(|| {
            while at < bytes.end {
                let before = at;
                let want = bytes.end.min(at.saturating_add(MAX_REQUEST_LEN));
                let answer = client.range(&self.place, &(at..want))?;
                let answer = answer.ok_or_else(|| self.place.refusal("is gone"))?;
                self.check(&answer)?;
                let is_whole = answer.n_bytes == self.len;
                let reached = answer.read(end, |place, bytes| {
                    write_at(&self.file, bytes, place)
                        .map_err(|err| self.place.error(format!("cannot be written down: {err}")))
                })?;
                if is_whole && reached == self.len {
                    let mut state = self.lock();
                    state.prefix = self.len;
                    state.blocks.fill(true);
                }
                at = at.max(reached);
                if at < want && at.saturating_sub(before) < MIN_PROGRESS {
                    return Err(self.place.error(format!(
                        "the answer breaks off at byte {at}, {} were asked for",
                        bytes.end - bytes.start
                    )));
                }
            }
            Ok(())
        })
    }

    /// Whether an answer is of the file that was listed.
    fn check(&self, answer: &Answer) -> Result<()> {
        let mut state = self.lock();
        state.version.check(&answer.version, &self.place)?;
        state.version.adopt(&answer.version);
        Ok(())
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, 0)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        (bytes, at) = (&bytes[n..], at + n as u64);
    }
    Ok(())
}

#[cfg(windows)]
fn read_at(file: &File, into: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        match std::os::windows::fs::FileExt::seek_read(file, &mut into[done..], done as u64)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => done += n,
        }
    }
    Ok(())
}
