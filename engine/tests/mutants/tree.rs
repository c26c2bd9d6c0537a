//! The engine's source: where an anchor stands, and a copy of the tree with all bugs planted.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;

use super::SWITCH;
use super::kinds::{Change, KINDS};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The anchor's place in the source of its file. Line breaks and indents do not count.
pub(crate) fn find(change: &Change) -> Result<Range<usize>, String> {
    let path = root().join("engine/src").join(change.file);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", change.file))?;
    let words: Vec<String> = change.find.split_whitespace().map(regex::escape).collect();
    let pattern = Regex::new(&words.join(r"\s+")).unwrap();
    let mut found = pattern.find_iter(&text).map(|found| found.range());
    match (found.next(), found.count()) {
        (Some(range), 0) => Ok(range),
        (first, more) => Err(format!(
            "{}: the anchor stands there {} times instead of once: {}",
            change.file,
            first.iter().len() + more,
            change.find
        )),
    }
}

/// A copy of the workspace in `target/mutants`, with a target folder of its own: cargo would take what is
/// built of it for the tree's.
pub(crate) struct Tree {
    at: PathBuf,
}

impl Tree {
    /// The copy, with every bug of [`KINDS`] behind its switch.
    pub(crate) fn planted() -> Self {
        let at = root().join("target/mutants/tree");
        let _ = fs::remove_dir_all(&at);
        for name in [
            "Cargo.toml",
            "Cargo.lock",
            "engine",
            "shards",
            "tools",
            "bench-harness",
        ] {
            copy(&root().join(name), &at.join(name));
        }
        let tree = Self { at };
        let mut edits: BTreeMap<&str, Vec<(Range<usize>, String)>> = BTreeMap::new();
        for (kind, number) in KINDS.iter().zip(1..) {
            let planted = format!("crate::planted({number})");
            for change in kind.changes {
                let put = change.put.replace("PLANTED", &planted);
                let at = find(change).unwrap_or_else(|why| panic!("{why}"));
                edits.entry(change.file).or_default().push((at, put));
            }
        }
        for (file, mut edits) in edits {
            edits.sort_by_key(|(at, _)| std::cmp::Reverse(at.start));
            tree.edit(file, |text| {
                let mut behind = text.len();
                for (at, put) in edits {
                    assert!(at.end <= behind, "{file}: two anchors overlap at `{put}`");
                    behind = at.start;
                    text.replace_range(at, &put);
                }
            });
        }
        tree.edit("lib.rs", |text| text.push_str(&switch()));
        tree
    }

    fn edit(&self, file: &str, change: impl FnOnce(&mut String)) {
        let path = self.at.join("engine/src").join(file);
        let mut text = fs::read_to_string(&path).unwrap();
        change(&mut text);
        fs::write(path, text).unwrap();
    }

    /// Builds the simulation.
    pub(crate) fn build(&self) -> PathBuf {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args([
                "test",
                "--release",
                "--no-run",
                "--locked",
                "--message-format=json",
            ])
            .args(["-p", "hikyaku-engine", "--test", "sim"])
            .current_dir(&self.at)
            .env("CARGO_TARGET_DIR", root().join("target/mutants/target"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "the planted tree does not build");
        let text = String::from_utf8(output.stdout).unwrap();
        let program = text.lines().rev().find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(PathBuf::from(message.get("executable")?.as_str()?))
        });
        program.expect("cargo names what it built")
    }
}

fn switch() -> String {
    format!(
        r#"
/// Whether the planted bug of that number is switched on.
pub fn planted(number: u32) -> bool {{
    static ON: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {{
        let text = std::env::var("{SWITCH}").unwrap_or_default();
        text.parse().unwrap_or(0)
    }});
    *ON == number
}}
"#
    )
}

fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
        return;
    }
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        if name != "target" && name != "corpus" {
            copy(&from.join(&name), &to.join(&name));
        }
    }
}
