//! The arguments of `llmstd convert`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::checkpoint::DType;
use crate::convert::target::TARGETS;
use crate::convert::{self};
use crate::encoding::BlockType;
use crate::format;
use clap::builder::PossibleValuesParser;

/// Convert a checkpoint into the standard, or out of it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd convert ./bert-base ./bert-base.std            from Hugging Face to the standard
  llmstd convert ./bert-base.std ./back --to hf         and back, every tensor bit for bit
  llmstd convert ./llama ./llama.gguf --quant q8_0      for llama.cpp, quantized
  llmstd convert model.ckpt model.safetensors           names and bytes as they are, one file
  llmstd convert ./bert-ner ./bert-ner.tf --to tf       a TensorFlow checkpoint, under Google's names
  llmstd convert ./t5.std ./t5.flax --to flax           for transformers' Flax classes
  llmstd convert ./bert-ner weights.npz                 for numpy.load: the names of the source
  llmstd convert ./old ./new --to safetensors           a folder of .bin files, as safetensors
  llmstd convert model.bin ./out --dry-run              print the plan, write nothing
  llmstd convert ./run ./model --to hf --step 400       what ranks left, merged
  llmstd convert ./odd.ckpt ./odd.std --generic         an architecture that is not known
  llmstd convert ./big ./big.std --resume               goes on where a killed run has ended

On many machines that share a file system, byte for byte what one run makes:
  llmstd convert ./big ./big.std --dry-run --format json > plan.json
  llmstd convert --plan plan.json --unit 3/64           each of them, in any order, again if killed
  llmstd convert --plan plan.json --finish

Exit status:
  0  converted
  2  it could not be done; nothing is left under the destination's name")]
pub(crate) struct Args {
    /// A folder, a weight file, or a shard index
    #[arg(required_unless_present = "plan")]
    pub(super) src: Option<PathBuf>,
    /// The folder to write, or the .gguf, .safetensors, .msgpack or .npz file; it must not exist
    #[arg(required_unless_present = "plan")]
    pub(super) dst: Option<PathBuf>,
    /// The format to write; where nothing is said, that of the destination's ending, or std
    #[arg(long, value_name = "FORMAT", value_parser = targets())]
    pub(super) to: Option<String>,
    /// The format that is read, where a folder has several
    #[arg(long, value_name = "FORMAT", value_parser = sources())]
    pub(super) from: Option<String>,
    /// The architecture, where the config does not say it
    #[arg(long, value_name = "ID")]
    pub(super) arch: Option<String>,
    /// The folder with config.json and the tokenizer, where they are not beside the weights
    #[arg(long, value_name = "DIR")]
    pub(super) config: Option<PathBuf>,
    /// Which of the steps that a trainer left: the name of its folder, or its number; the last one if
    /// nothing is said
    #[arg(long, value_name = "STEP")]
    pub(super) step: Option<String>,
    /// Cast float tensors: f16, bf16, f32, f64
    #[arg(long, value_parser = convert::parse_dtype)]
    pub(super) dtype: Option<DType>,
    /// Allow a cast that loses information; what changes is counted
    #[arg(long)]
    pub(super) lossy: bool,
    /// Write the numbers that blocks stand for: F32, or what --dtype says
    #[arg(long)]
    pub(super) decode: bool,
    /// Pack the matrices of a GGUF file in blocks: q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k, mxfp4
    #[arg(long, value_name = "TYPE", value_parser = convert::parse_quant)]
    pub(super) quant: Option<&'static BlockType>,
    /// The most bytes of tensors in one file: 5GB if nothing is said, and no limit for a .gguf file
    #[arg(long, value_name = "SIZE", value_parser = convert::parse_size)]
    pub(super) max_shard_size: Option<u64>,
    /// Cut every matrix over so many ranks, each with a file of its own: for --to megatron and meta
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(super) tp: u64,
    /// Cut the layers over so many stages of a pipeline: for --to megatron
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(super) pp: u64,
    /// Cut the experts over so many ranks: for --to megatron
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(super) ep: u64,
    /// Write a GGUF file without the tokenizer of the source, where GGUF cannot say it
    #[arg(long)]
    pub(super) allow_no_tokenizer: bool,
    /// Keep names and bytes as they are, without an architecture
    #[arg(long)]
    pub(super) generic: bool,
    /// Print the plan and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Read back what was written, and compare every tensor with the source
    #[arg(long)]
    pub(super) verify: bool,
    /// Compute the outputs of source and result for the same inputs, and compare them. Both are read
    /// by this program: a key that it reads wrongly on both sides is not seen
    #[arg(long, conflicts_with_all = ["generic", "dry_run"])]
    pub(super) check_outputs: bool,
    /// Replace the destination, if llmstd wrote it and nothing else is in it
    #[arg(long)]
    pub(super) force: bool,
    /// Take every warning for an error, and write nothing then
    #[arg(long)]
    pub(super) strict: bool,
    /// Refuse links that lead out of the source
    #[arg(long)]
    pub(super) no_follow: bool,
    /// How many threads work; the bytes written do not depend on it
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<NonZeroUsize>,
    /// Keep each file of tensors as it becomes whole, and go on where a run that was killed has ended
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) resume: bool,
    /// Carry out a plan that --dry-run --format json has printed: all of it, or what --unit or
    /// --finish says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["src", "dst", "dry_run", "resume"])]
    pub(crate) plan: Option<PathBuf>,
    /// Of a plan, make the share of unit K of N and nothing else; auto/N takes K from
    /// SLURM_ARRAY_TASK_ID (from 1 on) or JOB_COMPLETION_INDEX (from 0 on)
    #[arg(long, value_name = "K/N", requires = "plan")]
    pub(super) unit: Option<String>,
    /// Of a plan, join what the units have made
    #[arg(long, requires = "plan", conflicts_with = "unit")]
    pub(super) finish: bool,
}

/// The formats to write.
fn targets() -> PossibleValuesParser {
    let ids = TARGETS.iter().map(|target| target.id);
    PossibleValuesParser::new([convert::STD].into_iter().chain(ids))
}

/// What `--from` takes: a package, a folder of Hugging Face, or a format of files.
fn sources() -> PossibleValuesParser {
    let ids = format::FORMATS.iter().map(|format| format.id);
    PossibleValuesParser::new(["std", "hf"].into_iter().chain(ids))
}
