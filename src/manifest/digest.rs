//! The leaves of tensors and the digests of a model.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde_json::{Value as Json, json};

use super::document::{Census, Digests, Manifest, Semantics};
use super::entry::TensorEntry;
use crate::base::canonical_json;
use crate::base::hex::Hex;

impl Manifest {
    /// The digests, computed from the entries.
    pub fn compute_digests(&self) -> Digests {
        let mut tensors: Vec<&TensorEntry> = self.tensors.iter().collect();
        tensors.sort_unstable_by(|left, right| {
            // Of one name, in the order they stand.
            let place = |entry: &TensorEntry| std::ptr::from_ref(entry).addr();
            left.name.cmp(&right.name).then_with(|| place(left).cmp(&place(right)))
        });
        let some = |document: Json| Some(canonical_json::sha256(&document));

        let model = self.model.as_ref();
        let ties: Option<BTreeSet<&[String; 2]>> = model.map(|model| model.ties.iter().collect());
        let weights = json!({"digest": "llmstd.weights.v1"});
        let structure = json!({
            "digest": "llmstd.structure.v1",
            "architecture": model.map(|model| &model.architecture),
            "hyperparameters": model.map(|model| &model.hyperparameters),
            "ties": ties,
            "encodings": model.map(|model| &model.encodings),
        });
        let hashed = tensors.iter().map(|t| (&t.name, &t.dtype, &t.shape, &t.sha256));
        let shapes = tensors.iter().map(|t| (&t.name, &t.dtype, &t.shape));
        let (weights, structure) = rayon::join(
            || canonical_json::sha256_with_rows(&weights, "tensors", hashed),
            || canonical_json::sha256_with_rows(&structure, "tensors", shapes),
        );

        let config = model.filter(|model| model.architecture.is_some()).map(|model| {
            json!({
                "digest": "llmstd.config.v1",
                "architecture": model.architecture,
                "hyperparameters": model.hyperparameters,
            })
        });
        let asked = |model: &&Semantics| !model.tasks.is_empty() || !model.tokens.is_empty();
        let interface = model.filter(asked).map(|model| {
            json!({
                "digest": "llmstd.interface.v1",
                "tasks": model.tasks,
                "tokens": model.tokens,
            })
        });
        let tokenizer = self.tokenizer.as_ref().map(|tokenizer| {
            json!({
                "digest": "llmstd.tokenizer.v1",
                "files": tokenizer.files,
                "settings": tokenizer.settings,
            })
        });
        let template = (!self.templates.is_empty())
            .then(|| json!({"digest": "llmstd.template.v1", "templates": self.templates}));

        let mut digests = Digests {
            weights: Some(weights),
            structure: Some(structure),
            tokenizer: tokenizer.and_then(some),
            config: config.and_then(some),
            interface: interface.and_then(some),
            template: template.and_then(some),
            model: None,
        };
        digests.model = some(json!({
            "digest": "llmstd.model.v1",
            "spec": self.spec.split('.').next(),
            "weights": digests.weights,
            "structure": digests.structure,
            "tokenizer": digests.tokenizer,
            "config": digests.config,
            "interface": digests.interface,
            "template": digests.template,
        }));
        digests
    }

    /// Every place where the manifest contradicts itself: a JSON pointer, what its entries give,
    /// and what it says.
    pub fn contradictions(&self) -> Vec<(String, String, String)> {
        let of_tensor = |(index, tensor): (usize, &TensorEntry)| {
            if tensor.sha256.bytes().is_none() {
                let wanted = "64 digits of lower-case hex".to_owned();
                let place = format!("/tensors/{index}/sha256");
                return vec![(place, wanted, tensor.sha256.to_string())];
            }
            let Some(said) = tensor.wrong_leaves.as_deref() else { return Vec::new() };
            let computed = tensor.true_leaves().into_iter().flatten();
            let both = ["leaf", "content"].into_iter().zip(computed).zip(said);
            let both = both.map(|((key, computed), said)| (key, computed, said));
            let wrong = both.filter(|(_, computed, said)| computed != *said);
            wrong
                .map(|(key, computed, said)| {
                    let place = format!("/tensors/{index}/{key}");
                    (place, computed.to_string(), said.to_string())
                })
                .collect()
        };
        // The two halves of the work of a manifest with many tensors.
        let (mut found, computed) = rayon::join(
            || self.tensors.par_iter().enumerate().flat_map_iter(of_tensor).collect::<Vec<_>>(),
            || self.compute_digests(),
        );
        for (index, file) in self.files.iter().enumerate() {
            if let Hex::Other(said) = &file.sha256 {
                let wanted = "64 digits of lower-case hex".to_owned();
                found.push((format!("/files/{index}/sha256"), wanted, said.to_string()));
            }
        }
        for ((name, computed), (_, said)) in computed.each().into_iter().zip(self.digests.each()) {
            if computed != said {
                let text = |digest: Option<&str>| digest.unwrap_or("null").to_owned();
                found.push((format!("/digests/{name}"), text(computed), text(said)));
            }
        }
        if self.census() != self.dtypes {
            let text = |census: &BTreeMap<String, Census>| canonical_json::text(census);
            found.push(("/dtypes".to_owned(), text(&self.census()), text(&self.dtypes)));
        }
        found
    }
}
