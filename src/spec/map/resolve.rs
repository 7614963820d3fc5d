//! Lays the files of a mapping over those that they extend.

use std::collections::BTreeMap;

use super::file::{
    DropFile, EachFile, EachValue, HeadFile, KeyFile, MapFile, RuleFile, TurnedFile, Words,
};
use super::rules::{
    ClassDefault, DropRule, Each, EachEntry, Head, KeyRule, Map, Rule, Turned, Write,
};
use crate::base::error::Result;
use crate::base::limits::MAX_EXTENDS;
use crate::spec::expr::Expr;
use crate::spec::template::Template;
use crate::spec::{bad, from_toml};

/// The format and the file of a name that a mapping of `format` extends: `hf/llama` is of another one.
pub(crate) fn place<'n>(format: &'n str, name: &'n str) -> (&'n str, &'n str) {
    name.split_once('/').unwrap_or((format, name))
}

/// The name of a file that another extends, which is of the format of that one where it says none.
fn parent(of: &str, name: &str) -> String {
    match of.split_once('/') {
        Some((format, _)) if !name.contains('/') => format!("{format}/{name}"),
        _ => name.to_owned(),
    }
}

/// What the files say of a mapping before they say what it does.
///
/// # Errors
/// A file is missing, does not keep the form, or they extend each other in a circle.
pub(crate) fn resolve_head(
    format: &str,
    name: &str,
    load: &dyn Fn(&str) -> Result<HeadFile>,
) -> Result<Head> {
    fn arch(
        format: &str,
        name: &str,
        load: &dyn Fn(&str) -> Result<HeadFile>,
        depth: usize,
    ) -> Result<String> {
        if MAX_EXTENDS < depth {
            let why = "mappings extend each other too deep, or in a circle";
            return Err(bad(&format!("map/{format}/{name}.toml"), why));
        }
        let file = load(name)?.map;
        if !file.arch.is_empty() {
            return Ok(file.arch);
        }
        let mut found = String::new();
        for of in &file.extends {
            let of_parent = arch(format, &parent(name, of), load, depth + 1)?;
            if !of_parent.is_empty() {
                found = of_parent;
            }
        }
        Ok(found)
    }
    let head = load(name)?.map;
    let arch = arch(format, name, load, 0)?;
    Ok(Head { arch, matches: words_of(head.matches), when: head.when })
}

pub(super) fn words_of(matches: BTreeMap<String, Words>) -> BTreeMap<String, Vec<String>> {
    matches.into_iter().map(|(path, words)| (path, words.into_vec())).collect()
}

pub(crate) fn resolve(
    format: &str,
    name: &str,
    load: &dyn Fn(&str) -> Result<MapFile>,
) -> Result<Map> {
    let mut map = Map { format: format.to_owned(), name: name.to_owned(), ..Map::default() };
    let mut place = String::new();
    merge(&mut map, name, load, 0, &mut place)?;
    map.name = name.to_owned();
    map.place_keys(&place);
    if map.prefixes.is_empty() {
        map.prefixes.push(String::new());
    }
    Ok(map)
}

impl Map {
    /// Puts the text that `@` stands for into the paths of keys.
    fn place_keys(&mut self, place: &str) {
        let put = |path: &mut String| {
            if let Some(rest) = path.strip_prefix('@') {
                *path = format!("{place}{rest}");
            }
        };
        for key in &mut self.keys {
            key.from.iter_mut().for_each(put);
            key.each.iter_mut().flat_map(|each| &mut each.from).for_each(put);
            for write in key.write.iter_mut().flatten() {
                match write {
                    Write::Path(path) | Write::Rule { path, .. } => put(path),
                }
            }
        }
        let place_all = |config: &mut BTreeMap<String, toml::Value>| {
            let placed = std::mem::take(config).into_iter().map(|(mut path, value)| {
                put(&mut path);
                (path, value)
            });
            *config = placed.collect();
        };
        place_all(&mut self.config);
        for task in &mut self.tasks {
            place_all(&mut task.config);
            task.label_list.iter_mut().for_each(put);
        }
    }
}

/// Lays the file `name` over what `map` has, after the files it extends.
fn merge(
    map: &mut Map,
    name: &str,
    load: &dyn Fn(&str) -> Result<MapFile>,
    depth: usize,
    place: &mut String,
) -> Result<()> {
    let fail = |why: &str| bad(&format!("map/{}/{name}.toml", map.format), why);
    if MAX_EXTENDS < depth {
        return Err(fail("mappings extend each other too deep, or in a circle"));
    }
    let MapFile {
        map: head,
        config,
        words,
        tokenizer,
        alias,
        turned,
        rule,
        drop,
        drop_head,
        reader,
        key,
        task,
    } = load(name)?;
    let format = map.format.clone();
    let fail = |why: &str| bad(&format!("map/{format}/{name}.toml"), why);
    for of in &head.extends {
        merge(map, &parent(name, of), load, depth + 1, place)?;
    }
    for text in &head.without {
        let before = map.rules.len() + map.drops.len() + map.keys.len() + map.tasks.len();
        map.rules.retain(|rule| !rule.from.iter().any(|from| from.text == *text));
        map.drops.retain(|drop| drop.name.text != *text);
        map.keys.retain(|key| key.to != *text);
        map.tasks.retain(|task| task.id != *text);
        if map.inert.remove(text) {
            continue;
        }
        if map.rules.len() + map.drops.len() + map.keys.len() + map.tasks.len() == before {
            return Err(fail(&format!("there was no `{text}` to leave out")));
        }
    }
    if !head.arch.is_empty() {
        map.arch = head.arch;
    }
    map.revision = head.revision.unwrap_or(1);
    // A family is never recognised by what recognises the one it extends.
    map.matches = words_of(head.matches);
    map.claims_untyped = head.claims_untyped;
    map.when = head.when;
    map.vector_dtype = head.vector_dtype.map(|name| name.0).or(map.vector_dtype);
    if !head.per_block_arrays.is_empty() {
        map.per_block_arrays = head.per_block_arrays;
    }
    if let Some(keys) = head.keys {
        *place = keys;
    }
    for (ours, theirs) in [
        (&mut map.prefixes, head.prefix),
        (&mut map.base_classes, head.base_class),
        (&mut map.clear, head.clear),
        (&mut map.unwritten, head.unwritten),
    ] {
        if !theirs.is_empty() {
            *ours = theirs;
        }
    }
    if !head.spell.is_empty() {
        map.spells = head.spell;
    }
    for alias in alias {
        if !map.aliases.contains(&alias) {
            map.aliases.push(alias);
        }
    }
    for file in turned {
        map.turned.push(turned_of(file).map_err(|why| fail(&why))?);
    }
    map.inert.extend(head.inert);
    map.words.extend(words);
    map.config.extend(config);
    map.tokenizer.extend(tokenizer);
    for rule in rule {
        map.rules.push(rule_of(rule).map_err(|why| fail(&why))?);
    }
    for file in drop {
        let name = Template::parse(&file.name).map_err(|why| fail(&why))?;
        let each = each_of(file.each).map_err(|why| fail(&why))?;
        map.drops.retain(|drop| drop.name != name);
        if file.kept && file.make.is_some() != file.emit_without_source {
            return Err(fail("what is kept is made only where no source says it"));
        }
        let requires_any = file.requires_any.iter().map(|text| Template::parse(text));
        let requires_any =
            requires_any.collect::<std::result::Result<_, _>>().map_err(|why| fail(&why))?;
        let DropFile { when, make, kept, computed, emit_without_source, why, .. } = file;
        map.drops.push(DropRule {
            each,
            name,
            when,
            make,
            kept,
            computed,
            requires_any,
            emit_without_source,
            why,
        });
    }
    for reader in reader {
        map.readers.retain(|known| known.does != reader.does);
        map.readers.push(reader);
    }
    for dropped in drop_head {
        map.dropped_heads.retain(|known| known.head != dropped.head);
        map.dropped_heads.push(dropped);
    }
    for file in key {
        let key = key_of(file, &map.words).map_err(|why| fail(&why))?;
        match map.keys.iter_mut().find(|known| known.to == key.to) {
            Some(known) => *known = key,
            None => map.keys.push(key),
        }
    }
    if !task.is_empty() {
        // Classes belong to one family: its tasks are told anew, never added to.
        map.tasks = task;
    }
    Ok(())
}

fn turned_of(file: TurnedFile) -> std::result::Result<Turned, String> {
    let TurnedFile { each, names, shapes, axes } = file;
    let mut order = axes.clone();
    order.sort_unstable();
    let is_order = order.iter().copied().eq(0..axes.len());
    if !is_order || shapes.len() != names.len() || shapes.iter().any(|of| of.len() != axes.len()) {
        return Err(
            "`turned` has a shape for each name, and an axis for each of a shape".to_owned()
        );
    }
    let names = names.iter().map(|text| Template::parse(text));
    Ok(Turned {
        each: each_of(each)?,
        names: names.collect::<std::result::Result<_, _>>()?,
        shapes,
        axes,
    })
}

fn rule_of(file: RuleFile) -> std::result::Result<Rule, String> {
    let mut each = each_of(file.each)?;
    let uses_p = |texts: &[String]| texts.iter().any(|text| text.contains("{p}"));
    if uses_p(&file.from) || uses_p(&file.to) {
        let leaves = ["weight", "bias"].map(|leaf| vec![leaf.to_owned()]).to_vec();
        each.push(("p".to_owned(), Each::Texts(leaves)));
    }
    let templates = |texts: &[String]| {
        texts.iter().map(|text| Template::parse(text)).collect::<std::result::Result<Vec<_>, _>>()
    };
    let mut over = file.over.into_iter();
    let (first, second) = (over.next(), over.next());
    if second.is_some() {
        return Err("a rule is a list over one variable at most".to_owned());
    }
    Ok(Rule {
        each,
        over: first,
        from: templates(&file.from)?,
        also: templates(&file.also)?,
        also_when: file.also_when,
        to: templates(&file.to)?,
        requires_any: templates(&file.requires_any)?,
        requires_none: templates(&file.requires_none)?,
        tie: file.tie,
        ignore_tie_flag: file.ignore_tie_flag,
        ops: file.ops,
        is_alternative: file.alternative,
        dtype: file.dtype.map(|name| name.0),
        when: file.when,
    })
}

fn each_of(file: BTreeMap<String, EachFile>) -> std::result::Result<Vec<(String, Each)>, String> {
    let each = file.into_iter().map(|(variable, each)| {
        let each = match each {
            EachFile::Count(expr) => Each::Count(Expr::parse(&expr)?),
            EachFile::Words(words) => {
                Each::Texts(words.into_iter().map(|word| vec![word]).collect())
            }
            EachFile::Tuples(tuples) => Each::Texts(tuples),
        };
        Ok((variable, each))
    });
    each.collect()
}

fn key_of(
    file: KeyFile,
    shared: &BTreeMap<String, toml::Table>,
) -> std::result::Result<KeyRule, String> {
    let mut words = file.words;
    if let Some(name) = &file.words_of {
        let shared = shared.get(name).ok_or_else(|| format!("there are no words `{name}`"))?;
        for (word, value) in shared {
            words.entry(word).or_insert_with(|| value.clone());
        }
    }
    let words = words.iter().map(|(word, value)| Ok((word.clone(), from_toml(value)?)));
    let defaults = file
        .default
        .into_iter()
        .map(|default| Ok(ClassDefault { when: default.when, value: from_toml(&default.value)? }));
    Ok(KeyRule {
        words: words.collect::<std::result::Result<_, String>>()?,
        defaults: defaults.collect::<std::result::Result<_, String>>()?,
        from: file.from,
        // An id that is null says that there is none; the class's is for a config that is silent.
        null: file.null || file.to.starts_with("tokens."),
        to: file.to,
        expr: file.expr,
        back: file.back,
        otherwise: file.otherwise,
        each: file.each.map(|each| {
            let EachValue { i, value, from, rest } = each;
            let rest = rest.unwrap_or_else(|| value.clone());
            EachEntry { count: i, value, from, rest }
        }),
        value: file.value,
        when: file.when,
        write: file.write,
        inexpressible: file.inexpressible,
        usual: file.usual,
        stored: file.stored,
        rows_of: file.rows_of,
        columns_of: file.columns_of,
    })
}
