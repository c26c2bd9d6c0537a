//! How a recipient's provider wants its mail: character set, MIME tree, limits.
//!
//! Everyone gets UTF-8 with Unicode emoji unless the operator has set a carrier to `legacy`; then the
//! tables below hold. They state what was found in captured mail and on the carriers' pages, most of
//! it years old, so every figure is data here and none is buried in code.

use super::charset::Wire;
use super::transfer::Transfer;

/// A mobile carrier with mail rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carrier {
    /// NTT docomo.
    Docomo,
    /// au (KDDI, Okinawa Cellular).
    Au,
    /// UQ mobile, whose MMS gateway reduces HTML to text.
    Uq,
    /// SoftBank, once Vodafone and J-PHONE.
    Softbank,
    /// Y!mobile, as it is today.
    Ymobile,
    /// EMOBILE, now Y!mobile.
    Emobile,
    /// WILLCOM, once DDI Pocket, now Y!mobile.
    Willcom,
    /// Rakuten Mobile.
    Rakuten,
}

impl Carrier {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Docomo,
        Self::Au,
        Self::Uq,
        Self::Softbank,
        Self::Ymobile,
        Self::Emobile,
        Self::Willcom,
        Self::Rakuten,
    ];

    /// Its name in templates, file names and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docomo => "docomo",
            Self::Au => "au",
            Self::Uq => "uq",
            Self::Softbank => "softbank",
            Self::Ymobile => "ymobile",
            Self::Emobile => "emobile",
            Self::Willcom => "willcom",
            Self::Rakuten => "rakuten",
        }
    }

    /// One of its domains, for trying a template out.
    pub fn domain(self) -> &'static str {
        DOMAINS
            .iter()
            .find(|(_, c)| *c == self)
            .map_or("example.jp", |(domain, _)| domain)
    }

    /// The carrier of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// The carrier whose customers have addresses at `domain` (lower case A-labels).
    ///
    /// Numbers move between carriers and addresses can be kept (since 2021), so this tells whose
    /// servers receive, not whose handset shows the mail.
    pub fn of_domain(domain: &str) -> Option<Self> {
        let exact = DOMAINS
            .iter()
            .find(|(name, _)| *name == domain)
            .map(|&(_, c)| c);
        exact.or_else(|| vodafone(domain)).or_else(|| {
            let below = |suffix: &str| {
                domain
                    .strip_suffix(suffix)
                    .is_some_and(|host| host.ends_with('.'))
            };
            SUFFIXES
                .iter()
                .find(|(suffix, _)| below(suffix))
                .map(|&(_, carrier)| carrier)
        })
    }

    /// What it gets when the operator has set it to `legacy`; `None` where nothing old is left to
    /// serve. `sjis`: Shift_JIS rather than UTF-8, at SoftBank.
    pub const fn legacy(self, sjis: bool) -> Option<&'static Profile> {
        match self {
            Self::Docomo => Some(&DOCOMO),
            Self::Au => Some(&AU),
            Self::Uq => Some(&UQ),
            Self::Softbank if sjis => Some(&SOFTBANK_SJIS),
            Self::Softbank => Some(&SOFTBANK),
            Self::Emobile | Self::Willcom => Some(&EMOBILE),
            Self::Ymobile | Self::Rakuten => None,
        }
    }
}

const DOMAINS: &[(&str, Carrier)] = &[
    ("docomo.ne.jp", Carrier::Docomo),
    ("ezweb.ne.jp", Carrier::Au),
    ("au.com", Carrier::Au),
    ("biz.au.com", Carrier::Au),
    ("uqmobile.jp", Carrier::Uq),
    ("softbank.ne.jp", Carrier::Softbank),
    ("disney.ne.jp", Carrier::Softbank),
    ("disneymobile.ne.jp", Carrier::Softbank),
    ("ymobile.ne.jp", Carrier::Ymobile),
    ("ymobile1.ne.jp", Carrier::Ymobile),
    ("y-mobile.ne.jp", Carrier::Ymobile),
    ("yahoo.ne.jp", Carrier::Ymobile),
    ("emnet.ne.jp", Carrier::Emobile),
    ("emobile.ne.jp", Carrier::Emobile),
    ("emobile-s.ne.jp", Carrier::Emobile),
    ("pdx.ne.jp", Carrier::Willcom),
    ("willcom.com", Carrier::Willcom),
    ("wcm.ne.jp", Carrier::Willcom),
    ("rakumail.jp", Carrier::Rakuten),
];

const SUFFIXES: &[(&str, Carrier)] = &[
    ("ezweb.ne.jp", Carrier::Au),
    ("pdx.ne.jp", Carrier::Willcom),
];

/// The nine regions of `x.vodafone.ne.jp` and `jp-x.ne.jp`.
fn vodafone(domain: &str) -> Option<Carrier> {
    let host = domain.strip_suffix(".ne.jp")?;
    let region = host
        .strip_suffix(".vodafone")
        .or_else(|| host.strip_prefix("jp-"))?;
    let known = region.len() == 1 && "cdhknqrst".contains(region);
    known.then_some(Carrier::Softbank)
}

/// The shape of a message with HTML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// mixed(alternative(plain, related(html, image..)), attachment..), levels left out where empty.
    Modern,
    /// mixed(related(alternative(plain, html), image..), attachment..).
    Docomo,
    /// mixed(alternative(plain, html), image.., attachment..).
    Au,
    /// related(alternative(plain, html), image.., attachment..).
    Softbank,
    /// No HTML at all: plain, attachments beside it.
    PlainOnly,
}

/// What an inline image's header says beside its type and Content-ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageDisposition {
    /// No Content-Disposition.
    None,
    /// `inline` with a file name.
    Inline,
    /// `attachment` with a file name.
    Attachment,
}

/// Sizes a carrier takes; `None` where no figure is known.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// text and html, encoded characters, together.
    pub text_html_bytes_max: Option<usize>,
    /// html alone.
    pub html_bytes_max: Option<usize>,
    /// Inline images.
    pub images_max: Option<usize>,
    /// Inline images together, decoded.
    pub images_bytes_max: Option<usize>,
    /// Attachments together, decoded.
    pub attachments_bytes_max: Option<usize>,
    /// Everything together, decoded.
    pub total_bytes_max: Option<usize>,
}

/// One way of writing a message.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Position in [`Profile::ALL`].
    pub index: usize,
    /// Character set and emoji.
    pub wire: Wire,
    /// MIME tree.
    pub tree: Tree,
    /// Inline images.
    pub image: ImageDisposition,
    /// HTML is cut down to this carrier's Decomail.
    pub decomail: Option<&'static Decomail>,
    /// HTML always travels so; otherwise chosen by content.
    pub html_transfer: Option<Transfer>,
}

/// A carrier's dialect of HTML mail.
#[derive(Clone, Copy, Debug)]
pub struct Decomail {
    /// Whose it is, for messages.
    pub carrier: &'static str,
    /// Tags and the attributes they may carry.
    pub tags: &'static [(&'static str, &'static [&'static str])],
    /// Sizes.
    pub limits: Limits,
}

/// docomo's published set; br is not on the list but in all captured mail.
const DOCOMO_TAGS: &[(&str, &[&str])] = &[
    ("div", &["align"]),
    ("font", &["color", "size"]),
    ("blink", &[]),
    ("marquee", &["behavior"]),
    ("hr", &["color"]),
    ("img", &["src"]),
    ("a", &["href"]),
    ("br", &[]),
];

/// What all carriers share, where a carrier's own list was not recovered.
const COMMON_TAGS: &[(&str, &[&str])] = &[
    ("div", &["align"]),
    ("font", &["color", "size"]),
    ("blink", &[]),
    ("marquee", &["behavior"]),
    ("hr", &["color"]),
    ("img", &["src"]),
    ("br", &[]),
];

const KB: usize = 1024;

static DOCOMO_DECOMAIL: Decomail = Decomail {
    carrier: "docomo",
    tags: DOCOMO_TAGS,
    limits: Limits {
        text_html_bytes_max: Some(10_000),
        html_bytes_max: None,
        images_max: Some(20),
        images_bytes_max: Some(90 * KB),
        attachments_bytes_max: Some(2 * KB * KB),
        total_bytes_max: None,
    },
};

static AU_DECOMAIL: Decomail = Decomail {
    carrier: "au",
    tags: COMMON_TAGS,
    limits: Limits {
        text_html_bytes_max: Some(10 * KB),
        html_bytes_max: None,
        images_max: Some(20),
        images_bytes_max: Some(100 * KB),
        attachments_bytes_max: Some(150_000),
        total_bytes_max: None,
    },
};

static SOFTBANK_DECOMAIL: Decomail = Decomail {
    carrier: "softbank",
    tags: COMMON_TAGS,
    limits: Limits {
        text_html_bytes_max: None,
        html_bytes_max: Some(30 * KB),
        images_max: None,
        images_bytes_max: None,
        attachments_bytes_max: None,
        total_bytes_max: Some(300 * KB),
    },
};

static EMOBILE_DECOMAIL: Decomail = Decomail {
    carrier: "emobile/willcom",
    tags: COMMON_TAGS,
    limits: DOCOMO_DECOMAIL.limits,
};

const fn modern(index: usize, wire: Wire) -> Profile {
    Profile {
        index,
        wire,
        tree: Tree::Modern,
        image: ImageDisposition::Inline,
        decomail: None,
        html_transfer: None,
    }
}

/// UTF-8, Unicode emoji, today's tree.
pub static UTF8: Profile = modern(0, Wire::Utf8);
/// ISO-2022-JP for mail programs on computers.
pub static JIS: Profile = modern(1, Wire::Jis);
/// Shift_JIS for mail programs on computers.
pub static SJIS: Profile = modern(2, Wire::Sjis);
static DOCOMO: Profile = Profile {
    index: 3,
    wire: Wire::DocomoSjis,
    tree: Tree::Docomo,
    image: ImageDisposition::None,
    decomail: Some(&DOCOMO_DECOMAIL),
    html_transfer: Some(Transfer::QuotedPrintable),
};
static AU: Profile = Profile {
    index: 4,
    wire: Wire::AuJis,
    tree: Tree::Au,
    image: ImageDisposition::Attachment,
    decomail: Some(&AU_DECOMAIL),
    html_transfer: Some(Transfer::QuotedPrintable),
};
static SOFTBANK: Profile = Profile {
    index: 5,
    wire: Wire::SoftbankUtf8,
    tree: Tree::Softbank,
    image: ImageDisposition::Inline,
    decomail: Some(&SOFTBANK_DECOMAIL),
    html_transfer: Some(Transfer::Base64),
};
static SOFTBANK_SJIS: Profile = Profile {
    index: 6,
    wire: Wire::SoftbankSjis,
    ..SOFTBANK
};
static EMOBILE: Profile = Profile {
    index: 7,
    wire: Wire::Jis,
    tree: Tree::Docomo,
    image: ImageDisposition::Inline,
    decomail: Some(&EMOBILE_DECOMAIL),
    html_transfer: Some(Transfer::QuotedPrintable),
};
static UQ: Profile = Profile {
    index: 8,
    tree: Tree::PlainOnly,
    ..UTF8
};

impl Profile {
    /// Every profile, `index` being the position.
    pub const ALL: [&'static Self; 9] = [
        &UTF8,
        &JIS,
        &SJIS,
        &DOCOMO,
        &AU,
        &SOFTBANK,
        &SOFTBANK_SJIS,
        &EMOBILE,
        &UQ,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_tell_the_carrier() {
        for (domain, carrier) in [
            ("docomo.ne.jp", Some(Carrier::Docomo)),
            ("ezweb.ne.jp", Some(Carrier::Au)),
            ("a2.ezweb.ne.jp", Some(Carrier::Au)),
            ("xezweb.ne.jp", None),
            ("t.vodafone.ne.jp", Some(Carrier::Softbank)),
            ("jp-q.ne.jp", Some(Carrier::Softbank)),
            ("jp-z.ne.jp", None),
            ("di.pdx.ne.jp", Some(Carrier::Willcom)),
            ("i.softbank.jp", None),
            ("mopera.net", None),
            ("example.jp", None),
        ] {
            assert_eq!(Carrier::of_domain(domain), carrier, "{domain}");
        }
    }

    #[test]
    fn profiles_know_their_place() {
        for (at, profile) in Profile::ALL.iter().enumerate() {
            assert_eq!(profile.index, at);
        }
    }
}
