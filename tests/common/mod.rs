//! What the tests that need a broker share.

pub mod broker;
