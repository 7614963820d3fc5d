//! Tensors: which are equal, changed, renamed, added, removed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::rules::{self, Rule};
use super::{Change, architecture};
use crate::base::hash::{HashMap, HashSet};
use crate::base::hex::Hex;
use crate::checkpoint::DType;
use crate::encoding::layout::Layouts;
use crate::manifest::{Manifest, TensorEntry};
use crate::spec::roles::EXTRA;

/// What the tensors of two versions have in common.
pub(super) struct Compared {
    /// How many are equal in everything.
    pub(super) n_equal: usize,
    /// Whether both have the same names with the same shapes, so that one loads into the other.
    pub(super) same_table: bool,
    /// Whether stored and tied tensors changed places.
    pub(super) ties: bool,
}

/// The name a tensor is compared by. Where the architecture is not known, `extra.` says nothing,
/// and a foreign checkpoint does not have it.
fn name<'a>(manifest: &Manifest, tensor: &'a TensorEntry) -> &'a str {
    let extra = tensor.name.strip_prefix(EXTRA).and_then(|rest| rest.strip_prefix('.'));
    extra.filter(|_| architecture(manifest).is_none()).unwrap_or(&tensor.name)
}

/// A manifest whose packed tensors have the id of their encoding for a dtype and the shape of their
/// values, and of which those that are stored as several are one.
pub(super) fn wholes<'m>(manifest: &'m Manifest, layouts: &Layouts) -> Cow<'m, Manifest> {
    if manifest.tensors.iter().all(|tensor| tensor.encoding.is_none()) {
        return Cow::Borrowed(manifest);
    }
    let stored: BTreeMap<&str, &TensorEntry> =
        manifest.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut parts = BTreeSet::new();
    let mut tensors = Vec::with_capacity(manifest.tensors.len());
    for tensor in &manifest.tensors {
        let mut whole = tensor.clone();
        if let Some(encoding) = &tensor.encoding {
            let id = encoding.get("encoding").and_then(Json::as_str);
            let shape = encoding.get("shape").and_then(Json::as_array);
            let shape = shape.and_then(|dims| dims.iter().map(Json::as_u64).collect());
            whole.dtype = id.map_or(whole.dtype, |id| Cow::Owned(id.to_owned()));
            whole.shape = shape.unwrap_or(whole.shape);
            let names = layouts.companions(&tensor.name, encoding);
            let own: Vec<&TensorEntry> =
                names.iter().filter_map(|name| stored.get(name.as_str()).copied()).collect();
            if !own.is_empty() {
                let mut hash = Sha256::new();
                for part in [tensor].into_iter().chain(own.iter().copied()) {
                    hash.update(part.sha256.to_string());
                }
                whole.sha256 = Hex::Hash(hash.finalize().into());
                whole.len = own.iter().fold(whole.len, |sum, part| sum.saturating_add(part.len));
                parts.extend(own.into_iter().map(|part| part.name.as_str()));
            }
        }
        tensors.push(whole);
    }
    tensors.retain(|tensor| !parts.contains(tensor.name.as_str()));
    Cow::Owned(Manifest { tensors, ..manifest.clone() })
}

pub(super) fn compare<'a>(
    old: &'a Manifest,
    new: &'a Manifest,
    changes: &mut Vec<Change>,
) -> Compared {
    // Versions with the same names in the same order, as most have, need no tables of them.
    let mut pairs = old.tensors.iter().zip(&new.tensors);
    let same_names = old.tensors.len() == new.tensors.len()
        && pairs.all(|(before, after)| name(old, before) == name(new, after));
    let named = |of: &'a Manifest| {
        let tensors = if same_names { &[][..] } else { of.tensors.as_slice() };
        tensors.iter().map(move |tensor| (name(of, tensor), tensor))
    };
    let new_by_name: HashMap<&str, &TensorEntry> = named(new).collect();
    let old_names: HashSet<&str> = named(old).map(|(name, _)| name).collect();
    let mut n_equal = 0;
    let mut removed: Vec<(&str, &TensorEntry)> = Vec::new();
    let mut n_reshaped = 0;
    for (place, before) in old.tensors.iter().enumerate() {
        let name = name(old, before);
        let same_place = same_names.then(|| &new.tensors[place]);
        let Some(after) = same_place.or_else(|| new_by_name.get(name).copied()) else {
            removed.push((name, before));
            continue;
        };
        let n_before = changes.len();
        changed(name, before, after, changes);
        n_reshaped += usize::from(before.shape != after.shape);
        n_equal += usize::from(n_before == changes.len());
    }
    let added: Vec<(&str, &TensorEntry)> =
        named(new).filter(|(name, _)| !old_names.contains(name)).collect();
    let same_table = removed.is_empty() && added.is_empty() && n_reshaped == 0;

    let mut ties = Ties::new(old, new);
    let removed = ties.explain(removed, true, changes);
    let added = ties.explain(added, false, changes);
    ties.rest(changes);
    let pairs = renamed(&removed, &added);
    let (mut from, mut to) = (HashSet::default(), HashSet::default());
    for &(before, after) in &pairs {
        from.insert(before);
        to.insert(after);
        let message = format!("`{before}` is now `{after}`, with the same bytes");
        changes.push(Change::new(rules::TENSOR_RENAMED, before, message).values(before, after));
    }
    for (name, tensor) in removed.into_iter().filter(|(name, _)| !from.contains(name)) {
        let message = format!("`{name}` is gone");
        let change = Change::new(rules::TENSOR_REMOVED, name, message);
        changes.push(change.values(described(tensor), ()));
    }
    let old_names = old.tensors.iter().map(|tensor| name(old, tensor));
    let old_heads: HashSet<&str> = old_names.chain(ties.old_names()).filter_map(head).collect();
    for (name, tensor) in added.into_iter().filter(|(name, _)| !to.contains(name)) {
        let is_head = head(name).is_some_and(|head| !old_heads.contains(head));
        let rule = if is_head { rules::HEAD_ADDED } else { rules::TENSOR_ADDED };
        let change = Change::new(rule, name, format!("`{name}` is new"));
        changes.push(change.values((), described(tensor)));
    }
    Compared { n_equal, same_table, ties: ties.changed }
}

/// The head that a tensor belongs to.
fn head(name: &str) -> Option<&str> {
    name.strip_prefix("heads.")?.split('.').next()
}

fn described(tensor: &TensorEntry) -> String {
    format!("{} {:?}", tensor.dtype, tensor.shape)
}

/// What changed about a tensor that both have.
fn changed(name: &str, old: &TensorEntry, new: &TensorEntry, changes: &mut Vec<Change>) {
    let mut push = |rule: &'static Rule, message: String, old: Json, new: Json| {
        changes.push(Change::new(rule, name, message).values(old, new));
    };
    if old.shape != new.shape {
        let message = format!("`{name}` has the shape {:?}, it had {:?}", new.shape, old.shape);
        push(rules::TENSOR_RESHAPED, message, json!(old.shape), json!(new.shape));
    }
    // Where only the shape is another one, the encoding is not.
    let encoding = |tensor: &TensorEntry| {
        let mut encoding = tensor.encoding.as_deref().cloned();
        encoding.as_mut().and_then(Json::as_object_mut).map(|object| object.remove("shape"));
        encoding
    };
    if encoding(old) != encoding(new) {
        let message = format!("`{name}` is {}, it was {}", new.dtype, old.dtype);
        let said = |tensor: &TensorEntry| match encoding(tensor) {
            Some(encoding) => encoding,
            None => json!(tensor.dtype),
        };
        push(rules::ENCODING_CHANGED, message, said(old), said(new));
    } else if old.dtype != new.dtype {
        let message = format!("`{name}` is {}, it was {}", new.dtype, old.dtype);
        push(cast(&old.dtype, &new.dtype), message, json!(old.dtype), json!(new.dtype));
    } else if old.shape == new.shape && old.sha256 != new.sha256 {
        let message = format!("`{name}` holds other values");
        push(rules::VALUES_CHANGED, message, json!(old.sha256), json!(new.sha256));
    }
}

/// The kind of a change of dtype.
fn cast(old: &str, new: &str) -> &'static Rule {
    let floats = DType::parse(old).zip(DType::parse(new));
    let Some((old, new)) = floats.filter(|(old, new)| old.is_float() && new.is_float()) else {
        return rules::DTYPE_CHANGED;
    };
    if crate::plan::widens(old, new) {
        rules::DTYPE_WIDENED
    } else if crate::plan::widens(new, old) || old.bits() == new.bits() {
        // F16 and BF16 each round values of the other, and every loader casts between them.
        rules::DTYPE_NARROWED
    } else {
        rules::DTYPE_CHANGED
    }
}

/// Tensors that are stored once under another's name.
struct Ties<'a> {
    old: BTreeMap<&'a str, &'a str>,
    new: BTreeMap<&'a str, &'a str>,
    old_tensors: BTreeMap<&'a str, &'a TensorEntry>,
    new_tensors: BTreeMap<&'a str, &'a TensorEntry>,
    explained: BTreeSet<&'a str>,
    changed: bool,
}

impl<'a> Ties<'a> {
    fn new(old: &'a Manifest, new: &'a Manifest) -> Ties<'a> {
        fn ties(manifest: &Manifest) -> BTreeMap<&str, &str> {
            let ties = manifest.model.iter().flat_map(|model| &model.ties);
            ties.map(|[tied, stored]| (tied.as_str(), stored.as_str())).collect()
        }
        // Only the stored ends are looked up, and there are few of them.
        fn ends<'a>(
            manifest: &'a Manifest,
            ties: &BTreeMap<&str, &str>,
        ) -> BTreeMap<&'a str, &'a TensorEntry> {
            let stored: BTreeSet<&str> = ties.values().copied().collect();
            let tensors = manifest.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor));
            tensors.filter(|(name, _)| stored.contains(name)).collect()
        }
        let (old_ties, new_ties) = (ties(old), ties(new));
        let old_tensors = ends(old, &old_ties);
        let new_tensors = ends(new, &new_ties);
        let (explained, changed) = (BTreeSet::new(), false);
        Ties { old: old_ties, new: new_ties, old_tensors, new_tensors, explained, changed }
    }

    fn old_names(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.old.keys().copied()
    }

    /// Takes out the tensors that are tied on the other side.
    fn explain(
        &mut self,
        tensors: Vec<(&'a str, &'a TensorEntry)>,
        is_old: bool,
        changes: &mut Vec<Change>,
    ) -> Vec<(&'a str, &'a TensorEntry)> {
        let (ties, others) =
            if is_old { (&self.new, &self.new_tensors) } else { (&self.old, &self.old_tensors) };
        let mut rest = Vec::new();
        for (name, tensor) in tensors {
            let Some(&stored) = ties.get(name) else {
                rest.push((name, tensor));
                continue;
            };
            self.explained.insert(name);
            self.changed = true;
            let equal = others.get(stored).is_some_and(|other| other.content() == tensor.content());
            let (rule, but) = if equal {
                (rules::TIE_STORED, "with the same values")
            } else {
                (rules::TIES_CHANGED, "with other values")
            };
            let (message, old, new) = if is_old {
                (
                    format!("`{name}` was stored and is now tied to `{stored}`, {but}"),
                    "stored",
                    "tied",
                )
            } else {
                (
                    format!("`{name}` was tied to `{stored}` and is now stored, {but}"),
                    "tied",
                    "stored",
                )
            };
            changes.push(Change::new(rule, name, message).values(old, new));
        }
        rest
    }

    /// Ties that changed without a tensor that came or went.
    fn rest(&mut self, changes: &mut Vec<Change>) {
        let names: BTreeSet<&str> = self.old.keys().chain(self.new.keys()).copied().collect();
        for name in names {
            let (old, new) = (self.old.get(name), self.new.get(name));
            if old == new || self.explained.contains(name) {
                continue;
            }
            self.changed = true;
            let word =
                |tie: Option<&&str>| tie.map_or("nothing".to_owned(), |to| format!("`{to}`"));
            let message =
                format!("`{name}` is tied to {}, it was tied to {}", word(new), word(old));
            changes.push(Change::new(rules::TIES_CHANGED, name, message).values(old, new));
        }
    }
}

type Named<'a> = (&'a str, &'a TensorEntry);

/// Pairs of removed and added tensors with the same dtype, shape and bytes.
///
/// Where several have the same (biases of zeros), a change of prefix that unique pairs prove is
/// followed first; what is left is paired in order if there are as many on both sides, and else
/// is not paired.
fn renamed<'a>(removed: &[Named<'a>], added: &[Named<'a>]) -> Vec<(&'a str, &'a str)> {
    let mut groups: HashMap<Hex, (Vec<&'a str>, Vec<&'a str>)> = HashMap::default();
    for (name, tensor) in removed {
        groups.entry(tensor.content()).or_default().0.push(name);
    }
    for (name, tensor) in added {
        groups.entry(tensor.content()).or_default().1.push(name);
    }
    let mut pairs = Vec::new();
    let mut changes: HashSet<(&str, &str)> = HashSet::default();
    let mut several = Vec::new();
    // In the order of the old version, as the order of a hash map means nothing.
    for (name, tensor) in removed {
        let Some((before, after)) = groups.get(&tensor.content()) else { continue };
        if before.first() != Some(name) {
            continue;
        }
        match (before.as_slice(), after.as_slice()) {
            (_, []) => {}
            (&[before], &[after]) => {
                pairs.push((before, after));
                let (before, after, _) = prefixes(before, after);
                changes.insert((before, after));
            }
            _ => several.push((before, after)),
        }
    }
    // There are few ways in which names change, or else trying them all would be quadratic.
    let mut changes: Vec<_> = changes.into_iter().collect();
    changes.sort_unstable();
    changes.truncate(16);
    for (before, after) in several {
        let mut free: HashSet<&str> = after.iter().copied().collect();
        let mut rest = Vec::new();
        for &name in before {
            let followed = changes.iter().find_map(|(from, to)| {
                let renamed = format!("{to}{}", name.strip_prefix(from)?);
                free.take(renamed.as_str())
            });
            match followed {
                Some(after) => pairs.push((name, after)),
                None => rest.push(name),
            }
        }
        if rest.len() == free.len() {
            let after = after.iter().copied().filter(|name| free.contains(name));
            pairs.extend(rest.into_iter().zip(after));
        }
    }
    pairs
}

/// How a name changed: the parts before the longest common end, and that end.
pub(crate) fn prefixes<'a, 'b>(old: &'a str, new: &'b str) -> (&'a str, &'b str, &'a str) {
    let same = old.bytes().rev().zip(new.bytes().rev()).take_while(|(a, b)| a == b).count();
    // Only whole parts of a name count.
    let end = &old.as_bytes()[old.len() - same..];
    let whole = old.len() == same
        && new.as_bytes().get((new.len() - same).wrapping_sub(1)).is_none_or(|&b| b == b'.')
        || new.len() == same
            && old.as_bytes().get((old.len() - same).wrapping_sub(1)).is_none_or(|&b| b == b'.');
    let cut = if whole { 0 } else { end.iter().position(|&byte| byte == b'.').unwrap_or(same) };
    let kept = same - cut;
    // Names are UTF-8, and a cut before an equal `.` or at the whole name is a character's edge.
    let split = |name: &str| name.len() - kept;
    (&old[..split(old)], &new[..split(new)], &old[split(old)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_in_whole_parts() {
        for (old, new, expected) in [
            ("model.a.b", "a.b", ("model.", "", "a.b")),
            ("a.b", "model.a.b", ("", "model.", "a.b")),
            ("h.0.w", "layers.0.w", ("h", "layers", ".0.w")),
            ("x.aw", "x.bw", ("x.aw", "x.bw", "")),
            ("q.weight", "q_proj.weight", ("q", "q_proj", ".weight")),
            ("ab.w", "b.w", ("ab", "b", ".w")),
            ("é.w", "è.w", ("é", "è", ".w")),
        ] {
            assert_eq!(prefixes(old, new), expected, "{old} {new}");
        }
    }
}
