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

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainers").join(name)
}

/// A copy of a fixture, which may be changed.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
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
    tensors.map(|of| (of.name.clone(), (of.shape.clone(), read(of).to_vec()))).collect()
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
