//! Every check of the data files: the static ones, and on tiny models that each mapping reads those
//! that need hyperparameters.
//!
//! On each model the planner proves that each tensor is read by one rule and each of the
//! architecture's is made by one, that shapes fit both ways, and that config and hyperparameters come
//! back (see [`sample`]).

use rayon::prelude::*;

use super::sample;
use crate::checkpoint::DType;
use crate::package::Value;
use crate::plan::import;
use crate::spec::Spec;
use crate::spec::ecosystem::Ecosystem;
use crate::spec::map::Map;

/// What is wrong with the data files, one sentence each: file, key, what.
pub fn check(spec: &Spec) -> Vec<String> {
    let problems = forms(spec);
    if !problems.is_empty() {
        // What a model would say of a wrong file says nothing new.
        return problems;
    }
    // A GGUF file says less than a model is: what its mappings do is held against llama.cpp's.
    let maps = spec.maps.values().filter(|map| !Ecosystem::of(&map.format).typed_keys);
    let maps: Vec<&Map> = maps.collect();
    maps.into_par_iter().flat_map_iter(|map| acts(spec, map)).collect()
}

/// What the files say of themselves is wrong with them, without a model.
pub fn forms(spec: &Spec) -> Vec<String> {
    let mut problems = spec.check();
    problems.extend(spec.maps.values().flat_map(recipes));
    problems
}

fn at(map: &Map) -> String {
    format!("map/{}/{}", map.format, map.name)
}

/// Drops whose recipe does not exist, or is not given what it needs.
fn recipes(map: &Map) -> Vec<String> {
    let problem = |drop: &crate::spec::map::DropRule| {
        let rule = drop.make.as_ref()?;
        let why = import::make(rule, DType::F32, &|_: &str| Ok(Value::Int(2))).err()?;
        // Which values it has is for a model to say.
        let is_form = why.starts_with("there is no recipe") || why.starts_with("it has no");
        if !is_form {
            return None;
        }
        Some(format!("{}: `{}`: {why}", at(map), drop.name.text))
    };
    map.drops.iter().filter_map(problem).collect()
}

/// What tiny models say of one mapping.
pub fn acts(spec: &Spec, map: &Map) -> Vec<String> {
    match sample::samples(spec, map, None) {
        Err(err) => vec![format!("{}: {err}", at(map))],
        Ok(samples) => {
            let parts = samples.into_iter().flat_map(|sample| sample.parts).collect();
            let unused = sample::unused(spec, map, &parts);
            let tell = |from: &str| format!("{}: `{from}`: no config makes this rule act", at(map));
            unused.into_iter().map(tell).collect()
        }
    }
}
