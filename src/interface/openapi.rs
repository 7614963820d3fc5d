//! An OpenAPI document: the requests and answers of the Open Inference Protocol, in the terms of one
//! model. Which inputs are needed, which sizes are fixed and what parameters may be is all in it.

use serde_json::{Map, Value as Json, json};

use super::dtype::words;
use super::{File, Interface, Lowering, Parameter, PortInterface, TaskInterface};
use crate::base::error::Error;

pub(super) static LOWERING: Lowering = Lowering {
    id: "openapi",
    about: "OpenAPI 3.1 of the Open Inference Protocol for this model",
    one_task: false,
    files,
    lost,
};

/// A document of JSON, for people to read too.
pub(super) fn pretty(json: &Json) -> String {
    format!("{json:#}\n")
}

fn files(interface: &Interface, _: &TaskInterface) -> Result<Vec<File>, Error> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for task in &interface.tasks {
        let (request, answer) = (format!("{}.request", task.id), format!("{}.response", task.id));
        let refer = |name: &str| {
            let schema = json!({"$ref": format!("#/components/schemas/{name}")});
            json!({"application/json": {"schema": schema}})
        };
        let mut operation = json!({
            "operationId": format!("infer-{}", task.id),
            "summary": task.about,
            "requestBody": {"required": true, "content": refer(&request)},
            "responses": {
                "200": {"description": "The outputs.", "content": refer(&answer)},
                "400": {"description": "The request does not fit.", "content": refer("error")},
            },
        });
        for (name, value) in task.facts().into_iter().filter(|(name, _)| *name != "labels") {
            operation[format!("x-{name}")] = value.into();
        }
        if let Some(labels) = &task.labels {
            operation["x-labels"] = labels.as_slice().into();
        }
        paths.insert(
            format!("/v2/models/{}/infer", segment(&task.name)),
            json!({"post": operation}),
        );
        schemas.insert(request, self::request(task)?);
        schemas.insert(answer, self::answer(task)?);
    }
    let error = json!({
        "type": "object", "required": ["error"], "properties": {"error": {"type": "string"}},
    });
    schemas.insert("error".to_owned(), error);
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": interface.name,
            "version": interface.spec,
            "description": "Requests and answers of the Open Inference Protocol, version 2, for this model.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    });
    Ok(vec![File { path: "openapi.json".to_owned(), text: pretty(&document) }])
}

/// A name as a part of a path.
fn segment(name: &str) -> String {
    let mut part = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                part.push(char::from(byte));
            }
            byte => part.push_str(&format!("%{byte:02X}")),
        }
    }
    part
}

fn request(task: &TaskInterface) -> Result<Json, Error> {
    let mut inputs = tensors(&task.inputs)?;
    inputs["allOf"] = task.inputs.iter().map(|port| occurs(port, !port.optional)).collect();
    let mut schema = json!({
        "type": "object",
        "required": ["inputs"],
        "properties": {"id": {"type": "string"}, "inputs": inputs},
    });
    if !task.parameters.is_empty() {
        let known = task.parameters.iter().map(|known| (known.name.clone(), parameter(known)));
        let known: Map<String, Json> = known.collect();
        schema["properties"]["parameters"] = json!({"type": "object", "properties": known});
    }
    let asked: Vec<&str> = task.outputs.iter().map(|port| port.name.as_str()).collect();
    schema["properties"]["outputs"] = json!({
        "type": "array",
        "items": {"type": "object", "required": ["name"], "properties": {"name": {"enum": asked}}},
    });
    Ok(schema)
}

fn answer(task: &TaskInterface) -> Result<Json, Error> {
    Ok(json!({
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"const": task.name},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": tensors(&task.outputs)?,
        },
    }))
}

/// A list of tensors, each one of these ports.
fn tensors(ports: &[PortInterface]) -> Result<Json, Error> {
    let tensors: Result<Vec<Json>, Error> = ports.iter().map(tensor).collect();
    Ok(json!({"type": "array", "items": {"oneOf": tensors?}}))
}

/// How often a port stands in a list: at most once, and at least if it is needed.
fn occurs(port: &PortInterface, is_needed: bool) -> Json {
    let named = json!({"type": "object", "properties": {"name": {"const": port.name}}, "required": ["name"]});
    json!({"contains": named, "minContains": u8::from(is_needed), "maxContains": 1})
}

fn tensor(port: &PortInterface) -> Result<Json, Error> {
    let words = words(port)?;
    let dims = port.dims.iter().map(|dim| match (dim.size, dim.max) {
        (Some(size), _) => json!({"const": size, "title": dim.name}),
        (None, Some(max)) => {
            json!({"type": "integer", "minimum": 0, "maximum": max, "title": dim.name})
        }
        (None, None) => json!({"type": "integer", "minimum": 0, "title": dim.name}),
    });
    let dims: Vec<Json> = dims.collect();
    let n_dims = dims.len();
    let element = match words.numpy {
        "bool" => json!({"type": "boolean"}),
        name if name.starts_with("float") => json!({"type": "number"}),
        _ => json!({"type": "integer"}),
    };
    // Elements row by row: as lists in lists, or as one list.
    let nested = port.dims.iter().rev().fold(element.clone(), |items, dim| {
        let mut list = json!({"type": "array", "items": items, "title": dim.name});
        if let Some(size) = dim.size {
            list["minItems"] = size.into();
        }
        if let Some(most) = dim.size.or(dim.max) {
            list["maxItems"] = most.into();
        }
        list
    });
    let data = match n_dims {
        0 | 1 => nested,
        _ => json!({"anyOf": [nested, {"type": "array", "items": element}]}),
    };
    Ok(json!({
        "type": "object",
        "title": port.name,
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"const": port.name},
            "datatype": {"const": words.oip},
            "shape": {
                "type": "array", "prefixItems": dims, "items": false, "minItems": n_dims,
            },
            "data": data,
            "parameters": {"type": "object"},
        },
    }))
}

fn parameter(known: &Parameter) -> Json {
    let kind = match known.dtype.as_str() {
        "I64" => "integer",
        "F32" => "number",
        "BOOL" => "boolean",
        _ => "string",
    };
    let mut value = json!({"type": kind});
    if !known.words.is_empty() {
        value["enum"] = known.words.as_slice().into();
    }
    let mut schema = if known.list { json!({"type": "array", "items": value}) } else { value };
    schema["description"] = known.about.as_str().into();
    if let Some(default) = &known.default {
        schema["default"] = default.clone();
    }
    schema
}

fn lost(_: &TaskInterface) -> Vec<String> {
    vec!["that sizes of one name are equal: they have the same title".to_owned()]
}
