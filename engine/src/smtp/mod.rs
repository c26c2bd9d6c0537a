//! SMTP (RFC 5321): server and client dialogs as state machines.
