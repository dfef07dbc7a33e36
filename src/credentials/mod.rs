//! The credentials of DTLS, as files and services have them. The core is given what is in them, never where it is.
//!
//! - `files`: what the configuration names, read and made into an acceptor for handshakes.
//! - `psk_file` and `psk_http`: the two places where keys of devices are found.
//! - `keys`: where the driver asks for them.
//!
//! `reload` reads them again while the program runs.

mod files;
mod keys;
mod psk_file;
mod psk_http;

pub use files::CredentialsConfig;
pub(crate) use files::{CredentialsError, OnError};
pub use keys::{FileKeys, KeyFinder};
pub use psk_file::Encoding;
pub(crate) use psk_file::{PskFileConfig, PskFileContents, PskFileError, PskTable};
pub(crate) use psk_http::PLACEHOLDER;
pub use psk_http::{KeyServiceClient, KeyServiceError, PskHttpConfig};
