//! `config.pbtxt` of a model of Triton, with its labels beside it.

use super::dtype::words;
use super::pbtxt::Message;
use super::{File, Interface, Lowering, PortInterface, TaskInterface};
use crate::base::error::Error;

pub(super) static LOWERING: Lowering = Lowering {
    id: "triton",
    about: "config.pbtxt of Triton Inference Server",
    one_task: true,
    files,
    lost,
};

/// The file that has a label a line, beside the config.
const LABELS: &str = "labels.txt";

fn files(interface: &Interface, task: &TaskInterface) -> Result<Vec<File>, Error> {
    // Every shape is written whole, the batch with it.
    let mut config = Message::default().text("name", &task.name).field("max_batch_size", 0);
    for port in &task.inputs {
        let mut input = tensor(port)?;
        if port.optional {
            input = input.field("optional", true);
        }
        config = config.message("input", input);
    }
    for port in &task.outputs {
        let mut output = tensor(port)?;
        if port.has_labels() && line_labels(task).is_some() {
            output = output.text("label_filename", LABELS);
        }
        config = config.message("output", output);
    }
    let mut facts = task.facts();
    facts.extend(interface.architecture.clone().map(|id| ("architecture", id)));
    let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value));
    let defaults = task.parameters.iter().map(|known| {
        let default = known.default.as_ref().map_or_else(String::new, ToString::to_string);
        (format!("parameters.{}", known.name), default)
    });
    for (key, value) in facts.chain(defaults) {
        let value = Message::default().text("string_value", &value);
        let entry = Message::default().text("key", &key).message("value", value);
        config = config.message("parameters", entry);
    }
    let mut files =
        vec![File { path: format!("{}/config.pbtxt", task.name), text: config.finish() }];
    files.extend(
        line_labels(task).map(|text| File { path: format!("{}/{LABELS}", task.name), text }),
    );
    Ok(files)
}

fn tensor(port: &PortInterface) -> Result<Message, Error> {
    let sizes: Vec<String> = port.sizes().iter().map(i64::to_string).collect();
    Ok(Message::default()
        .text("name", &port.name)
        .field("data_type", format_args!("TYPE_{}", words(port)?.oip))
        .field("dims", format_args!("[ {} ]", sizes.join(", "))))
}

/// The labels, one a line; none where one of them has several lines.
fn line_labels(task: &TaskInterface) -> Option<String> {
    let labels = task.labels.as_ref()?;
    let is_line = |label: &String| !label.contains(['\n', '\r']);
    labels.iter().all(is_line).then(|| labels.iter().map(|label| format!("{label}\n")).collect())
}

fn lost(task: &TaskInterface) -> Vec<String> {
    let mut lost = vec![task.lost_dims()];
    let parameters = task.lost_parameters();
    lost.extend(parameters.map(|text| format!("{text} (defaults are text in `parameters`)")));
    if task.labels.is_some() && line_labels(task).is_none() {
        lost.push("labels of several lines (they are text in `parameters`)".to_owned());
    }
    lost.push("what serves it: add `backend` or `platform`".to_owned());
    lost
}
