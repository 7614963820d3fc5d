//! Mappings: how a foreign layout's names, transforms and config keys become the standard's.

mod file;
mod op;
mod resolve;
mod rules;

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Visitor};

use super::expr::Expr;
use crate::base::error::Result;

pub(super) use self::file::{HeadFile, MapFile};
pub use self::op::Op;
pub(super) use self::resolve::{place, resolve, resolve_head};
pub use self::rules::{
    Alias, ClassDefault, DTypeName, DropHead, DropRule, Each, EachEntry, Head, KeyRule, MakeRule,
    Map, Reader, Rule, Spell, TaskRule, Turned, Write, entry_path,
};

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Expr, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Expr;

            fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
                text.write_str("an expression or a number")
            }

            fn visit_i64<E: de::Error>(self, int: i64) -> Result<Expr, E> {
                self.visit_str(&int.to_string())
            }

            fn visit_u64<E: de::Error>(self, int: u64) -> Result<Expr, E> {
                self.visit_str(&int.to_string())
            }

            fn visit_f64<E: de::Error>(self, float: f64) -> Result<Expr, E> {
                self.visit_str(&format!("{float:?}"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Expr, E> {
                Expr::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Text)
    }
}
