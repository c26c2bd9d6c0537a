//! Who failed and why, from returned mail and SMTP replies.
