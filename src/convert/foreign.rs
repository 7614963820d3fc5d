//! The way out: from a package, or straight from a foreign checkpoint.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::export::export_plan;
use super::gguf;
use super::job::{self, Job};
use super::report::Report;
use super::request::{Failure, Request};
use super::sidecar::json_text;
use super::target::{Cut, Target};
use crate::folder::{CONFIG_FILE, Opened};
use crate::format;

/// Writes a checkpoint under the names of another world.
pub(super) fn to_foreign(
    opened: &mut Opened,
    request: &Request<'_>,
    target: &Target,
) -> std::result::Result<Report, Failure> {
    let mut plan = export_plan(opened, request, target.id)?;
    let is_complete = format::find(target.format).is_some_and(|format| format.is_complete);
    let own = plan.modules.iter().position(|(name, _)| Some(name) == plan.own_config.as_ref());
    let config = own.map_or(Json::Null, |own| match target.has_config {
        true => plan.modules[own].1.clone(),
        // It goes into the files of the tensors.
        false => plan.modules.remove(own).1,
    });
    let cut = Cut { ranks: request.ranks, config: &config, options: request.plan };
    plan.tensors = (target.cut)(plan.tensors, &cut)?;
    // What is written anew is not left behind.
    plan.left.retain(|name| Some(name) != plan.own_config.as_ref());
    if is_complete {
        // The tokenizer goes into the file; what else stands beside the source does not.
        let is_in = |name: &String| {
            let role = request.spec.file_role(name);
            role.is_some_and(|role| ["tokenizer", "template", "config"].contains(&role))
        };
        plan.left.splice(..0, plan.carried.drain(..).filter(|name| !is_in(name)));
    } else if target.is_file(request.destination) {
        plan.carried.clear();
        plan.left.clear();
    }
    let mut files = Vec::new();
    if !is_complete {
        files.extend(plan.config.map(|config| (CONFIG_FILE.to_owned(), config.into_bytes())));
        let json = |(name, json): (String, Json)| (name, json_text(&json).into_bytes());
        files.extend(plan.modules.into_iter().map(json));
        if plan.tokenizer.is_empty()
            && let Some((name, bytes)) = gguf::keys_file(opened)?
        {
            files.push((name.to_owned(), bytes));
        }
        let text = |(name, text): (&str, String)| (name.to_owned(), text.into_bytes());
        files.extend(plan.tokenizer.into_iter().map(text));
    }
    let job = Job {
        tensors: plan.tensors,
        // Readers of safetensors take files without metadata, or with this one.
        text: BTreeMap::from([("format".to_owned(), "pt".to_owned())]),
        keys: plan.metadata.unwrap_or_default(),
        config,
        files,
        carried: plan.carried,
        left: plan.left,
        copies: BTreeMap::new(),
        findings: plan.findings,
        architecture: plan.architecture,
        map: plan.map,
    };
    job::write(opened, request, target, job)
}
