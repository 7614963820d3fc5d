//! The points that IQ blocks choose from: the files of `spec/grids`, one digit for each coordinate, which
//! is the number of its value.

/// The points of a file of `spec/grids`, with `N` coordinates each.
const fn points<const N: usize, const POINTS: usize>(
    file: &str,
    values: &[i8],
) -> [[i8; N]; POINTS] {
    let digits = file.as_bytes();
    assert!(digits.len() == (N + 1) * POINTS);
    let mut points = [[0; N]; POINTS];
    let mut at = 0;
    while at < digits.len() {
        match digits[at] {
            b'\n' => assert!(at % (N + 1) == N),
            digit => points[at / (N + 1)][at % (N + 1)] = values[(digit - b'0') as usize],
        }
        at += 1;
    }
    points
}

const IQ2: [i8; 3] = [8, 25, 43];

pub(super) static IQ2_XXS: [[i8; 8]; 256] =
    points(include_str!("../../../spec/grids/iq2_xxs.txt"), &IQ2);
pub(super) static IQ2_XS: [[i8; 8]; 512] =
    points(include_str!("../../../spec/grids/iq2_xs.txt"), &IQ2);
pub(super) static IQ2_S: [[i8; 8]; 1024] =
    points(include_str!("../../../spec/grids/iq2_s.txt"), &IQ2);
pub(super) static IQ3_XXS: [[i8; 4]; 256] =
    points(include_str!("../../../spec/grids/iq3_xxs.txt"), &[4, 12, 20, 28, 36, 44, 52, 62]);
pub(super) static IQ3_S: [[i8; 4]; 512] =
    points(include_str!("../../../spec/grids/iq3_s.txt"), &[1, 3, 5, 7, 9, 11, 13, 15]);
pub(super) static IQ1: [[i8; 8]; 2048] =
    points(include_str!("../../../spec/grids/iq1.txt"), &[-1, 0, 1]);

/// The steps of the non-linear types.
pub(super) const IQ4: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
