//! The files of the bootstrap server: the accounts, and the keys of bootstrap accounts.
//!
//! The core is given what is in them ([`lwm2m_core::bootstrap`]), never where it is. `reload` reads them again while
//! the program runs.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::credentials::{PskFileConfig, PskTable};
use crate::errors::{one_line, plain};
use crate::file_snapshot::FileSnapshot;
use crate::transport::{Security, UdpListener};
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::bootstrap::account::PatternAccount;
use lwm2m_core::bootstrap::file::{AccountError, AccountFile, AccountReading};
use lwm2m_core::gateway::config::SocketRole;
use lwm2m_core::lwm2m::model::Model;

/// The largest file of a key or of accounts, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// The files that `[bootstrap]` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootstrapFiles {
    pub is_enabled: bool,
    pub accounts: Option<PathBuf>,
    /// The keys of bootstrap accounts.
    pub keys: Option<PskFileConfig>,
}

/// The accounts of a file.
#[derive(Debug, Default)]
pub(crate) struct LoadedAccounts {
    pub accounts: Vec<PatternAccount>,
    /// The state of the file and of those that it names, from before they were read.
    pub files: FileSnapshot,
}

/// Reasons why accounts cannot be loaded. None shows a secret.
#[derive(Debug, Error)]
pub(crate) enum AccountsError {
    #[error("bootstrap.accounts = {}: {problem}", .file.display())]
    Unreadable { file: PathBuf, problem: String },
    /// The message omits the line, which may contain a secret.
    #[error("bootstrap.accounts = {}, line {line}: {problem}", .file.display())]
    NotToml { file: PathBuf, line: usize, problem: String },
    #[error("bootstrap.accounts = {}: {error}", .file.display())]
    Account { file: PathBuf, error: AccountError },
}

impl BootstrapFiles {
    /// Reads and checks the accounts; there are none while the bootstrap server is off.
    pub(crate) fn load_accounts(&self, model: &Model) -> Result<LoadedAccounts, AccountsError> {
        let Some(file) = self.accounts.as_ref().filter(|_| self.is_enabled) else {
            return Ok(LoadedAccounts::default());
        };
        let files = RefCell::new(FileSnapshot::at([file.clone()]));
        let problem = |problem| AccountsError::Unreadable { file: file.clone(), problem };
        let bytes = read(file).map_err(problem)?;
        let text = String::from_utf8(bytes).map_err(|_| problem("is not UTF-8".to_owned()))?;
        let written: AccountFile = toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            AccountsError::NotToml { file: file.clone(), line, problem: without_values(&one_line(error.message())) }
        })?;
        let read_file = |file: &Path| {
            files.borrow_mut().add(file.to_owned());
            read(file).map_err(|problem| format!("{}: {problem}", file.display()))
        };
        let accounts = written.read(AccountReading { model, read_file: Some(&read_file) });
        let accounts = accounts.map_err(|error| AccountsError::Account { file: file.clone(), error })?;
        Ok(LoadedAccounts { accounts, files: files.into_inner() })
    }
}

/// Returns an identity that has a key of both kinds, if a DTLS listener serves both registrations and bootstrap.
pub(crate) fn second_kind<'k>(
    listeners: &[UdpListener],
    registration: &'k PskTable,
    bootstrap: &PskTable,
) -> Option<&'k PskIdentity> {
    if has_shared_listener(listeners) { registration.keys().find(|key| bootstrap.contains_key(key)) } else { None }
}

/// Returns whether a DTLS listener serves both registrations and bootstrap.
pub(crate) fn has_shared_listener(listeners: &[UdpListener]) -> bool {
    listeners.iter().any(|listener| listener.security == Security::Dtls && listener.role == SocketRole::All)
}

/// Returns the message of an error without the values that it quotes: a key may be typed into any member.
fn without_values(message: &str) -> String {
    match message.split_once(", expected ") {
        Some((begin, expected)) if begin.starts_with("invalid ") => format!("invalid value, expected {expected}"),
        Some((begin, expected)) if begin.starts_with("unknown ") => format!("unknown member, expected {expected}"),
        Some(_) | None => message.to_owned(),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let length = fs::metadata(file).map_err(|error| plain(&error))?.len();
    if length > LARGEST {
        return Err(format!("has {length} bytes, more than {LARGEST}"));
    }
    fs::read(file).map_err(|error| plain(&error))
}
