//! What only the whole template shows: unknown fields, unused files, images that nothing shows.

use std::collections::BTreeSet;

use super::Loader;
use crate::compose::data::BUILT_IN;
use crate::compose::fault::Fault;
use crate::compose::manifest::MANIFEST;

impl Loader<'_> {
    pub(super) fn known_names(&self) -> BTreeSet<&str> {
        let mut known: BTreeSet<&str> = BUILT_IN.iter().copied().collect();
        known.extend([
            "range",
            "dict",
            "namespace",
            "emoji",
            "絵文字",
            "self",
            "super",
            "loop",
            "caller",
        ]);
        known.extend(
            self.uses
                .values()
                .flat_map(|uses| &uses.sets)
                .map(String::as_str),
        );
        known
    }

    /// Unknown fields, files that nothing uses, images that nothing shows.
    pub(super) fn check_whole(&mut self) {
        let mut faults = Vec::new();
        let known = self.known_names();
        if let Some(declared) = &self.declared {
            for (source, uses) in &self.uses {
                for (name, offset) in &uses.names {
                    if known.contains(name.as_str()) || declared.contains(name) {
                        continue;
                    }
                    let near = nearest(name, declared.iter().map(String::as_str));
                    let hint = near.map_or_else(
                        || "add it to `fields` or [defaults]".to_owned(),
                        |near| format!("did you mean `{near}`?"),
                    );
                    let text = format!("unknown field `{name}`; {hint}");
                    faults.extend(self.origins.get(source).map(|o| o.fault(*offset, text)));
                }
            }
        }
        for file in self.files.keys() {
            let ignored = file == MANIFEST
                || file.starts_with('.')
                || file.contains("/.")
                || file == "README.md";
            if !ignored && !self.used_files.contains(file) {
                let text = "unreachable: no part, include or entry of template.toml uses this file";
                faults.push(Fault::of_file(file, text));
            }
        }
        for (cid, (at, _)) in &self.cids {
            if !self.shown_images.contains(at) {
                let file = self.files.keys().find(|f| f.ends_with(cid.as_str()));
                let text = format!("unreachable: no HTML shows the inline image cid:{cid}");
                faults.push(Fault::of_file(file.map_or(MANIFEST, String::as_str), text));
            }
        }
        self.faults.append(&mut faults);
    }
}

/// The name closest to `wanted`, if it could be a slip of it.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (distance(wanted, name), name))
        .filter(|(d, _)| *d <= 2)
        .min()
        .map(|(_, n)| n)
}

/// Edits (insert, delete, replace, swap neighbours) from `a` to `b`.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(x != y))
                .min(rows[i][j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
