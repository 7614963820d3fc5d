//! Hyperparameters with their types, as seen from one stack.

use crate::base::error::{Error, ErrorKind, Result};
use crate::package::{Hparams, Value};
use crate::spec::expr::Names as _;
use crate::spec::names::StackNames;

/// Counts above this are no sizes of a model; below it no product of two of them overflows.
const MAX_COUNT: i64 = i32::MAX as i64;

/// The hyperparameters of one stack: `num_layers` is `encoder.num_layers` where there is one.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    hparams: &'a Hparams,
    stack: Option<&'a str>,
}

/// The model is wrong; the message says how.
#[cold]
pub(super) fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

impl<'a> Keys<'a> {
    pub(super) fn new(hparams: &'a Hparams, stack: Option<&'a str>) -> Keys<'a> {
        Keys { hparams, stack }
    }

    fn get<T>(&self, name: &str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let names =
            StackNames { hparams: self.hparams, tokens: None, stack: self.stack, layer: None };
        let value = names.value(name).map_err(broken)?;
        read(&value).ok_or_else(|| broken(format!("`{name}` is {value}, not {wanted}")))
    }

    pub(super) fn count(&self, name: &str) -> Result<usize> {
        self.get(name, "a size", count)
    }

    pub(super) fn opt_count(&self, name: &str) -> Result<Option<usize>> {
        self.get(name, "a size or null", nullable(count))
    }

    pub(super) fn counts(&self, name: &str) -> Result<Vec<usize>> {
        self.get(name, "a list of sizes", list(count))
    }

    pub(super) fn opt_counts(&self, name: &str) -> Result<Option<Vec<usize>>> {
        self.get(name, "a list of sizes, or null", nullable(list(count)))
    }

    pub(super) fn float(&self, name: &str) -> Result<f64> {
        self.get(name, "a number", float)
    }

    pub(super) fn opt_float(&self, name: &str) -> Result<Option<f64>> {
        self.get(name, "a number or null", nullable(float))
    }

    pub(super) fn floats(&self, name: &str) -> Result<Vec<f64>> {
        self.get(name, "a list of numbers", list(float))
    }

    pub(super) fn opt_floats(&self, name: &str) -> Result<Option<Vec<f64>>> {
        self.get(name, "a list of numbers, or null", nullable(list(float)))
    }

    pub(super) fn bool(&self, name: &str) -> Result<bool> {
        self.get(name, "true or false", |value| match value {
            Value::Bool(bool) => Some(*bool),
            _ => None,
        })
    }

    /// A list, or null, that is there only where a flag is set.
    pub(super) fn counts_where(&self, flag: &str, name: &str) -> Result<Option<Vec<usize>>> {
        match self.bool(flag)? {
            true => self.opt_counts(name),
            false => Ok(None),
        }
    }

    /// The width of the stream inside a layer.
    pub(super) fn inner_width(&self) -> Result<usize> {
        match self.count("bottleneck.dim")? {
            0 => self.count("hidden_size"),
            dim => Ok(dim),
        }
    }

    pub(super) fn word(&self, name: &str) -> Result<String> {
        self.get(name, "a word", word)
    }

    pub(super) fn opt_word(&self, name: &str) -> Result<Option<String>> {
        self.get(name, "a word or null", nullable(word))
    }

    pub(super) fn words(&self, name: &str) -> Result<Vec<String>> {
        self.get(name, "a list of words", list(word))
    }
}

fn count(value: &Value) -> Option<usize> {
    match value {
        Value::Int(int) if (0..=MAX_COUNT).contains(int) => usize::try_from(*int).ok(),
        _ => None,
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Int(int) => Some(*int as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    }
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::Symbol(word) => Some(word.clone()),
        _ => None,
    }
}

fn list<T>(read: impl Fn(&Value) -> Option<T>) -> impl Fn(&Value) -> Option<Vec<T>> {
    move |value| match value {
        Value::List(items) => items.iter().map(&read).collect(),
        _ => None,
    }
}

fn nullable<T>(read: impl Fn(&Value) -> Option<T>) -> impl Fn(&Value) -> Option<Option<T>> {
    move |value| match value {
        Value::Null => Some(None),
        value => read(value).map(Some),
    }
}

/// What a list of layers, where there is one, has for a layer.
pub(super) fn of_layer<T: Copy>(
    list: &Option<Vec<T>>,
    name: &str,
    layer: usize,
    all: T,
) -> Result<T> {
    match list {
        Some(list) => list
            .get(layer)
            .copied()
            .ok_or_else(|| broken(format!("`{name}` has no entry for layer {layer}"))),
        None => Ok(all),
    }
}
