//! The metadata of a model in the Open Inference Protocol: what `GET v2/models/NAME` answers.

use serde_json::{Map, Value as Json, json};

use super::dtype::words;
use super::{File, Interface, Lowering, PortInterface, TaskInterface};
use crate::base::error::Error;

pub(super) static LOWERING: Lowering = Lowering {
    id: "oip",
    about: "metadata of a model in the Open Inference Protocol (KServe v2)",
    one_task: true,
    files,
    lost,
};

fn files(interface: &Interface, task: &TaskInterface) -> Result<Vec<File>, Error> {
    let text = super::openapi::pretty(&metadata(interface, task)?);
    Ok(vec![File { path: format!("{}/metadata.json", task.name), text }])
}

/// The metadata. `properties` are text by name, so that they hold what the protocol has no member for.
fn metadata(interface: &Interface, task: &TaskInterface) -> Result<Json, Error> {
    let ports = |ports: &[PortInterface]| -> Result<Vec<Json>, Error> {
        ports.iter().map(tensor).collect()
    };
    let facts = task.facts().into_iter().map(|(name, value)| (name.to_owned(), value.into()));
    let mut properties: Map<String, Json> = facts.collect();
    let optional = task.optional();
    if !optional.is_empty() {
        properties.insert("optional_inputs".to_owned(), optional.join(",").into());
    }
    for port in task.ports() {
        let names: Vec<&str> = port.dims.iter().map(|dim| dim.name.as_str()).collect();
        properties.insert(format!("dims.{}", port.name), names.join(",").into());
    }
    for known in &task.parameters {
        let default = known.default.as_ref().map_or_else(String::new, Json::to_string);
        properties.insert(format!("parameters.{}", known.name), default.into());
    }
    let mut members = json!({"name": task.name, "versions": ["1"], "platform": "llmstd"});
    if let Some(architecture) = &interface.architecture {
        properties.insert("architecture".to_owned(), architecture.as_str().into());
    }
    members["inputs"] = ports(&task.inputs)?.into();
    members["outputs"] = ports(&task.outputs)?.into();
    members["properties"] = properties.into();
    Ok(members)
}

/// One tensor, as metadata has it.
fn tensor(port: &PortInterface) -> Result<Json, Error> {
    Ok(json!({"name": port.name, "datatype": words(port)?.oip, "shape": port.sizes()}))
}

fn lost(task: &TaskInterface) -> Vec<String> {
    let mut lost = vec![format!("{} (names are text in `properties`)", task.lost_dims())];
    let optional = task.optional();
    if !optional.is_empty() {
        let names = optional.join(", ");
        lost.push(format!("that inputs may be left out: {names} (text in `properties`)"));
    }
    let parameters = task.lost_parameters();
    lost.extend(parameters.map(|text| format!("{text} (defaults are text in `properties`)")));
    if task.ports().any(|port| port.dtype == "BF16") {
        lost.push("BF16 is no datatype of the protocol's core; Triton adds it".to_owned());
    }
    lost
}
