//! The order of modules in the code map of `src/lib.rs`: each uses only those above it.

use std::fs;
use std::path::Path;

/// The modules in the order of the code map.
fn code_map() -> Vec<String> {
    let text = fs::read_to_string(root().join("lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.filter_map(|row| Some(row.split_once("`]")?.0.trim_start_matches("mod@").to_owned()))
        .collect()
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
fn nothing_below_the_binary_prints_exits_or_reads_the_environment() {
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
    for (name, text) in sources().into_iter().filter(|(name, _)| !is_test(name)) {
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
