//! Tensors that hold several of the mappings: those of all layers, or of several maps of one module.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Dialect;

/// Tensors that hold those of all layers, one behind the other along an axis.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stacked {
    /// The segment of a name that says so.
    segment: String,
    /// What it is for each layer; `{n}` is its number.
    each: String,
    /// The axis of the layers.
    axis: usize,
}

/// Tensors that hold equal shares of several, one behind the other along the first axis.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fused {
    /// The segments of a name that say so.
    theirs: String,
    /// What they are for each share, in the words of the dialect too.
    parts: Vec<String>,
}

/// What a tensor of a dialect holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Several {
    /// The tensors of all layers along this axis, whose names have these texts before and behind a number.
    Layers(usize, [String; 2]),
    /// Tensors of these names, with equal shares of the first axis.
    Shares(Vec<String>),
}

impl Dialect {
    /// What a tensor holds that is several.
    pub fn several(&self, name: &str) -> Option<Several> {
        if self.stacks.is_empty() && self.fused.is_empty() {
            return None;
        }
        let separator = self.separators.first().map_or("/", String::as_str);
        let segments: Vec<&str> = name.split(separator).collect();
        let with = |at: usize, len: usize, middle: &str| {
            let rest = segments[at + len..].iter().copied();
            let all = segments[..at].iter().copied().chain(std::iter::once(middle)).chain(rest);
            all.collect::<Vec<_>>().join(separator)
        };
        let layers = self.stacks.iter().find_map(|stack| {
            let at = segments.iter().position(|segment| *segment == stack.segment)?;
            // The number stands between what is before and behind this.
            let name = with(at, 1, &stack.each);
            let (front, rest) = name.split_once("{n}")?;
            Some(Several::Layers(stack.axis, [front.to_owned(), rest.to_owned()]))
        });
        let shares = || {
            self.fused.iter().find_map(|fused| {
                let wanted: Vec<&str> = fused.theirs.split(separator).collect();
                let at = segments.windows(wanted.len()).position(|window| window == wanted)?;
                let names = fused.parts.iter().map(|part| with(at, wanted.len(), part));
                Some(Several::Shares(names.collect()))
            })
        };
        layers.or_else(shares)
    }
}
