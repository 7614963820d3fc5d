//! `MLmodel` of MLflow: a signature of tensors, parameters, and the rest as metadata.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::dtype::words;
use super::{File, Interface, Lowering, Parameter, PortInterface, TaskInterface};
use crate::base::error::Error;

pub(super) static LOWERING: Lowering = Lowering {
    id: "mlflow",
    about: "MLmodel of MLflow, with its signature",
    one_task: true,
    files,
    lost,
};

fn files(interface: &Interface, task: &TaskInterface) -> Result<Vec<File>, Error> {
    let ports = |ports: &[PortInterface]| -> Result<String, Error> {
        let specs: Result<Vec<Json>, Error> = ports.iter().map(tensor).collect();
        Ok(Json::from(specs?).to_string())
    };
    let mut text = String::from("flavors: {}\n");
    let _ = writeln!(text, "signature:");
    let _ = writeln!(text, "  inputs: {}", quote(&ports(&task.inputs)?));
    let _ = writeln!(text, "  outputs: {}", quote(&ports(&task.outputs)?));
    let known: Vec<Json> = task.parameters.iter().filter_map(parameter).collect();
    if known.is_empty() {
        let _ = writeln!(text, "  params: null");
    } else {
        let _ = writeln!(text, "  params: {}", quote(&Json::from(known).to_string()));
    }
    // YAML holds JSON.
    let _ = writeln!(text, "metadata:");
    let _ = writeln!(
        text,
        "  llmstd: {}",
        json!({
            "name": interface.name,
            "spec": interface.spec,
            "architecture": interface.architecture,
            "task": task,
        })
    );
    Ok(vec![File { path: format!("{}/MLmodel", task.name), text: plain(&text) }])
}

/// Characters that YAML takes for line breaks or refuses, as JSON escapes: they stand in strings only.
fn plain(text: &str) -> String {
    let special = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}');
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match special(c) {
            true => {
                let _ = write!(plain, "\\u{:04x}", u32::from(c));
            }
            false => plain.push(c),
        }
    }
    plain
}

fn tensor(port: &PortInterface) -> Result<Json, Error> {
    let spec = json!({"dtype": words(port)?.numpy, "shape": port.sizes()});
    Ok(json!({"name": port.name, "type": "tensor", "tensor-spec": spec}))
}

/// A parameter; none where it has no default, which MLflow wants.
fn parameter(known: &Parameter) -> Option<Json> {
    let default = known.default.as_ref()?;
    let kind = match known.dtype.as_str() {
        "I64" => "long",
        "F32" => "float",
        "BOOL" => "boolean",
        _ => "string",
    };
    let shape = if known.list { json!([-1]) } else { Json::Null };
    Some(json!({"name": known.name, "type": kind, "default": default, "shape": shape}))
}

/// Text of YAML in single quotes, which has no line breaks.
fn quote(json: &str) -> String {
    format!("'{}'", json.replace('\'', "''"))
}

fn lost(task: &TaskInterface) -> Vec<String> {
    let mut lost = vec![format!("{} (they are in `metadata`)", task.lost_dims())];
    let optional = task.optional();
    if !optional.is_empty() {
        // Of an input that is not listed MLflow tells the model nothing, even where it is given.
        let names = optional.join(", ");
        lost.push(format!(
            "that inputs may be left out, which tensors cannot in a signature: {names} (`metadata` has it)"
        ));
    }
    let without = task.parameters.iter().filter(|known| known.default.is_none());
    let without: Vec<&str> = without.map(|known| known.name.as_str()).collect();
    if !without.is_empty() {
        let names = without.join(", ");
        lost.push(format!("parameters without a default: {names} (they are in `metadata`)"));
    }
    if task.parameters.iter().any(|known| !known.words.is_empty()) {
        lost.push("which words a parameter may be (they are in `metadata`)".to_owned());
    }
    let is_widened = |port: &PortInterface| words(port).is_ok_and(|words| words.is_widened);
    lost.extend(task.ports().filter(|port| is_widened(port)).map(|port| {
        format!("the dtype {} of `{}`: NumPy has none, float32 is written", port.dtype, port.name)
    }));
    lost.push("what runs it: add a flavor".to_owned());
    lost
}
