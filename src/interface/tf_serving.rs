//! Signatures of TensorFlow Serving: one for each task, with all inputs and with those alone that are
//! needed; and the config that serves them.

use super::dtype::words;
use super::pbtxt::Message;
use super::{File, Interface, Lowering, PortInterface, TaskInterface};
use crate::base::error::Error;

pub(super) static LOWERING: Lowering = Lowering {
    id: "tf-serving",
    about: "the SignatureDefMap of TensorFlow Serving, and its models.config",
    one_task: false,
    files,
    lost,
};

const DEFAULT: &str = "serving_default";

fn files(interface: &Interface, first: &TaskInterface) -> Result<Vec<File>, Error> {
    let mut map = Message::default();
    for (task, key) in std::iter::once((first, DEFAULT))
        .chain(interface.tasks.iter().map(|task| (task, &*task.id)))
    {
        map = map
            .message("signature_def", entry(key, task, &task.inputs.iter().collect::<Vec<_>>())?);
        let needed: Vec<&PortInterface> =
            task.inputs.iter().filter(|port| !port.optional).collect();
        if key != DEFAULT && needed.len() < task.inputs.len() {
            map = map.message("signature_def", entry(&format!("{key}-required"), task, &needed)?);
        }
    }
    let config = Message::default()
        .text("name", &interface.name)
        .text("base_path", &format!("/models/{}", interface.name))
        .text("model_platform", "tensorflow");
    let list = Message::default().message("config", config);
    let models = Message::default().message("model_config_list", list);
    Ok(vec![
        File { path: "signature_def_map.pbtxt".to_owned(), text: map.finish() },
        File { path: "models.config".to_owned(), text: models.finish() },
    ])
}

/// One signature under its key.
fn entry(key: &str, task: &TaskInterface, inputs: &[&PortInterface]) -> Result<Message, Error> {
    let mut signature = Message::default();
    for port in inputs {
        let node = format!("{DEFAULT}_{}:0", port.name);
        signature = signature.message("inputs", tensor(port, &node)?);
    }
    for (index, port) in task.outputs.iter().enumerate() {
        let node = format!("StatefulPartitionedCall:{index}");
        signature = signature.message("outputs", tensor(port, &node)?);
    }
    let signature = signature.text("method_name", "tensorflow/serving/predict");
    Ok(Message::default().text("key", key).message("value", signature))
}

fn tensor(port: &PortInterface, node: &str) -> Result<Message, Error> {
    let mut shape = Message::default();
    for (dim, size) in port.dims.iter().zip(port.sizes()) {
        shape =
            shape.message("dim", Message::default().field("size", size).text("name", &dim.name));
    }
    let info = Message::default()
        .text("name", node)
        .field("dtype", words(port)?.tf)
        .message("tensor_shape", shape);
    Ok(Message::default().text("key", &port.name).message("value", info))
}

fn lost(task: &TaskInterface) -> Vec<String> {
    let mut lost = vec![format!("bounds of sizes that the client chooses: {}", task.chosen_dims())];
    let facts: Vec<&str> = task.facts().into_iter().map(|(name, _)| name).skip(1).collect();
    if !facts.is_empty() {
        lost.push(facts.join(", "));
    }
    lost.extend(task.lost_parameters());
    lost.push("names of graph nodes and the base path: they are the usual ones".to_owned());
    lost
}
