//! How a run of Megatron was started: the attributes of an `argparse.Namespace`, read as data.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::Recorded;
use crate::format::pickle::{Node, NodeId};

/// The key of a checkpoint's metadata under which they are kept, as JSON.
pub(super) const ARGS: &str = "args";

/// More attributes than this are no arguments.
const MAX_ARGS: usize = 10_000;
/// The longest text of an argument that is kept.
const MAX_TEXT: usize = 200;

/// What all ranks of a run share.
const SHARED: &[&str] = &[
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "expert_model_parallel_size",
    "padded_vocab_size",
    "num_experts",
];

/// The arguments that are numbers, texts and truth values.
#[derive(Default)]
pub(super) struct Args(Map<String, Json>);

impl Args {
    pub(super) fn read(pickle: Recorded<'_, '_>, id: Option<NodeId>) -> Args {
        let attributes = id.and_then(|id| match pickle.node(id) {
            Node::Object(object) => pickle.state(object),
            _ => Some(id),
        });
        let items = attributes.and_then(|id| pickle.items(id)).unwrap_or_default();
        let scalar = |id: NodeId| -> Option<Json> {
            match pickle.node(id) {
                Node::None => Some(Json::Null),
                Node::Bool(value) => Some(Json::Bool(*value)),
                Node::Float(value) => Some(Json::from(*value)),
                _ => match (pickle.int(id), pickle.text(id)) {
                    (Some(int), _) => Some(int.into()),
                    (_, Some(text)) if text.len() <= MAX_TEXT => Some(text.into()),
                    _ => None,
                },
            }
        };
        let entries = items
            .into_iter()
            .take(MAX_ARGS)
            .filter_map(|(key, value)| Some((pickle.text(key)?.to_owned(), scalar(value)?)));
        Args(entries.collect())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    pub(super) fn stages(&self) -> u64 {
        self.number("pipeline_model_parallel_size").unwrap_or(1)
    }

    pub(super) fn experts(&self) -> u64 {
        self.number("expert_model_parallel_size").unwrap_or(1)
    }

    /// What both should say alike and do not.
    pub(super) fn differs(&self, other: &Args) -> Option<String> {
        let differs = |name: &&&str| self.0.get(**name) != other.0.get(**name);
        let text = |value: Option<&Json>| value.map_or("nothing".to_owned(), Json::to_string);
        let name = SHARED.iter().find(differs)?;
        let (own, theirs) = (text(self.0.get(*name)), text(other.0.get(*name)));
        Some(format!("`{name}` is {own} here and {theirs} there"))
    }

    /// Keeps them with the checkpoint, where there are some.
    pub(super) fn keep(&self, metadata: &mut BTreeMap<String, String>) {
        if !self.0.is_empty() {
            metadata.insert(ARGS.to_owned(), Json::Object(self.0.clone()).to_string());
        }
    }
}
