//! Chat templates: where they stand, and what they reach for, by their syntax tree. None is run.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, Macro, Stmt};
use minijinja::machinery::parse;

use crate::manifest::TEMPLATE_KEY;
use crate::metadata::{Metadata, Value};

/// A chat template.
pub(super) struct Template {
    /// The file it stands in.
    pub(super) file: String,
    /// The entry of that file.
    pub(super) key: Option<String>,
    /// Its name where a file has several.
    pub(super) name: Option<String>,
    /// Its text.
    pub(super) text: String,
    /// What it reaches for; or why it does not parse, and on which line, counted from 1.
    pub(super) parsed: Result<Parts, (String, Option<usize>)>,
}

/// What a template reaches for, each with the line that it first does, counted from 1.
#[derive(Default)]
pub(super) struct Parts {
    /// Attributes, and items whose name stands there.
    pub(super) attributes: BTreeMap<String, u16>,
    /// Filters.
    pub(super) filters: BTreeMap<String, u16>,
    /// Tests, `is defined`.
    pub(super) tests: BTreeMap<String, u16>,
    /// Variables that it reads.
    pub(super) variables: BTreeMap<String, u16>,
    /// Variables of which it asks whether they are there.
    pub(super) guarded: BTreeSet<String>,
    /// Texts that it writes or compares with.
    pub(super) texts: Vec<String>,
    /// Those of them that stand in expressions.
    pub(super) constants: Vec<String>,
    /// Where it reaches for something whose name it puts together.
    pub(super) computed: Option<u16>,
    /// Other templates that it loads.
    pub(super) loads: Option<u16>,
}

/// A chat template that is the value of a key of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedTemplate {
    /// The file.
    pub file: String,
    /// What it is called, where a file has several; none of the one that is taken without a name.
    pub name: Option<String>,
    /// Its text.
    pub text: String,
}

/// The chat templates among the keys of a GGUF file: `tokenizer.chat_template`, and with a name behind it
/// where there are several.
pub(super) fn templates_of(file: &str, keys: &Metadata) -> Vec<KeyedTemplate> {
    let found = keys.iter().filter_map(|(key, value)| {
        let Value::String(text) = value else { return None };
        let rest = key.strip_prefix(TEMPLATE_KEY)?;
        let name = match rest {
            "" => None,
            rest => Some(rest.strip_prefix('.')?.to_owned()),
        };
        Some(KeyedTemplate { file: file.to_owned(), name, text: text.to_string() })
    });
    found.collect()
}

impl Template {
    pub(super) fn new(file: &str, key: Option<&str>, name: Option<&str>, text: &str) -> Template {
        let (file, text) = (file.to_owned(), text.to_owned());
        let (key, name) = (key.map(str::to_owned), name.map(str::to_owned));
        let parsed = parts(&text);
        Template { file, key, name, text, parsed }
    }

    /// As a finding names it.
    pub(super) fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("the chat template {name:?} of {}", self.file),
            None => format!("the chat template of {}", self.file),
        }
    }
}

/// What a template reaches for; or why it does not parse, and where.
fn parts(text: &str) -> Result<Parts, (String, Option<usize>)> {
    if let Some(line) = long_expression(text) {
        let why = format!("an expression of more than {MAX_EXPRESSION_LEN} bytes");
        return Err((why, Some(line)));
    }
    let text = plain_blocks(text);
    // Each operator of a chain takes a frame of the stack.
    let read = || parsed(&text);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_LEN).spawn_scoped(scope, read);
        let failed = || ("the template cannot be read".to_owned(), None);
        thread.map_err(|_| failed())?.join().unwrap_or_else(|_| Err(failed()))
    })
}

/// Longer expressions, without their texts, are in no template; chains of operators lie as deep in
/// each other as they are long.
const MAX_EXPRESSION_LEN: usize = 8 << 10;
const STACK_LEN: usize = 64 << 20;

/// The line, counted from 1, of an expression that is too long.
fn long_expression(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    while at + 1 < bytes.len() {
        line += usize::from(bytes[at] == b'\n');
        if bytes[at] != b'{' || !matches!(bytes[at + 1], b'{' | b'%') {
            at += 1;
            continue;
        }
        let (start, mut n, mut quote) = (line, 0, None);
        at += 2;
        while at < bytes.len() {
            let byte = bytes[at];
            line += usize::from(byte == b'\n');
            match quote {
                Some(_) if byte == b'\\' => at += 1,
                Some(end) if byte == end => quote = None,
                Some(_) => {}
                None if matches!(byte, b'\'' | b'"') => quote = Some(byte),
                None if matches!(byte, b'}' | b'%') && bytes.get(at + 1) == Some(&b'}') => break,
                None => n += usize::from(!byte.is_ascii_whitespace()),
            }
            at += 1;
        }
        if MAX_EXPRESSION_LEN < n {
            return Some(start);
        }
    }
    None
}

fn parsed(text: &str) -> Result<Parts, (String, Option<usize>)> {
    let syntax = Default::default();
    let tree = parse(text, "template", syntax).map_err(|err| {
        let why = err.detail().map_or_else(|| err.to_string(), str::to_owned);
        (why, err.line())
    })?;
    let mut parts = Parts::default();
    parts.statement(&tree);
    Ok(parts)
}

/// `generation` blocks, which transformers adds to the language and which write what stands in them,
/// as conditions that always hold.
fn plain_blocks(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        let Some(end) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(end + 2);
        let word = tag[2..end].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        plain.push_str(before);
        match word {
            "generation" => plain.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => plain.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => plain.push_str(tag),
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}

impl Parts {
    fn statements(&mut self, statements: &[Stmt<'_>]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            Stmt::EmitRaw(emit) => self.texts.push(emit.raw.to_owned()),
            Stmt::ForLoop(each) => {
                self.expression(&each.iter);
                each.filter_expr.iter().for_each(|filter| self.expression(filter));
                self.statements(&each.body);
                self.statements(&each.else_body);
            }
            Stmt::IfCond(cond) => {
                self.condition(&cond.expr);
                self.statements(&cond.true_body);
                self.statements(&cond.false_body);
            }
            Stmt::WithBlock(block) => {
                block.assignments.iter().for_each(|(_, value)| self.expression(value));
                self.statements(&block.body);
            }
            Stmt::Set(set) => self.expression(&set.expr),
            Stmt::SetBlock(set) => {
                set.filter.iter().for_each(|filter| self.expression(filter));
                self.statements(&set.body);
            }
            Stmt::AutoEscape(block) => self.statements(&block.body),
            Stmt::FilterBlock(block) => {
                self.expression(&block.filter);
                self.statements(&block.body);
            }
            Stmt::Block(block) => self.statements(&block.body),
            Stmt::Import(import) => self.load(import.span().start_line),
            Stmt::FromImport(import) => self.load(import.span().start_line),
            Stmt::Extends(extends) => self.load(extends.span().start_line),
            Stmt::Include(include) => self.load(include.span().start_line),
            Stmt::Macro(declared) => self.declared(declared),
            Stmt::CallBlock(block) => {
                self.expression(&block.call.expr);
                self.arguments(&block.call.args);
                self.declared(&block.macro_decl);
            }
            Stmt::Continue(_) | Stmt::Break(_) => {}
            Stmt::Do(call) => {
                self.expression(&call.call.expr);
                self.arguments(&call.call.args);
            }
        }
    }

    fn declared(&mut self, declared: &Macro<'_>) {
        declared.defaults.iter().for_each(|value| self.expression(value));
        self.statements(&declared.body);
    }

    fn load(&mut self, line: u16) {
        self.loads.get_or_insert(line);
    }

    /// A condition: what is asked by itself is guarded too, `{% if bos_token %}`.
    fn condition(&mut self, expr: &Expr<'_>) {
        self.guard(expr);
        self.expression(expr);
    }

    /// The variables that an expression asks for by themselves, also one after the other: `a and b`.
    fn guard(&mut self, expr: &Expr<'_>) {
        let mut open = vec![expr];
        while let Some(expr) = open.pop() {
            match expr {
                Expr::Var(var) => {
                    self.guarded.insert(var.id.to_owned());
                }
                Expr::BinOp(both) if matches!(both.op, BinOpKind::ScAnd | BinOpKind::ScOr) => {
                    open.extend([&both.left, &both.right]);
                }
                _ => {}
            }
        }
    }

    fn expression(&mut self, expr: &Expr<'_>) {
        let line = expr.span().start_line;
        let note = |names: &mut BTreeMap<String, u16>, name: &str| {
            names.entry(name.to_owned()).or_insert(line);
        };
        match expr {
            Expr::Var(var) => note(&mut self.variables, var.id),
            Expr::Const(constant) => {
                self.texts.extend(constant.value.as_str().map(str::to_owned));
                self.constants.extend(constant.value.as_str().map(str::to_owned));
            }
            Expr::Slice(slice) => {
                self.expression(&slice.expr);
                let bounds = [&slice.start, &slice.stop, &slice.step];
                bounds.into_iter().flatten().for_each(|bound| self.expression(bound));
            }
            Expr::UnaryOp(unary) => self.condition(&unary.expr),
            Expr::BinOp(binary) => {
                // What is first asked of `or` and `and`.
                if matches!(binary.op, BinOpKind::ScAnd | BinOpKind::ScOr) {
                    self.guard(&binary.left);
                }
                self.expression(&binary.left);
                self.expression(&binary.right);
            }
            Expr::Compare(compare) => {
                self.expression(&compare.expr);
                compare.ops.iter().for_each(|op| self.expression(&op.expr));
            }
            Expr::IfExpr(choice) => {
                self.condition(&choice.test_expr);
                self.expression(&choice.true_expr);
                choice.false_expr.iter().for_each(|other| self.expression(other));
            }
            Expr::Filter(filter) => {
                note(&mut self.filters, filter.name);
                if let (Some(Expr::Var(var)), "default" | "d") = (&filter.expr, filter.name) {
                    self.guarded.insert(var.id.to_owned());
                }
                filter.expr.iter().for_each(|inner| self.expression(inner));
                // `attr` and `map(attribute=…)` name what they reach for.
                if matches!(
                    filter.name,
                    "attr" | "map" | "selectattr" | "rejectattr" | "groupby" | "sort"
                ) {
                    let is_text = |arg: &CallArg<'_>| text_of(arg).is_some();
                    if filter.name == "attr" && !filter.args.iter().all(is_text) {
                        self.computed.get_or_insert(line);
                    }
                    for name in filter.args.iter().filter_map(text_of) {
                        name.split('.').for_each(|name| note(&mut self.attributes, name));
                    }
                }
                self.arguments(&filter.args);
            }
            Expr::Test(test) => {
                note(&mut self.tests, test.name);
                if let Expr::Var(var) = &test.expr {
                    self.guarded.insert(var.id.to_owned());
                }
                self.expression(&test.expr);
                self.arguments(&test.args);
            }
            Expr::GetAttr(attribute) => {
                note(&mut self.attributes, attribute.name);
                self.expression(&attribute.expr);
            }
            Expr::GetItem(item) => {
                if let Expr::Const(name) = &item.subscript_expr
                    && let Some(name) = name.value.as_str()
                {
                    note(&mut self.attributes, name);
                }
                self.expression(&item.expr);
                self.expression(&item.subscript_expr);
            }
            Expr::Call(call) => {
                self.expression(&call.expr);
                self.arguments(&call.args);
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.expression(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expression(item)),
            Expr::Map(map) => {
                map.keys.iter().chain(&map.values).for_each(|item| self.expression(item));
            }
        }
    }

    fn arguments(&mut self, args: &[CallArg<'_>]) {
        args.iter().for_each(|arg| self.expression(argument(arg)));
    }
}

fn argument<'t, 'a>(arg: &'t CallArg<'a>) -> &'t Expr<'a> {
    match arg {
        CallArg::Pos(expr)
        | CallArg::Kwarg(_, expr)
        | CallArg::PosSplat(expr)
        | CallArg::KwargSplat(expr) => expr,
    }
}

/// The text of an argument, if it is one.
fn text_of(arg: &CallArg<'_>) -> Option<String> {
    match argument(arg) {
        Expr::Const(constant) => constant.value.as_str().map(str::to_owned),
        _ => None,
    }
}
