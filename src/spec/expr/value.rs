//! The values of expressions: as numbers, as texts, and whether two are the same.

use crate::package::Value;

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => {
                // The shortest text that reads back as the same number, as JSON has it.
                f.write_str(&serde_json::to_string(value).unwrap_or_default())
            }
            Value::Symbol(value) => write!(f, "{value:?}"),
            Value::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{item}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// The value as an integer, if it is one; `3.0` is.
pub fn as_int(value: &Value) -> Option<i64> {
    match *value {
        Value::Int(int) => Some(int),
        // 2^53: beyond it a float no longer says which integer it is.
        Value::Float(float) if float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0 => {
            Some(float as i64)
        }
        _ => None,
    }
}

/// The value as a float, if it is a number.
pub fn as_float(value: &Value) -> Option<f64> {
    match *value {
        Value::Int(int) => Some(int as f64),
        Value::Float(float) => Some(float),
        _ => None,
    }
}

/// Whether two values are the same; `1` and `1.0` are. Two integers are compared as such.
pub fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => left == right,
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(a, b)| same(a, b))
        }
        _ => match (as_float(left), as_float(right)) {
            (Some(left), Some(right)) => left == right,
            _ => left == right,
        },
    }
}
