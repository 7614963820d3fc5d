use ndarray::array;
use serde_json::json;

use super::*;

/// Tensors in memory.
struct Few(BTreeMap<&'static str, (DType, Vec<u64>, Vec<u8>)>);

impl Weights for Few {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.0.keys().copied())
    }

    fn tensor(&self, name: &str) -> Result<Option<Stored<'_>>> {
        let stored = self.0.get(name).map(|(dtype, shape, bytes)| Stored {
            dtype: *dtype,
            shape: shape.clone(),
            bytes: bytes.into(),
        });
        Ok(stored)
    }
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn model(encodings: serde_json::Value, ties: serde_json::Value) -> Model {
    let model = json!({
        "spec": "1.0.0", "conformance": "schema", "encodings": encodings, "ties": ties,
    });
    serde_json::from_value(model).unwrap()
}

#[test]
fn a_linear_map_is_x_times_the_weight_transposed_plus_the_bias() {
    let few = Few(BTreeMap::from([
        ("a.weight", (DType::F32, vec![2, 3], f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))),
        ("a.bias", (DType::F32, vec![2], f32s(&[10.0, 20.0]))),
    ]));
    let model = model(json!({}), json!([]));
    let params = Params::new(&few, &model);
    let x = array![[1.0f64, 0.0, -1.0]];
    assert_eq!(params.linear(&x, "a", 2, Bias::Is(true)).unwrap(), array![[8.0, 18.0]]);
    assert_eq!(params.linear(&x, "a", 2, Bias::Stored).unwrap(), array![[8.0, 18.0]]);
    let err = params.linear(&x, "a", 2, Bias::Is(false)).unwrap_err();
    assert_eq!(err.message(), "`a.bias` is there, and the hyperparameters deny it");
    let err = params.linear(&x, "a", 3, Bias::Stored).unwrap_err();
    assert_eq!(err.message(), "`a.weight` is [2, 3], the hyperparameters say [3, 3]");
}

/// More rows than are turned into numbers at once.
#[test]
fn a_long_map_goes_block_by_block() {
    let (out, columns) = (BLOCK + 3, 2);
    let weight: Vec<f32> = (0..out * columns).map(|i| (i % 7) as f32).collect();
    let few = Few(BTreeMap::from([(
        "a.weight",
        (DType::F32, vec![out as u64, columns as u64], f32s(&weight)),
    )]));
    let model = model(json!({}), json!([["tied.weight", "a.weight"]]));
    let params = Params::new(&few, &model);
    let y = params.linear(&array![[1.0f32, 10.0]], "tied", out, Bias::Stored).unwrap();
    for (row, y) in y.iter().enumerate() {
        assert_eq!(*y, ((2 * row) % 7) as f32 + 10.0 * ((2 * row + 1) % 7) as f32);
    }
}

/// Weights in blocks are computed with as the numbers they stand for.
#[test]
fn quantized_tensors_are_their_values() {
    let values: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
    let blocks = BlockType::find("ggml.q8_0").unwrap();
    let mut packed = vec![0; 2 * blocks.block_bytes];
    blocks.quantize(&values, &mut packed).unwrap();
    let mut unpacked = vec![0.0; 64];
    blocks.dequantize(&packed, &mut unpacked).unwrap();
    assert_ne!(values, unpacked);
    let few = Few(BTreeMap::from([
        ("packed.weight", (DType::U8, vec![2, blocks.block_bytes as u64], packed)),
        ("plain.weight", (DType::F32, vec![2, 32], f32s(&unpacked))),
    ]));
    let entry = json!({ "packed.weight": { "encoding": "ggml.q8_0", "shape": [2, 32] } });
    let model = model(entry, json!([]));
    let params = Params::new(&few, &model);
    let x = Array2::from_shape_fn((3, 32), |(row, column)| (row * column) as f32);
    let packed = params.linear(&x, "packed", 2, Bias::Stored).unwrap();
    assert_eq!(packed, params.linear(&x, "plain", 2, Bias::Stored).unwrap());
    let second: Array2<f32> = params.lookup("packed.weight", [2, 32], &[1], "row").unwrap();
    assert_eq!(second.as_slice().unwrap(), &unpacked[32..]);
}
