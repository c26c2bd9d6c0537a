//! Which records of the log are wanted.

use crate::address::Domain;
use crate::clock::UnixMs;
use crate::ids::QueueId;
use crate::net::site_name;
use crate::queue::record::OutcomeKind;
use crate::units::parse_duration_ms;

use super::batch::LogBatchHeader;
use super::record::LogRecord;
use super::utc;

/// Conditions that must all hold; an absent one always does. Texts are compared whole, without
/// case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Not before.
    pub since: Option<UnixMs>,
    /// Before, not at.
    pub until: Option<UnixMs>,
    /// The message.
    pub queue_id: Option<QueueId>,
    /// Its group.
    pub group: Option<String>,
    /// The recipient's domain.
    pub domain: Option<String>,
    /// The receiving site.
    pub site: Option<String>,
    /// Either path of the envelope.
    pub address: Option<String>,
    /// What became of it.
    pub outcome: Option<OutcomeKind>,
    /// Why.
    pub class: Option<String>,
}

impl LogFilter {
    /// The parameters [`set`](Self::set) knows.
    pub const PARAMETERS: [&str; 9] = [
        "since", "until", "queue_id", "group", "domain", "site", "address", "outcome", "class",
    ];

    /// Sets one condition from a parameter of the API or CLI; `false` if it has no such parameter.
    /// `now` is for times given as an age, such as `2h`.
    ///
    /// # Errors
    /// A sentence that says what the value must be.
    pub fn set(&mut self, parameter: &str, value: &str, now: UnixMs) -> Result<bool, String> {
        match parameter {
            "since" => self.since = Some(time(value, now)?),
            "until" => self.until = Some(time(value, now)?),
            "queue_id" => {
                let parsed = value.parse().map_err(|why| format!("`{value}` is {why}"))?;
                self.queue_id = Some(parsed);
            }
            "group" => self.group = Some(value.to_owned()),
            "domain" => self.domain = Some(Domain::as_queued(value)),
            // What `queue` prints of a site is taken as well as what the log says.
            "site" => self.site = Some(site_name(value).to_owned()),
            "address" => {
                let bare = value.strip_prefix('<').and_then(|v| v.strip_suffix('>'));
                self.address = Some(bare.unwrap_or(value).to_owned());
            }
            "outcome" => {
                let words = OutcomeKind::ALL.map(OutcomeKind::as_str).join(", ");
                let outcome = OutcomeKind::ALL
                    .into_iter()
                    .find(|outcome| outcome.as_str() == value)
                    .ok_or_else(|| format!("`{value}` is no outcome; it may be {words}"))?;
                self.outcome = Some(outcome);
            }
            "class" => self.class = Some(value.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether a batch may hold a record that is wanted.
    pub fn may_match(&self, batch: &LogBatchHeader) -> bool {
        self.since.is_none_or(|since| batch.last >= since)
            && self.until.is_none_or(|until| batch.first < until)
    }

    /// Whether the record is wanted.
    pub fn matches(&self, record: &LogRecord<'_>) -> bool {
        let is = |wanted: &Option<String>, found: &[u8]| {
            wanted
                .as_ref()
                .is_none_or(|text| text.as_bytes().eq_ignore_ascii_case(found))
        };
        self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && self.queue_id.is_none_or(|id| record.queue_id == id)
            && self.outcome.is_none_or(|outcome| record.outcome == outcome)
            && is(&self.group, record.group)
            && is(&self.domain, record.domain)
            && is(&self.site, record.site)
            && is(&self.class, record.class)
            && (is(&self.address, record.forward_path) || is(&self.address, record.reverse_path))
    }
}

fn time(value: &str, now: UnixMs) -> Result<UnixMs, String> {
    if let Some(age_ms) = parse_duration_ms(value) {
        return Ok(UnixMs(now.0.saturating_sub(age_ms)));
    }
    utc::parse(value).ok_or_else(|| {
        format!(
            "`{value}` is no time; write an age such as `2h` or a time such as \
             `2026-11-24T06:57:00Z`"
        )
    })
}
