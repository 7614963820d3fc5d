//! `llmstd completions`: the command line with the values of its arguments, for a shell to propose.

use crate::convert;
use crate::encoding::ggml::BLOCK_TYPES;
use crate::spec::Spec;
use clap::builder::PossibleValuesParser;
use clap::{Arg, Command};
use clap_complete::Shell;

/// The text of the completions of a command line.
pub(crate) fn text(command: Command, shell: Shell, spec: &Spec) -> Vec<u8> {
    let mut command = with_values(command, &Values::of(spec));
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "llmstd", &mut text);
    text
}

/// What arguments can be that the command line itself takes as any text.
struct Values {
    archs: Vec<String>,
    dtypes: Vec<String>,
    quants: Vec<String>,
    rules: Vec<String>,
}

impl Values {
    fn of(spec: &Spec) -> Values {
        let quants = BLOCK_TYPES.iter().map(|blocks| blocks.id.trim_start_matches("ggml."));
        Values {
            archs: spec.archs.keys().cloned().collect(),
            dtypes: ["f16", "bf16", "f32", "f64"].map(str::to_owned).to_vec(),
            quants: quants
                .filter(|id| convert::parse_quant(id).is_ok())
                .map(str::to_owned)
                .collect(),
            rules: spec.pages().into_iter().map(|page| page.rule).collect(),
        }
    }

    /// Those of an argument of this id.
    fn of_arg(&self, id: &str) -> Option<&[String]> {
        Some(match id {
            "arch" => &self.archs,
            "dtype" => &self.dtypes,
            "quant" => &self.quants,
            "rule" | "select" | "ignore" => &self.rules,
            _ => return None,
        })
    }
}

fn with_values(command: Command, values: &Values) -> Command {
    let propose = |arg: Arg| match values.of_arg(arg.get_id().as_str()) {
        // A command line keeps its words for as long as the program runs.
        Some(list) => arg.value_parser(PossibleValuesParser::new(
            list.iter().map(|word| &*word.clone().leak()).collect::<Vec<&'static str>>(),
        )),
        None => arg,
    };
    let command = command.mut_args(propose);
    command.mut_subcommands(|command| with_values(command, values))
}
