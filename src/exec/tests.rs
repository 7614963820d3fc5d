//! Laws of the executor, tried on many small cases from a fixed generator.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use sha2::{Digest, Sha256};

use super::compare::{Operand, first_difference};
use super::container::Safetensors;
use super::digest::{Side, digest, digests, digests_and_files, digests_of_two};
use super::hash::{Hash, update_both};
use super::kernel::Chain;
use super::make::Made;
use super::produce::Producer;
use super::staging::{Existing, Staging, free_space};
use super::write::{Options, Shard, Written, shards, write};
use crate::base::error::{ErrorKind, Result};
use crate::base::source::{Extent, Source};
use crate::checkpoint::{DType, Payload, Tensor, View, n_elements};
use crate::package::Loss;
use crate::plan::program::{
    Content, Dim, Input, Kernel, Make, Output, Program, Recipe, StridedCopy, whole,
};

/// Xorshift: the same numbers on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 24) as u8).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

fn source(bytes: &[u8]) -> (Source, Extent) {
    let source = Source::from_bytes("weights", bytes);
    let file = source.files().next().expect("one file");
    let extent = source.extent(file);
    (source, extent)
}

fn gathered(dtype: DType, shape: &[u64], copies: Vec<StridedCopy>, kernels: &[Kernel]) -> Output {
    let program =
        Program { gathered: dtype, unit: dtype.bits() / 8, copies, kernels: kernels.to_vec() };
    let mut casts = kernels.iter().filter_map(|kernel| match kernel {
        Kernel::Cast(dtype) => Some(*dtype),
        _ => None,
    });
    let dtype = casts.next_back().unwrap_or(dtype);
    let content = Content::Gather(program);
    Output { name: "out".to_owned(), dtype, shape: shape.to_vec(), content }
}

fn input(storage: Extent, dtype: DType, big_endian: bool) -> Input {
    let unit = dtype.bits() / 8;
    Input { name: "in".to_owned(), storage, coding: None, dtype, unit, big_endian, packing: None }
}

fn all(source: &Source, inputs: &[Input], output: &Output) -> Result<Vec<u8>> {
    let producer = Producer::new(source, inputs, output)?;
    let mut buffer = Vec::new();
    Ok(producer.bytes(0..producer.len(), &mut buffer)?.to_vec())
}

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
            name: format!("in{part}"),
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
    let tensor = Tensor {
        name: "t".to_owned(),
        dtype: DType::F32,
        shape: vec![3, 4],
        encoding: None,
        payload,
    };
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

fn line(input_offset: u64, output_offset: u64, len: u64, stride: u64) -> Vec<StridedCopy> {
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
    let payload = Payload::View(view);
    let tensor = Tensor {
        name: "t".to_owned(),
        dtype: DType::U16,
        shape: vec![3, 2],
        encoding: None,
        payload,
    };
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
            Tensor { name: "t".to_owned(), dtype, shape: shape.to_vec(), encoding: None, payload };
        let (inputs, output) = whole(&tensor, 0).expect("sound");
        assert_eq!(all(&source, &inputs, &output).expect("sound"), expected);
    };
    check(DType::F4, &[2, 3], Payload::Range(storage.part(4, 7).expect("inside")), &[4, 5, 6]);
    let view = View { storage, offset: 4, strides: vec![4, 1], big_endian: false };
    check(DType::F6E2M3, &[1, 4], Payload::View(view), &[3, 4, 5]);
    check(DType::F32, &[0, 4], Payload::Range(storage.part(4, 4).expect("inside")), &[]);
    let view = View { storage, offset: 0, strides: vec![], big_endian: false };
    check(DType::I32, &[], Payload::View(view), &[0, 1, 2, 3]);
}

fn apply(from: DType, kernels: &[Kernel], to: DType, input: &[u8]) -> (Vec<u8>, Loss) {
    let chain = Chain::new(from, kernels, to).expect("a sound chain");
    let mut output = vec![0; input.len() / (from.bits() / 8) as usize * (to.bits() / 8) as usize];
    let loss = chain.apply(input, &mut output);
    (output, loss)
}

fn all_16_bits() -> Vec<u8> {
    (0..=u16::MAX).flat_map(u16::to_le_bytes).collect()
}

#[test]
fn kernels_on_every_16_bit_float_equal_f32_arithmetic() {
    let c = 0.883_883_476_483_184_4; // No F32.
    type Arithmetic = fn(f32) -> f32;
    let kernels: [(Kernel, Arithmetic); 4] = [
        (Kernel::Add(1.0), |x| x + 1.0),
        (Kernel::Add(-c), |x| x + -0.883_883_476_483_184_4f64 as f32),
        (Kernel::Scale(c), |x| x * 0.883_883_476_483_184_4f64 as f32),
        (Kernel::Divide(c), |x| x / 0.883_883_476_483_184_4f64 as f32),
    ];
    let input = all_16_bits();
    for (kernel, f) in kernels {
        let (brains, _) = apply(DType::BF16, &[kernel], DType::BF16, &input);
        let (halves, _) = apply(DType::F16, &[kernel], DType::F16, &input);
        for bits in 0..=u16::MAX {
            let at = |bytes: &[u8]| {
                let at = usize::from(bits) * 2;
                u16::from_le_bytes([bytes[at], bytes[at + 1]])
            };
            let (expected, is) =
                (bf16::from_f32(f(bf16::from_bits(bits).to_f32())), bf16::from_bits(at(&brains)));
            assert!(expected.to_bits() == is.to_bits() || expected.is_nan() && is.is_nan());
            let (expected, is) =
                (f16::from_f32(f(f16::from_bits(bits).to_f32())), f16::from_bits(at(&halves)));
            assert!(expected.to_bits() == is.to_bits() || expected.is_nan() && is.is_nan());
        }
    }
}

#[test]
fn every_16_bit_float_comes_back_from_f32_and_f64() {
    let input = all_16_bits();
    for from in [DType::F16, DType::BF16] {
        for to in [DType::F32, DType::F64] {
            let (_, loss) = apply(from, &[Kernel::Cast(to)], to, &input);
            // Signalling NaNs become quiet ones: all bit patterns of the upper half but zero.
            let n_signalling = if from == DType::F16 { 2 * 511 } else { 2 * 63 };
            assert_eq!((loss.elements, loss.changed), (65536, n_signalling), "{from} {to}");
            assert_eq!((loss.infinities, loss.nans, loss.max_relative_error), (0, 0, 0.0));
        }
    }
}

#[test]
fn casts_from_f64_round_once() {
    // Just above the middle of two F16 or BF16; rounded to F32 first, it is the middle.
    let check = |value: f64, to: DType, expected: u16| {
        let (bytes, _) = apply(DType::F64, &[Kernel::Cast(to)], to, &value.to_le_bytes());
        assert_eq!(bytes, expected.to_le_bytes(), "{value} {to}");
    };
    check(1.0 + 2f64.powi(-11), DType::F16, 0x3C00);
    check(1.0 + 2f64.powi(-11) + 2f64.powi(-40), DType::F16, 0x3C01);
    check(-1.0 - 2f64.powi(-11) - 2f64.powi(-40), DType::F16, 0xBC01);
    check(1.0 + 2f64.powi(-8) + 2f64.powi(-40), DType::BF16, 0x3F81);
    check(65520.0 - 2f64.powi(-30), DType::F16, 0x7BFF);
    check(65520.0, DType::F16, 0x7C00);
    check(1e300, DType::BF16, 0x7F80);
    check(1e-300, DType::F16, 0);
}

#[test]
fn a_lossy_cast_is_accounted_for() {
    let values = [1.0f32, 1.0 + 2f32.powi(-12), 1e6, f32::NAN, -0.0, 2f32.powi(-26)];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (_, loss) = apply(DType::F32, &[Kernel::Cast(DType::F16)], DType::F16, &bytes);
    let expected =
        Loss { elements: 6, changed: 3, infinities: 1, nans: 0, max_relative_error: 1.0 };
    assert_eq!(loss, expected);
}

#[test]
fn neg_exp_comes_back_in_f32_nearly_and_in_f64_more_so() {
    let values: Vec<f64> = (1..2000).map(|i| f64::from(i) / 700.0).collect();
    let singles: Vec<u8> = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
    let (bytes, loss) = apply(DType::F32, &[Kernel::NegExp], DType::F32, &singles);
    for (single, bytes) in values.iter().zip(bytes.chunks_exact(4)) {
        let expected = -f64::from(*single as f32).exp() as f32;
        assert_eq!(bytes, expected.to_le_bytes());
    }
    assert!(loss.max_relative_error < 1e-3 && loss.changed < loss.elements, "{loss:?}");
    let doubles: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (_, loss) = apply(DType::F64, &[Kernel::NegExp], DType::F64, &doubles);
    assert!(loss.max_relative_error < 1e-12, "{loss:?}");
    let (_, loss) = apply(DType::F32, &[Kernel::LnNeg], DType::F32, &singles);
    assert_eq!(loss.nans, loss.elements);
}

#[test]
fn kernels_round_only_where_they_are_asked_to() {
    // 1 + 2^-9 is no BF16, so a rounding in between would lose it.
    let bytes = bf16::from_f32(2f32.powi(-9)).to_le_bytes();
    let kernels = [Kernel::Add(1.0), Kernel::Cast(DType::F32)];
    let (output, _) = apply(DType::BF16, &kernels, DType::F32, &bytes);
    assert_eq!(output, (1.0 + 2f32.powi(-9)).to_le_bytes());
}

#[test]
fn integers_pass_no_kernels() {
    assert!(Chain::new(DType::I32, &[Kernel::Add(1.0)], DType::I32).is_err());
    assert!(Chain::new(DType::F32, &[Kernel::Cast(DType::F8E4M3)], DType::F8E4M3).is_err());
    assert!(Chain::new(DType::F32, &[Kernel::Cast(DType::F16)], DType::F32).is_err());
}

fn make(dtype: DType, shape: &[u64], recipe: Recipe) -> Result<Vec<u8>> {
    let made = Made::new(&Make { dtype, shape: shape.to_vec(), recipe })?;
    let n = n_elements(shape).expect("small");
    let mut bytes = vec![0xEE; (n * made.unit()) as usize];
    made.fill(0, &mut bytes);
    for element in 0..n {
        let start = (element * made.unit()) as usize;
        let mut part = vec![0; bytes.len() - start];
        made.fill(start as u64, &mut part);
        assert_eq!(part, bytes[start..], "from element {element} on");
    }
    Ok(bytes)
}

#[test]
fn rotary_frequencies_are_those_of_torch() {
    let golden = include_str!("golden/rope_inv_freq.txt");
    for line in golden.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let theta: f64 = words.next().unwrap().parse().unwrap();
        let dim: u64 = words.next().unwrap().parse().unwrap();
        let recipe = Recipe::RopeInvFreq { theta, dim };
        let bytes = make(DType::F32, &[dim / 2], recipe).unwrap();
        let bits = bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
        let bits: Vec<String> = bits.map(|bits| format!("{bits:08x}")).collect();
        assert_eq!(bits, words.collect::<Vec<_>>(), "theta {theta}, dim {dim}");
    }
}

#[test]
fn a_causal_mask_shows_what_came_before() {
    let mask = |window| {
        let bytes = make(DType::Bool, &[1, 1, 4, 4], Recipe::CausalMask { window }).unwrap();
        let text: String = bytes.iter().map(|&byte| if byte == 1 { '1' } else { '0' }).collect();
        text
    };
    assert_eq!(mask(None), "1000110011101111");
    assert_eq!(mask(Some(2)), "1000110001100011");
    assert!(make(DType::Bool, &[4], Recipe::CausalMask { window: None }).is_err());
}

#[test]
fn iota_counts_along_the_last_axis() {
    let bytes = make(DType::I64, &[2, 3], Recipe::Iota).unwrap();
    let numbers: Vec<u8> = bytes.iter().step_by(8).copied().collect();
    assert_eq!(numbers, [0, 1, 2, 0, 1, 2]);
    assert_eq!(make(DType::U8, &[256], Recipe::Iota).unwrap(), (0..=255).collect::<Vec<u8>>());
    assert!(make(DType::U8, &[257], Recipe::Iota).is_err());
    assert!(make(DType::Bool, &[3], Recipe::Iota).is_err());
}

#[test]
fn sinusoidal_positions_are_sines_then_cosines() {
    let bytes = make(DType::F32, &[3, 4], Recipe::Sinusoid).unwrap();
    let numbers: Vec<f32> =
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    // As NumPy 2.4.6 gives them for dimension 4: angles p and p/100.
    assert_eq!(numbers[..4], [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(numbers[8..], [0.909_297_4, 0.019_998_666, -0.416_146_85, 0.999_8]);
    assert!(make(DType::F32, &[3, 5], Recipe::Sinusoid).is_err());
    assert!(make(DType::F32, &[4], Recipe::Sinusoid).is_err());
    assert!(make(DType::I64, &[3, 4], Recipe::Sinusoid).is_err());
}

#[test]
fn a_constant_is_one_element_again_and_again() {
    let check = |dtype, value, expected: &[u8]| {
        let bytes = make(dtype, &[2], Recipe::Constant(value)).unwrap();
        assert_eq!(bytes, [expected, expected].concat(), "{dtype}");
    };
    check(DType::Bool, 1.0, &[1]);
    check(DType::I8, -2.0, &[0xFE]);
    check(DType::U16, 513.0, &[1, 2]);
    check(DType::I32, -1.0, &[0xFF; 4]);
    check(DType::U64, 7.0, &[7, 0, 0, 0, 0, 0, 0, 0]);
    check(DType::F16, 1.0, &[0, 0x3C]);
    check(DType::BF16, -10000.0, &[0x1C, 0xC6]);
    check(DType::F32, 0.1, &0.1f32.to_le_bytes());
    check(DType::F64, 0.1, &0.1f64.to_le_bytes());
    check(DType::C64, 1.0, &[0, 0, 0x80, 0x3F, 0, 0, 0, 0]);
    for (dtype, value) in
        [(DType::U8, -1.0), (DType::I32, 0.5), (DType::Bool, 2.0), (DType::I64, f64::NAN)]
    {
        assert!(make(dtype, &[2], Recipe::Constant(value)).is_err(), "{dtype} {value}");
    }
}

/// Outputs of every kind, some longer than a chunk, some empty, many small.
fn model(numbers: &mut Numbers) -> (Source, Vec<Input>, Vec<Output>) {
    let bytes = numbers.bytes(12 << 20);
    let (source, extent) = source(&bytes);
    let mut inputs = Vec::new();
    let mut outputs = Vec::new();
    let mut add = |name: &str, dtype: DType, shape: &[u64], start: u64| {
        let n_bytes = n_elements(shape).and_then(|n| dtype.n_bytes(n)).expect("small");
        let payload = Payload::Range(extent.part(start, start + n_bytes).expect("inside"));
        let tensor =
            Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), encoding: None, payload };
        let (read, output) = whole(&tensor, inputs.len()).expect("sound");
        inputs.extend(read);
        outputs.push(output);
    };
    add("embed", DType::BF16, &[5000, 1024 / 2], 3);
    for i in 0..60 {
        add(&format!("layers.{i}.norm"), DType::F32, &[i % 7, 33], i * 1000);
        if i % 20 == 0 {
            add(&format!("layers.{i}.w"), DType::F16, &[300, 200 + i], i * 777);
        }
    }
    add("transposed", DType::F32, &[1024, 1500], 17);
    add("cast", DType::F32, &[1200, 1000], 91);
    add("wide", DType::BF16, &[900, 1000], 4);
    add("byte", DType::U8, &[], 9);
    add("nothing", DType::F32, &[0], 9);
    let edit = |outputs: &mut Vec<Output>, name: &str, f: &dyn Fn(&mut Output, &mut Program)| {
        let output = outputs.iter_mut().find(|output| output.name == name).expect("added");
        let Content::Gather(mut program) = output.content.clone() else { panic!("a gather") };
        f(output, &mut program);
        output.content = Content::Gather(program);
    };
    edit(&mut outputs, "transposed", &|output, program| {
        output.shape = vec![1500, 1024];
        program.copies[0].dims = vec![
            Dim { len: 1500, input_stride: 1, output_stride: 1024 },
            Dim { len: 1024, input_stride: 1500, output_stride: 1 },
        ];
    });
    edit(&mut outputs, "cast", &|output, program| {
        output.dtype = DType::BF16;
        program.kernels = vec![Kernel::Cast(DType::BF16)];
    });
    edit(&mut outputs, "wide", &|output, program| {
        output.dtype = DType::F64;
        program.kernels = vec![Kernel::Add(1.0), Kernel::Cast(DType::F64)];
    });
    let made = Make {
        dtype: DType::Bool,
        shape: vec![700, 700],
        recipe: Recipe::CausalMask { window: None },
    };
    let (dtype, shape) = (made.dtype, made.shape.clone());
    let content = Content::Make(made);
    outputs.insert(1, Output { name: "mask \"é\"".to_owned(), dtype, shape, content });
    (source, inputs, outputs)
}

fn write_model(
    (source, inputs, outputs): &(Source, Vec<Input>, Vec<Output>),
    shards: &[Shard],
    n_threads: usize,
    hash_files: bool,
    dir: &Path,
) -> Written {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let options = Options { n_threads, hash_files, progress: &|_| (), cancel: None };
    write(source, inputs, outputs, shards, &Safetensors(&metadata), dir, &options)
        .expect("a sound plan")
}

#[test]
fn files_are_what_the_reference_reader_reads_at_any_thread_count() {
    let model = model(&mut Numbers(99));
    let (source, inputs, outputs) = &model;
    let expected = digests(source, inputs, outputs, 3, &|_| ()).expect("sound");
    for (output, expected) in outputs.iter().zip(&expected) {
        assert_eq!(&digest(source, inputs, output).unwrap(), expected);
        let bytes = all(source, inputs, output).expect("sound");
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&bytes)), *expected, "{}", output.name);
    }
    for max_shard_bytes in [None, Some(7 << 20), Some(1)] {
        let shards = shards(outputs, max_shard_bytes, "model", "safetensors");
        let mut first: Option<(Written, Vec<Vec<u8>>)> = None;
        for n_threads in [1, 2, 7] {
            let dir = tempfile::tempdir().unwrap();
            let written = write_model(&model, &shards, n_threads, true, dir.path());
            let read = |file: &super::write::WrittenFile| {
                std::fs::read(dir.path().join(&file.name)).unwrap()
            };
            let files: Vec<Vec<u8>> = written.files.iter().map(read).collect();
            match &first {
                None => first = Some((written, files)),
                Some(first) => assert!(*first == (written, files), "{n_threads} threads"),
            }
        }
        let (written, files) = first.expect("written");
        for (file, bytes) in written.files.iter().zip(&files) {
            assert_eq!(file.len, bytes.len() as u64);
            assert_eq!(file.sha256, Some(Sha256::digest(bytes).into()));
            let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) + 8;
            assert_eq!(header_len % 64, 0);
        }
        for ((output, written), expected) in outputs.iter().zip(&written.tensors).zip(&expected) {
            let bytes = &files[written.file];
            let tensors = safetensors::SafeTensors::deserialize(bytes).expect("a sound file");
            let tensor = tensors.tensor(&output.name).expect("it is there");
            assert_eq!(tensor.dtype().to_string(), output.dtype.name());
            let shape: Vec<u64> = tensor.shape().iter().map(|&dim| dim as u64).collect();
            assert_eq!(shape, output.shape);
            assert_eq!(&<[u8; 32]>::from(Sha256::digest(tensor.data())), expected);
            assert_eq!(&written.sha256, expected);
            let range = written.offset as usize..(written.offset + written.len) as usize;
            assert_eq!(&bytes[range], tensor.data());
            let has_kernels =
                matches!(&output.content, Content::Gather(program) if !program.kernels.is_empty());
            assert_eq!(
                written.loss.map(|loss| loss.elements),
                has_kernels.then(|| { n_elements(&output.shape).unwrap() })
            );
        }
    }
}

#[test]
fn two_hashes_side_by_side_are_those_of_sha2() {
    let mut numbers = Numbers(17);
    let bytes = numbers.bytes(5000);
    for case in 0..400 {
        let (mut a, mut b) = (Hash::default(), Hash::default());
        let start = numbers.below(140) as usize & if case % 3 == 0 { 64 } else { 255 };
        a.update(&bytes[..start]);
        let mut at = start;
        let end = start + numbers.below(if case % 2 == 0 { 300 } else { 4800 }) as usize;
        while at < end {
            let next = end.min(at + 1 + numbers.below(700) as usize);
            update_both(&mut a, &mut b, &bytes[at..next]);
            at = next;
        }
        assert_eq!(a.finish(), <[u8; 32]>::from(Sha256::digest(&bytes[..end])));
        assert_eq!(b.finish(), <[u8; 32]>::from(Sha256::digest(&bytes[start..end])));
        assert_eq!(a.finish(), <[u8; 32]>::from(Sha256::digest([])));
    }
}

#[test]
fn pairs_are_hashed_once_and_others_by_themselves() {
    let (one, other) = (model(&mut Numbers(99)), model(&mut Numbers(98)));
    let alone = |(source, inputs, outputs): &(Source, Vec<Input>, Vec<Output>)| {
        digests(source, inputs, outputs, 2, &|_| ()).expect("sound")
    };
    fn side<'a>((source, inputs, outputs): &'a (Source, Vec<Input>, Vec<Output>)) -> Side<'a> {
        Side { source, inputs, outputs }
    }
    let expected = [alone(&one), alone(&other)];
    let n = one.2.len();
    // Each with itself, the last with the first: what is alike, and what is not.
    let same = (0..n).map(|at| [at, at]).collect::<Vec<_>>();
    let turned = (0..n).map(|at| [at, n - 1 - at]).collect::<Vec<_>>();
    let across = (0..n.min(other.2.len())).map(|at| [at, at]).collect::<Vec<_>>();
    for pairs in [&same, &turned] {
        let [left, right] = digests_of_two(&side(&one), &side(&one), pairs, 3, &|_| ()).unwrap();
        assert_eq!((&left, &right), (&expected[0], &expected[0]));
    }
    let found = digests_of_two(&side(&one), &side(&other), &across, 1, &|_| ());
    assert_eq!(found.unwrap(), expected);
    assert_ne!(expected[0], expected[1]);
}

#[test]
fn files_are_hashed_beside_tensors() {
    let (source, inputs, outputs) = model(&mut Numbers(7));
    let files: Vec<_> = source.files().collect();
    let (tensors, of_files) =
        digests_and_files(&source, &inputs, &outputs, &files, 3, &|_| ()).expect("sound");
    assert_eq!(tensors, digests(&source, &inputs, &outputs, 1, &|_| ()).expect("sound"));
    for (file, digest) in files.into_iter().zip(of_files) {
        assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(source.bytes(file))));
    }
}

#[test]
fn files_are_not_hashed_unless_asked() {
    let model = model(&mut Numbers(5));
    let dir = tempfile::tempdir().unwrap();
    let shards = shards(&model.2, None, "model", "safetensors");
    let written = write_model(&model, &shards, 2, false, dir.path());
    assert_eq!(written.files[0].sha256, None);
    assert_eq!(written.index, None);
}

#[test]
fn every_dtype_has_the_name_that_safetensors_gives_it() {
    let (source, extent) = source(&[0; 128]);
    for &dtype in DType::ALL {
        let named = !matches!(dtype, DType::C128 | DType::Unknown);
        let payload = Payload::Range(extent.part(0, dtype.bits()).expect("inside"));
        let tensor =
            Tensor { name: "t".to_owned(), dtype, shape: vec![8], encoding: None, payload };
        let (inputs, output) = whole(&tensor, 0).expect("sound");
        let dir = tempfile::tempdir().unwrap();
        let options = Options { n_threads: 1, hash_files: false, progress: &|_| (), cancel: None };
        let outputs = [output];
        let shards = shards(&outputs, None, "model", "safetensors");
        let metadata = BTreeMap::new();
        let written = write(
            &source,
            &inputs,
            &outputs,
            &shards,
            &Safetensors(&metadata),
            dir.path(),
            &options,
        );
        assert_eq!(written.is_ok(), named, "{dtype}");
        if written.is_ok() {
            let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
            let read = safetensors::SafeTensors::deserialize(&bytes);
            assert!(read.is_ok(), "{dtype}: {:?}", read.err());
        }
    }
}

#[test]
fn shards_split_between_tensors() {
    let output = |name: &str, len: u64| {
        let recipe = Recipe::Constant(0.0);
        let make = Make { dtype: DType::U8, shape: vec![len], recipe };
        let content = Content::Make(make);
        Output { name: name.to_owned(), dtype: DType::U8, shape: vec![len], content }
    };
    let outputs = [output("a", 4), output("b", 6), output("c", 11), output("d", 1), output("e", 9)];
    let ranges = |max: Option<u64>| {
        let shards = shards(&outputs, max, "model", "safetensors");
        shards.into_iter().map(|shard| (shard.name, shard.outputs)).collect::<Vec<_>>()
    };
    assert_eq!(ranges(None), [("model.safetensors".to_owned(), 0..5)]);
    let expected = [
        ("model-00001-of-00003.safetensors".to_owned(), 0..2),
        ("model-00002-of-00003.safetensors".to_owned(), 2..3),
        ("model-00003-of-00003.safetensors".to_owned(), 3..5),
    ];
    assert_eq!(ranges(Some(10)), expected);
    assert_eq!(shards(&[], Some(10), "model", "safetensors").len(), 1);

    let (source, _) = source(&[0]);
    let dir = tempfile::tempdir().unwrap();
    let model = (source, Vec::new(), outputs.to_vec());
    let shards = shards(&outputs, Some(10), "model", "safetensors");
    let index = write_model(&model, &shards, 2, true, dir.path()).index.expect("three shards");
    let expected = r#"{
  "metadata": {
    "total_size": 31
  },
  "weight_map": {
    "a": "model-00001-of-00003.safetensors",
    "b": "model-00001-of-00003.safetensors",
    "c": "model-00002-of-00003.safetensors",
    "d": "model-00003-of-00003.safetensors",
    "e": "model-00003-of-00003.safetensors"
  }
}
"#;
    assert_eq!(index, expected);
}

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
        let payload = Payload::View(view);
        whole(
            &Tensor { name: "t".to_owned(), dtype: DType::F16, shape, encoding: None, payload },
            0,
        )
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
                name: "t".to_owned(),
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

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("out");
    let staging = Staging::new(&destination, Existing::Keep).unwrap();
    std::fs::create_dir(staging.path().join("sub")).unwrap();
    std::fs::write(staging.path().join("sub/file"), "new").unwrap();
    assert!(!destination.exists());
    drop(staging);
    assert_eq!(names(dir.path()), [""; 0]);

    let staging = Staging::new(&destination, Existing::Keep).unwrap();
    std::fs::write(staging.path().join("file"), "new").unwrap();
    staging.commit().unwrap();
    assert_eq!(names(dir.path()), ["out"]);
    assert_eq!(std::fs::read_to_string(destination.join("file")).unwrap(), "new");
}

#[test]
fn a_destination_is_replaced_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("out");
    std::fs::create_dir(&destination).unwrap();
    std::fs::write(destination.join("old"), "old").unwrap();
    let err = Staging::new(&destination, Existing::Keep).err().expect("it exists");
    assert_eq!(err.message(), "already exists; --force replaces it");
    assert_eq!(names(dir.path()), ["out"]);

    let staging = Staging::new(&destination.join(""), Existing::Replace(&|_| Ok(()))).unwrap();
    std::fs::write(staging.path().join("new"), "new").unwrap();
    assert_eq!(names(&destination), ["old"]);
    staging.commit().unwrap();
    assert_eq!((names(dir.path()), names(&destination)), (vec!["out".into()], vec!["new".into()]));

    let file = dir.path().join("file");
    std::fs::write(&file, "keep").unwrap();
    assert!(Staging::new(&file, Existing::Replace(&|_| Ok(()))).is_err());
}

#[test]
fn a_destination_that_appears_meanwhile_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("out");
    let staging = Staging::new(&destination, Existing::Keep).unwrap();
    std::fs::create_dir(&destination).unwrap();
    assert!(staging.commit().is_err());
    assert_eq!((names(dir.path()), names(&destination)), (vec!["out".into()], vec![]));
}

#[test]
fn an_error_leaves_nothing_behind() {
    let model = model(&mut Numbers(11));
    let (source, inputs, outputs) = &model;
    let dir = tempfile::tempdir().unwrap();
    for n_threads in [1, 2, 7] {
        let staging = Staging::new(&dir.path().join("out"), Existing::Keep).unwrap();
        let shards = shards(outputs, Some(3 << 20), "model", "safetensors");
        // The last file cannot be created.
        std::fs::create_dir(staging.path().join(&shards.last().unwrap().name)).unwrap();
        let options = Options { n_threads, hash_files: true, progress: &|_| (), cancel: None };
        let metadata = BTreeMap::new();
        let result = write(
            source,
            inputs,
            outputs,
            &shards,
            &Safetensors(&metadata),
            staging.path(),
            &options,
        );
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Io);
        drop(staging);
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

#[test]
fn a_panic_in_one_thread_ends_all() {
    let (source, inputs, outputs) = model(&mut Numbers(13));
    for n_threads in [1, 2, 7] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            n_threads,
            hash_files: true,
            progress: &|_| panic!("as it should"),
            cancel: None,
        };
        let shards = shards(&outputs, Some(5 << 20), "model", "safetensors");
        let metadata = BTreeMap::new();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            write(
                &source,
                &inputs,
                &outputs,
                &shards,
                &Safetensors(&metadata),
                dir.path(),
                &options,
            )
        }));
        assert!(result.is_err());
    }
}

#[test]
fn progress_counts_the_bytes_of_all_tensors() {
    let (source, inputs, outputs) = model(&mut Numbers(12));
    let n_bytes: u64 = outputs.iter().map(Output::n_bytes).sum();
    let dir = tempfile::tempdir().unwrap();
    let seen = std::sync::atomic::AtomicU64::new(0);
    let progress = |n| _ = seen.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
    let options = Options { n_threads: 3, hash_files: false, progress: &progress, cancel: None };
    let shards = shards(&outputs, Some(5 << 20), "model", "safetensors");
    write(
        &source,
        &inputs,
        &outputs,
        &shards,
        &Safetensors(&BTreeMap::new()),
        dir.path(),
        &options,
    )
    .unwrap();
    assert_eq!(seen.into_inner(), n_bytes);
}

#[test]
fn free_space_is_known_for_a_folder_to_be_made() {
    if cfg!(unix) {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_space(&dir.path().join("not/yet")).is_some());
    }
}
