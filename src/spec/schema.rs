//! The JSON Schemas of the data files, in the form they have when they are parsed.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    SpecFile, arch, classes, compound, dialect, dtypes, encodings, files, hparams, map, ops,
    pretokenizers, roles, rules, tasks,
};
use crate::encoding::layout::Layouts;

/// The schema of each data file: `arch`, `dialect` and `map` stand for the files of these folders.
pub fn of_data_files() -> Vec<(&'static str, Schema)> {
    vec![
        ("data-arch", of::<arch::ArchFile>()),
        ("data-classes", of::<BTreeMap<String, classes::Classes>>()),
        ("data-compounds", of::<compound::CompoundsFile>()),
        ("data-dialect", of::<dialect::Dialect>()),
        ("data-dtypes", of::<dtypes::DTypesFile>()),
        ("data-encodings", of::<encodings::Encodings>()),
        ("data-files", of::<files::FilesFile>()),
        ("data-hparams", of::<hparams::HparamsFile>()),
        ("data-layouts", of::<Layouts>()),
        ("data-map", of::<map::MapFile>()),
        ("data-ops", of::<ops::OpsFile>()),
        ("data-pretokenizers", of::<pretokenizers::Pretokenizers>()),
        ("data-roles", of::<roles::RolesFile>()),
        ("data-rules", of::<rules::RulesFile>()),
        ("data-spec", of::<SpecFile>()),
        ("data-tasks", of::<tasks::TasksFile>()),
    ]
}

fn of<T: JsonSchema>() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<T>()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    use serde_json::Value as Json;

    use super::*;

    /// The attributes of a definition: of a table, or of the forms of one that has several.
    fn attributes(definition: &Json) -> BTreeSet<String> {
        let own = definition["properties"].as_object().into_iter().flatten();
        // The word that says which op it is counts as one of them.
        let mut names: BTreeSet<String> = own.map(|(name, _)| name.clone()).collect();
        for form in ["oneOf", "anyOf"] {
            let forms = definition[form].as_array().into_iter().flatten();
            names.extend(forms.flat_map(attributes));
        }
        names
    }

    /// The attributes that the tables of a page list: those whose first column is `Attribute`.
    fn tables(text: &str) -> Vec<(String, BTreeSet<String>)> {
        let mut tables: Vec<(String, BTreeSet<String>)> = Vec::new();
        let (mut title, mut inside) = ("", false);
        for line in text.lines() {
            if line.starts_with('#') {
                title = line.trim_start_matches('#').trim();
            }
            let cell = line.strip_prefix("| ").and_then(|line| line.split(" | ").next());
            match cell {
                Some("Attribute") => {
                    inside = true;
                    tables.push((title.to_owned(), BTreeSet::new()));
                }
                Some("---") => {}
                Some(cell) if inside => {
                    tables.last_mut().unwrap().1.insert(cell.trim_matches('`').to_owned());
                }
                _ => inside = false,
            }
        }
        tables
    }

    #[test]
    fn the_tables_of_the_text_list_every_attribute_and_no_other() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec");
        let mut told = Vec::new();
        for page in ["mapping.md", "architecture.md"] {
            told.extend(tables(&fs::read_to_string(folder.join(page)).unwrap()));
        }
        let mut told: BTreeMap<String, BTreeSet<String>> = told.into_iter().collect();
        // Sections of a mapping that have no attributes of their own.
        let sections =
            "config words tokenizer alias turned rule drop drop_head reader key task map";
        told.insert(
            "map/FORMAT/NAME.toml".to_owned(),
            sections.split(' ').map(str::to_owned).collect(),
        );
        told.insert(
            "key, witness, constraint".to_owned(),
            ["key", "witness", "constraint"].map(str::to_owned).into(),
        );
        told.insert(
            "dimension, parameter, task".to_owned(),
            ["dimension", "parameter", "task"].map(str::to_owned).into(),
        );
        for list in ["role", "op", "dtype", "file", "rule"] {
            told.insert(format!("a list of {list}"), [list.to_owned()].into());
        }
        let mut used = BTreeSet::new();
        for (name, schema) in of_data_files() {
            let schema = schema.to_value();
            let definitions = schema["$defs"].as_object().into_iter().flatten();
            let all = definitions.map(|(name, definition)| (name.as_str(), definition));
            for (definition, schema) in all.chain([("the file", &schema)]) {
                let known = attributes(schema);
                if known.is_empty() {
                    continue; // A word, or a text.
                }
                let fits: Vec<&String> = told
                    .iter()
                    .filter(|(_, told)| **told == known)
                    .map(|(title, _)| title)
                    .collect();
                assert!(!fits.is_empty(), "{name}: no table lists {definition}: {known:?}");
                used.extend(fits.into_iter().cloned());
            }
        }
        let unused: Vec<&String> = told.keys().filter(|title| !used.contains(*title)).collect();
        assert!(unused.is_empty(), "tables of nothing: {unused:?}");
        assert!(35 < told.len());
    }

    /// Each data file keeps its schema, and one with another attribute does not.
    #[test]
    fn the_data_files_keep_their_schemas() {
        let spec = super::super::Spec::current();
        let schemas: BTreeMap<&str, Json> =
            of_data_files().into_iter().map(|(name, schema)| (name, schema.to_value())).collect();
        let mut seen = BTreeSet::new();
        for (path, text) in spec.files().iter().filter(|(path, _)| path.ends_with(".toml")) {
            let kind = path.split('/').next().unwrap().trim_end_matches(".toml");
            let name = format!("data-{kind}");
            let (name, schema) = schemas.get_key_value(name.as_str()).unwrap();
            let validator = jsonschema::validator_for(schema).unwrap();
            let mut file: Json = toml::from_str(text).unwrap();
            let problems: Vec<String> =
                validator.iter_errors(&file).map(|problem| problem.to_string()).collect();
            assert!(problems.is_empty(), "{path}: {problems:?}");
            seen.insert(*name);
            file["an attribute of nobody"] = Json::from(1);
            assert!(!validator.is_valid(&file), "{path}");
        }
        assert_eq!(seen.len(), schemas.len());
    }
}
