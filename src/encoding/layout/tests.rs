use serde_json::{Value, json};

use super::group::Stored;
use super::rules::Layouts;
use crate::base::error::ErrorKind;
use crate::checkpoint::{DType, Parameters};

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
    let stored: Vec<Stored> =
        parsed.iter().map(|(name, dtype, shape)| Stored { name, dtype: *dtype, shape }).collect();
    let metadata =
        metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let layouts = Layouts::carried();
    let groups = layouts.group(&stored, Some(&config), &metadata);
    let lines: Vec<String> = groups
        .iter()
        .map(|group| {
            let roles: Vec<&str> = group.parts.keys().copied().collect();
            let shape = group.shape.as_ref().map_or("?".to_owned(), |s| format!("{s:?}"));
            let problems: String =
                group.problems.iter().map(|problem| format!(" ({problem})")).collect();
            format!("{} {} {shape} of {}{problems}", group.name, group.layout.id, roles.join(" "))
        })
        .collect();
    assert_eq!(lines, expected);
}

#[test]
fn gptq_and_awq_have_the_same_names() {
    let gptq =
        ["m.qweight I32 [8, 32]", "m.qzeros I32 [2, 4]", "m.scales F16 [2, 32]", "m.bias F16 [32]"];
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
    check(&["m.weight F32 [8, 32]", "m.scales F32 [8]", "m.weight_scale F32 [8]"], json!({}), &[]);
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
    for layout in &Layouts::carried().layout {
        let parameters = Parameters { bits: Some(4), ..Parameters::default() };
        let err = layout.decoder(&parameters, |_| None).err().unwrap();
        assert_eq!(err.kind(), ErrorKind::Malformed, "{}: {err}", layout.id);
    }
}
