//! The table that comes with the program.

use super::row::Row;

/// It as it is compiled in, TOML.
pub const SHIPPED_TOML: &str = include_str!("shipped.toml");

/// Its rows.
pub fn shipped() -> Vec<Row> {
    // A test reads it, so that a fault in it cannot leave the house.
    Row::parse_shipped(SHIPPED_TOML).unwrap_or_default()
}
