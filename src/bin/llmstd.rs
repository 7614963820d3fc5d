//! The program `llmstd`.

use std::process::ExitCode;

#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    llmstd::cli::main(std::env::args_os()).into()
}
