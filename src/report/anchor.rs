//! The line of a text file that names what a finding is about. Weights show nothing in a review of
//! changes; the manifest beside them does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::base::diagnostic::Diagnostic;
use crate::base::source::Source;
use crate::folder::CONFIG_FILE;
use crate::package::{MANIFEST_FILE, MODEL_FILE};

/// A place in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The file, relative to the root of the report, with `/` between folders.
    pub path: String,
    /// The line, from 1; absent for a file that has none.
    pub line: Option<u64>,
    /// The file that it is about and the bytes there, where the anchor is another one.
    pub about: Option<(String, Option<[u64; 2]>)>,
}

/// Finds the lines of one input.
#[derive(Debug)]
pub struct Anchors {
    folder: PathBuf,
    shown: String,
    is_file: bool,
    /// Its own name, where it is one JSON file: a manifest alone.
    own: Option<String>,
    lines: HashMap<String, Option<Lines>>,
}

/// Where the keys and the names in a JSON file stand.
#[derive(Debug, Default)]
struct Lines {
    /// The line of each key and entry, by JSON pointer.
    pointers: HashMap<String, u64>,
    /// The line of each tensor and file, by its name.
    names: HashMap<String, u64>,
}

/// The files that name tensors, the best first.
const NAMING: &[&str] =
    &[MANIFEST_FILE, MODEL_FILE, "model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// Longer files are not searched: no review shows them.
const MAX_LEN: usize = 64 << 20;

/// What nests deeper has no lines: no file of ours does.
const MAX_DEPTH: usize = 64;

impl Anchors {
    /// For the input at `path`, which reports call `shown`.
    pub fn new(path: &Path, shown: &str) -> Anchors {
        let is_file = !path.is_dir();
        let folder = if is_file { path.parent().unwrap_or(path) } else { path };
        let name = path.file_name().filter(|_| is_file).and_then(|name| name.to_str());
        Anchors {
            own: name.filter(|name| name.ends_with(".json")).map(str::to_owned),
            folder: folder.to_owned(),
            shown: shown.to_owned(),
            is_file,
            lines: HashMap::new(),
        }
    }

    /// The place of a finding.
    pub fn of(&mut self, finding: &Diagnostic) -> Anchor {
        let about = finding.file.as_ref().map(|file| (self.join(file), finding.bytes));
        let anchor = |path: String, line: Option<u64>| Anchor {
            about: about.clone().filter(|(file, _)| *file != path),
            path,
            line,
        };
        if let Some(tensor) = &finding.tensor {
            let own = self.own.clone();
            for file in own.iter().map(String::as_str).chain(NAMING.iter().copied()) {
                if let Some(line) = self.lines(file).and_then(|lines| lines.names.get(tensor)) {
                    let line = *line;
                    return anchor(self.join(file), Some(line));
                }
            }
        }
        if let Some(file) = &finding.file
            && let Some(lines) = self.lines(file)
        {
            let key = finding.key.as_deref().unwrap_or_default();
            let line = lines.pointers.get(key).copied().unwrap_or(1);
            return anchor(self.join(file), Some(line));
        }
        if let Some(key) = &finding.key {
            let name = escape(key.strip_prefix("hyperparameters.").unwrap_or(key));
            let hyperparameter = format!("/hyperparameters/{name}");
            let pointers = [as_pointer(key), format!("/model{hyperparameter}"), hyperparameter];
            let own = self.own.clone();
            for file in own.iter().map(String::as_str).chain([MODEL_FILE, CONFIG_FILE]) {
                let Some(lines) = self.lines(file) else { continue };
                let line = pointers.iter().find_map(|pointer| lines.pointers.get(pointer));
                if let Some(&line) = line {
                    return anchor(self.join(file), Some(line));
                }
            }
        }
        if let Some(file) = &finding.file {
            if let Some(line) = self.lines(MANIFEST_FILE).and_then(|lines| lines.names.get(file)) {
                let line = *line;
                return anchor(self.join(MANIFEST_FILE), Some(line));
            }
            let line = self.is_text(file).then(|| self.line_at(file, finding.bytes));
            return anchor(self.join(file), line);
        }
        let own = self.own.clone();
        let files = [MANIFEST_FILE, MODEL_FILE, CONFIG_FILE];
        for file in own.iter().map(String::as_str).chain(files) {
            if let Some(lines) = self.lines(file) {
                let line = lines.pointers.get("/tensors").filter(|_| finding.tensor.is_some());
                let line = line.copied().unwrap_or(1);
                return anchor(self.join(file), Some(line));
            }
        }
        Anchor { path: self.shown.clone(), line: None, about: None }
    }

    /// The path of a file of the input.
    fn join(&self, file: &str) -> String {
        // Of a lone file, its neighbours are told beside it.
        let base = if self.is_file {
            self.shown.rsplit_once('/').map_or("", |(folder, _)| folder)
        } else {
            &self.shown
        };
        match base {
            "" | "." => file.to_owned(),
            base => format!("{}/{file}", base.trim_end_matches('/')),
        }
    }

    fn is_text(&self, file: &str) -> bool {
        let path = Path::new(file);
        let ends = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        ["json", "toml", "txt", "md", "py", "jinja", "yaml", "yml"].contains(&ends)
    }

    /// The line of a text file that some bytes begin in.
    fn line_at(&self, file: &str, bytes: Option<[u64; 2]>) -> u64 {
        let Some([start, _]) = bytes else { return 1 };
        let mut source = Source::inside(&self.folder);
        let text = source.add(file).map(|id| source.bytes(id)).unwrap_or_default();
        let before = text.iter().zip(0..start);
        before.filter(|(byte, _)| **byte == b'\n').count() as u64 + 1
    }

    /// The lines of a JSON file of the input, if it is there and can be read.
    fn lines(&mut self, file: &str) -> Option<&Lines> {
        let folder = &self.folder;
        let entry = self.lines.entry(file.to_owned()).or_insert_with(|| {
            let mut source = Source::inside(folder);
            let id = file.ends_with(".json").then(|| source.add(file).ok()).flatten()?;
            let text = source.bytes(id);
            (text.len() <= MAX_LEN).then(|| Lines::of(text))
        });
        entry.as_ref()
    }
}

/// A key with dots, or a pointer already, as a JSON pointer.
fn as_pointer(key: &str) -> String {
    if key.starts_with('/') { key.to_owned() } else { format!("/{}", escape(key)) }
}

/// A key as a part of a JSON pointer (RFC 6901).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Where the scan of a JSON text is.
enum Frame {
    /// In an object; `None` where a key comes next.
    Object(Option<String>),
    /// In an array, at the entry of this number.
    Array(usize),
}

impl Lines {
    /// Reads a JSON text. One that is not well-formed gives what stands before its fault.
    fn of(text: &[u8]) -> Lines {
        let mut lines = Lines::default();
        let mut stack: Vec<Frame> = Vec::new();
        let (mut at, mut line) = (0, 1);
        while let Some(&byte) = text.get(at) {
            match byte {
                b'\n' => line += 1,
                b'{' | b'[' if MAX_DEPTH <= stack.len() => return lines,
                b'{' | b'[' => {
                    if let Some(Frame::Array(_)) = stack.last() {
                        lines.pointers.insert(pointer(&stack), line);
                    }
                    let object = byte == b'{';
                    stack.push(if object { Frame::Object(None) } else { Frame::Array(0) });
                }
                b'}' | b']' => _ = stack.pop(),
                b',' => match stack.last_mut() {
                    Some(Frame::Object(key)) => *key = None,
                    Some(Frame::Array(index)) => *index += 1,
                    None => {}
                },
                b'"' => {
                    let Some(len) = string_len(&text[at..]) else { return lines };
                    let word: Option<String> = serde_json::from_slice(&text[at..at + len]).ok();
                    let Some(word) = word else { return lines };
                    lines.string(&mut stack, word, line);
                    at += len - 1;
                }
                _ => {}
            }
            at += 1;
        }
        lines
    }

    /// Takes a string: a key, or a value.
    fn string(&mut self, stack: &mut [Frame], word: String, line: u64) {
        // `weight_map` of an index has the names of tensors as keys.
        let in_map = matches!(stack, [Frame::Object(Some(map)), _] if map == "weight_map");
        match stack.last_mut() {
            Some(Frame::Object(key @ None)) => {
                if in_map {
                    self.names.entry(word.clone()).or_insert(line);
                }
                *key = Some(word);
                self.pointers.insert(pointer(stack), line);
            }
            Some(Frame::Object(Some(key))) if key == "name" || key == "path" => {
                self.names.entry(word).or_insert(line);
            }
            _ => {}
        }
    }
}

/// The length of the string literal that a text begins with, with its quotes.
fn string_len(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn pointer(stack: &[Frame]) -> String {
    let mut pointer = String::new();
    for frame in stack {
        pointer.push('/');
        match frame {
            Frame::Object(key) => pointer.push_str(&escape(key.as_deref().unwrap_or_default())),
            Frame::Array(index) => pointer.push_str(&index.to_string()),
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_names_have_the_line_they_stand_in() {
        let text =
            "{\n \"a/b\": {\"x\": [1,\n {\"name\": \"t\\\"\\u0041\"}]},\n\n \"c\": \"name\"\n}";
        let lines = Lines::of(text.as_bytes());
        assert_eq!(lines.names["t\"A"], 3);
        for (pointer, line) in [("/a~1b", 2), ("/a~1b/x", 2), ("/a~1b/x/1", 3), ("/c", 5)] {
            assert_eq!(lines.pointers[pointer], line, "{pointer}");
        }
        assert_eq!(lines.names.len(), 1);
        assert!(Lines::of("[".repeat(200_000).as_bytes()).pointers.len() <= MAX_DEPTH);
        // Cut anywhere, it ends.
        for end in 0..text.len() {
            Lines::of(&text.as_bytes()[..end]);
        }
    }
}
