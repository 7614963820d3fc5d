//! Quantized checkpoints of several layouts, as their libraries write them: the numbers, the way
//! through the standard and back, and the outputs, against `fixtures/quant/models/*/expected.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use llmstd::forward::{self, Inputs};
use llmstd::package::Task;
use llmstd::run::load;
use llmstd::spec::Spec;
use safetensors::SafeTensors;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/quant/models");
    let mut found: Vec<PathBuf> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(12 <= found.len(), "{found:?}");
    found
}

/// Runs the program, which has to succeed; what it printed.
#[track_caller]
fn llmstd(args: &[&str]) -> String {
    let (code, out) = run(args);
    assert_eq!(code, Some(0), "{args:?}\n{out}");
    out
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_llmstd")).args(args).output().unwrap();
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (out.status.code(), text)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The dtype, the shape and the SHA-256 of each tensor of a file.
fn tensors(folder: &Path) -> BTreeMap<String, (String, Vec<usize>, String)> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let entries = file.tensors().into_iter().map(|(name, tensor)| {
        let hash: [u8; 32] = Sha256::digest(tensor.data()).into();
        let hash = llmstd::base::hex::encode(&hash);
        (name, (format!("{:?}", tensor.dtype()), tensor.shape().to_vec(), hash))
    });
    entries.collect()
}

/// The numbers of a tensor of F32.
fn numbers(folder: &Path, name: &str) -> Vec<f32> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = file.tensor(name).unwrap().data().as_chunks().0.to_vec();
    words.into_iter().map(f32::from_le_bytes).collect()
}

#[test]
fn decoded_numbers_are_those_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    for model in models() {
        let out = folder.path().join(model.file_name().unwrap());
        llmstd(&["convert", text(&model), text(&out), "--to", "hf", "--decode"]);
        let expected = json(&model.join("expected.json"));
        let expected = expected["tensors"].as_object().unwrap();
        let written = tensors(&out);
        assert!(!expected.is_empty());
        for (name, hash) in expected {
            let (dtype, _, found) = &written[name];
            assert_eq!(dtype, "F32", "{model:?} {name}");
            assert_eq!(found, hash.as_str().unwrap(), "{model:?} {name}");
        }
        // Nothing of the parts is left, nor of what says how they are packed.
        let plain = written.keys().filter(|name| !expected.contains_key(*name));
        let before = tensors(&model);
        for name in plain {
            assert_eq!(written[name], before[name], "{model:?}");
        }
        let config = json(&out.join("config.json"));
        assert!(
            config.get("quantization_config").is_none() && config.get("quantization").is_none()
        );
    }
}

#[test]
fn parts_pass_through_the_standard_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    for model in models() {
        let name = model.file_name().unwrap().to_str().unwrap();
        let package = folder.path().join(name);
        // Nothing but its own file says how torchao's parts are called.
        if name == "torchao" {
            llmstd(&["convert", text(&model), text(&package)]);
            llmstd(&["validate", text(&package), "--deep"]);
            let back = folder.path().join("back");
            let (code, out) = run(&["convert", text(&package), text(&back), "--to", "hf"]);
            assert_eq!(code, Some(2), "{out}");
            assert!(out.contains("P012") && out.contains("--decode"), "{out}");
            continue;
        }
        llmstd(&["convert", text(&model), text(&package), "--verify"]);
        llmstd(&["validate", text(&package), "--deep"]);
        let back = folder.path().join(format!("{name}-back"));
        llmstd(&["convert", text(&package), text(&back), "--to", "hf"]);
        assert_eq!(tensors(&back), tensors(&model), "{name}");
        let (before, after) = (json(&model.join("config.json")), json(&back.join("config.json")));
        for key in ["quantization_config", "quantization"] {
            assert_eq!(before.get(key), after.get(key), "{name}");
        }
        // A package is the model it was made of; decoded it is the decoded one.
        llmstd(&["diff", text(&model), text(&package), "--fail-on", "any"]);
        let decoded = folder.path().join(format!("{name}-decoded"));
        llmstd(&["convert", text(&package), text(&decoded), "--decode", "--verify"]);
        let straight = folder.path().join(format!("{name}-straight"));
        llmstd(&["convert", text(&model), text(&straight), "--decode"]);
        llmstd(&["diff", text(&straight), text(&decoded), "--fail-on", "any"]);
    }
}

/// MXFP4 in two tensors is MXFP4 in blocks, with its nibbles in another order: nothing is quantized
/// anew.
#[test]
fn mxfp4_becomes_blocks_of_gguf_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let model = models().into_iter().find(|model| model.ends_with("gpt-oss")).unwrap();
    let path = |name: &str| folder.path().join(name);
    // The name of the folder is the name of the model.
    let (package, file) = (path("gpt-oss"), path("model.gguf"));
    llmstd(&["convert", text(&model), text(&package)]);
    llmstd(&["convert", text(&package), text(&file), "--to", "gguf"]);
    let straight = path("straight.gguf");
    llmstd(&["convert", text(&model), text(&straight), "--to", "gguf"]);
    assert!(fs::read(&file).unwrap() == fs::read(&straight).unwrap());
    let inspected: Json =
        serde_json::from_str(&llmstd(&["inspect", text(&file), "--format", "json"])).unwrap();
    assert_eq!(inspected["dtypes"]["MXFP4"], 6, "three of each layer");
    let back = path("back");
    llmstd(&["convert", text(&file), text(&back), "--to", "hf", "--decode"]);
    let plain = path("plain");
    llmstd(&["convert", text(&model), text(&plain), "--to", "hf", "--decode"]);
    let expected = json(&model.join("expected.json"));
    for name in expected["tensors"].as_object().unwrap().keys() {
        // Equal as numbers: ggml's table has no zero with a sign.
        assert!(numbers(&back, name) == numbers(&plain, name), "{name}");
    }
    // No other layout has blocks like it.
    let model = models().into_iter().find(|model| model.ends_with("awq")).unwrap();
    let (code, out) = run(&["convert", text(&model), text(&path("awq.gguf")), "--to", "gguf"]);
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("P012") && out.contains("--decode"), "{out}");
    assert!(!path("awq.gguf").exists());
    llmstd(&["convert", text(&model), text(&path("awq.gguf")), "--to", "gguf", "--decode"]);
}

#[test]
fn outputs_are_those_of_transformers_with_the_decoded_numbers() {
    let spec = Spec::current();
    let folder = tempfile::tempdir().unwrap();
    for model in models() {
        let package = folder.path().join(model.file_name().unwrap());
        llmstd(&["convert", text(&model), text(&package)]);
        let expected = json(&model.join("expected.json"));
        let input_ids = serde_json::from_value(expected["tokens"].clone()).unwrap();
        let inputs = Inputs { input_ids, ..Inputs::default() };
        let logits: Vec<f64> =
            expected["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        for input in [&model, &package] {
            let loaded = load(input, &spec, None).unwrap();
            let tasks: Vec<&Task> = loaded.model().tasks.iter().collect();
            let weights = loaded.weights().unwrap();
            let found = forward::run::<f32>(loaded.model(), &weights, &inputs, &tasks).unwrap();
            let found = found.named().into_iter().find(|(name, _)| name == "causal-lm.logits");
            let found: Vec<f64> = found.unwrap().1.data.iter().copied().map(f64::from).collect();
            assert_eq!(found.len(), logits.len(), "{input:?}");
            let scale = logits.iter().fold(0f64, |most, x| most.max(x.abs()));
            let apart = found.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 2e-5 * scale.max(1.0), "{input:?}: {apart} of {scale}");
        }
    }
}

/// A tensor of a file: its dtype, its shape, its bytes.
type Stored = (safetensors::Dtype, Vec<usize>, Vec<u8>);

/// A copy of a model whose tensors were changed.
fn changed(model: &Path, folder: &Path, change: impl Fn(&mut BTreeMap<String, Stored>)) -> PathBuf {
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<String, Stored> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
    fs::copy(model.join("config.json"), folder.join("config.json")).unwrap();
    folder.to_owned()
}

const MODULE: &str = "model.layers.0.self_attn.q_proj";

#[test]
fn parts_that_do_not_fit_are_refused_by_name() {
    let model = models().into_iter().find(|model| model.ends_with("gptq")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let name = |part: &str| format!("{MODULE}.{part}");
    type Change<'a> = &'a dyn Fn(&mut BTreeMap<String, Stored>);
    let cases: [(&str, Change<'_>, &[&str]); 6] = [
        (
            "a part is missing",
            &|tensors| drop(tensors.remove(&name("qzeros"))),
            &["P017", "gptq", "qzeros is missing"],
        ),
        (
            "scales for fewer outputs",
            &|tensors| {
                let scales = tensors.get_mut(&name("scales")).unwrap();
                scales.1 = vec![scales.1[0], scales.1[1] / 2];
                scales.2.truncate(scales.2.len() / 2);
            },
            &[MODULE],
        ),
        (
            "zeros of other bits",
            &|tensors| {
                let zeros = tensors.get_mut(&name("qzeros")).unwrap();
                zeros.1 = vec![zeros.1[0], zeros.1[1] / 2];
                zeros.2.truncate(zeros.2.len() / 2);
            },
            &["P017", "4 bits, the shapes 2"],
        ),
        (
            "a group that is none",
            &|tensors| tensors.get_mut(&name("g_idx")).unwrap().2[..4].fill(0x7f),
            &["g_idx has group 2139062143, there are 2", "q_proj"],
        ),
        (
            "groups for other inputs",
            &|tensors| {
                let groups = tensors.get_mut(&name("g_idx")).unwrap();
                groups.1 = vec![32];
                groups.2.truncate(32 * 4);
            },
            &["g_idx is [32] for 64 columns"],
        ),
        (
            "more groups than the configured size makes",
            &|tensors| {
                tensors.remove(&name("g_idx"));
                for part in ["qzeros", "scales"] {
                    let (_, shape, data) = tensors.get_mut(&name(part)).unwrap();
                    shape[0] *= 2;
                    data.extend_from_within(..);
                }
            },
            &["4 groups of 32 for 64 inputs"],
        ),
    ];
    for (what, change, words) in cases {
        let input = changed(&model, &folder.path().join(what), change);
        let out = folder.path().join("out");
        let (code, text_) = run(&["convert", text(&input), text(&out), "--to", "hf", "--decode"]);
        assert_eq!(code, Some(2), "{what}: {text_}");
        assert!(words.iter().all(|word| text_.contains(word)), "{what}: {text_}");
        assert!(!out.exists(), "{what}");
        // What it is can be said all the same.
        llmstd(&["inspect", text(&input)]);
    }
}

fn named(name: &str) -> PathBuf {
    models().into_iter().find(|model| model.ends_with(name)).unwrap()
}

/// Writes a config after a change.
fn with_config(folder: &Path, change: impl Fn(&mut Json)) {
    let path = folder.join("config.json");
    let mut config = json(&path);
    change(&mut config);
    fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
}

/// Whether the decoded numbers are those that the model has beside it.
#[track_caller]
fn decodes_alike(input: &Path, model: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    llmstd(&["convert", text(input), text(&out), "--to", "hf", "--decode"]);
    let written = tensors(&out);
    for (name, hash) in json(&model.join("expected.json"))["tensors"].as_object().unwrap() {
        assert_eq!(written[name].2, hash.as_str().unwrap(), "{name}");
    }
}

/// AutoGPTQ and AutoAWQ had files of their own before configs said how tensors are packed.
#[test]
fn older_files_say_it_in_place_of_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let gptq = changed(&named("gptq"), &folder.path().join("gptq"), |tensors| {
        // As the second version has them.
        for (name, (.., data)) in tensors {
            if name.ends_with("qzeros") {
                data.iter_mut().for_each(|two| {
                    *two = (*two & 15).wrapping_add(1) & 15 | (*two >> 4).wrapping_add(1) << 4
                });
            }
        }
    });
    with_config(&gptq, |config| {
        let mut says = config.as_object_mut().unwrap().remove("quantization_config").unwrap();
        says["checkpoint_format"] = "gptq_v2".into();
        says.as_object_mut().unwrap().remove("quant_method");
        fs::write(gptq.join("quantize_config.json"), serde_json::to_vec(&says).unwrap()).unwrap();
    });
    decodes_alike(&gptq, &named("gptq"));

    let awq = changed(&named("awq"), &folder.path().join("awq"), |_| {});
    with_config(&awq, |config| drop(config.as_object_mut().unwrap().remove("quantization_config")));
    let says = r#"{"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}"#;
    fs::write(awq.join("quant_config.json"), says).unwrap();
    decodes_alike(&awq, &named("awq"));
    let (package, back) = (folder.path().join("package"), folder.path().join("back"));
    llmstd(&["convert", text(&awq), text(&package), "--verify"]);
    llmstd(&["convert", text(&package), text(&back), "--to", "hf"]);
    assert_eq!(tensors(&back), tensors(&awq));
    let says = &json(&back.join("config.json"))["quantization_config"];
    assert_eq!((&says["quant_method"], &says["bits"]), (&"awq".into(), &4.into()));
    assert_eq!(says["group_size"], 32);
}

#[test]
fn groups_of_modules_may_have_other_bits() {
    let folder = tempfile::tempdir().unwrap();
    let input = changed(&named("ct-pack"), &folder.path().join("in"), |_| {});
    with_config(&input, |config| {
        let groups = &mut config["quantization_config"]["config_groups"];
        groups["group_1"] = groups["group_0"].clone();
        groups["group_1"]["weights"]["num_bits"] = 8.into();
    });
    decodes_alike(&input, &named("ct-pack"));
}

/// Scales of activations and caches make no weight: they go along.
#[test]
fn what_is_quantized_while_a_model_runs_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let scale = || (safetensors::Dtype::BF16, vec![1], vec![0, 0x3f]);
    let cases: [(&str, &[&str]); 2] = [
        ("ct-int8", &["input_scale", "input_zero_point", "../k_scale", "../v_scale"]),
        ("fp8", &["activation_scale"]),
    ];
    for (model, extra) in cases {
        let input = changed(&named(model), &folder.path().join(model), |tensors| {
            for name in extra {
                let name = match name.strip_prefix("../") {
                    Some(name) => format!("{}.{name}", MODULE.rsplit_once('.').unwrap().0),
                    None => format!("{MODULE}.{name}"),
                };
                let zero = (safetensors::Dtype::I8, vec![1], vec![3]);
                let is_zero = name.ends_with("zero_point");
                tensors.insert(name, if is_zero { zero } else { scale() });
            }
        });
        decodes_alike(&input, &named(model));
        let package = folder.path().join(format!("{model}-package"));
        let back = folder.path().join(format!("{model}-back"));
        llmstd(&["convert", text(&input), text(&package), "--verify"]);
        llmstd(&["validate", text(&package), "--deep"]);
        llmstd(&["convert", text(&package), text(&back), "--to", "hf"]);
        assert_eq!(tensors(&back), tensors(&input), "{model}");
    }
}

#[test]
fn generic_keeps_parts_or_says_that_it_does_not_decode_them() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (named("awq"), folder.path().join("out"));
    let (code, found) = run(&["convert", text(&model), text(&out), "--generic", "--decode"]);
    assert_eq!(code, Some(2), "{found}");
    assert!(found.contains("P012") && found.contains("leave out --generic"), "{found}");
    assert!(!out.exists());
    llmstd(&["convert", text(&model), text(&out), "--generic", "--verify"]);
}

#[test]
fn packages_that_say_of_parts_what_is_not_so_are_found() {
    let model = models().into_iter().find(|model| model.ends_with("awq")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("package");
    llmstd(&["convert", text(&model), text(&package)]);
    let name = "decoder.layers.0.attn.q_proj.weight";
    let plain = json(&package.join("model.json"));
    let check = |change: &dyn Fn(&mut Json), words: &str| {
        let mut says = plain.clone();
        change(&mut says["encodings"][name]);
        fs::write(package.join("model.json"), serde_json::to_vec(&says).unwrap()).unwrap();
        let (code, out) = run(&["validate", text(&package), "--level", "schema"]);
        assert_eq!(code, Some(1), "{out}");
        assert!(out.contains("V211") && out.contains(words), "{out}");
        let out = folder.path().join("out");
        for more in [&[][..], &["--decode"], &["--to", "hf", "--decode"]] {
            let args = [&["convert", text(&package), text(&out)], more].concat();
            let (code, found) = run(&args);
            assert_eq!(code, Some(2), "{found}");
            assert!(found.contains(name), "{found}");
        }
        let (code, found) = run(&["run", text(&package), "--input-ids", "1"]);
        assert_eq!(code, Some(2), "{found}");
    };
    check(&|entry| entry["shape"] = [64, 96].into(), "its parts make [96, 64] values");
    check(&|entry| entry["parameters"]["bits"] = 8.into(), "8 bits, the shapes 4");
    check(&|entry| entry["encoding"] = "mlx.affine".into(), "not those of mlx.affine");
    check(&|entry| entry["encoding"] = "none".into(), "no encoding \"none\"");
    check(&|entry| entry["parameters"]["colour"] = 8.into(), "unknown field `colour`");
}

/// Where the shape is in the bytes of a part, `model.json` alone says it of a package.
#[test]
fn shapes_that_no_payload_holds_are_refused() {
    let model = named("bnb-nf4");
    let folder = tempfile::tempdir().unwrap();
    let (package, out) = (folder.path().join("package"), folder.path().join("out"));
    llmstd(&["convert", text(&model), text(&package)]);
    let name = "decoder.layers.0.attn.q_proj.weight";
    let plain = json(&package.join("model.json"));
    let cases: [(Json, &str); 6] = [
        ([6144].into(), "expected a matrix"),
        (Json::Array(Vec::new()), "expected a matrix"),
        ([1u64 << 63, 1 << 63].into(), "too many"),
        ([1u64 << 31, 1 << 31].into(), "too many"),
        ([1_000_000_000, 96, 64].into(), "for each matrix"),
        ([96, 0].into(), "no values"),
    ];
    for (shape, words) in cases {
        let mut says = plain.clone();
        says["encodings"][name]["shape"] = shape;
        fs::write(package.join("model.json"), serde_json::to_vec(&says).unwrap()).unwrap();
        let (code, found) = run(&["validate", text(&package), "--level", "schema"]);
        assert_eq!(code, Some(1), "{found}");
        assert!(found.contains("V211") && found.contains(words), "{found}");
        for more in [&[][..], &["--decode"], &["--to", "hf"]] {
            let (code, found) = run(&[&["convert", text(&package), text(&out)], more].concat());
            assert_eq!(code, Some(2), "{found}");
            assert!(found.contains(name), "{found}");
        }
        llmstd(&["inspect", text(&package)]);
    }
    // Only the bytes tell that rows are too long.
    let mut says = plain.clone();
    says["encodings"][name]["shape"] = [64, 96].into();
    fs::write(package.join("model.json"), serde_json::to_vec(&says).unwrap()).unwrap();
    let (code, found) = run(&["convert", text(&package), text(&out), "--decode"]);
    assert_eq!(code, Some(2), "{found}");
    assert!(found.contains("make [96, 64] values, expected [64, 96]"), "{found}");
    assert!(!out.exists());
}

/// Queries, keys and values of one matrix, under one scale: it cannot be taken apart as it is packed.
#[test]
fn what_cannot_stay_packed_is_looked_at_as_numbers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/families/phi3");
    let folder = tempfile::tempdir().unwrap();
    let model = changed(&root, &folder.path().join("model"), |tensors| {
        let names: Vec<String> = tensors.keys().cloned().collect();
        for name in names.iter().filter(|name| name.ends_with("qkv_proj.weight")) {
            let (dtype, shape, data) = tensors.get_mut(name).unwrap();
            let n = shape.iter().product::<usize>();
            *dtype = safetensors::Dtype::F8_E4M3;
            *data = (0..n).map(|i| (i * 37 % 120) as u8).collect();
            let scale = (safetensors::Dtype::F32, vec![1, 1], 0.01f32.to_le_bytes().to_vec());
            tensors.insert(format!("{name}_scale_inv"), scale);
        }
    });
    let mut config = json(&model.join("config.json"));
    config["quantization_config"] =
        serde_json::json!({ "quant_method": "fp8", "weight_block_size": [512, 512] });
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let out = folder.path().join("out");
    let (code, refused) = run(&["convert", text(&model), text(&out)]);
    assert_eq!(code, Some(2), "{refused}");
    assert!(refused.contains("P012") && refused.contains("--decode"), "{refused}");
    let valid = llmstd(&["validate", text(&model)]);
    assert!(valid.contains("P012") && valid.contains("can keep level schema"), "{valid}");
    llmstd(&["convert", text(&model), text(&out), "--decode"]);
    llmstd(&["diff", text(&model), text(&out), "--fail-on", "any"]);
    // Back in one matrix, it is as it was packed.
    let back = folder.path().join("back");
    llmstd(&["convert", text(&model), text(&back), "--to", "hf"]);
    assert_eq!(tensors(&back), tensors(&model));
}

/// A layout that only the standard of one's own has is read, kept, checked and decoded by it, and unknown without.
#[test]
fn layouts_are_those_of_the_standard_that_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let own = scratch.path().join("spec/1.0");
    crate::folders::copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/1.0"), &own);
    let path = own.join("layouts.toml");
    let layouts = fs::read_to_string(&path).unwrap();
    let layouts =
        layouts.replace("\"fp8.block\"", "\"fp8.own\"").replace("weight_scale_inv", "own_scale");
    fs::write(&path, layouts).unwrap();

    let model = named("fp8");
    let source = changed(&model, &scratch.path().join("source"), |tensors| {
        let old = std::mem::take(tensors);
        let named = |(name, tensor): (String, Stored)| {
            (name.replace("weight_scale_inv", "own_scale"), tensor)
        };
        tensors.extend(old.into_iter().map(named));
    });
    let [package, back, numbers] =
        ["package", "back", "numbers"].map(|name| scratch.path().join(name));
    let (code, told) = run(&["convert", text(&source), text(&package)]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("own_scale"), "{told}");

    let spec = ["--spec", text(&own)];
    let llmstd = |args: &[&str]| llmstd(&[&spec, args].concat());
    assert!(llmstd(&["inspect", text(&source)]).contains("fp8.own"));
    llmstd(&["convert", text(&source), text(&package), "--verify"]);
    assert!(fs::read_to_string(package.join("model.json")).unwrap().contains("fp8.own"));
    llmstd(&["validate", text(&package), "--deep", "--level", "schema"]);
    let told = llmstd(&["diff", text(&source), text(&package)]);
    assert!(told.contains("identical"), "{told}");
    llmstd(&["convert", text(&package), text(&back), "--to", "hf", "--verify"]);
    assert_eq!(tensors(&back), tensors(&source));
    llmstd(&["convert", text(&package), text(&numbers), "--to", "hf", "--decode"]);
    let written = tensors(&numbers);
    for (name, hash) in json(&model.join("expected.json"))["tensors"].as_object().unwrap() {
        assert_eq!(written[name].2, hash.as_str().unwrap(), "{name}");
    }

    // The arithmetic of blocks is code: a table that says otherwise has no effect, so it is refused.
    let path = own.join("encodings.toml");
    let blocks = fs::read_to_string(&path).unwrap();
    fs::write(&path, blocks.replace("bytes = 18", "bytes = 20")).unwrap();
    let (code, told) = run(&["--spec", text(&own), "inspect", text(&source)]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("encodings.toml") && told.contains("in 20 bytes"), "{told}");
}
