//! HTML as far as mail needs it: a tolerant walk over tags, text made from HTML, and Decomail's cut.
//!
//! No tree is built: one pass, no recursion, so no nesting can exhaust anything. Whatever is no tag
//! is text, as browsers have it.

use super::profile::Decomail;

/// A piece of HTML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// Character data, entities as written.
    Text(&'a str),
    /// A start tag: name as written, and everything between name and `>`.
    Open(&'a str, &'a str),
    /// An end tag.
    Close(&'a str),
    /// A comment or declaration.
    Comment(&'a str),
}

/// Walks `html`; [`Tokens::offset`] tells where the next token begins.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    html: &'a str,
    at: usize,
    /// Inside `script` or `style`: all is text until its end tag.
    raw: Option<&'static str>,
}

/// Tokens of `html`, in order, without loss.
pub const fn tokens(html: &str) -> Tokens<'_> {
    Tokens {
        html,
        at: 0,
        raw: None,
    }
}

impl Tokens<'_> {
    /// Byte offset of the token that comes next.
    pub const fn offset(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let rest = &self.html[self.at..];
        if rest.is_empty() {
            return None;
        }
        if let Some(name) = self.raw.take() {
            let end = find_end_tag(rest, name);
            if end > 0 {
                self.at += end;
                return Some(Token::Text(&rest[..end]));
            }
        }
        let (token, bytes) = if begins_markup(rest.as_bytes()) {
            // A tag that never ends is text up to the end, so the walk stays linear.
            markup(rest).unwrap_or((Token::Text(rest), rest.len()))
        } else {
            let bytes = rest.as_bytes();
            let next = memchr::memchr_iter(b'<', bytes).find(|&at| begins_markup(&bytes[at..]));
            let end = next.unwrap_or(rest.len());
            (Token::Text(&rest[..end]), end)
        };
        self.at += bytes;
        if let Token::Open(name, _) = token {
            self.raw = ["script", "style", "title"]
                .into_iter()
                .find(|r| name.eq_ignore_ascii_case(r));
        }
        Some(token)
    }
}

fn find_end_tag(text: &str, name: &str) -> usize {
    memchr::memchr_iter(b'<', text.as_bytes())
        .find(|&at| {
            let tail = text.as_bytes().get(at + 2..at + 2 + name.len());
            text.as_bytes().get(at + 1) == Some(&b'/')
                && tail.is_some_and(|tail| tail.eq_ignore_ascii_case(name.as_bytes()))
        })
        .unwrap_or(text.len())
}

fn begins_markup(bytes: &[u8]) -> bool {
    match bytes {
        [b'<', b'!' | b'?', ..] => true,
        [b'<', b'/', c, ..] | [b'<', c, ..] => c.is_ascii_alphabetic(),
        _ => false,
    }
}

/// The tag or comment at the start of `rest`, with its bytes; `None` if it never ends.
fn markup(rest: &str) -> Option<(Token<'_>, usize)> {
    if let Some(comment) = rest.strip_prefix("<!--") {
        let end = comment.find("-->").map_or(rest.len(), |at| at + 7);
        return Some((Token::Comment(&rest[..end]), end));
    }
    let end = tag_end(rest)?;
    let inside = &rest[1..end - 1];
    if inside.starts_with(['!', '?']) {
        return Some((Token::Comment(&rest[..end]), end));
    }
    let (closing, inside) = inside
        .strip_prefix('/')
        .map_or((false, inside), |i| (true, i));
    let name_end = inside
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(inside.len());
    let (name, attributes) = inside.split_at(name_end);
    Some(if closing {
        (Token::Close(name), end)
    } else {
        (Token::Open(name, attributes), end)
    })
}

/// Offset behind the `>` that ends the tag, quoted attribute values skipped.
fn tag_end(rest: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in rest.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') if rest[..at].trim_end().ends_with('=') => quote = Some(byte),
            (Some(open), byte) if byte == open => quote = None,
            _ => {}
        }
    }
    None
}

/// The value of `name` among a start tag's `attributes`, entities as written.
pub fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    each_attribute(attributes)
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

fn each_attribute(attributes: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = attributes;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        let end = rest.find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '/'));
        let end = end.unwrap_or(rest.len());
        if rest.is_empty() {
            return None;
        }
        let (name, tail) = rest.split_at(end.max(rest.chars().next().map_or(0, char::len_utf8)));
        let Some(value) = tail.trim_start().strip_prefix('=') else {
            rest = tail;
            return Some((name, ""));
        };
        let value = value.trim_start();
        let (value, tail) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            _ => value.split_at(
                value
                    .find(|c: char| c.is_ascii_whitespace())
                    .unwrap_or(value.len()),
            ),
        };
        rest = tail;
        Some((name, value))
    })
}

/// Appends `text` with its entities resolved.
fn push_decoded(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'&', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(12).position(|b| b == b';');
        match end.and_then(|end| Some((entity(&rest[1..end])?, end))) {
            Some((c, end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code).filter(|&c| c >= ' ' || matches!(c, '\t' | '\n'));
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        "yen" => '¥',
        "hellip" => '…',
        "mdash" => '—',
        "ndash" => '–',
        "laquo" => '«',
        "raquo" => '»',
        "times" => '×',
        "middot" => '·',
        "bull" => '•',
        "larr" => '←',
        "rarr" => '→',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        _ => return None,
    })
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|n| name.eq_ignore_ascii_case(n))
}

const PARAGRAPHS: &[&str] = &[
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "table",
    "ul",
    "ol",
    "dl",
    "blockquote",
    "pre",
];
const LINES: &[&str] = &[
    "div", "tr", "li", "dt", "dd", "section", "header", "footer", "center",
];
const HIDDEN: &[&str] = &["script", "style", "title"];

/// Text being made from HTML: white space collapses, blocks stand on lines of their own.
struct Lines<'o> {
    out: &'o mut String,
    start: usize,
    /// A space is due before the next word.
    space: bool,
    /// Line ends due before the next word, 2 for a blank line.
    breaks: usize,
}

impl Lines<'_> {
    fn text(&mut self, text: &str, scratch: &mut String) {
        scratch.clear();
        push_decoded(text, scratch);
        for (at, word) in scratch.split([' ', '\t', '\n', '\r']).enumerate() {
            self.space |= at > 0;
            if !word.is_empty() {
                self.flush();
                self.out.push_str(word);
            }
        }
    }

    fn flush(&mut self) {
        if self.out.len() == self.start {
            // Nothing yet: no line or space before the first word.
        } else if self.breaks > 0 {
            self.out.push_str(&"\n\n"[..self.breaks]);
        } else if self.space && !self.out.ends_with('\n') {
            self.out.push(' ');
        }
        (self.space, self.breaks) = (false, 0);
    }

    fn line_break(&mut self, wanted: usize) {
        self.breaks = self.breaks.max(wanted);
        self.space = false;
    }

    fn br(&mut self) {
        if self.breaks > 0 || self.out.len() == self.start {
            self.breaks = (self.breaks + 1).min(2);
        } else {
            self.breaks = 1;
        }
        self.space = false;
    }
}

/// Appends the text a reader of plain mail should get for `html`: blocks as lines, links with their
/// address behind them, images as their alternative text. Ends in a line end unless empty.
pub fn to_text(html: &str, out: &mut String) {
    let start = out.len();
    let mut lines = Lines {
        start,
        out,
        space: false,
        breaks: 0,
    };
    let mut scratch = String::new();
    let mut hidden = false;
    // The link being read and where its text begins.
    let mut link: Option<(&str, usize)> = None;
    for token in tokens(html) {
        match token {
            Token::Text(text) if !hidden => lines.text(text, &mut scratch),
            Token::Open(name, attributes) => {
                hidden = is_one_of(name, HIDDEN);
                if name.eq_ignore_ascii_case("a") {
                    let href = attribute(attributes, "href").filter(|h| !h.starts_with('#'));
                    link = href.map(|href| (href, lines.out.len()));
                } else if name.eq_ignore_ascii_case("img") {
                    lines.text(attribute(attributes, "alt").unwrap_or(""), &mut scratch);
                } else if name.eq_ignore_ascii_case("li") {
                    lines.line_break(1);
                    lines.flush();
                    lines.out.push('・');
                } else if name.eq_ignore_ascii_case("hr") {
                    lines.line_break(1);
                    lines.flush();
                    lines.out.push_str("--------------------");
                    lines.line_break(1);
                } else if name.eq_ignore_ascii_case("br") {
                    lines.br();
                } else {
                    block(&mut lines, name);
                }
            }
            Token::Close(name) => {
                hidden = false;
                if !name.eq_ignore_ascii_case("a") {
                    block(&mut lines, name);
                } else if let Some((href, from)) = link.take() {
                    scratch.clear();
                    push_decoded(href.strip_prefix("mailto:").unwrap_or(href), &mut scratch);
                    if lines
                        .out
                        .get(from..)
                        .is_some_and(|text| text.trim() != scratch)
                    {
                        lines.space = true;
                        lines.flush();
                        lines.out.push('<');
                        lines.out.push_str(&scratch);
                        lines.out.push('>');
                    }
                }
            }
            Token::Text(_) | Token::Comment(_) => {}
        }
    }
    if out.len() > start {
        out.push('\n');
    }
}

fn block(lines: &mut Lines<'_>, name: &str) {
    if is_one_of(name, PARAGRAPHS) {
        lines.line_break(2);
    } else if is_one_of(name, LINES) {
        lines.line_break(1);
    } else if is_one_of(name, &["td", "th"]) {
        lines.space = true;
    }
}

/// A tag or attribute that a carrier does not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is, such as `<table>` or `<img src="http:..">`.
    pub what: String,
}

/// Why a start tag may not stand in a carrier's mail; `None` if it may, structure and comments apart.
pub fn refusal(decomail: &Decomail, name: &str, attributes: &str) -> Option<Refused> {
    if is_one_of(name, &["html", "head", "body", "meta", "title"]) {
        return None;
    }
    let Some((_, allowed)) = decomail
        .tags
        .iter()
        .find(|(tag, _)| name.eq_ignore_ascii_case(tag))
    else {
        return Some(Refused {
            what: format!("<{}>", name.to_ascii_lowercase()),
        });
    };
    each_attribute(attributes).find_map(|(key, value)| {
        let known = is_one_of(key, allowed) && attribute_fits(key, value);
        let shown: String = value.chars().take(40).collect();
        (!known).then(|| Refused {
            what: format!("<{name} {key}=\"{shown}\">"),
        })
    })
}

fn attribute_fits(key: &str, value: &str) -> bool {
    let scheme = |schemes: &[&str]| {
        schemes.iter().any(|s| {
            value
                .get(..s.len())
                .is_some_and(|v| v.eq_ignore_ascii_case(s))
        })
    };
    match key.to_ascii_lowercase().as_str() {
        "src" => scheme(&["cid:"]),
        "href" => scheme(&["http://", "https://", "mailto:", "tel:"]),
        "behavior" => is_one_of(value, &["scroll", "alternate"]),
        "size" => matches!(
            value,
            "1" | "2" | "3" | "4" | "5" | "6" | "7" | "+1" | "+2" | "-1" | "-2"
        ),
        _ => !value.contains(['<', '>']),
    }
}

/// Appends `html` as the carrier's Decomail: its own head with a meta that agrees with `charset`, its
/// tags and attributes only, no line breaks.
///
/// # Errors
/// In strict mode the first tag or attribute that would have to go.
pub fn to_decomail(
    html: &str,
    decomail: &Decomail,
    charset: &str,
    strict: bool,
    out: &mut String,
) -> Result<(), Refused> {
    out.push_str("<html><head><meta http-equiv=\"Content-Type\" content=\"text/html; charset=");
    out.push_str(charset);
    out.push_str("\"></head>");
    let body = tokens(html).find_map(|token| match token {
        Token::Open(name, attributes) if name.eq_ignore_ascii_case("body") => {
            attribute(attributes, "bgcolor")
        }
        _ => None,
    });
    match body.filter(|color| attribute_fits("bgcolor", color) && !color.contains('"')) {
        Some(color) => out.extend(["<body bgcolor=\"", color, "\">"]),
        None => out.push_str("<body>"),
    }
    let mut hidden = false;
    let mut link: Option<(&str, usize)> = None;
    for token in tokens(html) {
        match token {
            Token::Text(text) if !hidden => push_unbroken(text, out),
            Token::Open(name, attributes) => {
                hidden = is_one_of(name, HIDDEN);
                if let Some(refused) = refusal(decomail, name, attributes).filter(|_| strict) {
                    return Err(refused);
                }
                if name.eq_ignore_ascii_case("a") {
                    link = attribute(attributes, "href").map(|href| (href, out.len()));
                }
                push_allowed(decomail, name, attributes, out);
            }
            Token::Close(name) => {
                hidden = false;
                let known = decomail
                    .tags
                    .iter()
                    .any(|(tag, _)| name.eq_ignore_ascii_case(tag));
                if known && !is_one_of(name, &["br", "hr", "img"]) {
                    out.extend(["</", &name.to_ascii_lowercase(), ">"]);
                } else if is_one_of(name, PARAGRAPHS) || is_one_of(name, LINES) {
                    out.push_str("<br>");
                } else if name.eq_ignore_ascii_case("a")
                    && let Some((href, from)) = link.take()
                    && out[from..].trim() != href
                {
                    // The handset makes a link of a bare address.
                    out.extend([" ", href]);
                }
            }
            Token::Text(_) | Token::Comment(_) => {}
        }
    }
    out.push_str("</body></html>");
    Ok(())
}

fn push_allowed(decomail: &Decomail, name: &str, attributes: &str, out: &mut String) {
    let Some((tag, allowed)) = decomail
        .tags
        .iter()
        .find(|(tag, _)| name.eq_ignore_ascii_case(tag))
    else {
        return;
    };
    if *tag == "img" && attribute(attributes, "src").is_none_or(|src| !attribute_fits("src", src)) {
        return;
    }
    out.extend(["<", tag]);
    for (key, value) in each_attribute(attributes) {
        if is_one_of(key, allowed) && attribute_fits(key, value) && !value.contains('"') {
            out.extend([" ", &key.to_ascii_lowercase(), "=\"", value, "\""]);
        }
    }
    out.push('>');
}

/// Text without line breaks: none between Japanese, a space between Latin words.
fn push_unbroken(text: &str, out: &mut String) {
    let mut lines = text.split(['\r', '\n']);
    out.push_str(lines.next().unwrap_or(""));
    for line in lines {
        let line = line.trim_start_matches([' ', '\t']);
        let glued = out.ends_with([' ', '>']) || line.is_empty() || line.starts_with('<');
        if !glued && out.ends_with(|c: char| c.is_ascii()) && line.is_char_boundary(1) {
            out.push(' ');
        }
        out.push_str(line);
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::Profile;
    use super::*;

    fn text(html: &str) -> String {
        let mut out = String::new();
        to_text(html, &mut out);
        out
    }

    #[test]
    fn html_becomes_readable_text() {
        let html = "<html><head><title>T</title><style>p{}</style></head><body>\n<h1>秋の &amp; 新作</h1>\
                    <p>ご案内\n  です。<br>次の行</p><ul><li>一</li><li>二</li></ul>\
                    <a href=\"https://e.jp/?a=1&amp;b=2\">見る</a> <a href='mailto:a@e.jp'>a@e.jp</a>\
                    <img src=x alt=\"絵\"><hr>1 &lt; 2 & 3<table><tr><td>a</td><td>b</td></tr></table>";
        assert_eq!(
            text(html),
            "秋の & 新作\n\nご案内 です。\n次の行\n\n・一\n・二\n\n見る <https://e.jp/?a=1&b=2> a@e.jp絵\n\
             --------------------\n1 < 2 & 3\n\na b\n"
        );
        assert_eq!(text(""), "");
        assert_eq!(text("a < b"), "a < b\n");
    }

    #[test]
    fn tokens_lose_nothing_and_survive_nonsense() {
        for html in [
            "<",
            "<a",
            "<a href=\"x",
            "</",
            "<!",
            "<!--",
            "a<b>c",
            "<script><p></script><b>",
            "<1>",
        ] {
            let mut walk = tokens(html);
            let mut seen = 0;
            while walk.next().is_some() {
                assert!(walk.offset() > seen);
                seen = walk.offset();
            }
            assert_eq!(seen, html.len(), "{html}");
        }
    }

    #[test]
    fn decomail_keeps_the_carriers_tags_only() {
        let docomo = Profile::ALL[3].decomail.unwrap();
        let au = Profile::ALL[4].decomail.unwrap();
        let html = "<html><head><meta charset=utf-8></head><body bgcolor=\"#fff\">\n<p class=x>こん\nにちは</p>\
                    <font color=red style=\"x\">赤</font><img src=\"http://e.jp/a.gif\"><img src=\"cid:a\">\
                    <a href=\"https://e.jp/\">店</a><script>alert(1)</script></body></html>";
        let mut out = String::new();
        to_decomail(html, docomo, "shift_jis", false, &mut out).unwrap();
        let head = "<html><head><meta http-equiv=\"Content-Type\" content=\"text/html; charset=shift_jis\">\
                    </head><body bgcolor=\"#fff\">";
        assert_eq!(
            out,
            format!(
                "{head}こんにちは<br><font color=\"red\">赤</font><img src=\"cid:a\">\
                 <a href=\"https://e.jp/\">店</a></body></html>"
            )
        );
        out.clear();
        to_decomail(html, au, "iso-2022-jp", false, &mut out).unwrap();
        assert!(out.contains("店 https://e.jp/"), "{out}");
        let refused = to_decomail(html, docomo, "shift_jis", true, &mut out).unwrap_err();
        assert_eq!(refused.what, "<p>");
    }
}
