//! Embeds every file under `spec/`, so that a new data file needs no line of code.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=spec");
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("spec");
    let mut files = Vec::new();
    collect(&root, "", &mut files);
    files.sort();
    let mut code = String::from("&[\n");
    for name in files {
        let path = root.join(&name);
        writeln!(code, "    ({name:?}, include_str!({path:?})),").expect("a String takes it");
    }
    code.push(']');
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("spec_files.rs");
    fs::write(out, code).expect("OUT_DIR is writable");
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    println!("cargo:rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder).expect("spec/ is readable").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.push(name);
        }
    }
}
