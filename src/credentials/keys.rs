//! Looks up pre-shared keys for the driver: those of the files at once, those of the key service later. Nothing here
//! blocks.
//!
//! A key of `bootstrap.psk_file` is found at sockets for bootstrap only, a key of `dtls.psk_file` or of the key service
//! at sockets for registrations only. At a socket for both an identity has the key of one of them.

use std::collections::HashSet;
use std::future::pending;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tracing::{debug, info, warn};

use crate::observability::metrics::Metrics;
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::gateway::config::SocketRole;
use lwm2m_dtls::credentials::{FoundKey, KeyAnswer, KeyKind, KeyQuestion, KeyUse};

use super::psk_file;
use super::psk_http::{KeyServiceClient, KeyServiceError};

/// Cache time of a key of the file. The cache is cleared when the file changes.
const CACHE_TIME: Duration = Duration::from_secs(3600);

/// The keys of the PSK file as it was read last. Clones share them.
#[derive(Clone, Default)]
pub struct FileKeys(Arc<RwLock<psk_file::PskTable>>);

impl FileKeys {
    /// Replaces the keys and returns the identities whose key was removed or changed.
    pub fn replace(&self, keys: psk_file::PskTable) -> HashSet<PskIdentity> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut *current, keys);
        let gone = former.into_iter().filter(|(identity, key)| current.get(identity) != Some(key));
        gone.map(|(identity, _)| identity).collect()
    }

    /// Calls `look` with all keys.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&psk_file::PskTable) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether the key of an association may be the one of its identity in the file.
    pub(crate) fn may_be_used(&self, used: KeyUse<'_>) -> bool {
        self.with(|keys| keys.get(used.identity).is_some_and(|key| used.is_of(key) != Some(false)))
    }

    /// Returns the identities that have a key.
    pub fn identities(&self) -> HashSet<PskIdentity> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn find(&self, identity: &PskIdentity, kind: KeyKind) -> Option<KeyAnswer> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(identity).map(|key| KeyAnswer::Found { key: FoundKey::new(key.clone(), kind), keep_for: CACHE_TIME })
    }
}

/// Looks up the keys of devices.
pub struct KeyFinder {
    file: FileKeys,
    /// The keys of `bootstrap.psk_file`.
    bootstrap: FileKeys,
    asker: Option<KeyServiceClient>,
    /// Whether an identity without a key in the file has none.
    knows_all: bool,
    /// Maximum number of lookups in flight.
    most: usize,
    asked: JoinSet<EndedLookup>,
    /// Whether the last lookup at the service failed.
    failing: bool,
    metrics: Arc<Metrics>,
}

/// A lookup that has ended.
struct EndedLookup {
    question: KeyQuestion,
    result: Result<KeyAnswer, KeyServiceError>,
}

impl KeyFinder {
    /// Creates a lookup in the file and then, if there is one, at the key service. Other identities are unknown.
    pub fn new(file: FileKeys, asker: Option<(KeyServiceClient, usize)>, metrics: Arc<Metrics>) -> Self {
        let (asker, most) = asker.map_or((None, 0), |(asker, most)| (Some(asker), most));
        let (bootstrap, asked) = (FileKeys::default(), JoinSet::new());
        Self { file, bootstrap, asker, knows_all: false, most, asked, failing: false, metrics }
    }

    /// Notes that an identity without a key in the file has none.
    pub fn that_knows_all(self) -> Self {
        Self { knows_all: true, ..self }
    }

    /// Returns whether an association was made with a key that the file does not have any more.
    pub fn refuses(&self, used: KeyUse<'_>) -> bool {
        self.knows_all && used.kind == KeyKind::Registration && !self.file.may_be_used(used)
    }

    /// Finds the keys of bootstrap accounts here.
    pub(crate) fn with_bootstrap(self, bootstrap: FileKeys) -> Self {
        Self { bootstrap, ..self }
    }

    /// Creates a lookup that knows no keys.
    pub fn none(metrics: Arc<Metrics>) -> Self {
        Self::new(FileKeys::default(), None, metrics)
    }

    /// Returns the key of an identity if it is known at once; otherwise [`KeyFinder::answer`] returns it later.
    pub fn find(&mut self, question: &KeyQuestion) -> Option<KeyAnswer> {
        let counters = &self.metrics.credentials;
        let role = SocketRole::of_realm(question.realm);
        let bootstrap =
            role.serves_bootstrap().then(|| self.bootstrap.find(&question.identity, KeyKind::Bootstrap)).flatten();
        let file =
            || role.serves_registrations().then(|| self.file.find(&question.identity, KeyKind::Registration)).flatten();
        if let Some(found) = bootstrap.or_else(file) {
            counters.keys_of_file.inc();
            return Some(found);
        }
        let Some(asker) = self.asker.as_ref().filter(|_| role.serves_registrations()) else {
            counters.keys_unknown.inc();
            return Some(KeyAnswer::Unknown { keep_for: CACHE_TIME });
        };
        if self.asked.len() >= self.most {
            counters.keys_refused.inc();
            return Some(KeyAnswer::Unavailable);
        }
        let (asker, question) = (asker.clone(), question.clone());
        self.asked.spawn(async move {
            let result = asker.ask(&question.identity).await;
            EndedLookup { question, result }
        });
        None
    }

    /// Waits for the next answer of the key service. Cancel-safe.
    pub async fn answer(&mut self) -> (KeyQuestion, KeyAnswer) {
        match self.asked.join_next().await {
            Some(ended) => self.ended(ended),
            None => pending().await,
        }
    }

    fn ended(&mut self, ended: Result<EndedLookup, JoinError>) -> (KeyQuestion, KeyAnswer) {
        let EndedLookup { question, result } = match ended {
            Ok(asked) => asked,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let counters = &self.metrics.credentials;
        let answer = match result {
            Ok(answer) => {
                let counter = match answer {
                    KeyAnswer::Found { .. } => &counters.keys_of_service,
                    KeyAnswer::Unknown { .. } | KeyAnswer::Unavailable => &counters.keys_unknown,
                };
                counter.inc();
                if std::mem::take(&mut self.failing) {
                    info!("key service (dtls.psk_http) available again");
                }
                answer
            }
            Err(error) => {
                counters.keys_failed.inc();
                if std::mem::replace(&mut self.failing, true) {
                    debug!(identity = question.identity.as_str(), %error, "no key");
                } else {
                    let identity = question.identity.as_str();
                    warn!(identity, %error, "key service (dtls.psk_http) gives unexpected answers");
                }
                KeyAnswer::Unavailable
            }
        };
        (question, answer)
    }
}
