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
//!            | "next" | "common" | "range" | "without" | "where" | "marks" | "unroll"
//! ```
//!
//! Names may have dots. `/` of two integers must divide exactly. `^` and everything it touches
//! is a float. There are no loops and no functions of the user's.

use crate::base::limits::{MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_TOKENS, MAX_LIST};
use crate::package::Value;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// The text it was parsed from.
    pub text: String,
    node: Node,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Literal(Value),
    Name(String),
    List(Vec<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(&'static str, Box<Node>, Box<Node>),
    Call(&'static str, Vec<Node>),
}

/// Gives the values of names.
pub trait Names {
    /// The value of `name`, or why it has none.
    ///
    /// # Errors
    /// There is no such name, or its value cannot be had.
    fn value(&self, name: &str) -> Result<Value, String>;
}

impl<F: Fn(&str) -> Result<Value, String>> Names for F {
    fn value(&self, name: &str) -> Result<Value, String> {
        self(name)
    }
}

const FUNCTIONS: &[(&str, usize)] = &[
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
];

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

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => {
                // The shortest text that reads back as the same number, as JSON has it.
                f.write_str(&serde_json::to_string(value).unwrap_or_default())
            }
            Value::Symbol(value) => write!(f, "{value:?}"),
            Value::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{item}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// The value as an integer, if it is one; `3.0` is.
pub fn as_int(value: &Value) -> Option<i64> {
    match *value {
        Value::Int(int) => Some(int),
        // 2^53: beyond it a float no longer says which integer it is.
        Value::Float(float) if float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0 => {
            Some(float as i64)
        }
        _ => None,
    }
}

/// The value as a float, if it is a number.
pub fn as_float(value: &Value) -> Option<f64> {
    match *value {
        Value::Int(int) => Some(int as f64),
        Value::Float(float) => Some(float),
        _ => None,
    }
}

/// Whether two values are the same; `1` and `1.0` are. Two integers are compared as such.
pub fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => left == right,
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(a, b)| same(a, b))
        }
        _ => match (as_float(left), as_float(right)) {
            (Some(left), Some(right)) => left == right,
            _ => left == right,
        },
    }
}

fn eval(node: &Node, names: &dyn Names) -> Result<Value, String> {
    Ok(match node {
        Node::Literal(value) => value.clone(),
        Node::Name(name) => names.value(name)?,
        Node::List(items) => {
            Value::List(items.iter().map(|item| eval(item, names)).collect::<Result<_, _>>()?)
        }
        Node::Not(inner) => Value::Bool(!truth(&eval(inner, names)?)?),
        Node::Negate(inner) => match eval(inner, names)? {
            Value::Int(int) => Value::Int(int.checked_neg().ok_or("overflow")?),
            Value::Float(float) => Value::Float(-float),
            value => return Err(format!("{value} has no negative")),
        },
        Node::Binary("and", left, right) => {
            Value::Bool(truth(&eval(left, names)?)? && truth(&eval(right, names)?)?)
        }
        Node::Binary("or", left, right) => {
            Value::Bool(truth(&eval(left, names)?)? || truth(&eval(right, names)?)?)
        }
        Node::Binary(op, left, right) => binary(op, &eval(left, names)?, &eval(right, names)?)?,
        Node::Call("if", args) => {
            let chosen = if truth(&eval(&args[0], names)?)? { &args[1] } else { &args[2] };
            eval(chosen, names)?
        }
        Node::Call(function, args) => {
            let args = args.iter().map(|arg| eval(arg, names)).collect::<Result<Vec<_>, _>>()?;
            call(function, &args)?
        }
    })
}

fn truth(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(value) => Ok(*value),
        // An absent switch of a foreign config is off.
        Value::Null => Ok(false),
        value => Err(format!("{value} is neither true nor false")),
    }
}

fn binary(op: &str, left: &Value, right: &Value) -> Result<Value, String> {
    let type_error = || format!("{left} {op} {right} has no meaning");
    match op {
        "==" => return Ok(Value::Bool(same(left, right))),
        "!=" => return Ok(Value::Bool(!same(left, right))),
        "in" | "not in" => {
            let Value::List(items) = right else { return Err(type_error()) };
            return Ok(Value::Bool(items.iter().any(|item| same(left, item)) == (op == "in")));
        }
        _ => {}
    }
    if let (Value::Int(a), Value::Int(b)) = (left, right) {
        let (a, b) = (*a, *b);
        let overflow = || format!("{a} {op} {b} overflows");
        return Ok(match op {
            "+" => Value::Int(a.checked_add(b).ok_or_else(overflow)?),
            "-" => Value::Int(a.checked_sub(b).ok_or_else(overflow)?),
            "*" => Value::Int(a.checked_mul(b).ok_or_else(overflow)?),
            "/" => match (a.checked_div(b), a.checked_rem(b)) {
                (Some(quotient), Some(0)) => Value::Int(quotient),
                (Some(_), _) => return Err(format!("{a} is not divisible by {b}")),
                (None, _) => return Err(format!("{a} / {b} has no value")),
            },
            "%" => Value::Int(a.checked_rem_euclid(b).ok_or_else(&type_error)?),
            "^" => Value::Float(power(a as f64, b as f64)),
            "<" => Value::Bool(a < b),
            "<=" => Value::Bool(a <= b),
            ">" => Value::Bool(b < a),
            _ => Value::Bool(b <= a),
        });
    }
    let (a, b) = as_float(left).zip(as_float(right)).ok_or_else(type_error)?;
    Ok(match op {
        "+" => Value::Float(a + b),
        "-" => Value::Float(a - b),
        "*" => Value::Float(a * b),
        "/" => Value::Float(a / b),
        "%" => Value::Float(a.rem_euclid(b)),
        "^" => Value::Float(power(a, b)),
        "<" => Value::Bool(a < b),
        "<=" => Value::Bool(a <= b),
        ">" => Value::Bool(b < a),
        _ => Value::Bool(b <= a),
    })
}

/// Powers have one value on every machine: square roots and products are exact to the last bit
/// everywhere, and what no standard rounds alike is rounded to F32.
fn power(base: f64, exponent: f64) -> f64 {
    let product = |n: u32| (0..n).fold(1.0, |product, _| product * base);
    if exponent == 0.5 {
        base.sqrt()
    } else if exponent == -0.5 {
        1.0 / base.sqrt()
    } else if exponent.fract() == 0.0 && exponent.abs() <= MAX_INTEGER_POWER {
        let n = exponent.abs() as u32;
        if exponent < 0.0 { 1.0 / product(n) } else { product(n) }
    } else {
        round_f32(libm::pow(base, exponent))
    }
}

/// Powers with integer exponents up to this are products.
const MAX_INTEGER_POWER: f64 = 64.0;

/// The nearest F32: what libraries compute alike of logarithms and powers.
fn round_f32(x: f64) -> f64 {
    f64::from(x as f32)
}

fn call(function: &str, args: &[Value]) -> Result<Value, String> {
    let type_error = || {
        let args: Vec<_> = args.iter().map(Value::to_string).collect();
        format!("{function}({}) has no value", args.join(", "))
    };
    match (function, args) {
        ("ceil_div", [a, b]) => {
            let (a, b) = as_int(a).zip(as_int(b)).ok_or_else(type_error)?;
            if a < 0 || b <= 0 {
                return Err(type_error());
            }
            Ok(Value::Int(a / b + i64::from(a % b != 0)))
        }
        ("min" | "max", [a, b]) => {
            let ordered = match (a, b) {
                (Value::Int(a), Value::Int(b)) => a <= b,
                _ => as_float(a).zip(as_float(b)).map(|(a, b)| a <= b).ok_or_else(type_error)?,
            };
            Ok(if ordered == (function == "min") { a.clone() } else { b.clone() })
        }
        ("sqrt", [x]) => Ok(Value::Float(as_float(x).ok_or_else(type_error)?.sqrt())),
        ("round_bf16", [x]) => {
            let x = as_float(x).ok_or_else(type_error)?;
            Ok(Value::Float(half::bf16::from_f64(x).to_f64()))
        }
        ("ln", [x]) => {
            let x = as_float(x).filter(|x| 0.0 < *x).ok_or_else(type_error)?;
            Ok(Value::Float(round_f32(libm::log(x))))
        }
        // From the first to before the second, in steps of the third.
        ("range", [from, to, step]) => {
            let (from, to) = as_int(from).zip(as_int(to)).ok_or_else(type_error)?;
            let step = as_int(step).filter(|step| 0 < *step).ok_or_else(type_error)?;
            if from < 0 || (MAX_LIST as i64) < to {
                return Err(type_error());
            }
            let step = usize::try_from(step).map_err(|_| type_error())?;
            Ok(Value::List((from..to).step_by(step).map(Value::Int).collect()))
        }
        // The one value of a list, or what is no list.
        ("common", [Value::List(items)]) => match items.as_slice() {
            [first, rest @ ..] if rest.iter().all(|item| same(item, first)) => Ok(first.clone()),
            _ => Err(type_error()),
        },
        ("common", [value]) => Ok(value.clone()),
        // The entries of the first list that are not in the second.
        ("without", [Value::List(items), Value::List(out)]) => {
            let kept = items.iter().filter(|item| !out.iter().any(|other| same(item, other)));
            Ok(Value::List(kept.cloned().collect()))
        }
        // The places of a value.
        ("where", [Value::List(items), wanted]) => {
            let places = items.iter().enumerate().filter(|(_, item)| same(item, wanted));
            Ok(Value::List(places.map(|(place, _)| Value::Int(place as i64)).collect()))
        }
        ("len", [Value::List(items)]) => Ok(Value::Int(items.len() as i64)),
        ("at", [Value::List(items), index]) => as_int(index)
            .and_then(|index| items.get(usize::try_from(index).ok()?))
            .cloned()
            .ok_or_else(type_error),
        // The first place of a value from an index on; the length where there is none.
        ("next", [Value::List(items), wanted, from]) => {
            let from = as_int(from).and_then(|from| usize::try_from(from).ok());
            let from = from.ok_or_else(type_error)?;
            let place = items.iter().skip(from).position(|item| same(item, wanted));
            Ok(Value::Int(place.map_or(items.len(), |place| place + from) as i64))
        }
        ("find", [Value::List(items), wanted]) => items
            .iter()
            .position(|item| same(item, wanted))
            .map(|index| Value::Int(index as i64))
            .ok_or_else(type_error),
        // The inverse of `where`: so many entries, the third at these places and the fourth at the others.
        ("marks", [count, Value::List(places), there, elsewhere]) => {
            let count = as_int(count)
                .filter(|count| usize::try_from(*count).is_ok_and(|count| count <= MAX_LIST));
            let marked = |place: i64| places.iter().any(|item| as_int(item) == Some(place));
            let entry = |place| if marked(place) { there.clone() } else { elsewhere.clone() };
            Ok(Value::List((0..count.ok_or_else(type_error)?).map(entry).collect()))
        }
        // Pairs of a list and of how often it comes, laid one behind the other.
        ("unroll", [Value::List(pairs)]) => {
            let mut items = Vec::new();
            for pair in pairs {
                let Value::List(pair) = pair else { return Err(type_error()) };
                let [Value::List(part), times] = pair.as_slice() else { return Err(type_error()) };
                let times = as_int(times).and_then(|times| usize::try_from(times).ok());
                // A config may claim any number.
                let room = MAX_LIST - items.len();
                let fits =
                    |times: &usize| *times <= room && times.saturating_mul(part.len()) <= room;
                let times = times.filter(fits).ok_or_else(type_error)?;
                items.extend(std::iter::repeat_n(part, times).flatten().cloned());
            }
            Ok(Value::List(items))
        }
        _ => Err(type_error()),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Number(Value),
    Name(String),
    Word(String),
    Sign(&'static str),
}

const SIGNS: &[&str] =
    &["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "^", "(", ")", "[", "]", ","];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = if first == '\'' {
            let end = rest[1..].find('\'').ok_or_else(|| format!("`{text}`: a word has no end"))?;
            tokens.push(Token::Word(rest[1..=end].to_owned()));
            end + 2
        } else if first.is_ascii_digit() {
            let mut len =
                rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let exponent = rest[len..].strip_prefix(['e', 'E']).map(|tail| {
                let sign = usize::from(tail.starts_with(['-', '+']));
                let digits = tail[sign..].find(|c: char| !c.is_ascii_digit());
                1 + sign + digits.unwrap_or(tail.len() - sign)
            });
            len += exponent.unwrap_or(0);
            let digits = &rest[..len];
            let number = match digits.parse::<i64>() {
                Ok(int) => Value::Int(int),
                Err(_) => Value::Float(
                    digits.parse().map_err(|_| format!("`{text}`: {digits} is no number"))?,
                ),
            };
            tokens.push(Token::Number(number));
            len
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.');
            let len = end.unwrap_or(rest.len());
            tokens.push(Token::Name(rest[..len].to_owned()));
            len
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| format!("`{text}`: {first:?} has no meaning"))?;
            tokens.push(Token::Sign(sign));
            sign.len()
        };
        if MAX_EXPRESSION_TOKENS < tokens.len() {
            return Err(format!(
                "the expression has more than {MAX_EXPRESSION_TOKENS} words and signs"
            ));
        }
        rest = rest[len..].trim_start();
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl Parser<'_> {
    fn next_is(&mut self, wanted: &Token) -> bool {
        let is = self.tokens.first() == Some(wanted);
        if is {
            self.tokens = &self.tokens[1..];
        }
        is
    }

    fn sign(&mut self, sign: &'static str) -> bool {
        self.next_is(&Token::Sign(sign))
    }

    fn keyword(&mut self, word: &str) -> bool {
        self.next_is(&Token::Name(word.to_owned()))
    }

    /// Parses what lies one level deeper. Everything that calls itself goes through here.
    fn nested(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<Node, String>,
    ) -> Result<Node, String> {
        self.depth += 1;
        if MAX_EXPRESSION_DEPTH < self.depth {
            return Err(format!("the expression nests deeper than {MAX_EXPRESSION_DEPTH} levels"));
        }
        let node = parse(self)?;
        self.depth -= 1;
        Ok(node)
    }

    fn or(&mut self) -> Result<Node, String> {
        self.nested(|parser| {
            let mut left = parser.and()?;
            while parser.keyword("or") {
                left = Node::Binary("or", Box::new(left), Box::new(parser.and()?));
            }
            Ok(left)
        })
    }

    fn and(&mut self) -> Result<Node, String> {
        let mut left = self.not()?;
        while self.keyword("and") {
            left = Node::Binary("and", Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Node, String> {
        if self.keyword("not") {
            return Ok(Node::Not(Box::new(self.nested(Parser::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Node, String> {
        let left = self.sum()?;
        let sign = ["==", "!=", "<=", ">=", "<", ">"].into_iter().find(|sign| self.sign(sign));
        let op = match sign {
            Some(sign) => sign,
            None if self.keyword("in") => "in",
            None if self.tokens.get(1) == Some(&Token::Name("in".to_owned()))
                && self.keyword("not") =>
            {
                self.tokens = &self.tokens[1..];
                "not in"
            }
            None => return Ok(left),
        };
        Ok(Node::Binary(op, Box::new(left), Box::new(self.sum()?)))
    }

    fn sum(&mut self) -> Result<Node, String> {
        let mut left = self.product()?;
        while let Some(op) = ["+", "-"].into_iter().find(|op| self.sign(op)) {
            left = Node::Binary(op, Box::new(left), Box::new(self.product()?));
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<Node, String> {
        let mut left = self.power()?;
        while let Some(op) = ["*", "/", "%"].into_iter().find(|op| self.sign(op)) {
            left = Node::Binary(op, Box::new(left), Box::new(self.power()?));
        }
        Ok(left)
    }

    fn power(&mut self) -> Result<Node, String> {
        let left = self.unary()?;
        if self.sign("^") {
            let right = self.nested(Parser::power)?;
            return Ok(Node::Binary("^", Box::new(left), Box::new(right)));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, String> {
        if self.sign("-") {
            return Ok(Node::Negate(Box::new(self.nested(Parser::unary)?)));
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Node, String> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return Err("the expression ends too early".to_owned());
        };
        self.tokens = rest;
        match token {
            Token::Number(value) => Ok(Node::Literal(value.clone())),
            Token::Word(word) => Ok(Node::Literal(Value::Symbol(word.clone()))),
            Token::Sign("(") => {
                let inner = self.or()?;
                if self.sign(")") { Ok(inner) } else { Err("a `)` is missing".to_owned()) }
            }
            Token::Sign("[") => Ok(Node::List(self.list("]")?)),
            Token::Sign(sign) => Err(format!("`{sign}` stands where a value should be")),
            Token::Name(name) => match name.as_str() {
                "true" => Ok(Node::Literal(Value::Bool(true))),
                "false" => Ok(Node::Literal(Value::Bool(false))),
                "null" => Ok(Node::Literal(Value::Null)),
                _ if self.sign("(") => {
                    let function = FUNCTIONS.iter().find(|(known, _)| known == name);
                    let (function, arity) =
                        function.ok_or_else(|| format!("there is no function `{name}`"))?;
                    let args = self.list(")")?;
                    if args.len() != *arity {
                        return Err(format!("`{name}` takes {arity} values, not {}", args.len()));
                    }
                    Ok(Node::Call(function, args))
                }
                _ => Ok(Node::Name(name.clone())),
            },
        }
    }

    fn list(&mut self, end: &'static str) -> Result<Vec<Node>, String> {
        let mut items = Vec::new();
        if self.sign(end) {
            return Ok(items);
        }
        loop {
            items.push(self.or()?);
            if self.sign(end) {
                return Ok(items);
            }
            if !self.sign(",") {
                return Err(format!("a `,` or `{end}` is missing"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let names = |name: &str| match name {
            "heads" => Ok(Value::Int(6)),
            "kv.heads" => Ok(Value::Int(2)),
            "d" => Ok(Value::Int(8)),
            "kind" => Ok(Value::Symbol("rope".to_owned())),
            "off" => Ok(Value::Null),
            "list" => Ok(Value::List(vec![Value::Int(1), Value::Int(3)])),
            _ => Err(format!("there is no `{name}`")),
        };
        let actual = match Expr::parse(text).and_then(|expr| expr.eval(&names)) {
            Ok(value) => value.to_string(),
            Err(why) => format!("error: {why}"),
        };
        assert_eq!(actual, expected, "{text}");
    }

    #[test]
    fn sums_and_products_bind_as_in_school() {
        check("heads*d + 2*kv.heads - 1", "51");
        check("(heads + kv.heads) * d", "64");
        check("-2 + 5", "3");
        check("2^3^0", "2.0");
        check("d^-0.5", "0.35355339059327373");
    }

    #[test]
    fn next_looks_from_an_index_on_and_ends_at_the_length() {
        check("next(list, 3, 0)", "1");
        check("next(list, 1, 1)", "2");
        check("next(list, 1, 7)", "2");
        check("next(list, 1, -1)", "error: `next(list, 1, -1)`: next([1, 3], 1, -1) has no value");
    }

    #[test]
    fn integers_divide_exactly_or_not_at_all() {
        check("heads / kv.heads", "3");
        check("d / heads", "error: `d / heads`: 8 is not divisible by 6");
        check("ceil_div(d, 3)", "3");
        check("7 % 4", "3");
        check(
            "9223372036854775807 + 1",
            "error: `9223372036854775807 + 1`: 9223372036854775807 + 1 overflows",
        );
    }

    #[test]
    fn conditions() {
        check("kind == 'rope' and not (heads < 6)", "true");
        check("3 in list or false", "true");
        check("2 not in list", "true");
        check("off == null", "true");
        check("off and missing", "false");
        check("if(heads > 5, 'many', 'few')", "\"many\"");
        check("1 == 1.0", "true");
    }

    #[test]
    fn lists_of_layers() {
        check("range(1, 8, 3)", "[1, 4, 7]");
        check("range(3, 2, 1)", "[]");
        check("without(range(0, 5, 1), [3, 0, 9])", "[1, 2, 4]");
        check("where(['full', 'ssm', 'full'], 'full')", "[0, 2]");
    }

    #[test]
    fn places_of_a_list_and_back() {
        check("marks(3, [0, 2], 0, 1)", "[0, 1, 0]");
        check("where(marks(4, [1, 3], 0, 1), 0)", "[1, 3]");
        check(
            "marks(-1, [], 0, 1)",
            "error: `marks(-1, [], 0, 1)`: marks(-1, [], 0, 1) has no value",
        );
    }

    #[test]
    fn lists() {
        check("find(list, 3)", "1");
        check("where([5, 3, 5.0], 5)", "[0, 2]");
        check("where(list, 7)", "[]");
        check("unroll([[['a', 'b'], 2], [['c'], 1]])", r#"["a", "b", "a", "b", "c"]"#);
        check("len(unroll([[[], 9]]))", "0");
        check(
            "unroll([[[1], 4097]])",
            "error: `unroll([[[1], 4097]])`: unroll([[[1], 4097]]) has no value",
        );
        check("unroll([1])", "error: `unroll([1])`: unroll([1]) has no value");
    }

    #[test]
    fn depth_is_counted_whatever_makes_it() {
        let deep = "error: the expression nests deeper than 64 levels";
        for n in [100, 900] {
            check(&format!("{}1", "-".repeat(n)), deep);
            check(&format!("{}true", "not ".repeat(n)), deep);
            check(&format!("{}1", "(".repeat(n)), deep);
            check(&format!("{}1", "[".repeat(n)), deep);
        }
        check(&format!("{}1", "2^".repeat(100)), deep);
        check(&format!("{}1{}", "len(".repeat(100), ")".repeat(100)), deep);
        check(&format!("{}1", "-(not ".repeat(100)), deep);
        let long = "error: the expression has more than 1000 words and signs";
        for link in ["-", "not ", "2^", "(", "[", "1 + ", "2 * ", "true or ", "true and "] {
            check(&format!("{}1", link.repeat(1_000_000)), long);
        }
        check(&format!("{}5", "-".repeat(62)), "5");
        check(&format!("{}7{}", "(".repeat(60), ")".repeat(60)), "7");
        check(&format!("1{}", " + 1".repeat(499)), "500");
    }

    #[test]
    fn a_list_is_no_longer_than_a_model_has_layers() {
        check("len(range(0, 4096, 1))", "4096");
        check("range(0, 4097, 1)", "error: `range(0, 4097, 1)`: range(0, 4097, 1) has no value");
        check(
            "marks(4611686018427387904, [], 0, 1)",
            "error: `marks(4611686018427387904, [], 0, 1)`: \
             marks(4611686018427387904, [], 0, 1) has no value",
        );
    }

    #[test]
    fn errors_say_what_is_wrong() {
        check("missing + 1", "error: `missing + 1`: there is no `missing`");
        check("1 +", "error: the expression ends too early");
        check("f(1)", "error: there is no function `f`");
        check("min(1)", "error: `min` takes 2 values, not 1");
        check("1 2", "error: `1 2`: Number(Int(2)) stands where the end should be");
    }
}
