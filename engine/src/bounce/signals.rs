//! Reads `signals.tsv`: words that tell what kind of mail this is and where to look in it.

use aho_corasick::AhoCorasick;

const TABLE: &str = include_str!("signals.tsv");

macro_rules! signals {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What some words mean.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Signal {
            $($(#[$doc])* $name,)*
        }

        impl Signal {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, Self::$name)),*];
        }
    };
}

signals! {
    Daemon = "daemon",
    BounceSubject = "bounce-subject",
    BounceText = "bounce-text",
    Original = "original",
    ToRecipient = "to-recipient",
    MaybeRecipient = "maybe-recipient",
    NotRecipient = "not-recipient",
    AutoSubject = "auto-subject",
    AckSubject = "ack-subject",
    VacationSubject = "vacation-subject",
    VacationText = "vacation-text",
    AutoText = "auto-text",
    ReceiptSubject = "receipt-subject",
    SuccessText = "success-text",
    FeedbackSubject = "feedback-subject",
    Delay = "delay",
    Footer = "footer",
}

/// The signals found in a text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SignalSet(u32);

impl SignalSet {
    pub(super) const fn has(self, signal: Signal) -> bool {
        self.0 & (1 << signal as u32) != 0
    }

    pub(super) const fn any(self, signals: &[Signal]) -> bool {
        let mut index = 0;
        while index < signals.len() {
            if self.has(signals[index]) {
                return true;
            }
            index += 1;
        }
        false
    }
}

/// The table, ready to be searched.
#[derive(Debug)]
pub(super) struct Signals {
    words: AhoCorasick,
    /// Per word: the signals, as bits.
    meanings: Vec<u32>,
}

impl Signals {
    pub(super) fn builtin() -> Self {
        let mut words: Vec<String> = Vec::new();
        let mut meanings: Vec<u32> = Vec::new();
        let mut current = 0;
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let list = match line.strip_prefix("\t|") {
                Some(more) => more,
                None => {
                    let (name, list) = line.split_once('\t').unwrap_or((line, ""));
                    let known = Signal::ALL.iter().find(|(word, _)| *word == name);
                    debug_assert!(known.is_some(), "signals.tsv: no signal {name:?}");
                    current = known.map_or(0, |(_, signal)| 1 << *signal as u32);
                    list
                }
            };
            for word in list
                .split(" | ")
                .map(str::trim)
                .filter(|word| !word.is_empty())
            {
                for form in [Some(word.to_owned()), capitalised(word)]
                    .into_iter()
                    .flatten()
                {
                    match words.iter().position(|known| *known == form) {
                        Some(index) => meanings[index] |= current,
                        None => {
                            words.push(form);
                            meanings.push(current);
                        }
                    }
                }
            }
        }
        // The table is a few kilobytes of our own: it is far below the automaton's limits.
        let words = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(&words);
        Self {
            words: words.unwrap_or_else(|error| unreachable!("signals.tsv: {error}")),
            meanings,
        }
    }

    /// All signals in `text`.
    pub(super) fn scan(&self, text: &str) -> SignalSet {
        let mut found = 0;
        self.each(text, |bits, _, _| found |= bits);
        SignalSet(found)
    }

    /// Of some signals the one whose words end last in `text`; of words that end together, the
    /// longest.
    pub(super) fn last_of(&self, text: &str, signals: &[Signal]) -> Option<Signal> {
        let mut last: Option<((usize, usize), Signal)> = None;
        self.each(text, |bits, start, end| {
            for &signal in signals {
                let place = (end, end - start);
                let later = last.is_none_or(|(known, _)| place > known);
                if bits & (1 << signal as u32) != 0 && later {
                    last = Some((place, signal));
                }
            }
        });
        last.map(|(_, signal)| signal)
    }

    /// Whether `text` begins with words of that meaning.
    pub(super) fn starts(&self, text: &str, signal: Signal) -> bool {
        let text = text.trim_start();
        let mut starts = false;
        self.each(super::normal::clip(text, 80), |bits, start, _| {
            starts |= start == 0 && bits & (1 << signal as u32) != 0;
        });
        starts
    }

    fn each(&self, text: &str, mut found: impl FnMut(u32, usize, usize)) {
        let bytes = text.as_bytes();
        for hit in self.words.find_overlapping_iter(bytes) {
            let start = hit.start();
            let inside = start > 0
                && bytes[start].is_ascii_alphanumeric()
                && bytes[start - 1].is_ascii_alphanumeric();
            if !inside {
                found(self.meanings[hit.pattern().as_usize()], start, hit.end());
            }
        }
    }
}

/// The form at the beginning of a sentence, for letters that the automaton takes case by case:
/// `автоответ`, `Автоответ`.
fn capitalised(word: &str) -> Option<String> {
    let first = word.chars().next().filter(|c| !c.is_ascii())?;
    let upper: String = first.to_uppercase().collect();
    let form = format!("{upper}{}", &word[first.len_utf8()..]);
    (form != word).then_some(form)
}
