//! Mappings: how a foreign layout's names, transforms and config keys become the standard's.

mod file;
mod resolve;
mod rules;

use schemars::JsonSchema;
use serde::Deserialize;

use super::expr::Expr;
use crate::base::error::Result;

pub(super) use self::file::{HeadFile, MapFile};
pub(super) use self::resolve::{place, resolve, resolve_head};
pub use self::rules::{
    Alias, ClassDefault, DTypeName, DropHead, DropRule, Each, EachEntry, Head, KeyRule, MakeRule,
    Map, Op, Reader, Rule, Spell, TaskRule, Write, entry_path,
};

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Expr, D::Error> {
        #[derive(Deserialize, JsonSchema)]
        #[serde(untagged)]
        enum Text {
            Int(i64),
            Float(f64),
            Source(String),
        }
        let text = match Text::deserialize(deserializer)? {
            Text::Int(int) => int.to_string(),
            Text::Float(float) => format!("{float:?}"),
            Text::Source(text) => text,
        };
        Expr::parse(&text).map_err(serde::de::Error::custom)
    }
}
