//! What `[dtls]` names, read from its files: an [`Acceptor`] for the handshakes, and the keys of the PSK file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use lwm2m_base::secret::Secret;
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig, CredentialError, PemSecret, Pinned, VerifyMode};

use super::psk_file::{self, PskFileConfig, PskFileContents, PskFileError};
use super::psk_http::{KeyServiceClient, KeyServiceSetUpError, PskHttpConfig};

/// What an operator can choose about credentials, with EMQX's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialsConfig {
    /// What becomes of a start with credentials that are of no use.
    pub on_error: OnError,
    /// Our certificate with its chain, and its key, as PEM.
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    /// Of a `keyfile` that is encrypted.
    pub password: Option<Secret>,
    /// The authorities of client certificates, as PEM.
    pub cacertfile: Option<PathBuf>,
    pub verify: VerifyMode,
    /// Certificates or public keys that are trusted by themselves: files, or folders of them.
    pub pinned: Vec<PathBuf>,
    pub raw_public_keys: bool,
    /// Empty for all that are possible.
    pub cipher_suites: Vec<String>,
    pub connection_ids: bool,
    pub tickets: bool,
    pub mtu: u16,
    pub psk_file: Option<PskFileConfig>,
    pub psk_http: Option<PskHttpConfig>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// No handshakes until they are of use; plain UDP is served meanwhile.
    Disable,
    Exit,
}

/// Credentials that can be used.
pub struct Credentials {
    pub acceptor: Acceptor,
    pub keys: psk_file::PskTable,
    /// What is valid, and hardly meant: a sentence each, without secrets.
    pub warnings: Vec<String>,
}

/// Why credentials are of no use. It names files, never what is in them.
#[derive(Debug, Error)]
pub enum CredentialsError {
    #[error("dtls.{key} = {}: {error}", .file.display())]
    Unreadable { key: &'static str, file: PathBuf, error: io::Error },
    #[error("dtls.psk_file = {0}")]
    PskFile(#[from] PskFileError),
    #[error("dtls: {error}{}", of_files(.files))]
    Acceptor { error: CredentialError, files: Vec<PathBuf> },
    #[error(transparent)]
    Service(#[from] KeyServiceSetUpError),
}

impl CredentialsConfig {
    /// Reads all of it.
    pub fn load(&self) -> Result<Credentials, CredentialsError> {
        let PskFileContents { keys, warnings } = self.load_keys()?;
        Ok(Credentials { keys, warnings, acceptor: self.load_acceptor()? })
    }

    /// None where there is no file of keys.
    pub fn load_keys(&self) -> Result<PskFileContents, PskFileError> {
        self.psk_file.as_ref().map(psk_file::read).transpose().map(Option::unwrap_or_default)
    }

    pub fn load_acceptor(&self) -> Result<Acceptor, CredentialsError> {
        let settings = AcceptorConfig {
            certificate_chain: read("certfile", self.certfile.as_deref())?,
            private_key: read("keyfile", self.keyfile.as_deref())?.map(PemSecret::new),
            private_key_password: self.password.clone(),
            authorities: read("cacertfile", self.cacertfile.as_deref())?,
            pinned: self.load_pinned()?,
            // Who has no key asks for no certificate.
            verify: if self.keyfile.is_some() { self.verify } else { VerifyMode::None },
            psk: self.psk_file.is_some() || self.psk_http.is_some(),
            raw_public_keys: self.raw_public_keys,
            cipher_suites: self.cipher_suites.clone(),
            connection_ids: self.connection_ids,
            tickets: self.tickets,
            mtu: self.mtu,
        };
        Acceptor::new(&settings).map_err(|error| {
            let files = [&self.certfile, &self.keyfile, &self.cacertfile];
            CredentialsError::Acceptor { error, files: files.into_iter().flatten().cloned().collect() }
        })
    }

    /// The service, where there is one, with how many questions it may be asked at once.
    pub fn asker(&self) -> Result<Option<(KeyServiceClient, usize)>, KeyServiceSetUpError> {
        let asker = |settings: &PskHttpConfig| Ok((KeyServiceClient::new(settings)?, settings.requests));
        self.psk_http.as_ref().map(asker).transpose()
    }

    /// The files and folders but for the file of the keys.
    pub fn certificate_files(&self) -> Vec<PathBuf> {
        let single = [&self.certfile, &self.keyfile, &self.cacertfile].into_iter().flatten();
        single.chain(&self.pinned).cloned().collect()
    }

    /// The file of the keys.
    pub fn key_file(&self) -> Option<PathBuf> {
        self.psk_file.as_ref().map(|settings| settings.file.clone())
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

/// The files `*.pem` of a folder, in the order of their names.
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
