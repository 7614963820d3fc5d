//! What trainers leave behind is the model that transformers saves: fixtures/trainers has one tiny
//! model as several trainers wrote it, see make.py there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use llmstd::convert::target::Ranks;
use llmstd::convert::{self, Failure, Request};
use llmstd::folder::{self, How};
use llmstd::spec::Spec;
use serde_json::Value as Json;

use crate::folders::copy;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainers").join(name)
}

/// The digest of the weights of a folder as a package, and what was told.
fn digest(source: &Path, how: &How<'_>) -> Result<(String, Vec<String>), String> {
    let spec = Spec::current();
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let opened = folder::open_as(source, how).map_err(|err| err.to_string())?;
    let request = Request { verify: true, ..Request::new(&spec, &out, "std") };
    let report = convert::convert(opened, &request).map_err(|failure| {
        assert!(!out.exists());
        match failure {
            Failure::Error(err) => err.to_string(),
            Failure::Findings(found) => found[0].message.clone(),
        }
    })?;
    let manifest: Json =
        serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let told = report.findings.iter().map(|found| format!("{}: {}", found.rule, found.message));
    Ok((manifest["digests"]["weights"].as_str().unwrap().to_owned(), told.collect()))
}

fn weights(source: &Path) -> String {
    digest(source, &How::default()).unwrap_or_else(|err| panic!("{}: {err}", source.display())).0
}

/// The one line that a damaged checkpoint is refused with.
fn refused(source: &Path) -> String {
    let err = digest(source, &How::default()).expect_err("a damaged checkpoint is refused");
    assert!(!err.contains('\n'), "{err}");
    err
}

#[test]
fn every_trainer_leaves_the_same_weights() {
    let wanted = weights(&fixture("hf"));
    for name in [
        "dcp-plain",
        "dcp-fsdp2",
        "dcp-mesh",
        "dcp-fsdp1",
        "ranks-fsdp2",
        "ranks-mesh",
        "ranks-hsdp",
        "ranks-fsdp1",
    ] {
        assert_eq!(weights(&fixture(name)), wanted, "{name}");
    }
}

/// The files that DeepSpeed's own script makes of the same checkpoints are beside them.
#[test]
fn master_weights_of_zero_are_those_that_deepspeed_makes() {
    for (name, stage) in [("zero1", 1), ("zero2", 2), ("zero3", 3)] {
        let wanted = weights(&fixture(&format!("hf-{name}")));
        assert_eq!(weights(&fixture(name)), wanted, "{name}");
        let opened = folder::open(&fixture(name)).unwrap();
        let said = |key: &str| opened.checkpoint.metadata[key].clone();
        assert_eq!(said("trainer"), format!("DeepSpeed ZeRO {stage}"));
        assert_eq!(said("trainer.step"), "1");
        assert_eq!(said("trainer.ranks"), if stage == 3 { "3" } else { "2" });
    }
}

#[test]
fn a_folder_for_each_parameter_is_read() {
    let run = fixture("universal");
    // DeepSpeed made F32 of the parameter that is frozen and has no master weights.
    let as_f32 = |source: &Path| {
        let (spec, scratch) = (Spec::current(), tempfile::tempdir().unwrap());
        let out = scratch.path().join("out");
        let plan = llmstd::plan::Options { dtype: Some(llmstd::DType::F32), ..Default::default() };
        let request = Request { plan, ..Request::new(&spec, &out, "std") };
        convert::convert(folder::open(source).unwrap(), &request).unwrap();
        weights(&out)
    };
    assert_eq!(as_f32(&run), as_f32(&fixture("hf-zero2")));
    let opened = folder::open(&run).unwrap();
    let said = |key: &str| opened.checkpoint.metadata[key].clone();
    assert_eq!(
        (said("trainer"), said("trainer.step")),
        ("DeepSpeed, universal".into(), "1".into())
    );
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    copy(&fixture("universal"), &run);
    let file = "zero/lm_head.weight/fp32.pt";
    let path = run.join("global_step1_universal").join(file);
    fs::write(&path, &fs::read(&path).unwrap()[..500]).unwrap();
    let err = refused(&run);
    assert!(err.contains(file), "{err}");
}

/// The rows of queries and keys lie in the order of Meta's rotary pairs there.
#[test]
fn the_layout_of_meta_is_merged_and_turned() {
    let wanted = weights(&fixture("hf-meta"));
    // Embeddings split by columns and no size of the vocabulary, or split by rows.
    for name in ["meta-1", "meta-3"] {
        assert_eq!(weights(&fixture(name)), wanted, "{name}");
    }
    for name in ["mistral", "titan"] {
        assert_eq!(weights(&fixture(name)), weights(&fixture("hf")), "{name}");
    }
    // Without a factor the scaled rotary embedding of later releases is not known.
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path();
    copy(&fixture("meta-3"), run);
    let params = fs::read_to_string(run.join("params.json")).unwrap();
    let scaled = |more: &str| {
        let text =
            params.replace("{\"dim\"", &format!("{{\"use_scaled_rope\": true{more}, \"dim\""));
        assert_ne!(text, params);
        fs::write(run.join("params.json"), text).unwrap();
    };
    scaled("");
    assert!(refused(run).contains("`rope_scaling.factor` cannot be had"));
    scaled(", \"rope_scaling_factor\": 8");
    assert_eq!(weights(run), wanted);
}

#[test]
fn what_a_trainer_keeps_beside_the_weights_is_told() {
    let (_, told) = digest(&fixture("dcp-fsdp2"), &How::default()).unwrap();
    let wanted = [
        "R005: the state dict is the value of the key `app.model`",
        "R004: these keys are not read as weights: `app.optim` (2 values), `app.rng` (1 values), \
         `app.step` (1 values)",
    ];
    for wanted in wanted {
        assert!(told.iter().any(|line| line == wanted), "{wanted}: {told:?}");
    }
    let (_, told) = digest(&fixture("ranks-mesh"), &How::default()).unwrap();
    let wanted = "R019: config and tokenizer are those of `huggingface`";
    assert!(told.iter().any(|line| line == wanted), "{told:?}");
}

#[test]
fn the_last_step_of_a_run_is_taken_or_the_one_that_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path();
    copy(&fixture("ranks-fsdp2"), &run.join("global_step_9/actor"));
    copy(&fixture("ranks-hsdp"), &run.join("global_step_10/actor"));
    // A rank that went missing tells which one was taken.
    fs::remove_file(run.join("global_step_9/actor/model_world_size_2_rank_1.pt")).unwrap();
    let (found, told) = digest(run, &How::default()).unwrap();
    assert_eq!(found, weights(&fixture("hf")));
    let wanted = "R018: of several steps `global_step_10/actor` is taken, the last one; not \
                  global_step_9/actor";
    assert!(told.iter().any(|line| line == wanted), "{told:?}");
    let step = |step| digest(run, &How { step: Some(step), ..How::default() });
    let err = step("9").unwrap_err();
    assert!(err.contains("`model_world_size_2_rank_1.pt` is missing"), "{err}");
    assert_eq!(step("global_step_10").unwrap().0, found);
    let err = step("11").unwrap_err();
    assert!(
        err.contains("has no step \"11\"; it has global_step_10/actor, global_step_9/actor"),
        "{err}"
    );
    fs::write(run.join("latest_checkpointed_iteration.txt"), "9").unwrap();
    assert!(refused(run).contains("`model_world_size_2_rank_1.pt` is missing"));
    // The critic of a run is another model.
    fs::remove_file(run.join("latest_checkpointed_iteration.txt")).unwrap();
    copy(&fixture("ranks-hsdp"), &run.join("global_step_10/critic"));
    let err = refused(run);
    assert!(err.contains("several models: global_step_10/actor, global_step_10/critic"), "{err}");
}

#[test]
fn a_config_may_lie_elsewhere() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    copy(&fixture("dcp-mesh"), &run);
    fs::rename(run.join("config.json"), scratch.path().join("config.json")).unwrap();
    let err = refused(&run);
    assert!(err.contains("no config.json beside the weights"), "{err}");
    let how = How { config: Some(scratch.path()), ..How::default() };
    assert_eq!(digest(&run, &how).unwrap().0, weights(&fixture("hf")));
    let how = How { config: Some(&run), ..How::default() };
    let err = digest(&run, &how).unwrap_err();
    assert!(err.contains("has no config.json: --config names the folder of one"), "{err}");
    // A folder that was named is no link that leads out.
    let how = How { config: Some(scratch.path()), links: folder::Links::Refuse, ..How::default() };
    assert_eq!(digest(&run, &how).unwrap().0, weights(&fixture("hf")));
}

#[test]
fn a_rank_that_is_missing_damaged_or_of_another_run_is_named() {
    let check = |of: &str, change: &dyn Fn(&Path), wanted: &[&str]| {
        let scratch = tempfile::tempdir().unwrap();
        let run = scratch.path().join("run");
        copy(&fixture(of), &run);
        change(&run);
        let err = refused(&run);
        for wanted in wanted {
            assert!(err.contains(wanted), "{wanted}: {err}");
        }
    };
    let remove = |name: &'static str| move |run: &Path| fs::remove_file(run.join(name)).unwrap();
    let truncate = |name: &'static str| {
        move |run: &Path| {
            let bytes = fs::read(run.join(name)).unwrap();
            fs::write(run.join(name), &bytes[..bytes.len() / 2]).unwrap();
        }
    };
    let replace = |name: &'static str, from: &'static str| {
        move |run: &Path| {
            fs::copy(fixture(from), run.join(name)).unwrap();
        }
    };
    // Distributed checkpoints.
    check("dcp-mesh", &remove("__2_0.distcp"), &["`__2_0.distcp` of rank 2", "No such file"]);
    check("dcp-mesh", &truncate("__1_0.distcp"), &["__1_0.distcp", "cut short"]);
    check("dcp-mesh", &replace("__1_0.distcp", "dcp-mesh/__3_0.distcp"), &["__1_0.distcp"]);
    check("dcp-mesh", &replace("__0_0.distcp", "dcp-fsdp2/__0_0.distcp"), &["__0_0.distcp"]);
    check("dcp-mesh", &truncate(".metadata"), &[".metadata"]);
    // Files of ranks.
    let rank = "model_world_size_4_rank_3.pt";
    check("ranks-mesh", &remove(rank), &["3 of the files of 4 ranks", rank, "missing"]);
    check("ranks-mesh", &truncate(rank), &[rank]);
    let other = "ranks-mesh/model_world_size_4_rank_1.pt";
    check(
        "ranks-mesh",
        &replace(rank, other),
        &[rank, "is named as that of rank 3, and rank 1 wrote"],
    );
    let other = "ranks-hsdp/model_world_size_4_rank_3.pt";
    check("ranks-mesh", &replace(rank, other), &[rank, "model_world_size_4_rank_0.pt", "mesh"]);
    let two = "model_world_size_2_rank_0.pt";
    check(
        "ranks-mesh",
        &replace(two, "ranks-fsdp2/model_world_size_2_rank_0.pt"),
        &["has files of runs of 2 and of 4 ranks"],
    );
    // Meta.
    let rank = "consolidated.00.pth";
    check("meta-3", &remove(rank), &["`consolidated.01.pth`", "`consolidated.00.pth` is missing"]);
    check("meta-3", &truncate("consolidated.01.pth"), &["consolidated.01.pth"]);
    let other = "meta-1/consolidated.01.pth";
    check(
        "meta-3",
        &replace("consolidated.01.pth", other),
        &["consolidated.01.pth", "`tok_embeddings.weight`", "`consolidated.00.pth`", "two models"],
    );
    // DeepSpeed.
    let rank = "global_step1/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt";
    let missing = "2 of the files of 3 ranks: `*zero_pp_rank_1_*_optim_states.pt` is missing";
    check("zero3", &remove(rank), &["global_step1", missing]);
    check("zero2", &truncate(rank), &["zero_pp_rank_1_"]);
    let other = "zero1/global_step1/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt";
    check("zero2", &replace(rank, other), &["zero_pp_rank_1_", "zero_pp_rank_0_", "two runs"]);
    let model = "global_step1/zero_pp_rank_2_mp_rank_00_model_states.pt";
    check("zero3", &remove(model), &["2 of the files of 3 ranks", "model_states.pt` is missing"]);
    let other_step = |run: &Path| {
        let mut bytes = fs::read(run.join(model)).unwrap();
        let key = b"global_steps";
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
        let number = at + bytes[at..].windows(2).position(|window| window == b"K\x01").unwrap();
        bytes[number + 1] = 2;
        fs::write(run.join(model), bytes).unwrap();
    };
    check("zero3", &other_step, &["zero_pp_rank_2_", "is of the step 2", "zero_pp_rank_0_"]);
    let no_optimizer = |run: &Path| {
        for entry in fs::read_dir(run.join("global_step1")).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains("optim_states") {
                fs::remove_file(path).unwrap();
            }
        }
    };
    check("zero3", &no_optimizer, &["has placeholders", "`*_optim_states.pt`"]);
}

/// Changes the bytes of the storage of a file of `torch.save` that begin with these.
fn patch(path: &Path, find: &[u8], put: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(find.len()).position(|window| window == find).unwrap();
    bytes[at..at + put.len()].copy_from_slice(put);
    fs::write(path, bytes).unwrap();
}

#[test]
fn replicas_that_differ_are_told_with_both_files() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    copy(&fixture("ranks-hsdp"), &run);
    // Ranks 1 and 3 have the second half of every tensor; the last rows of the last one.
    let plain = folder::open(&fixture("hf")).unwrap();
    let lm_head = plain.checkpoint.tensors.iter().find(|of| of.name == "lm_head.weight").unwrap();
    let extent = lm_head.packed_extent().unwrap();
    let bytes = plain.source.slice(extent).unwrap();
    let last = &bytes[bytes.len() - 24..];
    let mut changed = last.to_vec();
    changed[23] ^= 1;
    patch(&run.join("model_world_size_4_rank_3.pt"), last, &changed);
    let err = refused(&run);
    for wanted in [
        "model_world_size_4_rank_3.pt: has other values of `lm_head.weight` at [15, 0] of [14, 12]",
        "than `model_world_size_4_rank_1.pt`",
    ] {
        assert!(err.contains(wanted), "{wanted}: {err}");
    }
}

#[test]
fn a_hostile_pickle_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    copy(&fixture("dcp-plain"), &run);
    fs::write(run.join(".metadata"), b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.").unwrap();
    let err = refused(&run);
    assert!(err.contains(".metadata") && err.contains("calls `posix.system`"), "{err}");
    // The same length, so that the archive stays what it says.
    let run = scratch.path().join("ranks");
    copy(&fixture("ranks-fsdp2"), &run);
    let file = run.join("model_world_size_2_rank_1.pt");
    let class = b"ctorch.distributed.tensor\nDTensor\n";
    let call = format!("{:<width$}\n", "cposix\nsystem", width = class.len() - 1);
    patch(&file, class, call.as_bytes());
    let err = refused(&run);
    let wanted = "model_world_size_2_rank_1.pt: the pickle calls `posix.system";
    assert!(err.contains(wanted), "{err}");
}

/// Writes a source for so many ranks, and proves it.
fn written(source: &Path, out: &Path, to: &str, ranks: Ranks) -> Result<Vec<String>, String> {
    let spec = Spec::current();
    let request = Request { verify: true, ranks, ..Request::new(&spec, out, to) };
    let report = convert::convert(folder::open(source).unwrap(), &request).map_err(|failure| {
        assert!(!out.exists());
        match failure {
            Failure::Error(err) => err.to_string(),
            Failure::Findings(found) => format!("{}: {}", found[0].rule, found[0].message),
        }
    })?;
    Ok(report.findings.iter().map(|found| format!("{}: {}", found.rule, found.message)).collect())
}

/// The tensors of one file with their bytes, but for buffers.
fn tensors(file: &Path) -> BTreeMap<String, (Vec<u64>, Vec<u8>)> {
    let opened = folder::open(file).unwrap();
    let tensors = opened.checkpoint.tensors.iter().filter(|tensor| tensor.name != "rope.freqs");
    let read = |tensor: &llmstd::Tensor| llmstd::read(&opened.source, tensor).unwrap();
    tensors.map(|of| (of.name.to_string(), (of.shape.clone(), read(of).to_vec()))).collect()
}

#[test]
fn what_meta_and_mistral_read_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let out = |name: &str| scratch.path().join(name);
    let two = Ranks { tensor: 2, ..Ranks::ONE };
    let told = written(&fixture("hf-meta"), &out("tp2"), "meta", two).unwrap();
    assert!(told.iter().any(|line| line.contains("cannot say that `max_positions` is 64")));
    assert_eq!(weights(&out("tp2")), weights(&fixture("hf-meta")));
    // The files of the ranks are those that Meta's layout was written to in the first place.
    let files = ["consolidated.00.pth", "consolidated.01.pth"];
    for file in files {
        assert_eq!(
            tensors(&out("tp2").join(file)),
            tensors(&fixture("meta-1").join(file)),
            "{file}"
        );
    }
    written(&fixture("hf-meta"), &out("tp1"), "meta", Ranks::ONE).unwrap();
    assert!(!out("tp1").join(files[1]).exists() && !out("tp1").join("config.json").exists());
    assert_eq!(weights(&out("tp1")), weights(&fixture("hf-meta")));
    written(&out("tp1"), &out("again"), "meta", two).unwrap();
    assert_eq!(
        fs::read(out("again").join("params.json")).unwrap(),
        fs::read(out("tp2").join("params.json")).unwrap()
    );
    written(&fixture("mistral"), &out("mistral"), "mistral", Ranks::ONE).unwrap();
    let file = "consolidated.safetensors";
    assert_eq!(tensors(&out("mistral").join(file)), tensors(&fixture("mistral").join(file)));
    let params = |of: &Path| -> Json {
        serde_json::from_slice(&fs::read(of.join("params.json")).unwrap()).unwrap()
    };
    let (said, was) = (params(&out("mistral")), params(&fixture("mistral")));
    for (key, value) in was.as_object().unwrap() {
        assert_eq!(&said[key], value, "{key}");
    }
}

/// Megatron-Core itself cut these models over its ranks, and computes the logits of transformers with
/// them: see make_megatron.py.
#[test]
fn the_ranks_of_megatron_are_merged() {
    for (kind, ranks) in
        [("megatron", "tp2-pp2"), ("megatron-moe", "ep2"), ("megatron-gpt", "tp2-pp2")]
    {
        let wanted = weights(&fixture(&format!("hf-{kind}")));
        // The arguments of the run say what the model is.
        let dist = fixture(&format!("{kind}-dist"));
        let (found, told) = digest(&dist, &How::default()).unwrap();
        assert_eq!(found, wanted, "{kind}-dist");
        let padding = "R061: `embedding.word_embeddings.weight` has 3 rows of padding behind the 29 of \
                       `vocab_size`, which are left out";
        assert!(told.iter().any(|line| line == padding), "{told:?}");
        let run = fixture(&format!("{kind}-{ranks}"));
        assert_eq!(weights(&run), wanted, "{kind}-{ranks}");
        let opened = folder::open(&run).unwrap();
        let said = |key: &str| opened.checkpoint.metadata[key].clone();
        assert_eq!((said("trainer.step"), said("trainer.ranks").len()), ("5".into(), 1));
        let config = fixture(&format!("hf-{kind}"));
        let how = How { config: Some(&config), ..How::default() };
        assert_eq!(digest(&run, &how).unwrap().0, wanted);
    }
}

/// `fsdp_dtensor`, of the same models: see make_megatron_fsdp.py.
#[test]
fn what_megatron_fsdp_saves_is_merged() {
    for kind in ["megatron", "megatron-moe"] {
        let run = fixture(&format!("{kind}-fsdp"));
        assert_eq!(weights(&run), weights(&fixture(&format!("hf-{kind}"))), "{kind}");
        let opened = folder::open(&run).unwrap();
        let said = |key: &str| opened.checkpoint.metadata[key].as_str();
        assert_eq!((said("trainer"), said("trainer.step")), ("Megatron (fsdp_dtensor)", "5"));
    }
}

#[test]
fn the_ranks_of_megatron_are_written() {
    let scratch = tempfile::tempdir().unwrap();
    let out = |name: &str| scratch.path().join(name);
    for (kind, of, ranks) in [
        ("megatron", "tp2-pp2", Ranks { tensor: 2, pipeline: 2, expert: 1 }),
        ("megatron-moe", "ep2", Ranks { tensor: 1, pipeline: 1, expert: 2 }),
        ("megatron-gpt", "tp2-pp2", Ranks { tensor: 2, pipeline: 2, expert: 1 }),
    ] {
        let source = fixture(&format!("hf-{kind}"));
        written(&source, &out(kind), "megatron", ranks).unwrap();
        assert_eq!(weights(&out(kind)), weights(&source), "{kind}");
        written(&source, &out("one"), "megatron", Ranks::ONE).unwrap();
        assert_eq!(weights(&out("one")), weights(&source), "{kind}");
        fs::remove_dir_all(out("one")).unwrap();
        // Rank for rank what Megatron-Core has, but for the number of rows of padding.
        let theirs = fixture(&format!("{kind}-{of}")).join("iter_0000005");
        let mut n_files = 0;
        for entry in fs::read_dir(&theirs).unwrap() {
            let folder = entry.unwrap().file_name();
            let file = |run: &Path| run.join(&folder).join("model_optim_rng.pt");
            let (ours, theirs) = (file(&out(kind).join("release")), file(&theirs));
            let usual = |name: &str| {
                name.replace("input_layernorm.", "self_attention.linear_qkv.layer_norm_").replace(
                    "pre_mlp_layernorm.",
                    if kind == "megatron-moe" {
                        "pre_mlp_layernorm."
                    } else {
                        "mlp.linear_fc1.layer_norm_"
                    },
                )
            };
            let (ours, theirs) = (tensors(&ours), tensors(&theirs));
            let theirs: BTreeMap<_, _> =
                theirs.into_iter().map(|(name, of)| (usual(&name), of)).collect();
            assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
            for (name, (shape, bytes)) in &ours {
                let (wanted, theirs) = &theirs[name];
                match name.contains("word_embeddings") || name.contains("output_layer") {
                    true => assert_eq!(shape[1..], wanted[1..]),
                    false => assert_eq!((shape, bytes), (wanted, theirs), "{name}"),
                }
            }
            n_files += 1;
        }
        assert_eq!(n_files, ranks.tensor * ranks.pipeline * ranks.expert);
    }
    let err = written(
        &fixture("hf-megatron"),
        &out("x"),
        "megatron",
        Ranks { pipeline: 3, ..Ranks::ONE },
    );
    assert_eq!(err.unwrap_err(), "R060: `num_layers` is 4, and 3 ranks cannot share it evenly");
    let all = Ranks { tensor: 2, pipeline: 2, expert: 2 };
    written(&fixture("hf-megatron-moe"), &out("all"), "megatron", all).unwrap();
    assert_eq!(weights(&out("all")), weights(&fixture("hf-megatron-moe")));
    let expert = Ranks { expert: 2, ..Ranks::ONE };
    let err = written(&fixture("hf-megatron"), &out("x"), "megatron", expert);
    assert_eq!(err.unwrap_err(), "R060: `num_experts` is 1, and 2 ranks cannot share it evenly");
}

/// A model of 8 layers, in safetensors.
fn deep_model(folder: &Path) {
    let config = fs::read_to_string(fixture("hf-megatron").join("config.json")).unwrap();
    let mut config: Json = serde_json::from_str(&config).unwrap();
    for (key, value) in
        [("num_hidden_layers", 8), ("num_attention_heads", 8), ("num_key_value_heads", 8)]
    {
        config[key] = value.into();
    }
    config["intermediate_size"] = 16.into();
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![29, 8]),
        ("lm_head.weight".to_owned(), vec![29, 8]),
        ("model.norm.weight".to_owned(), vec![8]),
    ];
    for layer in 0..8 {
        let of = |name: &str, shape: &[u64]| {
            (format!("model.layers.{layer}.{name}.weight"), shape.to_vec())
        };
        for name in ["q", "k", "v"] {
            shapes.push(of(&format!("self_attn.{name}_proj"), &[16, 8]));
        }
        shapes.push(of("self_attn.o_proj", &[8, 16]));
        shapes.push(of("mlp.gate_proj", &[16, 8]));
        shapes.push(of("mlp.up_proj", &[16, 8]));
        shapes.push(of("mlp.down_proj", &[8, 16]));
        shapes.push(of("input_layernorm", &[8]));
        shapes.push(of("post_attention_layernorm", &[8]));
    }
    let (mut header, mut bytes) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in shapes {
        let start = bytes.len();
        for at in 0..shape.iter().product::<u64>() {
            bytes.extend((start as f32 + at as f32 / 7.0).to_le_bytes());
        }
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, bytes.len()]});
        header.insert(name, entry);
    }
    let header = Json::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(bytes);
    fs::write(folder.join("model.safetensors"), file).unwrap();
}

#[test]
fn one_rank_of_64_that_is_wrong_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    deep_model(&path("hf"));
    written(&path("hf"), &path("run"), "megatron", Ranks { tensor: 8, pipeline: 8, expert: 1 })
        .unwrap();
    written(&path("hf"), &path("other"), "megatron", Ranks { tensor: 4, pipeline: 8, expert: 1 })
        .unwrap();
    assert_eq!(weights(&path("run")), weights(&path("hf")));
    let rank = "release/mp_rank_03_005/model_optim_rng.pt";
    let file = path("run").join(rank);
    let whole = fs::read(&file).unwrap();
    let replaced = |from: &[u8], to: &[u8]| {
        let mut bytes = whole.clone();
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        assert_eq!(from.len(), to.len());
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    fs::remove_file(&file).unwrap();
    let err = refused(&path("run"));
    let wanted = "has 63 of the files of 64 ranks: `mp_rank_03_005/model_optim_rng.pt` is missing";
    assert!(err.contains(wanted), "{err}");
    let check = |bytes: &[u8], wanted: &[&str]| {
        fs::write(&file, bytes).unwrap();
        let err = refused(&path("run"));
        for wanted in [rank].iter().chain(wanted) {
            assert!(err.contains(wanted), "{wanted}: {err}");
        }
    };
    check(&whole[..whole.len() / 2], &[]);
    check(&[], &[]);
    check(
        &replaced(b"iterationK\x00", b"iterationK\x07"),
        &["is of the step 7, and `release/mp_rank_00_000/model_optim_rng.pt` of 0"],
    );
    check(
        &fs::read(path("other").join(rank)).unwrap(),
        &[
            "is of another run than `release/mp_rank_00_000/model_optim_rng.pt`",
            "`tensor_model_parallel_size` is 4 here and 8 there",
        ],
    );
    check(
        &replaced(b"argparse\nNamespace\n", b"subprocess\nPopen_x\n"),
        &["calls `subprocess.Popen_x`, which no checkpoint needs; nothing of it was run"],
    );
    fs::write(&file, &whole).unwrap();
    assert_eq!(weights(&path("run")), weights(&path("hf")));
}

#[test]
fn ranks_that_cannot_share_a_model_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let tensor = |tensor| Ranks { tensor, ..Ranks::ONE };
    let err = written(&fixture("hf-meta"), &out, "meta", tensor(4)).unwrap_err();
    assert_eq!(err, "R060: `n_heads` is 2, and 4 ranks cannot share it evenly");
    let err = written(&fixture("hf"), &out, "meta", tensor(3)).unwrap_err();
    assert_eq!(err, "R060: `n_kv_heads` is 1, and 3 ranks cannot share it evenly");
    let err = written(&fixture("hf"), &out, "hf", tensor(3)).unwrap_err();
    assert!(err.starts_with("P030: --tp 3 has no effect: a model that is written as hf"), "{err}");
    let err = written(&fixture("mistral"), &out, "meta", Ranks::ONE).unwrap_err();
    assert_eq!(err, "P001: there is no meta mapping of mistral");
}

#[test]
fn a_part_of_a_whole_is_no_model_by_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    copy(&fixture("dcp-mesh"), &run);
    let err = refused(&run.join("__1_0.distcp"));
    assert!(err.contains("has the pieces of one rank") && err.contains("name the folder"), "{err}");
    let opened = folder::open(&fixture("ranks-fsdp2/model_world_size_2_rank_1.pt")).unwrap();
    let tensor = &opened.checkpoint.tensors[0];
    let llmstd::checkpoint::Payload::Unreadable(why) = &tensor.payload else {
        panic!("{tensor:?}")
    };
    assert!(why.contains("180 elements of [29, 12] are in none of its 1 tiles"), "{why}");
}
