//! Carrier emoji against tables nobody here wrote: the shared table, Ruby's encodings, PHP's mbstring.
//!
//! The oracles are Debian's `ruby`, `php-cli` and `php-mbstring`. Where one is not installed its test
//! prints a note and passes, unless HIKYAKU_REQUIRE_ORACLES=1; likewise the shared table and
//! HIKYAKU_REQUIRE_SHARED=1.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;
use std::path::Path;

use engine::compose::charset::{Wire, decode, encode_body};
use engine::compose::emoji::{self, Code, Emoji, EmojiSet};

mod oracle;

const SJIS: [(&str, EmojiSet, Wire); 3] = [
    ("docomo", EmojiSet::Docomo, Wire::DocomoSjis),
    ("au", EmojiSet::Au, Wire::AuSjis),
    ("softbank", EmojiSet::Softbank, Wire::SoftbankSjis),
];

fn encoded(wire: Wire, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode_body(wire, text, &mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Exact symbols of a carrier.
fn exact(set: EmojiSet) -> impl Iterator<Item = (&'static Emoji, u16)> {
    let code = move |row: &'static Emoji| row.code(set).filter(|code| code.exact);
    emoji::rows()
        .iter()
        .filter_map(move |row| Some((row, code(row)?.private[0])))
}

fn table() -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/emoji/carrier-emoji.tsv");
    let table = std::fs::read_to_string(&path).ok();
    let required = std::env::var("HIKYAKU_REQUIRE_SHARED").is_ok_and(|v| v == "1");
    assert!(
        table.is_some() || !required,
        "{} is missing",
        path.display()
    );
    if table.is_none() {
        eprintln!("note: {} is not here; not compared", path.display());
    }
    table
}

#[test]
fn every_row_of_the_shared_table_is_carried() {
    let Some(table) = table() else { return };
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
    let mut rows: BTreeMap<String, &Emoji> = BTreeMap::new();
    for row in emoji::rows() {
        rows.insert(row.unicode.to_string(), row);
    }
    let (mut compared, mut codes) = (0, 0);
    for line in lines {
        let cells: Vec<&str> = line.split('\t').collect();
        let unicode: String = cells[0]
            .split_whitespace()
            .map(|h| char::from_u32(u32::from_str_radix(h, 16).unwrap()).unwrap())
            .collect();
        let unicode = if unicode.is_empty() {
            let number = cells[1]
                .rsplit_once('-')
                .map_or(0, |(_, n)| n.parse().unwrap());
            char::from_u32(0x10F000 + number).unwrap().to_string()
        } else {
            unicode
        };
        let row = rows
            .remove(&unicode)
            .unwrap_or_else(|| panic!("{} is not carried", cells[1]));
        for (name, set, wire) in SJIS {
            let kind = cells[column(&format!("{name}_kind"))];
            let wanted = |suffix: &str| cells[column(&format!("{name}_{suffix}"))].to_lowercase();
            let Some(Code { exact, private }) = row.code(set) else {
                assert_eq!(kind, "", "{}: {name} has it", cells[1]);
                continue;
            };
            assert_eq!(kind, if exact { "=" } else { "~" }, "{}: {name}", cells[1]);
            let shown = private
                .iter()
                .filter(|p| **p != 0)
                .map(|p| format!("{p:04x}"));
            assert_eq!(
                shown.collect::<Vec<_>>().join("+"),
                wanted("pua"),
                "{}",
                cells[1]
            );
            let sjis = wanted("sjis").replace('+', "");
            assert_eq!(
                hex(&encoded(wire, &row.unicode)),
                sjis,
                "{}: {name}",
                cells[1]
            );
            if set == EmojiSet::Au {
                let jis = cells[column("au_jis")].to_lowercase().replace('+', "");
                assert_eq!(
                    hex(&encoded(Wire::AuJis, &row.unicode)),
                    format!("1b2442{jis}1b2842")
                );
            }
            if set == EmojiSet::Softbank {
                let utf8 = wanted("utf8").replace('+', "");
                assert_eq!(
                    hex(&encoded(Wire::SoftbankUtf8, &row.unicode)),
                    utf8,
                    "{}",
                    cells[1]
                );
            }
            if exact {
                codes += 1;
                for wire in Wire::ALL.into_iter().filter(|w| w.emoji_set() == Some(set)) {
                    let bytes = encoded(wire, &row.unicode);
                    assert_eq!(decode(wire, &bytes), *row.unicode, "{}: {wire:?}", cells[1]);
                }
            }
        }
        compared += 1;
    }
    assert!(rows.is_empty(), "rows that the table lacks: {rows:?}");
    assert_eq!((compared, codes), (815, 282 + 647 + 485));
}

#[test]
fn ruby_agrees_on_every_code_both_ways() {
    let Some(output) = oracle::run("ruby", &["emoji.rb"], b"") else {
        return;
    };
    // (set, encoding, bytes) to private use, and (set, encoding, private use) to bytes.
    let mut from: BTreeMap<(&str, &str, &str), &str> = BTreeMap::new();
    let mut to: BTreeMap<(&str, &str, &str), &str> = BTreeMap::new();
    for line in output.lines() {
        let [set, encoding, bytes, private, back] = *line.split(' ').collect::<Vec<_>>() else {
            panic!("{line}")
        };
        from.insert((set, encoding, bytes), private);
        to.insert((set, encoding, private), back);
    }
    let mut agreed = Vec::new();
    for (name, set, _) in SJIS {
        let (mut sjis_codes, mut jis_codes) = (0, 0);
        for (row, private) in exact(set) {
            let sjis = emoji::sjis_of(set, private).unwrap();
            assert_eq!(emoji::private_of(set, sjis), Some(private));
            let code = format!("{private:x}");
            let bytes = format!("{sjis:04x}");
            assert_eq!(
                from.get(&(name, "sjis", &*bytes)),
                Some(&&*code),
                "{name} {}",
                row.label
            );
            assert_eq!(
                to.get(&(name, "sjis", &*code)),
                Some(&&*bytes),
                "{name} {}",
                row.label
            );
            sjis_codes += 1;
            if set == EmojiSet::Au {
                let jis = emoji::au_jis_of(sjis);
                assert_eq!(emoji::au_sjis_of_jis(jis), Some(sjis));
                let bytes = format!("1b2442{jis:04x}1b2842");
                assert_eq!(
                    from.get(&(name, "jis", &*bytes)),
                    Some(&&*code),
                    "au {bytes}"
                );
                assert_eq!(to.get(&(name, "jis", &*code)), Some(&&*bytes), "au {code}");
                jis_codes += 1;
            }
        }
        agreed.push((sjis_codes, jis_codes));
    }
    assert_eq!(agreed, [(282, 0), (647, 647), (485, 0)]);
}

#[test]
fn php_agrees_on_every_exact_unicode_emoji_both_ways() {
    let Some(output) = oracle::run("php", &["emoji.php"], b"") else {
        return;
    };
    let mut php: BTreeMap<(&str, &str), (&str, &str, &str)> = BTreeMap::new();
    for line in output.lines() {
        let [set, bytes, unicode, back, private] = *line.split(' ').collect::<Vec<_>>() else {
            panic!("{line}")
        };
        php.insert((set, bytes), (unicode, back, private));
    }
    let mut agreed = Vec::new();
    for (name, set, wire) in SJIS {
        let mut count = 0;
        // U+27BF is the one exact pair that EmojiSources.txt, and so PHP, lacks.
        let known = |row: &Emoji| !row.is_unicodeless() && &*row.unicode != "\u{27BF}";
        for (row, private) in exact(set).filter(|(row, _)| known(row)) {
            let bytes = hex(&encoded(wire, &row.unicode));
            let ours = hex(row.unicode.as_bytes());
            let (unicode, back, utf8) = php[&(name, &*bytes)];
            assert_eq!((unicode, back), (&*ours, &*bytes), "{name} {private:04x}");
            if set == EmojiSet::Softbank {
                assert_eq!(
                    utf8,
                    hex(&encoded(Wire::SoftbankUtf8, &row.unicode)),
                    "{private:04x}"
                );
            }
            count += 1;
        }
        agreed.push(count);
    }
    assert_eq!(agreed, [244, 633, 469]);
}
