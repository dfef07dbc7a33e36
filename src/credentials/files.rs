//! Loads the files that `[dtls]` names: an [`Acceptor`] for handshakes, and the keys of the PSK file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use lwm2m_base::identity::PskIdentity;
use lwm2m_base::secret::Secret;
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig, CredentialError, PemSecret, Pinned, VerifyMode};

use super::psk_file::{self, PskFileConfig, PskFileContents, PskFileError};
use super::psk_http::{KeyServiceClient, KeyServiceSetUpError, PskHttpConfig};

/// The configuration of DTLS credentials, by EMQX's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialsConfig {
    /// The reaction to missing or invalid credentials at the start.
    pub on_error: OnError,
    /// Certificate of the gateway with its chain, and its key, as PEM.
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    /// Password of an encrypted `keyfile`.
    pub password: Option<Secret>,
    /// Certificate authorities of client certificates, as PEM.
    pub cacertfile: Option<PathBuf>,
    pub verify: VerifyMode,
    /// Pinned certificates or public keys: files, or folders of files.
    pub pinned: Vec<PathBuf>,
    pub raw_public_keys: bool,
    /// Empty for all that are possible.
    pub cipher_suites: Vec<String>,
    pub connection_ids: bool,
    pub tickets: bool,
    pub mtu: u16,
    pub psk_file: Option<PskFileConfig>,
    pub psk_http: Option<PskHttpConfig>,
    /// Whether there is a bootstrap server, which generates keys of devices.
    pub bootstrap: bool,
    /// The keys of bootstrap accounts.
    pub bootstrap_psk_file: Option<PskFileConfig>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Rejects handshakes until the credentials are valid; plain UDP is served.
    Disable,
    Exit,
}

/// Valid credentials.
pub struct Credentials {
    pub acceptor: Acceptor,
    pub keys: psk_file::PskTable,
    /// Warnings about valid but suspicious settings, without secrets.
    pub warnings: Vec<String>,
}

/// Reasons why credentials cannot be loaded. They name files and never show their contents.
#[derive(Debug, Error)]
pub enum CredentialsError {
    #[error("dtls.{key} = {}: {error}", .file.display())]
    Unreadable { key: &'static str, file: PathBuf, error: io::Error },
    #[error("dtls.psk_file = {0}")]
    PskFile(#[from] PskFileError),
    #[error("bootstrap.psk_file = {0}")]
    BootstrapPskFile(PskFileError),
    #[error("{:?} has a key in both dtls.psk_file and bootstrap.psk_file, and a listener serves both", .0.as_str())]
    SecondKind(PskIdentity),
    #[error("dtls: {error}{}", of_files(.files))]
    Acceptor { error: CredentialError, files: Vec<PathBuf> },
    #[error(transparent)]
    Service(#[from] KeyServiceSetUpError),
}

impl CredentialsConfig {
    /// Loads the certificates and the keys.
    pub fn load(&self) -> Result<Credentials, CredentialsError> {
        let PskFileContents { keys, warnings } = self.load_keys()?;
        Ok(Credentials { keys, warnings, acceptor: self.load_acceptor()? })
    }

    /// Reads the keys of the PSK file; empty without such a file.
    pub(crate) fn load_keys(&self) -> Result<PskFileContents, PskFileError> {
        self.psk_file.as_ref().map(psk_file::read).transpose().map(Option::unwrap_or_default)
    }

    /// Reads the keys of bootstrap accounts; empty without such a file.
    pub(crate) fn load_bootstrap_keys(&self) -> Result<PskFileContents, PskFileError> {
        let read = self.bootstrap_psk_file.as_ref().map(psk_file::read).transpose()?;
        let PskFileContents { keys, warnings } = read.unwrap_or_default();
        let warnings = warnings.into_iter().map(|warning| warning.replace("dtls.psk_", "bootstrap.psk_")).collect();
        Ok(PskFileContents { keys, warnings })
    }

    pub(crate) fn load_acceptor(&self) -> Result<Acceptor, CredentialsError> {
        let config = AcceptorConfig {
            certificate_chain: read("certfile", self.certfile.as_deref())?,
            private_key: read("keyfile", self.keyfile.as_deref())?.map(PemSecret::new),
            private_key_password: self.password.clone(),
            authorities: read("cacertfile", self.cacertfile.as_deref())?,
            pinned: self.load_pinned()?,
            // Without a key file the gateway asks for no certificate.
            verify: if self.keyfile.is_some() { self.verify } else { VerifyMode::None },
            psk: self.psk_file.is_some() || self.psk_http.is_some() || self.bootstrap,
            raw_public_keys: self.raw_public_keys,
            cipher_suites: self.cipher_suites.clone(),
            connection_ids: self.connection_ids,
            tickets: self.tickets,
            mtu: self.mtu,
        };
        Acceptor::new(&config).map_err(|error| {
            let files = [&self.certfile, &self.keyfile, &self.cacertfile];
            CredentialsError::Acceptor { error, files: files.into_iter().flatten().cloned().collect() }
        })
    }

    /// Returns the client of the key service with its maximum number of lookups in flight; `None` if no service is
    /// configured.
    pub fn asker(&self) -> Result<Option<(KeyServiceClient, usize)>, KeyServiceSetUpError> {
        let asker = |config: &PskHttpConfig| Ok((KeyServiceClient::new(config)?, config.requests));
        self.psk_http.as_ref().map(asker).transpose()
    }

    /// Returns the files and folders of certificates.
    pub(crate) fn certificate_files(&self) -> Vec<PathBuf> {
        let single = [&self.certfile, &self.keyfile, &self.cacertfile].into_iter().flatten();
        single.chain(&self.pinned).cloned().collect()
    }

    /// Returns the PSK file.
    pub(crate) fn key_file(&self) -> Option<PathBuf> {
        self.psk_file.as_ref().map(|config| config.file.clone())
    }

    /// Returns the PSK file of bootstrap accounts.
    pub(crate) fn bootstrap_key_file(&self) -> Option<PathBuf> {
        self.bootstrap_psk_file.as_ref().map(|config| config.file.clone())
    }

    fn load_pinned(&self) -> Result<Vec<Pinned>, CredentialsError> {
        let unreadable = |file: &Path| {
            let file = file.to_owned();
            |error| CredentialsError::Unreadable { key: "pinned", file, error }
        };
        let mut pinned = Vec::new();
        for place in &self.pinned {
            let files = if place.is_dir() { folder(place).map_err(unreadable(place))? } else { vec![place.clone()] };
            for file in files {
                let pem = fs::read(&file).map_err(unreadable(&file))?;
                let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                pinned.push(Pinned { name, pem });
            }
        }
        Ok(pinned)
    }
}

fn read(key: &'static str, file: Option<&Path>) -> Result<Option<Vec<u8>>, CredentialsError> {
    let read = |file: &Path| {
        fs::read(file).map_err(|error| CredentialsError::Unreadable { key, file: file.to_owned(), error })
    };
    file.map(read).transpose()
}

/// Returns the files `*.pem` of a folder, ordered by name.
fn folder(place: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(place)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "pem")).collect();
    files.sort();
    Ok(files)
}

fn of_files(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}
