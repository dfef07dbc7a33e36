//! Keys and certificates that change while the program runs: the parts of [`crate::reload`] for them. Handshakes use the new
//! ones from then on; the associations that there are stay, but for those of pre-shared keys that are not in the file any more.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::{info, warn};

use crate::config::Config;
use crate::driver::control::Request;
use crate::observability::conditions::{Condition, State};
use crate::observability::metrics::{Metrics, Part as Counted};
use crate::reload::{FileSnapshot, Part};

use super::files::CredentialsConfig;
use super::keys::FileKeys;
use super::psk_file::Read;

/// Our certificate and key, and what is trusted.
pub struct Certificates {
    condition: Condition,
    metrics: Arc<Metrics>,
    /// What is in force; None if that is nothing.
    read: Option<(CredentialsConfig, FileSnapshot)>,
}

/// The file of pre-shared keys.
pub struct PskKeys {
    keys: FileKeys,
    read: Option<(CredentialsConfig, FileSnapshot)>,
}

impl Certificates {
    /// `in_force`: whether the program began with these. The condition says whether there can be handshakes.
    pub fn new(settings: &CredentialsConfig, in_force: bool, condition: Condition, metrics: Arc<Metrics>) -> Self {
        let look = || (settings.clone(), FileSnapshot::at(settings.certificate_files()));
        Self { condition, metrics, read: in_force.then(look) }
    }
}

impl Part for Certificates {
    fn counted_as(&self) -> Counted {
        Counted::Certificates
    }

    fn files(&self, config: &Config) -> Vec<PathBuf> {
        config.credentials.certificate_files()
    }

    fn read(&mut self, config: &Config) -> Result<Vec<Request>, String> {
        let settings = &config.credentials;
        let looked = (settings.clone(), FileSnapshot::at(settings.certificate_files()));
        if self.read.as_ref() == Some(&looked) {
            return Ok(Vec::new());
        }
        let acceptor = settings.load_acceptor().map_err(|error| error.to_string())?;
        info!("the credentials of DTLS were read");
        self.read = Some(looked);
        self.condition.set(State::Up, "handshakes are taken");
        self.metrics.dtls_up.set(1);
        Ok(vec![Request::Acceptor(acceptor)])
    }
}

impl PskKeys {
    pub fn new(settings: &CredentialsConfig, in_force: bool, keys: FileKeys) -> Self {
        let look = || (settings.clone(), FileSnapshot::at(settings.key_file()));
        Self { keys, read: in_force.then(look) }
    }
}

impl Part for PskKeys {
    fn counted_as(&self) -> Counted {
        Counted::Keys
    }

    fn files(&self, config: &Config) -> Vec<PathBuf> {
        config.credentials.key_file().into_iter().collect()
    }

    fn read(&mut self, config: &Config) -> Result<Vec<Request>, String> {
        let settings = &config.credentials;
        let looked = (settings.clone(), FileSnapshot::at(settings.key_file()));
        if self.read.as_ref() == Some(&looked) {
            return Ok(Vec::new());
        }
        let Read { keys, warnings } = settings.load_keys().map_err(|error| error.to_string())?;
        info!(keys = keys.len(), "the keys of devices were read");
        warnings.iter().for_each(|warning| warn!("{warning}"));
        self.read = Some(looked);
        let revoked = self.keys.replace(keys);
        Ok(vec![Request::Keys { revoked, identities: self.keys.identities() }])
    }
}
