//! Dialects: the names that other programs have for the tensors of a mapping. A dialect says how such
//! names, the order of their axes and the config beside them become those that the mappings of another
//! format read, and back; so no mapping has to be written again.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use self::stacked::{Fused, Stacked};
use super::expr::{Expr, Names};
use crate::checkpoint::Tensor;

pub mod stacked;

/// The names of one program or library.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dialect {
    /// Its id, the name of its file.
    #[serde(skip)]
    pub id: String,
    /// The format of the files: several dialects may have one.
    pub format: String,
    /// The format whose mappings read what the names become.
    pub of: String,
    /// Whose names these are, for people.
    pub about: String,
    /// Names of which one is in every checkpoint; none where the format alone decides.
    #[serde(default)]
    signs: Vec<String>,
    /// Whether the files are of a format that mappings know by other names, so that these tell them apart:
    /// a source is recorded as of the dialect then, and nothing is written in it.
    #[serde(default)]
    pub apart: bool,
    /// The key of the config that says whether its programs tie what the mappings tie; they always do
    /// where there is none.
    tie_key: Option<String>,
    /// Whether its programs read a tied tensor under its own name, like any other.
    #[serde(default)]
    stores_ties: bool,
    /// The architectures that are written in it; all where it does not say.
    architectures: Option<Vec<String>>,
    /// The architectures whose names it has; those that are written, or all that its rules fit, where it does
    /// not say.
    pub reads: Option<Vec<String>>,
    /// What stands between the segments of a name, the one to write first; the others may cut
    /// segments further.
    separators: Vec<String>,
    /// What may stand behind a name and is no part of it.
    #[serde(default)]
    suffix: String,
    /// In a segment, what stands before this is no part of it.
    label: Option<String>,
    /// How many segments in front are no part of a name, but for the last.
    #[serde(default)]
    skip: usize,
    /// The config that its programs write.
    pub config: Option<ConfigFile>,
    #[serde(default, rename = "piece")]
    pieces: Vec<Piece>,
    /// Segments of names of tensors that hold those of all layers.
    #[serde(default, rename = "stacked")]
    stacks: Vec<Stacked>,
    /// Segments of names of tensors that hold several.
    #[serde(default)]
    fused: Vec<Fused>,
    #[serde(default, rename = "aside")]
    asides: Vec<Aside>,
    /// Tensors that have more rows than the model.
    #[serde(default)]
    pub padded: Vec<Padded>,
}

/// A tensor whose rows behind the first ones nothing reads.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Padded {
    /// The tensor, by its name in the mappings.
    pub tensor: String,
    /// The entry of the config, as the mappings read it, that says how many rows count.
    pub key: String,
}

/// A config with words of its own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Its name.
    pub file: String,
    /// Its keys, each with the one that the mappings read.
    keys: Vec<[String; 2]>,
    /// What it leaves unsaid, by a tensor that is there; of one entry the first counts.
    #[serde(default)]
    values: Vec<Unsaid>,
    /// Sizes that it leaves unsaid, or has a number below 0 for, and that a tensor has.
    #[serde(default)]
    sizes: Vec<Size>,
    /// Whether its programs read it and no other: it alone is written then, and has to say all.
    #[serde(default)]
    pub alone: bool,
    /// Whether what is not among the keys says nothing of the model.
    #[serde(default)]
    closed: bool,
    /// Keys that are read and not written, as not all of its programs have them.
    #[serde(default)]
    unwritten: Vec<String>,
    /// Entries that are not written where they have these values.
    #[serde(default)]
    usual: BTreeMap<String, Json>,
    /// Entries of the mappings that it has no place for, of ids of special tokens: they are unknown, and
    /// not what a class takes them for.
    #[serde(default)]
    tokenless: Vec<String>,
    /// A width that its programs compute of other entries.
    rounded: Option<Rounded>,
}

/// A width that programs compute: two thirds of four times another one, times a factor, rounded up
/// to a multiple. Before each of the two roundings the fraction is cut off.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rounded {
    /// The width, as the mappings read it.
    key: String,
    /// The other width, as the mappings read it.
    of: String,
    /// The entry that has the factor, which is 1 where there is none.
    factor: String,
    /// The entry that has what it is a multiple of.
    multiple: String,
}

/// A size that a tensor has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Size {
    /// The entry, as the mappings read it.
    key: String,
    /// The tensor.
    tensor: String,
    /// Which of its dimensions it is.
    axis: usize,
}

/// What a config leaves unsaid.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Unsaid {
    /// The tensor by which a model is told.
    sign: String,
    /// An entry that the config of such a model has.
    has: Option<String>,
    /// The entries.
    values: BTreeMap<String, Json>,
}

/// Segments of names that are spelled otherwise.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Piece {
    /// The segments in the dialect; `{n}` is a number.
    theirs: String,
    /// The segments of the mappings, with dots.
    ours: String,
    /// Whether nothing follows.
    #[serde(default)]
    end: bool,
    /// Whether nothing follows and nothing stands in front.
    #[serde(default)]
    whole: bool,
    /// The tensors that are written so.
    kind: Option<Kind>,
    /// The models that are written so.
    when: Option<Expr>,
    /// By the number of their axes: for each of ours the one of theirs. Those that are not named
    /// have one entry.
    #[serde(default)]
    axes: BTreeMap<String, Vec<usize>>,
}

/// Tensors that are no part of a model.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Aside {
    /// The ends of their names.
    #[serde(default)]
    ends: Vec<String>,
    /// The starts of their names.
    #[serde(default)]
    starts: Vec<String>,
    /// The number of segments of their names.
    segments: Option<usize>,
    /// The most axes that one of floating-point numbers has; one with more is a weight.
    float_axes: Option<usize>,
    /// Why.
    why: String,
}

/// What a tensor is to the module that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Rows that are looked up.
    Table,
    /// Of a norm.
    Norm,
    /// Of anything else: a linear map, a convolution.
    Map,
}

/// A name in other words, and the order of its axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The name.
    pub name: String,
    /// For each axis in our order the one in theirs, where that is another.
    pub axes: Option<Vec<usize>>,
}

/// Which way names are brought.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Ours,
    Theirs,
}

impl Dialect {
    /// Whether a checkpoint of the format with these tensors has names of this dialect.
    pub fn fits<'n>(&self, format: &str, mut names: impl Iterator<Item = &'n str>) -> bool {
        self.format == format
            && (self.signs.is_empty()
                || names.any(|name| self.signs.iter().any(|sign| sign == name)))
    }

    /// Whether its programs make a tied tensor of another one, with this config in the mappings'
    /// words, rather than read one of its own.
    pub fn ties(&self, config: &Json) -> bool {
        let says = self.tie_key.as_ref().and_then(|key| config.get(key)?.as_bool());
        says.unwrap_or(!self.stores_ties)
    }

    /// What a checkpoint is recorded as: the format of the files, or the dialect that is told apart there.
    pub fn recorded(&self) -> &str {
        if self.apart { &self.id } else { &self.format }
    }

    /// Whether its programs tie what the mappings tie whatever a config says.
    pub fn always_ties(&self) -> bool {
        self.tie_key.is_none() && !self.stores_ties
    }

    /// Whether names tell its checkpoints from those of other dialects of the format.
    pub fn is_told_by_names(&self) -> bool {
        !self.signs.is_empty()
    }

    /// The architectures that are written in it, where it is not all.
    pub fn architectures(&self) -> impl Iterator<Item = &str> {
        self.architectures.iter().flatten().map(String::as_str)
    }

    /// Whether nothing is written in it.
    pub fn is_only_read(&self) -> bool {
        self.architectures.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether models of an architecture are written in it.
    pub fn writes(&self, architecture: &str) -> bool {
        self.architectures.as_ref().is_none_or(|ids| ids.iter().any(|id| id == architecture))
    }

    /// Why a tensor is no part of the model, if it is none; `float_axes` are the axes of one of
    /// floating-point numbers.
    pub fn aside(&self, name: &str, float_axes: Option<usize>) -> Option<&str> {
        let name = name.strip_suffix(&self.suffix).unwrap_or(name);
        let fits = |end: &String| match end.strip_prefix(&self.separators[0]) {
            Some(_) => name.ends_with(end.as_str()),
            None => name == end,
        };
        let begins = |start: &String| name.starts_with(start.as_str());
        let n_segments = name.split(self.separators[0].as_str()).count();
        let aside = self.asides.iter().find(|aside| {
            let named = aside.ends.iter().any(fits)
                || aside.starts.iter().any(begins)
                || aside.segments == Some(n_segments);
            let is_weight = float_axes.zip(aside.float_axes).is_some_and(|(has, most)| most < has);
            named && !is_weight
        });
        aside.map(|aside| aside.why.as_str())
    }

    /// The name that the mappings have for a tensor of these dimensions.
    pub fn ours(&self, name: &str, shape: &[u64]) -> Spoken {
        let name = name.strip_suffix(&self.suffix).unwrap_or(name);
        let (first, others) =
            self.separators.split_first().map_or(("/", &[][..]), |(of, rest)| (of, rest));
        let mut segments: Vec<&str> = name.split(first).filter(|part| !part.is_empty()).collect();
        if let Some(label) = &self.label {
            for segment in &mut segments {
                *segment = segment.rsplit_once(label.as_str()).map_or(*segment, |(_, name)| name);
            }
        }
        segments.drain(..self.skip.min(segments.len().saturating_sub(1)));
        for other in others {
            segments = segments.iter().flat_map(|segment| segment.split(other.as_str())).collect();
        }
        let (segments, axes) = self.rewrite(&segments, Way::Ours, &|_| true);
        let axes = axes.and_then(|axes| axes.get(&shape.len().to_string()));
        let axes = axes.filter(|axes| {
            let left = (0..shape.len()).filter(|axis| !axes.contains(axis));
            axes.iter().all(|axis| *axis < shape.len()) && left.into_iter().all(|at| shape[at] == 1)
        });
        Spoken { name: segments.join("."), axes: axes.cloned() }
    }

    /// The name that the dialect has for a tensor of `rank` axes of the mappings.
    pub fn theirs(&self, name: &str, rank: usize, kind: Kind, names: &dyn Names) -> Spoken {
        let segments: Vec<&str> = name.split('.').collect();
        let fits = |piece: &Piece| {
            piece.kind.is_none_or(|of| of == kind)
                && piece.when.as_ref().is_none_or(|when| when.eval_bool(names) == Ok(true))
        };
        let (segments, axes) = self.rewrite(&segments, Way::Theirs, &fits);
        let axes = axes.and_then(|axes| axes.values().find(|axes| axes.len() == rank));
        let name = segments.join(&self.separators[0]) + &self.suffix;
        Spoken { name, axes: axes.cloned() }
    }

    /// Puts the words of one side in place of those of the other; the axes are those of the piece
    /// that the name ends with.
    fn rewrite<'d>(
        &'d self,
        segments: &[&str],
        way: Way,
        fits: &dyn Fn(&Piece) -> bool,
    ) -> (Vec<String>, Option<&'d BTreeMap<String, Vec<usize>>>) {
        let (mut at, mut done, mut axes) = (0, Vec::new(), None);
        'segments: while at < segments.len() {
            for piece in self.pieces.iter().filter(|piece| fits(piece)) {
                let theirs = (piece.theirs.as_str(), self.separators[0].as_str());
                let (from, to) = match way {
                    Way::Ours => (theirs, (piece.ours.as_str(), ".")),
                    Way::Theirs => ((piece.ours.as_str(), "."), theirs),
                };
                let pattern: Vec<&str> = from.0.split(from.1).collect();
                let left = &segments[at..];
                let is_placed = (!piece.whole || at == 0)
                    && (!(piece.end || piece.whole) || left.len() == pattern.len());
                let Some(number) = Some(left).filter(|_| is_placed).and_then(|left| {
                    let left = left.get(..pattern.len())?;
                    matches(&pattern, left)
                }) else {
                    continue;
                };
                let text = to.0.replace("{n}", number.unwrap_or_default());
                done.extend(text.split(to.1).map(str::to_owned));
                at += pattern.len();
                axes = Some(&piece.axes);
                continue 'segments;
            }
            done.push(segments[at].to_owned());
            at += 1;
            axes = None;
        }
        (done, axes)
    }
}

/// Whether segments are as a pattern has them, and the number in them, if there is one.
fn matches<'s>(pattern: &[&str], segments: &[&'s str]) -> Option<Option<&'s str>> {
    let mut number = None;
    for (pattern, segment) in pattern.iter().zip(segments) {
        let Some((before, after)) = pattern.split_once("{n}") else {
            if pattern != segment {
                return None;
            }
            continue;
        };
        let digits = segment.strip_prefix(before)?.strip_suffix(after)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        number = Some(digits);
    }
    Some(number)
}

impl ConfigFile {
    /// The config that the mappings read, of a model with these tensors.
    pub fn ours(&self, config: &Json, tensors: &[Tensor]) -> Json {
        let Json::Object(entries) = config else { return config.clone() };
        let mut ours = serde_json::Map::new();
        for (key, value) in entries {
            let known = self.keys.iter().find(|[theirs, _]| theirs == key);
            if self.closed && known.is_none() {
                continue;
            }
            ours.insert(known.map_or(key, |[_, ours]| ours).clone(), value.clone());
        }
        let find = |name: &str| tensors.iter().find(|tensor| tensor.name == name);
        for unsaid in &self.values {
            let has = unsaid.has.as_ref().is_none_or(|key| entries.contains_key(key));
            if has && find(&unsaid.sign).is_some() {
                for (key, value) in &unsaid.values {
                    ours.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        for key in &self.tokenless {
            ours.entry(key.clone()).or_insert(Json::Null);
        }
        for Size { key, tensor, axis } in &self.sizes {
            let is_said = ours.get(key).is_some_and(|value| value.as_i64().is_none_or(|n| 0 <= n));
            let size = find(tensor).and_then(|tensor| tensor.shape.get(*axis));
            if let Some(size) = size.filter(|_| !is_said) {
                ours.insert(key.clone(), (*size).into());
            }
        }
        Json::Object(ours)
    }

    /// The config that the programs of the dialect read.
    ///
    /// # Errors
    /// It cannot say a width.
    pub fn theirs(&self, config: &Json) -> Result<Json, String> {
        let mut config = config.clone();
        if let Some(rounded) = &self.rounded {
            rounded.state(&mut config)?;
        }
        let keys = self.keys.iter().filter(|[theirs, _]| !self.unwritten.contains(theirs));
        let keys =
            keys.filter_map(|[theirs, ours]| Some((theirs.clone(), config.get(ours)?.clone())));
        let is_usual = |key: &String, value: &Json| {
            let usual = self.usual.get(key);
            usual.is_some_and(|usual| usual == value || usual.as_f64() == value.as_f64())
        };
        Ok(Json::Object(keys.filter(|(key, value)| !is_usual(key, value)).collect()))
    }
}

impl Rounded {
    /// The width that the programs compute.
    fn width(of: u64, factor: f64, multiple: u64) -> Option<u64> {
        let width = (of.checked_mul(8)? / 3) as f64 * factor;
        // As the programs do, which cut the fraction off.
        (width < 2f64.powi(52)).then_some(width as u64)?.checked_next_multiple_of(multiple)
    }

    /// Puts the entries in of which the programs compute the width: those that are there, where they
    /// give it, or else a factor of one decimal and a power of two as the releases have, or what
    /// gives the width exactly.
    fn state(&self, config: &mut Json) -> Result<(), String> {
        let number = |key: &str| config.get(key).and_then(Json::as_u64);
        let (Some(wanted), Some(of)) = (number(&self.key), number(&self.of)) else {
            return Ok(());
        };
        let factor = config.get(&self.factor).and_then(Json::as_f64);
        let gives = |factor: f64, multiple: u64| Self::width(of, factor, multiple) == Some(wanted);
        if number(&self.multiple).is_some_and(|multiple| gives(factor.unwrap_or(1.0), multiple)) {
            return Ok(());
        }
        let powers = (8..13).chain((0..8).rev()).map(|power| 1u64 << power);
        let plain = (10..100u32).map(|tenths| f64::from(tenths) / 10.0);
        let plain = plain.flat_map(|factor| powers.clone().map(move |multiple| (factor, multiple)));
        let exact = || {
            let factor = (wanted as f64 + 0.5) / (of.checked_mul(8)? / 3) as f64;
            Some((factor, 1))
        };
        let found = plain.into_iter().find(|&(factor, multiple)| gives(factor, multiple));
        let found = found.or_else(exact).filter(|&(factor, multiple)| gives(factor, multiple));
        let (factor, multiple) = found.ok_or_else(|| {
            format!("no `{}` makes `{}` of {of} to {wanted}", self.factor, self.key)
        })?;
        let Json::Object(entries) = config else { return Ok(()) };
        entries.insert(self.multiple.clone(), multiple.into());
        entries.remove(&self.factor);
        if factor != 1.0 {
            entries.insert(self.factor.clone(), factor.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
