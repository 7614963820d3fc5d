//! Which stored tensors make one logical tensor: names, dtypes, shapes and configuration, no bytes.
//!
//! The layouts are data, `spec/1.0/layouts.toml`; only the arithmetic that a layout names is code.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::decoder::Decoder;
use super::grouped::{self, Compute, GlobalScale, GptqVersion};
use super::number::Precision;
use super::part::Part;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::source::Source;
use crate::checkpoint::{
    Checkpoint, DType, Encoding, Parameters, Payload, StoredPart, Tensor, n_elements,
};

/// The layouts that this program carries. They belong to the libraries that write them, not to a
/// version of the standard.
pub static LAYOUTS: LazyLock<Layouts> = LazyLock::new(|| {
    let text = include_str!("../../spec/1.0/layouts.toml");
    Layouts::parse(text).expect("a test parses the embedded file")
});

/// The known layouts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Layouts {
    /// In the order in which they are looked for.
    pub layout: Vec<Layout>,
    /// The keys of a config that say how tensors are packed.
    pub config: Vec<String>,
    /// Endings of tensors that say how activations are quantized while a model runs.
    pub runtime: Vec<String>,
    /// Files that say in place of a config how tensors are packed.
    pub beside: Vec<Beside>,
}

/// A file that says in place of a config how tensors are packed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Its name.
    pub file: String,
    /// The method that it does not name.
    pub method: String,
}

/// How one logical tensor is stored as several.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The id of the encoding.
    pub id: String,
    /// What it is, for people.
    pub about: String,
    /// Where that is defined: project, version, place.
    pub source: String,
    /// Values of `quantization_config.quant_method`.
    #[serde(default)]
    pub methods: Vec<String>,
    /// The only value of the configuration's format or mode, where there is one.
    pub format: Option<String>,
    /// The class that torchao's metadata names.
    pub torchao: Option<String>,
    /// The suffix of the logical name.
    #[serde(default)]
    pub name: String,
    /// The blocks in line that have the same scales and values in another order, MXFP4: 32 values,
    /// the payload's pairs of nibbles as halves, behind a scale of a byte.
    pub blocks: Option<String>,
    /// Whether the logical tensor has its last two axes the other way round than the parts.
    #[serde(default)]
    pub transposed: bool,
    /// The arithmetic.
    pub decode: String,
    /// What is stored, the payload first.
    pub parts: Vec<PartRule>,
    /// Axes that must be equal.
    #[serde(default)]
    pub same: Vec<[Axis; 2]>,
    /// The last axes of the logical shape.
    #[serde(default)]
    pub shape: Vec<Axis>,
    /// What the bits follow from.
    pub bits: Option<BitsRule>,
}

/// One stored tensor of a layout.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartRule {
    /// What it is to the arithmetic.
    pub role: String,
    /// How its name ends; torchao's are named by the metadata.
    #[serde(default)]
    pub suffix: String,
    /// The dtypes it may have, spelled as in safetensors.
    pub dtypes: Vec<String>,
    /// Whether it may be absent.
    #[serde(default)]
    pub optional: bool,
    /// Whether it has something for each row of the values, in their order, along its first axis
    /// behind those of a stack.
    #[serde(default)]
    pub rows: bool,
}

/// An axis of a part.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// The role of the part.
    pub part: String,
    /// Which axis, 1 for the last.
    pub axis: usize,
    /// How many values an element holds.
    pub times: Option<Times>,
}

/// How many values an element holds.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Times {
    /// So many.
    Number(u64),
    /// `byte` or `word`: as many as fit.
    Unit(Unit),
}

/// What values are packed into.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 8 bits.
    Byte,
    /// 32 bits.
    Word,
}

/// Two axes whose quotient says how many bits a value has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BitsRule {
    /// Words of 32 bits.
    pub words: Axis,
    /// Values in them.
    pub values: Axis,
}

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
    pub layout: &'a Layout,
    /// The parts that are there, by role: places in the list of stored tensors.
    pub parts: BTreeMap<&'a str, usize>,
    /// The logical shape; `None` if it is in the bytes of a part, or does not follow.
    pub shape: Option<Vec<u64>>,
    /// What the configuration says of it.
    pub parameters: Parameters,
    /// What is wrong, for a person: parts that are missing or do not fit.
    pub problems: Vec<String>,
}

/// What a tensor of a package is, and the roles and places of its parts, the payload first.
pub type Packaged = (Encoding, Vec<(String, usize)>);

/// The method and the parameters that hold for a module, of a whole `config.json`.
struct Config<'a> {
    method: Option<&'a str>,
    quantization: Option<&'a Value>,
}

impl<'a> Config<'a> {
    fn of(config: Option<&'a Value>) -> Config<'a> {
        let get = |key| config.and_then(|config| config.get(key)).filter(|value| value.is_object());
        // Composite models keep theirs with the text model; MLX has a key of its own, and repeats
        // it under the common one without naming a method.
        let nested =
            config.and_then(|config| config.get("text_config")?.get("quantization_config"));
        let quantization = get("quantization_config").or(nested);
        let method = quantization.and_then(|value| value.get("quant_method")?.as_str());
        match (method, get("quantization")) {
            (None, Some(mlx)) => Config { method: Some("mlx"), quantization: Some(mlx) },
            _ => Config { method, quantization },
        }
    }

    fn parameters(&self, module: &str) -> Parameters {
        let Some(common) = self.quantization else { return Parameters::default() };
        let own = common.get(module).filter(|own| own.is_object());
        // GPTQModel has patterns of modules that depart from the rest: the shapes say how.
        let is_mixed =
            common.get("dynamic").and_then(Value::as_object).is_some_and(|m| !m.is_empty());
        // compressed-tensors has groups of modules. Which is whose is a matter of patterns; what
        // all of them say holds in any case.
        let groups: Vec<&Value> = match common.get("config_groups").and_then(Value::as_object) {
            Some(groups) => groups.values().filter_map(|group| group.get("weights")).collect(),
            None if is_mixed => Vec::new(),
            None => vec![own.unwrap_or(common)],
        };
        let agreed = |keys: &[&str]| {
            let mut found = groups.iter().map(|group| keys.iter().find_map(|key| group.get(key)));
            let first = found.next().flatten()?;
            found.all(|other| other == Some(first)).then_some(first)
        };
        let block = agreed(&["weight_block_size", "block_structure"]);
        let block = block.and_then(|value| Deserialize::deserialize(value).ok());
        let format = |of: &'a Value| {
            ["checkpoint_format", "mode", "format"].iter().find_map(|key| of.get(key))
        };
        let format = own.and_then(format).or_else(|| format(common));
        Parameters {
            bits: agreed(&["bits", "num_bits", "w_bit"]).and_then(Value::as_u64),
            group_size: agreed(&["group_size", "q_group_size"]).and_then(Value::as_u64),
            block,
            format: format.and_then(Value::as_str).map(str::to_owned),
            dtype: None,
        }
    }
}

impl Layouts {
    /// The layout of this id.
    pub fn find(&self, id: &str) -> Option<&Layout> {
        self.layout.iter().find(|layout| layout.id == id)
    }

    /// Layouts from the text of a `layouts.toml`.
    ///
    /// # Errors
    /// The text does not keep the form; the message says where.
    pub fn parse(text: &str) -> Result<Layouts> {
        let layouts: Layouts = toml::from_str(text).map_err(|err| {
            Error::new(ErrorKind::Malformed, format!("layouts.toml: {}", err.message()))
        })?;
        for layout in &layouts.layout {
            let unknown = layout
                .parts
                .iter()
                .flat_map(|part| &part.dtypes)
                .find(|d| DType::parse(d).is_none());
            if let Some(dtype) = unknown {
                let message = format!("layouts.toml: {}: there is no dtype {dtype:?}", layout.id);
                return Err(Error::new(ErrorKind::Malformed, message));
            }
            if layout.parts.is_empty() {
                let message = format!("layouts.toml: {} has no parts", layout.id);
                return Err(Error::new(ErrorKind::Malformed, message));
            }
        }
        Ok(layouts)
    }

    /// Finds the logical tensors that are stored as several; stored tensors that are part of none
    /// are what they seem. `config` is a whole `config.json`, `metadata` the container's.
    pub fn group<'a>(
        &'a self,
        stored: &[Stored],
        config: Option<&Value>,
        metadata: &BTreeMap<String, String>,
    ) -> Vec<Grouped<'a>> {
        let config = Config::of(config);
        let index: HashMap<&str, usize> =
            stored.iter().enumerate().map(|(i, tensor)| (tensor.name, i)).collect();
        // The words behind the last dots are few, however many tensors there are.
        let last = |name: &'_ str| name.rsplit('.').next().map_or(0, str::len);
        let ends: HashSet<&str> = stored
            .iter()
            .map(|tensor| &tensor.name[tensor.name.len() - last(tensor.name)..])
            .collect();
        let mut used = HashSet::new();
        let mut groups = self.torchao(stored, &index, metadata);
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
        index: &HashMap<&str, usize>,
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
            let find = |part: &PartRule| {
                index.get(format!("{module}._{tensor}_{}", part.role).as_str()).copied()
            };
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
    fn fit<'a>(
        &'a self,
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

impl Layout {
    /// A decoder over the parts; `part` has the bytes of each role that is there. The values come
    /// as the parts lie, whatever `transposed` says.
    ///
    /// # Errors
    /// A part is missing or does not fit, or the parameters lack what decoding needs.
    pub fn decoder<'p>(
        &self,
        parameters: &Parameters,
        part: impl Fn(&str) -> Option<Part<'p>>,
    ) -> Result<Decoder<'p>> {
        let need = |role: &str| {
            let message = || format!("{} needs its {role}", self.id);
            part(role).ok_or_else(|| Error::new(ErrorKind::Malformed, message()))
        };
        let Parameters { bits, group_size, block, ref format, ref dtype } = *parameters;
        let small = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let stated_bits = bits.map(small);
        let bits = || {
            let message = || format!("nothing says how many bits {} has", self.id);
            stated_bits.ok_or_else(|| Error::new(ErrorKind::Malformed, message()))
        };
        let block = block.map(|block| block.map(small));
        let payload = || need(&self.parts[0].role);
        match self.decode.as_str() {
            "gptq" => {
                let version = match format.as_deref() {
                    Some("gptq_v2") => GptqVersion::V2,
                    _ => GptqVersion::V1,
                };
                let parts = [need("qweight")?, need("qzeros")?, need("scales")?];
                grouped::gptq(parts, part("g_idx"), bits()?, group_size.map(small), version)
            }
            "awq" => match bits()? {
                4 => grouped::awq([need("qweight")?, need("qzeros")?, need("scales")?]),
                bits => Err(Error::unsupported(format!("AWQ of {bits} bits"))),
            },
            "bitsandbytes_4bit" => {
                let nested = match part("nested_absmax") {
                    Some(absmax) => Some([absmax, need("nested_quant_map")?]),
                    None => None,
                };
                let state = need("quant_state")?.bytes;
                let (absmax, map) = (need("absmax")?, need("quant_map")?);
                grouped::bitsandbytes_4bit(need("weight")?, absmax, map, state, nested)
            }
            "bitsandbytes_int8" => grouped::bitsandbytes_int8(need("weight")?, need("scb")?),
            "mxfp4_blocks" => grouped::mxfp4_blocks(need("blocks")?, need("scales")?),
            "mxfp4" => grouped::mxfp4(need("weight")?, need("scales")?),
            "nvfp4" => grouped::nvfp4(need("packed")?, need("scale")?, None),
            "nvfp4_divided" => {
                let global = (need("global")?, GlobalScale::Divides);
                grouped::nvfp4(need("packed")?, need("scale")?, Some(global))
            }
            "nvfp4_multiplied" => {
                let global = (need("global")?, GlobalScale::Multiplies);
                grouped::nvfp4(need("packed")?, need("scale")?, Some(global))
            }
            "pack_quantized" => {
                let (packed, scale, shape) = (need("packed")?, need("scale")?, need("shape")?);
                let (zero, g_idx) = (part("zero"), part("g_idx"));
                grouped::pack_quantized(packed, scale, shape, zero, g_idx, stated_bits)
            }
            "scaled_f32" => {
                grouped::scaled_bytes(payload()?, need("scale")?, None, block, Compute::F32)
            }
            "scaled_as_scale" => {
                let zero = part("zero");
                grouped::scaled_bytes(payload()?, need("scale")?, zero, block, Compute::AsScale)
            }
            "torchao_int8" => {
                let precision = match dtype.as_deref().and_then(DType::parse) {
                    Some(DType::BF16) => Precision::Bf16,
                    Some(DType::F16) => Precision::F16,
                    _ => Precision::F32,
                };
                let (zero, compute) = (part("zero_point"), Compute::As(precision));
                grouped::scaled_bytes(payload()?, need("scale")?, zero, block, compute)
            }
            "torchao_int4" => {
                grouped::torchao_int4(need("qdata")?, need("scale")?, need("zero_point")?)
            }
            "mlx" => grouped::mlx(need("weight")?, need("scales")?, need("biases")?, bits()?),
            other => Err(Error::unsupported(format!("nothing here decodes {other:?}"))),
        }
    }
}

/// The dimensions of a matrix, or of a stack of them, whose values a payload of other dimensions
/// holds: those in front, rows and columns. Where they do not follow from the parts, only the bytes
/// tell that rows and columns are right.
///
/// # Errors
/// The payload cannot hold them; the reason.
pub fn matrices<'s>(
    values: &'s [u64],
    payload: &[u64],
) -> std::result::Result<(&'s [u64], u64, u64), String> {
    let [lead @ .., rows, cols] = values else {
        return Err(format!("its shape is {values:?}, expected a matrix"));
    };
    let n_values = n_elements(values).filter(|&n| DType::F32.n_bytes(n).is_some());
    let why = match (n_values, n_elements(payload)) {
        (None, _) => "too many values",
        (Some(0), Some(1..)) => "no values, of a payload that has some",
        _ if !payload.starts_with(lead) => "not a part of the payload for each matrix",
        _ => return Ok((lead, *rows, *cols)),
    };
    Err(format!("its shape is {values:?}, that of its payload {payload:?}: {why}"))
}

/// A checkpoint of a foreign folder with each tensor that is stored as several as the one that it
/// is; `None` if it has none. `config` is a whole `config.json`.
///
/// The values of one whose parts are missing or do not fit cannot be had; why is its payload.
pub fn logical(
    checkpoint: &Checkpoint,
    config: Option<&Value>,
    source: &Source,
) -> Option<Checkpoint> {
    let tensors = &checkpoint.tensors;
    let stored: Vec<Stored<'_>> = tensors.iter().map(Stored::of).collect();
    let groups = LAYOUTS.group(&stored, config, &checkpoint.metadata);
    if groups.is_empty() {
        return None;
    }
    let mut places: Vec<Option<&Grouped<'_>>> = vec![None; tensors.len()];
    let mut is_part = vec![false; tensors.len()];
    for group in &groups {
        let first = group.parts.values().copied().min();
        first.into_iter().for_each(|at| places[at] = Some(group));
        group.parts.values().for_each(|&at| is_part[at] = true);
    }
    let logical = tensors.iter().enumerate().filter_map(|(at, tensor)| match places[at] {
        Some(group) => Some(group.tensor(tensors, source)),
        None => (!is_part[at]).then(|| tensor.clone()),
    });
    Some(Checkpoint {
        format: checkpoint.format,
        tensors: logical.collect(),
        metadata: checkpoint.metadata.clone(),
        typed_metadata: checkpoint.typed_metadata.clone(),
        findings: checkpoint.findings.clone(),
        checksums: checkpoint.checksums.clone(),
    })
}

impl Layouts {
    /// What a package says of a tensor that it stores as several, held against its parts: what the
    /// tensor is, and the places of the parts in `stored`, the payload first. `None` if what it
    /// says is of blocks in line. `find` gives the place of a name.
    ///
    /// # Errors
    /// The entry has another form, or the parts are not what it says; the reason.
    pub fn packaged(
        &self,
        name: &str,
        entry: &Value,
        stored: &[Stored<'_>],
        find: impl Fn(&str) -> Option<usize>,
    ) -> std::result::Result<Option<Packaged>, String> {
        let known = entry.get("encoding").and_then(Value::as_str).and_then(|id| self.find(id));
        let Some(layout) = known else { return Ok(None) };
        let encoding: Encoding =
            Deserialize::deserialize(entry).map_err(|err: serde_json::Error| err.to_string())?;
        let find = |part: &PartRule| find(&layout.standard_name(name, &part.role));
        let group = layout.fit(name.to_owned(), stored, find, encoding.parameters.clone());
        let group = group.ok_or_else(|| format!("its parts are not those of {}", layout.id))?;
        if let Some(problem) = group.problems.into_iter().next() {
            return Err(problem);
        }
        let mut shape = group.shape;
        if let (true, Some([.., rows, cols])) = (layout.transposed, shape.as_deref_mut()) {
            std::mem::swap(rows, cols);
        }
        if let Some(shape) = shape.filter(|shape| *shape != encoding.shape) {
            let stated = &encoding.shape;
            return Err(format!("its parts make {shape:?} values, it says {stated:?}"));
        }
        let payload = group.parts.get(layout.parts[0].role.as_str()).map(|&at| stored[at].shape);
        matrices(&encoding.shape, payload.unwrap_or_default())?;
        let places = layout
            .parts
            .iter()
            .filter_map(|rule| Some((rule.role.clone(), *group.parts.get(rule.role.as_str())?)));
        Ok(Some((encoding, places.collect())))
    }

    /// Whether a config says how tensors are packed.
    pub fn is_told(&self, config: &Value) -> bool {
        let all = [Some(config), config.get("text_config")];
        all.into_iter().flatten().any(|of| self.config.iter().any(|key| of.get(key).is_some()))
    }

    /// Puts into a config what a file beside it says of how tensors are packed, by the names that
    /// configs have for it.
    pub fn tell(&self, config: &mut Value, beside: &Beside, says: Value) {
        let (Some(config), Value::Object(mut says)) = (config.as_object_mut(), says) else {
            return;
        };
        for (name, older) in [("bits", "w_bit"), ("group_size", "q_group_size")] {
            if let Some(value) = says.get(older).cloned() {
                says.entry(name).or_insert(value);
            }
        }
        says.entry("quant_method").or_insert(beside.method.as_str().into());
        config.insert(self.config[0].clone(), Value::Object(says));
    }

    /// Whether a tensor of a quantized model is no weight, but of what is quantized while it runs.
    pub fn is_runtime(&self, name: &str, config: &Value) -> bool {
        self.is_told(config) && self.runtime.iter().any(|end| name.ends_with(end.as_str()))
    }

    /// Takes what says how tensors are packed out of a config whose tensors are not.
    ///
    /// # Errors
    /// They are (`is_packed`), and nothing says it; the reason.
    pub fn keep_config(
        &self,
        config: &mut Value,
        is_packed: bool,
    ) -> std::result::Result<(), String> {
        if is_packed {
            let keys = || format!("the config has no {} to say so", self.config.join(" or "));
            return self.is_told(config).then_some(()).ok_or_else(keys);
        }
        let mut object = config.as_object_mut();
        while let Some(of) = object {
            of.retain(|key, _| !self.config.contains(key));
            object = of.get_mut("text_config").and_then(Value::as_object_mut);
        }
        Ok(())
    }

    /// The names that the parts of a tensor have in a package beside the payload.
    pub fn companions(&self, name: &str, entry: &Value) -> Vec<String> {
        let known = entry.get("encoding").and_then(Value::as_str).and_then(|id| self.find(id));
        let rules = known.map_or(&[][..], |layout| layout.parts.get(1..).unwrap_or_default());
        rules.iter().map(|rule| format!("{name}.{}", rule.role)).collect()
    }
}

impl Grouped<'_> {
    /// The logical tensor.
    fn tensor(&self, tensors: &[Tensor], source: &Source) -> Tensor {
        let parts = self.layout.parts.iter().filter_map(|rule| {
            let at = *self.parts.get(rule.role.as_str())?;
            Some(StoredPart { role: rule.role.clone(), tensor: tensors[at].clone() })
        });
        let parts: Vec<StoredPart> = parts.collect();
        let shape = self.shape.clone().or_else(|| {
            self.layout.stated_shape(|role| {
                let part = parts.iter().find(|part| part.role == role)?;
                source.slice(part.tensor.packed_extent()?).ok()
            })
        });
        let unreadable = self.problems.first().cloned().or_else(|| {
            let strided = parts.iter().find(|part| part.tensor.packed_extent().is_none());
            let strided = strided.map(|part| format!("`{}` is not contiguous", part.tensor.name));
            strided.or_else(|| shape.is_none().then(|| "its shape does not follow".to_owned()))
        });
        let payload = match unreadable {
            Some(why) => Payload::Unreadable(format!("{}: {why}", self.layout.id)),
            None => Payload::Parts(parts.clone()),
        };
        let encoding = Encoding {
            id: self.layout.id.clone(),
            shape: shape.unwrap_or_default(),
            parameters: self.parameters.clone(),
        };
        Tensor::of_parts(self.name.clone(), encoding, &parts, payload)
    }
}

impl Layout {
    /// The name of a part of a tensor in a package.
    pub fn standard_name(&self, name: &str, role: &str) -> String {
        match self.parts.first() {
            Some(payload) if payload.role == role => name.to_owned(),
            _ => format!("{name}.{role}"),
        }
    }

    /// The name that the library gives a part, if a name alone says what it is.
    pub fn library_name(&self, name: &str, role: &str) -> Option<String> {
        let rule = self.parts.iter().find(|part| part.role == role && self.torchao.is_none())?;
        Some(format!("{}{}", name.strip_suffix(&self.name)?, rule.suffix))
    }

    /// The shape where it is in the bytes of a part.
    fn stated_shape<'a>(&self, bytes: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Vec<u64>> {
        match self.decode.as_str() {
            "bitsandbytes_4bit" => grouped::stated_shape(bytes("quant_state")?),
            "pack_quantized" => {
                let ints = bytes("shape")?;
                let size = |int: i64| u64::try_from(int).ok();
                match ints.len() {
                    8 => ints
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&b| size(i32::from_le_bytes(b).into()))
                        .collect(),
                    _ => ints.as_chunks().0.iter().map(|&b| size(i64::from_le_bytes(b))).collect(),
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Groups tensors written `name DTYPE [shape]`; prints each group on a line.
    #[track_caller]
    fn check(stored: &[&str], config: Value, expected: &[&str]) {
        check_with(stored, config, &[], expected);
    }

    #[track_caller]
    fn check_with(stored: &[&str], config: Value, metadata: &[(&str, &str)], expected: &[&str]) {
        let parsed: Vec<(&str, DType, Vec<u64>)> = stored
            .iter()
            .map(|line| {
                let (name, rest) = line.split_once(' ').unwrap();
                let (dtype, shape) = rest.split_once(' ').unwrap();
                (name, DType::parse(dtype).unwrap(), serde_json::from_str(shape).unwrap())
            })
            .collect();
        let stored: Vec<Stored> = parsed
            .iter()
            .map(|(name, dtype, shape)| Stored { name, dtype: *dtype, shape })
            .collect();
        let metadata =
            metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let groups = LAYOUTS.group(&stored, Some(&config), &metadata);
        let lines: Vec<String> = groups
            .iter()
            .map(|group| {
                let roles: Vec<&str> = group.parts.keys().copied().collect();
                let shape = group.shape.as_ref().map_or("?".to_owned(), |s| format!("{s:?}"));
                let problems: String =
                    group.problems.iter().map(|problem| format!(" ({problem})")).collect();
                format!(
                    "{} {} {shape} of {}{problems}",
                    group.name,
                    group.layout.id,
                    roles.join(" ")
                )
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn gptq_and_awq_have_the_same_names() {
        let gptq = [
            "m.qweight I32 [8, 32]",
            "m.qzeros I32 [2, 4]",
            "m.scales F16 [2, 32]",
            "m.bias F16 [32]",
        ];
        let awq = ["m.qweight I32 [64, 4]", "m.qzeros I32 [2, 4]", "m.scales F16 [2, 32]"];
        let found = ["m.weight gptq [32, 64] of qweight qzeros scales"];
        check(&gptq, json!({}), &found);
        check(&gptq, json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), &found);
        check(&awq, json!({}), &["m.weight awq [32, 64] of qweight qzeros scales"]);
    }

    #[test]
    fn bits_that_do_not_follow_from_the_shapes_are_told() {
        check(
            &["m.qweight I32 [8, 32]", "m.qzeros I32 [2, 4]", "m.scales F16 [2, 32]"],
            json!({"quantization_config": {"quant_method": "gptq", "bits": 8}}),
            &["m.weight gptq [32, 32] of qweight qzeros scales \
               (the configuration says 8 bits, the shapes 4)"],
        );
    }

    #[test]
    fn missing_parts_are_told_where_the_name_tells() {
        check(
            &["m.qweight I32 [8, 32]", "m.scales F16 [2, 32]"],
            json!({}),
            &["m.weight gptq ? of qweight scales (its qzeros is missing)"],
        );
        check(&["m.weight F8_E4M3 [8, 32]"], json!({}), &[]);
    }

    #[test]
    fn a_plain_weight_beside_an_unrelated_scale_is_plain() {
        check(
            &["m.weight F32 [8, 32]", "m.scales F32 [8]", "m.weight_scale F32 [8]"],
            json!({}),
            &[],
        );
    }

    #[test]
    fn experts_keep_their_axis() {
        check(
            &["e.gate_up_proj_blocks U8 [4, 64, 2, 16]", "e.gate_up_proj_scales U8 [4, 64, 2]"],
            json!({"quantization_config": {"quant_method": "mxfp4"}}),
            &["e.gate_up_proj mxfp4.blocks [4, 64, 64] of blocks scales"],
        );
    }

    #[test]
    fn mlx_says_bits_for_each_module() {
        let of = |module: &str| {
            [
                format!("{module}.weight U32 [8, 12]"),
                format!("{module}.scales F16 [8, 2]"),
                format!("{module}.biases F16 [8, 2]"),
            ]
        };
        let tensors = [of("a"), of("b")].concat();
        let tensors: Vec<&str> = tensors.iter().map(String::as_str).collect();
        check(
            &tensors,
            json!({"quantization": {"group_size": 32, "bits": 6, "b": {"group_size": 64, "bits": 3}}}),
            &[
                "a.weight mlx.affine [8, 64] of biases scales weight",
                "b.weight mlx.affine [8, 128] of biases scales weight",
            ],
        );
    }

    #[test]
    fn modules_may_have_a_mode_of_their_own() {
        check(
            &[
                "a.weight U32 [8, 8]",
                "a.scales F16 [8, 2]",
                "a.biases F16 [8, 2]",
                "b.weight U32 [8, 8]",
                "b.scales U8 [8, 2]",
            ],
            json!({"quantization": {"bits": 4, "mode": "affine", "b": {"bits": 4, "mode": "mxfp4"}}}),
            &[
                "a.weight mlx.affine [8, 64] of biases scales weight",
                "b.weight mlx.mxfp4 [8, 64] of scales weight",
            ],
        );
    }

    #[test]
    fn patterns_of_modules_leave_bits_to_the_shapes() {
        check(
            &["m.qweight I32 [16, 32]", "m.qzeros I32 [2, 8]", "m.scales F16 [2, 32]"],
            json!({"quantization_config": {
                "quant_method": "gptq", "bits": 4, "dynamic": {"+:m": {"bits": 8}}
            }}),
            &["m.weight gptq [32, 64] of qweight qzeros scales"],
        );
    }

    #[test]
    fn torchao_says_it_in_the_metadata() {
        check_with(
            &["m._weight_qdata I8 [16, 64]", "m._weight_scale BF16 [16, 1]", "m.bias BF16 [16]"],
            json!({}),
            &[
                ("tensor_names", r#"["m.weight", "m.bias"]"#),
                ("m.bias", r#"{"_type": "Tensor"}"#),
                ("m.weight", r#"{"_type": "Int8Tensor", "_data": {"block_size": [1, 64]}}"#),
            ],
            &["m.weight torchao.int8 [16, 64] of qdata scale"],
        );
    }

    #[test]
    fn each_layout_names_arithmetic_that_there_is() {
        for layout in &LAYOUTS.layout {
            let parameters = Parameters { bits: Some(4), ..Parameters::default() };
            let err = layout.decoder(&parameters, |_| None).err().unwrap();
            assert_eq!(err.kind(), ErrorKind::Malformed, "{}: {err}", layout.id);
        }
    }
}
