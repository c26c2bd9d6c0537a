//! One line of the delivery log as a value, and its packed form.
//!
//! Packing happens once per delivery on a shard's hot path: no allocation beyond the buffer's
//! growth, no formatting, one pass. Numbers are LEB128 varints, texts are a varint length and their
//! bytes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::clock::UnixMs;
use crate::ids::{QueueId, ShardId};
use crate::phase::Phase;
use crate::queue::record::OutcomeKind;
use crate::status::{EnhancedStatus, ReplyCode};

/// Version of the packed form; the first byte of every record.
const VERSION: u8 = 1;

/// Longest text of one column, bytes; a longer one is cut and ends in `…`.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Longest packed record, bytes: every text at its longest and the numbers.
pub const RECORD_BYTES_MAX: usize = 13 * (TEXT_BYTES_MAX + 2) + 160;

/// One line: one recipient at one attempt. Texts are bytes, since some come from the network; an
/// empty one is an empty column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// When the outcome was known.
    pub time: UnixMs,
    /// The message.
    pub queue_id: QueueId,
    /// Its Message-ID header, with angle brackets.
    pub message_id: &'a [u8],
    /// Its group.
    pub group: &'a [u8],
    /// Values of the tag headers as `name=value;`.
    pub tags: &'a [u8],
    /// Envelope sender; empty for the null reverse-path.
    pub reverse_path: &'a [u8],
    /// Envelope recipient.
    pub forward_path: &'a [u8],
    /// Domain it was queued under.
    pub domain: &'a [u8],
    /// Receiving site: the name that stands for an MX set.
    pub site: &'a [u8],
    /// 1 for the first attempt.
    pub attempt: u32,
    /// What became of the recipient.
    pub outcome: OutcomeKind,
    /// Why, in the words of the bounce vocabulary; empty if delivered.
    pub class: &'a [u8],
    /// Where in the dialog it was decided.
    pub phase: Option<Phase>,
    /// Reply code.
    pub code: Option<ReplyCode>,
    /// Enhanced status code.
    pub enhanced: Option<EnhancedStatus>,
    /// The reply as it came, lines joined, or our own words.
    pub reply: &'a [u8],
    /// The DNS answer used: MX list, addresses, rcode, from cache or not.
    pub dns: &'a [u8],
    /// Our address.
    pub source_ip: Option<IpAddr>,
    /// Their address.
    pub dest_ip: Option<IpAddr>,
    /// The MX host or next hop.
    pub dest_host: &'a [u8],
    /// The greeting they sent.
    pub greeting: &'a [u8],
    /// TLS version and cipher; empty without TLS.
    pub tls: &'a [u8],
    /// From acceptance to the start of this attempt, ms.
    pub delay_queue_ms: u64,
    /// DNS and connection, ms; `None` if a session was there already or none was needed.
    pub delay_connect_ms: Option<u64>,
    /// From MAIL to the deciding reply, ms.
    pub delay_send_ms: Option<u64>,
    /// Content, bytes.
    pub size: u64,
    /// The shard that delivers.
    pub shard: ShardId,
}

impl LogRecord<'_> {
    /// A record with every other column empty, to be filled by `LogRecord { …, ..LogRecord::new(…)
    /// }`.
    pub const fn new(
        time: UnixMs,
        queue_id: QueueId,
        outcome: OutcomeKind,
        shard: ShardId,
    ) -> Self {
        Self {
            time,
            queue_id,
            message_id: b"",
            group: b"",
            tags: b"",
            reverse_path: b"",
            forward_path: b"",
            domain: b"",
            site: b"",
            attempt: 1,
            outcome,
            class: b"",
            phase: None,
            code: None,
            enhanced: None,
            reply: b"",
            dns: b"",
            source_ip: None,
            dest_ip: None,
            dest_host: b"",
            greeting: b"",
            tls: b"",
            delay_queue_ms: 0,
            delay_connect_ms: None,
            delay_send_ms: None,
            size: 0,
            shard,
        }
    }
}

// Presence bits, in the order in which optional values are packed.
const HAS_PHASE: u8 = 1;
const HAS_CODE: u8 = 1 << 1;
const HAS_ENHANCED: u8 = 1 << 2;
const HAS_SOURCE: u8 = 1 << 3;
const HAS_DEST: u8 = 1 << 4;
const HAS_CONNECT: u8 = 1 << 5;
const HAS_SEND: u8 = 1 << 6;

/// Appends the packed form of `record` to `out`: at most [`RECORD_BYTES_MAX`] bytes.
pub fn encode(record: &LogRecord<'_>, out: &mut Vec<u8>) {
    let r = record;
    let texts = r.texts();
    // One growth at most; the sum is exact but for the cut of overlong texts.
    out.reserve(
        160 + texts
            .iter()
            .map(|text| text.len().min(TEXT_BYTES_MAX) + 2)
            .sum::<usize>(),
    );
    let presence = (u8::from(r.phase.is_some()) * HAS_PHASE)
        | (u8::from(r.code.is_some()) * HAS_CODE)
        | (u8::from(r.enhanced.is_some()) * HAS_ENHANCED)
        | (u8::from(r.source_ip.is_some()) * HAS_SOURCE)
        | (u8::from(r.dest_ip.is_some()) * HAS_DEST)
        | (u8::from(r.delay_connect_ms.is_some()) * HAS_CONNECT)
        | (u8::from(r.delay_send_ms.is_some()) * HAS_SEND);
    out.extend_from_slice(&[VERSION, r.outcome as u8, presence]);
    out.extend_from_slice(&r.time.0.to_le_bytes());
    out.extend_from_slice(&r.queue_id.0.to_le_bytes());
    out.extend_from_slice(&r.shard.0.to_le_bytes());
    put_varint(out, u64::from(r.attempt));
    put_varint(out, r.size);
    put_varint(out, r.delay_queue_ms);
    if let Some(phase) = r.phase {
        out.push(phase as u8);
    }
    if let Some(code) = r.code {
        out.extend_from_slice(&code.get().to_le_bytes());
    }
    if let Some(enhanced) = r.enhanced {
        out.push(enhanced.class);
        out.extend_from_slice(&enhanced.subject.to_le_bytes());
        out.extend_from_slice(&enhanced.detail.to_le_bytes());
    }
    for ip in [r.source_ip, r.dest_ip].into_iter().flatten() {
        put_ip(out, ip);
    }
    for delay in [r.delay_connect_ms, r.delay_send_ms].into_iter().flatten() {
        put_varint(out, delay);
    }
    for text in texts {
        put_text(out, text);
    }
}

impl<'a> LogRecord<'a> {
    /// The text columns, in their packed order.
    const fn texts(&self) -> [&'a [u8]; 13] {
        [
            self.message_id,
            self.group,
            self.tags,
            self.reverse_path,
            self.forward_path,
            self.domain,
            self.site,
            self.class,
            self.reply,
            self.dns,
            self.dest_host,
            self.greeting,
            self.tls,
        ]
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    const CUT: &[u8] = "…".as_bytes();
    if text.len() <= TEXT_BYTES_MAX {
        put_varint(out, text.len() as u64);
        out.extend_from_slice(text);
        return;
    }
    let mut keep = TEXT_BYTES_MAX - CUT.len();
    // Not within a UTF-8 sequence: its later bytes are 10xxxxxx.
    while keep > 0 && text[keep] & 0xc0 == 0x80 {
        keep -= 1;
    }
    put_varint(out, (keep + CUT.len()) as u64);
    out.extend_from_slice(&text[..keep]);
    out.extend_from_slice(CUT);
}

fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.octets());
        }
    }
}

/// A packed record that cannot be read: damage the MAC did not see, or a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogDecodeError {
    /// It ends too early.
    Short,
    /// It goes on behind its end.
    Long,
    /// Its version is not ours.
    Version(u8),
    /// A value that the named field cannot have.
    Value(&'static str),
}

impl fmt::Display for LogDecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("log record ends too early"),
            Self::Long => f.write_str("log record has bytes behind its end"),
            Self::Version(version) => {
                write!(
                    f,
                    "log record of version {version}, this program reads {VERSION}"
                )
            }
            Self::Value(field) => write!(f, "log record with an impossible {field}"),
        }
    }
}

impl std::error::Error for LogDecodeError {}

/// Reads one packed record that is exactly `bytes`.
///
/// # Errors
/// [`LogDecodeError`] if it is not one.
pub fn decode(bytes: &[u8]) -> Result<LogRecord<'_>, LogDecodeError> {
    use LogDecodeError::{Long, Value, Version};
    let mut c = Cursor(bytes);
    let [version, outcome, presence] = c.array()?;
    if version != VERSION {
        return Err(Version(version));
    }
    let has = |bit: u8| presence & bit != 0;
    let outcome = OutcomeKind::from_number(outcome).ok_or(Value("outcome"))?;
    let time = UnixMs(u64::from_le_bytes(c.array()?));
    let queue_id = QueueId(u64::from_le_bytes(c.array()?));
    let shard = ShardId(u16::from_le_bytes(c.array()?));
    let mut record = LogRecord::new(time, queue_id, outcome, shard);
    record.attempt = c.varint()?.try_into().map_err(|_| Value("attempt"))?;
    record.size = c.varint()?;
    record.delay_queue_ms = c.varint()?;
    if has(HAS_PHASE) {
        let [phase] = c.array()?;
        record.phase = Some(*Phase::ALL.get(usize::from(phase)).ok_or(Value("phase"))?);
    }
    if has(HAS_CODE) {
        let code = ReplyCode::new(u16::from_le_bytes(c.array()?));
        record.code = Some(code.ok_or(Value("code"))?);
    }
    if has(HAS_ENHANCED) {
        let [class] = c.array()?;
        let subject = u16::from_le_bytes(c.array()?);
        let detail = u16::from_le_bytes(c.array()?);
        record.enhanced = Some(EnhancedStatus::new(class, subject, detail));
    }
    if has(HAS_SOURCE) {
        record.source_ip = Some(c.ip()?);
    }
    if has(HAS_DEST) {
        record.dest_ip = Some(c.ip()?);
    }
    if has(HAS_CONNECT) {
        record.delay_connect_ms = Some(c.varint()?);
    }
    if has(HAS_SEND) {
        record.delay_send_ms = Some(c.varint()?);
    }
    for column in [
        &mut record.message_id,
        &mut record.group,
        &mut record.tags,
        &mut record.reverse_path,
        &mut record.forward_path,
        &mut record.domain,
        &mut record.site,
        &mut record.class,
        &mut record.reply,
        &mut record.dns,
        &mut record.dest_host,
        &mut record.greeting,
        &mut record.tls,
    ] {
        *column = c.text()?;
    }
    if c.0.is_empty() {
        Ok(record)
    } else {
        Err(Long)
    }
}

/// What is left to read.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], LogDecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(LogDecodeError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn varint(&mut self) -> Result<u64, LogDecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(LogDecodeError::Value("number"))
    }

    pub(super) fn slice(&mut self, bytes: usize) -> Result<&'a [u8], LogDecodeError> {
        let (head, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or(LogDecodeError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn text(&mut self) -> Result<&'a [u8], LogDecodeError> {
        match usize::try_from(self.varint()?) {
            Ok(bytes) if bytes <= TEXT_BYTES_MAX => self.slice(bytes),
            _ => Err(LogDecodeError::Value("text length")),
        }
    }

    fn ip(&mut self) -> Result<IpAddr, LogDecodeError> {
        match self.array()? {
            [4] => Ok(Ipv4Addr::from(self.array::<4>()?).into()),
            [6] => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => Err(LogDecodeError::Value("address")),
        }
    }
}
