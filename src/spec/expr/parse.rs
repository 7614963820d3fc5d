//! From the text of an expression to its tree.

use super::node::{FUNCTIONS, Node};
use crate::base::limits::{MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_TOKENS};
use crate::package::Value;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'t> {
    Number(Value),
    Name(&'t str),
    Word(&'t str),
    Sign(&'static str),
}

const SIGNS: &[&str] =
    &["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "^", "(", ")", "[", "]", ","];

pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = if first == '\'' {
            let end = rest[1..].find('\'').ok_or_else(|| format!("`{text}`: a word has no end"))?;
            tokens.push(Token::Word(&rest[1..=end]));
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
            tokens.push(Token::Name(&rest[..len]));
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

pub(super) struct Parser<'a> {
    pub(super) tokens: &'a [Token<'a>],
    pub(super) depth: usize,
}

impl Parser<'_> {
    /// Whether the next token is this one, which then is taken.
    fn next_is(&mut self, wanted: Token<'static>) -> bool {
        let is = self.tokens.first() == Some(&wanted);
        if is {
            self.tokens = &self.tokens[1..];
        }
        is
    }

    fn sign(&mut self, sign: &'static str) -> bool {
        self.next_is(Token::Sign(sign))
    }

    fn keyword(&mut self, word: &'static str) -> bool {
        self.next_is(Token::Name(word))
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

    pub(super) fn or(&mut self) -> Result<Node, String> {
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
            None if self.tokens.get(1) == Some(&Token::Name("in")) && self.keyword("not") => {
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
            Token::Word(word) => Ok(Node::Literal(Value::Symbol((*word).to_owned()))),
            Token::Sign("(") => {
                let inner = self.or()?;
                if self.sign(")") { Ok(inner) } else { Err("a `)` is missing".to_owned()) }
            }
            Token::Sign("[") => Ok(Node::List(self.list("]")?)),
            Token::Sign(sign) => Err(format!("`{sign}` stands where a value should be")),
            Token::Name(name) => match *name {
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
                _ => Ok(Node::Name((*name).to_owned())),
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
