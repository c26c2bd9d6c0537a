//! Every path there is: one table, from which requests are dispatched, refused and described.

use std::sync::Arc;
use std::thread;

use engine::counters::{By, Window};
use engine::delivery_log::LogFilter;
use tiny_http::{Method, Request};

use super::answer::{Body, response};
use super::caller::{Caller, Scope, not_led_by_others};
use super::log::{self, Place, Places};
use super::request::{Format, Target};
use super::{Daemon, Refusal, change, metrics, page, stops, view};

/// A path and what it does.
pub(super) struct Path {
    pub(super) path: &'static str,
    /// Whether it changes something: POST, else GET.
    pub(super) changes: bool,
    pub(super) scope: Scope,
    /// Parameters beside `format`.
    pub(super) parameters: &'static [&'static str],
    does: Does,
}

/// A request that may be answered.
pub(super) struct Asked<'a> {
    pub(super) request: &'a mut Request,
    pub(super) target: Target,
    pub(super) caller: Caller,
    pub(super) daemon: &'a dyn Daemon,
}

type Function = fn(&mut Asked<'_>) -> Result<Body, Refusal>;

#[derive(Clone, Copy)]
enum Does {
    /// Answers within the time shards may take.
    Answers(Function),
    /// Derives a key or the like: from a thread of its own, one at a time, so that it holds up nobody.
    Slowly(Function),
    /// Reads the delivery log, from a thread of its own.
    Streams,
}

const fn tells(path: &'static str, parameters: &'static [&'static str], does: Function) -> Path {
    Path {
        path,
        changes: false,
        scope: Scope::Read,
        parameters,
        does: Does::Answers(does),
    }
}

const fn changes(path: &'static str, scope: Scope, does: Does) -> Path {
    Path {
        path,
        changes: true,
        scope,
        parameters: &[],
        does,
    }
}

/// Selectors of `retry` that this version knows.
pub(super) const SELECTORS: [&str; 2] = ["domain", "all"];

/// Parameters of the log beside its filters.
const LOG_PARAMETERS: [&str; 2] = ["limit", "follow"];

/// The table.
pub(super) const PATHS: [Path; 17] = [
    tells("/", &[], |_| {
        Ok(Body::new("text/html; charset=utf-8", page::PAGE.to_owned()))
    }),
    tells("/healthz", &[], view::health),
    tells("/metrics", &[], metrics::metrics),
    tells("/api/v1/status", &[], view::status),
    tells("/api/v1/shards", &[], view::shards),
    tells("/api/v1/counters", &["by", "window"], view::counters),
    tells("/api/v1/destinations", &["limit"], view::destinations),
    tells("/api/v1/queue", &["domain", "limit"], view::queue),
    tells("/api/v1/why", &["domain", "queue_id"], view::why),
    Path {
        path: "/api/v1/log",
        changes: false,
        scope: Scope::Decrypt,
        parameters: &LOG_PARAMETERS,
        does: Does::Streams,
    },
    Path {
        parameters: &SELECTORS,
        ..changes(
            "/api/v1/retry",
            Scope::Operate,
            Does::Answers(change::retry),
        )
    },
    Path {
        parameters: &stops::SUSPEND,
        ..changes(
            "/api/v1/suspend",
            Scope::Operate,
            Does::Answers(stops::suspend),
        )
    },
    Path {
        parameters: &stops::SELECTORS,
        ..changes(
            "/api/v1/resume",
            Scope::Operate,
            Does::Answers(stops::resume),
        )
    },
    tells("/api/v1/stops", &[], stops::stops),
    changes(
        "/api/v1/reload",
        Scope::Operate,
        Does::Slowly(change::reload),
    ),
    changes(
        "/api/v1/unlock",
        Scope::Decrypt,
        Does::Slowly(change::unlock),
    ),
    changes("/api/v1/rekey", Scope::Decrypt, Does::Slowly(change::rekey)),
];

impl Path {
    const fn method(&self) -> &'static str {
        if self.changes { "POST" } else { "GET, HEAD" }
    }

    /// POST for what changes something, or GET with the Authorization header, which no page can make
    /// a browser send.
    fn takes(&self, request: &Request) -> Result<(), Refusal> {
        let authorized = || {
            let mut headers = request.headers().iter();
            headers.any(|header| header.field.equiv("Authorization"))
        };
        match (request.method(), self.changes) {
            (Method::Post, true) | (Method::Get | Method::Head, false) => Ok(()),
            (Method::Get, true) if authorized() => Ok(()),
            (_, true) => Err(Refusal::method(
                self.method(),
                "this changes something: use POST",
            )),
            (_, false) => {
                let why = format!("{} only tells something: use GET", self.path);
                Err(Refusal::method(self.method(), why))
            }
        }
    }

    /// Whether it takes a parameter of this name.
    fn knows(&self, name: &str) -> bool {
        let filters: &[&str] = match self.does {
            Does::Streams => &LogFilter::PARAMETERS,
            _ => &[],
        };
        self.parameters.contains(&name) || filters.contains(&name)
    }

    fn all_parameters(&self) -> String {
        let mut all: Vec<&str> = match self.does {
            Does::Streams => LogFilter::PARAMETERS.to_vec(),
            _ => Vec::new(),
        };
        all.extend(self.parameters);
        all.push("format");
        all.join(", ")
    }
}

/// What all requests share.
#[derive(Clone)]
pub(super) struct Plane {
    pub(super) daemon: Arc<dyn Daemon>,
    pub(super) readers: Arc<Places>,
    /// The one place for what takes long.
    pub(super) slow: Arc<Places>,
}

/// Answers one request. A client that has gone away is its own affair.
pub(super) fn answer(request: Request, plane: &Plane) {
    let target = match Target::parse(request.url()) {
        Ok(target) => target,
        Err(refusal) => return refuse(request, refusal, Format::Tsv),
    };
    let format = target.format;
    let caller = Caller::of(&request);
    let does = match admit(&request, &target, &caller, &*plane.daemon) {
        Ok(does) => does,
        Err(refusal) => return refuse(request, refusal, format),
    };
    match does {
        Does::Answers(function) => run(request, target, caller, function, &*plane.daemon, None),
        Does::Streams => {
            let read = log::answer(request, target, &caller, &plane.daemon, &plane.readers);
            if let Err(refused) = read {
                let (request, refusal) = *refused;
                refuse(request, refusal, format);
            }
        }
        Does::Slowly(function) => {
            let Some(place) = plane.slow.enter() else {
                let why = "another unlock, rekey or reload is under way; try again";
                return refuse(request, Refusal::new(503, why), format);
            };
            let daemon = Arc::clone(&plane.daemon);
            // If no thread can be started the request is answered 500 when it is dropped.
            let _ = thread::Builder::new()
                .name("control-slow".into())
                .spawn(move || {
                    run(request, target, caller, function, &*daemon, Some(place));
                });
        }
    }
}

/// What to do about a request, or why it will not be done.
fn admit(
    request: &Request,
    target: &Target,
    caller: &Caller,
    daemon: &dyn Daemon,
) -> Result<Does, Refusal> {
    let Some(path) = PATHS.iter().find(|path| path.path == target.path) else {
        let there: Vec<&str> = PATHS.iter().map(|path| path.path).collect();
        let why = format!("no such path; there are: {}", there.join(" "));
        return Err(Refusal::new(404, why));
    };
    not_led_by_others(request, &daemon.hosts(), path.changes)?;
    path.takes(request)?;
    caller.must(path.scope)?;
    if let Some(name) = target.names().find(|name| !path.knows(name)) {
        let all = path.all_parameters();
        let why = format!("unknown parameter `{name}`; {} takes: {all}", path.path);
        return Err(Refusal::new(400, why));
    }
    Ok(path.does)
}

fn run(
    request: Request,
    target: Target,
    caller: Caller,
    function: Function,
    daemon: &dyn Daemon,
    place: Option<Place>,
) {
    let mut request = request;
    let format = target.format;
    let mut asked = Asked {
        request: &mut request,
        target,
        caller,
        daemon,
    };
    let result = function(&mut asked);
    // Before the answer: whoever has it may ask again at once.
    drop(place);
    let _ = request.respond(response(result, format));
}

fn refuse(request: Request, refusal: Refusal, format: Format) {
    let _ = request.respond(response(Err(refusal), format));
}

/// Values of `by` and `window`, for their errors.
pub(super) fn by_and_window(target: &mut Target) -> Result<(By, Window), Refusal> {
    let by = target.take("by");
    let window = target.take("window");
    let by = by.as_deref().unwrap_or(By::Total.as_str());
    let window = window.as_deref().unwrap_or(Window::All.as_str());
    let wrong = |why| Refusal::new(400, why);
    let by = By::from_name(by)
        .ok_or_else(|| wrong(format!("by `{by}` must be total, domain or group")))?;
    let window = Window::from_name(window)
        .ok_or_else(|| wrong(format!("window `{window}` must be all, hours or minutes")))?;
    Ok((by, window))
}
