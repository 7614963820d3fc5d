//! From the tree of an expression to its value.

use super::node::Node;
use super::value::{as_float, as_int, same};
use crate::base::limits::MAX_LIST;
use crate::package::Value;

/// Gives the values of names.
pub trait Names {
    /// The value of `name`, or why it has none.
    ///
    /// # Errors
    /// There is no such name, or its value cannot be had.
    fn value(&self, name: &str) -> Result<Value, String>;
}

impl<F: Fn(&str) -> Result<Value, String>> Names for F {
    fn value(&self, name: &str) -> Result<Value, String> {
        self(name)
    }
}

pub(super) fn eval(node: &Node, names: &dyn Names) -> Result<Value, String> {
    Ok(match node {
        Node::Literal(value) => value.clone(),
        Node::Name(name) => names.value(name)?,
        Node::List(items) => {
            Value::List(items.iter().map(|item| eval(item, names)).collect::<Result<_, _>>()?)
        }
        Node::Not(inner) => Value::Bool(!truth(&eval(inner, names)?)?),
        Node::Negate(inner) => match eval(inner, names)? {
            Value::Int(int) => Value::Int(int.checked_neg().ok_or("overflow")?),
            Value::Float(float) => Value::Float(-float),
            value => return Err(format!("{value} has no negative")),
        },
        Node::Binary("and", left, right) => {
            Value::Bool(truth(&eval(left, names)?)? && truth(&eval(right, names)?)?)
        }
        Node::Binary("or", left, right) => {
            Value::Bool(truth(&eval(left, names)?)? || truth(&eval(right, names)?)?)
        }
        Node::Binary(op, left, right) => binary(op, &eval(left, names)?, &eval(right, names)?)?,
        Node::Call("if", args) => {
            let chosen = if truth(&eval(&args[0], names)?)? { &args[1] } else { &args[2] };
            eval(chosen, names)?
        }
        Node::Call(function, args) => {
            let args = args.iter().map(|arg| eval(arg, names)).collect::<Result<Vec<_>, _>>()?;
            call(function, &args)?
        }
    })
}

fn truth(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(value) => Ok(*value),
        // An absent switch of a foreign config is off.
        Value::Null => Ok(false),
        value => Err(format!("{value} is neither true nor false")),
    }
}

fn binary(op: &str, left: &Value, right: &Value) -> Result<Value, String> {
    let type_error = || format!("{left} {op} {right} has no meaning");
    match op {
        "==" => return Ok(Value::Bool(same(left, right))),
        "!=" => return Ok(Value::Bool(!same(left, right))),
        "in" | "not in" => {
            let Value::List(items) = right else { return Err(type_error()) };
            return Ok(Value::Bool(items.iter().any(|item| same(left, item)) == (op == "in")));
        }
        _ => {}
    }
    if let (Value::Int(a), Value::Int(b)) = (left, right) {
        let (a, b) = (*a, *b);
        let overflow = || format!("{a} {op} {b} overflows");
        return Ok(match op {
            "+" => Value::Int(a.checked_add(b).ok_or_else(overflow)?),
            "-" => Value::Int(a.checked_sub(b).ok_or_else(overflow)?),
            "*" => Value::Int(a.checked_mul(b).ok_or_else(overflow)?),
            "/" => match (a.checked_div(b), a.checked_rem(b)) {
                (Some(quotient), Some(0)) => Value::Int(quotient),
                (Some(_), _) => return Err(format!("{a} is not divisible by {b}")),
                (None, _) => return Err(format!("{a} / {b} has no value")),
            },
            "%" => Value::Int(a.checked_rem_euclid(b).ok_or_else(&type_error)?),
            "^" => Value::Float(power(a as f64, b as f64)),
            "<" => Value::Bool(a < b),
            "<=" => Value::Bool(a <= b),
            ">" => Value::Bool(b < a),
            _ => Value::Bool(b <= a),
        });
    }
    let (a, b) = as_float(left).zip(as_float(right)).ok_or_else(type_error)?;
    Ok(match op {
        "+" => Value::Float(a + b),
        "-" => Value::Float(a - b),
        "*" => Value::Float(a * b),
        "/" => Value::Float(a / b),
        "%" => Value::Float(a.rem_euclid(b)),
        "^" => Value::Float(power(a, b)),
        "<" => Value::Bool(a < b),
        "<=" => Value::Bool(a <= b),
        ">" => Value::Bool(b < a),
        _ => Value::Bool(b <= a),
    })
}

/// Powers have one value on every machine: square roots and products are exact to the last bit
/// everywhere, and what no standard rounds alike is rounded to F32.
pub(super) fn power(base: f64, exponent: f64) -> f64 {
    let product = |n: u32| (0..n).fold(1.0, |product, _| product * base);
    if exponent == 0.5 {
        base.sqrt()
    } else if exponent == -0.5 {
        1.0 / base.sqrt()
    } else if exponent.fract() == 0.0 && exponent.abs() <= MAX_INTEGER_POWER {
        let n = exponent.abs() as u32;
        if exponent < 0.0 { 1.0 / product(n) } else { product(n) }
    } else {
        round_f32(libm::pow(base, exponent))
    }
}

/// Powers with integer exponents up to this are products.
const MAX_INTEGER_POWER: f64 = 64.0;

/// The nearest F32: what libraries compute alike of logarithms and powers.
fn round_f32(x: f64) -> f64 {
    f64::from(x as f32)
}

fn call(function: &str, args: &[Value]) -> Result<Value, String> {
    let type_error = || {
        let args: Vec<_> = args.iter().map(Value::to_string).collect();
        format!("{function}({}) has no value", args.join(", "))
    };
    match (function, args) {
        ("ceil_div", [a, b]) => {
            let (a, b) = as_int(a).zip(as_int(b)).ok_or_else(type_error)?;
            if a < 0 || b <= 0 {
                return Err(type_error());
            }
            Ok(Value::Int(a / b + i64::from(a % b != 0)))
        }
        ("min" | "max", [a, b]) => {
            let ordered = match (a, b) {
                (Value::Int(a), Value::Int(b)) => a <= b,
                _ => as_float(a).zip(as_float(b)).map(|(a, b)| a <= b).ok_or_else(type_error)?,
            };
            Ok(if ordered == (function == "min") { a.clone() } else { b.clone() })
        }
        ("sqrt", [x]) => Ok(Value::Float(as_float(x).ok_or_else(type_error)?.sqrt())),
        ("round_bf16", [x]) => {
            let x = as_float(x).ok_or_else(type_error)?;
            Ok(Value::Float(half::bf16::from_f64(x).to_f64()))
        }
        ("ln", [x]) => {
            let x = as_float(x).filter(|x| 0.0 < *x).ok_or_else(type_error)?;
            Ok(Value::Float(round_f32(libm::log(x))))
        }
        // From the first to before the second, in steps of the third.
        ("range", [from, to, step]) => {
            let (from, to) = as_int(from).zip(as_int(to)).ok_or_else(type_error)?;
            let step = as_int(step).filter(|step| 0 < *step).ok_or_else(type_error)?;
            if from < 0 || (MAX_LIST as i64) < to {
                return Err(type_error());
            }
            let step = usize::try_from(step).map_err(|_| type_error())?;
            Ok(Value::List((from..to).step_by(step).map(Value::Int).collect()))
        }
        // The one value of a list, or what is no list.
        ("common", [Value::List(items)]) => match items.as_slice() {
            [first, rest @ ..] if rest.iter().all(|item| same(item, first)) => Ok(first.clone()),
            _ => Err(type_error()),
        },
        ("common", [value]) => Ok(value.clone()),
        // The entries of the first list that are not in the second.
        ("without", [Value::List(items), Value::List(out)]) => {
            let kept = items.iter().filter(|item| !out.iter().any(|other| same(item, other)));
            Ok(Value::List(kept.cloned().collect()))
        }
        // The places of a value.
        ("where", [Value::List(items), wanted]) => {
            let places = items.iter().enumerate().filter(|(_, item)| same(item, wanted));
            Ok(Value::List(places.map(|(place, _)| Value::Int(place as i64)).collect()))
        }
        ("len", [Value::List(items)]) => Ok(Value::Int(items.len() as i64)),
        ("at", [Value::List(items), index]) => as_int(index)
            .and_then(|index| items.get(usize::try_from(index).ok()?))
            .cloned()
            .ok_or_else(type_error),
        // The first place of a value from an index on; the length where there is none.
        ("next", [Value::List(items), wanted, from]) => {
            let from = as_int(from).and_then(|from| usize::try_from(from).ok());
            let from = from.ok_or_else(type_error)?;
            let place = items.iter().skip(from).position(|item| same(item, wanted));
            Ok(Value::Int(place.map_or(items.len(), |place| place + from) as i64))
        }
        ("find", [Value::List(items), wanted]) => items
            .iter()
            .position(|item| same(item, wanted))
            .map(|index| Value::Int(index as i64))
            .ok_or_else(type_error),
        // The inverse of `where`: so many entries, the third at these places and the fourth at the others.
        ("marks", [count, Value::List(places), there, elsewhere]) => {
            let count = as_int(count)
                .filter(|count| usize::try_from(*count).is_ok_and(|count| count <= MAX_LIST));
            let marked = |place: i64| places.iter().any(|item| as_int(item) == Some(place));
            let entry = |place| if marked(place) { there.clone() } else { elsewhere.clone() };
            Ok(Value::List((0..count.ok_or_else(type_error)?).map(entry).collect()))
        }
        // The letters of a word, each as a word.
        ("letters", [Value::Symbol(word)]) if word.len() <= MAX_LIST => {
            Ok(Value::List(word.chars().map(|letter| Value::Symbol(letter.to_string())).collect()))
        }
        // The integers that a word lists between commas; a list is one already.
        ("integers", [Value::List(items)]) => Ok(Value::List(items.clone())),
        ("integers", [Value::Symbol(word)]) if word.len() <= MAX_LIST => {
            let items = word.split(',').map(str::trim).filter(|item| !item.is_empty());
            let integer = |item: &str| item.parse().map(Value::Int).map_err(|_| type_error());
            Ok(Value::List(items.map(integer).collect::<Result<_, _>>()?))
        }
        // The list with another value at these places.
        ("put", [Value::List(items), Value::List(places), value]) => {
            let mut items = items.clone();
            for place in places {
                let place = as_int(place).and_then(|place| usize::try_from(place).ok());
                let item = place.and_then(|place| items.get_mut(place)).ok_or_else(type_error)?;
                *item = value.clone();
            }
            Ok(Value::List(items))
        }
        // Pairs of a list and of how often it comes, laid one behind the other.
        ("unroll", [Value::List(pairs)]) => {
            let mut items = Vec::new();
            for pair in pairs {
                let Value::List(pair) = pair else { return Err(type_error()) };
                let [Value::List(part), times] = pair.as_slice() else { return Err(type_error()) };
                let times = as_int(times).and_then(|times| usize::try_from(times).ok());
                // A config may claim any number.
                let room = MAX_LIST - items.len();
                let fits =
                    |times: &usize| *times <= room && times.saturating_mul(part.len()) <= room;
                let times = times.filter(fits).ok_or_else(type_error)?;
                items.extend(std::iter::repeat_n(part, times).flatten().cloned());
            }
            Ok(Value::List(items))
        }
        _ => Err(type_error()),
    }
}
