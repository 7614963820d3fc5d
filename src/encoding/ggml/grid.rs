//! The points that IQ blocks choose from.
//!
//! The tables are the format's own constants, in the packing of gguf-py: indices of two bits (or
//! four, for those of eight coordinates) into the few values that a coordinate can have.

/// Unpacks a table of points with `N` coordinates each.
const fn unpack<const BITS: usize, const N: usize, const POINTS: usize>(
    packed: &[u8],
    values: &[i8],
) -> [[i8; N]; POINTS] {
    let mut points = [[0; N]; POINTS];
    let per_byte = 8 / BITS;
    assert!(packed.len() * per_byte == N * POINTS);
    let mut at = 0;
    while at < N * POINTS {
        let index = packed[at / per_byte] >> (BITS * (at % per_byte)) & ((1 << BITS) - 1);
        points[at / N][at % N] = values[index as usize];
        at += 1;
    }
    points
}

const TWO_BIT: [i8; 3] = [8, 25, 43];

pub(super) static IQ2_XXS: [[i8; 8]; 256] =
    unpack::<2, 8, 256>(include_bytes!("grids/iq2_xxs.bin"), &TWO_BIT);
pub(super) static IQ2_XS: [[i8; 8]; 512] =
    unpack::<2, 8, 512>(include_bytes!("grids/iq2_xs.bin"), &TWO_BIT);
pub(super) static IQ2_S: [[i8; 8]; 1024] =
    unpack::<2, 8, 1024>(include_bytes!("grids/iq2_s.bin"), &TWO_BIT);
pub(super) static IQ3_XXS: [[i8; 4]; 256] =
    unpack::<4, 4, 256>(include_bytes!("grids/iq3_xxs.bin"), &[4, 12, 20, 28, 36, 44, 52, 62]);
pub(super) static IQ3_S: [[i8; 4]; 512] =
    unpack::<4, 4, 512>(include_bytes!("grids/iq3_s.bin"), &[1, 3, 5, 7, 9, 11, 13, 15]);
pub(super) static IQ1: [[i8; 8]; 2048] =
    unpack::<2, 8, 2048>(include_bytes!("grids/iq1_s.bin"), &[-1, 0, 1]);

/// The steps of the non-linear types.
pub(super) const IQ4: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
