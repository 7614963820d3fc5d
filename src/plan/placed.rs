//! Factors that files have in their tensors, of all rows or of each run of rows its own.

use super::program::Kernel;
use crate::checkpoint::n_elements;
use crate::package::Value;
use crate::spec::expr::as_float;

/// What takes factors out, or puts them in.
pub(super) fn kernel(out: bool, run: Option<[u64; 2]>, c: [f64; 2]) -> Kernel {
    match out {
        true => Kernel::Quotient { run, c },
        false => Kernel::Product { run, c },
    }
}

/// A factor, or two of which the second comes after the first, as F32 has them, in which is computed.
///
/// # Errors
/// They are no such numbers.
pub(super) fn factors(value: &Value) -> Result<[f64; 2], String> {
    let wrong = || format!("{value} is no factor, nor two");
    let number = |value| as_float(value).filter(|c| (*c as f32).is_normal()).ok_or_else(wrong);
    match value {
        Value::List(two) => match two.as_slice() {
            [a, b] => Ok([number(a)?, number(b)?]),
            _ => Err(wrong()),
        },
        one => Ok([number(one)?, 1.0]),
    }
}

/// A run of elements, the first and the one behind the last, and its factors.
type Run = ([u64; 2], [f64; 2]);

/// The runs of elements, row-major, of so many rows each, with the factors of each; what would change nothing is left out.
///
/// # Errors
/// The rows are not so many, or there are no factors for each.
pub(super) fn runs(shape: &[u64], sizes: &[u64], each: &Value) -> Result<Vec<Run>, String> {
    let rows = shape.first().copied().unwrap_or(1);
    // Sizes come from the config: any numbers.
    if sizes.iter().try_fold(0u64, |sum, size| sum.checked_add(*size)) != Some(rows) {
        return Err(format!("{shape:?} has not {sizes:?} rows"));
    }
    let found = match each {
        Value::List(each) if each.len() == sizes.len() => each.iter().map(factors),
        _ => return Err(format!("{each} are not the factors of {} runs", sizes.len())),
    };
    // Of a tensor without rows the other sizes may be any.
    let len = shape.get(1..).map_or(Some(1), n_elements).unwrap_or(0);
    let mut start = 0;
    let mut runs = Vec::new();
    for (size, c) in sizes.iter().zip(found) {
        let (end, c) = (start + size * len, c?);
        if c != [1.0, 1.0] {
            runs.push(([start, end], c));
        }
        start = end;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_its_factors() {
        let list = |items: &[Value]| Value::List(items.to_vec());
        let number = Value::Float;
        let two = list(&[number(3.0), number(0.5)]);
        let found = runs(&[4, 3], &[1, 2, 1], &list(&[number(2.0), number(1.0), two]));
        assert_eq!(found, Ok(vec![([0, 3], [2.0, 1.0]), ([9, 12], [3.0, 0.5])]));
        assert!(runs(&[4, 3], &[1, 2], &list(&[number(2.0), number(1.0)])).is_err());
        assert!(runs(&[4, 3], &[2, 2], &list(&[number(2.0)])).is_err());
        assert!(runs(&[4, 3], &[4], &number(2.0)).is_err());
        assert!(runs(&[4, 3], &[4], &list(&[number(0.0)])).is_err());
        // What F32 does not hold is no factor, and sums and products of any sizes end.
        assert!(runs(&[4, 3], &[4], &list(&[number(1e39)])).is_err());
        assert!(runs(&[4, 3], &[4], &list(&[number(1e-40)])).is_err());
        let ones = list(&[number(2.0), number(1.0)]);
        assert!(runs(&[4, 3], &[u64::MAX, 5], &ones).is_err());
        assert!(runs(&[0, u64::MAX, 2], &[0, 0], &ones).is_ok());
    }
}
