//! Is this host fit to run the relay? `hikyakud --check --system` asks everything here and says one
//! line about each; a start asks it too, what could stop it beforehand and the rest beside.
//!
//! [`host`] is about kernel, limits, cores and clock, [`storage`] about the data directory and its disk,
//! [`secrets`] about keys and who may read what, [`network`] about addresses, names and DNS. No check
//! writes anything but a file without a name in the data directory, and none can hold up the others:
//! each has a thread and [`CHECK_MAX`].

mod host;
mod network;
mod secrets;
mod storage;

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use datadir::Installation;
use engine::config::Config;

/// How long all checks together may take: a disk or a server that hangs is told, not waited for.
const CHECK_MAX: Duration = Duration::from_millis(2_600);

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Good,
    /// The relay runs, but not as well or not as safely as it could.
    Warning,
    /// The relay does not start, or cannot do its work.
    Bad,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) verdict: Verdict,
    /// What was looked at, a word or two.
    pub(crate) about: &'static str,
    /// What was found, and what to do if it is not good.
    pub(crate) text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Good => "good",
            Verdict::Warning => "warning",
            Verdict::Bad => "bad",
        };
        write!(f, "{verdict:<7}  {:<14}  {}", self.about, self.text)
    }
}

/// What a check says of its subject, which [`Check`] names.
type Said = (Verdict, String);

fn good(text: impl Into<String>) -> Said {
    (Verdict::Good, text.into())
}

fn warning(text: impl Into<String>) -> Said {
    (Verdict::Warning, text.into())
}

fn bad(text: impl Into<String>) -> Said {
    (Verdict::Bad, text.into())
}

/// What the checks look at.
#[derive(Debug)]
struct Subject {
    config: Config,
    /// The configuration file.
    file: std::path::PathBuf,
    installation: Installation,
    shards: u16,
}

/// One check: its subject in a word, whether a start fails by it, and what finds out.
struct Check {
    about: &'static str,
    stops_start: bool,
    ask: fn(&Subject) -> Said,
}

const fn check(about: &'static str, stops_start: bool, ask: fn(&Subject) -> Said) -> Check {
    Check {
        about,
        stops_start,
        ask,
    }
}

/// Every check, in the order of the answer. Those on addresses are made for each of them
/// ([`network::listeners`]).
const CHECKS: [Check; 18] = [
    check("kernel", true, host::kernel),
    check("io_uring", true, host::io_uring),
    check("locked memory", true, host::locked_memory),
    check("open files", true, host::open_files),
    check("cores", false, host::cores),
    check("clock", false, host::clock),
    check("data directory", true, storage::data_dir),
    check("in use", true, storage::in_use),
    check("direct writes", true, storage::direct_writes),
    check("free space", false, storage::free_space),
    check("sync", false, storage::sync_cost),
    check("passphrase", false, secrets::passphrase),
    check("secret", false, secrets::installation_secret),
    check("readable", false, secrets::readable),
    check("control socket", true, secrets::control_socket),
    check("source address", false, network::sources),
    check("hostname", false, network::hostname),
    check("resolver", false, network::resolver),
];

/// Asks what could stop a start, but for what the start itself finds out as it goes.
///
/// # Errors
/// The first obstacle, one line with its remedy.
pub(crate) fn obstacle(file: &std::path::Path, config: &Config) -> Result<(), String> {
    let subject = Arc::new(Subject::new(file, config));
    let checks = CHECKS.iter().filter(|check| check.stops_start).collect();
    let found = ask_all(&subject, checks, Vec::new());
    match found.into_iter().find(|f| f.verdict == Verdict::Bad) {
        Some(finding) => Err(finding.text),
        None => Ok(()),
    }
}

/// What a start can go on with and an operator should know: the rest of the checks.
pub(crate) fn concerns(file: &std::path::Path, config: &Config) -> Vec<Finding> {
    let subject = Arc::new(Subject::new(file, config));
    let checks = CHECKS.iter().filter(|check| !check.stops_start).collect();
    let mut found = ask_all(&subject, checks, Vec::new());
    found.retain(|finding| finding.verdict != Verdict::Good);
    found
}

/// Asks everything and writes a line for each; whether the relay can run, which it tells also if
/// nobody reads the lines.
pub(crate) fn report(file: &std::path::Path, config: &Config, out: &mut impl Write) -> bool {
    let subject = Arc::new(Subject::new(file, config));
    let found = ask_all(
        &subject,
        CHECKS.iter().collect(),
        network::listeners(config),
    );
    for finding in &found {
        let _ = writeln!(out, "{finding}");
    }
    found.iter().all(|finding| finding.verdict != Verdict::Bad)
}

impl Subject {
    fn new(file: &std::path::Path, config: &Config) -> Self {
        let installation = Installation::new(&config.server.data_dir, &config.key.secret);
        Self {
            config: config.clone(),
            file: file.to_owned(),
            installation,
            shards: crate::daemon::shards(config),
        }
    }
}

/// A check that was made up for one address.
type Ask = Box<dyn FnOnce(&Subject) -> Said + Send>;

/// Runs every check on a thread of its own; the findings in order, none later than [`CHECK_MAX`].
fn ask_all(
    subject: &Arc<Subject>,
    checks: Vec<&'static Check>,
    more: Vec<(&'static str, Ask)>,
) -> Vec<Finding> {
    let fixed = checks
        .into_iter()
        .map(|check| (check.about, Box::new(check.ask) as Ask));
    let all: Vec<(&'static str, Ask)> = fixed.chain(more).collect();
    let late = || bad(format!("no answer within {} ms", CHECK_MAX.as_millis()));
    let mut found: Vec<Finding> = all
        .iter()
        .map(|(about, _)| finding(about, late()))
        .collect();
    let (answers, answered) = unbounded();
    for (number, (about, ask)) in all.into_iter().enumerate() {
        let (subject, answers) = (Arc::clone(subject), answers.clone());
        let spawned = std::thread::Builder::new()
            .name("system-check".into())
            .spawn(move || answers.send((number, ask(&subject))));
        if let Err(error) = spawned {
            found[number] = finding(about, bad(format!("cannot start a thread: {error}")));
        }
    }
    drop(answers);
    let end = Instant::now() + CHECK_MAX;
    // Ends too when every thread has answered.
    while let Ok((number, said)) = answered.recv_deadline(end) {
        found[number] = finding(found[number].about, said);
    }
    found
}

fn finding(about: &'static str, (verdict, text): Said) -> Finding {
    Finding {
        verdict,
        about,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Arc<Subject> {
        let text = "[server]\nhostname = \"a.example\"\n[[listen]]\naddress = \"127.0.0.1:2525\"\n";
        let config = Config::parse("/nonexistent/h.toml", text).unwrap();
        Arc::new(Subject::new("/nonexistent/h.toml".as_ref(), &config))
    }

    #[test]
    fn a_check_that_hangs_is_told_and_the_others_are_not_held_up() {
        let (keep, never) = crossbeam_channel::bounded::<()>(0);
        let asks: Vec<(&'static str, Ask)> = vec![
            (
                "hangs",
                Box::new(move |_| {
                    let _ = never.recv();
                    good("at last")
                }),
            ),
            ("answers", Box::new(|_| warning("at once"))),
        ];
        let begun = Instant::now();
        let found = ask_all(&subject(), Vec::new(), asks);
        assert!(begun.elapsed() < Duration::from_secs(3));
        assert_eq!(found[0].verdict, Verdict::Bad);
        assert!(found[0].text.contains("no answer within 2600 ms"));
        assert_eq!(found[1].to_string(), "warning  answers         at once");
        drop(keep);
    }

    #[test]
    fn a_check_that_panics_is_told_too() {
        let asks: Vec<(&'static str, Ask)> = vec![("breaks", Box::new(|_| panic!("planted")))];
        let found = ask_all(&subject(), Vec::new(), asks);
        assert_eq!(found[0].verdict, Verdict::Bad);
    }
}
