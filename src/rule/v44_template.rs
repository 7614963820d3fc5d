//! V441 to V447: chat templates.

use std::collections::BTreeSet;

use super::template::{Parts, Template};
use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::Conformance;
use crate::rule::{Checked, NotChecked, PackageView, Rule};

/// A template does not parse.
pub(super) static SYNTAX: Rule = Rule::around(
    "V441",
    "template-syntax",
    Level::Warning,
    |view, found| {
        for template in templates(view)? {
            if let Err((why, line)) = &template.parsed {
                let line = line.map(|line| format!(", on line {line}")).unwrap_or_default();
                found.push(
                    about(
                        &SYNTAX,
                        template,
                        format!("{} does not parse{line}: {why}", template.title()),
                    )
                    .help("programs whose templates are not those of Python's Jinja refuse it; if Jinja does too, no chat can be put into text"),
                );
            }
        }
        Ok(())
    },
);

/// A template reaches for what leads out of it.
pub(super) static UNSAFE: Rule = Rule {
    level: Conformance::Container,
    ..Rule::around("V442", "template-unsafe", Level::Error, |view, found| {
        let mut is_whole = true;
        for template in templates(view)? {
            let way = |text: &str| WAYS_OUT.iter().find(|way| text.contains(**way)).copied();
            let reached = match &template.parsed {
                Ok(parts) => {
                    let hidden = parts.attributes.iter().find(|(name, _)| is_hidden(name));
                    let named = hidden.map(|(name, line)| format!("`{name}` on line {line}"));
                    // What is put together of parts, and reached for with `attr`.
                    let by_text = || {
                        let found = parts.constants.iter().find_map(|text| way(text))?;
                        Some(format!("`{found}`"))
                    };
                    let computed = || {
                        let line = parts.computed?;
                        Some(format!("something whose name it puts together on line {line}"))
                    };
                    named.or_else(by_text).or_else(computed)
                }
                Err(_) => {
                    is_whole = false;
                    way(&template.text).map(|found| format!("`{found}`"))
                }
            };
            if let Some(reached) = reached {
                let message = format!("{} reaches for {reached}", template.title());
                found.push(about(&UNSAFE, template, message).help(
                    "it leads out of the template and to any program: do not use the template, and \
                     tell who published it",
                ));
            }
        }
        if is_whole || !found.is_empty() {
            return Ok(());
        }
        Err(NotChecked::Blocked("a chat template does not parse"))
    })
};

/// What leads from any value to the program that runs the template.
const WAYS_OUT: &[&str] = &[
    "__class__",
    "__globals__",
    "__subclasses__",
    "__builtins__",
    "__import__",
    "__mro__",
    "__base__",
    "__init__",
    "__getattribute__",
];

/// Whether an attribute is one that Jinja's sandbox refuses.
fn is_hidden(name: &str) -> bool {
    const OF_FUNCTIONS: &[&str] = &[
        "mro",
        "func_globals",
        "func_code",
        "func_closure",
        "func_defaults",
        "im_class",
        "im_func",
        "im_self",
        "gi_frame",
        "gi_code",
        "cr_frame",
        "cr_code",
        "ag_frame",
        "ag_code",
        "f_globals",
        "f_builtins",
        "f_locals",
        "tb_frame",
        "co_code",
    ];
    (name.starts_with("__") && name.ends_with("__") && 4 < name.len())
        || OF_FUNCTIONS.contains(&name)
}

/// A template writes a marker that is no token.
pub(super) static MARKER: Rule = Rule::around(
    "V443",
    "template-marker",
    Level::Warning,
    |view, found| {
        let tokenizer = super::v42_tokenizer::tokenizer(view)?;
        let tokens: BTreeSet<&str> = super::v42_tokenizer::ids_of(tokenizer).into_keys().collect();
        let config = view.python_json("tokenizer_config.json").unwrap_or_default();
        each(view, |template, parts| {
            let mut marks: BTreeSet<String> = BTreeSet::new();
            parts.texts.iter().for_each(|text| markers(text, &mut marks));
            let is_token = |mark: &&String| {
                tokens.contains(mark.as_str()) || super::v42_tokenizer::is_added(&config, mark)
            };
            let (known, unknown): (Vec<&String>, Vec<&String>) = marks.iter().partition(is_token);
            let Some(first) = unknown.first() else { return };
            let listed: Vec<&str> = unknown.iter().map(|mark| mark.as_str()).collect();
            // Where none is a token, the model may have been trained so.
            let level = if known.is_empty() { Level::Note } else { Level::Warning };
            let message = format!(
                "{} writes {}, which the tokenizer splits into pieces",
                template.title(),
                listed.join(", ")
            );
            found.push(
                Diagnostic { level, ..about(&MARKER, template, message) }
                    .mismatch("a token", format!("{first:?}"))
                    .help("if the model was trained with the marker as one token, the tokenizer lacks it: take both of one source"),
            );
        })
    },
);

/// A template writes a special token that the tokenizer does not name.
pub(super) static UNSET: Rule = Rule::around(
    "V444",
    "template-token-unset",
    Level::Warning,
    |view, found| {
        let Some(config) = view.python_json("tokenizer_config.json") else {
            return Err(NotChecked::NotApplicable("there is no tokenizer_config.json"));
        };
        let special = view.python_json("special_tokens_map.json").unwrap_or_default();
        let is_set = |key: &str| {
            [&config, &special]
                .iter()
                .any(|json| json.get(key).is_some_and(|token| !token.is_null()))
        };
        // Classes of tokenizers have tokens of their own that need not be stated.
        if !["bos_token", "eos_token", "unk_token"].into_iter().any(is_set) {
            return Err(NotChecked::NotApplicable("no file names special tokens"));
        }
        each(view, |template, parts| {
            for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
                let Some(line) = parts.variables.get(key) else { continue };
                if parts.guarded.contains(key) || is_set(key) {
                    continue;
                }
                found.push(
                    about(
                        &UNSET,
                        template,
                        format!("{} writes `{key}` on line {line}, which the tokenizer does not have", template.title()),
                    )
                    .mismatch("a token", "none")
                    .help("the chat fails, or begins or ends with nothing: name the token, or take it out of the template"),
                );
            }
        })
    },
);

/// Two files have two templates.
pub(super) static TWO: Rule = Rule::around(
    "V445",
    "templates-disagree",
    Level::Warning,
    |view, found| {
        let plain: Vec<&Template> = templates(view)?
            .iter()
            .filter(|template| {
                let is_default = template.name.as_deref().is_none_or(|name| name == "default");
                is_default
                    && !template.file.contains('/')
                    && (template.key.is_some() || template.file == "chat_template.jinja")
            })
            .collect();
        let Some((first, rest)) = plain.split_first() else { return Ok(()) };
        for other in rest.iter().filter(|other| other.text.trim() != first.text.trim()) {
            found.push(
                about(
                    &TWO,
                    other,
                    format!("{} is another one than {}", other.title(), first.title()),
                )
                .help("programs and their versions differ in which of the two they take: make them one"),
            );
        }
        Ok(())
    },
);

/// A template uses a filter or test that no program has.
pub(super) static FILTER: Rule =
    Rule::around("V446", "template-filter", Level::Warning, |view, found| {
        each(view, |template, parts| {
            let filters =
                parts.filters.iter().filter(|(name, _)| !FILTERS.contains(&name.as_str()));
            let tests = parts.tests.iter().filter(|(name, _)| !TESTS.contains(&name.as_str()));
            let unknown = filters
                .map(|use_of| ("filter", use_of))
                .chain(tests.map(|use_of| ("test", use_of)));
            for (kind, (name, line)) in unknown {
                found.push(
                    about(
                        &FILTER,
                        template,
                        format!(
                            "{} uses the {kind} `{name}` on line {line}, which Jinja does not have",
                            template.title()
                        ),
                    )
                    .help("programs refuse the template: write it without"),
                );
            }
            if let Some(line) = parts.loads {
                found.push(
                    about(
                        &FILTER,
                        template,
                        format!("{} loads another template on line {line}", template.title()),
                    )
                    .help("a chat template stands alone: programs refuse it"),
                );
            }
        })
    });

/// The filters of Jinja 3.1.
const FILTERS: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// The tests of Jinja 3.1.
const TESTS: &[&str] = &[
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Several templates, and none that is taken without a name.
pub(super) static DEFAULT: Rule =
    Rule::around("V447", "template-default", Level::Warning, |view, found| {
        let named: Vec<&Template> =
            templates(view)?.iter().filter(|template| template.name.is_some()).collect();
        let has_default = templates(view)?
            .iter()
            .any(|template| template.name.as_deref().is_none_or(|name| name == "default"));
        if let Some(first) = named.first().filter(|_| !has_default) {
            let names: Vec<&str> =
                named.iter().filter_map(|template| template.name.as_deref()).collect();
            found.push(
                about(
                    &DEFAULT,
                    first,
                    format!("there are the chat templates {}, and no default", names.join(", ")),
                )
                .help("programs fail unless they are told a name: call one `default`"),
            );
        }
        Ok(())
    });

fn templates<'v>(view: &'v PackageView<'_>) -> Result<&'v [Template], NotChecked> {
    match view.templates() {
        [] => Err(NotChecked::NotApplicable("there is no chat template")),
        templates => Ok(templates),
    }
}

/// Looks at each template that parses.
fn each(view: &PackageView<'_>, mut look: impl FnMut(&Template, &Parts)) -> Checked {
    for template in templates(view)? {
        if let Ok(parts) = &template.parsed {
            look(template, parts);
        }
    }
    Ok(())
}

fn about(rule: &Rule, template: &Template, message: String) -> Diagnostic {
    let finding = rule.finding(message).file(&template.file);
    match (&template.key, &template.name) {
        (Some(key), Some(name)) => finding.key(format!("{key}.{name}")),
        (Some(key), None) => finding.key(key.as_str()),
        _ => finding,
    }
}

/// The markers in a text, `<|end|>`.
fn markers(text: &str, found: &mut BTreeSet<String>) {
    let mut rest = text;
    while let Some(at) = rest.find("<|") {
        let inner = &rest[at + 2..];
        let end = inner.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '▁')));
        match end {
            Some(end) if 0 < end && inner[end..].starts_with("|>") => {
                found.insert(format!("<|{}|>", &inner[..end]));
                rest = &inner[end + 2..];
            }
            _ => rest = inner,
        }
    }
}
