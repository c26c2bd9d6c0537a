//! What a template source uses: fields, filters, includes, emoji, and parts that can never show.
//!
//! Works on minijinja's syntax tree, which knows the place of every name; the tree is marked unstable
//! there, hence the exact version in Cargo.toml and all of its use in this one file.

use std::collections::BTreeSet;

use minijinja::machinery::ast::{CallArg, Expr, Stmt};
use minijinja::machinery::{self, Span};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind};

use super::emoji;
use super::fault::Fault;

/// The syntax of all sources: a line that holds only a block tag leaves no line behind.
pub(super) fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .expect("the standard delimiters are valid")
}

/// Where a source stands: a file of its own, or a value inside the manifest.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub file: String,
    /// The whole file.
    pub source: std::sync::Arc<str>,
    /// Where in it the template source begins.
    pub offset: usize,
}

impl Origin {
    pub(super) fn fault(&self, offset: usize, text: impl Into<String>) -> Fault {
        Fault::at(&self.file, &self.source, self.offset + offset, text)
    }
}

/// A name and its byte offset in the source.
pub(super) type Place = (String, usize);

/// What one source uses.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// Names read that the source does not set itself.
    pub names: Vec<Place>,
    /// Names it sets: loops, `set`, `with`, macros, imports.
    pub sets: BTreeSet<String>,
    /// Files it includes, imports or extends.
    pub files: Vec<Place>,
    /// Faults that need nothing but the source.
    pub faults: Vec<Fault>,
}

struct Walk<'e> {
    env: &'e Environment<'e>,
    origin: &'e Origin,
    macros: Vec<Place>,
    uses: Uses,
}

/// Reads `source`; `env` knows the filters and tests.
pub(super) fn uses(source: &str, origin: &Origin, env: &Environment<'_>) -> Uses {
    let tree = match machinery::parse(source, &origin.file, syntax()) {
        Ok(tree) => tree,
        Err(error) => {
            let fault = syntax_fault(source, origin, &error);
            return Uses {
                faults: vec![fault],
                ..Uses::default()
            };
        }
    };
    let mut walk = Walk {
        env,
        origin,
        macros: Vec::new(),
        uses: Uses::default(),
    };
    walk.statement(&tree);
    let mut uses = walk.uses;
    for (name, offset) in walk.macros {
        if !uses.names.iter().any(|(used, _)| *used == name) {
            uses.faults
                .push(origin.fault(offset, format!("macro `{name}` is never called")));
        }
    }
    let sets = &uses.sets;
    uses.names.retain(|(name, _)| !sets.contains(name));
    uses
}

fn syntax_fault(source: &str, origin: &Origin, error: &minijinja::Error) -> Fault {
    let text = format!("syntax: {}", error.detail().unwrap_or("cannot be read"));
    let line_start = |line: usize| {
        source
            .split_inclusive('\n')
            .take(line.saturating_sub(1))
            .map(str::len)
            .sum()
    };
    let offset = error.range().map(|range| range.start);
    origin.fault(
        offset.unwrap_or_else(|| line_start(error.line().unwrap_or(1))),
        text,
    )
}

const fn start(span: Span) -> usize {
    span.start_offset as usize
}

impl Walk<'_> {
    fn fault(&mut self, offset: usize, text: String) {
        self.uses.faults.push(self.origin.fault(offset, text));
    }

    fn body(&mut self, body: &[Stmt<'_>]) {
        for statement in body {
            self.statement(statement);
        }
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(s) => self.body(&s.children),
            Stmt::EmitExpr(s) => self.expression(&s.expr),
            Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => {}
            Stmt::ForLoop(s) => {
                self.expression(&s.iter);
                if s.iter.as_const().is_some_and(|list| list.len() == Some(0)) {
                    let at = start(s.iter.span());
                    self.fault(
                        at,
                        "unreachable: this loop is over an empty list".to_owned(),
                    );
                }
                self.assign(&s.target);
                self.uses.sets.insert("loop".to_owned());
                s.filter_expr.iter().for_each(|e| self.expression(e));
                self.body(&s.body);
                self.body(&s.else_body);
            }
            Stmt::IfCond(s) => {
                self.condition(&s.expr, !s.false_body.is_empty());
                self.body(&s.true_body);
                self.body(&s.false_body);
            }
            Stmt::WithBlock(s) => {
                for (target, value) in &s.assignments {
                    self.expression(value);
                    self.assign(target);
                }
                self.body(&s.body);
            }
            Stmt::Set(s) => {
                self.expression(&s.expr);
                self.assign(&s.target);
            }
            Stmt::SetBlock(s) => {
                self.assign(&s.target);
                s.filter.iter().for_each(|e| self.expression(e));
                self.body(&s.body);
            }
            Stmt::AutoEscape(s) => {
                self.expression(&s.enabled);
                self.body(&s.body);
            }
            Stmt::FilterBlock(s) => {
                self.expression(&s.filter);
                self.body(&s.body);
            }
            Stmt::Block(s) => self.body(&s.body),
            Stmt::Import(s) => {
                self.file(&s.expr);
                self.assign(&s.name);
            }
            Stmt::FromImport(s) => {
                self.file(&s.expr);
                for (name, alias) in &s.names {
                    self.assign(alias.as_ref().unwrap_or(name));
                }
            }
            Stmt::Extends(s) => self.file(&s.name),
            Stmt::Include(s) => self.file(&s.name),
            Stmt::Macro(s) => {
                self.uses.sets.insert(s.name.to_owned());
                self.macros.push((s.name.to_owned(), start(s.span())));
                self.macro_body(s);
            }
            Stmt::CallBlock(s) => {
                self.call(&s.call);
                self.macro_body(&s.macro_decl);
            }
            Stmt::Do(s) => self.call(&s.call),
        }
    }

    fn macro_body(&mut self, declared: &machinery::ast::Macro<'_>) {
        self.uses.sets.insert("caller".to_owned());
        declared.args.iter().for_each(|arg| self.assign(arg));
        declared.defaults.iter().for_each(|e| self.expression(e));
        self.body(&declared.body);
    }

    fn condition(&mut self, expr: &Expr<'_>, has_else: bool) {
        self.expression(expr);
        match expr.as_const().map(|value| value.is_true()) {
            Some(false) => {
                let text = "unreachable: this condition is never true".to_owned();
                self.fault(start(expr.span()), text);
            }
            Some(true) if has_else => {
                let text = "unreachable: this condition is always true, its else never shows";
                self.fault(start(expr.span()), text.to_owned());
            }
            _ => {}
        }
    }

    fn assign(&mut self, target: &Expr<'_>) {
        match target {
            Expr::Var(var) => {
                self.uses.sets.insert(var.id.to_owned());
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.assign(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.assign(item)),
            other => self.expression(other),
        }
    }

    fn file(&mut self, name: &Expr<'_>) {
        let at = start(name.span());
        match name.as_const().as_ref().and_then(|value| value.as_str()) {
            Some(file) => self.uses.files.push((file.to_owned(), at)),
            None => self.fault(
                at,
                "the name of a file must be a constant string".to_owned(),
            ),
        }
    }

    fn expression(&mut self, expr: &Expr<'_>) {
        match expr {
            Expr::Var(var) => self.uses.names.push((var.id.to_owned(), start(var.span()))),
            Expr::Const(_) => {}
            Expr::Slice(e) => {
                self.expression(&e.expr);
                [&e.start, &e.stop, &e.step]
                    .into_iter()
                    .flatten()
                    .for_each(|e| self.expression(e));
            }
            Expr::UnaryOp(e) => self.expression(&e.expr),
            Expr::BinOp(e) => {
                self.expression(&e.left);
                self.expression(&e.right);
            }
            Expr::Compare(e) => {
                self.expression(&e.expr);
                e.ops.iter().for_each(|op| self.expression(&op.expr));
            }
            Expr::IfExpr(e) => {
                self.condition(&e.test_expr, e.false_expr.is_some());
                self.expression(&e.true_expr);
                e.false_expr.iter().for_each(|e| self.expression(e));
            }
            Expr::Filter(e) => {
                let missing = self.env.empty_state().apply_filter(e.name, &[]);
                if missing.is_err_and(|error| error.kind() == ErrorKind::UnknownFilter) {
                    let text = format!("there is no filter `{}`", e.name);
                    // The span covers the whole expression; its name stands last.
                    let end = e.span().end_offset as usize;
                    let span = self.origin.source.get(..self.origin.offset + end);
                    let at = span
                        .and_then(|s| s.rfind(e.name))
                        .map(|at| at - self.origin.offset);
                    self.fault(at.unwrap_or_else(|| start(e.span())), text);
                }
                e.expr.iter().for_each(|e| self.expression(e));
                self.arguments(&e.args);
            }
            Expr::Test(e) => {
                let missing = self.env.empty_state().perform_test(e.name, &[]);
                if missing.is_err_and(|error| error.kind() == ErrorKind::UnknownTest) {
                    self.fault(start(e.span()), format!("there is no test `{}`", e.name));
                }
                self.expression(&e.expr);
                self.arguments(&e.args);
            }
            Expr::GetAttr(e) => self.expression(&e.expr),
            Expr::GetItem(e) => {
                self.expression(&e.expr);
                self.expression(&e.subscript_expr);
            }
            Expr::Call(e) => self.call(e),
            Expr::List(e) => e.items.iter().for_each(|e| self.expression(e)),
            Expr::Tuple(e) => e.items.iter().for_each(|e| self.expression(e)),
            Expr::Map(e) => e
                .keys
                .iter()
                .chain(&e.values)
                .for_each(|e| self.expression(e)),
        }
    }

    fn call(&mut self, call: &machinery::ast::Call<'_>) {
        if let (Expr::Var(var), [CallArg::Pos(name)]) = (&call.expr, &*call.args)
            && matches!(var.id, "emoji" | "絵文字")
            && let Some(value) = name.as_const()
            && value
                .as_str()
                .is_none_or(|name| emoji::by_name(name).is_none())
        {
            self.fault(
                start(name.span()),
                format!("there is no emoji called {value:?}"),
            );
        }
        self.expression(&call.expr);
        self.arguments(&call.args);
    }

    fn arguments(&mut self, arguments: &[CallArg<'_>]) {
        for argument in arguments {
            match argument {
                CallArg::Pos(e) | CallArg::Kwarg(_, e) => self.expression(e),
                CallArg::PosSplat(e) | CallArg::KwargSplat(e) => self.expression(e),
            }
        }
    }
}
