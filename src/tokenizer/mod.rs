//! The files of a tokenizer, as they lie beside a Hugging Face checkpoint, as the keys of GGUF, and
//! back.
//!
//! The keys and their values are those that llama.cpp's converter writes (`conversion/base.py` and
//! gguf-py's `SpecialVocab`, as vendored by llama-cpp-python 0.3.36), with these differences, each
//! for a text that llama.cpp would split otherwise than the tokenizer:
//!
//! - `tokenizer.ggml.pre` is decided by what the pre-tokenizer does, not by a hash of ids, so that
//!   a tokenizer with other tokens needs no new line anywhere; of ids with one meaning it may be
//!   another one. Vocabularies that llama.cpp cuts in one way only have `default`.
//! - A token that the tokenizer itself names counts before the id in `config.json`, whether it is
//!   an added one or not, and the ids of a list that are not `eos` become `eot` and `eom`.
//! - Special ids that the converter finds nowhere, are looked for in the whole vocabulary, in
//!   `special_tokens_map.json` and in the SentencePiece model; else programs assume ids of others.
//! - Of a merge-based vocabulary with byte fallback in `tokenizer.json`, scores are the order of
//!   the merges; the converter has −1000 for all, and then the leftmost pair is merged first.
//! - Pieces that a SentencePiece model calls user defined are so here; the converter calls them
//!   normal, and then they are found only where merges lead to them.
//! - The vocabulary has a token for every row of the embedding, always; programs hold the two
//!   against each other.

mod added;
mod bytelevel;
mod folder;
mod from_gguf;
mod merges;
mod pre;
mod sentencepiece;
mod special;
mod spm;
mod table;
#[cfg(test)]
mod tests;
pub mod vocabulary;
mod wordpiece;

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;
use crate::metadata::{Metadata, Value};
use crate::spec::pretokenizers::Pretokenizers;

pub use self::from_gguf::{Files, from_gguf};
use folder::Folder;
use table::Table;

/// The ids of findings; each has a page under `spec/1.0/rules`.
mod rule {
    pub(super) const UNREADABLE: &str = "T001";
    pub(super) const UNSUPPORTED: &str = "T002";
    pub(super) const APPROXIMATE: &str = "T003";
    pub(super) const ASSUMED: &str = "T004";
}

/// More tokens than any vocabulary has.
const MAX_ROWS: u64 = 1 << 24;

/// How a text is split; [`Models`](crate::spec::pretokenizers::Models) has the names of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Model {
    /// Merges over bytes.
    Bytes,
    /// SentencePiece: the pair of the best score is merged first.
    Merges,
    /// SentencePiece: the split of the best sum of scores.
    Scores,
    /// Words, and the longest pieces of them.
    Words,
}

/// Tokens with a role that only the family knows of: texts by the name of the role in GGUF, `eot` for
/// `tokenizer.ggml.eot_token_id`.
pub type Named = BTreeMap<String, String>;

/// The keys of a tokenizer, and what is worth knowing about them: notes and warnings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keys {
    /// The keys, in the order of the converter.
    pub metadata: Metadata,
    /// What a program will do otherwise than the tokenizer.
    pub findings: Vec<Diagnostic>,
}

/// The keys of the tokenizer whose files `read` gives by name (`None`: there is none of it).
///
/// `n_rows` is the number of rows of the embedding: rows without a token get `[PAD…]`. `ids` are what
/// the model itself has for `bos`, `eos` and `pad`, an id or a list of them: they count where
/// `config.json` has none. `names` is
/// [`Spec::pretokenizers`](crate::spec::Spec::pretokenizers), `named` that of a
/// [mapping](crate::spec::map::Map::tokenizer).
///
/// # Errors
/// No file has a vocabulary, one is broken or contradicts itself, a token has no row, or no program
/// that reads GGUF splits texts in this way. Each says what to do; a model can be written without
/// its tokenizer then, with `tokenizer.ggml.model` as `none`.
pub fn to_gguf(
    read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>,
    n_rows: u64,
    ids: &BTreeMap<&str, Json>,
    named: &Named,
    names: &Pretokenizers,
) -> Result<Keys, Vec<Diagnostic>> {
    keys(read, n_rows, ids, named, names).map_err(|finding| vec![finding])
}

fn keys(
    read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>,
    n_rows: u64,
    ids: &BTreeMap<&str, Json>,
    named: &Named,
    names: &Pretokenizers,
) -> Result<Keys, Diagnostic> {
    if MAX_ROWS < n_rows {
        let message = "an embedding of so many rows belongs to no vocabulary";
        return Err(Diagnostic::error(rule::UNSUPPORTED, message)
            .mismatch(format!("at most {MAX_ROWS}"), n_rows));
    }
    let mut folder = Folder::read(read)?;
    folder.add_ids(ids);
    let rows = n_rows as usize;
    let mut findings = Vec::new();
    let mut made = choose(&folder, rows, names, &mut findings)?;
    // Readers stop at control tokens only.
    for id in special::ends(&folder).into_iter().filter_map(|id| usize::try_from(id).ok()) {
        made.table.make_control(id);
    }
    made.table.check(made.file)?;
    findings.extend(made.table.left_out(made.file));

    let mut keys = Keys { metadata: Metadata::default(), findings };
    let mut put =
        |name: &str, value: Value| keys.metadata.set(&format!("tokenizer.ggml.{name}"), value);
    let model = match made.model {
        Model::Bytes => &names.models.bytes,
        Model::Merges => &names.models.merges,
        Model::Scores => &names.models.scores,
        Model::Words => &names.models.words,
    };
    put("model", model.as_str().into());
    put("pre", made.pre.as_str().into());
    made.table.put(&mut put, matches!(made.model, Model::Merges | Model::Scores));
    for (name, value) in made.extra {
        put(name, value);
    }
    let segments = folder.config.get("type_vocab_size").and_then(Json::as_u64);
    // Only such models have segments at all.
    let segments = segments.or((made.model == Model::Words).then_some(1));
    if let Some(count) = segments.and_then(|count| u32::try_from(count).ok()) {
        put("token_type_count", Value::U32(count));
    }
    special::put(&folder, &made.special, &made.table, named, &names.ends, &mut keys);
    Ok(keys)
}

/// A vocabulary and how it is used.
struct Made {
    /// The file it comes from.
    file: &'static str,
    model: Model,
    pre: String,
    table: Table,
    /// Further keys, without `tokenizer.ggml.`.
    extra: Vec<(&'static str, Value)>,
    special: special::Known,
}

/// Reads the vocabulary of the file that says most: ids of `tokenizer.json` are final, and only
/// `tokenizer.model` has scores as they were trained.
fn choose(
    folder: &Folder,
    rows: usize,
    names: &Pretokenizers,
    findings: &mut Vec<Diagnostic>,
) -> Result<Made, Diagnostic> {
    if let Some((name, bytes)) = &folder.pieces {
        return spm::from_model(folder, name, bytes, rows, &names.moved, findings);
    }
    if let Some(json) = &folder.tokenizer {
        let kind = folder::model_kind(json);
        return match kind {
            "BPE" if bytelevel::is(json) => {
                bytelevel::from_json(folder, json, rows, &names.list, findings)
            }
            "BPE" | "Unigram" => spm::from_json(folder, json, kind, rows, findings),
            "WordPiece" => wordpiece::from_json(folder, json, rows),
            kind => Err(folder::unsupported(
                vocabulary::TOKENIZER_JSON,
                "/model/type",
                "no program that reads GGUF has a tokenizer of this kind",
            )
            .mismatch("BPE, Unigram or WordPiece", kind)),
        };
    }
    if let (Some(vocab), Some(merges)) = (&folder.vocab_json, &folder.merges) {
        return bytelevel::from_pair(folder, vocab, merges, rows, &names.list);
    }
    if let Some(vocab) = &folder.vocab_txt {
        return wordpiece::from_text(folder, vocab, rows);
    }
    let message = "there is no vocabulary beside the tensors";
    Err(Diagnostic::error(rule::UNREADABLE, message)
        .mismatch(
            "tokenizer.json, a SentencePiece model, vocab.json with merges.txt, or vocab.txt",
            "none of them",
        )
        .help("put the files of the tokenizer beside the tensors"))
}
