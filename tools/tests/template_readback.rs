//! Composed messages read back by Python's `email`, Ruby's `mail` and mail-parser: same tree, names, text.
//!
//! Random templates over every profile's shape, scripts, lengths and sizes. HIKYAKU_SEED repeats a run,
//! HIKYAKU_COMPOSE_CASES sets how many (10,000). The oracles are Debian's `python3` and `ruby-mail`;
//! see template_carriers.rs for what happens without them.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::clock::UnixMs;
use engine::compose::charset::{Wire, encode_body};
use engine::compose::profile::{Carrier, Profile, Tree};
use engine::compose::{Choice, Data, Files, Job, Mailbox, Scratch, Template, html};
use mail_parser::{Address, MessageParser, MimeHeaders, PartType};

mod oracle;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const LATIN: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const SIGNS: &str = " .,:;!?()[]<>@#$%&'*+-/=^_`|~\"\\";
const KANA: &str = "あいうえおかきくけこさしすせそたちつてとはひふへほまみむめもやゆよらりるれろわをんがぎぐげご\
                    アイウエオカキクケコサシスセソタチツテトナニヌネノパピプペポーッャュョ、。「」・";
const KANJI: &str =
    "飛脚便東京大阪日本語文字化記号注文発送春夏秋冬山川田中鈴木佐藤高橋渡辺伊表十能申構予芸";
const WIDE: &str = "éüñßÅØžçàêïδπψЖДЙщאבגשהقرشمไทยक한국어中文简体𠮷髙﨑";
const EMOJI: &[&str] = &[
    "☀\u{FE0F}",
    "🐸",
    "👍🏽",
    "👨\u{200D}👩\u{200D}👧",
    "1\u{FE0F}\u{20E3}",
    "🇯🇵",
    "🦥",
];

/// A text of up to `chars` characters that `wire` can carry and every reader decodes alike.
fn text(random: &mut Random, wire: Wire, chars: usize) -> String {
    let mut out = String::new();
    let flavour = random.below(4);
    for _ in 0..random.below(chars + 1) {
        let any = if flavour == 3 {
            random.below(6)
        } else {
            flavour
        };
        match any {
            0 if random.chance(20) => out.push(nth(random, SIGNS)),
            0 => out.push(nth(random, LATIN)),
            1 => out.push(nth(random, KANA)),
            2 => out.push(nth(random, KANJI)),
            3 if wire == Wire::Utf8 => out.push(nth(random, WIDE)),
            4 if wire == Wire::Utf8 => out.push_str(EMOJI[random.below(EMOJI.len())]),
            _ => out.push(' '),
        }
    }
    out
}

fn nth(random: &mut Random, from: &str) -> char {
    from.chars()
        .nth(random.below(from.chars().count()))
        .unwrap()
}

/// A header's text: readers trim its ends.
fn line(random: &mut Random, wire: Wire, chars: usize) -> String {
    text(random, wire, chars).trim().to_owned()
}

/// `long`: may exceed what a carrier takes.
fn body(random: &mut Random, wire: Wire, long: bool) -> String {
    let mut out = String::new();
    let wide = long && random.chance(5);
    for _ in 0..random.below(12) {
        match random.below(12) {
            0 => out.push_str("From here on\n"),
            1 => out.push_str(".\n..dots\n"),
            2 => out.push_str("trailing space \ttab\t\n"),
            3 => out.push_str("\n\n"),
            4 => out.push_str("-- \n--boundary=\"x\"\n"),
            _ => {
                let chars = if wide { 2500 } else { 90 };
                out.push_str(&text(random, wire, chars));
                out.push('\n');
            }
        }
    }
    out
}

/// A basic TOML string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

struct Part {
    depth: usize,
    kind: String,
    name: Option<String>,
    /// Text with LF, or the CRC-32 of what is no text.
    content: Option<String>,
}

/// A message and what its readers must see.
struct Case {
    message: Vec<u8>,
    seen: String,
}

struct Blob {
    name: String,
    kind: &'static str,
    content: Vec<u8>,
}

fn blob(random: &mut Random, wire: Wire, kinds: &[(&'static str, &'static str)]) -> Blob {
    let &(extension, kind) = random.pick(kinds);
    let chars = if random.chance(10) { 60 } else { 20 };
    let stem: String = text(random, wire, chars)
        .chars()
        .filter(|c| !"/\\:*?\"<>|".contains(*c))
        .collect();
    let mut stem = stem.trim().trim_start_matches('.').to_owned();
    while stem.len() > 240 {
        stem.pop();
    }
    let stem = stem.trim_end();
    let name = format!("f{stem}.{extension}");
    let size_max = if random.chance(5) { 20_000 } else { 400 };
    let size = random.below(size_max);
    // mail-parser decodes text files by charset, so theirs is text.
    let mask = if kind.starts_with("text/") {
        0x3F
    } else {
        0xFF
    };
    let content = (0..size)
        .map(|_| random.next() as u8 & mask | 0x40 & !mask)
        .collect();
    Blob {
        name,
        kind,
        content,
    }
}

/// What `profile` should send for a message with these pieces.
fn expected(
    profile: &Profile,
    text: &str,
    html: Option<&str>,
    images: &[Blob],
    files: &[Blob],
) -> Vec<Part> {
    let mut parts = Vec::new();
    let multi = |parts: &mut Vec<Part>, depth: usize, kind: &str| {
        let kind = format!("multipart/{kind}");
        parts.push(Part {
            depth,
            kind,
            name: None,
            content: None,
        });
    };
    let leaf = |parts: &mut Vec<Part>, depth: usize, kind: &str, content: &str| {
        let content = Some(content.to_owned());
        parts.push(Part {
            depth,
            kind: format!("text/{kind}"),
            name: None,
            content,
        });
    };
    let blobs = |parts: &mut Vec<Part>, depth: usize, blobs: &[Blob], phone: bool| {
        for (at, blob) in blobs.iter().enumerate() {
            let extension = if blob.kind == "image/gif" {
                "gif"
            } else {
                "jpg"
            };
            let phone_name = format!("img{:02}.{extension}", at + 1);
            let name = Some(if phone { phone_name } else { blob.name.clone() });
            let content = Some(crc32(&blob.content).to_string());
            parts.push(Part {
                depth,
                kind: blob.kind.to_owned(),
                name,
                content,
            });
        }
    };
    let mut depth = 0;
    let alternative = |parts: &mut Vec<Part>, depth: usize, html: &str| {
        multi(parts, depth, "alternative");
        leaf(parts, depth + 1, "plain", text);
        leaf(parts, depth + 1, "html", html);
    };
    match (profile.tree, html) {
        (Tree::Docomo, Some(html)) => {
            multi(&mut parts, 0, "mixed");
            multi(&mut parts, 1, "related");
            alternative(&mut parts, 2, html);
            blobs(&mut parts, 2, images, true);
            blobs(&mut parts, 1, files, false);
        }
        (Tree::Au, Some(html)) => {
            multi(&mut parts, 0, "mixed");
            alternative(&mut parts, 1, html);
            blobs(&mut parts, 1, images, true);
            blobs(&mut parts, 1, files, false);
        }
        (Tree::Softbank, Some(html)) if !images.is_empty() || !files.is_empty() => {
            multi(&mut parts, 0, "related");
            alternative(&mut parts, 1, html);
            blobs(&mut parts, 1, images, true);
            blobs(&mut parts, 1, files, false);
        }
        (tree, html) => {
            if !files.is_empty() {
                multi(&mut parts, 0, "mixed");
                depth = 1;
            }
            match html.filter(|_| tree != Tree::PlainOnly) {
                None => leaf(&mut parts, depth, "plain", text),
                Some(html) if images.is_empty() || tree != Tree::Modern => {
                    alternative(&mut parts, depth, html);
                }
                Some(html) => {
                    multi(&mut parts, depth, "alternative");
                    leaf(&mut parts, depth + 1, "plain", text);
                    multi(&mut parts, depth + 1, "related");
                    leaf(&mut parts, depth + 2, "html", html);
                    blobs(&mut parts, depth + 2, images, false);
                }
            }
            if depth > 0 {
                blobs(&mut parts, 1, files, false);
            }
        }
    }
    parts
}

fn case(random: &mut Random, number: usize) -> Case {
    let choice = match random.below(10) {
        0..=3 => Choice::Utf8,
        4 | 5 => Choice::Auto,
        6 => Choice::Legacy(Carrier::Docomo),
        7 => Choice::Legacy(Carrier::Au),
        8 => Choice::Legacy(Carrier::Softbank),
        _ => Choice::Legacy(*random.pick(&[Carrier::Emobile, Carrier::Uq])),
    };
    let charset = *random.pick(&["utf-8", "iso-2022-jp", "shift_jis"]);
    let profile = match choice {
        Choice::Utf8 => Profile::ALL[0],
        Choice::Legacy(carrier) => carrier.legacy(false).unwrap(),
        Choice::Auto => {
            Profile::ALL[["utf-8", "iso-2022-jp", "shift_jis"]
                .iter()
                .position(|c| *c == charset)
                .unwrap()]
        }
    };
    // Carrier emoji are template_carriers.rs's; here all readers must know every character.
    let wire = profile.wire;
    let subject = line(random, wire, 120);
    let name = line(random, wire, 40);
    let from_name = line(random, wire, 30);
    let from_name = from_name.replace(['<', '>', '"', '\\'], "");
    let from_name = from_name.trim();
    let local = ["taro", "a..b", "a.", "x+y", "o'neil"][random.below(5)];
    let has_html = random.chance(60);
    let has_text = !has_html || random.chance(70);
    let (prose, pieces) = (
        body(random, wire, profile.decomail.is_none()),
        random.below(3),
    );
    let images: Vec<Blob> = (0..if has_html { random.below(4) } else { 0 })
        .map(|_| blob(random, wire, &[("gif", "image/gif"), ("jpg", "image/jpeg")]))
        .collect();
    let kinds = [
        ("pdf", "application/pdf"),
        ("csv", "text/csv"),
        ("zip", "application/zip"),
    ];
    let files: Vec<Blob> = (0..pieces).map(|_| blob(random, wire, &kinds)).collect();

    let mut manifest = format!(
        "from = {}\nto_name = \"{{{{ who }}}}\"\nsubject = \"{{{{ what }}}}\"\ncharset = \"{charset}\"\n\
         unencodable = \"refuse\"\ngroup = \"g\"\n",
        quoted(&format!("{from_name} <shop@example.jp>")),
    );
    let mut folder = Files::new();
    for (at, file) in files.iter().enumerate() {
        let path = format!("a{at}.{}", file.name.rsplit('.').next().unwrap());
        let (path_text, name) = (quoted(&path), quoted(&file.name));
        writeln!(
            manifest,
            "[[attachment]]\nfile = {path_text}\nname = {name}"
        )
        .unwrap();
        folder.insert(path, file.content.clone());
    }
    let mut page = String::from("<p>{{ note }}</p>\n");
    for (at, image) in images.iter().enumerate() {
        let path = format!("i{at}.{}", image.name.rsplit('.').next().unwrap());
        let (path_text, name) = (quoted(&path), quoted(&image.name));
        writeln!(
            manifest,
            "[[inline]]\nfile = {path_text}\nname = {name}\ncid = \"c{at}\""
        )
        .unwrap();
        writeln!(page, "<div><img src=\"cid:c{at}\"></div>").unwrap();
        folder.insert(path, image.content.clone());
    }
    let note = text(random, wire, 200);
    folder.insert("template.toml".to_owned(), manifest.into_bytes());
    if has_text {
        folder.insert("text".to_owned(), b"{{ prose }}{{ note }}".to_vec());
    }
    if has_html {
        folder.insert("html".to_owned(), page.clone().into_bytes());
    }
    let template = Template::load(&folder).unwrap_or_else(|f| panic!("case {number}: {f:?}"));
    let data = Arc::new(Data::from_pairs([
        ("who", &*name),
        ("what", &*subject),
        ("prose", &*prose),
        ("note", &*note),
    ]));
    let recipient = Mailbox::parse(&format!("{local}@example.jp")).unwrap();
    let id = format!("case{number}");
    let job = Job {
        data: &data,
        recipient: &recipient,
        now: UnixMs(1_795_504_548_000),
        id: &id,
        choice,
    };
    let mut message = Vec::new();
    let composed = template.compose(&job, &mut Scratch::default(), &mut message);
    let composed = composed.unwrap_or_else(|e| panic!("case {number}: {e}"));
    assert_eq!(
        (composed.wire, composed.lost.count),
        (wire, 0),
        "case {number}"
    );
    let mut again = Vec::new();
    template
        .compose(&job, &mut Scratch::default(), &mut again)
        .unwrap();
    assert!(message == again, "case {number}: two runs differ");
    check_lines(&message, number);

    let escaped = note
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let escaped = escaped.replace('"', "&quot;").replace('\'', "&#39;");
    let mut page = page.replace("{{ note }}", &escaped);
    let plain = if has_text {
        format!("{prose}{note}")
    } else {
        let mut made = String::new();
        html::to_text(&page, &mut made);
        made
    };
    if let Some(decomail) = profile.decomail {
        let mut cut = String::new();
        html::to_decomail(&page, decomail, wire.charset_name(), false, &mut cut).unwrap();
        page = cut;
    }
    let parts = expected(profile, &plain, has_html.then_some(&*page), &images, &files);
    let seen = shown(
        &subject,
        (from_name, "shop@example.jp"),
        (&name, &format!("{local}@example.jp")),
        parts,
    );
    Case { message, seen }
}

/// RFC 5322's limits, and nothing that needs 8BITMIME.
fn check_lines(message: &[u8], number: usize) {
    assert!(message.is_ascii(), "case {number}: 8bit");
    let text = std::str::from_utf8(message).unwrap();
    let mut header = true;
    for line in text.split("\r\n") {
        assert!(
            !line.contains(['\r', '\n', '\0']),
            "case {number}: bare CR, LF or NUL"
        );
        assert!(line.len() <= 998, "case {number}: {} bytes", line.len());
        header &= !line.is_empty();
        let long_name = line.starts_with(" filename*") && line.len() <= 110;
        assert!(
            !header || line.len() <= 78 || long_name,
            "case {number}: {line}"
        );
        assert!(
            !header || !line.trim().is_empty() || line.is_empty(),
            "case {number}: blank fold"
        );
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn hex(text: &str) -> String {
    let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
    if hex.is_empty() { "-".to_owned() } else { hex }
}

fn shown(subject: &str, from: (&str, &str), to: (&str, &str), parts: Vec<Part>) -> String {
    let mut out = format!(
        "S {}\nF {} {}\nT {} {}\n",
        hex(subject),
        hex(from.0),
        hex(from.1),
        hex(to.0),
        hex(to.1)
    );
    for part in parts {
        let is_text = matches!(&*part.kind, "text/plain" | "text/html");
        let content = match part.content {
            Some(text) if is_text && part.name.is_none() => hex(&normal(&text)),
            Some(crc) => crc,
            None => "-".to_owned(),
        };
        let name = hex(part.name.as_deref().unwrap_or(""));
        writeln!(out, "P {} {} {name} {content}", part.depth, part.kind).unwrap();
    }
    out
}

/// LF line ends, none at the end (the last one belongs to the boundary), Content-IDs made alike.
fn normal(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let mut out = String::new();
    let mut rest = text.trim_end_matches('\n');
    while let Some(at) = rest.find("\"cid:") {
        let end = rest[at + 1..]
            .find('"')
            .map_or(rest.len(), |end| at + 1 + end);
        out.push_str(&rest[..at]);
        out.push_str("\"cid:");
        rest = &rest[end..];
    }
    out + rest
}

/// An oracle's report with its texts made alike.
fn normal_report(report: &str) -> String {
    let mut out = String::new();
    for line in report.lines() {
        let cells: Vec<&str> = line.split(' ').collect();
        match *cells {
            [
                "P",
                depth,
                kind @ ("text/plain" | "text/html"),
                "-",
                content,
            ] if content != "-" => {
                let bytes = (0..content.len() / 2)
                    .map(|at| u8::from_str_radix(&content[at * 2..at * 2 + 2], 16).unwrap());
                let text = String::from_utf8(bytes.collect()).unwrap();
                writeln!(out, "P {depth} {kind} - {}", hex(&normal(&text))).unwrap();
            }
            _ => writeln!(out, "{line}").unwrap(),
        }
    }
    out
}

fn parsed_by_mail_parser(message: &[u8]) -> String {
    let parsed = MessageParser::default().parse(message).expect("a message");
    let address = |header: Option<&Address<'_>>| {
        let first = header.and_then(Address::first).expect("an address");
        let bare = first.address.as_deref().unwrap_or("").replace('"', "");
        (first.name.as_deref().unwrap_or("").to_owned(), bare)
    };
    let mut parts = Vec::new();
    walk(&parsed, 0, 0, &mut parts);
    let (from, to) = (address(parsed.from()), address(parsed.to()));
    let subject = parsed.subject().unwrap_or("");
    shown(subject, (&from.0, &from.1), (&to.0, &to.1), parts)
}

fn walk(parsed: &mail_parser::Message<'_>, at: u32, depth: usize, parts: &mut Vec<Part>) {
    let part = parsed.part(at).expect("a part");
    let kind = part.content_type().expect("a content type");
    let kind = format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or(""));
    let name = part.attachment_name().map(str::to_owned);
    let content = match &part.body {
        PartType::Multipart(children) => {
            parts.push(Part {
                depth,
                kind,
                name: None,
                content: None,
            });
            children
                .iter()
                .for_each(|&child| walk(parsed, child, depth + 1, parts));
            return;
        }
        PartType::Text(text) | PartType::Html(text) if name.is_none() => text.to_string(),
        PartType::Text(_) | PartType::Html(_) => crc32(part.contents()).to_string(),
        _ => crc32(part.contents()).to_string(),
    };
    parts.push(Part {
        depth,
        kind,
        name,
        content: Some(content),
    });
}

/// What a reader saw otherwise, the first few cases in full.
fn differences(reader: &str, reports: &[String], cases: &[Case]) -> String {
    let mut out = String::new();
    if reports.len() != cases.len() {
        return format!(
            "{reader} saw {} messages of {}\n",
            reports.len(),
            cases.len()
        );
    }
    let wrong: Vec<usize> = (0..cases.len())
        .filter(|&at| reports[at] != cases[at].seen)
        .collect();
    for &at in wrong.iter().take(4) {
        let (wanted, seen) = (cases[at].seen.lines(), reports[at].lines());
        writeln!(
            out,
            "{reader}: {} of {} cases, case {at}",
            wrong.len(),
            cases.len()
        )
        .unwrap();
        for (wanted, seen) in wanted
            .zip(seen)
            .filter(|(wanted, seen)| wanted != seen)
            .take(3)
        {
            writeln!(
                out,
                "  wanted {}\n  saw    {}",
                readable(wanted),
                readable(seen)
            )
            .unwrap();
        }
        let header = String::from_utf8_lossy(&cases[at].message);
        let header = header.split("\r\n\r\n").next().unwrap_or("");
        writeln!(out, "{header}").unwrap();
    }
    out
}

/// A report's line with its texts decoded and cut.
fn readable(line: &str) -> String {
    let cell = |cell: &str| {
        let bytes: Option<Vec<u8>> = (cell.len().is_multiple_of(2) && cell.len() > 10)
            .then_some(())
            .and_then(|()| {
                (0..cell.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&cell[at..at + 2], 16).ok())
                    .collect()
            });
        let text = bytes.map_or_else(
            || cell.to_owned(),
            |b| format!("{:?}", String::from_utf8_lossy(&b)),
        );
        let tail: Vec<char> = text.chars().rev().take(120).collect();
        let head: String = text.chars().take(160).collect();
        if head.len() == text.len() {
            head
        } else {
            head + " .. " + &tail.into_iter().rev().collect::<String>()
        }
    };
    line.split(' ').map(cell).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_reader_sees_what_was_composed() {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|v| v.parse().expect("a number"))
    };
    let seed = number("HIKYAKU_SEED").unwrap_or(clock);
    let count = number("HIKYAKU_COMPOSE_CASES").unwrap_or(10_000) as usize;
    eprintln!("HIKYAKU_SEED={seed}, {count} cases");
    let mut random = Random(seed);
    let cases: Vec<Case> = (0..count).map(|at| case(&mut random, at)).collect();
    let mut input = Vec::new();
    for case in &cases {
        input.extend_from_slice(format!("{}\n", case.message.len()).as_bytes());
        input.extend_from_slice(&case.message);
    }
    let ask = |program: &str, script: &str| {
        let report = oracle::run(program, &[script], &input)?;
        Some(
            report
                .split_terminator("E\n")
                .map(normal_report)
                .collect::<Vec<_>>(),
        )
    };
    let ruby_mail = oracle::has("ruby", &["-e", "require 'mail'"]);
    thread::scope(|scope| {
        let python = scope.spawn(|| ask("python3", "read_mail.py"));
        let ruby = scope.spawn(|| {
            if ruby_mail {
                ask("ruby", "read_mail.rb")
            } else {
                None
            }
        });
        let own: Vec<String> = cases
            .iter()
            .map(|case| parsed_by_mail_parser(&case.message))
            .collect();
        let mut wrong = differences("mail-parser", &own, &cases);
        for (reader, reports) in [("Python's email", python), ("Ruby's mail", ruby)] {
            if let Some(reports) = reports.join().expect("the reader's thread") {
                wrong += &differences(reader, &reports, &cases);
            }
        }
        assert!(wrong.is_empty(), "HIKYAKU_SEED={seed}\n{wrong}");
    });
}

#[test]
fn the_composer_encodes_what_the_reader_is_told() {
    // The generator relies on it: what a plain set carries, its bytes carry back.
    for wire in [Wire::Jis, Wire::Sjis] {
        for set in [LATIN, SIGNS, KANA, KANJI] {
            let mut out = Vec::new();
            assert_eq!(encode_body(wire, set, &mut out).count, 0, "{set}");
        }
    }
}
