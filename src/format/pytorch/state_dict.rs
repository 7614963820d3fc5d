//! From the object of a file to named tensors: wrappers, modules and nesting.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::format::pickle::{Node, NodeId, Object, Pickle};
use crate::format::wrappers::{MAX_WRAPPERS, NO_WEIGHTS, WRAPPERS};

use super::storage::Storages;
use super::{cut, names, quote, quote_global, rule, tensor};

/// How deep values may be nested.
const MAX_DEPTH: usize = 128;

/// The longest name of a tensor; those of deep models take some hundred bytes.
const MAX_NAME_LEN: usize = 1 << 16;

/// The most bytes that all names together may take: a small pickle can spell many, by sharing.
const MAX_NAMES_LEN: usize = 256 << 20;

/// The most keys that the finding on left-out keys spells out.
const MAX_SHOWN_KEYS: usize = 20;

/// The most keys that are reported to stand twice.
const MAX_REPORTED_KEYS: usize = 20;

/// The name of a tensor that is the whole file.
const ONLY_TENSOR: &str = "tensor";

/// Finds the state dict of a pickle and adds its tensors to the checkpoint.
///
/// # Errors
/// The values are nested or shared beyond the limits.
pub(super) fn read(
    pickle: &Pickle<'_>,
    storages: &Storages,
    checkpoint: &mut Checkpoint,
) -> Result<()> {
    let mut walk = Walk {
        pickle,
        storages,
        tensors: Vec::new(),
        findings: Vec::new(),
        path: Vec::new(),
        name: String::new(),
        // Every value is visited once, or a few times where a file shares values.
        n_visits_left: pickle.nodes().len().saturating_mul(4).saturating_add(1000),
        names_len_left: MAX_NAMES_LEN,
    };
    let mut left_out = Vec::new();
    let (root, wrapper) = walk.unwrap(pickle.root(), &mut left_out)?;
    walk.read_root(root, &wrapper, &mut left_out)?;
    let left_out = walk.report_left_out(&left_out);
    let Walk { mut tensors, mut findings, .. } = walk;

    if !wrapper.is_empty() {
        let wrapper = wrapper.join(".");
        let message = format!("the state dict is the value of the key {}", quote(&wrapper));
        findings.push(Diagnostic::note(rule::WRAPPER_STRIPPED, message).key(&wrapper));
        checkpoint.metadata.insert("pytorch.wrapper".to_owned(), wrapper);
    }
    findings.extend(left_out);
    let stripped = names::strip_prefixes(&mut tensors);
    if !stripped.is_empty() {
        let stripped = stripped.join(" ");
        let message = format!("the names are given without {}", quote(&stripped));
        findings.push(Diagnostic::note(rule::WRAPPER_STRIPPED, message).key(&stripped));
        checkpoint.metadata.insert("pytorch.prefix".to_owned(), stripped);
    }
    names::keep_first_of_each(&mut tensors, &mut findings);
    checkpoint.tensors = tensors;
    checkpoint.findings.append(&mut findings);
    Ok(())
}

struct Walk<'w, 'a> {
    pickle: &'w Pickle<'a>,
    storages: &'w Storages,
    tensors: Vec<Tensor>,
    findings: Vec<Diagnostic>,
    /// The values around the one that is visited.
    path: Vec<NodeId>,
    /// The keys that lead to it.
    name: String,
    n_visits_left: usize,
    names_len_left: usize,
}

/// A value and the key that leads to it.
type Entry = (String, NodeId);

impl<'w> Walk<'w, '_> {
    /// Goes down the wrappers of a state dict; gives their keys too.
    fn unwrap(
        &mut self,
        root: NodeId,
        left_out: &mut Vec<Entry>,
    ) -> Result<(NodeId, Vec<&'static str>)> {
        let mut root = root;
        let mut wrapper = Vec::new();
        while wrapper.len() < MAX_WRAPPERS && self.module(root)?.is_none() {
            let entries = match self.pickle.sequence(root) {
                Some(_) => break,
                None => self.entries(root)?.unwrap_or_default(),
            };
            let chosen = WRAPPERS.iter().find_map(|wrapper| {
                let (_, value) = entries.iter().find(|(key, _)| key == wrapper)?;
                let wraps = !tensor::is_tensor(self.pickle, *value) && self.has_tensor(*value);
                wraps.then_some((*wrapper, *value))
            });
            let Some((key, value)) = chosen else { break };
            let others = entries.into_iter().filter(|(other, _)| other != key);
            left_out.extend(others.map(|(other, value)| (under(&wrapper, other), value)));
            wrapper.push(key);
            root = value;
        }
        Ok((root, wrapper))
    }

    /// Lists the tensors of the state dict, and the top-level keys without any.
    fn read_root(
        &mut self,
        root: NodeId,
        wrapper: &[&str],
        left_out: &mut Vec<Entry>,
    ) -> Result<()> {
        if tensor::is_tensor(self.pickle, root) {
            ONLY_TENSOR.clone_into(&mut self.name);
            return self.visit(root);
        }
        let is_module = self.module(root)?.is_some();
        let Some(entries) = self.entries(root)? else {
            left_out.push(("(the whole object)".to_owned(), root));
            return Ok(());
        };
        self.path.push(root);
        for (key, value) in entries {
            let n_before = self.tensors.len();
            let weights = tensor::is_tensor(self.pickle, value) || !NO_WEIGHTS.contains(&&*key);
            if weights {
                self.visit_entry(&key, value)?;
            }
            if n_before == self.tensors.len() && !is_module {
                left_out.push((under(wrapper, key), value));
            }
        }
        self.path.pop();
        Ok(())
    }

    fn report_left_out(&self, left_out: &[Entry]) -> Option<Diagnostic> {
        // Only what is shown is searched for tensors.
        let shown = left_out.get(..MAX_SHOWN_KEYS).unwrap_or(left_out);
        let more = match left_out.len() - shown.len() {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let shown: Vec<String> =
            shown.iter().map(|(key, value)| self.describe(key, *value)).collect();
        let message =
            format!("these top-level keys are not read as weights: {}{more}", shown.join(", "));
        (!shown.is_empty()).then(|| Diagnostic::note(rule::LEFT_OUT_KEYS, message))
    }

    /// Names a value that is left out, for a person.
    fn describe(&self, key: &str, value: NodeId) -> String {
        let kind = match self.pickle.node(value) {
            _ if tensor::is_tensor(self.pickle, value) => {
                return format!("{} (a tensor)", quote(key));
            }
            Node::Object(Object { callable, .. }) => match self.pickle.class_of(*callable) {
                Some((module, name)) => quote_global(module, name),
                None => "an object".to_owned(),
            },
            _ => self.pickle.kind(value).to_owned(),
        };
        let with = if self.has_tensor(value) { " with tensors" } else { "" };
        format!("{} ({kind}{with})", quote(key))
    }

    fn visit_entry(&mut self, key: &str, value: NodeId) -> Result<()> {
        let parent_len = self.name.len();
        if parent_len != 0 {
            self.name.push('.');
        }
        self.name.push_str(key);
        if MAX_NAME_LEN < self.name.len() {
            let message = format!("a name passes the limit of {MAX_NAME_LEN} bytes");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        self.visit(value)?;
        self.name.truncate(parent_len);
        Ok(())
    }

    fn visit(&mut self, id: NodeId) -> Result<()> {
        self.spend_visits(1)?;
        if let Some(entry) = tensor::read(self.pickle, self.storages, id) {
            self.spend_names(self.name.len())?;
            self.tensors.push(entry.named(self.name.clone()));
            return Ok(());
        }
        if self.path.contains(&id) {
            let message = format!("the value of {} contains itself", quote(&self.name));
            if !self.findings.iter().any(|finding| finding.rule == rule::CYCLIC_VALUE) {
                let help = "what lies on the way is read once; no state dict needs this";
                self.findings.push(
                    Diagnostic::warning(rule::CYCLIC_VALUE, message)
                        .key(cut(&self.name))
                        .help(help),
                );
            }
            return Ok(());
        }
        let Some(entries) = self.entries(id)? else { return Ok(()) };
        if self.path.len() == MAX_DEPTH {
            let message = format!("values are nested more than {MAX_DEPTH} deep");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        self.path.push(id);
        for (key, value) in entries {
            self.visit_entry(&key, value)?;
        }
        self.path.pop();
        Ok(())
    }

    /// The named values directly in a value, if it is of a kind that names values.
    fn entries(&mut self, id: NodeId) -> Result<Option<Vec<Entry>>> {
        if let Some(module) = self.module(id)? {
            let mut entries = Vec::new();
            for part in module.parts {
                entries.append(&mut self.entries_of_items(part)?);
            }
            entries.retain(|(key, _)| !module.left_out.contains(&key.as_str()));
            return Ok(Some(entries));
        }
        if let Some(members) = self.pickle.sequence(id) {
            self.spend_visits(members.len())?;
            return Ok(Some(
                members.iter().enumerate().map(|(at, &id)| (at.to_string(), id)).collect(),
            ));
        }
        match self.pickle.items(id) {
            Some(items) => self.entries_of_items(items).map(Some),
            None => Ok(None),
        }
    }

    /// Spells the keys, and keeps the last value of each, as Python does.
    fn entries_of_items(&mut self, items: Vec<(NodeId, NodeId)>) -> Result<Vec<Entry>> {
        self.spend_visits(items.len())?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for (key, value) in items {
            let mut text = String::new();
            spell_key(self.pickle, key, MAX_KEY_DEPTH, &mut text)?;
            self.spend_names(text.len())?;
            if let Some(entry) = places.get(&text).and_then(|&place| entries.get_mut(place)) {
                entry.1 = value;
                self.report_key_twice(&text);
                continue;
            }
            places.insert(text.clone(), entries.len());
            entries.push((text, value));
        }
        Ok(entries)
    }

    fn report_key_twice(&mut self, key: &str) {
        let mut reported = self.findings.iter().filter(|of| of.rule == rule::DUPLICATE_NAME);
        // The outermost dictionary is looked at more than once.
        if reported.clone().any(|of| of.key.as_deref() == Some(cut(key)))
            || reported.nth(MAX_REPORTED_KEYS - 1).is_some()
        {
            return;
        }
        let message = format!("the key {} stands twice; the last one counts", quote(key));
        self.findings.push(
            Diagnostic::warning(rule::DUPLICATE_NAME, message)
                .key(cut(key))
                .help("torch never writes this; ask the file's maker which value is meant"),
        );
    }

    /// The parts of a module, if the value is one: an object whose state has `_parameters`,
    /// `_buffers` and `_modules`, or any object of TorchScript.
    fn module(&mut self, id: NodeId) -> Result<Option<Module<'w>>> {
        let Some((object, attributes)) = self.attributes(id) else { return Ok(None) };
        self.spend_visits(attributes.len())?;
        let attribute = |name: &str| {
            let (_, value) =
                attributes.iter().rev().find(|(key, _)| self.pickle.text(*key) == Some(name))?;
            Some(*value)
        };
        let parts = ["_parameters", "_buffers", "_modules"].map(attribute);
        if let [Some(_), _, Some(_)] = parts {
            let left_out = attribute("_non_persistent_buffers_set")
                .map(|set| self.texts_of_set(set))
                .unwrap_or_default();
            self.spend_visits(left_out.len())?;
            return Ok(Some(Module {
                parts: parts
                    .into_iter()
                    .flatten()
                    .filter_map(|part| self.pickle.items(part))
                    .collect(),
                left_out: left_out.iter().copied().collect(),
            }));
        }
        let class = self.pickle.class_of(object.callable);
        let is_script = class
            .is_some_and(|(module, _)| module == "__torch__" || module.starts_with("__torch__."));
        Ok(is_script.then(|| Module { parts: vec![attributes], left_out: BTreeSet::new() }))
    }

    /// An object that is no tensor, and its attributes by name.
    fn attributes(&self, id: NodeId) -> Option<(&'w Object, Vec<(NodeId, NodeId)>)> {
        let Node::Object(object) = self.pickle.node(id) else { return None };
        if tensor::is_tensor(self.pickle, id) {
            return None;
        }
        Some((object, self.pickle.items(self.pickle.state(object)?)?))
    }

    fn texts_of_set(&self, set: NodeId) -> Vec<&'w str> {
        let members = match self.pickle.node(set) {
            Node::Set(members) => Some(members.as_slice()),
            // Protocols before 4 call `set` with a list.
            Node::Object(object) => match self.pickle.sequence(object.args) {
                Some([members]) => self.pickle.sequence(*members),
                _ => None,
            },
            _ => None,
        };
        members.unwrap_or_default().iter().filter_map(|&id| self.pickle.text(id)).collect()
    }

    /// Whether a tensor can be reached from a value. Takes each value once, so sharing and cycles
    /// cost nothing.
    fn has_tensor(&self, id: NodeId) -> bool {
        let mut seen = HashSet::new();
        let mut rest = vec![id];
        while let Some(id) = rest.pop() {
            if tensor::is_tensor(self.pickle, id) {
                return true;
            }
            if !seen.insert(id) {
                continue;
            }
            match self.pickle.node(id) {
                Node::List(members) | Node::Tuple(members) => rest.extend(members),
                Node::Dict(items) => rest.extend(items.iter().map(|(_, value)| value)),
                Node::Object(object) => {
                    rest.push(object.args);
                    rest.extend(object.states());
                    rest.extend(object.items().iter().map(|(_, value)| value));
                }
                _ => {}
            }
        }
        false
    }

    fn spend_visits(&mut self, n: usize) -> Result<()> {
        let left = self.n_visits_left.checked_sub(n);
        self.n_visits_left = left.ok_or_else(|| {
            let message = "values share each other so often that listing them would not end";
            Error::new(ErrorKind::Limit, message)
        })?;
        Ok(())
    }

    fn spend_names(&mut self, len: usize) -> Result<()> {
        let left = self.names_len_left.checked_sub(len);
        self.names_len_left = left.ok_or_else(|| {
            let message = format!("the names pass the limit of {MAX_NAMES_LEN} bytes together");
            Error::new(ErrorKind::Limit, message)
        })?;
        Ok(())
    }
}

/// A top-level key with the wrappers above it.
fn under(wrapper: &[&str], key: String) -> String {
    if wrapper.is_empty() { key } else { format!("{}.{key}", wrapper.join(".")) }
}

/// What a module keeps its tensors and modules in.
struct Module<'w> {
    parts: Vec<Vec<(NodeId, NodeId)>>,
    /// The names of buffers that `state_dict` leaves out.
    left_out: BTreeSet<&'w str>,
}

/// How deep tuples may be nested in a key.
const MAX_KEY_DEPTH: u32 = 4;

/// Writes a key as text; the members of a tuple are joined with dots.
fn spell_key(pickle: &Pickle<'_>, key: NodeId, depth: u32, text: &mut String) -> Result<()> {
    match pickle.node(key) {
        Node::Text(key) if key.len() <= MAX_NAME_LEN => text.push_str(key),
        Node::Int(int) => text.push_str(&int.to_string()),
        Node::Float(float) => text.push_str(&float.to_string()),
        Node::Bool(true) => text.push_str("True"),
        Node::Bool(false) => text.push_str("False"),
        Node::None => text.push_str("None"),
        Node::Bytes(bytes) if bytes.len() <= MAX_NAME_LEN => {
            text.push_str(&String::from_utf8_lossy(bytes));
        }
        Node::Tuple(members) if depth != 0 => {
            for (at, &member) in members.iter().enumerate() {
                if at != 0 {
                    text.push('.');
                }
                spell_key(pickle, member, depth - 1, text)?;
            }
        }
        Node::Text(_) | Node::Bytes(_) => {
            let message = format!("a key passes the limit of {MAX_NAME_LEN} bytes");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        _ => match pickle.global(key) {
            Some((module, name)) => text.push_str(&format!("{}.{}", cut(module), cut(name))),
            None => text.push_str("(key)"),
        },
    }
    if MAX_NAME_LEN < text.len() {
        let message = format!("a key passes the limit of {MAX_NAME_LEN} bytes");
        return Err(Error::new(ErrorKind::Limit, message));
    }
    Ok(())
}
