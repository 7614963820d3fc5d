//! The command line of the LLM Standard.
fn main() {}
