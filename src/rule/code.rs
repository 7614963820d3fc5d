//! The programs that a config names with `auto_map`, and those that these import. None is run.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::view::PackageView;

/// The file of a class of `auto_map`, `modeling_x.X`, if it is one of this folder.
pub(super) fn module_of(class: &str) -> Option<String> {
    let (module, _) = class.rsplit_once('.').filter(|_| !class.contains("--"))?;
    Some(file_of(module))
}

fn file_of(module: &str) -> String {
    format!("{}.py", module.replace('.', "/"))
}

/// What `auto_map` of each config names, in the order of the file.
pub(super) fn auto_maps(view: &PackageView<'_>) -> Vec<(String, Vec<String>)> {
    const FILES: &[&str] = &[
        "config.json",
        "tokenizer_config.json",
        "processor_config.json",
        "preprocessor_config.json",
    ];
    let listed = FILES.iter().filter(|name| view.around.files.contains_key(**name));
    let maps = listed.filter_map(|name| {
        let config = view.python_json(name)?;
        let mut classes = Vec::new();
        texts(config.get("auto_map")?, &mut classes);
        classes.dedup();
        (!classes.is_empty()).then(|| ((*name).to_owned(), classes))
    });
    maps.collect()
}

/// The texts of an object of texts and lists.
fn texts(json: &Json, found: &mut Vec<String>) {
    match json {
        Json::String(text) => found.push(text.clone()),
        Json::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Json::Object(entries) => entries.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}

/// The files of the folder that the modules `named` import, and those that these do, each with the one
/// that does so first.
pub(super) fn imported(view: &PackageView<'_>, named: &[String]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open: Vec<String> = named.to_vec();
    while let Some(module) = open.pop() {
        let text = view.bytes(&module).map(String::from_utf8_lossy).unwrap_or_default();
        let home = module.rsplit_once('/').map_or("", |(folder, _)| folder);
        for file in text.lines().flat_map(imports).map(|file| within(home, &file)) {
            let is_new = !named.contains(&file) && !found.contains_key(&file);
            if is_new && view.around.files.contains_key(&file) {
                found.insert(file.clone(), module.clone());
                open.push(file);
            }
        }
    }
    found
}

fn within(home: &str, file: &str) -> String {
    if home.is_empty() { file.to_owned() } else { format!("{home}/{file}") }
}

/// The files beside it that a line of Python imports: `from .x import y`, `from . import x, y`.
fn imports(line: &str) -> Vec<String> {
    let Some(rest) = line.trim_start().strip_prefix("from .") else { return Vec::new() };
    let Some((module, names)) = rest.split_once("import") else { return Vec::new() };
    match module.trim() {
        "" => {
            let names = names.split(['#', ')']).next().unwrap_or_default().split(',');
            let names = names.filter_map(|name| name.split_whitespace().next());
            names.map(|name| file_of(name.trim_start_matches('('))).collect()
        }
        // Two dots lead out of the folder that the module is in.
        module if module.starts_with('.') => Vec::new(),
        module => vec![file_of(module)],
    }
}

#[cfg(test)]
mod tests {
    use super::imports;

    #[test]
    fn imports_of_files_beside_a_module_are_read() {
        for (line, files) in [
            ("from .configuration_x import XConfig", &["configuration_x.py"][..]),
            ("    from .ops.norm import rms", &["ops/norm.py"]),
            ("from . import a, b as c  # d", &["a.py", "b.py"]),
            ("from . import (a, b)", &["a.py", "b.py"]),
            ("from ..above import x", &[]),
            ("from torch import nn", &[]),
            ("import torch", &[]),
        ] {
            assert_eq!(imports(line), files, "{line}");
        }
    }
}
