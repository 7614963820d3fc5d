//! The types of elements: `dtypes.toml`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spec;
use crate::checkpoint::DType;

/// One type of elements.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DTypeRow {
    /// Its name in tensor files and manifests, `BF16`.
    pub name: String,
    /// The width of one element in bits.
    pub bits: u64,
    /// Whether a tensor of a role may have it without an entry in `encodings`.
    pub weights: bool,
    /// What it is, for people.
    pub about: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DTypesFile {
    pub(super) dtype: Vec<DTypeRow>,
}

impl Spec {
    /// Whether a tensor of a role may have this dtype as it is.
    pub fn holds_weights(&self, dtype: DType) -> bool {
        self.dtypes.iter().any(|row| row.name == dtype.name() && row.weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_dtype_of_the_program_and_no_other() {
        let spec = Spec::current();
        let listed: Vec<(&str, u64)> =
            spec.dtypes.iter().map(|row| (row.name.as_str(), row.bits)).collect();
        let known = DType::ALL.iter().filter(|dtype| **dtype != DType::Unknown);
        let known: Vec<(&str, u64)> = known.map(|dtype| (dtype.name(), dtype.bits())).collect();
        assert_eq!(listed, known);
    }
}
