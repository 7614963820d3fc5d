//! The expression language of the data files: shapes, counts, conditions and computed values.
//!
//! ```text
//! or       ::= and { "or" and }
//! and      ::= not { "and" not }
//! not      ::= "not" not | compare
//! compare  ::= sum [ ("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not" "in") sum ]
//! sum      ::= product { ("+" | "-") product }
//! product  ::= power { ("*" | "/" | "%") power }
//! power    ::= unary [ "^" power ]
//! unary    ::= "-" unary | primary
//! primary  ::= number | name | 'word' | "true" | "false" | "null"
//!            | "(" or ")" | "[" [ or { "," or } ] "]" | function "(" or { "," or } ")"
//! function ::= "ceil_div" | "min" | "max" | "if" | "sqrt" | "ln" | "round_bf16" | "len" | "at" | "find"
//!            | "next" | "common" | "range" | "without" | "where" | "marks" | "unroll" | "letters" | "integers"
//!            | "put"
//! ```
//!
//! Names may have dots. `/` of two integers must divide exactly. `^` and everything it touches
//! is a float. There are no loops and no functions of the user's.

mod eval;
mod node;
mod parse;
mod value;

use self::eval::eval;
use self::node::Node;
use self::parse::{Parser, tokens};
use crate::package::Value;

pub use self::eval::Names;
pub use self::value::{as_float, as_int, same};

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// The text it was parsed from.
    pub text: String,
    node: Node,
}

impl Expr {
    /// Parses an expression.
    ///
    /// # Errors
    /// The text does not keep the grammar; the message says where.
    pub fn parse(text: &str) -> Result<Expr, String> {
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens: &tokens, depth: 0 };
        let node = parser.or()?;
        match parser.tokens.first() {
            None => Ok(Expr { text: text.to_owned(), node }),
            Some(token) => Err(format!("`{text}`: {token:?} stands where the end should be")),
        }
    }

    /// The value of the expression under the given names.
    ///
    /// # Errors
    /// A name has no value, types do not fit, a division has a remainder, or a number overflows.
    pub fn eval(&self, names: &dyn Names) -> Result<Value, String> {
        eval(&self.node, names).map_err(|why| format!("`{}`: {why}", self.text))
    }

    /// The value as a size.
    ///
    /// # Errors
    /// As [`Expr::eval`], or the value is no integer of at least 0.
    pub fn eval_size(&self, names: &dyn Names) -> Result<u64, String> {
        let value = self.eval(names)?;
        as_int(&value)
            .and_then(|int| u64::try_from(int).ok())
            .ok_or_else(|| format!("`{}` is {value}, which is no size", self.text))
    }

    /// The value as a condition.
    ///
    /// # Errors
    /// As [`Expr::eval`], or the value is neither true nor false.
    pub fn eval_bool(&self, names: &dyn Names) -> Result<bool, String> {
        match self.eval(names)? {
            Value::Bool(value) => Ok(value),
            value => Err(format!("`{}` is {value}, neither true nor false", self.text)),
        }
    }

    /// Every name the expression reads.
    pub fn names(&self) -> Vec<&str> {
        fn walk<'a>(node: &'a Node, names: &mut Vec<&'a str>) {
            match node {
                Node::Literal(_) => {}
                Node::Name(name) => names.push(name),
                Node::Not(inner) | Node::Negate(inner) => walk(inner, names),
                Node::Binary(_, left, right) => {
                    walk(left, names);
                    walk(right, names);
                }
                Node::List(items) | Node::Call(_, items) => {
                    items.iter().for_each(|item| walk(item, names));
                }
            }
        }
        let mut names = Vec::new();
        walk(&self.node, &mut names);
        names
    }
}

impl serde::Serialize for Expr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl schemars::JsonSchema for Expr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Expr".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let about = "An expression, in the language of expressions.md.";
        schemars::json_schema!({"type": ["string", "integer", "number"], "description": about})
    }
}

#[cfg(test)]
mod tests;
