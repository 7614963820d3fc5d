//! The first difference of two tensors.

use super::{Numbers, source};
use crate::base::source::Source;
use crate::checkpoint::{DType, Payload, Tensor, View};
use crate::exec::compare::{Operand, first_difference};
use crate::plan::whole::whole;

#[test]
fn the_first_difference_is_found_whatever_the_layout() {
    let mut numbers = Numbers(3);
    let (rows, columns) = (700, 900);
    let straight = numbers.bytes(rows * columns * 2);
    let mut turned = vec![0; straight.len()];
    for row in 0..rows {
        for column in 0..columns {
            let (from, to) = ((row * columns + column) * 2, (column * rows + row) * 2);
            turned[to..to + 2].copy_from_slice(&straight[from..from + 2]);
        }
    }
    let whole_of = |source: &Source, strides: Vec<u64>| {
        let storage = source.extent(source.files().next().expect("one file"));
        let view = View { storage, offset: 0, strides, big_endian: false };
        let shape = vec![rows as u64, columns as u64];
        let payload = Payload::View(Box::new(view));
        whole(&Tensor { name: "t".into(), dtype: DType::F16, shape, encoding: None, payload }, 0)
            .expect("sound")
    };
    let (source_a, _) = source(&straight);
    let (inputs_a, output_a) = whole_of(&source_a, vec![columns as u64, 1]);
    let compare = |turned: &[u8]| {
        let (source_b, _) = source(turned);
        let (inputs_b, output_b) = whole_of(&source_b, vec![1, rows as u64]);
        let a = Operand { source: &source_a, inputs: &inputs_a, output: &output_a };
        let b = Operand { source: &source_b, inputs: &inputs_b, output: &output_b };
        first_difference(a, b).expect("both are sound")
    };
    assert_eq!(compare(&turned), None);
    let (row, column) = (650, 123);
    turned[(column * rows + row) * 2 + 1] ^= 1;
    assert_eq!(compare(&turned), Some(((row * columns + column) * 2 + 1) as u64));
}

#[test]
fn a_shorter_tensor_differs_where_it_ends() {
    let (source, extent) = source(&[5; 64]);
    let of = |len| {
        let payload = Payload::Range(extent.part(0, len).expect("inside"));
        whole(
            &Tensor {
                name: "t".into(),
                dtype: DType::U8,
                shape: vec![len],
                encoding: None,
                payload,
            },
            0,
        )
        .expect("sound")
    };
    let ((inputs_a, output_a), (inputs_b, output_b)) = (of(20), of(9));
    let a = Operand { source: &source, inputs: &inputs_a, output: &output_a };
    let b = Operand { source: &source, inputs: &inputs_b, output: &output_b };
    assert_eq!(first_difference(a, b).unwrap(), Some(9));
}
