//! What is wrong with a file that an operator wrote, and where.

use std::fmt;

/// One fault in such a file.
///
/// Shown as `file:line:column: what is wrong; what to do`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The file as it was named to the program.
    pub file: String,
    /// 1-based line.
    pub line: usize,
    /// 1-based column, characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it, if that can be told.
    pub hint: Option<String>,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FileError {}

/// Line and column, both 1-based, of byte `offset` in `text`; the end if `offset` lies beyond.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// The name among `known` that `wrong` most likely stands for, or none if all are too far off.
pub(crate) fn nearest<'k>(
    wrong: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    let best = known
        .into_iter()
        .map(|name| (distance(&wrong, name), name))
        .min()?;
    // A third of the letters may be wrong; beyond that a guess misleads more than it helps. A name
    // that holds the other whole (`timeout` for `command_timeout`) is a good guess all the same.
    let close = best.0 <= (best.1.len().max(wrong.len()) / 3).max(1);
    let held = wrong.len() >= 4 && (best.1.contains(wrong.as_str()) || wrong.contains(best.1));
    (close || held).then_some(best.1)
}

/// Levenshtein distance with transposition of neighbours counted as one step. Names are short.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut steps = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                steps = steps.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = steps;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_counts_lines_and_characters() {
        let text = "a = 1\nすし = 2\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, text.find('2').unwrap()), (2, 6));
        assert_eq!(position(text, 10_000), (3, 1));
        assert_eq!(position(text, 7), (2, 1), "inside a character");
    }

    #[test]
    fn nearest_name_is_offered_only_when_it_is_near() {
        let known = ["hostname", "data_dir", "shards", "group_header"];
        assert_eq!(nearest("hostnmae", known), Some("hostname"));
        assert_eq!(nearest("datadir", known), Some("data_dir"));
        assert_eq!(nearest("data-dir", known), Some("data_dir"));
        assert_eq!(nearest("Shard", known), Some("shards"));
        assert_eq!(nearest("timeout", known), None);
        assert_eq!(
            nearest("timeout", ["command_timeout"]),
            Some("command_timeout")
        );
    }
}
