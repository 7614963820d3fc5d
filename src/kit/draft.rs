//! The draft of a new architecture and its mapping, from a checkpoint's headers and config.
//!
//! The closest mapping is taken by `extends`; what it does not read is drafted as rules whose roles
//! are guessed by name and shape. A guess is not a proof: what the planner says of the draft is told,
//! and values are for an oracle to judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use super::sample::AsPlanned;
use crate::checkpoint::Checkpoint;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::package::Hparams;
use crate::plan::{self, import, keys, tasks};
use crate::spec::Spec;
use crate::spec::hparams::StackNames;
use crate::spec::map::{Each, Map, Rule};
use crate::spec::template::Bindings;

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
    /// Rules of the extended mapping that no tensor has, left out.
    pub left_out: Vec<String>,
    /// Entries of the config that nothing reads.
    pub unread_keys: Vec<String>,
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

/// Entries of a config that say nothing about what a model computes.
const SILENT: &[&str] = &[
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "model_type",
    "problem_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "initializer_range",
    "return_dict",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
];

/// Words of foreign names, and what the standard calls the same.
const WORDS: &[(&str, &str)] = &[
    ("self_attn", "attn"),
    ("attention", "attn"),
    ("self_attention", "attn"),
    ("attn", "attn"),
    ("encoder_attn", "cross_attn"),
    ("crossattention", "cross_attn"),
    ("mlp", "mlp"),
    ("feed_forward", "mlp"),
    ("ffn", "mlp"),
    ("wq", "q_proj"),
    ("wk", "k_proj"),
    ("wv", "v_proj"),
    ("wo", "o_proj"),
    ("query", "q_proj"),
    ("key", "k_proj"),
    ("value", "v_proj"),
    ("out_proj", "o_proj"),
    ("w1", "gate_proj"),
    ("w2", "down_proj"),
    ("w3", "up_proj"),
    ("fc1", "up_proj"),
    ("fc2", "down_proj"),
    ("fc11", "up_proj"),
    ("fc12", "gate_proj"),
    ("input_layernorm", "attn.pre_norm"),
    ("post_attention_layernorm", "mlp.pre_norm"),
    ("pre_feedforward_layernorm", "mlp.pre_norm"),
    ("post_feedforward_layernorm", "mlp.post_norm"),
    ("q_norm", "q_norm"),
    ("k_norm", "k_norm"),
    ("query_layernorm", "q_norm"),
    ("key_layernorm", "k_norm"),
    ("norm1", "attn.res_norm"),
    ("norm2", "mlp.res_norm"),
    ("embed_tokens", "embed.tokens"),
    ("word_embeddings", "embed.tokens"),
    ("wte", "embed.tokens"),
    ("position_embeddings", "embed.positions"),
    ("wpe", "embed.positions"),
    ("token_type_embeddings", "embed.token_types"),
    ("emb_ln", "embed.norm"),
    ("norm", "final_norm"),
    ("lm_head", "heads.lm.proj"),
    ("embed_out", "heads.lm.proj"),
    ("score", "heads.classifier.proj"),
    ("classifier", "heads.classifier.proj"),
    ("qa_outputs", "heads.qa.proj"),
    ("gate", "mlp.router"),
    ("router", "mlp.router"),
];

/// A name with `#` for every index.
fn pattern(name: &str) -> String {
    let index = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.split('.').map(|part| if index(&part) { "#" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// The patterns that a rule knows, without what stands for `@`.
fn patterns(rule: &Rule) -> Vec<String> {
    let mut texts: Vec<String> =
        rule.from.iter().chain(&rule.also).map(|from| from.text.clone()).collect();
    for (variable, values) in &rule.each {
        let replace = |text: &String| -> Vec<String> {
            match values {
                Each::Count(_) => vec![text.replace(&format!("{{{variable}}}"), "#")],
                Each::Texts(all) => all
                    .iter()
                    .map(|texts| match texts.as_slice() {
                        [word] => text.replace(&format!("{{{variable}}}"), word),
                        words => words.iter().enumerate().fold(text.clone(), |text, (at, word)| {
                            text.replace(&format!("{{{variable}.{at}}}"), word)
                        }),
                    })
                    .collect(),
            }
        };
        texts = texts.iter().flat_map(replace).collect();
    }
    if let Some((variable, _)) = &rule.over {
        texts = texts.iter().map(|text| text.replace(&format!("{{{variable}}}"), "#")).collect();
    }
    texts.iter().map(|text| pattern(text)).collect()
}

/// What of a checkpoint a mapping knows by name.
struct Cover<'a> {
    map: &'a Map,
    prefix: String,
    /// Whether each tensor is known.
    known: Vec<bool>,
    /// Patterns of rules that no tensor has.
    n_idle: usize,
    n_keys: usize,
}

fn cover<'a>(map: &'a Map, names: &[String], config: &Json) -> Cover<'a> {
    let all: BTreeSet<String> = map.rules.iter().flat_map(patterns).collect();
    let drops = map.drops.iter().map(|drop| pattern(&drop.name.text.replace("{i}", "0")));
    let all: BTreeSet<String> = all.into_iter().chain(drops).collect();
    let with = |prefix: &String| {
        let spelled: BTreeSet<String> = all
            .iter()
            .map(|text| match text.strip_prefix('@') {
                Some(rest) => format!("{}{rest}", pattern(prefix)),
                None => text.clone(),
            })
            .collect();
        let known: Vec<bool> = names.iter().map(|name| spelled.contains(name)).collect();
        let have: BTreeSet<&String> = names.iter().collect();
        let n_idle = spelled.iter().filter(|name| !have.contains(name)).count();
        (prefix.clone(), known, n_idle)
    };
    let count = |known: &[bool]| known.iter().filter(|known| **known).count();
    let best = map
        .prefixes
        .iter()
        .map(with)
        .reduce(|best, other| if count(&best.1) < count(&other.1) { other } else { best });
    let (prefix, known, n_idle) = best.unwrap_or_else(|| with(&String::new()));
    let n_keys = leaves(config).iter().filter(|path| reads(map, path)).count();
    Cover { map, prefix, known, n_idle, n_keys }
}

/// The paths of a config's entries.
fn leaves(config: &Json) -> Vec<String> {
    fn walk(json: &Json, path: &str, all: &mut Vec<String>) {
        match json {
            Json::Object(object) => object.iter().for_each(|(key, inner)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(inner, &path, all);
            }),
            _ => all.push(path.to_owned()),
        }
    }
    let mut all = Vec::new();
    walk(config, "", &mut all);
    all.retain(|path| !SILENT.contains(&path.split('.').next().unwrap_or_default()));
    all
}

/// Whether a mapping reads an entry of the config, or something inside of it.
fn reads(map: &Map, path: &str) -> bool {
    map.keys.iter().any(|rule| {
        let asked = super::tiny::expressions(rule)
            .flat_map(|expr| expr.names())
            .filter_map(|name| name.strip_prefix("config."));
        rule.from.iter().map(String::as_str).chain(asked).any(|from| from == path)
    }) || map.config.contains_key(path)
        || map.tasks.iter().any(|task| task.config.contains_key(path))
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
    let candidates = spec.maps.values().filter(|map| map.format == format);
    let candidates =
        candidates.filter(|map| from.is_none_or(|from| map.name == from || map.arch == from));
    let n_known = |cover: &Cover<'_>| cover.known.iter().filter(|known| **known).count();
    let best = candidates
        .map(|map| cover(map, &names, config))
        .max_by_key(|cover| (n_known(cover), cover.n_keys, std::cmp::Reverse(cover.n_idle)));
    let best = best.ok_or_else(|| {
        fail(format!("there is no {format} mapping of {:?}", from.unwrap_or_default()))
    })?;
    let map = best.map;
    let arch = spec.arch(&map.arch).expect("a mapping's architecture is checked when it is read");
    let hparams = keys::read(spec, map, arch, config).map(|keys| keys.hparams).unwrap_or_default();

    let unknown = checkpoint.tensors.iter().zip(&names).zip(&best.known);
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
        let guess = guess(spec, map, &hparams, &foreign, &tensor.shape);
        guesses.push(guess);
    }
    let left_out = left_out(map, &names, &best.prefix);
    let unread: Vec<String> = leaves(config).into_iter().filter(|path| !reads(map, path)).collect();

    let mut files = BTreeMap::new();
    let arch_path = format!("arch/{name}.toml");
    let map_path = format!("map/{format}/{name}.toml");
    files.insert(arch_path, arch_text(name, &map.arch, arch, &guesses, map, &left_out));
    files.insert(map_path, map_text(name, map, config, &guesses, &left_out, &unread));
    let listed = list_in(spec.files().get("spec.toml").map_or("", String::as_str), format, name);
    files.insert("spec.toml".to_owned(), listed);

    let findings = findings(spec, &files, format, name, checkpoint, config)?;
    Ok(Draft {
        schema: "llmstd.spec-new-arch/1",
        name: name.to_owned(),
        from: format!("{}/{}", map.format, map.name),
        known_tensors: n_known(&best),
        tensors: names.len(),
        known_keys: best.n_keys,
        guesses,
        left_out,
        unread_keys: unread,
        findings,
        files,
    })
}

/// What the planner says of the draft, planned from headers alone.
fn findings(
    spec: &Spec,
    files: &BTreeMap<String, String>,
    format: &str,
    name: &str,
    checkpoint: &Checkpoint,
    config: &Json,
) -> Result<Vec<Diagnostic>> {
    let mut all = spec.files().clone();
    all.extend(files.clone());
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

/// Rules of a mapping that no tensor has: by what their first foreign name says, as `without` has
/// it. Heads stay, as another file has them, and so does what a condition switches.
fn left_out(map: &Map, names: &[String], prefix: &str) -> Vec<String> {
    let have: BTreeSet<&String> = names.iter().collect();
    let prefix = pattern(prefix);
    let idle = |rule: &&Rule| {
        let is_part = rule.to.iter().all(|to| !to.text.starts_with("heads."));
        is_part
            && rule.when.is_none()
            && !patterns(rule).iter().any(|text| {
                let spelled = text.strip_prefix('@').map(|rest| format!("{prefix}{rest}"));
                have.contains(&spelled.unwrap_or_else(|| text.clone()))
            })
    };
    let mut texts: Vec<String> = map
        .rules
        .iter()
        .filter(idle)
        .filter_map(|rule| rule.from.first().map(|from| from.text.clone()))
        .collect();
    texts.sort();
    texts.dedup();
    // A text of two rules, one of which acts, stays.
    texts.retain(|text| {
        let mut rules =
            map.rules.iter().filter(|rule| rule.from.iter().any(|from| from.text == *text));
        rules.all(|rule| idle(&rule))
    });
    texts
}

/// The role that is most like a foreign name, among those of the shape if there are any.
fn guess(spec: &Spec, map: &Map, hparams: &Hparams, foreign: &str, shape: &[u64]) -> Guess {
    let stack = spec.arch(&map.arch).and_then(|arch| arch.stacks.first()).map(String::as_str);
    let leaf = foreign.rsplit('.').next().unwrap_or_default();
    let words: BTreeSet<&str> = foreign
        .trim_start_matches('@')
        .split('.')
        .flat_map(|word| {
            let known = WORDS.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours);
            known.unwrap_or(word).split('.')
        })
        .collect();
    let in_layer = foreign.contains("{i}");
    let scored = spec.roles.iter().filter_map(|role| {
        let text = role.template.text.as_str();
        if text.contains("{i}") != in_layer || text.rsplit('.').next() != Some(leaf) {
            return None;
        }
        let names = StackNames { hparams, tokens: None, stack, layer: Some(0) };
        let wanted: std::result::Result<Vec<Option<u64>>, String> = role
            .shape
            .iter()
            .map(|dim| dim.as_ref().map(|expr| expr.eval_size(&names)).transpose())
            .collect();
        let fits = wanted.is_ok_and(|wanted| {
            wanted.len() == shape.len()
                && wanted
                    .iter()
                    .zip(shape)
                    .all(|(want, have)| want.is_none_or(|want| want == *have))
        });
        let alike = text.split('.').filter(|word| *word != leaf && words.contains(word)).count();
        let bindings = Bindings::from([
            ("stack".to_owned(), stack.unwrap_or("decoder").to_owned()),
            ("i".to_owned(), "{i}".to_owned()),
        ]);
        let name = role.template.fill(&bindings).ok()?;
        (0 < alike).then_some((fits, alike, name))
    });
    // By words first; the shape decides among equals.
    let best = scored.max_by_key(|(fits, alike, _)| (*alike, *fits));
    let (shape_fits, standard) = match best {
        Some((fits, _, name)) => (fits, Some(name)),
        None => (false, None),
    };
    Guess { foreign: foreign.to_owned(), shape: shape.to_vec(), standard, shape_fits }
}

fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    texts.join(", ")
}

fn arch_text(
    name: &str,
    parent: &str,
    arch: &crate::spec::arch::Arch,
    guesses: &[Guess],
    map: &Map,
    left_out: &[String],
) -> String {
    let templates: BTreeSet<&str> = arch.templates().collect();
    let gone: BTreeSet<String> = map
        .rules
        .iter()
        .filter(|rule| rule.from.iter().any(|from| left_out.contains(&from.text)))
        .flat_map(canonical)
        .filter(|name| templates.contains(name.as_str()))
        .collect();
    let gone: Vec<String> = gone.into_iter().collect();
    let mut text = format!(
        "# A draft: read every line. What the parent fixes and this family has otherwise goes to `free`\n\
         # (above [arch]) and [fixed].\n\
         [arch]\nid      = {name:?}\nsince   = \"1.0\"\nextends = {parent:?}\n"
    );
    if !gone.is_empty() {
        let _ = writeln!(text, "without = [{}]", quoted(&gone));
    }
    let _ = writeln!(text, "about   = \"TODO: what sets it apart.\"");
    for guess in guesses {
        let Some(standard) = &guess.standard else { continue };
        if templates.contains(standard.as_str()) || standard.starts_with("heads.") {
            continue;
        }
        let each = if standard.contains("{i}") { "each  = { i = \"num_layers\" }\n" } else { "" };
        let _ = write!(text, "\n[[tensor]]\n{each}names = [{standard:?}]\n");
    }
    text
}

/// The canonical names of a rule, with only the variables of layers left open.
fn canonical(rule: &Rule) -> Vec<String> {
    let mut texts: Vec<String> = rule.to.iter().map(|to| to.text.clone()).collect();
    for (variable, values) in &rule.each {
        let Each::Texts(all) = values else { continue };
        let replace = |text: &String| -> Vec<String> {
            let one = |words: &Vec<String>| match words.as_slice() {
                [word] => text.replace(&format!("{{{variable}}}"), word),
                words => words.iter().enumerate().fold(text.clone(), |text, (at, word)| {
                    text.replace(&format!("{{{variable}.{at}}}"), word)
                }),
            };
            all.iter().map(one).collect()
        };
        texts = texts.iter().flat_map(replace).collect();
    }
    texts
}

fn map_text(
    name: &str,
    map: &Map,
    config: &Json,
    guesses: &[Guess],
    left_out: &[String],
    unread: &[String],
) -> String {
    let model_type = config.get("model_type").and_then(Json::as_str).unwrap_or(name);
    let stem = |class: &str| class.split("For").next().unwrap_or_default().to_owned();
    let ours = tasks::class(config).map(stem).unwrap_or_default();
    let ours = ours.trim_end_matches("Model").trim_end_matches("LMHead").to_owned();
    let mut text = format!(
        "# A draft from a checkpoint's headers: nothing here is proven before an oracle agrees.\n\
         [map]\nextends    = [{:?}]\narch       = {name:?}\nmatch      = {{ model_type = {model_type:?} }}\n\
         base_class = [\"{ours}Model\"]\nsource     = \"TODO: project, version, file\"\n",
        map.name
    );
    if !left_out.is_empty() {
        let _ = writeln!(text, "without    = [{}]", quoted(left_out));
    }
    let _ = write!(text, "\n[config]\nmodel_type = {model_type:?}\n");
    for guess in guesses {
        let Guess { foreign, shape, standard, shape_fits } = guess;
        let each = if foreign.contains("{i}") { "each = { i = \"num_layers\" }\n" } else { "" };
        let sure = match (standard, shape_fits) {
            (None, _) => "no role is like it",
            (Some(_), true) => "a guess by name; the shape fits",
            (Some(_), false) => "a guess by name; the shape does not fit under this config",
        };
        let _ = write!(text, "\n# {sure}: {shape:?}\n");
        let to = standard.as_deref().unwrap_or("TODO");
        let rule = format!("[[rule]]\n{each}from = [{foreign:?}]\nto   = [{to:?}]\n");
        match standard {
            Some(_) => text += &rule,
            None => rule.lines().for_each(|line| text += &format!("# {line}\n")),
        }
    }
    if !unread.is_empty() {
        text += "\n# Entries of the config that nothing reads yet: a key of the standard, or no meaning.\n";
        for path in unread {
            let value = keys::lookup(config, path).map(Json::to_string).unwrap_or_default();
            let _ = writeln!(text, "# {path} = {value}");
        }
    }
    let mut tasks = Vec::new();
    for task in &map.tasks {
        let Some(class) = task.class.first() else { continue };
        let class = format!("{ours}{}", &class[stem(class).len()..]);
        let mut lines = format!("\n[[task]]\nid    = {:?}\n", task.id);
        let words =
            [("head ", &task.head), ("pool ", &task.pool), ("activation", &task.activation)];
        for (key, word) in words {
            let _ = word.iter().try_for_each(|word| writeln!(lines, "{key} = {word:?}"));
        }
        let _ = writeln!(lines, "class = [{class:?}]");
        if !task.needs.is_empty() {
            let _ = writeln!(lines, "needs = [{}]", quoted(&task.needs));
        }
        if let Some(prefix) = &task.prefix {
            let _ = writeln!(lines, "prefix = {prefix:?}");
        }
        if task.labels {
            lines += "labels = true\n";
        }
        for (path, word) in &task.config {
            let _ = writeln!(lines, "config = {{ {path:?} = {word:?} }}");
        }
        tasks.push(lines);
    }
    if !tasks.is_empty() {
        text += "\n# Classes by the pattern of the parent: take out those that do not exist.\n";
        text += tasks.concat().trim_start();
    }
    text
}

/// `spec.toml` with one more architecture and one more mapping.
fn list_in(text: &str, format: &str, name: &str) -> String {
    let entry = format!("\n  {name:?},");
    let mut listed = text.to_owned();
    for list in ["architectures = [".to_owned(), format!("\n{format} = [")] {
        if let Some(at) = listed.find(&list) {
            listed.insert_str(at + list.len(), &entry);
        }
    }
    listed
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
        part("Left out, as no tensor has the name:", self.left_out.clone());
        part("Entries of the config that nothing reads:", self.unread_keys.clone());
        let tell = |finding: &Diagnostic| format!("[{}] {}", finding.rule, finding.message);
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
