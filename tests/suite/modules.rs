//! The order of modules in the code map of `src/lib.rs`: each uses only those above it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The modules in the order of the code map.
fn code_map() -> Vec<String> {
    let text = fs::read_to_string(root().join("lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | `"));
    rows.filter_map(|row| Some(row.split_once("` |")?.0.to_owned())).collect()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// Every source file below a folder, with its text.
fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(root(), &mut found);
    found.retain(|(name, _)| name != "lib.rs" && !name.starts_with("bin/"));
    assert!(20 < found.len());
    found
}

/// The code of a file: without comments, and without its tests.
fn code(text: &str) -> Vec<&str> {
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]" && *line != "mod tests {");
    lines.filter(|line| !line.trim_start().starts_with("//")).collect()
}

/// Whether a file has tests alone.
fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/")
}

#[test]
fn the_code_map_lists_every_module() {
    let text = fs::read_to_string(root().join("lib.rs")).unwrap();
    let mut declared: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let map = code_map();
    let mut mapped: Vec<&str> = map.iter().map(String::as_str).collect();
    declared.sort_unstable();
    mapped.sort_unstable();
    assert_eq!(declared, mapped);
}

#[test]
fn modules_use_only_those_above_them() {
    let map = code_map();
    let place = |module: &str| {
        map.iter()
            .position(|known| known == module)
            .unwrap_or_else(|| panic!("{module} is in no row"))
    };
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        if is_test(&name) {
            continue;
        }
        let module = name.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        for line in code(&text) {
            for used in line.split("crate::").skip(1) {
                let end = used.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let used = &used[..end.unwrap_or(used.len())];
                // `crate::{a, b}` is not written here.
                assert!(!used.is_empty(), "{name}: {line}");
                if place(&module) < place(used) {
                    wrong.push(format!("{name} uses {used}: {line}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_below_the_command_line_prints_exits_or_reads_the_environment() {
    let forbidden = [
        "println!",
        "print!(",
        "eprintln!",
        "process::exit",
        "env::var",
        "env::args",
        "stdout()",
        "stderr()",
    ];
    let mut wrong = Vec::new();
    let below = |name: &str| !is_test(name) && !name.starts_with("cli/");
    for (name, text) in sources().into_iter().filter(|(name, _)| below(name)) {
        for line in code(&text) {
            if let Some(word) = forbidden.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{name}: {word}: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The engine knows no model's name: neither an architecture's nor a foreign family's.
#[test]
fn no_model_is_named_in_the_source() {
    let spec = llmstd::spec::Spec::current();
    let mut names: Vec<String> = spec.archs.keys().cloned().collect();
    names.extend(spec.maps.values().map(|map| map.name.clone()));
    // A kind of state space is a value of a hyperparameter, whatever else is called so.
    names.retain(|name| !spec.keys.iter().any(|key| key.words.contains(name)));
    names.sort_unstable();
    names.dedup();
    // A kind of state space has the name of the family it came with; it is a value of a key.
    names.retain(|name| !spec.keys.iter().any(|key| key.words.contains(name)));
    // A program that is called may have the name of a model.
    names.retain(|name| name != "git");
    // A layout of files may have the name of whoever reads it.
    names.retain(|name| llmstd::convert::target::find(name).is_none());
    assert!(5 < names.len());
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        if is_test(&name) {
            continue;
        }
        for line in code(&text) {
            for model in &names {
                let quoted = [
                    format!("\"{model}\""),
                    format!("\"{model}."),
                    format!("\"{model}-"),
                    format!("'{model}'"),
                ];
                if quoted.iter().any(|quoted| line.contains(quoted)) {
                    wrong.push(format!("{name} names {model}: {line}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The paths of a `use`: `a::{b, c::{d}}` is `a::b` and `a::c::d`.
fn paths(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((start, list)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap();
        return found.push(format!("{prefix}{name}"));
    };
    let (mut depth, mut from) = (0, 0);
    let list = list.trim_end().trim_end_matches('}');
    // The brace that was cut off at the end may be one of an inner list.
    let list =
        format!("{list}{}", "}".repeat(list.matches('{').count() - list.matches('}').count()));
    for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !list[from..at].trim().is_empty() {
                    paths(&format!("{prefix}{start}"), &list[from..at], found);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// A path as names from the crate's root, said in a file that is this module.
fn absolute(module: &[String], path: &str) -> Option<Vec<String>> {
    let mut names: Vec<&str> = path.split("::").collect();
    let mut base = module.to_vec();
    match names[0] {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            base.pop();
            while names.get(1) == Some(&"super") {
                names.remove(0);
                base.pop();
            }
        }
        // A module below, or something from elsewhere.
        _ => names.insert(0, ""),
    }
    base.extend(names[1..].iter().map(|name| (*name).to_owned()));
    Some(base)
}

/// Which files of a module use which: `[file, file]`, each as its path in modules.
fn uses_of_files() -> BTreeSet<[String; 2]> {
    let sources: BTreeMap<String, String> = sources()
        .into_iter()
        .filter(|(name, _)| !is_test(name))
        .map(|(name, text)| {
            let name = name.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
            (name, code(&text).join("\n"))
        })
        .collect();
    // What a file gives on under its own name.
    let mut given: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut said: Vec<(String, Vec<String>)> = Vec::new();
    for (file, text) in &sources {
        let module: Vec<String> = file.split("::").map(str::to_owned).collect();
        for statement in text.split(';') {
            let line = statement.rsplit('\n').find(|line| line.contains("use ")).unwrap_or("");
            let head = line.trim_start();
            let is_use = head.starts_with("use ")
                || (head.starts_with("pub") && head.contains(" use ") && !head.contains("fn "));
            let mut found = Vec::new();
            let is_given = head.starts_with("pub");
            if is_use {
                let at = statement.rfind(head).unwrap();
                let tree = statement[at..].split_once("use ").unwrap().1.replace('\n', " ");
                paths("", &tree, &mut found);
            } else {
                for start in ["crate::", "super::"] {
                    found.extend(statement.match_indices(start).map(|(at, _)| {
                        let path = &statement[at..];
                        let end =
                            path.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
                        path[..end.unwrap_or(path.len())].trim_end_matches(':').to_owned()
                    }));
                }
            }
            for path in found {
                let Some(names) = absolute(&module, &path) else { continue };
                if is_use && is_given {
                    let name = names.last().unwrap().clone();
                    given.insert((file.clone(), name), names);
                } else {
                    said.push((file.clone(), names));
                }
            }
        }
    }
    let file_of = |names: &[String]| {
        (1..=names.len())
            .rev()
            .map(|n| (names[..n].join("::"), n))
            .find(|(of, _)| sources.contains_key(of))
    };
    let mut uses = BTreeSet::new();
    for (file, mut names) in said {
        let mut target = file_of(&names);
        for _ in 0..4 {
            let Some((of, n)) = &target else { break };
            let Some(name) = names.get(*n) else { break };
            let Some(from) = given.get(&(of.clone(), name.clone())) else { break };
            let rest = names[*n + 1..].to_vec();
            names = from.iter().cloned().chain(rest).collect();
            target = file_of(&names);
        }
        let Some((target, _)) = target else { continue };
        // What a module itself has is there for all files below it.
        let is_above = file.starts_with(&format!("{target}::"));
        let is_same = target.split("::").next() == file.split("::").next();
        if is_same && !is_above && target != file {
            uses.insert([file, target]);
        }
    }
    uses
}

#[test]
fn no_files_of_a_module_use_each_other_in_a_circle() {
    let mut uses = uses_of_files();
    assert!(100 < uses.len(), "{}", uses.len());
    // Files that use no other, or that no other uses, are in no circle.
    loop {
        let users: BTreeSet<String> = uses.iter().map(|[user, _]| user.clone()).collect();
        let used: BTreeSet<String> = uses.iter().map(|[_, used]| used.clone()).collect();
        let before = uses.len();
        uses.retain(|[from, to]| users.contains(to) && used.contains(from));
        if uses.len() == before {
            break;
        }
    }
    assert!(uses.is_empty(), "circles among files: {uses:#?}");
}
