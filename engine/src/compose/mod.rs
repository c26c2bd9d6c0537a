//! Messages from templates and merge data.
