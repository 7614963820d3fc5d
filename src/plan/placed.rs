//! Runs of rows that are computed with, each by a number of its own.

use crate::package::Value;
use crate::spec::expr::as_float;

/// The runs of elements, row-major, of so many rows each, with the number of each; what 1 would do is left out.
///
/// # Errors
/// The rows are not so many, or there is no number for each.
pub(super) fn runs(
    shape: &[u64],
    sizes: &[u64],
    numbers: &Value,
) -> Result<Vec<([u64; 2], f64)>, String> {
    let rows = shape.first().copied().unwrap_or(1);
    if sizes.iter().sum::<u64>() != rows {
        return Err(format!("{shape:?} has not {sizes:?} rows"));
    }
    let found = match numbers {
        Value::List(numbers) => numbers.iter().map(as_float).collect::<Option<Vec<f64>>>(),
        _ => None,
    };
    let found = found.filter(|found| found.len() == sizes.len());
    let found = found.ok_or_else(|| format!("{numbers} is not {} numbers", sizes.len()))?;
    let len: u64 = shape.iter().skip(1).product();
    let mut start = 0;
    let mut runs = Vec::new();
    for (size, c) in sizes.iter().zip(found) {
        let end = start + size * len;
        if c != 1.0 {
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
    fn each_run_has_its_number() {
        let numbers =
            |numbers: &[f64]| Value::List(numbers.iter().map(|&x| Value::Float(x)).collect());
        let found = runs(&[4, 3], &[1, 2, 1], &numbers(&[2.0, 1.0, 0.5]));
        assert_eq!(found, Ok(vec![([0, 3], 2.0), ([9, 12], 0.5)]));
        assert!(runs(&[4, 3], &[1, 2], &numbers(&[2.0, 1.0])).is_err());
        assert!(runs(&[4, 3], &[2, 2], &numbers(&[2.0])).is_err());
        assert!(runs(&[4, 3], &[4], &Value::Float(2.0)).is_err());
    }
}
