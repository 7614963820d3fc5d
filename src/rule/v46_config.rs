//! V461 to V465: a foreign config that contradicts itself, or the tensors as they are stored.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::base::diagnostic::Level;
use crate::checkpoint::DType;
use crate::folder::CONFIG_FILE;
use crate::package::Conformance;
use crate::rule::{NotChecked, PackageView, Rule};

/// The config says how the tensors are packed, and none is packed.
pub(super) static UNBACKED: Rule = Rule::of_folder(
    Conformance::Schema,
    "V461",
    "quantization-unbacked",
    Level::Warning,
    |view, found| {
        let config = config(view)?;
        let quantization = ["quantization_config", "compression_config"]
            .into_iter()
            .find_map(|key| Some((key, config.get(key).filter(|entry| entry.is_object())?)));
        let Some((key, entry)) = quantization else {
            return Err(NotChecked::NotApplicable("the config says nothing of packed tensors"));
        };
        if view.around.tensors.is_empty() {
            return Err(NotChecked::Blocked("no tensors could be read"));
        }
        let method = entry.get("quant_method").and_then(Json::as_str).unwrap_or_default();
        // Some are packed when they are loaded.
        let at_load = entry.get("quantization_mode").and_then(Json::as_str) == Some("online");
        if !at_load && view.around.tensors.iter().all(|(_, dtype)| is_plain(*dtype)) {
            found.push(
                UNBACKED
                    .finding(format!("`{key}` says that tensors are packed by {method:?}, and every tensor is plain"))
                    .file(CONFIG_FILE)
                    .key(key)
                    .help("programs look for packed tensors and fail: the weights were unpacked, so remove the entry"),
            );
        }
        Ok(())
    },
);

/// Tensors are packed, and no config says how.
pub(super) static UNDECLARED: Rule = Rule::of_folder(
    Conformance::Schema,
    "V462",
    "quantization-undeclared",
    Level::Warning,
    |view, found| {
        let config = config(view)?;
        const ENDS: &[&str] = &[
            ".qweight",
            ".qzeros",
            ".weight_packed",
            ".weight_scale_inv",
            ".quant_state.bitsandbytes__nf4",
        ];
        let packed =
            view.around.tensors.iter().find(|(name, _)| ENDS.iter().any(|end| name.ends_with(end)));
        let Some((name, _)) = packed else {
            return Err(NotChecked::NotApplicable("no tensor has the name of a packed one"));
        };
        const FILES: &[&str] =
            &["quantize_config.json", "quant_config.json", "hf_quant_config.json"];
        let declared = ["quantization_config", "compression_config"]
            .iter()
            .any(|key| config.get(*key).is_some_and(Json::is_object))
            || FILES.iter().any(|file| view.around.files.contains_key(*file));
        if !declared {
            found.push(
                UNDECLARED
                    .finding(format!("`{name}` is packed, and no config says how"))
                    .file(CONFIG_FILE)
                    .key("quantization_config")
                    .tensor(name)
                    .help("programs build a plain model and leave the tensors out: add `quantization_config`"),
            );
        }
        Ok(())
    },
);

/// Two entries spell one number of the rotary embedding, and differ.
pub(super) static ROPE: Rule = Rule::of_folder(
    Conformance::Schema,
    "V463",
    "rope-spellings",
    Level::Warning,
    |view, found| {
        let config = config(view)?;
        // Each with its spellings, of which all that are there must agree.
        let entries: &[&[&str]] = &[
            &["/rope_parameters/rope_theta", "/rope_theta", "/rotary_emb_base"],
            &[
                "/rope_parameters/rope_type",
                "/rope_parameters/type",
                "/rope_scaling/rope_type",
                "/rope_scaling/type",
            ],
            &["/rope_parameters/factor", "/rope_scaling/factor"],
            &[
                "/rope_parameters/original_max_position_embeddings",
                "/rope_scaling/original_max_position_embeddings",
                "/original_max_position_embeddings",
            ],
            &["/rope_parameters/partial_rotary_factor", "/partial_rotary_factor", "/rotary_pct"],
        ];
        let mut looked = false;
        for paths in entries {
            let stated = paths.iter().filter_map(|path| Some((*path, config.pointer(path)?)));
            let stated: Vec<(&str, &Json)> = stated.filter(|(_, value)| !value.is_null()).collect();
            let Some(((first, value), rest)) = stated.split_first() else { continue };
            looked = true;
            let Some((other, differs)) = rest.iter().find(|(_, other)| !same(value, other)) else {
                continue;
            };
            let dotted = |path: &str| path.trim_start_matches('/').replace('/', ".");
            found.push(
                ROPE.finding(format!(
                    "`{}` is {value}, and `{}` is {differs}",
                    dotted(first),
                    dotted(other)
                ))
                .file(CONFIG_FILE)
                .key(dotted(other))
                .mismatch(value, differs)
                .help("versions of a program differ in which of the two they read, and compute something else: make them one"),
            );
        }
        if looked {
            Ok(())
        } else {
            Err(NotChecked::NotApplicable("the config has no rotary embedding"))
        }
    },
);

/// The context before it was stretched is longer than the one after.
pub(super) static CONTEXT: Rule =
    Rule::of_folder(Conformance::Schema, "V464", "rope-context", Level::Warning, |view, found| {
        let config = config(view)?;
        let number = |path: &str| config.pointer(path).and_then(Json::as_u64);
        let original = ["/rope_parameters", "/rope_scaling", ""]
            .iter()
            .find_map(|at| number(&format!("{at}/original_max_position_embeddings")));
        let (Some(original), Some(context)) = (original, number("/max_position_embeddings")) else {
            return Err(NotChecked::NotApplicable("the context was not stretched"));
        };
        if context < original {
            found.push(
                CONTEXT
                    .finding(format!(
                        "the context was {original} before it was stretched, and is {context}"
                    ))
                    .file(CONFIG_FILE)
                    .key("max_position_embeddings")
                    .mismatch(format!("at least {original}"), context)
                    .help("one of the two numbers is wrong: compare with the source"),
            );
        }
        Ok(())
    });

/// The config names another dtype than the one of the tensors.
pub(super) static DTYPE: Rule = Rule::of_folder(
    Conformance::Schema,
    "V465",
    "dtype-stated",
    Level::Note,
    |view, found| {
        let config = config(view)?;
        let stated = ["dtype", "torch_dtype"]
            .iter()
            .find_map(|key| Some((*key, config.get(*key)?.as_str()?)));
        let Some((key, stated)) = stated else {
            return Err(NotChecked::NotApplicable("the config names no dtype"));
        };
        let expected = match stated {
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            "float32" => DType::F32,
            "float64" => DType::F64,
            _ => return Err(NotChecked::NotApplicable("the config names no plain dtype")),
        };
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        let plain = view
            .around
            .tensors
            .iter()
            .filter(|(_, dtype)| is_plain(*dtype) && *dtype != DType::Bool);
        plain.for_each(|(_, dtype)| *count.entry(dtype.name()).or_default() += 1);
        if count.is_empty() {
            return Err(NotChecked::NotApplicable("no tensor is plain"));
        }
        // Norms are kept wider on purpose; a dtype that no tensor has is another thing.
        if !count.contains_key(expected.name()) {
            let listed: Vec<&str> = count.keys().copied().collect();
            found.push(
                DTYPE
                    .finding(format!("the config says {stated}, and the tensors are {}", listed.join(", ")))
                    .file(CONFIG_FILE)
                    .key(key)
                    .mismatch(expected.name(), listed.join(", "))
                    .help("programs load it as the config says: more memory, or other numbers, than are stored"),
            );
        }
        Ok(())
    },
);

fn config(view: &PackageView<'_>) -> Result<Json, NotChecked> {
    view.foreign_config().ok_or(NotChecked::NotApplicable("there is no foreign config"))
}

fn is_plain(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64 | DType::Bool | DType::I64)
}

/// Whether two values are the same: numbers by what they are worth, words as they are spelled today.
fn same(one: &Json, other: &Json) -> bool {
    let word = |json: &Json| {
        let word = json.as_str()?;
        Some(match word {
            "su" => "longrope".to_owned(),
            "mrope" => "default".to_owned(),
            word => word.to_owned(),
        })
    };
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => word(one) == word(other) && (word(one).is_some() || one == other),
    }
}
