//! Names with variables: `decoder.layers.{i}.attn.{x=q_proj|k_proj}.{p}`, and with what is computed
//! of them: `decoder.layers.{2 * i + 1}`.

use std::collections::BTreeMap;

use super::expr::Expr;
use crate::base::limits::MAX_ALTERNATIVES;
use crate::package::Value;

/// A name with variables in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The text it was parsed from.
    pub text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(String),
}

/// The values of variables.
pub type Bindings = BTreeMap<String, String>;

impl Template {
    /// Parses a template without alternatives; see [`alternatives`].
    ///
    /// # Errors
    /// A brace has no partner.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let close = rest[open..].find('}').ok_or_else(|| format!("`{text}`: `{{` is open"))?;
            if open != 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            parts.push(Part::Variable(rest[open + 1..open + close].to_owned()));
            rest = &rest[open + close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template { text: text.to_owned(), parts })
    }

    /// The variables, in order.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Whether it has a variable.
    pub fn has(&self, variable: &str) -> bool {
        self.variables().any(|name| name == variable)
    }

    /// The name with every variable replaced.
    ///
    /// # Errors
    /// A variable has no value.
    pub fn fill(&self, bindings: &Bindings) -> Result<String, String> {
        let mut name = String::with_capacity(self.text.len());
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Variable(variable) => match bindings.get(variable) {
                    Some(text) => name.push_str(text),
                    None => name.push_str(
                        &computed(variable, bindings)
                            .map_err(|why| format!("`{}`: {{{variable}}}: {why}", self.text))?,
                    ),
                },
            }
        }
        Ok(name)
    }

    /// The values of the variables that make this template the given name: each variable stands
    /// for one segment between dots.
    pub fn matches(&self, name: &str) -> Option<Bindings> {
        let mut bindings = Bindings::new();
        let mut segments = name.split('.');
        for pattern in self.text.split('.') {
            let segment = segments.next()?;
            match pattern.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
                Some(variable) => {
                    bindings.insert(variable.to_owned(), segment.to_owned());
                }
                None if pattern == segment => {}
                None => return None,
            }
        }
        segments.next().is_none().then_some(bindings)
    }
}

/// The number that an expression of variables gives.
fn computed(text: &str, bindings: &Bindings) -> Result<String, String> {
    let names = |name: &str| {
        let number = bindings.get(name).and_then(|text| text.parse().ok());
        number.map(Value::Int).ok_or_else(|| format!("`{name}` is not bound to a number"))
    };
    Ok(Expr::parse(text)?.eval(&names)?.to_string())
}

/// Writes out `{x=a|b}` and `{p}` (`weight` and `bias`): one text for each choice.
///
/// # Errors
/// There are more than [`MAX_ALTERNATIVES`].
pub fn alternatives(text: &str) -> Result<Vec<String>, String> {
    let text = text.replace("{p}", "{p=weight|bias}");
    let mut all = vec![String::new()];
    let mut rest = text.as_str();
    let choice = |rest: &str| {
        rest.match_indices('{').find_map(|(open, _)| {
            let len = rest[open..].find('}')?;
            rest[open..open + len].contains('=').then_some((open, open + len))
        })
    };
    while let Some((open, close)) = choice(rest) {
        let choices = rest[open + 1..close].split_once('=').map_or("", |(_, choices)| choices);
        let n = all.len().saturating_mul(1 + choices.matches('|').count());
        if MAX_ALTERNATIVES < n {
            return Err(format!("`{text}` stands for more than {MAX_ALTERNATIVES} names"));
        }
        let before = &rest[..open];
        let longer = all.iter().flat_map(|start| {
            choices.split('|').map(move |choice| format!("{start}{before}{choice}"))
        });
        all = longer.collect();
        rest = &rest[close + 1..];
    }
    all.iter_mut().for_each(|name| name.push_str(rest));
    Ok(all)
}

/// [`alternatives`] of several texts.
///
/// # Errors
/// As those.
pub fn all_alternatives(texts: &[String]) -> Result<Vec<String>, String> {
    let all: Result<Vec<Vec<String>>, String> =
        texts.iter().map(|text| alternatives(text)).collect();
    Ok(all?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_multiply() {
        let all = alternatives("l.{i}.{x=q|k}_proj.{p}").unwrap();
        let expected = [
            "l.{i}.q_proj.weight",
            "l.{i}.q_proj.bias",
            "l.{i}.k_proj.weight",
            "l.{i}.k_proj.bias",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn alternatives_are_bounded() {
        assert_eq!(alternatives(&"{x=a|b}".repeat(9)).unwrap().len(), 512);
        assert!(alternatives(&"{x=a|b}".repeat(10)).unwrap_err().contains("more than 1000 names"));
        assert!(alternatives(&"{p}".repeat(100_000)).is_err());
        assert_eq!(alternatives("a.{x=}b{i").unwrap(), ["a.b{i"]);
    }

    #[test]
    fn a_template_matches_what_it_makes() {
        let template = Template::parse("{stack}.layers.{i}.attn.sinks").unwrap();
        let bindings = template.matches("decoder.layers.11.attn.sinks").unwrap();
        assert_eq!(bindings["i"], "11");
        assert_eq!(template.fill(&bindings).unwrap(), "decoder.layers.11.attn.sinks");
        assert!(template.matches("decoder.layers.11.attn.sinks.weight").is_none());
        assert!(template.matches("decoder.layers.11.attn").is_none());
    }
}
