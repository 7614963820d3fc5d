//! Golden command lines: what a user types, and all that is printed. `TRYCMD=overwrite cargo test
//! --test suite cli::` writes the answers anew; read the difference before it is committed.
//!
//! `demo.in` leads to `fixtures/demo`, which each file of commands gets as a copy of its own;
//! `NAME.out` holds files that must be there afterwards.

#[test]
fn command_lines_answer_as_they_did() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}
