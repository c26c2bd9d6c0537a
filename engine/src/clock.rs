//! Time as the engine sees it: a value that comes in with every event.

/// Microseconds on a clock that never goes back, from an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// This instant and `ms` milliseconds more.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Milliseconds since `earlier`, 0 if `earlier` lies in the future.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// Whole seconds since the epoch; fits `u32` until the year 2106.
    pub const fn seconds(self) -> u32 {
        (self.0 / 1000) as u32
    }
}

/// The moment at which an event is handled: `mono` for timeouts, `unix` for what is stored or shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic microseconds.
    pub mono: Mono,
    /// Wall clock milliseconds.
    pub unix: UnixMs,
}
