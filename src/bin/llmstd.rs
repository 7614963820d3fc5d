//! The program `llmstd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    llmstd::cli::main(std::env::args_os()).into()
}
