//! The files of the console: tokens and certificate. They are read again when they have changed.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use openssl::ssl::SslAcceptor;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::file_snapshot::FileSnapshot;
use crate::tls;
use lwm2m_base::secret::Secret;

use super::access::tokens::{Access, ApiTokens};
use super::{CertificateFiles, ConsoleConfig, ConsoleError, ConsoleServer};

/// Interval at which the files are checked for changes: so long does a revoked token work.
const INTERVAL: Duration = Duration::from_secs(1);

/// The files, as they were read last.
pub(crate) struct ReloadedFiles {
    tokens_file: Option<PathBuf>,
    /// The token that is in force besides those of the file.
    trial_token: Option<Secret>,
    certificate: Option<CertificateFiles>,
    /// The state of the files before they were read at the start.
    read_at: FileSnapshot,
    in_force: RwLock<FilesInForce>,
}

struct FilesInForce {
    tokens: Arc<ApiTokens>,
    acceptor: Option<SslAcceptor>,
}

impl ReloadedFiles {
    pub(super) fn read(config: &ConsoleConfig) -> Result<Self, ConsoleError> {
        let ConsoleConfig { tokens, trial_token, certificate, .. } = config;
        let mut files = Vec::from_iter(tokens.clone());
        if let Some(CertificateFiles { certfile, keyfile }) = certificate {
            files.extend([certfile.clone(), keyfile.clone()]);
        }
        let read_at = FileSnapshot::at(files);
        let in_force = FilesInForce {
            tokens: Arc::new(read_tokens(tokens.as_ref(), trial_token.as_ref())?),
            acceptor: read_certificate(certificate.as_ref())?,
        };
        Ok(Self {
            tokens_file: tokens.clone(),
            trial_token: trial_token.clone(),
            certificate: certificate.clone(),
            read_at,
            in_force: RwLock::new(in_force),
        })
    }

    pub(super) fn tokens(&self) -> Arc<ApiTokens> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner).tokens)
    }

    /// Returns the acceptor of TLS connections; `None` without a certificate.
    pub(super) fn acceptor(&self) -> Option<SslAcceptor> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// Reads all files again. A file that cannot be used keeps its old state.
    fn read_again(&self) {
        match read_tokens(self.tokens_file.as_ref(), self.trial_token.as_ref()) {
            Ok(tokens) => {
                info!(tokens = tokens.len(), "tokens of the console reloaded");
                self.in_force.write().unwrap_or_else(PoisonError::into_inner).tokens = Arc::new(tokens);
            }
            Err(error) => warn!(%error, "tokens of the console rejected; the old tokens stay in force"),
        }
        match read_certificate(self.certificate.as_ref()) {
            Ok(acceptor) => self.in_force.write().unwrap_or_else(PoisonError::into_inner).acceptor = acceptor,
            Err(error) => warn!(%error, "certificate of the console rejected; the old one stays in force"),
        }
    }
}

/// Reads the files again whenever they have changed. A file that is being written looks different twice.
pub(super) async fn watch(server: Arc<ConsoleServer>) {
    let mut known = server.files.read_at.clone();
    loop {
        let (looking, before) = (Arc::clone(&server), known.clone());
        let looked = spawn_blocking(move || {
            let found = before.again();
            if before != found {
                looking.files.read_again();
            }
            found
        });
        match looked.await {
            Ok(found) => known = found,
            Err(error) => debug!(%error, "the files of the console were not checked for changes"),
        }
        sleep(INTERVAL).await;
    }
}

fn read_tokens(file: Option<&PathBuf>, trial: Option<&Secret>) -> Result<ApiTokens, ConsoleError> {
    let tokens = file.map(|file| ApiTokens::read(file)).transpose()?.unwrap_or_default();
    Ok(match trial {
        Some(token) => tokens.with(token, Access::of_trial()),
        None => tokens,
    })
}

fn read_certificate(files: Option<&CertificateFiles>) -> Result<Option<SslAcceptor>, ConsoleError> {
    Ok(files.map(|files| tls::acceptor(&files.certfile, &files.keyfile)).transpose()?)
}
