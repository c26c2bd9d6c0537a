//! Style a machine can check: circles between modules of the engine, long functions and files,
//! comments that say nothing, and where an entry changes its state.
//!
//! The lists of exceptions only shrink: what is mended is taken off, nothing is put on.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A function fits a screen or two.
const FUNCTION_LINES_MAX: usize = 80;
/// A file is one idea.
const FILE_LINES_MAX: usize = 800;

/// Longer functions, by file and name.
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    ("engine/src/shard/tests.rs", "carry_out"),
    ("engine/tests/queue_power_cuts.rs", "open"),
    ("engine/tests/sim/actions.rs", "perform"),
    ("shards/src/runtime/mod.rs", "perform"),
    ("shards/src/shard_main.rs", "open"),
    (
        "tools/tests/template_carriers.rs",
        "every_row_of_the_shared_table_is_carried",
    ),
    ("tools/tests/template_readback.rs", "expected"),
    ("tools/tests/template_readback.rs", "case"),
];

/// Longer files.
const LONG_FILES: &[&str] = &["engine/src/shard/tests.rs"];

/// Doc comments that say what the name says already.
const FILLERS: &[&str] = &[
    "Which.",
    "Which one.",
    "See above.",
    "As above.",
    "The same.",
    "As in `Store`.",
];

/// A source file, its path from the workspace's root.
struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    engine
        .parent()
        .expect("the engine lies in the workspace")
        .to_owned()
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let is_built = path.file_name().is_some_and(|name| name == "target");
            if path.is_dir() && !is_built {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap();
                found.push(Source {
                    path: name.to_str().unwrap().to_owned(),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50, "the sources are not where they were");
    found
}

fn workspace() -> Vec<Source> {
    sources(&["engine", "shards", "tools", "bench-harness"])
}

/// Name and length of each function. Leans on rustfmt: one ends with the brace at its own indent.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some((before, after)) = code.split_once("fn ") else {
            continue;
        };
        let is_function = before.split_whitespace().all(|word| {
            matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"")
                || word.starts_with("pub")
                || word.ends_with(')')
        });
        let name: String = after
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if !is_function || name.is_empty() {
            continue;
        }
        let mut has_body = false;
        let end = lines[start..].iter().position(|line| {
            has_body |= line.trim_end().ends_with(['{', '}']);
            let is_at_indent = line.len() - line.trim_start().len() == indent;
            is_at_indent && line.trim() == "}" || !has_body && line.trim_end().ends_with(';')
        });
        if let Some(end) = end {
            found.push((name, end + 1));
        }
    }
    found
}

#[test]
fn functions_fit_a_screen() {
    let mut long = Vec::new();
    for source in workspace() {
        for (name, lines) in functions(&source.text) {
            let is_known = LONG_FUNCTIONS.contains(&(&*source.path, &*name));
            if lines > FUNCTION_LINES_MAX && !is_known {
                long.push(format!("{} {name}: {lines} lines", source.path));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn files_are_not_long() {
    let long: Vec<String> = workspace()
        .into_iter()
        .filter(|source| source.text.lines().count() > FILE_LINES_MAX)
        .map(|source| source.path)
        .filter(|path| !LONG_FILES.contains(&&**path))
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines: {long:#?}");
}

#[test]
fn comments_say_something() {
    let mut fillers = Vec::new();
    for source in workspace() {
        for (n, line) in source.text.lines().enumerate() {
            let comment = line.trim_start().strip_prefix("/// ");
            if comment.is_some_and(|comment| FILLERS.contains(&comment.trim_end())) {
                fillers.push(format!("{}:{}: {}", source.path, n + 1, line.trim()));
            }
        }
    }
    assert!(fillers.is_empty(), "{fillers:#?}");
}

/// An entry's state, its lists and its levels belong together, so one place changes them.
#[test]
fn entries_change_their_state_in_one_place() {
    let rooms = ["shard", "store", "queue", "schedule"].map(|room| format!("engine/src/{room}"));
    let mut changes = Vec::new();
    for source in sources(&rooms.each_ref().map(|room| &**room)) {
        if source.path.starts_with("engine/src/schedule/mail") || source.path.ends_with("tests.rs")
        {
            continue;
        }
        for (n, line) in source.text.lines().enumerate() {
            if line.contains("state = State::") {
                changes.push(format!("{}:{}", source.path, n + 1));
            }
        }
    }
    assert!(changes.is_empty(), "{changes:#?}");
}

/// Modules by name, as `["queue", "record"]`, with the text of their code.
fn modules() -> BTreeMap<Vec<String>, String> {
    let mut modules = BTreeMap::new();
    for source in sources(&["engine/src"]) {
        let name = source
            .path
            .trim_start_matches("engine/src/")
            .trim_end_matches(".rs");
        let mut name: Vec<String> = name.split('/').map(str::to_owned).collect();
        if matches!(name.last().map(String::as_str), Some("mod" | "lib")) {
            name.pop();
        }
        let is_test = name.last().is_some_and(|last| last == "tests");
        if !name.is_empty() && !is_test {
            modules.insert(name, code(&source.text));
        }
    }
    modules
}

/// Without comments, and without the tests at the end.
fn code(text: &str) -> String {
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text);
    let without = |line: &str| line.split("//").next().unwrap_or(line).to_owned();
    text.lines().map(without).collect::<Vec<_>>().join("\n")
}

/// Paths that begin with `crate`, `super` or `self`, those of braces written out.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
                expand(String::new(), &code[at..], &mut found);
            }
        }
    }
    found
}

/// Reads one tree of a `use` off the front of `code`; the rest.
fn expand<'c>(mut path: String, mut code: &'c str, found: &mut Vec<String>) -> &'c str {
    loop {
        code = code.trim_start();
        if let Some(inner) = code.strip_prefix('{') {
            code = inner;
            loop {
                code = code.trim_start();
                match code.strip_prefix('}') {
                    Some(rest) => return rest,
                    None if code.is_empty() => return code,
                    None => code = expand(path.clone(), code, found),
                }
                code = code.trim_start().trim_start_matches(',');
            }
        }
        let length = code
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(code.len());
        path.push_str(&code[..length]);
        code = &code[length..];
        match code.strip_prefix("::") {
            Some(rest) if length > 0 => {
                path.push_str("::");
                code = rest;
            }
            _ => break,
        }
    }
    found.push(path);
    // What follows a name in a list, such as `as other`, or anything that is no list at all.
    let end = code.find([',', '}', ';']).unwrap_or(code.len());
    &code[end..]
}

/// The module of ours that a path of `of` leads to.
fn resolved(of: &[String], path: &str, modules: &BTreeMap<Vec<String>, String>) -> Vec<String> {
    let mut at = of.to_vec();
    for (n, name) in path.split("::").enumerate() {
        match name {
            "crate" => at.clear(),
            "self" => {}
            "super" if n == 0 || path.starts_with("super") => {
                at.pop();
            }
            name => {
                at.push(name.to_owned());
                if !modules.contains_key(&at) {
                    at.pop();
                    break;
                }
            }
        }
    }
    at
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Those that can reach themselves.
fn in_circles(graph: &Graph) -> BTreeSet<String> {
    let reaches_itself = |start: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(at) = next.pop() {
            for to in graph.get(at).into_iter().flatten() {
                if to == start {
                    return true;
                }
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        false
    };
    graph
        .keys()
        .filter(|name| reaches_itself(name))
        .cloned()
        .collect()
}

#[test]
fn modules_know_each_other_one_way() {
    let modules = modules();
    let (mut folders, mut files) = (Graph::new(), Graph::new());
    for (name, code) in &modules {
        for path in paths(code) {
            let to = resolved(name, &path, &modules);
            let (Some(from_folder), Some(to_folder)) = (name.first(), to.first()) else {
                continue;
            };
            if from_folder != to_folder {
                let known = folders.entry(from_folder.clone()).or_default();
                known.insert(to_folder.clone());
            }
            // A folder's head and its files are one idea: they may name each other.
            if !name.starts_with(&to) && !to.starts_with(name) {
                let known = files.entry(name.join("::")).or_default();
                known.insert(to.join("::"));
            }
        }
    }
    assert!(folders.len() > 10 && files.len() > 50, "nothing was read");
    assert_eq!(in_circles(&folders), BTreeSet::new(), "folders");
    assert_eq!(in_circles(&files), BTreeSet::new(), "files");
}

#[test]
fn the_reader_of_paths_reads_trees() {
    let code = "use crate::a::{b::C, d, e as f};\nlet x = super::g::H::new(); mycrate::x();";
    let mut found = paths(code);
    found.sort();
    assert_eq!(
        found,
        [
            "crate::a::b::C",
            "crate::a::d",
            "crate::a::e",
            "super::g::H::new"
        ]
    );
}
