//! V109 shard-index.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::package::{Conformance, TENSORS_STEM};
use crate::rule::view::{Part, index_file};
use crate::rule::{About, Checked, PackageView, Rule, unreadable};

/// The shard index and the shards disagree, or the files are not named as the standard names them.
pub(super) static RULE: Rule = Rule {
    id: "V109",
    name: "shard-index",
    level: Conformance::Container,
    weight: Level::Error,
    deep: false,
    about: About::Package,
    check,
};

fn check(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) -> Checked {
    let index_name = index_file();
    check_names(view, found);
    let index = match &view.index {
        Part::Good(index) => index,
        Part::Bad(err) => {
            found.push(unreadable(&RULE, &index_name, err).help("get the file again"));
            return Ok(());
        }
        Part::Absent if view.shards.len() < 2 => return Ok(()),
        Part::Absent => {
            found.push(
                RULE.finding(format!("there are {} shards and no index", view.shards.len()))
                    .file(index_name)
                    .help("loaders find shards by the index only: get it, or convert anew"),
            );
            return Ok(());
        }
    };
    let about = |message: String| RULE.finding(message).file(&index_name);
    let Some(Json::Object(map)) = index.get("weight_map") else {
        found.push(about("the index has no object `weight_map`".to_owned()).key("/weight_map"));
        return Ok(());
    };
    let tensors = view.all_tensors()?;
    let stored: BTreeMap<&str, &str> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), &*tensor.file)).collect();
    // A name in two files is told of by V108; either place is right here.
    let places = LazyCell::new(|| -> BTreeSet<(&str, &str)> {
        tensors.iter().map(|tensor| (tensor.name.as_str(), &*tensor.file)).collect()
    });
    for (name, file) in map {
        let file = file.as_str().unwrap_or_default();
        let here = stored.get(name.as_str()).copied();
        if here != Some(file) && !places.contains(&(name.as_str(), file)) {
            found.push(
                about(format!("the index puts `{name}` in {file:?}, where it is not"))
                    .tensor(name)
                    .mismatch(file, here.unwrap_or("no file"))
                    .help("index and shards are not of one package: get both again"),
            );
        }
    }
    for (name, file) in &stored {
        if !map.contains_key(*name) {
            found.push(
                about(format!("the index does not know `{name}` of {file}"))
                    .tensor(*name)
                    .help("loaders will not load it: get the index again"),
            );
        }
    }
    let total = tensors.iter().fold(0u64, |sum, tensor| sum.saturating_add(tensor.len));
    let claimed = index.get("metadata").and_then(|metadata| metadata.get("total_size"));
    if claimed.and_then(Json::as_u64) != Some(total) {
        let claimed = claimed.map_or_else(|| "nothing".to_owned(), Json::to_string);
        found.push(
            about("`total_size` of the index is not the bytes of all tensors".to_owned())
                .key("/metadata/total_size")
                .mismatch(total, claimed)
                .help("index and shards are not of one package: get both again"),
        );
    }
    Ok(())
}

fn check_names(view: &PackageView<'_>, found: &mut Vec<Diagnostic>) {
    let n = view.shards.len();
    for (number, shard) in (1..).zip(&view.shards) {
        let expected = match n {
            1 => format!("{TENSORS_STEM}.safetensors"),
            _ => format!("{TENSORS_STEM}-{number:05}-of-{n:05}.safetensors"),
        };
        if shard.name != expected {
            found.push(
                RULE.finding(format!("tensor file {number} of {n} is called {}", shard.name))
                    .file(&shard.name)
                    .mismatch(expected, &shard.name)
                    .help("a shard is missing or too many, or the file was renamed"),
            );
        }
    }
}
