//! The texts of the drafted files.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value as Json;

use super::Guess;
use super::cover::{Cover, Idle};
use crate::plan::{keys, tasks};
use crate::spec::arch::Arch;
use crate::spec::ecosystem::config::MODEL_TYPE;

fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    texts.join(", ")
}

/// The file of the architecture.
pub(super) fn arch(name: &str, parent: &Arch, guesses: &[Guess], idle: &Idle) -> String {
    let templates: BTreeSet<&str> = parent.templates().collect();
    let gone = idle.gone.iter().filter(|name| templates.contains(name.as_str()));
    let gone: Vec<String> = gone.cloned().collect();
    let mut text = format!(
        "# A draft: read every line. What the parent fixes and this family has otherwise goes to `free`\n\
         # (above [arch]) and [fixed].\n\
         [arch]\nid      = {name:?}\nsince   = \"1.0\"\nextends = {:?}\n",
        parent.id
    );
    if !gone.is_empty() {
        let _ = writeln!(text, "without = [{}]", quoted(&gone));
    }
    let _ = writeln!(text, "about   = \"TODO: what sets it apart.\"");
    for guess in guesses {
        let Some(standard) = &guess.standard else { continue };
        if templates.contains(standard.as_str()) || standard.starts_with("heads.") {
            continue;
        }
        let each = if standard.contains("{i}") { "each  = { i = \"num_layers\" }\n" } else { "" };
        let _ = write!(text, "\n[[tensor]]\n{each}names = [{standard:?}]\n");
    }
    text
}

/// The file of the mapping.
pub(super) fn map(
    name: &str,
    cover: &Cover<'_>,
    config: &Json,
    guesses: &[Guess],
    idle: &Idle,
    unread: &[String],
) -> String {
    let map = cover.map;
    let model_type = config.get(MODEL_TYPE).and_then(Json::as_str).unwrap_or(name);
    let stem = |class: &str| class.split("For").next().unwrap_or_default().to_owned();
    let ours = tasks::class(config).map(stem).unwrap_or_default();
    let ours = ours.trim_end_matches("Model").trim_end_matches("LMHead").to_owned();
    let mut text = format!(
        "# A draft from a checkpoint's headers: nothing here is proven before an oracle agrees.\n\
         [map]\nextends    = [{:?}]\narch       = {name:?}\nmatch      = {{ model_type = {model_type:?} }}\n\
         base_class = [\"{ours}Model\"]\nsource     = \"TODO: project, version, file\"\n",
        map.name
    );
    if !map.prefixes.contains(&cover.prefix) {
        let _ = writeln!(text, "prefix     = [{:?}, \"\"]", cover.prefix);
    }
    if !idle.without.is_empty() {
        let _ = writeln!(text, "without    = [{}]", quoted(&idle.without));
    }
    let _ = write!(text, "\n[config]\nmodel_type = {model_type:?}\n");
    for (from, to, count) in &idle.kept {
        let each = count.as_ref().map(|count| format!("each = {{ i = {count:?} }}\n"));
        let each = each.unwrap_or_default();
        let _ = write!(text, "\n[[rule]]\n{each}from = [{from:?}]\nto   = [{to:?}]\n");
    }
    for guess in guesses {
        let Guess { foreign, shape, standard, shape_fits } = guess;
        let each = if foreign.contains("{i}") { "each = { i = \"num_layers\" }\n" } else { "" };
        let sure = match (standard, shape_fits) {
            (None, _) => "no role is like it",
            (Some(_), true) => "a guess by name; the shape fits",
            (Some(_), false) => "a guess by name; the shape does not fit under this config",
        };
        let _ = write!(text, "\n# {sure}: {shape:?}\n");
        let to = standard.as_deref().unwrap_or("TODO");
        let rule = format!("[[rule]]\n{each}from = [{foreign:?}]\nto   = [{to:?}]\n");
        match standard {
            Some(_) => text += &rule,
            None => rule.lines().for_each(|line| text += &format!("# {line}\n")),
        }
    }
    if !unread.is_empty() {
        text += "\n# Entries of the config that nothing reads yet: a key of the standard, or no meaning.\n";
        for path in unread {
            let value = keys::lookup(config, path).map(Json::to_string).unwrap_or_default();
            let _ = writeln!(text, "# {path} = {value}");
        }
    }
    let mut tasks = Vec::new();
    for task in &map.tasks {
        let Some(class) = task.class.first() else { continue };
        let class = format!("{ours}{}", &class[stem(class).len()..]);
        let mut lines = format!("\n[[task]]\nid    = {:?}\n", task.id);
        let words =
            [("head ", &task.head), ("pool ", &task.pool), ("activation", &task.activation)];
        for (key, word) in words {
            let _ = word.iter().try_for_each(|word| writeln!(lines, "{key} = {word:?}"));
        }
        let _ = writeln!(lines, "class = [{class:?}]");
        if !task.needs.is_empty() {
            let _ = writeln!(lines, "needs = [{}]", quoted(&task.needs));
        }
        if let Some(prefix) = &task.prefix {
            let _ = writeln!(lines, "prefix = {prefix:?}");
        }
        if task.labels {
            lines += "labels = true\n";
        }
        for (path, word) in &task.config {
            let _ = writeln!(lines, "config = {{ {path:?} = {word} }}");
        }
        tasks.push(lines);
    }
    if !tasks.is_empty() {
        text += "\n# Classes by the pattern of the parent: take out those that do not exist.\n";
        text += tasks.concat().trim_start();
    }
    text
}

/// `spec.toml` with one more architecture and one more mapping.
pub(super) fn spec(text: &str, format: &str, name: &str) -> String {
    let entry = format!("\n  {name:?},");
    let mut listed = text.to_owned();
    for list in ["architectures = [".to_owned(), format!("\n{format} = [")] {
        if let Some(at) = listed.find(&list) {
            listed.insert_str(at + list.len(), &entry);
        }
    }
    listed
}
