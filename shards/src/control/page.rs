//! The page for a browser: one file, nothing loaded from elsewhere.

/// The whole page.
pub(super) const PAGE: &str = include_str!("page.html");
