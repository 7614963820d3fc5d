//! The draft of a new architecture and its mapping, from a checkpoint's headers and config.
//!
//! The closest mapping is taken by `extends`; what it does not read is drafted as rules whose roles
//! are guessed by name and shape. A guess is not a proof: what the planner says of the draft is told,
//! and values are for an oracle to judge.

mod cover;
mod files;
mod guess;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use super::sample::AsPlanned;
use crate::base::diagnostic::Diagnostic;
use crate::base::error::{Error, ErrorKind, Result};
use crate::checkpoint::Checkpoint;
use crate::plan::{self, import, keys};
use crate::spec::Spec;

use self::cover::{Cover, cover, idle, leaves, pattern, reads};
use self::guess::guess;

/// How many mappings are tried as the one to extend.
const MAX_DRAFTS: usize = 8;

/// What was drafted, as `llmstd spec new-arch` prints it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Draft {
    /// `llmstd.spec-new-arch/1`.
    pub schema: &'static str,
    /// The new architecture and mapping.
    pub name: String,
    /// The mapping that it extends, `hf/NAME`.
    pub from: String,
    /// How many of the checkpoint's tensors the rules of that mapping know by name.
    pub known_tensors: usize,
    /// How many tensors the checkpoint has.
    pub tensors: usize,
    /// How many of the config's entries that mapping reads.
    pub known_keys: usize,
    /// Rules that were drafted, and how sure each guess is.
    pub guesses: Vec<Guess>,
    /// Rules of the extended mapping that no tensor has, or that not all do, left out.
    pub left_out: Vec<String>,
    /// Entries of the config that nothing reads.
    pub unread_keys: Vec<String>,
    /// Hyperparameters that the config does not say: the extended mapping's defaults.
    pub assumed_keys: Vec<String>,
    /// What the planner says of the draft: what is wrong or missing yet.
    pub findings: Vec<Diagnostic>,
    /// The files by their path in the standard's folder: those of the draft, and `spec.toml`.
    #[serde(skip)]
    pub files: BTreeMap<String, String>,
}

/// A drafted rule.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Guess {
    /// The foreign name.
    pub foreign: String,
    /// The shape of its first tensor.
    pub shape: Vec<u64>,
    /// The canonical name; none where no role fits.
    pub standard: Option<String>,
    /// Whether the role has this shape under the config.
    pub shape_fits: bool,
}

/// Drafts an architecture and a mapping.
///
/// # Errors
/// There is no mapping to begin with, the name is taken, or the draft is no data file.
pub fn draft(
    spec: &Spec,
    format: &str,
    name: &str,
    from: Option<&str>,
    checkpoint: &Checkpoint,
    config: &Json,
) -> Result<Draft> {
    let fail = |why: String| Error::new(ErrorKind::Unsupported, why);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if name.is_empty() || name.starts_with('_') || !name.bytes().all(is_name) {
        return Err(fail(format!("{name:?} is no name for a file: letters, digits, `_` and `-`")));
    }
    if spec.arch(name).is_some() || spec.map(format, name).is_some() {
        return Err(fail(format!("the standard has {name:?} already")));
    }
    let names: Vec<String> =
        checkpoint.tensors.iter().map(|tensor| pattern(&tensor.name)).collect();
    let candidates = spec.maps_of(format);
    let candidates =
        candidates.filter(|map| from.is_none_or(|from| map.name == from || map.arch == from));
    let mut covers: Vec<Cover<'_>> = candidates.map(|map| cover(map, &names, config)).collect();
    covers.sort_by(|a, b| b.rank().cmp(&a.rank()));
    // Of the closest by name, that one whose draft the planner finds the least wrong with.
    let most = covers.first().map_or(0, Cover::n_known);
    covers.retain(|cover| cover.n_known() == most);
    covers.truncate(MAX_DRAFTS);
    let input = Input { spec, format, name, checkpoint, config, names: &names };
    let drafts =
        covers.iter().map(|cover| draft_from(&input, cover)).collect::<Result<Vec<_>>>()?;
    drafts.into_iter().min_by_key(|draft| draft.findings.len()).ok_or_else(|| {
        fail(format!("there is no {format} mapping of {:?}", from.unwrap_or_default()))
    })
}

/// What a draft is made for.
struct Input<'a> {
    spec: &'a Spec,
    format: &'a str,
    name: &'a str,
    checkpoint: &'a Checkpoint,
    config: &'a Json,
    /// The patterns of the tensors' names.
    names: &'a [String],
}

/// The draft that extends one mapping.
fn draft_from(input: &Input<'_>, best: &Cover<'_>) -> Result<Draft> {
    let Input { spec, format, name, checkpoint, config, names } = *input;
    let map = best.map;
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let keys = keys::read(spec, map, arch, config).unwrap_or_default();

    let unknown = checkpoint.tensors.iter().zip(names).zip(&best.known);
    let mut guesses: Vec<Guess> = Vec::new();
    for ((tensor, pattern), _) in unknown.filter(|(_, known)| !**known) {
        let foreign = match pattern.strip_prefix(&best.prefix) {
            Some(rest) if !best.prefix.is_empty() => format!("@{rest}"),
            _ => pattern.clone(),
        };
        let foreign = foreign.replacen('#', "{i}", 1);
        if guesses.iter().any(|guess| guess.foreign == foreign) {
            continue;
        }
        let guess = guess(spec, map, &keys.hparams, &foreign, &tensor.shape);
        guesses.push(guess);
    }
    let idle = idle(map, names, &best.prefix);
    let unread: Vec<String> = leaves(config).into_iter().filter(|path| !reads(map, path)).collect();
    let assumed = keys.origins.iter().filter(|(key, from)| {
        !key.starts_with("tokens.") && !key.starts_with('_') && from.starts_with("the default")
    });
    let assumed = assumed
        .filter_map(|(key, _)| keys.hparams.get(key).map(|value| format!("{key} = {value}")));

    let mut texts = BTreeMap::new();
    texts.insert(format!("arch/{name}.toml"), files::arch(name, arch, &guesses, &idle));
    let text = files::map(name, best, config, &guesses, &idle, &unread);
    texts.insert(format!("map/{format}/{name}.toml"), text);
    let listed = spec.files().get("spec.toml").map_or("", |text| text);
    texts.insert("spec.toml".to_owned(), files::spec(listed, format, name));

    let findings = findings(spec, &texts, format, name, checkpoint, config)?;
    Ok(Draft {
        schema: "llmstd.spec-new-arch/1",
        name: name.to_owned(),
        from: format!("{}/{}", map.format, map.name),
        known_tensors: best.n_known(),
        tensors: names.len(),
        known_keys: best.n_keys,
        guesses,
        left_out: idle.without,
        unread_keys: unread,
        assumed_keys: assumed.collect(),
        findings,
        files: texts,
    })
}

/// What the planner says of the draft, planned from headers alone.
fn findings(
    spec: &Spec,
    texts: &BTreeMap<String, String>,
    format: &str,
    name: &str,
    checkpoint: &Checkpoint,
    config: &Json,
) -> Result<Vec<Diagnostic>> {
    let mut all = spec.files().clone();
    all.extend(texts.iter().map(|(path, text)| (path.clone(), text.clone().into())));
    let drafted = Spec::from_files(all)?;
    let map = drafted.map(format, name).ok_or_else(|| {
        Error::new(ErrorKind::Malformed, "spec.toml has no place for the mapping".to_owned())
    })?;
    let options = plan::Options::default();
    Ok(match import::import(&drafted, map, checkpoint, config, &AsPlanned, options) {
        Ok(import) => import.findings,
        Err(findings) => findings,
    })
}

impl Draft {
    /// The draft for people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{} extends {}, which knows {} of {} tensors by name and {} entries of the config\n",
            self.name, self.from, self.known_tensors, self.tensors, self.known_keys
        );
        let mut part = |title: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                let _ = writeln!(text, "\n{title}");
                lines.iter().for_each(|line| text += &format!("  {line}\n"));
            }
        };
        let guess = |guess: &Guess| {
            let fits = if guess.shape_fits { "shape fits" } else { "shape does not fit" };
            match &guess.standard {
                Some(standard) => format!("{} -> {standard}  ({fits})", guess.foreign),
                None => format!("{} {:?} -> ?", guess.foreign, guess.shape),
            }
        };
        part("Drafted, guessed by name:", self.guesses.iter().map(guess).collect());
        part("Left out, as not all its names are there:", self.left_out.clone());
        part("Entries of the config that nothing reads:", self.unread_keys.clone());
        let tell = |finding: &Diagnostic| format!("[{}] {}", finding.rule, finding.message);
        part("Not in the config, so the parent's default:", self.assumed_keys.clone());
        part("What the planner says of it:", self.findings.iter().map(tell).collect());
        if self.findings.is_empty() {
            text += "\nThe planner finds nothing wrong: every tensor is read and made, and every shape fits.\n";
        }
        text += "\nNot proven yet: what each tensor and each entry of the config means. Shapes do not \
                 see exchanged names, rotary pairing, a scale or an epsilon. Make an oracle \
                 (spec/README.md, \"A new architecture\").\n";
        text
    }
}
