//! The arithmetic of kernels, against that of floats.

use half::{bf16, f16};

use crate::checkpoint::DType;
use crate::exec::kernel::Chain;
use crate::package::Loss;
use crate::plan::program::Kernel;

fn apply(from: DType, kernels: &[Kernel], to: DType, input: &[u8]) -> (Vec<u8>, Loss) {
    let chain = Chain::new(from, kernels, to).expect("a sound chain");
    let mut output = vec![0; input.len() / (from.bits() / 8) as usize * (to.bits() / 8) as usize];
    let loss = chain.apply(input, &mut output, 0);
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

fn singles(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn a_product_comes_back_to_what_gives_it_again() {
    let values: Vec<f32> = (0..4000).map(|i| (i as f32 * 0.377).sin()).collect();
    let input: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    for c in [[1.9, 1.0], [1.5, 0.9], [0.6, 1.2], [0.07, 3.3]] {
        let run = Some([700, 3100]);
        let product = Kernel::Product { run, c };
        let (there, _) = apply(DType::F32, &[product], DType::F32, &input);
        let [a, b] = c.map(|c| c as f32);
        for (at, (value, found)) in values.iter().zip(singles(&there)).enumerate() {
            let is_in = (700..3100).contains(&at);
            assert_eq!(found, if is_in { value * a * b } else { *value });
        }
        let quotient = product.inverse(DType::F32);
        let (back, loss) = apply(DType::F32, &[quotient], DType::F32, &there);
        assert_eq!(loss.changed, 0);
        assert!(loss.max_relative_error == 0.0);
        let (again, _) = apply(DType::F32, &[product], DType::F32, &back);
        assert!(again == there);
    }
}

#[test]
fn places_are_those_of_the_whole_tensor() {
    let input: Vec<u8> = (1..=6u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    let kernels = [Kernel::Product { run: Some([2, 4]), c: [2.0, 1.0] }, Kernel::ZeroFrom(5)];
    let chain = Chain::new(DType::F32, &kernels, DType::F32).unwrap();
    let mut output = vec![0; 12];
    let mut loss = chain.apply(&input[..12], &mut output, 0);
    assert_eq!(singles(&output), [1.0, 2.0, 6.0]);
    loss.changed += chain.apply(&input[12..], &mut output, 3).changed;
    assert_eq!(singles(&output), [8.0, 5.0, 0.0]);
    // What is put behind comes from nowhere, and is not missed.
    assert_eq!(loss.changed, 0);
}

#[test]
fn integers_of_half_the_bits_are_counted_where_they_do_not_fit() {
    let values = [0i64, -7, i64::from(i32::MAX), i64::from(i32::MAX) + 1, i64::MIN];
    let input: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (output, loss) = apply(DType::I64, &[Kernel::Cast(DType::I32)], DType::I32, &input);
    let found: Vec<i32> =
        output.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
    assert_eq!(found[..3], [0, -7, i32::MAX]);
    assert_eq!((loss.elements, loss.nans), (5, 2));
}
