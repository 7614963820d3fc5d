//! What configs of published models say, and what programs that read a file make of it: refused, converted or warned of
//! in words of the config.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use llmstd::author::sample;
use llmstd::author::tensors::TensorList;
use llmstd::base::diagnostic::{Diagnostic, Level};
use llmstd::convert::{Failure, Request, convert};
use llmstd::folder;
use llmstd::forward::{self, Inputs};
use llmstd::package::Model;
use llmstd::run::load;
use llmstd::spec::Spec;
use llmstd::spec::map::Map;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde_json::{Map as Object, Value as Json, json};

use crate::answers::with_vocabulary;
use crate::oracle::{root, spec};

fn config_of(fixture: &str) -> Json {
    let text = fs::read(root().join("fixtures").join(fixture).join("config.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn findings(failure: Failure) -> Vec<Diagnostic> {
    match failure {
        Failure::Error(err) => panic!("{err}"),
        Failure::Findings(findings) => findings,
    }
}

/// A config of a fixture with some entries changed.
fn changed(fixture: &str, change: &Json) -> Json {
    let mut config = config_of(fixture);
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// What is said of a small model with this config that is written as GGUF.
fn said_of_gguf(spec: &Spec, map: &Map, config: &Json) -> Vec<Diagnostic> {
    let scratch = tempfile::tempdir().unwrap();
    let [from, to] = ["case", "case.gguf"].map(|name| scratch.path().join(name));
    let samples = sample::samples(spec, map, Some(config)).unwrap();
    sample::write(spec, map, &samples[0], &from).map_err(findings).unwrap();
    let request = Request::new(spec, &to, "gguf");
    match convert(folder::open(&from).unwrap(), &request) {
        Ok(report) => report.findings,
        Err(failure) => findings(failure),
    }
}

/// Where llama.cpp does not open a file, aborts on it, or computes something else of it, the conversion says so first.
#[test]
fn what_readers_of_gguf_do_otherwise_is_said_before_it_is_written() {
    let spec = spec();
    let biases = "no biases around attention in this architecture, and do not open";
    let head =
        "they look for `output.weight`, which a model that shares the table of embeddings lacks";
    let groups = "they abort where every group of experts is chosen";
    let tied = json!({"tie_word_embeddings": true});
    let grouped = json!({"n_group": 2, "topk_group": 2});
    let limited = json!({"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2});
    let biased = json!({"attention_bias": true});
    let cases = [
        ("gemma", &biased, Level::Warning, biases),
        ("qwen3", &biased, Level::Warning, biases),
        ("arcee", &biased, Level::Warning, biases),
        ("cohere", &biased, Level::Warning, biases),
        ("ernie4_5", &json!({"use_bias": true}), Level::Warning, biases),
        (
            "seed_oss",
            &json!({"attention_bias": true, "attention_out_bias": true}),
            Level::Warning,
            "no biases of outputs and of the MLP in this architecture, and do not open",
        ),
        ("apertus", &tied, Level::Warning, head),
        ("nemotron", &tied, Level::Warning, head),
        ("olmo2", &tied, Level::Warning, head),
        ("olmo3", &tied, Level::Warning, head),
        ("deepseek_v3", &grouped, Level::Error, groups),
        ("glm4_moe", &grouped, Level::Error, groups),
        ("dots1", &grouped, Level::Error, groups),
        ("deepseek_v2", &limited, Level::Warning, "by its best two, not by its best one"),
        ("phimoe", &json!({}), Level::Warning, "not by sparsemixer: other logits"),
        (
            "phi3",
            &json!({"sliding_window": 4}),
            Level::Warning,
            "other logits for texts longer than the window",
        ),
    ];
    for (name, change, level, wanted) in cases {
        let map = &spec.maps.values().find(|map| map.format == "hf" && map.name == name).unwrap();
        let said = said_of_gguf(&spec, map, &changed(&format!("families/{name}"), change));
        let is_said = said.iter().any(|said| {
            said.rule == "P042" && said.level == level && said.message.contains(wanted)
        });
        assert!(is_said, "{name} {change}: {said:?}");
    }
    // Nothing is said of what they do right.
    for (name, change) in [
        ("gemma", json!({"attention_bias": false})),
        ("deepseek_v3", json!({"n_group": 1, "topk_group": 1})),
        ("arcee", json!({"attention_bias": false})),
    ] {
        let map = &spec.maps.values().find(|map| map.format == "hf" && map.name == name).unwrap();
        let said = said_of_gguf(&spec, map, &changed(&format!("families/{name}"), &change));
        assert!(!said.iter().any(|said| said.rule == "P042"), "{name} {change}: {said:?}");
    }
}

/// Entries that published configs vary, and what stands in them there or by mistake.
fn changes(config: &Json) -> Vec<Object<String, Json>> {
    let all = std::env::var("CHANGES").is_ok();
    let mut found: Vec<Object<String, Json>> = Vec::new();
    let one = |key: &str, value: Json| Object::from_iter([(key.to_owned(), value)]);
    let members = config.as_object().unwrap();
    let apart = ["architectures", "model_type", "transformers_version", "dtype", "torch_dtype"];
    let usual = [
        "kv_lora_rank",
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "first_k_dense_replace",
        "n_group",
        "layer_types",
        "num_key_value_heads",
    ];
    for (key, value) in members.iter().filter(|(key, _)| !apart.contains(&key.as_str())) {
        if !all && !usual.contains(&key.as_str()) {
            continue;
        }
        let mut values = vec![Json::Null];
        match value {
            Json::Bool(flag) => values.push((!flag).into()),
            Json::Number(_) => values.extend([0, 1, -1].map(Json::from)),
            Json::String(_) => values.push("mystery".into()),
            Json::Array(items) => {
                values.push(json!([]));
                values.push(items.iter().take(1).cloned().collect());
                values.push(items.iter().chain(items).cloned().collect());
            }
            Json::Object(_) => values.push(json!({})),
            Json::Null => values.push(json!(0)),
        }
        found.extend(values.into_iter().filter(|new| new != value).map(|new| one(key, new)));
    }
    if !all {
        return found;
    }
    let kinds = [
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
        json!({"rope_type": "linear", "factor": 2.0}),
        json!({"rope_type": "dynamic", "factor": 2.0}),
        json!({"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 16,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}),
        json!({"rope_type": "mystery"}),
        json!({"type": "linear", "factor": 2.0}),
        json!({"rope_type": "yarn"}),
    ];
    if config["rope_parameters"].is_object() {
        for kind in kinds {
            let theta = config["rope_parameters"]["rope_theta"].clone();
            let mut flat = kind.clone();
            flat["rope_theta"] = theta.clone();
            found.push(one("rope_parameters", flat));
            let mut old = one("rope_scaling", kind);
            old.insert("rope_parameters".to_owned(), Json::Null);
            old.insert("rope_theta".to_owned(), theta);
            found.push(old);
        }
    }
    for key in ["hidden_act", "hidden_activation", "activation_function", "activation"] {
        if members.get(key).is_some_and(Json::is_string) {
            let words = [
                "gelu_fast",
                "relu6",
                "xielu",
                "tanh",
                "quick_gelu",
                "relu2",
                "swish",
                "mish",
                "gelu_new",
                "silu",
                "gelu_pytorch_tanh",
                "relu",
                "gelu",
                "sigmoid",
                "laplace",
                "leaky_relu",
                "linear",
                "gelu_10",
            ];
            found.extend(words.map(|word| one(key, word.into())));
        }
    }
    for key in [
        "kv_lora_rank",
        "num_experts",
        "num_local_experts",
        "n_group",
        "topk_group",
        "head_dim",
        "sliding_window",
        "first_k_dense_replace",
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
        "use_bias",
        "norm_topk_prob",
    ] {
        if !members.contains_key(key) {
            found.extend([json!(0), json!(1), json!(true)].map(|value| one(key, value)));
        }
    }
    found
}

/// What of a message only the data files know.
fn leak(message: &str) -> Option<&'static str> {
    let quoted = message.split('`').skip(1).step_by(2);
    let mut quoted = quoted.filter(|text| !text.contains(['/', '*']));
    if quoted.any(|text| text.contains(['(', '>', '=']) || text.starts_with('_')) {
        return Some("an expression");
    }
    let words =
        ["there is no hyperparameter", "has no value", "nothing says what", "the mapping hf/"];
    let told = words.into_iter().find(|words| message.contains(words));
    // That no rule takes a tensor is what it is about.
    told.filter(|words| *words != "the mapping hf/" || !message.contains("no rule of"))
}

/// Whatever a config says, what is wrong with it is told in words that stand in it. `CHANGES=1` makes every change.
#[test]
fn no_config_makes_a_message_of_expressions() {
    let spec = &spec();
    let only = std::env::var("FAMILY").ok();
    let names = fs::read_dir(root().join("fixtures/families")).unwrap();
    let names: BTreeSet<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| root().join("fixtures/families").join(name).join("config.json").exists())
        .filter(|name| only.as_ref().is_none_or(|only| only == name))
        .collect();
    let names: Vec<String> = names.into_iter().collect();
    let leaks: Vec<BTreeMap<String, String>> = names
        .par_iter()
        .map(|name| {
            let from = root().join("fixtures/families").join(name);
            let scratch = tempfile::tempdir().unwrap();
            for file in fs::read_dir(&from).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), scratch.path().join(file.file_name())).unwrap();
            }
            let config = config_of(&format!("families/{name}"));
            // Of a model with towers, the config of the language model.
            let inner = ["text_config", "thinker_config", "llm_config"];
            let inner = inner.into_iter().find(|inner| config[*inner].is_object());
            let part = inner.map_or(&config, |inner| &config[inner]);
            let mut found = BTreeMap::new();
            for change in changes(part) {
                let mut config = config.clone();
                let part = match inner {
                    Some(inner) => &mut config[inner],
                    None => &mut config,
                };
                part.as_object_mut().unwrap().extend(change.clone());
                found.extend(leaks_of(spec, name, scratch.path(), &config, &change));
            }
            found
        })
        .collect();
    let leaks: BTreeMap<String, String> = leaks.into_iter().flatten().collect();
    let leaks: Vec<String> =
        leaks.into_iter().map(|(message, why)| format!("{why}: {message}")).collect();
    assert!(leaks.is_empty(), "{}\n{}", leaks.len(), leaks.join("\n"));
}

fn leaks_of(
    spec: &Spec,
    name: &str,
    folder: &Path,
    config: &Json,
    change: &Object<String, Json>,
) -> Vec<(String, String)> {
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let Err(Failure::Findings(findings)) = load(folder, spec, None) else { return Vec::new() };
    let told = findings.iter().filter_map(|finding| {
        let why = leak(&finding.message)?;
        Some((finding.message.clone(), format!("{why} ({name}, {})", json!(change))))
    });
    told.collect()
}

/// The hyperparameters of a config as published.
fn said(spec: &Spec, arch: &str, config: &Json) -> Json {
    let list = TensorList::of_config(spec, arch, "hf", config).unwrap();
    serde_json::to_value(list.hyperparameters.unwrap()).unwrap()
}

/// Words that transformers 5 no longer writes, and entries that its classes overrule.
#[test]
fn configs_as_published_mean_what_their_classes_make_of_them() {
    let spec = &spec();
    // falcon-mamba-7b: the width is said, and is not expand * hidden_size.
    let falcon_mamba = json!({"model_type": "falcon_mamba", "conv_kernel": 4, "expand": 16, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 8192, "layer_norm_epsilon": 1e-05, "mixer_rms_eps": 1e-06,
        "num_hidden_layers": 2, "state_size": 16, "tie_word_embeddings": false, "time_step_rank": 256, "use_bias": false,
        "use_conv_bias": true, "vocab_size": 65024});
    assert_eq!(said(spec, "mamba", &falcon_mamba)["ssm.inner"], 8192);
    let mamba = changed("families/mamba", &json!({"intermediate_size": 24}));
    assert_eq!(said(spec, "mamba", &mamba)["ssm.inner"], 24);
    // nomic-embed-text's own words.
    let nomic = json!({"model_type": "nomic_bert", "activation_function": "swiglu", "causal": false,
        "layer_norm_epsilon": 1e-12, "mlp_fc1_bias": false, "mlp_fc2_bias": false, "n_embd": 768, "n_head": 12,
        "n_inner": 3072, "n_layer": 12, "n_positions": 8192, "parallel_block": false, "prenorm": false,
        "qkv_proj_bias": false, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false,
        "rotary_scaling_factor": null, "type_vocab_size": 2, "use_rms_norm": false, "vocab_size": 30528});
    let found = said(spec, "nomic_bert", &nomic);
    for (key, wanted) in [
        ("hidden_size", json!(768)),
        ("num_heads", json!(12)),
        ("intermediate_size", json!(3072)),
        ("num_layers", json!(12)),
        ("norm_eps", json!(1e-12)),
        ("rope_theta", json!(1000.0)),
        ("rope_dim", json!(64)),
    ] {
        assert_eq!(found[key], wanted, "{key}");
    }
    // Words of activations that transformers has under two names.
    for (fixture, arch, key, word, wanted) in [
        ("families/bert", "bert", "hidden_act", "swish", "silu"),
        ("families/qwen3", "qwen3", "hidden_act", "quick_gelu", "gelu_quick"),
        ("families/qwen3", "qwen3", "hidden_act", "gelu_fast", "gelu_tanh"),
        ("families/qwen3", "qwen3", "hidden_act", "relu2", "relu2"),
        ("families/qwen3", "qwen3", "hidden_act", "tanh", "tanh"),
    ] {
        let config = changed(fixture, &json!({key: word}));
        assert_eq!(said(spec, arch, &config)["activation"], wanted, "{fixture} {word}");
    }
    // The class turns half of a head, unless the rope parameters themselves say another share.
    let rope = |share: Json| json!({"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share});
    for (change, wanted) in [
        (json!({"partial_rotary_factor": 0.25}), 0.5),
        (json!({"partial_rotary_factor": 0.5, "rope_parameters": rope(json!(1.0))}), 1.0),
    ] {
        let found = said(spec, "bamba", &changed("families/bamba", &change));
        let share = found["rope_dim"].as_f64().unwrap() / found["head_dim"].as_f64().unwrap();
        assert_eq!(share, wanted, "{change}");
    }
}

/// Null says that there is none: nothing on the way back may make it the class's id.
#[test]
fn ids_that_are_null_stay_so_without_the_source() {
    let spec = &spec();
    // The class of GLM puts its own list in the place of null.
    let list = json!([151329, 151336, 151338]);
    for (name, eos) in
        [("glm", &list), ("phi3", &Json::Null), ("smollm3", &Json::Null), ("qwen3", &Json::Null)]
    {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("hf")).unwrap();
        let fixture = format!("families/{name}");
        let null = json!({"bos_token_id": null, "eos_token_id": null, "pad_token_id": null});
        fs::write(at("hf/config.json"), changed(&fixture, &null).to_string()).unwrap();
        let weights = root().join("fixtures").join(fixture).join("model.safetensors");
        fs::copy(weights, at("hf/model.safetensors")).unwrap();
        let write = |from: &str, to: &str, format: &str| {
            let to = at(to);
            let opened = folder::open(&at(from)).unwrap();
            convert(opened, &Request::new(spec, &to, format)).map_err(findings).unwrap();
        };
        write("hf", "std", "std");
        fs::remove_file(at("std/source.json")).unwrap();
        write("std", "back", "hf");
        write("back", "again", "std");
        for package in ["std", "again"] {
            let model = fs::read(at(package).join("model.json")).unwrap();
            let model: Json = serde_json::from_slice(&model).unwrap();
            let tokens = model.get("tokens").cloned().unwrap_or_else(|| json!({}));
            let wanted = if eos.is_null() { json!({}) } else { json!({"eos": eos}) };
            assert_eq!(tokens, wanted, "{name} {package}");
        }
        let back = fs::read(at("back/config.json")).unwrap();
        let back: Json = serde_json::from_slice(&back).unwrap();
        for (key, wanted) in
            [("bos_token_id", &Json::Null), ("eos_token_id", eos), ("pad_token_id", &Json::Null)]
        {
            assert_eq!(back.get(key), Some(wanted), "{name} {key}");
        }
    }
}

/// The keys of the GGUF of a small model with this config.
fn keys_of_gguf(spec: &Spec, name: &str, config: &Json) -> BTreeMap<String, Json> {
    let scratch = tempfile::tempdir().unwrap();
    let [from, to] = ["case", "case.gguf"].map(|name| scratch.path().join(name));
    let map = spec.maps.values().find(|map| map.format == "hf" && map.name == name).unwrap();
    let samples = sample::samples(spec, map, Some(config)).unwrap();
    sample::write(spec, map, &samples[0], &from).map_err(findings).unwrap();
    let request = Request::new(spec, &to, "gguf");
    convert(folder::open(&from).unwrap(), &request).map_err(findings).unwrap();
    let opened = folder::open(&to).unwrap();
    let keys = opened.checkpoint.typed_metadata.iter();
    keys.map(|(key, value)| (key.to_owned(), value.to_plain(8))).collect()
}

/// Readers multiply by yarn's usual factor as well: what the file says is what is left.
#[test]
fn a_factor_of_yarn_is_written_to_gguf_without_the_usual_one() {
    let spec = &spec();
    let usual = 1.0 + 0.1 * 4f64.ln();
    for (name, arch, rope) in [("qwen3", "qwen3", true), ("olmo3", "olmo2", false)] {
        for (factor, wanted) in [
            (None, None),
            (Some(usual), None),
            (Some(1.3), Some(1.3 / usual)),
            (Some(1.0), Some(1.0 / usual)),
        ] {
            let mut yarn = json!({"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
                "original_max_position_embeddings": 16});
            if let Some(factor) = factor {
                yarn["attention_factor"] = factor.into();
            }
            let plain = json!({"rope_type": "default", "rope_theta": 500.0});
            let rope = match rope {
                true => yarn,
                false => json!({"full_attention": yarn, "sliding_attention": plain}),
            };
            let config = changed(&format!("families/{name}"), &json!({"rope_parameters": rope}));
            let keys = keys_of_gguf(spec, name, &config);
            assert_eq!(keys[&format!("{arch}.rope.scaling.type")], "yarn");
            let found =
                keys.get(&format!("{arch}.rope.scaling.attn_factor")).and_then(Json::as_f64);
            match (found, wanted) {
                (None, None) => {}
                (Some(found), Some(wanted)) if (found - wanted).abs() < 1e-6 => {}
                _ => panic!("{name} {factor:?}: {found:?} and not {wanted:?}"),
            }
        }
    }
}

/// llama.cpp takes 10000 where a file of these says nothing.
#[test]
fn the_base_of_rotary_positions_is_written_to_gguf() {
    let spec = &spec();
    for (name, arch) in [("falcon-7b", "falcon"), ("gpt_neox", "gptneox"), ("phi", "phi2")] {
        let fixture = format!("families/{name}");
        let mut config = config_of(&fixture);
        let map = spec
            .maps
            .values()
            .find(|map| map.format == "hf" && config["model_type"] == map.name.as_str());
        let map = map.map_or_else(|| panic!("{name}: no mapping"), |map| map.name.clone());
        config.as_object_mut().unwrap().remove("rope_theta");
        let theta = json!({"rope_type": "default", "rope_theta": 700.0});
        let mut rope = config["rope_parameters"].as_object().cloned().unwrap_or_default();
        rope.extend(theta.as_object().unwrap().clone());
        config["rope_parameters"] = rope.into();
        let keys = keys_of_gguf(spec, &map, &config);
        assert_eq!(
            keys.get(&format!("{arch}.rope.freq_base")),
            Some(&json!(700.0)),
            "{name}: {keys:?}"
        );
    }
}

/// A checkpoint of a fixture under a changed config, as it is read.
fn read_with(spec: &Spec, name: &str, change: &Json) -> Result<Model, Vec<Diagnostic>> {
    let scratch = tempfile::tempdir().unwrap();
    let fixture = format!("families/{name}");
    let weights = root().join("fixtures").join(&fixture).join("model.safetensors");
    fs::copy(weights, scratch.path().join("model.safetensors")).unwrap();
    let config = changed(&fixture, change).to_string();
    fs::write(scratch.path().join("config.json"), config).unwrap();
    load(scratch.path(), spec, None).map(|loaded| loaded.model().clone()).map_err(findings)
}

/// What the code of a class fixes, whatever the config says beside it.
#[test]
fn what_a_class_fixes_is_not_what_the_config_says() {
    let spec = &spec();
    for name in [
        "camembert-decoder",
        "data2vec-text-decoder",
        "electra-decoder",
        "roberta-decoder",
        "roberta-prelayernorm-decoder",
        "xlm-roberta-decoder",
        "xlm-roberta-xl-decoder",
    ] {
        let model = read_with(spec, name, &json!({"hidden_act": "relu"})).unwrap();
        let task = serde_json::to_value(&model.tasks[0]).unwrap();
        assert_eq!(task["activation"], "gelu_erf", "{name}: {task}");
        assert_eq!(model.hyperparameters["activation"].to_string(), "\"relu\"", "{name}");
    }
    // A window that is said overrules the one that is made of another entry.
    let model = read_with(spec, "modernbert-decoder", &json!({"sliding_window": 3})).unwrap();
    assert_eq!(model.hyperparameters["window_left"].to_string(), "2");
    // The class leaves out sines that are read, or turns half of what it turns else.
    for (name, change, wanted) in [
        ("xglm", json!({"pad_token_id": 2}), "the config's `pad_token_id`: 2 has no meaning here"),
        (
            "glm4_moe_lite",
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
            "the config's `rope_parameters.partial_rotary_factor`: 0.5 has no meaning here",
        ),
    ] {
        let found = read_with(spec, name, &change).unwrap_err();
        assert!(found[0].message.contains(wanted), "{name}: {found:?}");
    }
    // Parts that a config switches off are told by what switches them off.
    for (name, key) in [
        ("deepseek_v2", "kv_lora_rank"),
        ("deepseek_v2", "n_routed_experts"),
        ("qwen2_moe", "num_experts"),
    ] {
        let found = read_with(spec, name, &json!({key: 0})).unwrap_err();
        let said = format!(
            "is of a part that the model does not have by its config: the config's `{key}` is 0"
        );
        assert!(found.iter().any(|found| found.message.contains(&said)), "{name}: {found:?}");
    }
}

/// What a model answers to some ids.
fn answers(spec: &Spec, path: &Path) -> Vec<f32> {
    let loaded = load(path, spec, None).unwrap_or_else(|failure| panic!("{:?}", findings(failure)));
    let model = loaded.model();
    let tasks: Vec<_> = model.tasks.iter().take(1).collect();
    let is_seq2seq = tasks.iter().any(|task| task.id == "seq2seq-lm");
    let inputs = Inputs {
        input_ids: vec![vec![7, 3, 11, 2, 5, 9, 4, 8]],
        decoder_input_ids: is_seq2seq.then(|| vec![vec![0, 5, 9, 4]]),
        ..Inputs::default()
    };
    let outputs = forward::run::<f32>(model, &loaded.weights().unwrap(), &inputs, &tasks).unwrap();
    match outputs.tasks.first() {
        Some(answer) => answer.outputs[0].1.data.clone(),
        None => outputs.last_hidden_state.data.clone(),
    }
}

/// What went through GGUF answers as the source does: heads of their own width, no token types, encoders and decoders of
/// their own depth, two bases of rotary positions, norms of latent attention.
#[test]
fn what_comes_back_from_gguf_answers_alike() {
    let spec = &spec();
    for fixture in [
        "gguf/models/distilbert",
        "gguf/models/mistral-heads",
        "families/umt5",
        "families/olmo3-bases",
        "families/deepseek_v3",
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let (file, back) = (scratch.path().join("model.gguf"), scratch.path().join("back"));
        let source = scratch.path().join("source");
        fs::create_dir(&source).unwrap();
        with_vocabulary(fixture, &source);
        for (from, to, target) in [(&source, &file, "gguf"), (&file, &back, "hf")] {
            let opened = folder::open(from).unwrap();
            convert(opened, &Request::new(spec, to, target))
                .unwrap_or_else(|failure| panic!("{fixture}: {target}: {:?}", findings(failure)));
        }
        let (wanted, found) = (answers(spec, &source), answers(spec, &back));
        assert_eq!(wanted.len(), found.len(), "{fixture}");
        let most = wanted.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        let far = wanted.iter().zip(&found).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(far <= 1e-5 * most, "{fixture}: off by {far} of {most}");
    }
}

/// A head whose task the config describes as the standard has none is not lost without a word.
#[test]
fn a_task_that_the_standard_does_not_have_is_told() {
    let spec = &spec();
    for (kind, is_known) in [("first", true), ("mean", false), ("cls_index", false)] {
        let scratch = tempfile::tempdir().unwrap();
        let (source, out) = (scratch.path().join("source"), scratch.path().join("out"));
        crate::folders::copy(&root().join("fixtures/families/electra-choice"), &source);
        let config = changed("families/electra-choice", &json!({"summary_type": kind}));
        fs::write(source.join("config.json"), config.to_string()).unwrap();
        let report = convert(folder::open(&source).unwrap(), &Request::new(spec, &out, "std"))
            .unwrap_or_else(|failure| panic!("{kind}: {:?}", findings(failure)));
        let told = report.findings.iter().any(|finding| {
            finding.rule == "P018"
                && finding.level == Level::Warning
                && finding.message.contains(kind)
        });
        assert_eq!(told, !is_known, "{kind}: {:?}", report.findings);
    }
}

/// The package of a family's fixture whose config has some entries changed, null taking one out, and what is said of it;
/// or why there is none.
fn converted(
    spec: &Spec,
    fixture: &str,
    change: &Json,
) -> Result<(Model, Vec<Diagnostic>), Vec<Diagnostic>> {
    let from = root().join("fixtures/families").join(fixture);
    let [source, out] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for file in fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), source.path().join(file.file_name())).unwrap();
    }
    let mut config = changed(&format!("families/{fixture}"), change);
    config
        .as_object_mut()
        .unwrap()
        .retain(|key, value| !value.is_null() || change.get(key).is_none());
    fs::write(source.path().join("config.json"), config.to_string()).unwrap();
    let package = out.path().join("std");
    let opened = folder::open(source.path()).unwrap();
    let report = convert(opened, &Request::new(spec, &package, "std")).map_err(findings)?;
    let mut opened = folder::open(&package).unwrap();
    Ok((llmstd::convert::read_model(&mut opened).unwrap(), report.findings))
}

/// Entries that classes read otherwise than their names say, or that change what a class reads: each was converted into
/// another model without a word.
#[test]
fn entries_mean_what_the_class_makes_of_them() {
    let spec = &spec();
    let refused = [
        ("mpnet", json!({"pad_token_id": 3}), "pad_token_id"),
        ("phimoe", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (
            "cohere2_moe",
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            "rope_scaling",
        ),
        ("hy_v4", json!({"hidden_act": "gelu"}), "hidden_act"),
        ("llava_next", json!({"is_causal": false}), "say it of the text model"),
    ];
    for (name, change, wanted) in refused {
        let told = match (name, converted(spec, name, &change)) {
            (_, Err(told)) => told,
            (name, Ok(_)) => panic!("{name} {change}"),
        };
        let is_told = |of: &Diagnostic| format!("{} {:?}", of.message, of.help).contains(wanted);
        assert!(told.iter().any(is_told), "{name} {change}: {told:?}");
    }
    let read = [
        ("modernbert", json!({"sliding_window": 3}), "window_left", "Int(3)"),
        (
            "olmo3",
            json!({"rope_parameters": null, "rope_theta": null}),
            "rope_theta",
            "Float(500000.0)",
        ),
        (
            "gpt_neox_japanese",
            json!({"rope_parameters": null, "rope_theta": 900.0}),
            "rope_theta",
            "Float(10000.0)",
        ),
        ("qwen3-bidirectional", json!({"is_causal": false}), "causal", "Bool(false)"),
    ];
    for (name, change, key, wanted) in read {
        let (model, _) = converted(spec, name, &change).unwrap();
        assert_eq!(format!("{:?}", model.hyperparameters[key]), wanted, "{name} {change}");
    }
    let (model, _) = converted(spec, "xlnet-uni", &json!({"attn_type": null})).unwrap();
    let ids: Vec<&str> = model.tasks.iter().map(|task| task.id.as_str()).collect();
    assert_eq!(ids, ["masked-lm"]);
}

/// A quantization that no tensor has is told, and one that they have is not.
#[test]
fn a_quantization_that_is_left_over_is_told() {
    let spec = &spec();
    let told = |change: &Json| {
        let (_, told) = converted(spec, "olmo3", change).unwrap();
        told.iter().any(|told| told.key.as_deref() == Some("quantization_config"))
    };
    assert!(told(&json!({"quantization_config": {"quant_method": "bitsandbytes"}})));
    assert!(!told(&json!({})));
}

/// A head is not taken for another task without a word because nobody knows the class.
#[test]
fn a_head_of_an_unknown_class_is_told() {
    let spec = &spec();
    let class = |name: &str| json!({"architectures": [name]});
    let (_, told) = converted(spec, "deberta-tokens", &class("OursForTokens")).unwrap();
    assert!(told.iter().any(|told| told.rule == "P018"), "{told:?}");
}

/// What has no attention, makes its mask itself, or has no class in transformers.
const OWN_MASKS: &[&str] = &[
    "mamba",
    "mamba2",
    "falcon_mamba",
    "rwkv",
    "xlstm",
    "mixformer-sequential",
    "xlnet",
    "xlm",
    "prophetnet",
    "arctic",
    "baichuan",
    "codeshell",
    "internlm",
    "internlm2",
    "jais",
    "nemotron-nas",
    "openelm",
    "orion",
    "phi-msft",
    "qwen",
    "xverse",
];

/// transformers hides what comes later unless `is_causal` is false, in every class that generates; one that shows it is
/// another model.
#[test]
fn what_sees_later_tokens_by_its_config_is_read_or_refused() {
    let spec = &spec();
    let folders = fs::read_dir(root().join("fixtures/families")).unwrap();
    let generates = |class: &str| {
        ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration"]
            .iter()
            .any(|end| class.ends_with(end))
    };
    let cases: Vec<(String, Json)> = folders
        .filter_map(|folder| {
            let name = folder.unwrap().file_name().into_string().unwrap();
            let text = fs::read(root().join("fixtures/families").join(&name).join("config.json"));
            let config: Json = serde_json::from_slice(&text.ok()?).unwrap();
            generates(config["architectures"][0].as_str()?).then_some((name, config))
        })
        .collect();
    assert!(200 < cases.len(), "{}", cases.len());
    let silent: Vec<String> = cases
        .par_iter()
        .filter_map(|(name, config)| {
            let causal = match converted(spec, name, &json!({"is_causal": false})) {
                Ok((model, _)) => {
                    let keys = &model.hyperparameters;
                    let of_decoder = keys.get("decoder.causal").or(keys.get("causal"));
                    of_decoder.map(|value| format!("{value:?}"))
                }
                Err(told) if told.iter().any(|told| told.message.contains("is_causal")) => {
                    return None;
                }
                Err(told) => Some(format!("{told:?}")),
            };
            let model_type = config["model_type"].as_str().unwrap();
            let inert = OWN_MASKS.contains(&model_type)
                || spec.maps.values().any(|map| {
                    let of_type = |words: &Vec<String>| words.iter().any(|word| word == model_type);
                    map.format == "hf"
                        && map.matches.get("model_type").is_some_and(of_type)
                        && map.inert.contains("is_causal")
                });
            let is_read = causal.as_deref() == Some("Bool(false)");
            (!is_read && !inert).then(|| format!("{name} ({model_type}): {causal:?}"))
        })
        .collect();
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

/// A classifier of RoBERTa has a layer where others have the pooler, which a file may have beside it all the same.
#[test]
fn a_pooler_beside_a_classifier_is_left_out_of_gguf_with_a_warning() {
    use safetensors::tensor::{Dtype, TensorView};
    let spec = spec();
    let from = root().join("fixtures/hf/roberta-seqcls/src");
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let width = stored.tensor("roberta.embeddings.word_embeddings.weight").unwrap().shape()[1];
    let numbers: Vec<u8> =
        (0..width * width).flat_map(|at| (at as f32 * 0.25 - 3.0).to_le_bytes()).collect();
    let mut tensors: Vec<(String, TensorView<'_>)> = stored.tensors();
    for (name, shape) in [("weight", vec![width, width]), ("bias", vec![width])] {
        let n_bytes = shape.iter().product::<usize>() * 4;
        let view = TensorView::new(Dtype::F32, shape, &numbers[..n_bytes]).unwrap();
        tensors.push((format!("roberta.pooler.dense.{name}"), view));
    }
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("case");
    fs::create_dir(&source).unwrap();
    fs::copy(from.join("config.json"), source.join("config.json")).unwrap();
    let bytes = safetensors::serialize(tensors, None).unwrap();
    fs::write(source.join("model.safetensors"), bytes).unwrap();
    let file = scratch.path().join("case.gguf");
    let request = Request { allow_no_tokenizer: true, ..Request::new(&spec, &file, "gguf") };
    let report = convert(folder::open(&source).unwrap(), &request).map_err(findings).unwrap();
    let told = |said: &Diagnostic| said.rule == "P006" && said.message.contains("`pooler`");
    assert!(report.findings.iter().any(told), "{:?}", report.findings);
    // What readers take for the classifier's own layer is that.
    let written = folder::open(&file).unwrap();
    let tensor = written.checkpoint.tensors.iter().find(|of| of.name == "cls.weight").unwrap();
    let llmstd::checkpoint::Payload::Range(extent) = &tensor.payload else { panic!("cls.weight") };
    let wanted = stored.tensor("classifier.dense.weight").unwrap();
    assert_eq!(written.source.slice(*extent).unwrap(), wanted.data());
}
