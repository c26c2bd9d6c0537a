//! Which mail a command is about.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::clock::UnixMs;
use crate::delivery_log::utc;
use crate::ids::QueueId;

/// The row of messages without a group, as operators write it.
const NO_GROUP: &str = crate::counters::NO_GROUP;

/// Which mail: all that meets every condition set. Without any it is all mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Of this group.
    pub group: Option<Box<str>>,
    /// To this recipient domain: A-labels, lower case.
    pub domain: Option<Box<str>>,
    /// To this receiving site.
    pub site: Option<Box<str>>,
    /// From a client there.
    pub source: Option<IpNet>,
    /// With this reverse-path; `<>` is the null one.
    pub sender: Option<Box<str>>,
    /// With this tag, `NAME=VALUE`.
    pub tag: Option<Box<str>>,
    /// Accepted before that.
    pub accepted_before: Option<UnixMs>,
    /// This message.
    pub queue_id: Option<QueueId>,
}

/// Whether mail is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is not.
    No,
    /// Its record will show.
    Perhaps,
    /// It is.
    Yes,
}

/// What is known of an entry without its record.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The message.
    pub queue_id: QueueId,
    /// The recipients' domain.
    pub domain: &'a str,
    /// The group; `None` if its name is not at hand.
    pub group: Option<&'a str>,
    /// The site, once it is known.
    pub site: Option<&'a str>,
}

/// What the record adds.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// The group; empty if it has none.
    pub group: &'a str,
    /// The reverse-path; `None`: null.
    pub sender: Option<&'a str>,
    /// The client.
    pub source: Option<IpAddr>,
    /// Names and values.
    pub tags: &'a [(Box<str>, Box<str>)],
}

fn is_group(wanted: &str, group: &str) -> bool {
    wanted == group || wanted == NO_GROUP && group.is_empty()
}

/// An IPv4 client may come over an IPv6 socket.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

impl Selector {
    /// An address or a network, for [`Self::source`].
    pub fn parse_source(text: &str) -> Option<IpNet> {
        let net = text.parse().ok();
        net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    }

    /// As far as what is shown tells.
    pub fn matches(&self, shown: &Shown<'_>) -> Match {
        if !self.meets_shown(shown) {
            return Match::No;
        }
        let group = match (self.group.as_deref(), shown.group) {
            (None, _) => Match::Yes,
            (Some(_), None) => Match::Perhaps,
            (Some(wanted), Some(group)) if is_group(wanted, group) => Match::Yes,
            (Some(_), Some(_)) => Match::No,
        };
        let needs_record = self.source.is_some() || self.sender.is_some() || self.tag.is_some();
        match group {
            Match::Yes if needs_record => Match::Perhaps,
            group => group,
        }
    }

    fn meets_shown(&self, shown: &Shown<'_>) -> bool {
        let accepted = UnixMs(shown.queue_id.accepted_ms());
        self.domain
            .as_deref()
            .is_none_or(|domain| domain == shown.domain)
            && self
                .site
                .as_deref()
                .is_none_or(|site| Some(site) == shown.site)
            && self.queue_id.is_none_or(|id| id == shown.queue_id)
            && self.accepted_before.is_none_or(|before| accepted < before)
    }

    /// With the record at hand.
    pub fn matches_record(&self, shown: &Shown<'_>, written: &Written<'_>) -> bool {
        let is_tag = |wanted: &str| {
            let tags = written.tags.iter();
            let wanted = wanted.split_once('=').unwrap_or((wanted, ""));
            tags.into_iter()
                .any(|(name, value)| name.eq_ignore_ascii_case(wanted.0) && **value == *wanted.1)
        };
        let is_sender = |wanted: &str| match written.sender {
            None => wanted == "<>",
            Some(sender) => sender.eq_ignore_ascii_case(wanted),
        };
        let is_source = |net: &IpNet| (written.source).is_some_and(|ip| net.contains(&plain(ip)));
        self.meets_shown(shown)
            && (self.group.as_deref()).is_none_or(|wanted| is_group(wanted, written.group))
            && self.sender.as_deref().is_none_or(is_sender)
            && self.source.as_ref().is_none_or(is_source)
            && self.tag.as_deref().is_none_or(is_tag)
    }

    /// Whether every condition of this one is also one of `other`: then `other` means a part of the mail.
    pub fn covers(&self, other: &Self) -> bool {
        fn same<T: PartialEq>(ours: Option<&T>, theirs: Option<&T>) -> bool {
            ours.is_none() || ours == theirs
        }
        same(self.group.as_ref(), other.group.as_ref())
            && same(self.domain.as_ref(), other.domain.as_ref())
            && same(self.site.as_ref(), other.site.as_ref())
            && same(self.source.as_ref(), other.source.as_ref())
            && same(self.sender.as_ref(), other.sender.as_ref())
            && same(self.tag.as_ref(), other.tag.as_ref())
            && same(
                self.accepted_before.as_ref(),
                other.accepted_before.as_ref(),
            )
            && same(self.queue_id.as_ref(), other.queue_id.as_ref())
    }

    /// Whether no condition is set.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("all mail");
        }
        let before = self.accepted_before.map(|at| utc::text(at).map(char::from));
        let shown = [
            ("group", self.group.as_deref().map(str::to_owned)),
            ("domain", self.domain.as_deref().map(str::to_owned)),
            ("site", self.site.as_deref().map(str::to_owned)),
            ("source", self.source.map(|net| net.to_string())),
            ("sender", self.sender.as_deref().map(str::to_owned)),
            ("tag", self.tag.as_deref().map(str::to_owned)),
            ("accepted_before", before.map(String::from_iter)),
            ("queue_id", self.queue_id.map(|id| id.to_string())),
        ];
        let mut space = "";
        for (name, value) in shown {
            if let Some(value) = value {
                write!(f, "{space}{name}={value}")?;
                space = " ";
            }
        }
        Ok(())
    }
}
