//! What may be sent now, and why the rest may not.
