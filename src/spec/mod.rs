//! The standard as data: roles, hyperparameters, architectures, mappings and tasks, as `spec/`
//! has them. The meaning of each file is told in `spec/README.md`.

pub mod arch;
pub mod check;
pub mod classes;
pub mod compound;
pub mod dialect;
pub mod dtypes;
pub mod ecosystem;
pub mod encodings;
pub mod expr;
pub mod files;
pub mod hparams;
mod lazy;
pub mod listing;
pub mod map;
pub mod names;
mod normal;
pub mod ops;
pub mod pretokenizers;
pub mod roles;
pub mod rules;
pub mod schema;
pub mod tasks;
pub mod template;
#[cfg(test)]
mod tests;
mod text;
pub mod versions;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::base::error::{Error, ErrorKind, Result};
use crate::encoding::layout::Layouts;
use crate::folder::How;
use crate::package::Value;

use self::arch::Arch;
use self::compound::Compound;
use self::dialect::Dialect;
use self::hparams::Key;
use self::lazy::Parsed;
pub use self::lazy::{Files, Lazy, Table};
use self::map::Map;
use self::roles::Role;
use self::tasks::{DimensionType, ParameterType, TaskType};
pub use self::text::Text;
use self::versions::merge::SPEC_FILE;
use self::versions::{Carried, Hashed};

/// Every file under `spec/`, by its path there.
static EMBEDDED: &[(&str, Text)] = include!(concat!(env!("OUT_DIR"), "/spec_files.rs"));

/// Every version under `spec/`, put together with those that it extends.
static VERSIONS: &[Carried] = include!(concat!(env!("OUT_DIR"), "/spec_versions.rs"));

/// The newest version of the standard that this program carries.
pub const CURRENT: &str = "1.1";

/// The first version of the same major one.
const FIRST: &str = "1.0";

/// A file of vectors under `spec/conformance`, by its name.
pub fn conformance_file(name: &str) -> Option<&'static str> {
    let path = format!("conformance/{name}");
    EMBEDDED.iter().find(|(file, _)| *file == path).map(|(_, text)| &**text)
}

/// One version of the standard.
pub struct Spec {
    /// Its version, `1.0.0`.
    pub version: String,
    /// The first version of the same major one, which all its packages can be read by that use
    /// nothing later.
    pub first: String,
    /// What later minor versions than the first add.
    pub later: versions::Features,
    /// The canonical tensor names, in order.
    pub roles: Vec<Role>,
    /// The hyperparameters.
    pub keys: Vec<Key>,
    /// Claims of tensor shapes about hyperparameters.
    pub witnesses: Vec<hparams::Witness>,
    /// What several hyperparameters must hold together.
    pub constraints: Vec<hparams::Constraint>,
    /// The tasks.
    pub tasks: Vec<TaskType>,
    /// Sizes of inputs and outputs that the client chooses.
    pub dimensions: Vec<DimensionType>,
    /// What a request may say beside its tensors.
    pub parameters: Vec<ParameterType>,
    /// The ops of mappings.
    pub ops: Vec<ops::OpType>,
    /// The types of elements.
    pub dtypes: Vec<dtypes::DTypeRow>,
    /// What the findings of rules weigh.
    pub rules: Vec<rules::RuleRow>,
    /// The files beside the tensors.
    pub beside: Vec<files::FileRole>,
    /// How GGUF calls tokenizers.
    pub pretokenizers: Lazy<pretokenizers::Pretokenizers>,
    /// How quantized tensors are packed in blocks.
    pub encodings: Lazy<encodings::Encodings>,
    /// How libraries store one tensor as several.
    pub layouts: Lazy<Arc<Layouts>>,
    /// The config classes of foreign libraries by format.
    pub classes: Lazy<BTreeMap<String, classes::Classes>>,
    /// The architectures by id.
    pub archs: Table<String, Arch>,
    /// Models whose text model is a part of more.
    pub compounds: Lazy<Vec<Compound>>,
    /// The words of other programs for the names of mappings, in the order to try.
    pub dialects: Lazy<Vec<Dialect>>,
    /// The mappings by format and name.
    pub maps: Table<(String, String), Map>,
    /// By what the mappings are chosen, by format and name.
    heads: Table<(String, String), map::Head>,
    files: Arc<Files>,
    hashed: Hashed,
    hash: OnceLock<String>,
    role_index: roles::RoleIndex,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    version: String,
    /// The version below, `1.0`, whose files these add to.
    #[serde(rename = "extends")]
    _extends: Option<String>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    dialects: Vec<String>,
    #[serde(default)]
    maps: BTreeMap<String, Vec<String>>,
}

impl Spec {
    /// The standard by what a user names: a folder laid out as `spec/1.0`, or a version; the current one
    /// where nothing is named.
    ///
    /// # Errors
    /// There is no such version, or something is wrong with the files of the folder.
    pub fn named(name: Option<&str>) -> Result<Spec> {
        match name {
            None => Ok(Spec::current()),
            Some(folder) if Path::new(folder).is_dir() => Spec::from_dir(Path::new(folder)),
            Some(version) => Spec::embedded(version),
        }
    }

    /// The standard that this program carries.
    ///
    /// # Errors
    /// There is no such version, `1.0` or `1.0.0`.
    pub fn embedded(version: &str) -> Result<Spec> {
        let minor = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        let carried = VERSIONS.iter().find(|carried| carried.version == minor);
        Spec::lazily(carried.ok_or_else(|| no_version(&minor))?.whole())
    }

    /// The newest standard that this program carries.
    pub fn current() -> Spec {
        Spec::embedded(CURRENT).expect("a test parses the embedded files")
    }

    /// A standard from a folder laid out as `spec/1.0`.
    ///
    /// # Errors
    /// A file is missing, cannot be read, or does not keep the form.
    pub fn from_dir(dir: &Path) -> Result<Spec> {
        let mut files = Files::new();
        read_dir(dir, "", &mut files)?;
        let whole = versions::whole(files, &|version| versions::beside(dir, version));
        whole.and_then(Spec::checked).map_err(|err| err.in_file(dir))
    }

    /// A standard from files that are not known to be good: all of them are read at once.
    ///
    /// # Errors
    /// A file is missing or does not keep the form.
    pub fn from_files(files: Files) -> Result<Spec> {
        Spec::checked(versions::whole(files, &embedded_files)?)
    }

    fn checked(whole: versions::Whole) -> Result<Spec> {
        let spec = Spec::lazily(whole)?;
        spec.layouts.check()?;
        spec.encodings.check()?;
        encodings::check(&spec.encodings).map_err(|why| bad("encodings.toml", &why))?;
        spec.pretokenizers.check()?;
        spec.classes.check()?;
        spec.dialects.check()?;
        spec.compounds.check()?;
        spec.archs.read_all()?;
        spec.heads.read_all()?;
        spec.maps.read_all()?;
        let nowhere = spec.maps.values().find(|map| !spec.archs.contains_key(&map.arch));
        let problem = nowhere.map(|map| {
            let why = format!("there is no architecture {:?}", map.arch);
            bad(&format!("map/{}/{}.toml", map.format, map.name), &why)
        });
        problem.map_or(Ok(spec), Err)
    }

    /// A standard from files of which those that are large or many are read when they are asked for.
    fn lazily(whole: versions::Whole) -> Result<Spec> {
        let versions::Whole { files, later, hashed } = whole;
        let read_roles =
            || roles::resolve(parse(&files, "roles.toml")?).map_err(|why| bad("roles.toml", &why));
        let read_keys = || {
            let hparams: hparams::HparamsFile = parse(&files, "hparams.toml")?;
            hparams.resolve().map_err(|why| bad("hparams.toml", &why))
        };
        // Every command waits for these two, so they are read side by side. Not by the pool, whose size is not
        // settled yet, and which has many threads to start.
        let (roles, keys) = std::thread::scope(|scope| {
            let roles = scope.spawn(read_roles);
            let keys = read_keys();
            (roles.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), keys)
        });
        let (mut roles, (keys, witnesses, constraints)) = (roles?, keys?);
        roles::know_absent(&mut roles, &keys);
        let head: SpecFile = parse(&files, SPEC_FILE)?;
        let tasks: tasks::TasksFile = parse(&files, "tasks.toml")?;
        let ops: ops::OpsFile = parse(&files, "ops.toml")?;
        let dtypes: dtypes::DTypesFile = parse(&files, "dtypes.toml")?;
        let rules: rules::RulesFile = parse(&files, "rules.toml")?;
        let beside: files::FilesFile = parse(&files, "files.toml")?;

        let files = Arc::new(files);
        let parsed = Parsed::new(&files, "arch/");
        let read_arch = move |id: &String| arch::resolve(id, &|id| parsed.load(id));
        let formats = head.maps.keys();
        let folders = formats.map(|format| (format.clone(), format!("map/{format}/")));
        let whole = folders.clone().map(|(format, folder)| (format, Parsed::new(&files, &folder)));
        let whole: BTreeMap<String, Parsed<map::MapFile>> = whole.collect();
        let heads = folders.map(|(format, folder)| (format, Parsed::new(&files, &folder)));
        let heads: BTreeMap<String, Parsed<map::HeadFile>> = heads.collect();
        let names: Vec<(String, String)> = head
            .maps
            .iter()
            .flat_map(|(format, names)| names.iter().map(|name| (format.clone(), name.clone())))
            .collect();
        let dialect_ids = head.dialects;
        Ok(Spec {
            first: match later.is_empty() {
                true => head.version.clone(),
                false => format!("{FIRST}.0"),
            },
            version: head.version,
            later,
            role_index: roles::RoleIndex::new(&roles),
            roles,
            keys,
            witnesses,
            constraints,
            tasks: tasks::in_place(tasks.task).map_err(|why| bad("tasks.toml", &why))?,
            dimensions: tasks.dimension,
            parameters: tasks.parameter,
            ops: ops.op,
            dtypes: dtypes.dtype,
            rules: rules.rule,
            beside: beside.file,
            pretokenizers: Lazy::new(&files, |files| parse(files, "pretokenizers.toml")),
            encodings: Lazy::new(&files, |files| {
                let encodings: encodings::Encodings = parse(files, "encodings.toml")?;
                encodings.checked().map_err(|why| bad("encodings.toml", &why))
            }),
            layouts: Lazy::new(&files, |files| {
                parse::<Layouts>(files, "layouts.toml")?.checked().map(Arc::new)
            }),
            classes: Lazy::new(&files, |files| parse(files, "classes.toml")),
            archs: Table::new(head.architectures, read_arch),
            compounds: Lazy::new(&files, |files| {
                parse(files, "compounds.toml").map(|file: compound::CompoundsFile| file.compound)
            }),
            dialects: Lazy::new(&files, move |files| read_dialects(files, &dialect_ids)),
            heads: Table::new(names.clone(), move |(format, name)| {
                map::resolve_head(format, name, &|name| {
                    let (format, name) = map::place(format, name);
                    let of = heads.get(format).ok_or_else(|| no_format(format))?;
                    of.load_start(name)
                })
            }),
            maps: Table::new(names, move |(format, name)| {
                map::resolve(format, name, &|name| {
                    let (format, name) = map::place(format, name);
                    whole.get(format).ok_or_else(|| no_format(format))?.load(name)
                })
            }),
            files,
            hashed,
            hash: OnceLock::new(),
        })
    }

    /// How inputs are opened where it alone is to be known.
    pub fn how(&self) -> How<'_> {
        How { layouts: Some(&self.layouts), ..How::default() }
    }

    /// SHA-256 over its files that decide what is written, in hex.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let files = match &self.hashed {
                Hashed::Known(hash) => return (*hash).to_owned(),
                Hashed::Read => &*self.files,
                Hashed::Apart(files) => files,
            };
            let files = files.iter().map(|(name, text)| (name.as_str(), &**text));
            crate::base::hex::encode(&versions::digest::of(files))
        })
    }

    /// The architecture of this id.
    pub fn arch(&self, id: &str) -> Option<&Arch> {
        self.archs.get(id)
    }

    /// The mapping of this format and name.
    pub fn map(&self, format: &str, name: &str) -> Option<&Map> {
        self.maps.get(&(format.to_owned(), name.to_owned()))
    }

    /// The mappings of a format.
    pub fn maps_of<'s>(&'s self, format: &str) -> std::vec::IntoIter<&'s Map> {
        self.maps.select(|(of, _)| of == format)
    }

    /// The mappings of a format that lead to an architecture.
    pub fn maps_to<'s>(&'s self, format: &str, arch: &str) -> std::vec::IntoIter<&'s Map> {
        self.maps_chosen(format, |head| head.arch == arch)
    }

    /// The mappings of a format that are chosen by what their files begin with.
    pub fn maps_chosen<'s>(
        &'s self,
        format: &str,
        chooses: impl Fn(&map::Head) -> bool,
    ) -> std::vec::IntoIter<&'s Map> {
        self.maps.select(|key| key.0 == format && self.heads.get(key).is_some_and(&chooses))
    }

    /// The compound that a config is of, if it is of one.
    pub fn compound(&self, format: &str, config: &Json) -> Option<&Compound> {
        self.compounds.iter().find(|compound| compound.fits(format, config))
    }

    /// The dialect that models of an architecture are written in, in files of a format.
    pub fn dialect_to_write(&self, format: &str, architecture: &str) -> Option<&Dialect> {
        let writes = |of: &&Dialect| of.recorded() == format && of.writes(architecture);
        self.dialects.iter().find(writes)
    }

    /// The dialect of a format that nothing is written in, of a checkpoint that had tensors of these names.
    pub fn dialect_only_read(&self, format: &str, names: &[&str]) -> Option<&Dialect> {
        let fits = |of: &&Dialect| of.fits(&of.format, names.iter().copied());
        let mut read =
            self.dialects.iter().filter(|of| of.recorded() == format && of.is_only_read());
        read.find(fits)
    }

    /// Whether sources are recorded under this name that is no format's, but a dialect's.
    pub fn is_apart(&self, format: &str) -> bool {
        self.dialects.iter().any(|dialect| dialect.apart && dialect.id == format)
    }

    /// The files it was read from, by path.
    pub fn files(&self) -> &Files {
        &self.files
    }
}

/// The files of one version alone, `1.0`.
fn embedded_files(version: &str) -> Result<Files> {
    let prefix = format!("{version}/");
    let of = EMBEDDED
        .iter()
        .filter_map(|(name, text)| Some((name.strip_prefix(&prefix)?.to_owned(), text.clone())));
    let files: Files = of.collect();
    if files.is_empty() { Err(no_version(version)) } else { Ok(files) }
}

fn no_version(version: &str) -> Error {
    let known = VERSIONS.iter().map(|carried| carried.version).collect::<Vec<_>>().join(" and ");
    let message =
        format!("there is no version {version:?} of the standard here, there are {known}");
    Error::new(ErrorKind::Unsupported, message)
}

fn read_dir(dir: &Path, prefix: &str, files: &mut Files) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|err| Error::io(dir, "read the folder", err))?;
    for entry in entries {
        let path = entry.map_err(|err| Error::io(dir, "read the folder", err))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            read_dir(&path, &format!("{name}/"), files)?;
        } else {
            let text =
                std::fs::read_to_string(&path).map_err(|err| Error::io(&path, "read", err))?;
            files.insert(name, text.into());
        }
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(files: &Files, name: &str) -> Result<T> {
    let file = files.get(name).ok_or_else(|| bad(name, "is missing"))?;
    file.parse().map_err(|why| bad(name, &why))
}

fn read_dialects(files: &Files, ids: &[String]) -> Result<Vec<Dialect>> {
    let read = |id: &String| {
        let mut dialect: Dialect = parse(files, &format!("dialect/{id}.toml"))?;
        dialect.id.clone_from(id);
        Ok(dialect)
    };
    ids.iter().map(read).collect()
}

fn no_format(format: &str) -> Error {
    bad(&format!("map/{format}"), "is no format of spec.toml")
}

fn bad(name: &str, why: &str) -> Error {
    Error::new(ErrorKind::Malformed, format!("spec file {name}: {why}"))
}

/// A value of a data file as a value of a hyperparameter.
pub(crate) fn from_toml(value: &toml::Value) -> std::result::Result<Value, String> {
    Ok(match value {
        toml::Value::Boolean(value) => Value::Bool(*value),
        toml::Value::Integer(value) => Value::Int(*value),
        toml::Value::Float(value) => Value::Float(*value),
        // TOML has no null; this is how the data files spell it.
        toml::Value::String(word) if word == "null" => Value::Null,
        // JSON has no infinity; this is how the build spells it.
        toml::Value::String(word) if word == "inf" => Value::Float(f64::INFINITY),
        toml::Value::String(word) if word == "-inf" => Value::Float(f64::NEG_INFINITY),
        toml::Value::String(word) => Value::Symbol(word.clone()),
        toml::Value::Array(items) => {
            Value::List(items.iter().map(from_toml).collect::<std::result::Result<_, _>>()?)
        }
        other => return Err(format!("{other} is no value of a hyperparameter")),
    })
}
