//! A parsed expression as a tree, and the functions that there are.

use crate::package::Value;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Literal(Value),
    Name(String),
    List(Vec<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(&'static str, Box<Node>, Box<Node>),
    Call(&'static str, Vec<Node>),
}

pub(super) const FUNCTIONS: &[(&str, usize)] = &[
    ("ceil_div", 2),
    ("min", 2),
    ("max", 2),
    ("if", 3),
    ("sqrt", 1),
    ("round_bf16", 1),
    ("len", 1),
    ("at", 2),
    ("find", 2),
    ("next", 3),
    ("common", 1),
    ("ln", 1),
    ("range", 3),
    ("without", 2),
    ("where", 2),
    ("marks", 4),
    ("unroll", 1),
    ("letters", 1),
    ("integers", 1),
    ("put", 3),
];
