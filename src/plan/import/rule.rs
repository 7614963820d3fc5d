//! What a rule makes of the tensors that it reads.

use std::collections::BTreeSet;

use super::planner::Planner;
use crate::base::diagnostic::Diagnostic;
use crate::base::name::Name;
use crate::checkpoint::{DType, Payload, Tensor, row_major_strides};
use crate::plan::generic::unreadable;
use crate::plan::keys::{switched_off, told};
use crate::plan::layout::Layout;
use crate::plan::names::{Bound, Instance};
use crate::plan::ops::{Direction, TensorExpr, describe, exactness, run};
use crate::plan::{Facts, Step};
use crate::spec::expr::Names;
use crate::spec::names::StackNames;

const TWO_WITNESSES: &str = "the config or the tensor is wrong: two witnesses must agree";

impl<'a> Planner<'a> {
    /// Plans what a rule makes of the tensors it reads, if they are there.
    pub(super) fn plan_instance(&mut self, instance: &Instance<'_>) {
        if instance.rule.tie.is_some() {
            return; // Bytes decide, when everything else is known.
        }
        let mut from: Vec<&str> = instance.from.iter().map(String::as_str).collect();
        let here = |name: &str| self.foreign.contains_key(name);
        if let ([name], Some(copy)) =
            (from.as_slice(), instance.also.iter().find(|name| here(name)))
            && !here(name)
        {
            from = vec![copy];
        }
        let n_here = from.iter().filter(|name| here(name)).count();
        if n_here == 0 {
            return;
        }
        if n_here < from.len() {
            for name in from.iter().filter(|name| !self.foreign.contains_key(**name)) {
                let rest = from.iter().find(|name| self.foreign.contains_key(**name));
                self.errors.push(
                    Diagnostic::error(
                        "P008",
                        format!("`{name}` is missing beside `{}`", rest.unwrap_or(&"")),
                    )
                    .tensor(*name),
                );
            }
            return;
        }
        self.plan_copies(instance, from[0]);
        let from: Vec<String> = from.into_iter().map(str::to_owned).collect();
        self.plan_rule(instance, &from);
    }

    /// Checks that tensors which repeat another one hold the same bytes.
    fn plan_copies(&mut self, instance: &Instance<'_>, first: &str) {
        let Some(&original) = self.foreign.get(first) else { return };
        let others = instance.also.iter().chain(&instance.from).filter(|name| *name != first);
        for name in others.filter(|_| instance.from.len() == 1) {
            let Some(&copy) = self.foreign.get(name.as_str()) else { continue };
            match same(self.facts, original, copy) {
                Ok(true) => self.copies.push([name.clone(), instance.to[0].clone()]),
                Ok(false) => self.errors.push(
                    Diagnostic::error(
                        "P020",
                        format!("`{first}` and `{name}` are one tensor, and hold different values"),
                    )
                    .tensor(name)
                    .help("remove the wrong one"),
                ),
                Err(err) => self.errors.push(unreadable(name, &err.to_string())),
            }
        }
    }

    pub(super) fn plan_rule(&mut self, instance: &Instance<'_>, from: &[String]) {
        if let Err(diagnostics) = self.try_plan_rule(instance, from) {
            self.errors.extend(diagnostics);
        }
    }

    fn try_plan_rule(
        &mut self,
        instance: &Instance<'_>,
        from: &[String],
    ) -> Result<(), Vec<Diagnostic>> {
        let fail = |diagnostic: Diagnostic| vec![diagnostic.tensor(&from[0])];
        let mut exprs = Vec::with_capacity(from.len());
        let mut dtypes = BTreeSet::new();
        let mut shapes = Vec::with_capacity(from.len());
        for name in from {
            let tensor = self.foreign[name.as_str()];
            let read = self.tensors.read(tensor);
            let (expr, dtype) = read.map_err(|why| fail(unreadable(name, &why)))?;
            exprs.push(expr);
            dtypes.insert(dtype);
            shapes.push(tensor.logical_shape().to_vec());
        }
        let dtype = *dtypes.first().expect("a rule reads one tensor at least");
        if 1 < dtypes.len() {
            let found: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
            return Err(fail(
                Diagnostic::error(
                    "P012",
                    format!(
                        "`{}` and its like become one tensor, and have different dtypes",
                        from[0]
                    ),
                )
                .mismatch("one dtype", found.join(", ")),
            ));
        }
        if dtype.bits() % 8 != 0 && !instance.rule.ops.is_empty() {
            return Err(fail(Diagnostic::error(
                "P012",
                format!("the rows of `{}` are of {dtype}, which cannot be moved apart", from[0]),
            )));
        }
        let role = self.spec.role(&instance.to[0]);
        let stack = role.as_ref().and_then(|role| role.stack.clone());
        let stack_names =
            StackNames { stack: stack.as_deref().or(self.names.stack), ..*self.names };
        let bound = Bound { names: &stack_names, bindings: &instance.bindings };
        let exprs = run(&instance.rule.ops, Direction::Import, &bound, exprs).map_err(|why| {
            if let Some(why) = self.no_such_part(&from[0], &bound, &why) {
                return fail(why);
            }
            let message = format!("`{}` does not fit its rule: {why}", from[0]);
            fail(
                Diagnostic::error("P010", message)
                    .mismatch(describe(&instance.rule.ops), format!("{shapes:?}")),
            )
        })?;
        if exprs.len() != instance.to.len() {
            let message = format!(
                "the rule of `{}` makes {} tensors and names {}",
                from[0],
                exprs.len(),
                instance.to.len()
            );
            return Err(fail(Diagnostic::error("P010", message)));
        }
        let mut errors = Vec::new();
        for (name, expr) in instance.to.iter().zip(&exprs) {
            errors.extend(self.check_shape(name, &expr.layout.shape, dtype, &from[0], &shapes[0]));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        check_way_back(instance, &bound, &exprs, &shapes).map_err(|why| {
            fail(Diagnostic::error("P010", format!("`{}` does not come back: {why}", from[0])))
        })?;
        let class = exactness(&instance.rule.ops, Direction::Import);
        let ops = Name::from(describe(&instance.rule.ops));
        let names: Box<[Name]> =
            from.iter().map(|name| self.foreign[name.as_str()].name.clone()).collect();
        for (name, expr) in instance.to.iter().zip(exprs) {
            let step = Step { from: names.clone(), ops: ops.clone(), class };
            self.tensors
                .write(name, expr, dtype, self.options, step)
                .map_err(|diagnostic| vec![diagnostic])?;
        }
        Ok(())
    }

    /// What is said of a tensor whose rule needs what the config switches off.
    fn no_such_part(&self, from: &str, names: &dyn Names, why: &str) -> Option<Diagnostic> {
        let cause = switched_off(self.spec, names, self.origins, why)?;
        let message =
            format!("`{from}` is of a part that the model does not have by its config: {cause}");
        Some(Diagnostic::error("P010", message).help(TWO_WITNESSES))
    }

    /// Compares a tensor's shape with its role's, and names the hyperparameters that disagree.
    fn check_shape(
        &self,
        name: &str,
        units: &[u64],
        dtype: DType,
        from: &str,
        foreign_shape: &[u64],
    ) -> Vec<Diagnostic> {
        let mut shape = units.to_vec();
        if let Some(last) = shape.last_mut()
            && !dtype.bits().is_multiple_of(8)
        {
            *last = *last * 8 / dtype.bits();
        }
        let Some(role) = self.spec.role(name) else {
            return vec![
                Diagnostic::error("P009", format!("`{name}` is the name of no role")).tensor(from),
            ];
        };
        let names = StackNames {
            stack: role.stack.as_deref().or(self.names.stack),
            layer: role.layer,
            ..*self.names
        };
        let expected = match role.shape(&names) {
            Ok(expected) => expected,
            Err(why) => {
                let unknown = || {
                    let failed = role.role.shape.iter().flatten();
                    let failed = failed.filter(|expr| expr.eval_size(&names).is_err());
                    let of = failed.flat_map(|expr| expr.names()).filter(|name| *name != "i");
                    let told = told(&names, self.origins, of.collect());
                    let message = match told.is_empty() {
                        true => format!("the shape of `{name}` is not known: {why}"),
                        false => format!("`{name}` has no shape where {told}"),
                    };
                    Diagnostic::error("P010", message)
                };
                let finding = self.no_such_part(from, &names, &why).unwrap_or_else(unknown);
                return vec![finding.tensor(from)];
            }
        };
        let fits = expected.len() == shape.len()
            && expected
                .iter()
                .zip(&shape)
                .all(|(want, have)| want.is_none_or(|want| want == *have));
        if fits {
            return Vec::new();
        }
        let formula: Vec<&str> =
            role.role.shape.iter().map(|dim| dim.as_ref().map_or("?", |expr| &expr.text)).collect();
        let keys: BTreeSet<&str> =
            role.role.shape.iter().flatten().flat_map(|expr| expr.names()).collect();
        let values =
            keys.iter().filter_map(|key| Some(format!("{key} = {}", names.value(key).ok()?)));
        let values: Vec<String> = values.collect();
        let expected: Vec<String> =
            expected.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string())).collect();
        vec![
            Diagnostic::error(
                "P010",
                format!(
                    "`{from}` has shape {foreign_shape:?}, which makes `{name}` {shape:?}; the config \
                     makes it [{}]",
                    expected.join(", ")
                ),
            )
            .tensor(from)
            .mismatch(
                format!("[{}] = [{}], as {}", formula.join(", "), expected.join(", "), values.join(", ")),
                format!("{shape:?}"),
            )
            .help(why_not(foreign_shape, &shape, &expected)),
        ]
    }
}

pub(super) fn same(
    facts: &dyn Facts,
    left: &Tensor,
    right: &Tensor,
) -> crate::base::error::Result<bool> {
    if left.dtype != right.dtype || left.shape != right.shape {
        return Ok(false);
    }
    if let (Payload::Parts(_, left), Payload::Parts(_, right)) = (&left.payload, &right.payload) {
        for (left, right) in left.iter().zip(right) {
            if left.role != right.role || !same(facts, &left.tensor, &right.tensor)? {
                return Ok(false);
            }
        }
        return Ok(left.len() == right.len());
    }
    // Two names of one storage need no reading.
    let one_place = match (&left.payload, &right.payload) {
        (Payload::Range(left), Payload::Range(right)) => left == right,
        (Payload::View(left), Payload::View(right)) => left == right,
        (Payload::Tiles(left), Payload::Tiles(right)) => left == right,
        _ => false,
    };
    if one_place { Ok(true) } else { facts.equal(left, right) }
}

/// Runs the ops back on made-up tensors of the canonical shapes: every element must land where it
/// came from.
fn check_way_back(
    instance: &Instance<'_>,
    names: &dyn Names,
    exprs: &[TensorExpr],
    shapes: &[Vec<u64>],
) -> Result<(), String> {
    if instance.rule.ops.is_empty() {
        return Ok(());
    }
    let canonical = exprs.iter().enumerate().map(|(index, expr)| {
        let shape = &expr.layout.shape;
        TensorExpr::new(Layout::of_input(index, 0, shape, &row_major_strides(shape)))
    });
    let back = run(&instance.rule.ops, Direction::Export, names, canonical.collect())?;
    if back.len() != shapes.len() {
        return Err(format!("{} tensors come back of {}", back.len(), shapes.len()));
    }
    for (expr, shape) in back.iter().zip(shapes) {
        if expr.layout.shape != *shape || !expr.layout.is_full() {
            return Err(format!("the shape {:?} comes back, not {shape:?}", expr.layout.shape));
        }
    }
    if exprs.iter().any(|expr| !expr.layout.is_full()) {
        return Err("not every element is filled".to_owned());
    }
    Ok(())
}

/// What may have happened to a tensor of a shape that does not fit, and what to do.
fn why_not(stored: &[u64], shape: &[u64], expected: &[String]) -> &'static str {
    let is_turned =
        1 < shape.len() && shape.iter().rev().map(u64::to_string).eq(expected.iter().cloned());
    if stored == [0] {
        "it was saved empty, as DeepSpeed ZeRO-3 leaves the parameters of other ranks: gather them with \
         its zero_to_fp32.py, and convert what that writes"
    } else if is_turned {
        "rows and columns are exchanged: other code than this mapping is of has written it (a `Linear` \
         holds [out, in], a `Conv1D` of GPT-2 [in, out]); transpose it, or name the config of that code"
    } else {
        TWO_WITNESSES
    }
}
