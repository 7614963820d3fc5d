//! Finds the logical tensors that are stored as several.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::config::Config;
use super::rules::Layouts;
use crate::base::hash::{HashMap, HashSet};
use crate::checkpoint::layout::{Axis, Layout, PartRule, Times, Unit};
use crate::checkpoint::{DType, Parameters, Tensor};

/// A tensor as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions, slowest first.
    pub shape: &'a [u64],
}

impl Stored<'_> {
    /// What counts of a tensor here.
    pub fn of(tensor: &Tensor) -> Stored<'_> {
        Stored { name: &tensor.name, dtype: tensor.dtype, shape: &tensor.shape }
    }
}

/// One logical tensor, found in several.
#[derive(Clone, Debug)]
pub struct Grouped<'a> {
    /// The logical name.
    pub name: String,
    /// How it is stored.
    pub layout: &'a Arc<Layout>,
    /// The parts that are there, by role: places in the list of stored tensors.
    pub parts: BTreeMap<&'a str, usize>,
    /// The logical shape; `None` if it is in the bytes of a part, or does not follow.
    pub shape: Option<Vec<u64>>,
    /// What the configuration says of it.
    pub parameters: Parameters,
    /// What is wrong, for a person: parts that are missing or do not fit.
    pub problems: Vec<String>,
}

impl Layouts {
    /// Finds the logical tensors that are stored as several; stored tensors that are part of none
    /// are what they seem. `config` is a whole `config.json`, `metadata` the container's.
    pub fn group<'a>(
        &'a self,
        stored: &[Stored],
        config: Option<&Value>,
        metadata: &BTreeMap<String, String>,
    ) -> Vec<Grouped<'a>> {
        let config = Config::of(config);
        let places = || stored.iter().enumerate().map(|(i, tensor)| (tensor.name, i)).collect();
        // Most checkpoints have no such tensor, and many names.
        let index: LazyCell<HashMap<&str, usize>, _> = LazyCell::new(places);
        // The words behind the last dots are few, however many tensors there are.
        let last = |name: &'_ str| name.rsplit('.').next().map_or(0, str::len);
        let ends: HashSet<&str> = stored
            .iter()
            .map(|tensor| &tensor.name[tensor.name.len() - last(tensor.name)..])
            .collect();
        let mut used = HashSet::default();
        let mut groups = self.torchao(stored, |name| index.get(name).copied(), metadata);
        used.extend(groups.iter().flat_map(|group| group.parts.values().copied()));
        for layout in self.layout.iter().filter(|layout| layout.torchao.is_none()) {
            if config.method.is_some_and(|method| !layout.methods.iter().any(|m| m == method)) {
                continue;
            }
            if !layout.may_be_among(&ends) {
                continue;
            }
            for (at, tensor) in stored.iter().enumerate() {
                let Some(prefix) = tensor.name.strip_suffix(layout.parts[0].suffix.as_str()) else {
                    continue;
                };
                if used.contains(&at) {
                    continue;
                }
                let find = |part: &PartRule| {
                    index.get(format!("{prefix}{}", part.suffix).as_str()).copied()
                };
                let parameters = config.parameters(prefix);
                let name = format!("{prefix}{}", layout.name);
                if let Some(group) = layout.fit(name, stored, find, parameters) {
                    used.extend(group.parts.values().copied());
                    groups.push(group);
                }
            }
        }
        groups.sort_by_key(|group| group.parts.values().copied().min());
        groups
    }

    /// torchao says in the metadata what each tensor is: `{"_type", "_data", "_tensor_data_names"}`.
    fn torchao<'a>(
        &'a self,
        stored: &[Stored],
        place: impl Fn(&str) -> Option<usize>,
        metadata: &BTreeMap<String, String>,
    ) -> Vec<Grouped<'a>> {
        let names: Option<Vec<String>> =
            metadata.get("tensor_names").and_then(|names| serde_json::from_str(names).ok());
        let mut groups = Vec::new();
        for name in names.unwrap_or_default() {
            let about: Option<Value> =
                metadata.get(&name).and_then(|about| serde_json::from_str(about).ok());
            let Some((about, (module, tensor))) = about.zip(name.rsplit_once('.')) else {
                continue;
            };
            let class = about.get("_type").and_then(Value::as_str);
            let Some(layout) = self.layout.iter().find(|layout| {
                layout.torchao.as_deref().is_some_and(|torchao| Some(torchao) == class)
            }) else {
                continue;
            };
            let find = |part: &PartRule| place(&format!("{module}._{tensor}_{}", part.role));
            let data = |key: &str| about.get("_data").and_then(|data| data.get(key));
            let dtype = data("dtype").and_then(|dtype| dtype.get("_data")?.as_str());
            let dtype = match dtype {
                Some("bfloat16") => Some(DType::BF16),
                Some("float16") => Some(DType::F16),
                Some("float32") => Some(DType::F32),
                _ => None,
            };
            let dtype = dtype.map(|dtype| dtype.name().to_owned());
            let block: Option<Vec<u64>> =
                data("block_size").and_then(|block| Deserialize::deserialize(block).ok());
            let block = block.and_then(|block| block.try_into().ok());
            let parameters = Parameters { dtype, block, ..Parameters::default() };
            groups.extend(layout.fit(name.clone(), stored, find, parameters));
        }
        groups
    }
}

impl Layout {
    /// Whether tensors whose names end in these words can be of this layout: each part that may not
    /// be absent has to be one of them. Where only parts are missing, a name may still tell.
    fn may_be_among(&self, ends: &HashSet<&str>) -> bool {
        let is_there = |part: &PartRule| match part.suffix.rsplit_once('.') {
            Some((_, word)) => ends.contains(word),
            None => ends.iter().any(|end| end.ends_with(&part.suffix)),
        };
        let (payload, others) = self.parts.split_first().expect("a test holds that there is one");
        is_there(payload)
            && (payload.suffix != ".weight"
                || others.iter().all(|part| part.optional || is_there(part)))
    }

    /// The group of this layout under a name, or `None` if what is there is not of this layout.
    pub(super) fn fit<'a>(
        self: &'a Arc<Self>,
        name: String,
        stored: &[Stored],
        find: impl Fn(&PartRule) -> Option<usize>,
        mut parameters: Parameters,
    ) -> Option<Grouped<'a>> {
        let fits = |part: &PartRule, at: usize| {
            part.dtypes.iter().any(|dtype| DType::parse(dtype) == Some(stored[at].dtype))
        };
        let mut parts = BTreeMap::new();
        let mut problems = Vec::new();
        for part in &self.parts {
            match find(part) {
                Some(at) if fits(part, at) => {
                    parts.insert(part.role.as_str(), at);
                }
                Some(at) => problems.push(format!(
                    "{} is {}, expected {}",
                    stored[at].name,
                    stored[at].dtype,
                    part.dtypes.join(" or ")
                )),
                None if part.optional => {}
                None => problems.push(format!("its {} is missing", part.role)),
            }
        }
        let payload = &self.parts[0];
        if !parts.contains_key(payload.role.as_str()) {
            return None;
        }
        // A plain name says nothing by itself, nor does one scale: another layout may fit. A name
        // that only quantized tensors have does, if all that is wrong is that parts are missing.
        let telling = self.torchao.is_some() || payload.suffix != ".weight";
        let only_missing = problems.iter().all(|problem| problem.ends_with(" is missing"));
        let doubtful = !telling || !only_missing;
        if doubtful && !problems.is_empty() {
            return None;
        }
        if let (Some(expected), Some(format)) = (&self.format, &parameters.format)
            && expected != format
        {
            return None;
        }

        let size = |axis: &Axis| {
            let shape = stored[*parts.get(axis.part.as_str())?].shape;
            shape.get(shape.len().checked_sub(axis.axis)?).copied()
        };
        if self.same.iter().any(|[one, other]| {
            matches!((size(one), size(other)), (Some(one), Some(other)) if one != other)
        }) {
            return None;
        }
        let follows = self.bits.as_ref().and_then(|rule| {
            let words = size(&rule.words)?.checked_mul(32)?;
            let values = size(&rule.values).filter(|&values| values > 0)?;
            words.is_multiple_of(values).then_some(words / values)
        });
        match (parameters.bits, follows) {
            (Some(stated), Some(follows)) if stated != follows => {
                let message = format!("the configuration says {stated} bits, the shapes {follows}");
                problems.push(message);
            }
            (None, follows) => parameters.bits = follows,
            _ => {}
        }

        let times = |axis: &Axis| match axis.times {
            None => Some((1, 1)),
            Some(Times::Number(number)) => Some((number, 1)),
            Some(Times::Unit(Unit::Byte)) => Some((8, parameters.bits?)),
            Some(Times::Unit(Unit::Word)) => Some((32, parameters.bits?)),
        };
        let dim = |axis: &Axis| {
            let (times, by) = times(axis)?;
            let bits = size(axis)?.checked_mul(times)?;
            (by > 0 && bits.is_multiple_of(by)).then(|| bits / by)
        };
        let shape = || -> Option<Vec<u64>> {
            let deepest = self.shape.iter().filter(|axis| axis.part == payload.role);
            let deepest = deepest.map(|axis| axis.axis).max()?;
            let stored = stored[parts[payload.role.as_str()]].shape;
            let lead = stored[..stored.len().checked_sub(deepest)?].iter().map(|&dim| Some(dim));
            lead.chain(self.shape.iter().map(dim)).collect()
        };
        let mut shape = shape();
        if let (true, Some([.., rows, cols])) = (self.transposed, shape.as_deref_mut()) {
            std::mem::swap(rows, cols);
        }
        Some(Grouped { name, layout: self, parts, shape, parameters, problems })
    }
}
