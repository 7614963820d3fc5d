//! The names that expressions ask for: hyperparameters as one stack sees them.

use std::ops::Bound;

use super::expr::Names;
use crate::package::{Hparams, Value};

/// Hyperparameters as seen from one stack: `num_layers` is `encoder.num_layers` where there is
/// one.
pub struct StackNames<'a> {
    /// The hyperparameters.
    pub hparams: &'a Hparams,
    /// The ids of special tokens, as `tokens.pad`.
    pub tokens: Option<&'a Hparams>,
    /// The stack.
    pub stack: Option<&'a str>,
    /// The layer, as `i`.
    pub layer: Option<u64>,
}

/// What is said of a name without a value, up to the name.
const NO_KEY: &str = "there is no hyperparameter `";

/// The name that has no value, where that is what an expression says of itself.
pub fn missing(why: &str) -> Option<&str> {
    let (_, name) = why.rsplit_once(NO_KEY)?;
    name.strip_suffix('`')
}

/// The value of a key: `encoder.KEY` and `decoder.KEY` stand as `KEY` where they are equal.
pub fn value_of<'a>(hparams: &'a Hparams, name: &str) -> Option<&'a Value> {
    hparams.get(name).or_else(|| hparams.get(plain_name(name)?))
}

/// The key without the stack in front, where there is one.
pub fn plain_name(name: &str) -> Option<&str> {
    name.strip_prefix("encoder.").or_else(|| name.strip_prefix("decoder."))
}

/// The value of a key of one stack alone.
pub(super) fn own<'a>(hparams: &'a Hparams, stack: &str, name: &str) -> Option<&'a Value> {
    // Few models have such keys, and a name put together for each one asked for takes most of the time.
    let from = (Bound::Excluded(stack), Bound::Unbounded);
    let mut keys = hparams.range::<str, _>(from).map_while(|(key, _)| key.strip_prefix(stack));
    keys.find(|key| key.starts_with('.'))?;
    hparams.get(&format!("{stack}.{name}"))
}

impl Names for StackNames<'_> {
    fn value(&self, name: &str) -> Result<Value, String> {
        if name == "i"
            && let Some(layer) = self.layer
        {
            return Ok(Value::Int(i64::try_from(layer).unwrap_or(i64::MAX)));
        }
        let own = self.stack.and_then(|stack| own(self.hparams, stack, name));
        let token = || {
            name.strip_prefix("tokens.").and_then(|token| self.tokens.and_then(|t| t.get(token)))
        };
        let value = own.or_else(|| value_of(self.hparams, name)).or_else(token);
        value.cloned().ok_or_else(|| format!("{NO_KEY}{name}`"))
    }
}
