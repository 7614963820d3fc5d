//! A plan of the way in that is being made.

use std::collections::BTreeMap;

use crate::base::diagnostic::Diagnostic;
use crate::base::limits::Backing;
use crate::checkpoint::Tensor;
use crate::package::{Dropped, Hparams};
use crate::plan::{Facts, Options, Tensors};
use crate::spec::Spec;
use crate::spec::arch::Arch;
use crate::spec::map::Map;
use crate::spec::names::StackNames;

pub(super) fn data_error(map: &Map, why: &str) -> Diagnostic {
    Diagnostic::error("P003", format!("the mapping {}/{}: {why}", map.format, map.name))
}

pub(super) struct Planner<'a> {
    pub(super) spec: &'a Spec,
    pub(super) arch: &'a Arch,
    pub(super) facts: &'a dyn Facts,
    pub(super) options: Options,
    pub(super) foreign: BTreeMap<&'a str, &'a Tensor>,
    pub(super) backing: Backing,
    pub(super) names: &'a StackNames<'a>,
    pub(super) hparams: &'a Hparams,
    /// Where each hyperparameter comes from, for people.
    pub(super) origins: &'a BTreeMap<String, String>,
    /// What reads each foreign tensor: the first foreign name of its rule.
    pub(super) used: BTreeMap<&'a str, String>,
    pub(super) tensors: Tensors,
    pub(super) buffers: Tensors,
    pub(super) copies: Vec<[String; 2]>,
    pub(super) dropped: Vec<Dropped>,
    pub(super) findings: Vec<Diagnostic>,
    pub(super) errors: Vec<Diagnostic>,
}
