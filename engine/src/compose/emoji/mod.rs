//! Emoji of the three Japanese carriers, as one table and some arithmetic.
//!
//! `table.rs` finds the symbol a text begins with and what each carrier has for it; `codes.rs` turns
//! a carrier's private-use code into its wire codes; `names.rs` serves `emoji("sun")` in templates.
//! Which symbol is written how in which character set is `charset.rs`, one level up.

mod codes;
mod names;
mod table;

pub use codes::{
    au_internal_sjis, au_jis_of, au_sjis_of_jis, jis_of_sjis, private_of, sjis_of, sjis_of_jis,
};
pub use names::by_name;
pub use table::{Code, Emoji, is_modifier, match_at, of_private, rows};

/// Whose emoji a wire encoding carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EmojiSet {
    /// docomo: U+E63E-E757.
    Docomo,
    /// au (KDDI): U+E468-E5DF, EA80-EB8E.
    Au,
    /// SoftBank: U+E001-E53E in six blocks.
    Softbank,
}

impl EmojiSet {
    /// The three, in the order of the table's columns.
    pub const ALL: [Self; 3] = [Self::Docomo, Self::Au, Self::Softbank];
}
