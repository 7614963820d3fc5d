//! What configs say of how tensors are packed.

use serde::Deserialize;
use serde_json::Value;

use super::rules::{Beside, Layouts};
use crate::checkpoint::Parameters;

/// The method and the parameters that hold for a module, of a whole `config.json`.
pub(super) struct Config<'a> {
    pub(super) method: Option<&'a str>,
    quantization: Option<&'a Value>,
}

impl<'a> Config<'a> {
    pub(super) fn of(config: Option<&'a Value>) -> Config<'a> {
        let get = |key| config.and_then(|config| config.get(key)).filter(|value| value.is_object());
        // Composite models keep theirs with the text model; MLX has a key of its own, and repeats
        // it under the common one without naming a method.
        let nested =
            config.and_then(|config| config.get("text_config")?.get("quantization_config"));
        let quantization = get("quantization_config").or(nested);
        let method = quantization.and_then(|value| value.get("quant_method")?.as_str());
        match (method, get("quantization")) {
            (None, Some(mlx)) => Config { method: Some("mlx"), quantization: Some(mlx) },
            _ => Config { method, quantization },
        }
    }

    pub(super) fn parameters(&self, module: &str) -> Parameters {
        let Some(common) = self.quantization else { return Parameters::default() };
        let own = common.get(module).filter(|own| own.is_object());
        // GPTQModel has patterns of modules that depart from the rest: the shapes say how.
        let is_mixed =
            common.get("dynamic").and_then(Value::as_object).is_some_and(|m| !m.is_empty());
        // compressed-tensors has groups of modules. Which is whose is a matter of patterns; what
        // all of them say holds in any case.
        let groups: Vec<&Value> = match common.get("config_groups").and_then(Value::as_object) {
            Some(groups) => groups.values().filter_map(|group| group.get("weights")).collect(),
            None if is_mixed => Vec::new(),
            None => vec![own.unwrap_or(common)],
        };
        let agreed = |keys: &[&str]| {
            let mut found = groups.iter().map(|group| keys.iter().find_map(|key| group.get(key)));
            let first = found.next().flatten()?;
            found.all(|other| other == Some(first)).then_some(first)
        };
        let block = agreed(&["weight_block_size", "block_structure"]);
        let block = block.and_then(|value| Deserialize::deserialize(value).ok());
        let format = |of: &'a Value| {
            ["checkpoint_format", "mode", "format"].iter().find_map(|key| of.get(key))
        };
        let format = own.and_then(format).or_else(|| format(common));
        Parameters {
            bits: agreed(&["bits", "num_bits", "w_bit"]).and_then(Value::as_u64),
            group_size: agreed(&["group_size", "q_group_size"]).and_then(Value::as_u64),
            block,
            format: format.and_then(Value::as_str).map(str::to_owned),
            dtype: None,
        }
    }
}

impl Layouts {
    /// Whether a config says how tensors are packed.
    pub fn is_told(&self, config: &Value) -> bool {
        let all = [Some(config), config.get("text_config")];
        all.into_iter().flatten().any(|of| self.config.iter().any(|key| of.get(key).is_some()))
    }

    /// Puts into a config what a file beside it says of how tensors are packed, by the names that
    /// configs have for it.
    pub fn tell(&self, config: &mut Value, beside: &Beside, says: Value) {
        let (Some(config), Value::Object(mut says)) = (config.as_object_mut(), says) else {
            return;
        };
        for (name, older) in [("bits", "w_bit"), ("group_size", "q_group_size")] {
            if let Some(value) = says.get(older).cloned() {
                says.entry(name).or_insert(value);
            }
        }
        says.entry("quant_method").or_insert(beside.method.as_str().into());
        config.insert(self.config[0].clone(), Value::Object(says));
    }

    /// Whether a tensor of a quantized model is no weight, but of what is quantized while it runs.
    pub fn is_runtime(&self, name: &str, config: &Value) -> bool {
        self.is_told(config) && self.runtime.iter().any(|end| name.ends_with(end.as_str()))
    }

    /// Takes what says how tensors are packed out of a config whose tensors are not.
    ///
    /// # Errors
    /// They are (`is_packed`), and nothing says it; the reason.
    pub fn keep_config(
        &self,
        config: &mut Value,
        is_packed: bool,
    ) -> std::result::Result<(), String> {
        if is_packed {
            let keys = || format!("the config has no {} to say so", self.config.join(" or "));
            return self.is_told(config).then_some(()).ok_or_else(keys);
        }
        let mut object = config.as_object_mut();
        while let Some(of) = object {
            of.retain(|key, _| !self.config.contains(key));
            object = of.get_mut("text_config").and_then(Value::as_object_mut);
        }
        Ok(())
    }
}
