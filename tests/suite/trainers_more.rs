//! What further trainers leave behind: NeMo's archives, safetensors of ranks, and other families.
//! fixtures/trainers has them, see make_nemo.py and make_more.py there.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use llmstd::convert::{self, Failure, Request};
use llmstd::folder::{self, How};
use llmstd::spec::Spec;
use serde_json::Value as Json;

use crate::folders::copy;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trainers").join(name)
}

/// What a conversion says and makes.
struct Converted {
    weights: String,
    model: Json,
    told: Vec<String>,
    files: Vec<String>,
    verified: convert::Report,
}

fn convert_as(
    source: &Path,
    to: &str,
    out: &Path,
    how: &How<'_>,
) -> Result<convert::Report, String> {
    let spec = Spec::current();
    let opened = folder::open_as(source, how).map_err(|err| err.to_string())?;
    let request = Request { verify: true, ..Request::new(&spec, out, to) };
    convert::convert(opened, &request).map_err(|failure| match failure {
        Failure::Error(err) => err.to_string(),
        Failure::Findings(found) => format!("{}: {}", found[0].rule, found[0].message),
    })
}

fn converted(source: &Path, how: &How<'_>) -> Result<Converted, String> {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let verified = convert_as(source, "std", &out, how)?;
    let json = |name: &str| -> Json {
        serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap()
    };
    let told = verified.findings.iter().map(|found| format!("{}: {}", found.rule, found.message));
    let files = fs::read_dir(&out).unwrap();
    Ok(Converted {
        weights: json("manifest.json")["digests"]["weights"].as_str().unwrap().to_owned(),
        model: json("model.json"),
        told: told.collect(),
        files: files.map(|of| of.unwrap().file_name().into_string().unwrap()).collect(),
        verified,
    })
}

fn weights(name: &str) -> String {
    converted(&fixture(name), &How::default()).unwrap_or_else(|err| panic!("{name}: {err}")).weights
}

/// The one line that an input is refused with.
fn refused(source: &Path) -> String {
    match converted(source, &How::default()) {
        Ok(_) => panic!("{} is refused", source.display()),
        Err(err) => err,
    }
}

#[test]
fn other_families_are_read_as_trainers_shard_them() {
    for family in ["qwen3_moe", "gpt2"] {
        let wanted = weights(&format!("hf-{family}"));
        for kind in ["dcp", "ranks"] {
            assert_eq!(weights(&format!("{kind}-{family}")), wanted, "{kind}-{family}");
        }
    }
    assert_eq!(weights("accelerate"), weights("hf"));
}

#[test]
fn safetensors_of_ranks_are_put_together() {
    let wanted = weights("hf");
    assert_eq!(weights("writer"), wanted);
    // What was put together is taken before its parts.
    let whole = converted(&fixture("writer-consolidated"), &How::default()).unwrap();
    assert_eq!(whole.weights, wanted);
    assert!(
        whole
            .told
            .iter()
            .any(|line| line.starts_with("R014") && line.contains("shard-00002-model"))
    );
    let opened = folder::open(&fixture("writer")).unwrap();
    assert_eq!(opened.checkpoint.metadata["trainer.ranks"], "2");
    let check = |change: &dyn Fn(&Path), wanted: &str| {
        let scratch = tempfile::tempdir().unwrap();
        copy(&fixture("writer"), scratch.path());
        change(scratch.path());
        let err = refused(scratch.path());
        assert!(err.contains(wanted), "{wanted}: {err}");
    };
    let name = |rank: u32| format!("shard-{rank:05}-model-00002-of-00002.safetensors");
    // Of the last rank nothing tells but the config.
    check(&|run| fs::remove_file(run.join(name(2))).unwrap(), "the config makes it");
    check(&|run| fs::remove_file(run.join(name(1))).unwrap(), "`lm_head.weight` do not fit");
    let no_first = |run: &Path| {
        for file in ["shard-00001-model-00001-of-00002.safetensors", &name(1)] {
            fs::remove_file(run.join(file)).unwrap();
        }
    };
    check(&no_first, "and no file of rank 1");
    let cut = |run: &Path| {
        let bytes = fs::read(run.join(name(2))).unwrap();
        fs::write(run.join(name(2)), &bytes[..bytes.len() - 9]).unwrap();
    };
    check(&cut, &name(2));
    let unsaid = |run: &Path| {
        let mut bytes = fs::read(run.join(name(2))).unwrap();
        let key = b"DCP_SHARDING_INFO";
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
        bytes[at] = b'X';
        fs::write(run.join(name(2)), bytes).unwrap();
    };
    check(&unsaid, "has no `DCP_SHARDING_INFO`");
}

#[test]
fn the_archives_and_folders_of_nemo_are_read() {
    let wanted = weights("hf-megatron");
    for name in ["nemo.nemo", "nemo-ranks.nemo", "nemo-zarr", "nemo-2"] {
        let found = converted(&fixture(name), &How::default()).unwrap();
        assert_eq!(found.weights, wanted, "{name}");
        let hparams = &found.model["hyperparameters"];
        assert_eq!(hparams["max_positions"], 64, "{name}");
        assert_eq!(hparams["norm_eps"], 1e-6, "{name}");
        let scaling = if name == "nemo-2" { "llama3" } else { "none" };
        assert_eq!(hparams["rope_scaling.kind"], scaling, "{name}");
        let opened = folder::open(&fixture(name)).unwrap();
        assert_eq!(opened.checkpoint.metadata["trainer"], "NeMo", "{name}");
        // The rows of the model are compared, those of padding are told of.
        let verified = found.verified.verified.unwrap();
        assert_eq!((verified.equal, verified.padded.len()), (27, 2), "{name}");
        assert!(found.told.iter().filter(|line| line.starts_with("R061")).count() == 2);
    }
    // A file of the archive goes along, without the digits in front of its name.
    let found = converted(&fixture("nemo.nemo"), &How::default()).unwrap();
    assert!(found.files.iter().any(|name| name == "tokenizer.model"), "{:?}", found.files);
    // Early ones are packed.
    let scratch = tempfile::tempdir().unwrap();
    let packed = scratch.path().join("packed.nemo");
    let bytes = fs::read(fixture("nemo.nemo")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let gz = gzip.finish().unwrap();
    fs::write(&packed, &gz).unwrap();
    assert_eq!(converted(&packed, &How::default()).unwrap().weights, wanted);
    // Unpacked, as most have it.
    let folder = scratch.path().join("unpacked");
    tar::Archive::new(&bytes[..]).unpack(&folder).unwrap();
    assert_eq!(converted(&folder, &How::default()).unwrap().weights, wanted);
    let out = scratch.path().join("hf");
    convert_as(&fixture("nemo-ranks.nemo"), "hf", &out, &How::default()).unwrap();
    assert_eq!(converted(&out, &How::default()).unwrap().weights, wanted);
    // Damaged ones are refused by name.
    for (bytes, wanted) in
        [(&bytes[..bytes.len() / 2], "broken.nemo"), (&gz[..gz.len() / 2], "broken")]
    {
        fs::write(scratch.path().join("broken.nemo"), bytes).unwrap();
        let err = refused(&scratch.path().join("broken.nemo"));
        assert!(err.contains(wanted), "{err}");
    }
    let text = fs::read_to_string(folder.join("model_config.yaml")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from));
        fs::write(folder.join("model_config.yaml"), text.replace(from, to)).unwrap();
        refused(&folder)
    };
    let err = with("normalization: rmsnorm", "normalization: layernorm1p");
    assert!(err.contains("layernorm1p"), "{err}");
    let err = with("seq_len_interpolation_factor: null", "seq_len_interpolation_factor: 4");
    assert!(err.contains("seq_len_interpolation_factor"), "{err}");
    let err = with("num_layers: 4", "num_layers: [");
    assert!(err.contains("model_config.yaml") && err.contains("is no YAML"), "{err}");
    // A rank that is missing.
    let ranks = scratch.path().join("ranks");
    tar::Archive::new(&fs::read(fixture("nemo-ranks.nemo")).unwrap()[..]).unpack(&ranks).unwrap();
    fs::remove_dir_all(ranks.join("tp_rank_01_pp_rank_000")).unwrap();
    let err = refused(&ranks);
    assert!(err.contains("has 3 of the files of 4 ranks"), "{err}");
}

#[test]
fn ids_of_special_tokens_that_have_no_place_are_told() {
    let scratch = tempfile::tempdir().unwrap();
    let wanted = "has no place for the ids of special tokens: bos 1, eos 2";
    for (source, to) in
        [("hf-meta", "meta"), ("mistral-hf", "mistral"), ("hf-megatron", "megatron")]
    {
        let source = match source {
            "mistral-hf" => {
                let folder = scratch.path().join(source);
                copy(&fixture("hf"), &folder);
                let config = fs::read_to_string(folder.join("config.json")).unwrap();
                let config =
                    config.replace("\"llama\"", "\"mistral\"").replace("LlamaFor", "MistralFor");
                fs::write(folder.join("config.json"), config).unwrap();
                folder
            }
            source => fixture(source),
        };
        let out = scratch.path().join(to);
        let report = convert_as(&source, to, &out, &How::default()).unwrap();
        let found = report.findings.iter().find(|found| found.key.as_deref() == Some("tokens"));
        let found = found.unwrap_or_else(|| panic!("{to}: {:?}", report.findings));
        assert!(found.rule == "P005" && found.message.contains(wanted), "{to}: {}", found.message);
        // What is not said is not made up when it is read.
        let back = converted(&out, &How::default()).unwrap();
        assert_eq!(back.model["tokens"], serde_json::json!({}), "{to}");
    }
    // Nothing is told of a model that names none.
    let folder = scratch.path().join("plain");
    copy(&fixture("hf-meta"), &folder);
    let text = fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Json = serde_json::from_str(&text).unwrap();
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        config[key] = Json::Null;
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let report = convert_as(&folder, "meta", &scratch.path().join("m"), &How::default()).unwrap();
    assert!(report.findings.iter().all(|found| found.key.as_deref() != Some("tokens")));
}
