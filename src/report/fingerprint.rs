//! What findings are known by from run to run: the same for the same fault at the same place, however
//! it is worded. SARIF, GitLab and JSON have the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sha2::{Digest, Sha256};

use super::fold;
use super::group::Group as Findings;
use crate::base::diagnostic::Diagnostic;
use crate::base::hex;

/// The fingerprint of each group of findings about the input `title`. No two are the same.
pub(super) fn fingerprints(groups: &[Findings<'_>], title: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let apart = |group: &Findings<'_>| {
        let first = fingerprint(group, title);
        // Where a rule found two things at one place.
        let n = seen.entry(first.clone()).or_default();
        let own = match *n {
            0 => first,
            n => short(&Sha256::digest(format!("{first}\0{n}"))),
        };
        *n += 1;
        own
    };
    groups.iter().map(apart).collect()
}

fn fingerprint(group: &Findings<'_>, title: &str) -> String {
    // A file, a tensor and a key say where; numbers in names are left open, so that another
    // layer with the same fault is the same.
    let places: BTreeSet<String> = group.findings.iter().map(|one| one.place()).collect();
    let mut hash = Sha256::new();
    for part in ["llmstd.group/1", group.rule(), title] {
        hash.update(part);
        hash.update([0]);
    }
    for place in places.iter().map(|place| fold::pattern(place).0).collect::<BTreeSet<_>>() {
        hash.update(place);
        hash.update([0]);
    }
    short(&hash.finalize())
}

fn short(hash: &[u8]) -> String {
    hex::encode(hash)[..32].to_owned()
}

/// Gives findings the fingerprints of their groups. `marked` are copies of `findings`, which the groups
/// are made of, in the same order.
pub(super) fn mark<'m>(
    groups: &[Findings<'_>],
    fingerprints: &[String],
    findings: &[&Diagnostic],
    marked: impl Iterator<Item = &'m mut Option<String>>,
) {
    let members = groups.iter().zip(fingerprints).flat_map(|(group, fingerprint)| {
        group.findings.iter().map(move |one| (std::ptr::from_ref(*one), fingerprint))
    });
    let known: HashMap<*const Diagnostic, &String> = members.collect();
    for (finding, place) in findings.iter().zip(marked) {
        *place = known.get(&std::ptr::from_ref(*finding)).map(|of| (*of).clone());
    }
}
