//! Foreign configs of tiny models, made from the mapping that reads them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::base::diagnostic::Diagnostic;
use crate::package::{Hparams, Value};
use crate::plan::keys::{self, Keys};
use crate::spec::Spec;
use crate::spec::arch::Arch;
use crate::spec::expr::{Expr, as_int, same};
use crate::spec::hparams::Kind;
use crate::spec::map::{KeyRule, Map};

/// Hyperparameters of a model that is tiny, and different in every size. They fit together where
/// the widths of heads follow from the others, as most foreign configs have it.
const WANTED: &[(&str, &str)] = &[
    ("vocab_size", "37"),
    ("hidden_size", "24"),
    ("embed_dim", "24"),
    ("num_layers", "4"),
    ("layer_map", "null"),
    ("num_stored_layers", "2"),
    ("has_attention", "true"),
    ("has_mlp", "true"),
    ("cross_attention", "false"),
    ("num_heads", "6"),
    ("num_kv_heads", "2"),
    ("head_dim", "4"),
    ("v_head_dim", "4"),
    ("intermediate_size", "28"),
    ("position", "'rope'"),
    ("max_positions", "16"),
    ("num_positions", "16"),
    ("position_dim", "24"),
    ("position_offset", "0"),
    ("position_count", "'all'"),
    ("decoder_shift", "'start'"),
    ("sinusoid.step", "'half'"),
    ("alibi.max", "8.0"),
    ("alibi.scale", "1.0"),
    ("rel_bias.buckets", "8"),
    ("rel_bias.max_distance", "12"),
    ("rel_bias.shared", "true"),
    ("disentangled.span", "5"),
    ("disentangled.buckets", "5"),
    ("disentangled.max_distance", "16"),
    ("disentangled.c2p", "true"),
    ("disentangled.p2c", "true"),
    ("disentangled.share_key", "true"),
    ("disentangled.norm", "true"),
    ("disentangled.absolute", "false"),
    ("type_vocab_size", "3"),
    ("task_vocab_size", "3"),
    ("box_positions", "5"),
    ("altup.streams", "3"),
    ("altup.active", "1"),
    ("laurel.rank", "5"),
    ("hyper.streams", "3"),
    ("hyper.iterations", "2"),
    ("attn_moe.num_experts", "5"),
    ("attn_moe.top_k", "2"),
    ("side.layers", "[1, 2, 3]"),
    ("side.from", "[1, 2, 1]"),
    ("side.rank", "3"),
    ("side.attn_adapters", "true"),
    ("ssm.scan_heads", "2"),
    ("moe.product_keys", "2"),
    ("cycle.low", "1"),
    ("cycle.layers", "1"),
    ("qk_conv.kernels", "[3, 2]"),
    ("moe.null_experts", "1"),
    ("moe.router_dim", "5"),
    ("attn_span_conv", "3"),
    ("attn_q_rank", "7"),
    ("attn_out_rank", "10"),
    ("map_groups.o_a_proj", "2"),
    ("attn_compress.rate", "3"),
    ("attn_compress.sparse_rate", "2"),
    ("attn_compress.top_k", "2"),
    ("attn_compress.index_heads", "3"),
    ("attn_compress.index_dim", "8"),
    ("mlp_clamp", "2.5"),
    ("layer_embed.dim", "3"),
    ("layer_embed.vocab_size", "31"),
    ("mlp_adapter.dim", "8"),
    ("mlp_adapter.names", "['one', 'other']"),
    ("mlp_adapter.default", "'other'"),
    ("mlp_adapter.norm", "'layer'"),
    ("mlp_adapter.residual", "'normed'"),
    ("shape_embed.rows", "11"),
    ("shape_embed.dim", "9"),
    ("sound_embed.rows", "7"),
    ("sound_embed.dim", "5"),
    ("token_aspects", "'joined'"),
    ("attn_index.top_k", "3"),
    ("attn_index.heads", "3"),
    ("attn_index.head_dim", "12"),
    ("attn_index.block_size", "2"),
    ("attn_index.local_blocks", "1"),
    ("bottleneck.dim", "12"),
    ("bottleneck.attn", "'own'"),
    ("mlp_before", "2"),
    ("pool.layers", "[1, 2]"),
    ("pool.kind", "'mean'"),
    ("pool.stride", "3"),
    ("pool.first_apart", "true"),
    ("pool.truncate", "true"),
    ("pool.queries_only", "true"),
    ("pool.end", "3"),
    ("pool.out_kernel", "4"),
    ("hash_embed.primes", "[31, 43, 59]"),
    ("hash_embed.buckets", "29"),
    ("predict_streams", "2"),
    ("embed_own_token", "9"),
    ("embed_conv.kernel", "3"),
    ("embed_conv.groups", "2"),
    ("embed_conv.activation", "'tanh'"),
    ("embed_norm", "false"),
    ("embed_scale", "1.0"),
    ("causal", "true"),
    ("attn_scale", "0.5"),
    ("attn_scale_by_layer", "false"),
    ("attn_logit_softcap", "null"),
    ("attn_qkv_bias", "false"),
    ("attn_k_bias", "true"),
    ("qkv_clip", "null"),
    ("qk_norm", "'none'"),
    ("qk_norm_at", "'before_rope'"),
    ("attn_sinks", "false"),
    ("attn_o_bias", "false"),
    ("layer_types", "['full', 'full', 'full', 'full']"),
    ("window_left", "null"),
    ("window_right", "null"),
    ("rope_skip_layers", "[]"),
    ("rope_local.theta", "null"),
    ("mla.kv_lora_rank", "10"),
    ("mla.q_lora_rank", "8"),
    ("mla.qk_nope_head_dim", "6"),
    ("mla.qk_rope_head_dim", "4"),
    ("mla.norm_eps", "1e-6"),
    ("rope_theta", "700.0"),
    ("rope_dim", "4"),
    ("rope_at", "'first'"),
    ("rope_scaling.kind", "'none'"),
    ("rope_scaling.factor", "4.0"),
    ("rope_scaling.original_max_positions", "8"),
    ("rope_scaling.low_freq_factor", "1.0"),
    ("rope_scaling.high_freq_factor", "4.0"),
    ("rope_scaling.beta_fast", "32.0"),
    ("rope_scaling.beta_slow", "1.0"),
    ("rope_scaling.attention_factor", "null"),
    ("rope_scaling.long_attention_factor", "null"),
    ("rope_scaling.mscale", "null"),
    ("rope_scaling.mscale_all_dim", "null"),
    ("rope_scaling.truncate", "true"),
    ("rope_scaling.short_factor", "[1.0, 1.3]"),
    ("rope_scaling.long_factor", "[2.0, 3.5]"),
    ("mlp_gated", "true"),
    ("activation", "'silu'"),
    ("activation_alpha", "1.702"),
    ("activation_clamp", "7.0"),
    ("mlp_bias", "false"),
    ("moe.num_experts", "6"),
    ("moe.top_k", "2"),
    ("moe.intermediate_size", "10"),
    ("moe.layers", "[1, 3]"),
    ("moe.scoring", "'softmax'"),
    ("moe.sparsemixer_eps", "0.01"),
    ("moe.norm_topk", "false"),
    ("moe.routed_scale", "1.0"),
    ("moe.groups", "3"),
    ("moe.topk_groups", "2"),
    ("moe.group_score", "'max'"),
    ("moe.score_bias", "false"),
    ("moe.router_bias", "false"),
    ("moe.bias", "false"),
    ("moe.shared_intermediate_size", "20"),
    ("moe.shared_gate", "false"),
    ("ssm.kind", "'mamba1'"),
    ("ssm.state", "5"),
    ("ssm.inner", "48"),
    ("ssm.conv_kernel", "3"),
    ("ssm.conv_bias", "true"),
    ("ssm.proj_bias", "false"),
    ("ssm.dt_rank", "7"),
    ("ssm.inner_norm", "'none'"),
    ("ssm.heads", "6"),
    ("ssm.head_dim", "8"),
    ("ssm.groups", "2"),
    ("ssm.dt_min", "0.0"),
    ("ssm.dt_max", "null"),
    ("ssm.norm_groups", "1"),
    ("ssm.norm_eps", "1e-5"),
    ("linear.heads", "6"),
    ("linear.key_heads", "2"),
    ("conv.kernel", "3"),
    ("conv.bias", "false"),
    ("norm_type", "'rmsnorm'"),
    ("norm_bias", "false"),
    ("norm_eps", "1e-5"),
    ("norm_affine", "true"),
    ("norm_weight_offset", "0.0"),
    ("norm_placement", "'pre'"),
    ("residual", "'sequential'"),
    ("num_pre_norms", "1"),
    ("residual_scale", "1.0"),
    ("tie_embeddings", "false"),
    ("head_input_scale", "1.0"),
    ("logit_scale", "1.0"),
    ("logit_softcap", "null"),
    ("audio.mel_bins", "5"),
];

/// How often one key is given another value before a config is given up.
const MAX_TRIES: usize = 40;

/// A foreign config and what it says.
#[derive(Clone, Debug)]
pub struct Tiny {
    /// The config.
    pub config: Json,
    /// What it says, in the standard's words.
    pub keys: Keys,
}

/// A config of a tiny model. Flags, words and constants are those of `start`, where there is one:
/// a config of any size, whose sizes alone are made small.
///
/// # Errors
/// No tiny values were found that the mapping reads; what was wrong with the last ones.
pub fn config(spec: &Spec, map: &Map, start: Option<&Json>) -> Result<Tiny, Vec<Diagnostic>> {
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let mut hparams = wanted(map, arch);
    if let Some(start) = start {
        let given = keys::read(spec, map, arch, start)?;
        let kept = given.hparams.into_iter().filter_map(|(name, value)| {
            let small = hparams.get(&name).cloned();
            Some((name.clone(), shrink(spec, &name, value, small)?))
        });
        let kept: Hparams = kept.collect();
        hparams.extend(kept);
    }
    let mut tried: BTreeMap<String, usize> = BTreeMap::new();
    let mut last = Vec::new();
    for _ in 0..MAX_TRIES {
        // Positions of some families are counted from the padding id.
        let tokens = Hparams::from([("pad".to_owned(), Value::Int(1))]);
        let written = keys::write(spec, map, arch, &hparams, &tokens, start, &|_| Some([1, 1]));
        let read = written.and_then(|config| Ok((keys::read(spec, map, arch, &config)?, config)));
        let findings = match read {
            Ok((keys, config)) => return Ok(Tiny { config, keys }),
            Err(findings) => findings,
        };
        let wrong: BTreeSet<&str> =
            findings.iter().filter_map(|finding| finding.key.as_deref()).collect();
        let mut changed = false;
        for name in wrong {
            let count = tried.entry(name.to_owned()).or_default();
            let others = others(spec, map, name);
            if let Some(value) = others.get(*count) {
                *count += 1;
                changed = true;
                match value {
                    Some(value) => hparams.insert(name.to_owned(), value.clone()),
                    None => hparams.remove(name),
                };
            }
        }
        last = findings;
        if !changed {
            break;
        }
    }
    Err(last)
}

/// A value of a config of any size as one of a tiny model.
fn shrink(spec: &Spec, name: &str, value: Value, small: Option<Value>) -> Option<Value> {
    match (spec.key(name)?.kind, &value, small) {
        // Off stays off, few stay few.
        (Kind::Count, Value::Int(big), Some(Value::Int(small))) if small < *big => {
            Some(Value::Int(small))
        }
        (Kind::Counts | Kind::Floats, Value::List(_), Some(small)) => Some(small),
        (Kind::Words, Value::List(words), Some(Value::List(small))) => {
            // Every word that was there is still there, in turn.
            let mut known: Vec<Value> = Vec::new();
            for word in words {
                if !known.contains(word) {
                    known.push(word.clone());
                }
            }
            Some(Value::List(known.into_iter().cycle().take(small.len()).collect()))
        }
        _ => Some(value),
    }
}

/// The hyperparameters to begin with: what the architecture fixes, and else the tiny ones; those of
/// a stack where the mapping has keys of its own for it.
fn wanted(map: &Map, arch: &Arch) -> Hparams {
    let parse = |text: &str| {
        let none = |name: &str| Err(format!("`{name}` stands in no table"));
        Expr::parse(text).and_then(|expr| expr.eval(&none)).unwrap_or(Value::Null)
    };
    let mut hparams: Hparams =
        WANTED.iter().map(|(name, text)| ((*name).to_owned(), parse(text))).collect();
    for rule in &map.keys {
        let plain = rule
            .to
            .split_once('.')
            .and_then(|(stack, plain)| arch.stacks.iter().any(|own| own == stack).then_some(plain));
        if let Some(value) = plain.and_then(|plain| hparams.get(plain)).cloned() {
            hparams.insert(rule.to.clone(), value);
        }
    }
    hparams.extend(arch.fixed.clone());
    hparams
}

/// Other values of a key, in the order to try: those its foreign words mean, other numbers, none.
fn others(spec: &Spec, map: &Map, name: &str) -> Vec<Option<Value>> {
    let rule = map.keys.iter().find(|rule| rule.to == name);
    let mut values: Vec<Option<Value>> = Vec::new();
    if let Some(rule) = rule {
        let meanings = rule.words.iter().map(|(_, value)| Some(value.clone()));
        values.extend(meanings);
        let lists = rule.words.iter().map(|(_, value)| Some(Value::List(vec![value.clone(); 4])));
        values.extend(lists);
        values.extend(rule.defaults.iter().map(|default| Some(default.value.clone())));
    }
    match spec.key(name).map(|key| key.kind) {
        Some(Kind::Bool) => values.extend([true, false].map(|on| Some(Value::Bool(on)))),
        Some(Kind::Count) => values.extend([0, 1, 2, 3, 4, 6, 8, 12].map(|n| Some(Value::Int(n)))),
        Some(Kind::Counts) => {
            let lists: [&[i64]; 4] = [&[], &[1, 2, 3], &[0, 1, 2, 3], &[1]];
            let list = |list: &[i64]| list.iter().copied().map(Value::Int).collect();
            values.extend(lists.map(|items| Some(Value::List(list(items)))));
        }
        Some(Kind::Word | Kind::Words | Kind::Float | Kind::Floats) | None => {}
    }
    values.extend([Some(Value::Null), None]);
    values
}

/// One entry of a foreign config with another value, or without one.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The path.
    pub path: String,
    /// The value; the entry is taken out where there is none.
    pub value: Option<Json>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.path),
            None => write!(f, "no {}", self.path),
        }
    }
}

impl Change {
    /// The config with this change.
    pub fn apply(&self, config: &Json) -> Json {
        let mut config = config.clone();
        match &self.value {
            Some(value) => keys::set(&mut config, &self.path, value.clone()),
            None => keys::remove(&mut config, &self.path),
        }
        config
    }
}

/// Every change of one entry that may switch something: flags, words, counts, lists.
pub fn changes(spec: &Spec, map: &Map, base: &Tiny) -> Vec<Change> {
    let mut all = Vec::new();
    let mut paths: BTreeSet<&str> = BTreeSet::new();
    for rule in &map.keys {
        let inner = rule.from.iter().map(String::as_str);
        let asked = expressions(rule).flat_map(|expr| {
            expr.names().into_iter().filter_map(|name| name.strip_prefix("config."))
        });
        for path in inner.take(1).chain(asked) {
            if !paths.insert(path) {
                continue;
            }
            let stated = keys::lookup(&base.config, path);
            let values = foreign_values(spec, rule, stated);
            let other = |value: &Option<Json>| value.as_ref() != stated;
            all.extend(
                values
                    .into_iter()
                    .filter(other)
                    .map(|value| Change { path: path.to_owned(), value }),
            );
        }
    }
    all
}

/// The expressions of a key's rule.
pub fn expressions(rule: &KeyRule) -> impl Iterator<Item = &Expr> {
    let KeyRule { expr, back, otherwise, each, value, when, .. } = rule;
    let each = each.iter().flat_map(|each| each.exprs());
    [expr, back, otherwise, value, when].into_iter().flatten().chain(each)
}

fn foreign_values(spec: &Spec, rule: &KeyRule, stated: Option<&Json>) -> Vec<Option<Json>> {
    let mut values: Vec<Option<Json>> = Vec::new();
    for (word, _) in rule.words.iter().take(12) {
        let word = match word.as_str() {
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            word => Json::from(word),
        };
        match stated {
            Some(Json::Array(items)) => {
                let n_items = items.len();
                values.push(Some(Json::from(vec![word.clone(); n_items])));
                // Beside the first of the words, in turn.
                let first = Json::from(rule.words[0].0.as_str());
                let mixed = [first, word].into_iter().cycle().take(n_items);
                values.push(Some(mixed.collect()));
            }
            _ => values.push(Some(word)),
        }
    }
    let kind = spec.key(&rule.to).map(|key| key.kind);
    let is_flag = kind == Some(Kind::Bool)
        || stated.is_some_and(Json::is_boolean)
        || rule.defaults.iter().any(|default| matches!(default.value, Value::Bool(_)))
        || kind.is_none();
    if is_flag {
        values.extend([true, false].map(|on| Some(Json::Bool(on))));
    }
    if matches!(kind, Some(Kind::Count) | None) {
        values.extend([0, 1, 2, 3, 4, 6, 12].map(|n| Some(Json::from(n))));
    }
    if kind == Some(Kind::Counts) {
        values.extend([Json::from(Vec::<u64>::new()), Json::from(vec![1])].map(Some));
    }
    values.extend([Some(Json::Null), None]);
    values.dedup();
    values
}

/// Whether two sets of hyperparameters say the same.
pub fn alike(left: &Hparams, right: &Hparams) -> bool {
    left.len() == right.len()
        && left.iter().all(|(name, value)| right.get(name).is_some_and(|other| same(value, other)))
}

/// The value of a hyperparameter as a count.
pub fn count(hparams: &Hparams, name: &str) -> Option<u64> {
    hparams.get(name).and_then(as_int).and_then(|int| u64::try_from(int).ok())
}
