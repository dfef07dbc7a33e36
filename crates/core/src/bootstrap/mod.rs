//! Bootstrap accounts: the servers, keys and objects that a device gets in a bootstrap session (OMA LwM2M Core 1.1
//! section 6.1).
//!
//! - [`account`] has the accounts by endpoint name.
//! - [`mod@file`] reads them from TOML and from JSON, and checks that a device can use them.
//! - [`resources`] makes the instances of the objects 0 and 1 of an account.
//! - [`secret`] holds keys that no log shows.
//!
//! Nothing here keeps state, reads a file or knows a session.

pub mod account;
pub mod file;
mod pattern;
pub mod resources;
pub mod secret;

pub use pattern::EndpointPattern;
