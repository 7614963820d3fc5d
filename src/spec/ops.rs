//! What the ops of mappings mean, `ops.toml`. The code of each is in `plan::ops`.

use schemars::JsonSchema;
use serde::Deserialize;

/// One op.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpType {
    /// Its name.
    pub name: String,
    /// A use of it, as mappings write it.
    pub example: String,
    /// Its parameters.
    pub params: String,
    /// What it does on the way in.
    pub about: String,
    /// What undoes it.
    pub inverse: String,
    /// What comes back: `E`, `W`, `N` or `L`.
    pub class: String,
    /// Whether it moves whole rows only.
    pub rows: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpsFile {
    pub(super) op: Vec<OpType>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::plan::Exactness;
    use crate::plan::ops::{Direction, exactness};
    use crate::spec::Spec;
    use crate::spec::map::Op;

    fn parse(text: &str) -> Result<Op, String> {
        #[derive(serde::Deserialize)]
        struct One {
            op: Op,
        }
        let one: Result<One, _> = toml::from_str(&format!("op = {text}"));
        one.map(|one| one.op).map_err(|err| err.to_string())
    }

    #[test]
    fn the_ops_that_are_told_of_are_those_there_are() {
        let spec = Spec::current();
        let told: BTreeSet<&str> = spec.ops.iter().map(|op| op.name.as_str()).collect();
        // serde names every op when it is given one that does not exist.
        let error = parse("{ op = '?' }").unwrap_err();
        let (_, list) = error.split_once("expected one of ").unwrap();
        let known: BTreeSet<&str> = list.split('`').skip(1).step_by(2).collect();
        assert_eq!(told, known);
        for op in &spec.ops {
            let parsed = parse(&op.example).unwrap_or_else(|err| panic!("{}: {err}", op.name));
            let is_exact = exactness(&[parsed], Direction::Import) == Exactness::Exact;
            assert_eq!(is_exact, op.class == "E", "{}", op.name);
            assert!(op.example.contains(&format!("'{}'", op.name)));
        }
    }
}
