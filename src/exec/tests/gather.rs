//! Copies of elements, in any chunks.

use super::{Numbers, all, gathered, input, source};
use crate::base::error::ErrorKind;
use crate::base::source::{Extent, Source};
use crate::checkpoint::{DType, Payload, Tensor, View, n_elements};
use crate::exec::produce::Producer;
use crate::plan::program::{Content, Dim, Input, Output, StridedCopy};
use crate::plan::whole::whole;

/// What a copy means, element by element.
fn naive(source: &Source, inputs: &[Input], output: &Output) -> Vec<u8> {
    let Content::Gather(program) = &output.content else { panic!("a gather") };
    let unit = program.unit as usize;
    let n = n_elements(&output.shape).expect("small");
    let mut bytes = vec![0xEE; (n * program.unit) as usize];
    for copy in &program.copies {
        let input = &inputs[copy.input];
        let storage = source.slice(input.storage).expect("inside");
        let n: u64 = copy.dims.iter().map(|dim| dim.len).product();
        for mut index in 0..n {
            let (mut from, mut to) = (copy.input_offset, copy.output_offset);
            for dim in copy.dims.iter().rev() {
                from += index % dim.len * dim.input_stride;
                to += index % dim.len * dim.output_stride;
                index /= dim.len;
            }
            let mut element = storage[from as usize * unit..][..unit].to_vec();
            if input.big_endian {
                let is_complex = matches!(program.gathered, DType::C64 | DType::C128);
                let number = if is_complex { unit / 2 } else { unit };
                element.chunks_mut(number).for_each(<[u8]>::reverse);
            }
            bytes[to as usize * unit..][..unit].copy_from_slice(&element);
        }
    }
    bytes
}

/// A mixed-radix output of up to five dimensions, read in any order, some repeated, cut along
/// the first dimension into copies from several inputs.
fn random_case(numbers: &mut Numbers, extent: Extent) -> (Vec<Input>, Output) {
    let dtypes = [DType::U8, DType::F16, DType::F32, DType::I64, DType::C64, DType::C128];
    let dtype = dtypes[numbers.below(6) as usize];
    let unit = dtype.bits() / 8;
    let rank = numbers.below(6);
    let mut shape: Vec<u64> = (0..rank).map(|_| numbers.below(7) + 1).collect();
    for len in &mut shape {
        if numbers.below(6) == 0 {
            *len *= 9;
        }
    }
    let output_strides = crate::checkpoint::row_major_strides(&shape);
    let mut axes: Vec<usize> = (0..shape.len()).collect();
    if numbers.below(3) != 0 {
        numbers.shuffle(&mut axes);
    }
    let mut input_strides = vec![0; shape.len()];
    let mut n = 1 + numbers.below(2);
    for &axis in &axes {
        if numbers.below(8) != 0 {
            input_strides[axis] = n;
            n *= shape[axis];
        }
    }
    let big_endian = numbers.below(4) == 0;
    let mut inputs = Vec::new();
    let mut copies = Vec::new();
    let n_parts = shape.first().map_or(1, |&len| numbers.below(len.min(3)) + 1);
    let mut first = 0;
    for part in 0..n_parts {
        let len = shape.first().map_or(1, |&len| {
            if part + 1 == n_parts { len - first } else { (len / n_parts).max(1) }
        });
        let start = numbers.below(40);
        let storage = Extent { file: extent.file, start, len: extent.len - start };
        let mut dims: Vec<Dim> = (0..shape.len())
            .map(|axis| Dim {
                len: if axis == 0 { len } else { shape[axis] },
                input_stride: input_strides[axis],
                output_stride: output_strides[axis],
            })
            .collect();
        if numbers.below(2) == 0 {
            numbers.shuffle(&mut dims); // Their order is advice only.
        }
        copies.push(StridedCopy {
            input: inputs.len(),
            input_offset: numbers.below(5),
            output_offset: first * output_strides.first().copied().unwrap_or(1),
            dims,
        });
        inputs.push(Input {
            name: format!("in{part}").into(),
            storage,
            dtype,
            unit,
            big_endian: big_endian ^ (numbers.below(4) == 0),
            packing: None,
            coding: None,
        });
        first += len;
    }
    numbers.shuffle(&mut copies);
    (inputs, gathered(dtype, &shape, copies, &[]))
}

#[test]
fn any_copies_in_any_chunks_give_what_their_elements_say() {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let bytes = numbers.bytes(1 << 23);
    let (source, extent) = source(&bytes);
    let mut n_cases = 0;
    while n_cases < 600 {
        let (inputs, output) = random_case(&mut numbers, extent);
        if (1 << 18) < output.n_bytes() {
            continue;
        }
        n_cases += 1;
        let expected = naive(&source, &inputs, &output);
        let producer = Producer::new(&source, &inputs, &output).expect("a sound program");
        let mut buffer = Vec::new();
        assert_eq!(producer.bytes(0..producer.len(), &mut buffer).unwrap(), expected, "{output:?}");
        for _ in 0..4 {
            let n_units = producer.len() / producer.unit();
            let start = numbers.below(n_units + 1);
            let end = start + numbers.below(n_units - start + 1);
            let range = start * producer.unit()..end * producer.unit();
            let expected = &expected[range.start as usize..range.end as usize];
            assert_eq!(
                producer.bytes(range.clone(), &mut buffer).unwrap(),
                expected,
                "{range:?} {output:?}"
            );
        }
        let chunk_len = numbers.below(producer.len().min(5000)) + 1;
        let mut joined = Vec::new();
        for range in producer.chunks(chunk_len) {
            joined.extend_from_slice(producer.bytes(range, &mut buffer).unwrap());
        }
        assert_eq!(joined, expected, "{output:?}");
    }
}

#[test]
fn dimensions_that_interleave_in_the_output_are_copied_too() {
    // Offsets 0 2 3 5, and 1 4 from a second copy: no dimension contains the other.
    let (source, extent) = source(&[10, 11, 12, 13, 14, 15]);
    let inputs = [input(extent, DType::U8, false)];
    let dim = |len, input_stride, output_stride| Dim { len, input_stride, output_stride };
    let first = vec![dim(2, 2, 3), dim(2, 1, 2)];
    let copies = vec![
        StridedCopy { input: 0, input_offset: 0, output_offset: 0, dims: first },
        StridedCopy { input: 0, input_offset: 4, output_offset: 1, dims: vec![dim(2, 1, 3)] },
    ];
    let output = gathered(DType::U8, &[6], copies, &[]);
    let expected = naive(&source, &inputs, &output);
    assert_eq!(expected, [10, 14, 11, 12, 15, 13]);
    let producer = Producer::new(&source, &inputs, &output).expect("sound");
    for start in 0..6 {
        for end in start..=6 {
            let mut buffer = vec![0; end - start];
            producer.fill(start as u64, &mut buffer, &mut []).unwrap();
            assert_eq!(buffer, expected[start..end]);
        }
    }
}

#[test]
fn a_large_transpose_equals_its_elements() {
    let mut numbers = Numbers(7);
    let (rows, columns) = (130, 259);
    for dtype in [DType::U8, DType::BF16, DType::F32, DType::F64, DType::C128] {
        let unit = dtype.bits() / 8;
        let bytes = numbers.bytes((rows * columns * unit) as usize);
        let (source, extent) = source(&bytes);
        let dims = vec![
            Dim { len: columns, input_stride: 1, output_stride: rows },
            Dim { len: rows, input_stride: columns, output_stride: 1 },
        ];
        let copies = vec![StridedCopy { input: 0, input_offset: 0, output_offset: 0, dims }];
        let inputs = [input(extent, dtype, false)];
        let output = gathered(dtype, &[columns, rows], copies, &[]);
        assert!(all(&source, &inputs, &output).unwrap() == naive(&source, &inputs, &output));
    }
}

#[test]
fn a_contiguous_copy_is_borrowed_from_the_source() {
    let bytes: Vec<u8> = (0..64).collect();
    let (source, extent) = source(&bytes);
    let payload = Payload::Range(extent.part(8, 56).expect("inside"));
    let tensor =
        Tensor { name: "t".into(), dtype: DType::F32, shape: vec![3, 4], encoding: None, payload };
    let (inputs, output) = whole(&tensor, 0).expect("sound");
    let producer = Producer::new(&source, &inputs, &output).expect("sound");
    assert_eq!(producer.borrow(4..44), Some(&bytes[12..52]));
}

fn check_refused(copies: Vec<StridedCopy>, shape: &[u64], message: &str) {
    let (source, extent) = source(&[0; 64]);
    let inputs = [input(extent, DType::F32, false)];
    let err = all(&source, &inputs, &gathered(DType::F32, shape, copies, &[])).unwrap_err();
    assert_eq!((err.kind(), err.message()), (ErrorKind::Malformed, message));
}

pub(super) fn line(
    input_offset: u64,
    output_offset: u64,
    len: u64,
    stride: u64,
) -> Vec<StridedCopy> {
    let dims = vec![Dim { len, input_stride: stride, output_stride: 1 }];
    vec![StridedCopy { input: 0, input_offset, output_offset, dims }]
}

#[test]
fn a_copy_past_its_storage_is_refused() {
    let message = "cannot produce `out`: `in` reads past its storage of 64 bytes";
    check_refused(line(1, 0, 16, 1), &[16], message);
    check_refused(line(0, 0, 16, u64::MAX), &[16], message);
    check_refused(line(u64::MAX, 0, 16, 1), &[16], message);
}

#[test]
fn a_copy_past_the_output_is_refused() {
    let message = "cannot produce `out`: a copy of `in` passes the 32 bytes of output";
    check_refused(line(0, 1, 8, 1), &[8], message);
}

#[test]
fn an_output_that_is_not_filled_is_refused() {
    let message = "cannot produce `out`: the copies fill 7 units, the output has 8";
    check_refused(line(0, 0, 7, 1), &[8], message);
}

#[test]
fn whole_reads_strided_and_big_endian_views() {
    let bytes: Vec<u8> = (0..24).collect();
    let (source, storage) = source(&bytes);
    let view = View { storage, offset: 1, strides: vec![1, 4], big_endian: true };
    let payload = Payload::View(Box::new(view));
    let tensor =
        Tensor { name: "t".into(), dtype: DType::U16, shape: vec![3, 2], encoding: None, payload };
    let (inputs, output) = whole(&tensor, 0).expect("sound");
    let bytes = all(&source, &inputs, &output).expect("sound");
    assert_eq!(bytes, [3, 2, 11, 10, 5, 4, 13, 12, 7, 6, 15, 14]);
}

#[test]
fn whole_reads_packed_and_empty_tensors() {
    let bytes: Vec<u8> = (0..24).collect();
    let (source, storage) = source(&bytes);
    let check = |dtype, shape: &[u64], payload, expected: &[u8]| {
        let tensor =
            Tensor { name: "t".into(), dtype, shape: shape.to_vec(), encoding: None, payload };
        let (inputs, output) = whole(&tensor, 0).expect("sound");
        assert_eq!(all(&source, &inputs, &output).expect("sound"), expected);
    };
    check(DType::F4, &[2, 3], Payload::Range(storage.part(4, 7).expect("inside")), &[4, 5, 6]);
    let view = View { storage, offset: 4, strides: vec![4, 1], big_endian: false };
    check(DType::F6E2M3, &[1, 4], Payload::View(Box::new(view)), &[3, 4, 5]);
    check(DType::F32, &[0, 4], Payload::Range(storage.part(4, 4).expect("inside")), &[]);
    let view = View { storage, offset: 0, strides: vec![], big_endian: false };
    check(DType::I32, &[], Payload::View(Box::new(view)), &[0, 1, 2, 3]);
}
