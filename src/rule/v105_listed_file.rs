//! V105 listed-file.

use crate::base::diagnostic::{Diagnostic, Level};
use crate::manifest::FileEntry;
use crate::package::Conformance;
use crate::rule::{About, Checked, PackageView, Rule, view::is_inside};

/// A file of the manifest is missing, has another length, or is listed twice or out of order.
pub(super) static RULE: Rule = Rule {
    id: "V105",
    name: "listed-file",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let files = &view.manifest()?.files;
    let is_out = |pair: &&[FileEntry]| {
        pair[1].path <= pair[0].path && pair.iter().all(|file| is_inside(&file.path))
    };
    for pair in files.windows(2).filter(is_out) {
        let (first, second) = (&pair[0].path, &pair[1].path);
        let message = match first == second {
            true => format!("the manifest lists {second} twice"),
            false => format!("the manifest lists {second} behind {first}"),
        };
        found.push(
            RULE.finding(message)
                .file(second)
                .mismatch("each path once, sorted by its bytes", second)
                .help("`llmstd manifest` makes a true manifest"),
        );
    }
    for file in files {
        match view.files.get(&file.path) {
            _ if !is_inside(&file.path) => {} // V111 tells of it.
            Some(len) if *len == file.len => {}
            Some(len) => found.push(
                RULE.finding(format!(
                    "{} has {len} bytes, the manifest says {}",
                    file.path, file.len
                ))
                .file(&file.path)
                .mismatch(format!("{} bytes", file.len), format!("{len} bytes"))
                .help(if *len < file.len {
                    "the download was cut short, or the file was edited: get it again"
                } else {
                    "the file was edited: get it again, or convert anew so that the manifest fits"
                }),
            ),
            None => found.push(
                RULE.finding(format!("{} is missing, the manifest lists it", file.path))
                    .file(&file.path)
                    .help("get the file; the package is not complete without it"),
            ),
        }
    }
    Ok(())
}
