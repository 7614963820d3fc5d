//! Python pickles, read as data: nothing is imported, called or built.
//!
//! A pickle is a program for a stack machine. This machine runs it into an arena of [`Node`]s
//! that name each other by index. The opcodes that would call into Python (`REDUCE`, `NEWOBJ`,
//! `BUILD`, …) only record what would be called, with what. Nodes may be shared and may form
//! cycles: who walks over them bounds the walk.
//!
//! Spec: `Lib/pickletools.py` and `Modules/_pickle.c` of CPython 3.14, protocols 0 to 5.

mod graph;
mod literal;
mod machine;
mod op;
mod run;
mod sign;
mod value;

pub use self::machine::MAX_LEN;
pub use self::sign::{is_marked, may_be_old};
pub use self::value::{Node, NodeId, Object, Pickle};

#[cfg(test)]
mod tests;
