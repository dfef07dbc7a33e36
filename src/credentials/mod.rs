//! The credentials of DTLS, as files and services have them. The core is given what is in them, never where it is.
//!
//! - `files`: what the configuration names, read and made into an acceptor for handshakes.
//! - `psk_file` and `psk_http`: the two places where keys of devices are found.
//! - `keys`: where the driver asks for them.
//! - `parts`: what changes while the program runs.

mod files;
mod keys;
mod parts;
mod psk_file;
mod psk_http;

pub use files::{Credentials, CredentialsConfig, CredentialsError, OnError};
pub use keys::{FileKeys, Keys};
pub use parts::{Certificates, PskKeys};
pub use psk_file::{Encoding, PskFileError, PskFileSettings, Read};
pub use psk_http::{AskError, Asker, PLACEHOLDER, PskHttpSettings, SetUpError};
