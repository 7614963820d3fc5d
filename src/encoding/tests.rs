//! Golden vectors: what the libraries compute, bit for bit. `fixtures/quant` has the scripts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::decoder::Decoder;
use super::ggml::{BLOCK_TYPES, BlockType};
use super::grouped::{self, Compute, GlobalScale, GptqVersion};
use super::layout::{Layouts, Stored};
use super::number::Precision;
use super::part::Part;
use crate::base::error::Result;
use crate::checkpoint::{DType, n_elements};

/// The tensors of a golden file and its metadata.
pub(super) struct Golden {
    bytes: Vec<u8>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl Golden {
    pub(super) fn read(path: &str) -> Golden {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/quant");
        let bytes = std::fs::read(root.join(path)).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Golden { bytes, metadata }
    }

    pub(super) fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensors().tensor(name).unwrap().data().to_vec()
    }

    pub(super) fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }
}

/// Fails with the first value of which other bits were expected.
#[track_caller]
pub(super) fn assert_same_bits(what: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!(
            actual.to_bits() == expected.to_bits(),
            "{what}: value {i} is {actual:?}, expected {expected:?}"
        );
    }
}

/// splitmix64, as in `make_ggml.py`.
fn stream(seed: u64) -> impl Iterator<Item = u64> {
    (1u64..).map(move |i| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

const MANY: usize = 1024;

fn many_blocks(seed: u32, block_bytes: usize) -> Vec<u8> {
    let words = stream(seed.into()).flat_map(u64::to_le_bytes);
    words.take(MANY * block_bytes).collect()
}

fn many_values(seed: u32, block_len: usize) -> Vec<f32> {
    let words = stream(1000 + u64::from(seed));
    let value = |(i, word): (usize, u64)| {
        let sum: u64 = [0, 16, 32, 48].iter().map(|shift| word >> shift & 0xffff).sum();
        let power = 2f32.powi((i / block_len % 24) as i32 - 30);
        (sum as i64 - 131_070) as f32 * power
    };
    words.enumerate().map(value).take(MANY * block_len).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn ggml_blocks_decode_as_the_reference_decodes_them() {
    for block in BLOCK_TYPES {
        let golden = Golden::read(&format!("{}.safetensors", block.id.replace('.', "/")));
        let blocks = golden.bytes("blocks");
        let mut values = vec![0.0; blocks.len() / block.block_bytes * block.block_len];
        block.dequantize(&blocks, &mut values).unwrap();
        assert_same_bits(block.id, &values, &golden.floats("values"));

        let mut values = vec![0.0; MANY * block.block_len];
        block.dequantize(&many_blocks(block.ggml_type, block.block_bytes), &mut values).unwrap();
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(digest(&bytes), golden.metadata["many_values"], "{}", block.id);
    }
}

#[test]
fn ggml_blocks_encode_as_the_reference_encodes_them() {
    for block in BLOCK_TYPES {
        let golden = Golden::read(&format!("{}.safetensors", block.id.replace('.', "/")));
        assert_eq!(block.can_quantize(), golden.metadata.contains_key("many_quantized"));
        if !block.can_quantize() {
            continue;
        }
        let values = golden.floats("input");
        let mut blocks = vec![0; values.len() / block.block_len * block.block_bytes];
        block.quantize(&values, &mut blocks).unwrap();
        let size = block.block_bytes;
        for (i, (actual, expected)) in
            blocks.chunks(size).zip(golden.bytes("quantized").chunks(size)).enumerate()
        {
            assert_eq!(actual, expected, "{}: block {i}", block.id);
        }

        let mut blocks = vec![0; MANY * block.block_bytes];
        block.quantize(&many_values(block.ggml_type, block.block_len), &mut blocks).unwrap();
        assert_eq!(digest(&blocks), golden.metadata["many_quantized"], "{}", block.id);
    }
}

/// The parts of a golden file by name, and what its metadata says.
struct Case<'a> {
    tensors: BTreeMap<String, (DType, Vec<u64>, &'a [u8])>,
    metadata: &'a BTreeMap<String, String>,
}

impl Case<'_> {
    fn get(&self, name: &str) -> Option<Part<'_>> {
        self.tensors.get(name).map(|(dtype, shape, bytes)| Part { dtype: *dtype, shape, bytes })
    }

    fn part(&self, name: &str) -> Part<'_> {
        self.get(name).unwrap()
    }

    fn numbers(&self, key: &str) -> Vec<usize> {
        let text = self.metadata.get(key).map_or("", String::as_str);
        text.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    /// Casts as the library does where it computes in F32 and gives something narrower.
    fn cast(&self, values: &mut [f32]) {
        if self.metadata.get("cast").is_some_and(|dtype| dtype == "BF16") {
            values.iter_mut().for_each(|value| *value = Precision::Bf16.round(*value));
        }
    }

    fn decoder(&self, name: &str) -> Result<Decoder<'_>> {
        let part = |name| self.part(name);
        let bits = || self.numbers("bits")[0];
        let awq_or_gptq = || [part("qweight"), part("qzeros"), part("scales")];
        if name.starts_with("fp8") {
            let scale = self.get("weight_scale_inv").unwrap_or_else(|| part("weight_scale"));
            let block = self.numbers("block").try_into().ok();
            grouped::scaled_bytes(part("weight"), scale, None, block, Compute::F32)
        } else if name.starts_with("gptq") {
            let version = match self.numbers("version")[0] {
                1 => GptqVersion::V1,
                _ => GptqVersion::V2,
            };
            let size = self.numbers("group_size")[0];
            grouped::gptq(awq_or_gptq(), self.get("g_idx"), bits(), Some(size), version)
        } else if name == "awq" {
            grouped::awq(awq_or_gptq())
        } else if name == "mxfp4-blocks" {
            grouped::mxfp4_blocks(part("blocks"), part("scales"))
        } else if name == "bnb-int8" {
            grouped::bitsandbytes_int8(part("weight"), part("SCB"))
        } else if name.starts_with("bnb") {
            let state = &name[4..7];
            let state = self.part(&format!("weight.quant_state.bitsandbytes__{state}")).bytes;
            let nested = self
                .get("weight.nested_absmax")
                .map(|absmax| [absmax, part("weight.nested_quant_map")]);
            let (absmax, map) = (part("weight.absmax"), part("weight.quant_map"));
            grouped::bitsandbytes_4bit(part("weight"), absmax, map, state, nested)
        } else if name.starts_with("ct-pack") {
            let zero = self.get("weight_zero_point");
            let (packed, scale) = (part("weight_packed"), part("weight_scale"));
            grouped::pack_quantized(packed, scale, part("weight_shape"), zero, None, Some(bits()))
        } else if name == "ct-nvfp4" {
            let global = (part("weight_global_scale"), GlobalScale::Divides);
            grouped::nvfp4(part("weight_packed"), part("weight_scale"), Some(global))
        } else if name.starts_with("ct") {
            let (scale, zero) = (part("weight_scale"), self.get("weight_zero_point"));
            grouped::scaled_bytes(part("weight"), scale, zero, None, Compute::AsScale)
        } else if name == "torchao-int4" {
            grouped::torchao_int4(part("qdata"), part("scale"), part("zero_point"))
        } else if name == "torchao-float8" {
            grouped::scaled_bytes(part("qdata"), part("scale"), None, None, Compute::F32)
        } else if name.starts_with("torchao") {
            let compute = Compute::As(Precision::Bf16);
            let zero = self.get("zero_point");
            grouped::scaled_bytes(part("qdata"), part("scale"), zero, None, compute)
        } else if name == "mlx-mxfp4" {
            grouped::mxfp4(part("weight"), part("scales"))
        } else if name == "mlx-nvfp4" {
            grouped::nvfp4(part("weight"), part("scales"), None)
        } else {
            grouped::mlx(part("weight"), part("scales"), part("biases"), bits())
        }
    }
}

/// Calls `check` with each golden case: its name, its parts, the shape and values expected.
fn for_each_layout(check: impl Fn(&str, &Case, &[u64], &[f32])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/quant/layouts");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 60, "{names:?}");
    for file in names {
        let golden = Golden::read(&format!("layouts/{file}"));
        let tensors = golden.tensors();
        let parts = tensors.iter().map(|(name, view)| {
            let shape = view.shape().iter().map(|&dim| dim as u64).collect();
            (
                name.to_owned(),
                (DType::parse(&view.dtype().to_string()).unwrap(), shape, view.data()),
            )
        });
        let case = Case { tensors: parts.collect(), metadata: &golden.metadata };
        let shape = case.part("values").shape.to_vec();
        let name = file.strip_suffix(".safetensors").unwrap();
        check(name, &case, &shape, &golden.floats("values"));
    }
}

#[test]
fn layouts_decode_as_their_libraries_decode_them() {
    for_each_layout(|name, case, shape, expected| {
        let decoder = case.decoder(name).unwrap();
        assert_eq!(decoder.shape(), shape, "{name}");
        let mut values = vec![0.0; expected.len()];
        decoder.decode(0, &mut values).unwrap();
        case.cast(&mut values);
        assert_same_bits(name, &values, expected);
    });
}

#[test]
fn any_range_of_a_layout_is_that_of_the_whole() {
    for_each_layout(|name, case, _, expected| {
        let decoder = case.decoder(name).unwrap();
        for (first, n) in [(0, 1), (1, 5), (7, expected.len() / 2), (expected.len() - 3, 3)] {
            let n = n.min(expected.len() - first);
            let mut values = vec![0.0; n];
            decoder.decode(first, &mut values).unwrap();
            case.cast(&mut values);
            assert_same_bits(name, &values, &expected[first..first + n]);
        }
        assert!(decoder.decode(expected.len(), &mut [0.0]).is_err(), "{name}");
        assert!(decoder.decode(usize::MAX, &mut [0.0]).is_err(), "{name}");
    });
}

/// The configuration and the metadata that a checkpoint with this case in it would have.
fn config(name: &str, case: &Case) -> (Value, BTreeMap<String, String>) {
    let number = |key: &str| case.numbers(key).first().copied();
    let mut metadata = BTreeMap::new();
    let config = match name.split('-').next().unwrap() {
        "fp8" => json!({"quant_method": "fp8", "weight_block_size": case.numbers("block")}),
        "gptq" => json!({
            "quant_method": "gptq",
            "bits": number("bits"),
            "group_size": number("group_size"),
            "checkpoint_format": if number("version") == Some(2) { "gptq_v2" } else { "gptq" },
        }),
        "awq" => json!({"quant_method": "awq", "bits": 4, "group_size": 32}),
        "mxfp4" => json!({"quant_method": "mxfp4"}),
        "bnb" => json!({"quant_method": "bitsandbytes"}),
        "ct" => json!({
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": number("bits")}}},
        }),
        "torchao" => {
            let class = match name {
                "torchao-int8" => "Int8Tensor",
                "torchao-intx" => "IntxUnpackedToInt8Tensor",
                "torchao-int4" => "Int4Tensor",
                _ => "Float8Tensor",
            };
            let dtype = json!({"_type": "torch.dtype", "_data": "bfloat16"});
            let about = json!({"_type": class, "_data": {"dtype": dtype}});
            metadata.insert("tensor_names".to_owned(), r#"["m.weight"]"#.to_owned());
            metadata.insert("m.weight".to_owned(), about.to_string());
            json!({"quant_method": "torchao"})
        }
        _ => {
            let mode = match name {
                "mlx-mxfp4" => "mxfp4",
                "mlx-nvfp4" => "nvfp4",
                _ => "affine",
            };
            let bits = number("bits").unwrap_or(4);
            return (json!({"quantization": {"bits": bits, "mode": mode}}), metadata);
        }
    };
    (json!({"quantization_config": config}), metadata)
}

#[test]
fn layouts_are_found_and_decoded_in_a_checkpoint() {
    for_each_layout(|name, case, shape, expected| {
        let prefix = match name.split('-').next().unwrap() {
            "torchao" => "m._weight_",
            "mxfp4" => "m_",
            _ => "m.",
        };
        let parts: Vec<(String, Part)> = case
            .tensors
            .keys()
            .filter(|part| *part != "values")
            .map(|part| (format!("{prefix}{part}"), case.part(part)))
            .collect();
        let stored: Vec<Stored> = parts
            .iter()
            .map(|(name, part)| Stored { name, dtype: part.dtype, shape: part.shape })
            .collect();
        let (config, metadata) = config(name, case);
        let layouts = Layouts::carried();
        let groups = layouts.group(&stored, Some(&config), &metadata);
        if ["fp8-e4m3fnuz", "fp8-e5m2fnuz"].contains(&name) {
            assert!(groups.is_empty(), "no layout has one scale for this type");
            return;
        }
        let [group] = &groups[..] else { panic!("{name}: {groups:?}") };
        assert_eq!(group.problems, Vec::<String>::new(), "{name}");
        assert_eq!(group.parts.len(), stored.len(), "{name}: {group:?}");
        assert_eq!(group.name, if prefix == "m_" { "m" } else { "m.weight" });
        let mut found = group.shape.clone();
        if let (true, Some([.., rows, cols])) = (group.layout.transposed, found.as_deref_mut()) {
            std::mem::swap(rows, cols);
        }
        assert!(found.is_none_or(|found| found == *shape), "{name}: {group:?}");
        let decoder = group
            .layout
            .decoder(&group.parameters, |role| group.parts.get(role).map(|&at| parts[at].1))
            .unwrap();
        assert_eq!(decoder.shape(), shape, "{name}");
        let mut values = vec![0.0; expected.len()];
        decoder.decode(0, &mut values).unwrap();
        case.cast(&mut values);
        assert_same_bits(name, &values, expected);
    });
}

/// What a hostile header can say: parts of other shapes and types, with as many bytes as they say.
#[test]
fn parts_that_do_not_fit_are_errors_or_decode_without_a_panic() {
    for_each_layout(|name, case, _, _| {
        let names: Vec<&String> = case.tensors.keys().filter(|part| *part != "values").collect();
        for changed in names {
            let (dtype, shape, bytes) = &case.tensors[changed];
            let mut shapes: Vec<Vec<u64>> = vec![vec![], vec![0], vec![1], vec![0, 0], vec![3, 5]];
            for axis in 0..shape.len() {
                for dim in [0, 1, shape[axis] - 1, shape[axis] + 1, 2 * shape[axis], 1 << 40] {
                    let mut shape = shape.clone();
                    shape[axis] = dim;
                    shapes.push(shape);
                }
            }
            let dtypes = [*dtype, DType::U8, DType::I32, DType::F16, DType::F64, DType::F4];
            for (shape, dtype) in shapes.iter().flat_map(|s| dtypes.map(|dtype| (s, dtype))) {
                let n = n_elements(shape).and_then(|n| dtype.n_bytes(n));
                let Some(n) = n.filter(|&n| n < 1 << 20) else { continue };
                let all: Vec<u8> = bytes.iter().copied().cycle().take(n as usize).collect();
                let mut tensors = case.tensors.clone();
                tensors.insert(changed.clone(), (dtype, shape.clone(), &all));
                let case = Case { tensors, metadata: case.metadata };
                if let Ok(decoder) = case.decoder(name) {
                    let n = n_elements(decoder.shape()).unwrap() as usize;
                    decoder.decode(0, &mut vec![0.0; n]).unwrap();
                }
            }
        }
    });
}

#[test]
fn nibbles_go_to_ggml_s_order_and_back() {
    let pairs: [u8; 16] = std::array::from_fn(|j| (37 * j + 11) as u8);
    let halves = grouped::pairs_to_halves(pairs);
    assert_eq!(grouped::halves_to_pairs(halves), pairs);

    let blocks = [&[127][..], &halves].concat();
    let (mut by_ggml, mut by_pairs) = ([0.0; 32], [0.0; 32]);
    BlockType::find("ggml.mxfp4").unwrap().dequantize(&blocks, &mut by_ggml).unwrap();
    let blocks = Part::new(DType::U8, &[1, 1, 16], &pairs).unwrap();
    let scales = Part::new(DType::U8, &[1, 1], &[127]).unwrap();
    grouped::mxfp4_blocks(blocks, scales).unwrap().decode(0, &mut by_pairs).unwrap();
    assert_eq!(by_ggml, by_pairs);
}
