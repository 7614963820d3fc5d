//! How byte-level vocabularies cut texts into words: `pretokenizers.toml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// Ids of `tokenizer.ggml.pre` that mean the same.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pretokenizer {
    /// The ids; the first is written where nothing prefers another.
    pub ids: Vec<String>,
    /// The regular expressions in the order they are applied, for each known spelling.
    pub splits: Vec<Vec<String>>,
    /// Whether a word that is a token is taken whole, though no merges lead to it.
    pub ignore_merges: bool,
    /// Whether spaces before punctuation go when ids become text.
    pub clean_spaces: bool,
    /// Whether a text begins with the token of beginnings where no key says so.
    pub add_bos: bool,
    /// Whether the separator stands between two texts where no key says so.
    #[serde(default)]
    pub add_sep: bool,
    /// Whether readers of before 2026 lack its ids, and do not open a file that has one.
    #[serde(default)]
    pub recent: bool,
    /// Whether every text is cut alike.
    #[serde(default = "yes")]
    pub exact: bool,
    /// Tokenizer classes that cut so and have no `tokenizer.json`.
    #[serde(default)]
    pub classes: Vec<String>,
}

fn yes() -> bool {
    true
}

/// The names of GGUF for the ways to split a text.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// Merges over bytes.
    pub bytes: String,
    /// Pieces, the pair of the best score first.
    pub merges: String,
    /// Pieces, the split of the best sum of scores.
    pub scores: String,
    /// Words, and the longest pieces of them.
    pub words: String,
}

/// The ids that tokenizer classes give the pieces of their SentencePiece model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Moved {
    /// The classes.
    pub classes: Vec<String>,
    /// The `model_type`s of `config.json` that have such a class.
    #[serde(default)]
    pub model_types: Vec<String>,
    /// The tokens of the first ids.
    pub first: Vec<String>,
    /// How many pieces of the model they stand for.
    pub skip: usize,
    /// The tokens after the pieces.
    pub last: Vec<String>,
    /// Tokens by role.
    pub tokens: BTreeMap<String, String>,
    /// The roles of the tokens around texts.
    pub around: Vec<String>,
}

/// How tokenizers are called in GGUF.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pretokenizers {
    /// The ways to split.
    pub models: Models,
    /// Of those over bytes, the ways to cut first; what comes first is preferred.
    #[serde(rename = "pretokenizer")]
    pub list: Vec<Pretokenizer>,
    /// The texts of tokens that every reader takes as the end of a generation.
    pub ends: Vec<String>,
    /// Classes with ids of their own.
    pub moved: Vec<Moved>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::spec::Spec;

    #[test]
    fn no_id_and_no_class_means_two_things() {
        let spec = Spec::current();
        let entries = &spec.pretokenizers.list;
        let mut seen = BTreeSet::new();
        for entry in entries {
            assert!(!entry.ids.is_empty() && !entry.splits.is_empty(), "{entry:?}");
            for name in entry.ids.iter().chain(&entry.classes) {
                assert!(seen.insert(name.clone()), "{name}");
            }
        }
        assert!(50 < seen.len());
    }
}
