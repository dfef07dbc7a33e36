//! Reports of the core as lines of the log.
