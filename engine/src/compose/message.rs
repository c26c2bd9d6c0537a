//! One message out of a template, data and a recipient: a pure function, the same bytes each time.

use std::io::Write as _;
use std::sync::Arc;

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};
use minijinja::value::Value;

use super::blob::Step;
use super::charset::{self, Lost, Wire};
use super::data::{Data, Merge};
use super::fault::ComposeError;
use super::hash::fnv1a;
use super::html;
use super::limits::{HEADER_BYTES_MAX, LINE_BYTES_MAX, PART_BYTES_MAX};
use super::mailbox::{LocalStyle, Mailbox};
use super::manifest::Unencodable;
use super::profile::{Carrier, Profile, Tree, UTF8};
use super::template::{Choice, Html, Line, Party, Source, Template};
use super::transfer::Transfer;
use super::words;
use crate::clock::UnixMs;

/// What a message is made for.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Values of the recipient.
    pub data: &'a Arc<Data>,
    /// Whom it goes to.
    pub recipient: &'a Mailbox,
    /// For Date and `now`.
    pub now: UnixMs,
    /// Letters and digits that no other message of this installation has, such as a queue id; same
    /// id, same Message-ID.
    pub id: &'a str,
    /// How it is written.
    pub choice: Choice,
}

/// What came of it beside the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// Without angle brackets.
    pub message_id: String,
    /// The template's return path, else its From address.
    pub return_path: Mailbox,
    /// How the recipient's local part is written in RCPT, as in To.
    pub local_style: LocalStyle,
    /// Whose variants were used.
    pub carrier: Option<Carrier>,
    /// Character set and emoji of the message.
    pub wire: Wire,
    /// Characters replaced because that set lacks them.
    pub lost: Lost,
}

/// Buffers kept from one message to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Rendered header values, one after the other.
    values: String,
    text: String,
    html: String,
    decomail: String,
    body: Vec<u8>,
}

/// A rendered header value's place in `Scratch::values`.
#[derive(Clone, Copy, Default)]
struct Slot {
    from: usize,
    to: usize,
}

impl Slot {
    fn of(self, values: &str) -> &str {
        &values[self.from..self.to]
    }
}

const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn base32(mut value: u64, out: &mut Vec<u8>) {
    for _ in 0..13 {
        out.push(BASE32[(value & 31) as usize]);
        value >>= 5;
    }
}

/// A message being made.
struct Making<'a> {
    template: &'a Template,
    job: &'a Job<'a>,
    root: Value,
    carrier: Option<Carrier>,
    style: LocalStyle,
    subject: &'a Line,
    html: Option<&'a Html>,
    from: (Slot, Mailbox),
    to_name: Slot,
    parties: Vec<(Slot, Mailbox)>,
    subject_value: Slot,
    lines: Vec<Slot>,
    message_id: String,
    seed: u64,
}

impl Template {
    /// Appends the message for `job` to `out`, CRLF line ends throughout.
    ///
    /// Pure: the same template version, data, recipient, time and id give the same bytes. On an error
    /// `out` is as it was.
    ///
    /// # Errors
    /// See [`ComposeError`]; each concerns this one message, never the template as a whole.
    pub fn compose(
        &self,
        job: &Job<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Composed, ComposeError> {
        let start = out.len();
        let composed = self.compose_onto(job, scratch, out);
        if composed.is_err() {
            out.truncate(start);
        }
        composed
    }

    fn compose_onto(
        &self,
        job: &Job<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Composed, ComposeError> {
        let (carrier, mut profile) = self.profile(job.choice, job.recipient.domain());
        let making = self.render_headers(job, carrier, scratch)?;
        making.render_parts(profile, scratch)?;
        let start = out.len();
        let mut lost = making.write(profile, scratch, out)?;
        if let Some(character) = lost.first {
            match self.unencodable(carrier, profile) {
                Unencodable::Substitute => {}
                Unencodable::Refuse => {
                    let charset = profile.wire.charset_name();
                    return Err(ComposeError::Unencodable { character, charset });
                }
                Unencodable::Utf8 => {
                    out.truncate(start);
                    profile = &UTF8;
                    lost = making.write(profile, scratch, out)?;
                }
            }
        }
        let return_path = match &self.return_path {
            Some(party) => making.mailbox(party, scratch)?,
            None => making.from.1.clone(),
        };
        Ok(Composed {
            message_id: making.message_id,
            return_path,
            local_style: making.style,
            carrier,
            wire: profile.wire,
            lost,
        })
    }

    fn root(&self, job: &Job<'_>, carrier: Option<Carrier>) -> Value {
        let built_in = if self.uses_built_in {
            vec![
                Value::from(job.recipient.to_string()),
                Value::from(job.recipient.local_part()),
                Value::from(job.recipient.domain()),
                Value::from(carrier.map_or("", Carrier::name)),
                Value::from(iso_date(&local_time(job.now, self.offset))),
            ]
        } else {
            Vec::new()
        };
        let defaults = Arc::clone(&self.defaults);
        Value::from_object(Merge {
            data: Arc::clone(job.data),
            defaults,
            built_in,
        })
    }

    fn render_headers<'a>(
        &'a self,
        job: &'a Job<'a>,
        carrier: Option<Carrier>,
        scratch: &mut Scratch,
    ) -> Result<Making<'a>, ComposeError> {
        scratch.values.clear();
        let root = self.root(job, carrier);
        let setting = self.setting(carrier);
        let subject = setting
            .and_then(|s| s.subject.as_ref())
            .unwrap_or(&self.subject);
        let from = self.party(&self.from, &root, scratch)?;
        let mut parties = Vec::with_capacity(self.parties.len());
        for party in &self.parties {
            parties.push(self.party(party, &root, scratch)?);
        }
        let to_name = self.value("To", &self.to_name, &root, scratch)?;
        let subject_value = match subject.fixed.is_empty() {
            true => self.value("Subject", &subject.source, &root, scratch)?,
            false => Slot::default(),
        };
        let mut lines = Vec::with_capacity(self.lines.len());
        for line in &self.lines {
            lines.push(match line.fixed.is_empty() {
                true => self.value(&line.name, &line.source, &root, scratch)?,
                false => Slot::default(),
            });
        }
        let recipient = [job.recipient.local_part(), job.recipient.domain()].map(str::as_bytes);
        let seed = fnv1a(&[
            job.id.as_bytes(),
            recipient[0],
            recipient[1],
            &self.version.to_le_bytes(),
        ]);
        let domain = self
            .message_id_domain
            .as_deref()
            .unwrap_or_else(|| from.1.domain());
        let safe = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let mut message_id: String = job.id.chars().filter(safe).take(64).collect();
        message_id.push('.');
        let mut hash = Vec::with_capacity(13);
        base32(seed, &mut hash);
        message_id.extend(hash.into_iter().map(char::from));
        message_id.push('@');
        message_id.push_str(domain);
        Ok(Making {
            template: self,
            job,
            root,
            carrier,
            style: setting.map_or(LocalStyle::Quoted, |s| s.local_style),
            subject,
            html: self.html.of(carrier),
            from,
            to_name,
            parties,
            subject_value,
            lines,
            message_id,
            seed,
        })
    }

    /// Renders a header's value and refuses what would end the field.
    fn value(
        &self,
        header: &str,
        source: &Source,
        root: &Value,
        scratch: &mut Scratch,
    ) -> Result<Slot, ComposeError> {
        let from = scratch.values.len();
        self.render(source, root, header, HEADER_BYTES_MAX, &mut scratch.values)?;
        let slot = Slot {
            from,
            to: scratch.values.len(),
        };
        if slot.of(&scratch.values).chars().any(is_control) {
            return Err(ComposeError::HeaderInjection {
                header: header.to_owned(),
            });
        }
        Ok(slot)
    }

    fn party(
        &self,
        party: &Party,
        root: &Value,
        scratch: &mut Scratch,
    ) -> Result<(Slot, Mailbox), ComposeError> {
        let display = self.value(party.header, &party.display, root, scratch)?;
        if let Some(mailbox) = &party.mailbox {
            return Ok((display, mailbox.clone()));
        }
        let address = self.value(party.header, &party.address, root, scratch)?;
        let text = address.of(&scratch.values);
        let mailbox = Mailbox::parse(text).map_err(|error| ComposeError::BadAddress {
            header: party.header.to_owned(),
            text: text.to_owned(),
            error,
        })?;
        Ok((display, mailbox))
    }
}

/// Ends or corrupts a header field: C0 and C1 controls, and Unicode's own line separators, which some
/// receivers take for line ends.
pub(super) const fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\x08' | '\x0A'..='\x1F' | '\x7F'..='\u{9F}' | '\u{2028}' | '\u{2029}')
}

impl Making<'_> {
    fn mailbox(&self, party: &Party, scratch: &mut Scratch) -> Result<Mailbox, ComposeError> {
        Ok(self.template.party(party, &self.root, scratch)?.1)
    }

    /// Renders text and HTML and makes from them what is missing.
    fn render_parts(&self, profile: &Profile, scratch: &mut Scratch) -> Result<(), ComposeError> {
        let template = self.template;
        let Scratch { text, html, .. } = scratch;
        text.clear();
        html.clear();
        if let Some(part) = self.html {
            template.render(&part.source, &self.root, "html", PART_BYTES_MAX, html)?;
        }
        match template.text.of(self.carrier) {
            Some(source) => template.render(source, &self.root, "text", PART_BYTES_MAX, text)?,
            None => html::to_text(html, text),
        }
        let Some(decomail) = profile.decomail.filter(|_| self.html.is_some()) else {
            return Ok(());
        };
        scratch.decomail.clear();
        let strict = template
            .setting(self.carrier)
            .is_some_and(|s| s.strict_tags);
        let charset = profile.wire.charset_name();
        html::to_decomail(html, decomail, charset, strict, &mut scratch.decomail).map_err(|r| {
            ComposeError::Refused {
                carrier: decomail.carrier,
                what: r.what,
            }
        })
    }

    fn write(
        &self,
        profile: &'static Profile,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Lost, ComposeError> {
        let template = self.template;
        let mut lost = self.write_headers(profile, &scratch.values, out)?;
        let steps = match self.html {
            Some(html) => &html.steps[profile.index],
            None => &template.text_steps[profile.index],
        };
        let images = self.html.map_or(&[][..], |html| &html.images);
        let blobs = images
            .iter()
            .map(|&at| &template.images[at])
            .chain(&template.attachments);
        out.reserve(blobs.map(|blob| blob.encoded_bytes(profile)).sum());
        let boundary = self.boundary(scratch);
        let mut sizes = (0, 0);
        let mut depth = 0_u8;
        for step in steps {
            let separate = |out: &mut Vec<u8>| {
                if depth > 0 {
                    write_boundary(&boundary, depth, b"\r\n", out);
                }
            };
            match step {
                Step::Open(kind) => {
                    separate(out);
                    depth += 1;
                    out.extend_from_slice(b"Content-Type: multipart/");
                    out.extend_from_slice(kind.as_bytes());
                    out.extend_from_slice(b";\r\n boundary=\"");
                    out.extend_from_slice(&boundary);
                    out.extend_from_slice(&[b'0' + depth, b'"', b'\r', b'\n', b'\r', b'\n']);
                }
                Step::Text => {
                    separate(out);
                    let (text, body) = (&scratch.text, &mut scratch.body);
                    let (bytes, part) = write_text(text, "plain", profile.wire, None, body, out);
                    (sizes.0, _) = (bytes, lost.add(part));
                }
                Step::Html => {
                    separate(out);
                    let html = if profile.decomail.is_some() {
                        &scratch.decomail
                    } else {
                        &scratch.html
                    };
                    let transfer = profile.html_transfer;
                    let body = &mut scratch.body;
                    let (bytes, part) = write_text(html, "html", profile.wire, transfer, body, out);
                    (sizes.1, _) = (bytes, lost.add(part));
                }
                Step::Images => {
                    for &image in images {
                        separate(out);
                        template.images[image].write(profile, out);
                    }
                }
                Step::Attachments => {
                    for attachment in &template.attachments {
                        separate(out);
                        attachment.write(profile, out);
                    }
                }
                Step::Close => {
                    write_boundary(&boundary, depth, b"--\r\n", out);
                    depth -= 1;
                }
            }
        }
        if self.html.is_some() && profile.tree != Tree::PlainOnly {
            self.check_limits(profile, images, sizes)?;
        }
        Ok(lost)
    }

    /// 21 letters and digits that no part holds as text; with the level's digit behind them no longer
    /// than a SoftBank phone's own boundary.
    fn boundary(&self, scratch: &Scratch) -> [u8; 21] {
        let mut round = 0_u64;
        loop {
            let mut letters = Vec::with_capacity(26);
            let low = fnv1a(&[&self.seed.to_le_bytes(), &round.to_le_bytes()]);
            base32(self.seed ^ round, &mut letters);
            base32(low, &mut letters);
            let mut boundary = [0; 21];
            boundary.copy_from_slice(&letters[..21]);
            let held = |text: &str| memchr::memmem::find(text.as_bytes(), &boundary).is_some();
            if !held(&scratch.text) && !held(&scratch.html) {
                return boundary;
            }
            round += 1;
        }
    }

    fn write_headers(
        &self,
        profile: &Profile,
        values: &str,
        out: &mut Vec<u8>,
    ) -> Result<Lost, ComposeError> {
        let template = self.template;
        let wire = profile.wire;
        write_date(&local_time(self.job.now, template.offset), out);
        let (display, mailbox) = &self.from;
        let display = display.of(values);
        let mut lost = words::address("From", display, mailbox, LocalStyle::Quoted, wire, out);
        for (party, (display, mailbox)) in template.parties.iter().zip(&self.parties) {
            let display = display.of(values);
            let style = LocalStyle::Quoted;
            lost.add(words::address(
                party.header,
                display,
                mailbox,
                style,
                wire,
                out,
            ));
        }
        let (name, recipient) = (self.to_name.of(values), self.job.recipient);
        lost.add(words::address("To", name, recipient, self.style, wire, out));
        lost.add(write_line(
            self.subject,
            self.subject_value.of(values),
            profile,
            out,
        )?);
        out.extend_from_slice(b"Message-ID: <");
        out.extend_from_slice(self.message_id.as_bytes());
        out.extend_from_slice(b">\r\n");
        for (line, value) in template.lines.iter().zip(&self.lines) {
            lost.add(write_line(line, value.of(values), profile, out)?);
        }
        out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        Ok(lost)
    }

    fn check_limits(
        &self,
        profile: &Profile,
        images: &[usize],
        (text, html): (usize, usize),
    ) -> Result<(), ComposeError> {
        let Some(decomail) = profile.decomail else {
            return Ok(());
        };
        let template = self.template;
        let shown = |kind: &str| matches!(kind, "image/gif" | "image/jpeg");
        if let Some(image) = images
            .iter()
            .map(|&at| &template.images[at])
            .find(|i| !shown(&i.media_type))
        {
            let what = format!("{} ({}): GIF and JPEG only", image.file, image.media_type);
            return Err(ComposeError::Refused {
                carrier: decomail.carrier,
                what,
            });
        }
        let image_bytes: usize = images.iter().map(|&at| template.images[at].bytes).sum();
        let attachment_bytes: usize = template.attachments.iter().map(|a| a.bytes).sum();
        let limits = &decomail.limits;
        let all = text + html + image_bytes + attachment_bytes;
        for (what, figure, limit) in [
            (
                "bytes of text and html",
                text + html,
                limits.text_html_bytes_max,
            ),
            ("bytes of html", html, limits.html_bytes_max),
            ("inline images", images.len(), limits.images_max),
            (
                "bytes of inline images",
                image_bytes,
                limits.images_bytes_max,
            ),
            (
                "bytes of attachments",
                attachment_bytes,
                limits.attachments_bytes_max,
            ),
            ("bytes in all", all, limits.total_bytes_max),
        ] {
            if let Some(limit) = limit.filter(|&limit| figure > limit) {
                let carrier = decomail.carrier;
                return Err(ComposeError::OverCarrierLimit {
                    carrier,
                    what,
                    figure,
                    limit,
                });
            }
        }
        Ok(())
    }
}

fn write_boundary(boundary: &[u8; 21], depth: u8, end: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"--");
    out.extend_from_slice(boundary);
    out.push(b'0' + depth);
    out.extend_from_slice(end);
}

/// Writes a header field, from the template's store if it never changes.
pub(super) fn write_line(
    line: &Line,
    value: &str,
    profile: &Profile,
    out: &mut Vec<u8>,
) -> Result<Lost, ComposeError> {
    if let Some(fixed) = line.fixed.get(profile.index) {
        out.extend_from_slice(fixed);
        return Ok(Lost::default());
    }
    if !line.structured {
        return Ok(words::unstructured(&line.name, value, profile.wire, out));
    }
    let bad = |why| {
        Err(ComposeError::BadHeader {
            header: line.name.clone(),
            why,
        })
    };
    if !value.bytes().all(|b| (0x20..0x7F).contains(&b)) {
        return bad("the value must be ASCII; percent-encode what is not");
    }
    if value.split(' ').any(|word| word.len() > LINE_BYTES_MAX - 2) {
        return bad("a word of over 996 bytes cannot be folded");
    }
    words::structured(&line.name, value, out);
    Ok(Lost::default())
}

/// Writes a text part; returns its size before the transfer encoding.
fn write_text(
    text: &str,
    subtype: &str,
    wire: Wire,
    transfer: Option<Transfer>,
    body: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> (usize, Lost) {
    body.clear();
    let lost = charset::encode_body(wire, text, body);
    let transfer = transfer.unwrap_or_else(|| Transfer::choose(body));
    out.extend_from_slice(b"Content-Type: text/");
    out.extend_from_slice(subtype.as_bytes());
    out.extend_from_slice(b"; charset=");
    out.extend_from_slice(wire.charset_name().as_bytes());
    out.extend_from_slice(b"\r\nContent-Transfer-Encoding: ");
    out.extend_from_slice(transfer.name().as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    transfer.encode(body, out);
    (body.len(), lost)
}

/// The sender's time; the moments of a [`UnixMs`] that have no date are shown as the first one.
fn local_time(now: UnixMs, offset: Offset) -> Zoned {
    let ms = i64::try_from(now.0).unwrap_or(0);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(TimeZone::fixed(offset))
}

fn iso_date(time: &Zoned) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// `Date:` as RFC 5322 §3.3 has it.
fn write_date(time: &Zoned, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = write!(
        out,
        "Date: {}\r\n",
        time.strftime("%a, %d %b %Y %H:%M:%S %z")
    );
}
