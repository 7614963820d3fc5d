//! The README says what is true: its tables are those of the lists, its commands those of CI.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use llmstd::convert::formats::{COLUMNS, formats};
use llmstd::encoding::layout::Layouts;
use llmstd::spec::Spec;
use llmstd::spec::compound::Compound;

const BEGIN: &str =
    "<!-- architectures: `BLESS=1 cargo test --test suite readme::` writes this from spec/ -->\n";
const LAYOUTS_BEGIN: &str =
    "<!-- layouts: `BLESS=1 cargo test --test suite readme::` writes this table from spec/ -->\n";
const FORMATS_BEGIN: &str = "<!-- formats: `BLESS=1 cargo test --test suite readme::` writes this table from `spec list formats` -->\n";
const END: &str = "<!-- end -->\n";

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: BTreeSet<&str> = words.collect();
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// What there is, in a few lines.
fn overview(spec: &Spec) -> String {
    let types = spec.maps.values().filter(|map| map.format == "hf");
    let types = types.flat_map(|map| map.matches.get("model_type").into_iter().flatten());
    let types: BTreeSet<&str> = types.map(String::as_str).collect();
    let compounds: BTreeSet<&str> = spec.compounds.iter().flat_map(Compound::types).collect();
    let to_gguf = spec.maps.values().filter(|map| map.format == "gguf");
    let to_gguf: BTreeSet<&str> = to_gguf.map(|map| map.arch.as_str()).collect();
    format!(
        "{} architectures of {} `model_type`s of Hugging Face, {} of them to and from GGUF; and the text models of {} \
         compounds, for pictures and for sound. [spec/SUPPORT.md](spec/SUPPORT.md) lists them with their tasks.\n",
        spec.archs.values().count(),
        types.len(),
        to_gguf.len(),
        compounds.len()
    )
}

/// The page of all architectures and compounds.
fn support(spec: &Spec) -> String {
    let mut text = String::from(
        "# What is supported\n\nMade of the data files; a test holds the two together. Each `model_type` goes both ways \
         bit for bit, with outputs held to those of transformers, or of the published code that the fixture names, on a checkpoint \
         under `fixtures/families`. The column GGUF \
         names the architecture that llama.cpp has for it, held to what its converter writes.\n\n## Architectures\n\n",
    );
    text += &table(spec);
    text += "\n## Compounds\n\nModels of which a text model is one part. The text model is the package; the others are carried \
             beside it ([how](mapping.md#compounds)).\n\n| Hugging Face `model_type` | Its text model, where its config does not say it |\n| --- | --- |\n";
    for compound in spec.compounds.iter() {
        for (name, of) in compound.types_with_text() {
            text += &format!("| `{name}` | `{of}` |\n");
        }
    }
    text
}

fn table(spec: &Spec) -> String {
    let mut text = String::from(
        "| Architecture | Hugging Face `model_type` | GGUF | Tasks |\n| --- | --- | --- | --- |\n",
    );
    for arch in spec.archs.values() {
        let maps = |format: &'static str| {
            spec.maps.values().filter(move |map| map.arch == arch.id && map.format == format)
        };
        let types = maps("hf").flat_map(|map| map.matches.get("model_type").into_iter().flatten());
        let types = words(types.map(String::as_str));
        // What is written; several of ours may be one architecture there.
        let written =
            maps("gguf").filter_map(|map| map.config.get("general.architecture")?.as_str());
        let written = words(written);
        text += &format!("| `{}` | {types} | {written} | {} |\n", arch.id, arch.tasks.join(", "));
    }
    text
}

fn layouts() -> String {
    let mut text =
        String::from("| Layout | What it is | To GGUF without decoding |\n| --- | --- | --- |\n");
    for layout in &Layouts::carried().layout {
        let blocks = layout.blocks.as_deref().map(|blocks| format!("`{blocks}`"));
        let blocks = blocks.unwrap_or_default();
        text += &format!("| `{}` | {} ({}) | {blocks} |\n", layout.id, layout.about, layout.source);
    }
    text
}

fn file_formats(spec: &Spec) -> String {
    let mut text = format!("| {} |\n|{}\n", COLUMNS.join(" | "), " --- |".repeat(COLUMNS.len()));
    for format in formats(spec).formats {
        text += &format!("| {} |\n", format.row().join(" | "));
    }
    text
}

#[test]
fn the_tables_are_those_of_the_spec() {
    check_table(BEGIN, &overview(&Spec::current()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/SUPPORT.md");
    let wanted = support(&Spec::current());
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, wanted).unwrap();
    } else {
        assert_eq!(fs::read_to_string(path).unwrap(), wanted, "run with BLESS=1");
    }
    check_table(LAYOUTS_BEGIN, &layouts());
    check_table(FORMATS_BEGIN, &file_formats(&Spec::current()));
}

fn check_table(begin: &str, wanted: &str) {
    let readme = read("README.md");
    let start = readme.find(begin).expect("the table has a start") + begin.len();
    let end = start + readme[start..].find(END).expect("the table has an end");
    if std::env::var_os("BLESS").is_some() {
        let text = format!("{}{wanted}{}", &readme[..start], &readme[end..]);
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"), text).unwrap();
        return;
    }
    assert_eq!(&readme[start..end], wanted, "run with BLESS=1");
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    let (_, rest) = readme.split_once("The tests:\n\n```sh\n").unwrap();
    let (command, _) = rest.split_once('\n').unwrap();
    assert!(ci.lines().any(|line| line == command), "{command}");
}

#[test]
fn every_file_that_the_readme_links_to_is_there() {
    for file in ["README.md", "spec/README.md"] {
        let text = read(file);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let folder = folder.parent().unwrap().to_owned();
        let links =
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
            } else {
                folder.join(path)
            };
            let target =
                fs::read_to_string(&target).unwrap_or_else(|_| panic!("{file} links to {link}"));
            let heading =
                |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            assert!(
                anchor.is_empty()
                    || target.lines().any(|line| line.starts_with('#') && heading(line) == anchor),
                "{file}: {link}"
            );
        }
    }
}

/// The files of the reference forward in the order of the text, with their headings.
const FORWARD: &[(&str, &str)] = &[
    ("embed", "Embeddings"),
    ("aspects", "Shapes and sounds of tokens"),
    ("stack", "Layers"),
    ("cycle", "Layers in cycles"),
    ("side", "Blocks beside state spaces"),
    ("bottleneck", "Layers that are narrower inside"),
    ("front", "Rows in front"),
    ("pool", "Layers that see fewer positions"),
    ("layer_embed", "Embeddings of layers"),
    ("altup", "Streams"),
    ("hyper", "Streams that sublayers mix"),
    ("ahead", "Streams that predict"),
    ("attention", "Attention"),
    ("memory", "States of an encoder"),
    ("attn_experts", "Attentions that are experts"),
    ("latent", "Latent attention"),
    ("indexer", "Indexers"),
    ("blocks", "Indexers of blocks"),
    ("qk_conv", "Queries and keys that convolutions mix"),
    ("key_bias", "Scores of keys"),
    ("compress", "Keys that stand for several positions"),
    ("span_conv", "Convolutions with kernels of their own"),
    ("differential", "Differential attention"),
    ("global", "Global tokens"),
    ("rope", "Rotary positions"),
    ("position", "Positions in scores"),
    ("relative", "Relative sinusoids, and segments"),
    ("mlp", "MLPs and activations"),
    ("moe", "Mixtures of experts"),
    ("router", "Routers of several maps"),
    ("adapter", "Adapters"),
    ("ssm", "State spaces"),
    ("recurrent", "Gated linear recurrences"),
    ("wkv", "States that are weighted means"),
    ("linear", "Linear attention"),
    ("mlstm", "Linear attention with gates that are exponentials"),
    ("conv", "Convolutions"),
    ("fourier", "Fourier layers"),
    ("norm", "Norms"),
    ("norm_gate", "Gates on norms"),
    ("heads", "Heads and poolings"),
];

/// The formulas stand once, at the head of the code that computes them.
#[test]
fn the_text_of_the_forward_is_that_of_the_code() {
    let mut text = String::from(
        "# What a package computes\n\nThe meaning of tensors and hyperparameters, in formulas. `x Wᵀ` is the \
         linear map of rows x by a tensor `[out, in]`; names of tensors are those of `roles.toml`, other names are keys of \
         `hparams.toml` as seen from the stack. `σ` is the logistic function, `softplus(x)` is `ln(1 + eˣ)`, `∘` the product \
         of elements, n the positions of one sequence. Numbers are real: where a formula is computed in F32, it says so. \
         This text is made of the heads of the reference implementation's files; a test holds the two together.\n",
    );
    for (file, heading) in FORWARD {
        let code = read(&format!("src/forward/{file}.rs"));
        let head = code.lines().map_while(|line| line.strip_prefix("//!"));
        let head: Vec<&str> = head.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        text.push_str(&format!("\n## {heading}\n\n{}\n", head.join("\n")));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/forward.md");
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, text).unwrap();
    } else {
        assert_eq!(fs::read_to_string(path).unwrap(), text, "run with BLESS=1");
    }
}
