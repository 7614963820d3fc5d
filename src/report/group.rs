//! Findings that are alike, together: one entry for a rule and what to do about it, however many
//! tensors it is about.

use std::collections::HashMap;

use super::fold::{Folded, fold, pattern};
use crate::base::diagnostic::{Diagnostic, Level};

/// Findings of one rule, of one level, with one thing to do.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The findings; there is at least one.
    pub findings: Vec<&'a Diagnostic>,
}

/// Findings of a group that say the same but for numbers in names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alike {
    /// What they say, `layers.{0-11}.up is missing`.
    pub message: String,
    /// How many they are.
    pub rows: usize,
    /// Where they are: a file, or how many.
    pub file: Option<String>,
    /// The bytes of the file, of a finding alone.
    pub bytes: Option<[u64; 2]>,
    /// What the rule wants and what is there.
    pub mismatch: Option<(String, String)>,
    /// The tensors.
    pub tensors: Vec<String>,
}

/// Names that differ in numbers alone, as one.
pub fn names<'a>(tensors: impl Iterator<Item = &'a String>) -> Vec<Folded> {
    fold(tensors.map(|name| vec![name.clone()]))
}

/// Puts findings that are alike together, the worst first; else they stay in their order.
pub fn groups(findings: &[Diagnostic]) -> Vec<Group<'_>> {
    let mut places: HashMap<(&str, Level, String, String), usize> = HashMap::new();
    let mut groups: Vec<Group<'_>> = Vec::new();
    for finding in findings {
        let help = finding.help.as_deref().map(|help| pattern(help).0).unwrap_or_default();
        // What is not about a tensor says something of its own.
        let message = match finding.tensor {
            Some(_) => String::new(),
            None => pattern(&finding.message).0,
        };
        let key = (finding.rule, finding.level, help, message);
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.findings.push(finding),
            None => groups.push(Group { findings: vec![finding] }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.level()));
    groups
}

impl<'a> Group<'a> {
    fn first(&self) -> &'a Diagnostic {
        self.findings[0]
    }

    /// The rule's number.
    pub fn rule(&self) -> &'static str {
        self.first().rule
    }

    /// How much it weighs.
    pub fn level(&self) -> Level {
        self.first().level
    }

    /// What to do now.
    pub fn help(&self) -> Option<String> {
        let first = self.first().help.as_ref()?;
        let all = fold(self.findings.iter().filter_map(|one| Some(vec![one.help.clone()?])));
        Some(all.first().map_or(first, |help| &help.cells[0]).to_owned())
    }

    /// The tensors, those that differ in numbers alone together.
    pub fn tensors(&self) -> Vec<Folded> {
        names(self.findings.iter().filter_map(|finding| finding.tensor.as_ref()))
    }

    /// What the findings say, each thing once.
    pub fn alike(&self) -> Vec<Alike> {
        let mut places: HashMap<(String, Option<&str>, Option<&str>), usize> = HashMap::new();
        let mut kinds: Vec<Vec<&Diagnostic>> = Vec::new();
        for finding in &self.findings {
            let (expected, found) = (finding.expected.as_deref(), finding.found.as_deref());
            let key = (pattern(&finding.message).0, expected, found);
            let place = *places.entry(key).or_insert(kinds.len());
            match kinds.get_mut(place) {
                Some(kind) => kind.push(finding),
                None => kinds.push(vec![finding]),
            }
        }
        let mut alike: Vec<Alike> = kinds.iter().map(|kind| Alike::of(kind)).collect();
        // What most of them say comes first.
        alike.sort_by_key(|alike| std::cmp::Reverse(alike.rows));
        alike
    }
}

impl Alike {
    fn of(kind: &[&Diagnostic]) -> Alike {
        let first = kind[0];
        let messages = fold(kind.iter().map(|finding| vec![finding.message.clone()]));
        let mut files: Vec<&str> = kind.iter().filter_map(|one| one.file.as_deref()).collect();
        files.sort_unstable();
        files.dedup();
        let file = match files.as_slice() {
            [] => None,
            [file] => Some((*file).to_owned()),
            [file, rest @ ..] => Some(format!("{file} and {} more files", rest.len())),
        };
        let alone = kind.len() == 1;
        Alike {
            tensors: kind.iter().filter_map(|finding| finding.tensor.clone()).collect(),
            message: messages.first().map_or(&first.message, |one| &one.cells[0]).clone(),
            rows: kind.len(),
            file,
            bytes: first.bytes.filter(|_| alone),
            mismatch: first.expected.clone().zip(first.found.clone()),
        }
    }
}
