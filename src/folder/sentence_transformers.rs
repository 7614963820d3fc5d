//! Sentence-transformers folders: `modules.json` lists what follows the transformer.
//!
//! Read from sentence-transformers 3.0 to 6.2: a module is a class and a folder; `Pooling` makes
//! one vector of a sequence, `Dense` maps it (weights of its own), `Normalize` scales it to
//! length 1.

use serde_json::{Value as Json, json};

use crate::base::diagnostic::Diagnostic;
use crate::base::error::Result;

/// The file that lists the modules.
pub const MODULES_FILE: &str = "modules.json";

/// The weight files of a `Dense` module, best first.
pub const DENSE_WEIGHTS: &[&str] = &["model.safetensors", "pytorch_model.bin"];

/// What follows the transformer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// Which positions make one vector: `first`, `mean`, `max`, `last`.
    pub pool: Option<&'static str>,
    /// The maps after the pooling, in order.
    pub dense: Vec<Dense>,
    /// Whether the vector is scaled to length 1 at the end.
    pub normalize: bool,
}

/// A linear map after the pooling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Its folder.
    pub path: String,
    /// What follows it; `None` for nothing.
    pub activation: Option<&'static str>,
    /// The width of its output, where its config says so.
    pub width: Option<u64>,
}

/// The name of a tensor of the `n`th `Dense` module, counted from 1, among the checkpoint's.
pub fn dense_name(n: usize, name: &str) -> String {
    format!("dense.{n}/{name}")
}

/// The number of the `Dense` module that a name of [`dense_name`] belongs to, and its own name.
pub fn parse_dense_name(name: &str) -> Option<(usize, &str)> {
    let (n, name) = name.strip_prefix("dense.")?.split_once('/')?;
    Some((n.parse().ok().filter(|&n| n != 0)?, name))
}

/// The folders of the `Dense` modules, in order.
pub fn dense_paths(modules: &Json) -> Vec<String> {
    each(modules).filter(|(kind, _)| *kind == "Dense").map(|(_, path)| path.to_owned()).collect()
}

/// The folders of all modules that have one.
pub fn folders(modules: &Json) -> Vec<String> {
    each(modules).map(|(_, path)| path.to_owned()).filter(|path| !path.is_empty()).collect()
}

/// The folder that the transformer lies in, if it has one of its own, and the modules with the
/// transformer in the folder that lists them.
pub fn at_home(modules: &Json) -> Option<(String, Json)> {
    let (index, (_, home)) =
        each(modules).enumerate().find(|(_, (kind, _))| *kind == "Transformer")?;
    let home = home.trim_end_matches('/').to_owned();
    if home.is_empty() {
        return None;
    }
    let mut modules = modules.clone();
    modules[index]["path"] = "".into();
    Some((home, modules))
}

fn each(modules: &Json) -> impl Iterator<Item = (&str, &str)> {
    modules.as_array().into_iter().flatten().map(|module| {
        let text = |key: &str| module.get(key).and_then(Json::as_str).unwrap_or_default();
        (text("type").rsplit('.').next().unwrap_or_default(), text("path"))
    })
}

/// Reads the modules of a folder, whose files `json` reads. What the standard has no place for is told of, and gives none.
///
/// # Errors
/// A file of a module cannot be read.
pub fn read(
    json: &mut dyn FnMut(&str) -> Result<Option<Json>>,
    findings: &mut Vec<Diagnostic>,
) -> Result<Option<Modules>> {
    let Some(modules_json) = json(MODULES_FILE)? else { return Ok(None) };
    let mut modules = Modules::default();
    let listed: Vec<(String, String)> =
        each(&modules_json).map(|(kind, path)| (kind.to_owned(), path.to_owned())).collect();
    for (kind, path) in listed {
        let config = json(&format!("{path}/config.json").replace("//", "/"))?.unwrap_or(Json::Null);
        let problem = match kind.as_str() {
            "Transformer" => None,
            _ if modules.normalize => Some("it follows the normalization"),
            "Pooling" if modules.pool.is_some() => Some("it is the second pooling"),
            "Pooling" => {
                modules.pool = pooling(&config);
                modules.pool.is_none().then_some("its pooling is not known")
            }
            "Normalize" => {
                modules.normalize = true;
                None
            }
            "Dense" if modules.pool.is_none() => Some("it stands before the pooling"),
            "Dense" => match activation(&config) {
                Ok(activation) => {
                    let width = config.get("out_features").and_then(Json::as_u64);
                    modules.dense.push(Dense { path: path.clone(), activation, width });
                    None
                }
                Err(why) => Some(why),
            },
            _ => Some("the standard has no place for it"),
        };
        if let Some(why) = problem {
            findings.push(
                Diagnostic::warning(
                    "P018",
                    format!("the module {kind:?} at {path:?}: {why}; there is no embedding task"),
                )
                .file(MODULES_FILE)
                .help("the files are carried over; only the task is not described"),
            );
            return Ok(None);
        }
    }
    Ok(Some(modules).filter(|modules| modules.pool.is_some()))
}

/// The files of modules that make an embedding of what a transformer of this width gives: paths and
/// texts; none for a pooling that no module has, or for an activation of a map.
pub fn files(
    pool: &str,
    normalize: bool,
    width: u64,
    dense: &[Map],
) -> Option<Vec<(String, Json)>> {
    MODES.iter().find(|(_, word)| *word == pool)?;
    let mut pooling = json!({"word_embedding_dimension": width});
    for (key, word) in MODES {
        pooling[*key] = (*word == pool).into();
    }
    let mut kinds = vec![("Transformer", String::new()), ("Pooling", "1_Pooling".to_owned())];
    let mut files = Vec::new();
    for map in dense {
        let path = format!("{}_Dense", kinds.len());
        let class = CLASSES.iter().find(|(_, word)| *word == map.activation.as_deref())?.0;
        let config = json!({
            "in_features": map.shape[1], "out_features": map.shape[0], "bias": map.bias,
            "activation_function": format!("torch.nn.modules.{class}"),
        });
        files.push((format!("{path}/config.json"), config));
        kinds.push(("Dense", path));
    }
    if normalize {
        kinds.push(("Normalize", format!("{}_Normalize", kinds.len())));
    }
    let modules = kinds.into_iter().enumerate().map(|(index, (kind, path))| {
        let kind = format!("sentence_transformers.models.{kind}");
        json!({"idx": index, "name": index.to_string(), "path": path, "type": kind})
    });
    let path = "1_Pooling/config.json".to_owned();
    files.splice(..0, [(MODULES_FILE.to_owned(), modules.collect()), (path, pooling)]);
    Some(files)
}

/// A linear map to be written.
#[derive(Clone, Debug)]
pub struct Map {
    /// Rows and columns.
    pub shape: [u64; 2],
    /// Whether something is added.
    pub bias: bool,
    /// What follows it.
    pub activation: Option<String>,
}

const CLASSES: &[(&str, Option<&str>)] = &[
    ("linear.Identity", None),
    ("activation.Tanh", Some("tanh")),
    ("activation.ReLU", Some("relu")),
    ("activation.GELU", Some("gelu_erf")),
    ("activation.SiLU", Some("silu")),
];

const MODES: &[(&str, &str)] = &[
    ("pooling_mode_cls_token", "first"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_lasttoken", "last"),
];

fn pooling(config: &Json) -> Option<&'static str> {
    if let Some(mode) = config.get("pooling_mode").and_then(Json::as_str) {
        let known = [("cls", "first"), ("mean", "mean"), ("max", "max"), ("lasttoken", "last")];
        return known.iter().find(|(word, _)| *word == mode).map(|(_, pool)| *pool);
    }
    let on = |key: &str| config.get(key).and_then(Json::as_bool) == Some(true);
    let mut modes = MODES.iter().filter(|(key, _)| on(key));
    let mode = modes.next()?;
    // Two at once are laid end to end, which is another interface.
    let others = ["pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens"];
    if modes.next().is_some() || others.iter().any(|key| on(key)) {
        return None;
    }
    Some(mode.1)
}

/// The standard's word for the class of an activation; one that is not stated is tanh.
fn activation(config: &Json) -> std::result::Result<Option<&'static str>, &'static str> {
    let class = match config.get("activation_function") {
        None => "Tanh",
        Some(class) => class.as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default(),
    };
    let known = CLASSES.iter().find(|(name, _)| name.ends_with(&format!(".{class}")));
    known.map(|(_, word)| *word).ok_or("its activation is not known")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_dense_modules_go_there_and_back() {
        assert_eq!(parse_dense_name(&dense_name(2, "linear.bias")), Some((2, "linear.bias")));
        assert_eq!(parse_dense_name("dense.0/linear.bias"), None);
        assert_eq!(parse_dense_name("encoder.dense.1/x"), None);
    }

    #[test]
    fn a_pooling_that_is_written_is_read() {
        let files = files("last", true, 8, &[]).unwrap();
        assert_eq!(files[0].1.as_array().map(Vec::len), Some(3));
        assert_eq!(pooling(&files[1].1), Some("last"));
        assert_eq!(super::files("pooler", true, 8, &[]), None);
    }

    #[test]
    fn maps_that_are_written_are_read() {
        let map = |shape, activation: Option<&str>| {
            let activation = activation.map(str::to_owned);
            Map { shape, bias: false, activation }
        };
        let maps = [map([5, 3], Some("gelu_erf")), map([2, 5], None)];
        let files = files("mean", true, 3, &maps).unwrap();
        let mut json = |path: &str| {
            Ok(files.iter().find(|(name, _)| name == path).map(|(_, json)| json.clone()))
        };
        let found = read(&mut json, &mut Vec::new()).unwrap().unwrap();
        let dense = |path: &str, activation, width| Dense {
            path: path.to_owned(),
            activation,
            width: Some(width),
        };
        let dense = vec![dense("2_Dense", Some("gelu_erf"), 5), dense("3_Dense", None, 2)];
        assert_eq!(found, Modules { pool: Some("mean"), dense, normalize: true });
        assert_eq!(super::files("mean", true, 3, &[map([5, 3], Some("xielu"))]), None);
    }

    #[test]
    fn two_poolings_at_once_are_another_interface() {
        let config = |text: &str| serde_json::from_str::<Json>(text).unwrap();
        let one = config(r#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false}"#);
        let two = config(r#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":true}"#);
        assert_eq!(pooling(&one), Some("first"));
        assert_eq!(pooling(&two), None);
        assert_eq!(pooling(&config(r#"{"pooling_mode":"lasttoken"}"#)), Some("last"));
    }
}
