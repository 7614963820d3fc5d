//! Tensors that recipes make.

use crate::base::error::Result;
use crate::checkpoint::{DType, n_elements};
use crate::exec::make::Made;
use crate::plan::program::{Make, Recipe};

pub(super) fn make(dtype: DType, shape: &[u64], recipe: Recipe) -> Result<Vec<u8>> {
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
    let golden = include_str!("../golden/rope_inv_freq.txt");
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
