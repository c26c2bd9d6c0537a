//! Delivery windows: destinations whose mail may not begin now wait for the opening.
//!
//! Asked where a destination would take its turn at a site ([`ShardCore::parks`]), and again where its
//! turn comes. One whose window is closed leaves the round and is parked: nobody looks at it before the
//! opening, whatever comes in for it. Then it goes on at a moment drawn from the first `window_spread` of
//! the time that is open, so that not all begin at once.
//!
//! Windows go by the wall clock. Where that leaps, all that is parked is looked at anew.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

use super::ShardCore;
use crate::clock::{Now, UnixMs};
use crate::policy::window::{Period, Window};
use crate::policy::{Key, Policy};
use crate::pool::SiteId;
use crate::schedule::Binding;
use crate::schedule::destination::{Destination, DestinationId, WindowOf};

/// Destinations that go on in a tick.
const OPENED_PER_TICK_MAX: usize = 1024;

/// A window that some destination has.
#[derive(Debug)]
struct Hours {
    window: Window,
    spread_ms: u64,
    /// What it was when last asked: it is worked out anew once that is over.
    period: Cell<Option<Period>>,
}

impl Hours {
    fn of(policy: &Policy, destination: &Destination) -> Option<Self> {
        let domain = destination.domain.as_str();
        let effective = policy.of_domain(destination.provider.as_deref(), domain);
        Some(Self {
            window: effective.window()?,
            spread_ms: effective.number(Key::WindowSpread),
            period: Cell::new(None),
        })
    }

    fn at(&self, now: UnixMs) -> Period {
        match self.period.get() {
            Some(period) if period.holds(now) => period,
            _ => {
                let period = self.window.at(now);
                self.period.set(Some(period));
                period
            }
        }
    }
}

/// Windows, and who waits for them to open.
#[derive(Debug, Default)]
pub(super) struct Windows {
    is_any: bool,
    /// At most one for each window, zone and spread that rows can give together.
    hours: Vec<Hours>,
    by_window: HashMap<(Window, u64), u32>,
    parked: BTreeSet<(UnixMs, DestinationId)>,
    /// Looked at anew, some a tick, before their time.
    recheck: BTreeSet<(UnixMs, DestinationId)>,
    /// So are those parked, once those are through.
    is_recheck_due: bool,
}

impl Windows {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            is_any: policy.is_set_anywhere(Key::Window),
            ..Self::default()
        }
    }

    /// The wall clock has leapt.
    pub(super) const fn leapt(&mut self) {
        self.is_recheck_due = true;
    }

    fn next_opened(&mut self, now: UnixMs) -> Option<(UnixMs, DestinationId)> {
        if self.is_recheck_due && self.recheck.is_empty() {
            std::mem::swap(&mut self.parked, &mut self.recheck);
            self.is_recheck_due = false;
        }
        if let Some(first) = self.recheck.pop_first() {
            return Some(first);
        }
        let (at, _) = self.parked.first()?;
        if *at > now {
            return None;
        }
        self.parked.pop_first()
    }

    /// Whether it waits there.
    pub(super) fn is_parked(&self, at: UnixMs, id: DestinationId) -> bool {
        self.parked.contains(&(at, id)) || self.recheck.contains(&(at, id))
    }

    /// How many wait.
    pub(super) fn parked_len(&self) -> usize {
        self.parked.len() + self.recheck.len()
    }

    fn learn(&mut self, hours: Option<Hours>) -> WindowOf {
        let Some(hours) = hours else {
            return WindowOf::Always;
        };
        let next = self.hours.len() as u32;
        let key = (hours.window.clone(), hours.spread_ms);
        let number = *self.by_window.entry(key).or_insert(next);
        if number == next {
            self.hours.push(hours);
        }
        WindowOf::Hours(number)
    }
}

impl ShardCore {
    /// What the destination's window is now; `None` if it has none.
    fn hours(&self, destination: &Destination, now: Now) -> Option<Period> {
        if !self.windows.is_any {
            return None;
        }
        match destination.window {
            WindowOf::Always => None,
            WindowOf::Hours(number) => Some(self.windows.hours[number as usize].at(now.unix)),
            WindowOf::Unknown => Some(Hours::of(&self.settings.policy, destination)?.at(now.unix)),
        }
    }

    /// What is in the way of the destination's mail by its window.
    pub(super) fn window_binding(&self, destination: &Destination, now: Now) -> Option<Binding> {
        let opens = match destination.parked {
            Some(at) => at,
            None => self.closed_until(destination, now)?,
        };
        Some(Binding::Window {
            opens,
            opens_in_s: opens.0.saturating_sub(now.unix.0).div_ceil(1000),
        })
    }

    fn closed_until(&self, destination: &Destination, now: Now) -> Option<UnixMs> {
        let period = self.hours(destination, now)?;
        (!period.is_open).then_some(period.until)
    }

    /// Whether none of the destination's mail may begin now.
    pub(super) fn is_closed(&mut self, id: DestinationId, now: Now) -> bool {
        if !self.windows.is_any {
            return false;
        }
        if self.mail.destination(id).window == WindowOf::Unknown {
            let hours = Hours::of(&self.settings.policy, self.mail.destination(id));
            self.mail.destination_mut(id).window = self.windows.learn(hours);
        }
        self.closed_until(self.mail.destination(id), now).is_some()
    }

    /// Has the destination wait for its window, if that is closed; whether it waits.
    pub(super) fn parks(&mut self, id: DestinationId, now: Now) -> bool {
        if self.mail.destination(id).parked.is_some() {
            return true;
        }
        if !self.is_closed(id, now) {
            return false;
        }
        let destination = self.mail.destination(id);
        let (WindowOf::Hours(number), Some(opens)) =
            (destination.window, self.closed_until(destination, now))
        else {
            return false;
        };
        let hours = &self.windows.hours[number as usize];
        let open = hours.window.at(opens);
        // A short window is not spent waiting.
        let half_ms = open.until.0.saturating_sub(opens.0) / 2;
        let spread_ms = hours.spread_ms.min(half_ms);
        let at = UnixMs(opens.0.saturating_add(self.random.below(spread_ms + 1)));
        self.mail.destination_mut(id).parked = Some(at);
        self.windows.parked.insert((at, id));
        true
    }

    /// Destinations whose window has closed leave the head of a site's round.
    pub(super) fn park_closed(&mut self, site: SiteId, now: Now) {
        if !self.windows.is_any {
            return;
        }
        while let Some(id) = self.pool.next_in_round(site)
            && self.is_closed(id, now)
        {
            self.step_out(site, id);
            self.parks(id, now);
        }
    }

    /// A tick: destinations whose time has come go on.
    pub(super) fn open_windows(&mut self, now: Now) {
        for _ in 0..OPENED_PER_TICK_MAX {
            let Some((_, id)) = self.windows.next_opened(now.unix) else {
                return;
            };
            self.mail.destination_mut(id).parked = None;
            self.activate(id, now);
        }
    }

    /// Nobody waits any more: windows may be others.
    pub(super) fn forget_windows(&mut self) {
        self.windows = Windows::new(&self.settings.policy);
    }

    /// The destination's slot is about to be given up.
    pub(super) fn unpark(&mut self, id: DestinationId) {
        if let Some(at) = self.mail.destination_mut(id).parked.take() {
            self.windows.parked.remove(&(at, id));
            self.windows.recheck.remove(&(at, id));
        }
    }

    /// What is parked is so in both books, and nowhere else.
    pub(super) fn assert_parked(&self) {
        let mut parked = 0;
        for id in self.mail.destination_ids() {
            let destination = self.mail.destination(id);
            if let Some(at) = destination.parked {
                assert!(self.windows.is_parked(at, id), "{}", destination.domain);
                assert!(!destination.in_round, "{}", destination.domain);
                parked += 1;
            }
        }
        assert_eq!(parked, self.windows.parked_len(), "destinations parked");
    }
}
