//! The report of a verification.

use std::path::Path;

use super::anchor::Anchors;
use super::document::{Document, Group, Section, shown};
use super::fingerprint::{fingerprints, mark};
use super::group::groups;
use super::text::findings;
use super::{Context, Report, pretty};
use crate::base::diagnostic::Diagnostic;
use crate::verify::Verified;

impl Report for Verified {
    fn text(&self, context: &Context<'_>) -> String {
        format!("{}{}: {}\n", findings(&self.findings, context.style), self.path, summary(self))
    }

    fn json(&self, context: &Context<'_>) -> serde_json::Result<String> {
        let title = shown(Path::new(&self.path), &context.root);
        let groups = groups(&self.findings);
        let found: Vec<&Diagnostic> = self.findings.iter().collect();
        let mut marked = self.clone();
        let places = marked.findings.iter_mut().map(|one| &mut one.fingerprint);
        mark(&groups, &fingerprints(&groups, &title), &found, places);
        pretty(&marked)
    }

    fn document(&self, context: &Context<'_>) -> Document {
        let mut document = Document::new("verify", context);
        document.passes = self.whole;
        let title = shown(Path::new(&self.path), &context.root);
        let mut anchors = Anchors::new(Path::new(&self.path), &title);
        let groups = groups(&self.findings);
        let found = groups.iter().zip(fingerprints(&groups, &title)).map(|(group, fingerprint)| {
            Group::of(group, document.name(group.rule()), fingerprint, &mut anchors, None)
        });
        let found = found.collect();
        let manifest = shown(Path::new(&self.manifest), &context.root);
        let model = self.model.clone().unwrap_or_else(|| "none".to_owned());
        document.headline = format!("{title}: {}", summary(self));
        document.sections.push(Section {
            title,
            summary: summary(self),
            facts: vec![("manifest", manifest), ("model", model)],
            groups: found,
            ..Section::default()
        });
        document
    }
}

fn summary(verified: &Verified) -> String {
    let Verified { tensors, files, bytes, manifest, .. } = verified;
    match verified.findings.len() {
        0 => format!(
            "whole: {tensors} tensors and {files} files, {bytes} bytes, are those of {manifest}"
        ),
        1 => format!("damaged: 1 finding in {tensors} tensors and {files} files, by {manifest}"),
        n => format!("damaged: {n} findings in {tensors} tensors and {files} files, by {manifest}"),
    }
}
