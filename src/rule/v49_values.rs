//! V491 to V495: what the values of tensors are.

use std::collections::BTreeMap;

use crate::base::diagnostic::{Diagnostic, Level};
use crate::checkpoint::DType;
use crate::package::Conformance;
use crate::rule::view::Counted;
use crate::rule::{About, Checked, PackageView, Rule};

const fn of_values(
    id: &'static str,
    name: &'static str,
    weight: Level,
    check: fn(&PackageView<'_>, &mut Vec<Diagnostic>) -> Checked,
) -> Rule {
    let level = Conformance::Container;
    Rule { id, name, level, weight, deep: true, about: About::Values, check }
}

/// Every element of a matrix is the same number, and not zero.
pub(super) static CONSTANT: Rule = of_values("V491", "constant", Level::Warning, |view, found| {
    for counted in view.census.iter().filter(|counted| is_matrix(counted)) {
        if counted.values.nonzero && !counted.values.varied {
            let message = format!("every element of `{}` is the same number", counted.name);
            found.push(about(&CONSTANT, counted, message).help(
                "a matrix that was trained has different ones: it was made anew, and never filled",
            ));
        }
    }
    Ok(())
});

/// A matrix ends in zeros that begin in the middle of a row.
pub(super) static ZERO_TAIL: Rule =
    of_values("V492", "zero-tail", Level::Warning, |view, found| {
        for counted in view.census.iter().filter(|counted| is_matrix(counted)) {
            let element_len = counted.dtype.bits() / 8;
            let n_columns = counted.shape.last().copied().unwrap_or(0);
            let Some(row_len) = n_columns.checked_mul(element_len).filter(|len| *len != 0) else {
                continue;
            };
            let tail = counted.values.zero_tail;
            // Rows of zeros are padding. A file that was not written to its end stops within a row.
            let (n_rows, cut) = (tail / row_len, tail % row_len);
            if counted.values.nonzero && 2 <= n_rows && MIN_CUT * element_len <= cut {
                let elements = tail / element_len;
                let message = format!(
                    "the last {elements} elements of `{}` are zero, from within a row on",
                    counted.name
                );
                found.push(about(&ZERO_TAIL, counted, message).help(
                    "the file was not written to its end, or not fetched to its end: get it again",
                ));
            }
        }
        Ok(())
    });

/// So many elements of a row are not zero by chance.
const MIN_CUT: u64 = 4;

/// A tensor has numbers that no training gives.
pub(super) static HUGE: Rule = of_values("V493", "huge-values", Level::Warning, |view, found| {
    for counted in view.census.iter().filter(|counted| counted.values.varied) {
        let Some(largest) = number(counted.dtype, counted.values.largest) else { continue };
        // A mask is filled with the least number there is.
        let is_mask = largest >= f64::from(f32::MAX) * 0.99;
        if HUGE_FROM <= largest && !is_mask {
            let message = format!("`{}` has numbers as large as {largest:.1e}", counted.name);
            found.push(about(&HUGE, counted, message).help(
                "bytes that are read as another dtype, or in another byte order, look so: compare with the source",
            ));
        }
    }
    Ok(())
});

/// Far beyond the weights of any model, and far below what bytes at random give.
const HUGE_FROM: f64 = 1e15;

/// No element of a matrix reaches the smallest normal number.
pub(super) static SUBNORMAL: Rule = of_values(
    "V494",
    "subnormal-only",
    Level::Warning,
    |view, found| {
        for counted in view.census.iter().filter(|counted| is_matrix(counted)) {
            let Some(normal) = smallest_normal(counted.dtype) else { continue };
            let Counted { values, .. } = counted;
            let is_finite = values.nans == 0 && values.infinities == 0;
            if values.largest != 0 && values.largest < normal && is_finite {
                let message =
                    format!("no element of `{}` reaches the smallest normal number", counted.name);
                found.push(about(&SUBNORMAL, counted, message).help(
                    "small integers that are read as floats look so, and weights that a cast crushed: compare with the source",
                ));
            }
        }
        Ok(())
    },
);

/// Two tensors have the same values.
pub(super) static TENSOR_COPY: Rule = of_values(
    "V495",
    "tensor-copied",
    Level::Note,
    |view, found| {
        let mut seen: BTreeMap<(&[u8; 32], &[u64]), &Counted> = BTreeMap::new();
        for counted in view.census.iter().filter(|counted| is_matrix(counted)) {
            // What is all one number is no copy of another; what lies at one place is one tensor.
            if !counted.values.varied {
                continue;
            }
            let key = (&counted.sha256, counted.shape.as_slice());
            let Some(first) = seen.get(&key) else {
                seen.insert(key, counted);
                continue;
            };
            if (&first.file, first.bytes) == (&counted.file, counted.bytes) {
                continue;
            }
            let message = format!("`{}` has the values of `{}`", counted.name, first.name);
            found.push(
                about(&TENSOR_COPY, counted, message)
                    .help("right for tied weights that are stored twice; else a layer was copied over another"),
            );
        }
        Ok(())
    },
);

/// Whether a tensor has rows and columns of floats.
fn is_matrix(counted: &Counted) -> bool {
    let is_float = smallest_normal(counted.dtype).is_some();
    is_float && counted.shape.iter().filter(|size| 1 < **size).count() >= 2
}

/// The bits of the smallest normal number.
fn smallest_normal(dtype: DType) -> Option<u64> {
    Some(match dtype {
        DType::F16 => 0x0400,
        DType::BF16 => 0x0080,
        DType::F32 => 0x0080_0000,
        DType::F64 => 0x0010_0000_0000_0000,
        _ => return None,
    })
}

/// A number by its bits.
fn number(dtype: DType, bits: u64) -> Option<f64> {
    Some(match dtype {
        DType::F16 => half::f16::from_bits(u16::try_from(bits).ok()?).to_f64(),
        DType::BF16 => half::bf16::from_bits(u16::try_from(bits).ok()?).to_f64(),
        DType::F32 => f64::from(f32::from_bits(u32::try_from(bits).ok()?)),
        DType::F64 => f64::from_bits(bits),
        _ => return None,
    })
}

fn about(rule: &Rule, counted: &Counted, message: String) -> Diagnostic {
    let Counted { name, file, bytes: [start, end], .. } = counted;
    let finding = rule.finding(message).tensor(name);
    if file.is_empty() { finding } else { finding.file(file).bytes(*start, *end) }
}
