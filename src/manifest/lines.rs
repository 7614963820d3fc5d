//! Reading and writing of the entries of a manifest, of which each stands on a line: many at a time.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write};
use std::ops::Range;

use rayon::prelude::*;
use serde::Serialize;

use super::entry::TensorEntry;
use crate::base::json;
use crate::base::source::{FileId, Source};

/// So many bytes of text are read at a time by a thread.
const ROOM: usize = 1 << 20;
/// So many items are written at a time by a thread.
const ITEMS: usize = 4096;
/// So many such parts are under way.
const PARTS: usize = 8;

/// The line that the entries begin behind, and how one begins, and how the line begins that ends them.
const BEGIN: &[u8] = b"  \"tensors\": [";
const INDENT: &[u8] = b"    ";
const END: &[u8] = b"  ]";

/// The entries of a manifest whose text has each on a line, and what is around them.
pub(super) struct Entries {
    pub(super) entries: Vec<TensorEntry>,
    /// The text with one entry, `mark`, in place of all.
    pub(super) around: Vec<u8>,
    /// An entry whose length is a number that nobody can guess: the list of the text that has it is the one that the
    /// entries are of.
    pub(super) mark: TensorEntry,
}

/// Reads the entries of a manifest that stand on lines, by several threads, and gives back the memory of the text
/// as it goes; `None` of any other text, which the caller reads as JSON.
pub(super) fn read(source: &Source, file: FileId) -> Option<Entries> {
    let text = source.bytes(file);
    let mut begin = 0;
    loop {
        let line = line(&text[begin..])?;
        begin += line.len() + 1;
        if line == BEGIN {
            break;
        }
    }
    let mut entries = Vec::new();
    let mut at = begin;
    let end = loop {
        let starts = std::iter::successors(Some(at), |start| next_part(text, *start));
        let starts: Vec<usize> = starts.take(PARTS).collect();
        let parts = starts.par_iter().map(|start| {
            let end = next_part(text, *start).unwrap_or(text.len());
            parse(text, *start..end)
        });
        let parts: Vec<Option<Lines>> = parts.collect();
        let mut end = None;
        for part in parts {
            let part = part?;
            entries.extend(part.entries);
            end = part.end;
            if end.is_some() {
                break;
            }
        }
        if let Some(end) = end {
            break end;
        }
        let next = next_part(text, *starts.last()?)?;
        if at == begin {
            // As many as the text has room for, so that a long list is not moved while it grows.
            let share = (next - begin).max(1);
            let more = entries.len().saturating_mul((text.len() - next).div_ceil(share));
            entries.reserve(more + more / 8);
        }
        at = next;
        source.forget(file, at as u64);
    };
    // A comma stands behind each but the last, which only here is known to be that.
    if text[..end].ends_with(b",\n") {
        return None;
    }
    let mut mark = TensorEntry::clone(entries.first()?);
    mark.len = RandomState::new().build_hasher().finish();
    let mark_text = serde_json::to_vec(&mark).ok()?;
    let around = [&text[..begin], &mark_text, b"\n", &text[end..]].concat();
    Some(Entries { entries, around, mark })
}

/// The bytes before the end of a line.
fn line(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    Some(&text[..end])
}

/// Where the part behind one begins, which a thread reads: at the beginning of a line.
fn next_part(text: &[u8], start: usize) -> Option<usize> {
    let end = start + ROOM;
    Some(end + line(text.get(end..)?)?.len() + 1)
}

/// Entries of some lines, and where the lines that are entries end.
struct Lines {
    entries: Vec<TensorEntry>,
    end: Option<usize>,
}

fn parse(text: &[u8], part: Range<usize>) -> Option<Lines> {
    let (mut entries, mut at) = (Vec::new(), part.start);
    while at < part.end {
        let line = line(&text[at..])?;
        if line.starts_with(END) {
            return Some(Lines { entries, end: Some(at) });
        }
        at += line.len() + 1;
        let entry = line.strip_prefix(INDENT)?;
        let entry = match entry.strip_suffix(b",") {
            Some(entry) => entry,
            None if text[at..].starts_with(END) => entry,
            None => return None,
        };
        let (entry_text, entry) = (entry, serde_json::from_slice::<TensorEntry>(entry).ok()?);
        // The keys of the entry itself are there once; what is any JSON is held to that here.
        if entry.encoding.is_some() {
            json::check(entry_text, 0).ok()?;
        }
        entries.push(entry);
    }
    Some(Lines { entries, end: None })
}

/// Writes an array, an item on a line.
pub(super) fn write<T: Serialize + Sync>(to: &mut impl Write, items: &[T]) -> io::Result<()> {
    to.write_all(b"[")?;
    for (number, some) in items.chunks(ITEMS * PARTS).enumerate() {
        let texts = some.par_chunks(ITEMS).map(|items| {
            let mut text = Vec::new();
            for item in items {
                text.extend_from_slice(b",\n    ");
                serde_json::to_writer(&mut text, item)?;
            }
            Ok(text)
        });
        let texts: Vec<Vec<u8>> = texts.collect::<io::Result<_>>()?;
        for (place, text) in texts.iter().enumerate() {
            // No comma stands before the first.
            to.write_all(if number == 0 && place == 0 { &text[1..] } else { text })?;
        }
    }
    to.write_all(if items.is_empty() { b"]" } else { b"\n  ]" })
}
