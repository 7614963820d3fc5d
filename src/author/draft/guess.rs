//! Which role a foreign tensor may have: a guess by the words of its name, and by its shape.

use std::collections::BTreeSet;

use super::Guess;
use crate::package::Hparams;
use crate::spec::Spec;
use crate::spec::map::Map;
use crate::spec::names::StackNames;
use crate::spec::template::Bindings;

/// Words of foreign names, and what the standard calls the same.
const WORDS: &[(&str, &str)] = &[
    ("self_attn", "attn"),
    ("attention", "attn"),
    ("self_attention", "attn"),
    ("attn", "attn"),
    ("encoder_attn", "cross_attn"),
    ("crossattention", "cross_attn"),
    ("mlp", "mlp"),
    ("feed_forward", "mlp"),
    ("ffn", "mlp"),
    ("wq", "q_proj"),
    ("wk", "k_proj"),
    ("wv", "v_proj"),
    ("wo", "o_proj"),
    ("query", "q_proj"),
    ("key", "k_proj"),
    ("value", "v_proj"),
    ("out_proj", "o_proj"),
    ("w1", "gate_proj"),
    ("w2", "down_proj"),
    ("w3", "up_proj"),
    ("fc1", "up_proj"),
    ("fc2", "down_proj"),
    ("fc11", "up_proj"),
    ("fc12", "gate_proj"),
    ("input_layernorm", "attn.pre_norm"),
    ("post_attention_layernorm", "mlp.pre_norm"),
    ("pre_feedforward_layernorm", "mlp.pre_norm"),
    ("post_feedforward_layernorm", "mlp.post_norm"),
    ("q_norm", "q_norm"),
    ("k_norm", "k_norm"),
    ("query_layernorm", "q_norm"),
    ("key_layernorm", "k_norm"),
    ("norm1", "attn.res_norm"),
    ("norm2", "mlp.res_norm"),
    ("embed_tokens", "embed.tokens"),
    ("word_embeddings", "embed.tokens"),
    ("wte", "embed.tokens"),
    ("position_embeddings", "embed.positions"),
    ("wpe", "embed.positions"),
    ("token_type_embeddings", "embed.token_types"),
    ("emb_ln", "embed.norm"),
    ("norm", "final_norm"),
    ("lm_head", "heads.lm.proj"),
    ("embed_out", "heads.lm.proj"),
    ("score", "heads.classifier.proj"),
    ("classifier", "heads.classifier.proj"),
    ("qa_outputs", "heads.qa.proj"),
    ("gate", "mlp.router"),
    ("router", "mlp.router"),
];

/// The role that is most like a foreign name, among those of the shape if there are any.
pub(super) fn guess(
    spec: &Spec,
    map: &Map,
    hparams: &Hparams,
    foreign: &str,
    shape: &[u64],
) -> Guess {
    let stack = spec.arch(&map.arch).and_then(|arch| arch.stacks.first()).map(String::as_str);
    let leaf = foreign.rsplit('.').next().unwrap_or_default();
    let words: BTreeSet<&str> = foreign
        .trim_start_matches('@')
        .split('.')
        .flat_map(|word| {
            let known = WORDS.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours);
            known.unwrap_or(word).split('.')
        })
        .collect();
    let in_layer = foreign.contains("{i}");
    let scored = spec.roles.iter().filter_map(|role| {
        let text = role.template.text.as_str();
        if text.contains("{i}") != in_layer || text.rsplit('.').next() != Some(leaf) {
            return None;
        }
        let names = StackNames { hparams, tokens: None, stack, layer: Some(0) };
        let wanted: std::result::Result<Vec<Option<u64>>, String> = role
            .shape
            .iter()
            .map(|dim| dim.as_ref().map(|expr| expr.eval_size(&names)).transpose())
            .collect();
        let fits = wanted.is_ok_and(|wanted| {
            wanted.len() == shape.len()
                && wanted
                    .iter()
                    .zip(shape)
                    .all(|(want, have)| want.is_none_or(|want| want == *have))
        });
        let alike = text.split('.').filter(|word| *word != leaf && words.contains(word)).count();
        let bindings = Bindings::from([
            ("stack".to_owned(), stack.unwrap_or("decoder").to_owned()),
            ("i".to_owned(), "{i}".to_owned()),
        ]);
        let name = role.template.fill(&bindings).ok()?;
        // One word of a shape that is not the role's says nothing.
        (if fits { 0 } else { 1 } < alike).then_some((fits, alike, name))
    });
    // By words first; the shape decides among equals. A second index is no layer: experts are told
    // by hand.
    let best =
        scored.filter(|_| !foreign.contains('#')).max_by_key(|(fits, alike, _)| (*alike, *fits));
    let (shape_fits, standard) = match best {
        Some((fits, _, name)) => (fits, Some(name)),
        None => (false, None),
    };
    Guess { foreign: foreign.to_owned(), shape: shape.to_vec(), standard, shape_fits }
}
