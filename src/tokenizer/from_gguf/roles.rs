//! Tokens with a role: what stands around texts, and `tokenizer_config.json`.

use serde_json::{Map, Value as Json, json};

use super::super::sentencepiece::{CONTROL, UNKNOWN};
use super::super::wordpiece;
use super::{Model, Pretokenizer, Source, Vocab};
use crate::metadata::{Array, Value};

/// The roles by their names in settings and in GGUF.
const ROLES: [(&str, &str); 7] = [
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    // Spelled so in GGUF.
    ("sep", "seperator"),
    ("pad", "padding"),
    ("cls", "cls"),
    ("mask", "mask"),
];

const BOS: usize = 0;
const EOS: usize = 1;
const UNK: usize = 2;
const SEP: usize = 3;
const CLS: usize = 5;

/// Ids by role, and which of them are put around texts.
pub(super) struct Roles {
    kind: Model,
    ids: [Option<usize>; ROLES.len()],
    first: Option<usize>,
    last: Option<usize>,
    /// Between two texts, besides what ends the first.
    between: Option<usize>,
}

impl Roles {
    pub(super) fn read(source: &Source<'_>, vocab: &Vocab, pre: Option<&Pretokenizer>) -> Roles {
        let said = |name: &str| {
            let id = source.get(&format!("{name}_token_id"))?.as_integer()?;
            usize::try_from(id).ok().filter(|&id| vocab.get(id).is_some())
        };
        let mut ids = ROLES.map(|(_, name)| said(name));
        // What programs assume where no key says it.
        let is =
            |id: usize, kind: i32| vocab.get(id).filter(|token| token.kind == kind).map(|_| id);
        let mut assume = |role: usize, id: Option<usize>| ids[role] = ids[role].or(id);
        match vocab.kind {
            Model::Bytes => {}
            Model::Merges => {
                assume(BOS, is(1, CONTROL));
                assume(EOS, is(2, CONTROL));
                assume(UNK, vocab.first(UNKNOWN));
            }
            Model::Scores => {
                assume(EOS, is(1, CONTROL));
                assume(UNK, vocab.first(UNKNOWN));
            }
            Model::Words => {
                // A text stands between two tokens that have two roles each.
                assume(CLS, said("bos"));
                assume(SEP, said("eos"));
                for (role, name) in wordpiece::ROLES {
                    let index = ROLES.iter().position(|(known, _)| *known == role);
                    index.into_iter().for_each(|index| assume(index, vocab.named(name)));
                }
            }
        }
        let adds = |name: &str, default: bool| {
            source.flag(&format!("add_{name}_token")).unwrap_or(default)
        };
        let mut roles = Roles { kind: vocab.kind, ids, first: None, last: None, between: None };
        if vocab.kind == Model::Words {
            (roles.first, roles.last) = (ids[CLS], ids[SEP]);
            // They are called so here.
            (roles.ids[BOS], roles.ids[EOS]) = (None, None);
            return roles;
        }
        let bos = match pre {
            Some(pre) => pre.add_bos,
            None => vocab.kind == Model::Merges,
        };
        roles.first = ids[BOS].filter(|_| adds("bos", bos));
        roles.last = ids[EOS].filter(|_| adds("eos", vocab.kind == Model::Scores));
        if adds("sep", pre.is_some_and(|pre| pre.add_sep)) {
            roles.between = ids[SEP].or(ids[EOS]);
            // Such a text begins with the token of its class.
            roles.ids[CLS] = ids[CLS].or(ids[BOS]);
        }
        roles
    }

    pub(super) fn unk(&self) -> Option<usize> {
        self.ids[UNK]
    }

    pub(super) fn has(&self, id: usize) -> bool {
        self.ids.contains(&Some(id))
    }

    /// The step that puts tokens around texts.
    pub(super) fn post_processor(&self, vocab: &Vocab) -> Json {
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true,
        });
        let is_bytes = self.kind == Model::Bytes;
        let all = [self.first, self.last, self.between];
        if all.iter().all(Option::is_none) {
            return if is_bytes { bytes } else { Json::Null };
        }
        let token = |id: Option<usize>, kind: u8| {
            id.map(|id| json!({"SpecialToken": {"id": vocab.text(id), "type_id": kind}}))
        };
        let text = |name: &str, kind: u8| Some(json!({"Sequence": {"id": name, "type_id": kind}}));
        let single = [token(self.first, 0), text("A", 0), token(self.last, 0)];
        // Where a token of its own parts the texts, they are one segment, and begin once.
        let kind = u8::from(self.between.is_none());
        let is_words = self.kind == Model::Words;
        let again = self.first.filter(|_| self.between.is_none() && !is_words);
        let second =
            [token(self.between, 0), token(again, kind), text("B", kind), token(self.last, kind)];
        let pair: Vec<Json> = single.iter().chain(&second).flatten().cloned().collect();
        let mut tokens = Map::new();
        for id in all.into_iter().flatten() {
            let text = vocab.text(id);
            tokens.insert(text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}));
        }
        let template = json!({
            "type": "TemplateProcessing",
            "single": single.iter().flatten().collect::<Vec<_>>(),
            "pair": pair,
            "special_tokens": tokens,
        });
        match is_bytes {
            true => json!({"type": "Sequence", "processors": [bytes, template]}),
            false => template,
        }
    }

    /// `tokenizer_config.json`.
    pub(super) fn settings(
        &self,
        source: &Source<'_>,
        vocab: &Vocab,
        pre: Option<&Pretokenizer>,
    ) -> Json {
        let mut settings = Map::new();
        // The class that takes tokenizer.json as it is.
        settings.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        for ((role, _), id) in ROLES.iter().zip(self.ids) {
            if let Some(id) = id {
                settings.insert(format!("{role}_token"), json!(vocab.text(id)));
            }
        }
        // Readers make the step anew of these two; it comes out the same.
        if self.kind != Model::Words && self.between.is_none() {
            settings.insert("add_bos_token".to_owned(), json!(self.first.is_some()));
            settings.insert("add_eos_token".to_owned(), json!(self.last.is_some()));
        }
        let cleans = pre.map_or(self.kind == Model::Words, |pre| pre.clean_spaces);
        settings.insert("clean_up_tokenization_spaces".to_owned(), json!(cleans));
        if self.kind == Model::Words {
            let names = ["input_ids", "token_type_ids", "attention_mask"];
            settings.insert("model_input_names".to_owned(), json!(names));
        }
        if let Some(template) = template(source) {
            settings.insert("chat_template".to_owned(), template);
        }
        Json::Object(settings)
    }
}

/// The chat template, or a list of them by name.
fn template(source: &Source<'_>) -> Option<Json> {
    const KEY: &str = "tokenizer.chat_template";
    let text = |key: &str| source.keys.get(key).and_then(Value::as_str);
    let default = text(KEY);
    let mut list = Vec::new();
    if let Some(Value::Array(Array::String(names))) = source.keys.get("tokenizer.chat_templates") {
        for name in names.iter().filter_map(|name| std::str::from_utf8(name).ok()) {
            if let Some(template) = text(&format!("{KEY}.{name}")) {
                list.push(json!({"name": name, "template": template}));
            }
        }
    }
    if list.is_empty() {
        return default.map(|text| json!(text));
    }
    let default = default.map(|text| json!({"name": "default", "template": text}));
    Some(default.into_iter().chain(list).collect())
}
