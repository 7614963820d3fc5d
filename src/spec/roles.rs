//! The canonical tensor names: `roles.toml`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spec;
use super::expr::{Expr, Names};
use super::hparams::Key;
use super::template::{Template, alternatives};
use crate::package::{Hparams, Value};

/// One canonical tensor name, with `{stack}`, `{i}` and `{name}` left open.
#[derive(Clone, Debug)]
pub struct Role {
    /// The name.
    pub template: Template,
    /// The name as `roles.toml` has it, which may stand for several.
    pub written: String,
    /// The shape; an open dimension may have any size.
    pub shape: Vec<Option<Expr>>,
    /// Which rows are rotary pairs.
    pub rope: Option<Rope>,
    /// Keys that packages of older versions do not have, and what shape and rotary rows mean without.
    pub absent: Hparams,
    /// Whether its rows are looked up, not multiplied with.
    pub is_table: bool,
    /// Whether its elements are ids, and no weights.
    pub is_ids: bool,
    /// What the tensor is, for people.
    pub about: String,
}

/// The rotary rows of a projection.
#[derive(Clone, Debug)]
pub struct Rope {
    /// The number of heads.
    pub heads: Expr,
    /// The rotary dimensions of each.
    pub dim: Expr,
}

/// A canonical name, taken apart.
#[derive(Clone, Debug)]
pub struct RoleMatch<'a> {
    /// The role.
    pub role: &'a Role,
    /// The role's place in the order of roles.
    pub index: usize,
    /// The stack, `decoder`.
    pub stack: Option<String>,
    /// The layer.
    pub layer: Option<u64>,
    /// The name of the head, of `heads.<name>`.
    pub head: Option<String>,
}

/// Where a name stands among others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order(u8, u8, u64, usize, String);

/// The longest legal name, in bytes.
pub const MAX_NAME_LEN: usize = 200;

/// The stacks that there are.
const STACKS: [&str; 2] = ["encoder", "decoder"];

/// The first segment of names whose meaning the standard does not know.
pub const EXTRA: &str = "extra";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RolesFile {
    role: Vec<RoleFile>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RoleFile {
    name: String,
    shape: Vec<String>,
    rope: Option<RopeFile>,
    #[serde(default)]
    table: bool,
    /// Its elements are ids, and no weights.
    #[serde(default)]
    ids: bool,
    /// It says a role of a version below again, which it takes the place of.
    #[serde(default)]
    replaces: bool,
    #[serde(default)]
    about: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RopeFile {
    heads: String,
    dim: String,
}

pub(super) fn resolve(file: RolesFile) -> Result<Vec<Role>, String> {
    let mut roles: Vec<Role> = Vec::new();
    for role in file.role {
        for name in alternatives(&role.name)? {
            let mut shape = role
                .shape
                .iter()
                .map(|dim| if dim == "?" { Ok(None) } else { Expr::parse(dim).map(Some) })
                .collect::<Result<Vec<_>, _>>()?;
            // The bias of a map has one entry for each of its outputs.
            if name.ends_with(".bias") && 1 < shape.len() {
                shape.pop();
            }
            let rope = match &role.rope {
                Some(rope) => {
                    let (heads, dim) = (Expr::parse(&rope.heads)?, Expr::parse(&rope.dim)?);
                    Some(Rope { heads, dim })
                }
                None => None,
            };
            let known = roles.iter().position(|known| known.template.text == name);
            let template = Template::parse(&name)?;
            let (is_table, is_ids, about) = (role.table, role.ids, role.about.clone());
            let (absent, written) = (Hparams::new(), role.name.clone());
            let new = Role { template, written, shape, rope, absent, is_table, is_ids, about };
            match (known, role.replaces) {
                (Some(at), true) => roles[at] = new,
                (None, false) => roles.push(new),
                (Some(_), false) => return Err(format!("the role `{name}` stands twice")),
                (None, true) => {
                    return Err(format!("the role `{name}` replaces one that is not there"));
                }
            }
        }
    }
    Ok(roles)
}

/// Tells roles what the keys of their shapes mean that a package may lack.
pub(super) fn know_absent(roles: &mut [Role], keys: &[Key]) {
    let later = keys.iter().filter_map(|key| Some((key.name.as_str(), key.absent.as_ref()?)));
    let later: BTreeMap<&str, &Value> = later.collect();
    for role in roles {
        let rope = role.rope.iter().flat_map(|rope| [&rope.heads, &rope.dim]);
        let exprs = role.shape.iter().flatten().chain(rope);
        let absent = exprs.flat_map(Expr::names).filter_map(|name| {
            let value = later.get(name)?;
            Some((name.to_owned(), (*value).clone()))
        });
        role.absent = absent.collect();
    }
}

/// Finds the roles that a name can be of by the number of its parts and the last of them.
#[derive(Clone, Debug, Default)]
pub(super) struct RoleIndex {
    by_end: BTreeMap<(usize, String), Vec<usize>>,
    /// Roles whose last part is open.
    open: Vec<usize>,
    /// The first role of layers.
    first_of_layers: usize,
}

impl RoleIndex {
    pub(super) fn new(roles: &[Role]) -> RoleIndex {
        let of_layers = roles.iter().position(|role| role.template.text.contains("{i}"));
        let first_of_layers = of_layers.unwrap_or(roles.len());
        let mut index = RoleIndex { first_of_layers, ..RoleIndex::default() };
        for (at, role) in roles.iter().enumerate() {
            let (n_parts, end) = RoleIndex::key(&role.template.text);
            if end.contains('{') {
                index.open.push(at);
            } else {
                index.by_end.entry((n_parts, end.to_owned())).or_default().push(at);
            }
        }
        index
    }

    /// The number of parts, and the last two of a name that has more, as one.
    fn key(name: &str) -> (usize, &str) {
        let n_parts = name.split('.').count();
        let start = name.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot + 1);
        (n_parts, if n_parts < 4 { "" } else { &name[start..] })
    }

    /// The roles that may fit, in their order.
    fn candidates(&self, name: &str) -> impl Iterator<Item = usize> {
        let (n_parts, end) = RoleIndex::key(name);
        let by_end = self.by_end.get(&(n_parts, end.to_owned())).into_iter().flatten().copied();
        let mut all: Vec<usize> = by_end.chain(self.open.iter().copied()).collect();
        all.sort_unstable();
        all.into_iter()
    }
}

impl Spec {
    /// Takes a canonical name apart; `None` if it is the name of no role.
    pub fn role(&self, name: &str) -> Option<RoleMatch<'_>> {
        self.role_index.candidates(name).find_map(|index| {
            let role = self.roles.get(index)?;
            let bindings = role.template.matches(name)?;
            let layer = match bindings.get("i") {
                Some(digits) if is_index(digits) => Some(digits.parse().ok()?),
                Some(_) => return None,
                None => None,
            };
            // Some roles are of one stack only, and name it.
            let named = || {
                let first = name.split('.').next().filter(|first| STACKS.contains(first));
                first.map(str::to_owned)
            };
            let stack = bindings.get("stack").cloned().or_else(named);
            if !stack.as_deref().is_none_or(|stack| STACKS.contains(&stack)) {
                return None;
            }
            let head = bindings.get("name").cloned();
            if !head.as_deref().is_none_or(is_ident) {
                return None;
            }
            Some(RoleMatch { role, index, stack, layer, head })
        })
    }

    /// Where a name stands: the shared embeddings, the encoder, the decoder, heads, adapters, `extra.`. Within a
    /// stack, names stand in the order of roles, where all roles of layers together are taken layer by
    /// layer: what `roles.toml` has before its first role of a layer comes before all layers, what it
    /// has behind it behind them. Heads stand name by name, those of one head in the order of roles.
    pub fn order(&self, name: &str) -> Order {
        let section = match name.split('.').next().unwrap_or_default() {
            "encoder" => 1,
            "decoder" => 2,
            "heads" => 3,
            "adapters" => 4,
            EXTRA => 5,
            _ => 0,
        };
        let Some(role) = self.role(name) else {
            return Order(section, 3, 0, usize::MAX, name.to_owned());
        };
        if section == 3 {
            let head = name.split('.').nth(1).unwrap_or_default();
            return Order(section, 0, 0, 0, format!("{head}\u{0}{:08}", role.index));
        }
        let part = match role.layer {
            Some(_) => 1,
            None if role.index < self.role_index.first_of_layers => 0,
            None => 2,
        };
        Order(section, part, role.layer.unwrap_or(0), role.index, String::new())
    }

    /// Compares two names as files list them.
    pub fn compare_names(&self, left: &str, right: &str) -> Ordering {
        self.order(left).cmp(&self.order(right)).then_with(|| left.cmp(right))
    }
}

impl RoleMatch<'_> {
    /// The shape under the given hyperparameters; `None` where any size is right.
    ///
    /// # Errors
    /// A hyperparameter that the shape needs has no value.
    pub fn shape(&self, names: &dyn Names) -> Result<Vec<Option<u64>>, String> {
        let names = |name: &str| self.value(names, name);
        let dim = |dim: &Option<Expr>| dim.as_ref().map(|expr| expr.eval_size(&names)).transpose();
        self.role.shape.iter().map(dim).collect()
    }

    /// The heads and rotary dimensions of a tensor whose rows are rotary pairs.
    pub fn rope(&self, names: &dyn Names) -> Option<(u64, u64)> {
        let rope = self.role.rope.as_ref()?;
        let names = |name: &str| self.value(names, name);
        Some((rope.heads.eval_size(&names).ok()?, rope.dim.eval_size(&names).ok()?))
    }

    fn value(&self, names: &dyn Names, name: &str) -> Result<Value, String> {
        let absent = || self.role.absent.get(name).cloned();
        names.value(name).or_else(|why| absent().ok_or(why))
    }
}

/// What is wrong with the form of a name, if anything is.
pub fn grammar_problem(name: &str) -> Option<String> {
    if MAX_NAME_LEN < name.len() {
        return Some(format!("it has {} bytes, at most {MAX_NAME_LEN} are legal", name.len()));
    }
    // What a foreign file called a tensor is kept as it was under `extra.`.
    if let Some(rest) = name.strip_prefix("extra.") {
        let plain = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
        return (!plain).then(|| "a name is printable ASCII without spaces".to_owned());
    }
    name.split('.').find_map(|segment| {
        if segment.is_empty() {
            return Some("it has an empty part between dots".to_owned());
        }
        if segment.bytes().next().is_some_and(|byte| byte.is_ascii_digit()) {
            return (!is_index(segment)).then(|| {
                format!("`{segment}` is no index: at most 9 digits without a leading zero")
            });
        }
        (!is_ident(segment)).then(|| {
            format!("`{segment}` is no identifier: a lower-case letter, then letters, digits, `_`")
        })
    })
}

fn is_index(text: &str) -> bool {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0')) && text.len() <= 9
}

fn is_ident(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && text.len() <= 63
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_found_by_its_name() {
        let spec = Spec::current();
        for (index, role) in spec.roles.iter().enumerate() {
            let name = role.template.text.replace("{stack}", "decoder").replace("{i}", "10");
            let name = name.replace("{name}", "sentiment");
            let found = spec.role(&name).map(|found| found.index);
            // A free head may have the name of one with a role of its own.
            let linear = spec.roles.iter().position(|role| role.template.matches(&name).is_some());
            assert_eq!(found, linear, "{name}");
            assert!(found.is_some_and(|found| found <= index), "{name}");
        }
        assert!(spec.role("decoder.layers.1.attn.q_proj").is_none());
        assert!(spec.role("").is_none());
    }
}
