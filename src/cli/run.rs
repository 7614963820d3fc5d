//! `llmstd run`.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::convert::Failure;
use crate::forward::Inputs;
use crate::run::{self, Options, OutputReport, Report, TaskReport};

use crate::folder::How;

use super::input::Input;
use super::{Format, Global, Status, output};

/// Compute what a model answers, by the reference forward: for tests, not for service
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  llmstd run ./gpt2.std --input-ids 15496,11,995
  llmstd run ./bert-base --input-ids 101,7592,103,102 --task masked-lm --top 3
  llmstd run ./minilm --input-ids 101,7592,102,0 --attention-mask 1,1,1,0 --format json
  llmstd run ./t5 --input-ids 37,1782,1 --decoder-input-ids 0
  llmstd run ./whisper --input-features mel.safetensors --decoder-input-ids 50258

A flag that is given several times gives several sequences, all of one length.

Exit status:
  0  it was computed
  2  it could not be")]
pub(crate) struct Args {
    /// A package, or any checkpoint that can be converted
    path: PathBuf,
    /// The format that is read, where a folder has several
    #[arg(long, value_name = "FORMAT", value_parser = output::formats())]
    from: Option<String>,
    /// Ids of tokens
    #[arg(long, value_name = "IDS", required_unless_present = "input_features", value_parser = ids)]
    input_ids: Vec<Ids>,
    /// A file with a spectrogram for a model of speech: one F32 tensor [mel_bins, frames], or a waveform [1, samples]
    #[arg(long, value_name = "FILE", conflicts_with = "input_ids")]
    input_features: Vec<PathBuf>,
    /// 1 where a position counts, 0 where it is padding
    #[arg(long, value_name = "MASK", value_parser = ids)]
    attention_mask: Vec<Ids>,
    /// Ids of token types
    #[arg(long, value_name = "IDS", value_parser = ids)]
    token_type_ids: Vec<Ids>,
    /// Positions, where they are not 0, 1, 2, …
    #[arg(long, value_name = "POSITIONS", value_parser = ids)]
    position_ids: Vec<Ids>,
    /// Ids of tokens for the decoder of an encoder-decoder
    #[arg(long, value_name = "IDS", value_parser = ids)]
    decoder_input_ids: Vec<Ids>,
    /// 1 where a token is global: all see it, and it sees all. For models that have such tokens
    #[arg(long, value_name = "MASK", value_parser = ids)]
    global_attention_mask: Vec<Ids>,
    /// Ids of the shapes of tokens. For models that read them
    #[arg(long, value_name = "IDS", value_parser = ids)]
    shape_ids: Vec<Ids>,
    /// Ids of the sounds of tokens. For models that read them
    #[arg(long, value_name = "IDS", value_parser = ids)]
    sound_ids: Vec<Ids>,
    /// The adapter of each sequence, counted from 0 in the order of `mlp_adapter.names`. For models that have some
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    adapter_ids: Option<Vec<i64>>,
    /// As --attention-mask, for the decoder
    #[arg(long, value_name = "MASK", value_parser = ids)]
    decoder_attention_mask: Vec<Ids>,
    /// A file with what an encoder put out, for a decoder that attends to one: one F32 tensor [positions, hidden_size]
    #[arg(long, value_name = "FILE")]
    encoder_hidden_states: Vec<PathBuf>,
    /// As --attention-mask, for the states of an encoder
    #[arg(long, value_name = "MASK", value_parser = ids)]
    encoder_attention_mask: Vec<Ids>,
    /// The task; all that the inputs suffice for if there is none
    #[arg(long, value_name = "ID")]
    task: Option<String>,
    /// How many tokens to list
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// The architecture, where the config does not say it
    #[arg(long, value_name = "ID")]
    arch: Option<String>,
}

/// One sequence; a type of its own, as a list of lists is one flag's values otherwise.
#[derive(Clone, Debug)]
struct Ids(Vec<i64>);

fn ids(text: &str) -> Result<Ids, String> {
    let id = |id: &str| id.trim().parse().map_err(|_| format!("{id:?} is no integer"));
    text.split(',').map(id).collect::<Result<_, _>>().map(Ids)
}

fn matrices(
    files: &[PathBuf],
    what: &str,
    axes: &str,
) -> crate::base::error::Result<Vec<Vec<Vec<f32>>>> {
    files.iter().map(|path| run::matrix(path, what, axes)).collect()
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Status> {
    let spec = output::spec(global)?;
    let input = Input::of(&args.path, spec)?;
    let how = How { format: output::wanted(args.from.as_deref()), ..How::default() };
    let mut loaded = match run::load_as(input.path(), &how, spec, args.arch.as_deref()) {
        Ok(loaded) => loaded,
        Err(Failure::Error(err)) => return Err(err.into()),
        Err(Failure::Findings(findings)) => return output::refuse(&findings, global),
    };
    let rows = |rows: &[Ids]| rows.iter().map(|row| row.0.clone()).collect();
    let optional = |given: &[Ids]| (!given.is_empty()).then(|| rows(given));
    let inputs = Inputs {
        input_ids: rows(&args.input_ids),
        attention_mask: optional(&args.attention_mask),
        token_type_ids: optional(&args.token_type_ids),
        position_ids: optional(&args.position_ids),
        decoder_input_ids: optional(&args.decoder_input_ids),
        decoder_attention_mask: optional(&args.decoder_attention_mask),
        global_attention_mask: optional(&args.global_attention_mask),
        shape_ids: optional(&args.shape_ids),
        sound_ids: optional(&args.sound_ids),
        adapter_ids: args.adapter_ids.clone(),
        encoder_hidden_states: match args.encoder_hidden_states.as_slice() {
            [] => None,
            files => Some(matrices(files, "states of an encoder", "positions, hidden_size")?),
        },
        encoder_attention_mask: optional(&args.encoder_attention_mask),
        input_features: matrices(&args.input_features, "a spectrogram", "mel_bins, frames")?,
        choices: 0,
        ..Inputs::default()
    };
    let options = Options { task: args.task.as_deref(), top: args.top };
    let report = run::run(input.path(), &mut loaded, &inputs, options)?;
    match global.format {
        Format::Json => output::print_json(&report)?,
        Format::Text => output::print(&text(&report))?,
    }
    Ok(Status::SUCCESS)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let architecture = report.architecture.as_deref().unwrap_or("no architecture");
    let _ = writeln!(text, "{}: {architecture}", report.path);
    for task in &report.tasks {
        text.push_str(&task_text(task));
    }
    text.push('\n');
    text.push_str(&outputs_text(&report.states));
    text
}

fn task_text(task: &TaskReport) -> String {
    let mut text = format!("\n{}\n", task.task);
    for position in &task.tokens {
        let _ = writeln!(text, "sequence {}, position {}", position.sequence, position.position);
        let mut table = output::table();
        for token in &position.top {
            let spelled =
                token.token.as_ref().map_or_else(String::new, |token| format!("{token:?}"));
            table.add_row([format!("{}", token.id), format!("{:.6}", token.logit), spelled]);
        }
        let _ = writeln!(text, "{}", table.trim_fmt());
    }
    for (sequence, labels) in task.labels.iter().enumerate() {
        let _ = writeln!(text, "sequence {sequence}");
        let mut table = output::table();
        for label in labels {
            table.add_row([label.label.clone(), format!("{:.6}", label.score)]);
        }
        let _ = writeln!(text, "{}", table.trim_fmt());
    }
    text + &outputs_text(&task.outputs)
}

/// How many elements of an output are printed.
const HEAD: usize = 6;

fn outputs_text(outputs: &[OutputReport]) -> String {
    let mut text = String::new();
    for output in outputs {
        let head: Vec<String> = output.data.iter().take(HEAD).map(|x| format!("{x:.6}")).collect();
        let more = if HEAD < output.data.len() { ", …" } else { "" };
        let _ = writeln!(text, "{} {:?}  {}{more}", output.name, output.shape, head.join(", "));
        let _ = writeln!(
            text,
            "  min {:.6}, max {:.6}, mean {:.6}, sha256 {}",
            output.min, output.max, output.mean, output.sha256
        );
    }
    text
}
