//! Header section: what the relay reads from and adds to a message.
