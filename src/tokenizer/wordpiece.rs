//! Vocabularies of words and of the pieces that continue them.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::added::SPACE;
use super::folder::{Folder, malformed, unsupported};
use super::sentencepiece::{CONTROL, NORMAL};
use super::special::Known;
use super::table::{Table, Token};
use super::vocabulary::TOKENIZER_JSON;
use super::{Made, Model, added, bytelevel};
use crate::base::diagnostic::Diagnostic;

/// What a piece that continues a word starts with.
pub(super) const CONTINUES: &str = "##";
/// The tokens with a role, where no file names others.
pub(super) const ROLES: [(&str, &str); 5] =
    [("unk", "[UNK]"), ("sep", "[SEP]"), ("pad", "[PAD]"), ("cls", "[CLS]"), ("mask", "[MASK]")];

pub(super) fn from_json(folder: &Folder, json: &Json, rows: usize) -> Result<Made, Diagnostic> {
    let model = &json["model"];
    if let Some(prefix) = model["continuing_subword_prefix"].as_str()
        && prefix != CONTINUES
    {
        let message = "programs that read GGUF know pieces that continue a word by one prefix";
        return Err(unsupported(TOKENIZER_JSON, "/model/continuing_subword_prefix", message)
            .mismatch(CONTINUES, prefix));
    }
    let vocab = model.get("vocab").unwrap_or(&Json::Null);
    let table = bytelevel::table(vocab, TOKENIZER_JSON, "/model/vocab", rows)?;
    made(folder, TOKENIZER_JSON, table, None)
}

/// `vocab.txt`: a token on each line, whose number is its id.
pub(super) fn from_text(folder: &Folder, text: &str, rows: usize) -> Result<Made, Diagnostic> {
    let file = "vocab.txt";
    let mut table = Table::new(rows);
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for (number, line) in text.split_terminator('\n').enumerate() {
        let line = line.trim_end_matches('\r');
        if let Some(other) = lines.insert(line, number) {
            let message = format!("two lines have the token {line:?}");
            let found = format!("lines {} and {}", other + 1, number + 1);
            return Err(malformed(file, "", message).mismatch("one line", found));
        }
        let token = Token { text: line.to_owned(), score: 0.0, kind: NORMAL };
        table.add(number as u64, token, file, &format!("line {}", number + 1))?;
    }
    let lowercase = folder.settings.get("do_lower_case").and_then(Json::as_bool);
    made(folder, file, table, lowercase)
}

fn made(
    folder: &Folder,
    file: &'static str,
    mut table: Table,
    lowercase: Option<bool>,
) -> Result<Made, Diagnostic> {
    added::put(folder, &mut table)?;
    let mut special = Known { lowercase, ..Known::default() };
    for (role, default) in ROLES {
        let name = folder.named(&format!("{role}_token")).unwrap_or(default);
        if let Some(id) = table.id(name) {
            special.ids.push((role, id as u64));
        }
    }
    // A text stands between the two: that is all that programs add.
    for (role, other) in [("bos", "cls"), ("eos", "sep")] {
        if let Some(&(_, id)) = special.ids.iter().find(|(known, _)| *known == other) {
            special.ids.push((role, id));
        }
    }
    for (_, id) in &special.ids {
        if let Some(mut token) = table.get(*id as usize).cloned() {
            token.kind = CONTROL;
            table.replace(*id as usize, token);
        }
    }
    // Rows without a token are words here like others, so that they are spelled so.
    table.fill();
    for token in table.tokens_mut().filter(|token| token.kind != CONTROL) {
        token.text = match token.text.strip_prefix(CONTINUES) {
            Some(piece) => piece.to_owned(),
            None => format!("{SPACE}{}", token.text),
        };
    }
    Ok(Made {
        file,
        model: Model::Words,
        pre: "default".to_owned(),
        table,
        extra: Vec::new(),
        special,
    })
}
