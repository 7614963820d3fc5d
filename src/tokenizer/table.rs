//! A vocabulary under construction: one row for each row of the embedding.

use std::collections::HashMap;

use super::folder::malformed;
use super::rule;
use super::sentencepiece::{CONTROL, UNUSED, USER_DEFINED};
use crate::base::diagnostic::Diagnostic;
use crate::metadata::{Array, Texts, Value};

/// The score of a row without a token, and of tokens that were added to a trained vocabulary.
const UNUSED_SCORE: f32 = -10000.0;
pub(super) const ADDED_SCORE: f32 = -1000.0;

#[derive(Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) score: f32,
    /// As GGUF numbers it, [`super::sentencepiece`].
    pub(super) kind: i32,
}

pub(super) struct Table {
    rows: Vec<Option<Token>>,
    ids: HashMap<String, usize>,
    /// Tokens whose ids are beyond the rows, which no model can be given.
    beyond: HashMap<String, u64>,
}

impl Table {
    pub(super) fn new(rows: usize) -> Table {
        Table { rows: vec![None; rows], ids: HashMap::new(), beyond: HashMap::new() }
    }

    pub(super) fn get(&self, id: usize) -> Option<&Token> {
        self.rows.get(id)?.as_ref()
    }

    pub(super) fn id(&self, text: &str) -> Option<usize> {
        self.ids.get(text).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn tokens_mut(&mut self) -> impl Iterator<Item = &mut Token> {
        self.rows.iter_mut().flatten()
    }

    /// Whether a text is that of a token without a row.
    pub(super) fn is_beyond(&self, text: &str) -> bool {
        self.beyond.contains_key(text)
    }

    /// Tells of the tokens without a row, which are left out.
    pub(super) fn left_out(&self, file: &str) -> Option<Diagnostic> {
        let (text, id) = self.beyond.iter().min_by_key(|(_, id)| **id)?;
        let message = match self.beyond.len() {
            1 => format!("the token {text:?} has no row in the embedding and is left out"),
            n => format!(
                "{n} tokens, {text:?} the first, have no row in the embedding and are left out"
            ),
        };
        let finding = Diagnostic::warning(rule::APPROXIMATE, message).file(file);
        Some(finding.mismatch(format!("ids below {}", self.rows.len()), id).help(
            "a text that has one becomes other ids than the tokenizer gives; is it the tokenizer that \
             the model was trained with?",
        ))
    }

    /// Gives a row its token; one without a row is left out.
    ///
    /// # Errors
    /// Another token has the row.
    pub(super) fn add(
        &mut self,
        id: u64,
        token: Token,
        file: &str,
        key: &str,
    ) -> Result<(), Diagnostic> {
        let row = usize::try_from(id).ok().and_then(|id| self.rows.get_mut(id));
        let Some(row) = row else {
            self.beyond.insert(token.text, id);
            return Ok(());
        };
        match row {
            Some(other) if other.text != token.text => {
                let message = format!("the id {id} stands for two tokens");
                return Err(malformed(file, key, message)
                    .mismatch(format!("{:?}", other.text), format!("{:?}", token.text)));
            }
            Some(_) => {}
            None => {
                self.ids.insert(token.text.clone(), id as usize);
            }
        }
        *row = Some(token);
        Ok(())
    }

    /// Gives a row another token, where there is such a row.
    pub(super) fn replace(&mut self, id: usize, token: Token) -> bool {
        let Some(row) = self.rows.get_mut(id) else { return false };
        if let Some(old) = row.take() {
            self.ids.remove(&old.text);
        }
        self.ids.insert(token.text.clone(), id);
        *row = Some(token);
        true
    }

    /// Makes an added token one that is no part of texts.
    pub(super) fn make_control(&mut self, id: usize) {
        if let Some(Some(token)) = self.rows.get_mut(id)
            && token.kind == USER_DEFINED
        {
            token.kind = CONTROL;
        }
    }

    /// Gives the rows without a token the name that they get.
    pub(super) fn fill(&mut self) {
        for (id, row) in self.rows.iter_mut().enumerate() {
            row.get_or_insert_with(|| unused(id));
        }
    }

    /// Looks for two rows of one text: llama.cpp aborts on them.
    pub(super) fn check(&self, file: &str) -> Result<(), Diagnostic> {
        let mut owners = HashMap::new();
        for (id, row) in self.rows.iter().enumerate() {
            let text = row.as_ref().map_or_else(|| unused(id).text, |token| token.text.clone());
            // An empty one gets a name of its own there.
            if text.is_empty() {
                continue;
            }
            if let Some(other) = owners.insert(text.clone(), id) {
                let message = format!("two ids stand for the token {text:?}");
                return Err(
                    malformed(file, "", message).mismatch("one id", format!("{other} and {id}"))
                );
            }
        }
        Ok(())
    }

    /// Writes the arrays.
    pub(super) fn put(&self, put: &mut impl FnMut(&str, Value), has_scores: bool) {
        let mut texts = Texts::default();
        let (mut scores, mut kinds) = (Vec::new(), Vec::new());
        for (id, row) in self.rows.iter().enumerate() {
            let token = row.clone().unwrap_or_else(|| unused(id));
            texts.push(token.text.as_bytes());
            scores.push(token.score);
            kinds.push(token.kind);
        }
        put("tokens", Value::Array(Array::String(Box::new(texts))));
        if has_scores {
            put("scores", Value::Array(Array::F32(scores)));
        }
        put("token_type", Value::Array(Array::I32(kinds)));
    }
}

/// What stands in a row without a token.
pub(super) fn unused(id: usize) -> Token {
    Token { text: format!("[PAD{id}]"), score: UNUSED_SCORE, kind: UNUSED }
}
