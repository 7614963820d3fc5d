//! What is fuzzed. Each target takes any bytes, and ends: in a result, in findings or in an error.
//! `cargo fuzz run TARGET` builds them for the fuzzer; `tests/suite/fuzz.rs` runs the same functions over the
//! fixtures and changes of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use llmstd::base::source::Source;
use llmstd::exec::digest::digest;
use llmstd::format::{self, FORMATS, t5x};
use llmstd::plan::whole::whole;
use llmstd::spec::expr::Expr;
use llmstd::spec::template::Template;
use llmstd::spec::{Files, Spec};
use llmstd::{Request, Selection, ValidateOptions};

static SPEC: LazyLock<Spec> = LazyLock::new(Spec::current);

thread_local! {
    /// A folder in which a target lays out what it opens.
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a folder for temporary files");
}

fn in_folder(act: impl FnOnce(&Path)) {
    FOLDER.with(|folder| act(folder.path()));
}

/// What follows the first byte, and it.
fn choice(data: &[u8]) -> Option<(usize, &[u8])> {
    data.split_first().map(|(first, rest)| (usize::from(*first), rest))
}

/// The first byte chooses the format, the rest is its file: headers, then the values of each tensor.
pub(crate) fn reader(data: &[u8]) {
    let Some((chosen, bytes)) = choice(data) else { return };
    let format = FORMATS[chosen % FORMATS.len()];
    let Some(name) = name_in(format) else { return };
    let mut source = Source::from_bytes(&name, bytes);
    let file = source.files().next().expect("there is one");
    let Ok(checkpoint) = format::read_file(&mut source, file, Some(format)) else { return };
    for tensor in &checkpoint.tensors {
        // What a small file says to be large is not computed here.
        if tensor.n_bytes().is_none_or(|n| 1 << 20 < n) {
            continue;
        }
        if let Ok((inputs, output)) = whole(tensor, 0) {
            let _ = digest(&source, &inputs, &output);
        }
    }
}

/// The name of a file of a format.
pub(crate) fn name_in(format: &format::Format) -> Option<String> {
    let ending = format.endings.first().map(|ending| format!("x.{ending}"));
    let single = || Some(format.singles.first()?.rsplit('/').next()?.to_owned());
    // A format of whole folders, of which one file has all that is read first.
    let tree = || (format.id == t5x::FORMAT.id).then(|| t5x::TREE_FILE.to_owned());
    ending.or_else(single).or_else(tree)
}

/// A config, a zero byte and a safetensors file: planned in every direction, nothing is written.
pub(crate) fn model(data: &[u8]) {
    let Some(end) = data.iter().position(|&byte| byte == 0) else { return };
    let (config, tensors) = (&data[..end], &data[end + 1..]);
    in_folder(|folder| {
        let folder = folder.join("model");
        let _ = fs::create_dir(&folder);
        fs::write(folder.join("config.json"), config).expect("the folder is writable");
        fs::write(folder.join("model.safetensors"), tensors).expect("the folder is writable");
        let nowhere = folder.join("nowhere");
        for to in ["std", "hf", "gguf"] {
            let Ok(opened) = llmstd::open(&folder) else { return };
            let request = Request { dry_run: true, ..Request::new(&SPEC, &nowhere, to) };
            let _ = llmstd::convert(opened, &request);
        }
    });
}

/// The files of a package that a validator reads.
pub(crate) const PACKAGE_FILES: [&str; 4] =
    ["model.json", "manifest.json", "tasks.json", "model.safetensors"];

/// The first byte chooses which file of a package that is otherwise good is the rest.
pub(crate) fn package(data: &[u8]) {
    let Some((chosen, bytes)) = choice(data) else { return };
    in_folder(|folder| {
        let package = folder.join("package");
        if !package.exists() {
            let request = Request::new(&SPEC, &package, "std");
            let opened = llmstd::open(&good_model()).expect("the fixture opens");
            llmstd::convert(opened, &request).expect("the fixture converts");
        }
        let path = package.join(PACKAGE_FILES[chosen % PACKAGE_FILES.len()]);
        let good = fs::read(&path).unwrap_or_default();
        fs::write(&path, bytes).expect("the folder is writable");
        let rules = Selection::default();
        let options = ValidateOptions { deep: true, ..ValidateOptions::new(&rules) };
        let _ = llmstd::validate(&package, &SPEC, &options);
        fs::write(&path, good).expect("the folder is writable");
    });
}

/// What the ranks of trainers leave, and which file of it [`ranks`] replaces.
pub(crate) const RANK_FILES: [(&str, &str); 12] = [
    ("dcp-fsdp1", "pytorch_model_fsdp_0/.metadata"),
    ("dcp-mesh", ".metadata"),
    ("dcp-mesh", "__0_0.distcp"),
    ("ranks-fsdp1", "model_world_size_2_rank_0.pt"),
    ("ranks-fsdp2", "model_world_size_2_rank_0.pt"),
    ("ranks-mesh", "model_world_size_4_rank_0.pt"),
    ("zero2", "global_step1/mp_rank_00_model_states.pt"),
    ("zero2", "global_step1/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
    ("zero3", "global_step1/zero_pp_rank_0_mp_rank_00_model_states.pt"),
    ("zero3", "global_step1/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
    ("megatron-dist", "iter_0000005/.metadata"),
    ("megatron-tp2-pp2", "iter_0000005/mp_rank_00_000/model_optim_rng.pt"),
];

/// The first byte chooses which file of which run is the rest; the run is merged by its headers.
pub(crate) fn ranks(data: &[u8]) {
    let Some((chosen, bytes)) = choice(data) else { return };
    let (run, file) = RANK_FILES[chosen % RANK_FILES.len()];
    in_folder(|folder| {
        let own = folder.join(run);
        if !own.exists() {
            copy_folder(&fixture("trainers").join(run), &own);
        }
        let path = own.join(file);
        let good = fs::read(&path).expect("the run has the file");
        fs::write(&path, bytes).expect("the folder is writable");
        if let Ok(opened) = llmstd::open(&own) {
            let nowhere = folder.join("nowhere");
            let request = Request { dry_run: true, ..Request::new(&SPEC, &nowhere, "hf") };
            let _ = llmstd::convert(opened, &request);
        }
        fs::write(&path, good).expect("the folder is writable");
    });
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is writable");
    for entry in fs::read_dir(from).expect("the fixture is there") {
        let entry = entry.expect("the fixture can be read");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).expect("the folder is writable");
        }
    }
}

/// A small model of the fixtures.
pub(crate) fn good_model() -> PathBuf {
    fixture("demo/v1")
}

/// A file or folder of the fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("fixtures").join(name))
        .find(|folder| folder.exists())
        .expect("the fixtures stand beside the crate")
}

/// The files of the standard that [`texts`] replaces, of a standard of one architecture.
pub(crate) const SPEC_FILES: [&str; 7] = [
    "arch/llama.toml",
    "map/hf/llama.toml",
    "hparams.toml",
    "roles.toml",
    "tasks.toml",
    "encodings.toml",
    "spec.toml",
];

static SMALL_SPEC: LazyLock<Files> = LazyLock::new(|| {
    let mut files = SPEC.files().clone();
    let keep =
        |path: &str| !path.contains('/') || path.contains("/_") || SPEC_FILES.contains(&path);
    files.retain(|path, _| path.ends_with(".toml") && keep(path));
    files.insert(
        "spec.toml".to_owned(),
        "version = \"1.0.0\"\narchitectures = [\"llama\"]\n[maps]\nhf = [\"llama\"]\n".into(),
    );
    files
});

/// The files that [`texts`] replaces, as they are.
pub(crate) fn good_text(chosen: usize) -> &'static str {
    &SMALL_SPEC[SPEC_FILES[chosen % SPEC_FILES.len()]]
}

/// The first byte chooses what the text is: an expression and a template, or a data file.
pub(crate) fn texts(data: &[u8]) {
    let Some((chosen, bytes)) = choice(data) else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if SPEC_FILES.len() <= chosen {
        if let Ok(expr) = Expr::parse(text) {
            let _ = expr.eval(&|name: &str| match name {
                "n" => Ok(llmstd::Value::Int(3)),
                _ => Err(format!("no {name}")),
            });
        }
        let _ = Template::parse(text);
        return;
    }
    let mut files = SMALL_SPEC.clone();
    files.insert(SPEC_FILES[chosen].to_owned(), text.to_owned().into());
    if let Ok(spec) = Spec::from_files(files) {
        let _ = spec.check();
    }
}
