//! Sets up DTLS: the credentials, the stored associations, and what is reloaded while the program runs.

use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use tracing::{error, warn};

use crate::bootstrap::second_kind;
use crate::conditions::{Condition, ConditionState, Conditions};
use crate::config::Config;
use crate::credentials::{self, CredentialsConfig, CredentialsError, FileKeys, KeyFinder, OnError, PskFileContents};
use crate::driver::shares::ThreadShare;
use crate::errors::one_line;
use crate::file_snapshot::FileSnapshot;
use crate::observability::metrics::{Metrics, ReloadPart};
use crate::reload::{ReloadableCertificates, ReloadableCredentials, ReloadableKeys};
use crate::store::OpenedStore;
use crate::transport::{Security, UdpListener};
use lwm2m_base::ShardSet;
use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::persistence::record::Change;
use lwm2m_dtls::credentials::KeyKind;
use lwm2m_dtls::handshake::Acceptor;
use lwm2m_dtls::{self as dtls, DtlsServer, SavedAssociation, WriteTerms};

/// Holds everything that DTLS listeners need.
pub(crate) struct DtlsSetup {
    config: dtls::DtlsConfig,
    credentials: CredentialsConfig,
    first_socket: u16,
    acceptor: Option<Acceptor>,
    file_keys: FileKeys,
    /// The keys of bootstrap accounts.
    bootstrap_keys: FileKeys,
    listeners: Vec<UdpListener>,
    /// `None` if the key service cannot be set up: DTLS then stays disabled until the next start, and nothing is
    /// reloaded.
    service: Option<Service>,
    condition: Condition,
    metrics: Arc<Metrics>,
    /// The reason why no handshakes are accepted.
    problem: Option<String>,
    /// Warnings about valid but suspicious settings.
    warnings: Vec<String>,
}

/// The client of the key service with its maximum number of lookups in flight; `None` if no service is configured.
type Service = Option<(credentials::KeyServiceClient, usize)>;

impl DtlsSetup {
    /// Loads the credentials; returns `None` without a DTLS listener. Missing or invalid credentials are an error if
    /// `dtls.on_error` is `exit`. Otherwise handshakes are rejected until the credentials are valid.
    pub(super) fn prepare(
        config: &Config,
        conditions: &Conditions,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Option<Self>> {
        let plain = config.listeners.iter().filter(|listener| listener.security == Security::None).count();
        if plain == config.listeners.len() {
            return Ok(None);
        }
        let mut setup = Self {
            config: config.dtls.clone(),
            credentials: config.credentials.clone(),
            first_socket: u16::try_from(plain).expect("there are fewer listeners than ports"),
            acceptor: None,
            file_keys: FileKeys::default(),
            bootstrap_keys: FileKeys::default(),
            listeners: config.listeners.clone(),
            service: None,
            condition: conditions.add("dtls"),
            metrics: Arc::clone(metrics),
            problem: None,
            warnings: Vec::new(),
        };
        setup.load()?;
        Ok(Some(setup))
    }

    /// Returns the reason why no handshakes are accepted.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Logs the problems of the credentials.
    pub(super) fn tell(&self) {
        if let Some(problem) = &self.problem {
            error!(problem, "DTLS is disabled: its credentials are missing or invalid");
        }
        self.warnings.iter().for_each(|warning| warn!("{warning}"));
    }

    /// Gives the gateway its DTLS layer with the stored associations.
    pub(super) fn join(
        &self,
        gateway: Gateway,
        (now, seed): (Instant, [u8; 32]),
        (share, shards): (ThreadShare, ShardSet),
        store: Option<(&OpenedStore, WriteTerms, Vec<SavedAssociation>)>,
    ) -> Gateway {
        let config = dtls::DtlsConfig { shards, ..share.dtls(&self.config) };
        let new = || DtlsServer::new(config.clone(), self.acceptor.clone(), seed, now);
        let mut server = new();
        if let Some((store, terms, associations)) = store {
            let changes = server.restore(now, terms.clone(), associations);
            let changes: Vec<Change> = changes.into_iter().map(Change::Association).collect();
            if let Err(error) = store.write_now(&changes) {
                // A later process would not know of the sequence numbers that this one uses.
                error!(%error, "stored DTLS sessions not restored; devices must make new handshakes");
                server = new();
                // Associations that it makes from now on are stored once the store can be written again.
                let none = server.restore(now, terms, Vec::new());
                debug_assert!(none.is_empty());
            }
        }
        let mut gateway = gateway.with_dtls(server, self.first_socket);
        gateway.set_keyed_identities(self.file_keys.identities());
        gateway.set_bootstrap_identities(now, self.bootstrap_keys.identities());
        if self.knows_all_keys() {
            gateway.revoke(now, |used| match used.kind {
                KeyKind::Registration => !self.file_keys.may_be_used(used),
                KeyKind::Bootstrap => !self.bootstrap_keys.may_be_used(used),
                KeyKind::Generated => false,
            });
        }
        gateway.close_former_associations(now);
        gateway
    }

    /// Returns whether the file has all keys, so that an identity outside it has none.
    fn knows_all_keys(&self) -> bool {
        self.acceptor.is_some() && matches!(self.service, Some(None))
    }

    /// Returns the key lookup of a driver, with its share of the lookups in flight.
    pub(super) fn keys(&self, share: ThreadShare, metrics: &Arc<Metrics>) -> KeyFinder {
        let service = self.service.clone().flatten().map(|(client, most)| (client, share.part(most)));
        let finder = KeyFinder::new(self.file_keys.clone(), service, Arc::clone(metrics));
        let finder = if self.knows_all_keys() { finder.that_knows_all() } else { finder };
        finder.with_bootstrap(self.bootstrap_keys.clone())
    }

    /// Returns the credentials that can be reloaded; `None` if DTLS stays disabled until the next start. `read_at` is
    /// the state of their files before they were loaded.
    pub(crate) fn reloadable(self, read_at: &FileSnapshot) -> Option<ReloadableCredentials> {
        self.service.as_ref()?;
        let read_at = self.acceptor.is_some().then_some(read_at);
        Some(ReloadableCredentials {
            certificates: ReloadableCertificates::new(&self.credentials, read_at, self.condition, self.metrics),
            keys: ReloadableKeys::new(
                &self.credentials,
                read_at,
                (self.file_keys, self.bootstrap_keys),
                self.listeners,
            ),
        })
    }

    fn load(&mut self) -> anyhow::Result<()> {
        match self.try_to_load() {
            Ok(()) => {
                self.condition.set(ConditionState::Up, "handshakes are accepted");
                self.metrics.dtls_up.set(1);
            }
            Err(problem) if self.credentials.on_error == OnError::Exit => {
                return Err(anyhow!("{problem} (`dtls.on_error = \"disable\"` serves plain UDP in that case)"));
            }
            Err(problem) => {
                self.metrics.reload.failed(ReloadPart::Certificates);
                let problem = one_line(&problem.to_string());
                self.condition.set(ConditionState::Off, problem.clone());
                self.problem = Some(problem);
            }
        }
        Ok(())
    }

    fn try_to_load(&mut self) -> Result<(), CredentialsError> {
        // First, since names with a key are not for plain UDP, whatever else is wrong. There is nobody yet whose key it
        // was before.
        let PskFileContents { keys, mut warnings } = self.credentials.load_keys()?;
        let bootstrap = self.credentials.load_bootstrap_keys().map_err(CredentialsError::BootstrapPskFile)?;
        warnings.extend(bootstrap.warnings);
        self.warnings = warnings;
        let second_kind = second_kind(&self.listeners, &keys, &bootstrap.keys).cloned();
        self.file_keys.replace(keys);
        self.bootstrap_keys.replace(bootstrap.keys);
        if let Some(identity) = second_kind {
            return Err(CredentialsError::SecondKind(identity));
        }
        self.service = Some(self.credentials.asker()?);
        self.acceptor = Some(self.credentials.load_acceptor()?);
        Ok(())
    }
}
