//! Reloads settings, object definitions and credentials while the program runs: on SIGHUP, and when a file has changed.
//!
//! 1. Something changed: SIGHUP, or the files look different than before, twice in the same way ([`FileSnapshot`]),
//!    so that a file is not read while an editor writes it.
//! 2. The configuration is read. With a mistake in it everything stays as it is.
//! 3. The settings, the object definitions, the certificates, the keys of devices and the bootstrap accounts are read
//!    in this order, each by that configuration. What cannot be read keeps its old state, is logged, and does not stop
//!    the others.
//! 4. The driver applies each change between two inputs.
//!
//! A changed key that cannot be reloaded is named in the log: it needs a restart.

mod bootstrap;
mod credentials;
mod definitions;
mod keys;
mod settings;
pub(crate) mod status;

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::clock::unix_time;
use crate::config::Config;
use crate::driver::control::{Control, SettingsChange};
use crate::errors::one_line;
use crate::file_snapshot::FileSnapshot;
use crate::observability::metrics::{Metrics, ReloadPart};
use crate::process::service;

pub(crate) use bootstrap::ReloadableAccounts;
pub(crate) use credentials::{ReloadableCertificates, ReloadableCredentials};
pub(crate) use definitions::ReloadableDefinitions;
pub(crate) use keys::ReloadableKeys;
pub(crate) use settings::ReloadableSettings;
use status::ReloadStatus;

/// Everything that can be reloaded, with its state in force.
pub(crate) struct Reloading {
    /// The last configuration without mistakes.
    config: Config,
    settings: ReloadableSettings,
    definitions: ReloadableDefinitions,
    /// `None` where no listener is for DTLS.
    credentials: Option<ReloadableCredentials>,
    accounts: Option<ReloadableAccounts>,
    control: Control,
    failures: ReloadFailures,
    /// The files before the program read them: an edit from then on is a change.
    beginning: FileSnapshot,
}

/// The failures that were logged, so that each is logged once.
struct ReloadFailures {
    logged: BTreeMap<ReloadPart, String>,
    metrics: Arc<Metrics>,
    status: ReloadStatus,
}

/// The cause of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReloadReason {
    /// An operator asked for it, and expects an answer in the log.
    Signal,
    Change,
}

impl Reloading {
    /// Creates the reloading; `config` is the configuration in force, `read_at` the state of its files before they were
    /// read.
    pub(crate) fn new(
        config: Config,
        settings: ReloadableSettings,
        definitions: ReloadableDefinitions,
        (credentials, accounts): (Option<ReloadableCredentials>, Option<ReloadableAccounts>),
        control: Control,
        (read_at, metrics): (FileSnapshot, Arc<Metrics>),
    ) -> Self {
        let failures = ReloadFailures { logged: BTreeMap::new(), metrics, status: definitions.status().clone() };
        let mut beginning = read_at;
        beginning.extend(accounts.iter().filter_map(ReloadableAccounts::read_at));
        Self { config, settings, definitions, credentials, accounts, control, failures, beginning }
    }

    /// Runs until it is aborted. Without `hangup` only changed files cause a reload.
    pub(crate) async fn run(mut self, mut hangup: Option<Signal>) {
        let mut known = std::mem::take(&mut self.beginning);
        let mut before = known.clone();
        loop {
            let reason = tokio::select! {
                () = signalled(&mut hangup) => ReloadReason::Signal,
                () = pause(self.config.watch_interval) => ReloadReason::Change,
            };
            let snapshot;
            (self, snapshot) = blocking(self, |reloading| reloading.snapshot()).await;
            let settled = snapshot == before;
            before = snapshot.clone();
            if reason == ReloadReason::Change && (snapshot == known || !settled) {
                continue;
            }
            known = snapshot;
            if reason == ReloadReason::Signal {
                service::reloading();
            }
            let changes;
            (self, changes) = blocking(self, move |reloading| reloading.read(reason)).await;
            apply(&self.control, changes).await;
            if reason == ReloadReason::Signal {
                service::ready();
            }
        }
    }

    /// Takes a snapshot of the configuration file, of every file and folder that it names, and of those that the
    /// bootstrap accounts name.
    fn snapshot(&self) -> FileSnapshot {
        let named = self.accounts.iter().filter_map(ReloadableAccounts::read_at).flat_map(FileSnapshot::paths);
        FileSnapshot::at(files_of(&self.config).into_iter().chain(named.cloned()))
    }

    /// Reads all files, and returns the changes that the driver has to apply, in this order.
    fn read(&mut self, reason: ReloadReason) -> Vec<SettingsChange> {
        let failures = &mut self.failures;
        match Config::load(self.config.file.as_deref(), env::vars_os()) {
            Ok(config) => self.config = config,
            Err(error) => {
                failures.failed(ReloadPart::Settings, reason, one_line(&error.to_string()));
                return Vec::new();
            }
        }
        let config = &self.config;
        let limits = failures.note(ReloadPart::Settings, reason, self.settings.read(config));
        let model = failures.note(ReloadPart::Definitions, reason, self.definitions.read(&config.xml_dir));
        let mut changes: Vec<SettingsChange> = [limits, model].into_iter().flatten().collect();
        if let Some(ReloadableCredentials { certificates, keys }) = &mut self.credentials {
            let acceptor = certificates.read(&config.credentials);
            changes.extend(failures.note(ReloadPart::Certificates, reason, acceptor));
            let (keys, bootstrap_keys) = keys.read(&config.credentials);
            changes.extend(failures.note(ReloadPart::Keys, reason, keys));
            changes.extend(failures.note(ReloadPart::BootstrapKeys, reason, bootstrap_keys));
        }
        if let Some(accounts) = &mut self.accounts {
            changes.extend(failures.note(ReloadPart::Accounts, reason, accounts.read(&config.bootstrap)));
        }
        changes
    }
}

impl ReloadFailures {
    /// Counts and logs the result of reading a part, and returns its change if there is one.
    fn note(
        &mut self,
        part: ReloadPart,
        reason: ReloadReason,
        read: Result<Option<SettingsChange>, String>,
    ) -> Option<SettingsChange> {
        match read {
            Ok(change) => {
                self.succeeded(part);
                change
            }
            Err(why) => {
                self.failed(part, reason, why);
                None
            }
        }
    }

    fn succeeded(&mut self, part: ReloadPart) {
        // Without a clock the metric cannot say when.
        let now = unix_time().unwrap_or(Duration::ZERO);
        self.metrics.reload.succeeded(part, now);
        self.status.note(now, part, None);
        if self.logged.remove(&part).is_some() {
            info!(part = part.name(), "configuration is valid again");
        }
    }

    /// Logs a failure once, and again if an operator asks for another reload.
    fn failed(&mut self, part: ReloadPart, reason: ReloadReason, why: String) {
        self.metrics.reload.failed(part);
        self.status.note(unix_time().unwrap_or(Duration::ZERO), part, Some(why.clone()));
        let logged = self.logged.insert(part, why.clone());
        if reason == ReloadReason::Signal || logged.as_ref() != Some(&why) {
            warn!(part = part.name(), why, "reload failed; the old settings stay in force");
        } else {
            debug!(part = part.name(), why, "reload failed");
        }
    }
}

/// Returns the configuration file, and every file and folder that it names.
pub(crate) fn files_of(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::from_iter(config.file.clone());
    files.push(config.xml_dir.clone());
    files.extend(config.credentials.certificate_files());
    files.extend(config.credentials.key_file());
    files.extend(config.credentials.bootstrap_key_file());
    files.extend(config.bootstrap.accounts.clone());
    files
}

async fn signalled(hangup: &mut Option<Signal>) {
    let received = match hangup {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending().await
    }
    info!("SIGHUP received, reloading");
}

async fn pause(interval: Duration) {
    if interval.is_zero() {
        std::future::pending().await
    }
    sleep(interval).await;
}

async fn apply(control: &Control, changes: Vec<SettingsChange>) {
    for change in changes {
        if let Err(silent) = control.change(change).await {
            error!(%silent, "reloaded settings did not take effect: restart the gateway");
        }
    }
}

/// Does work that reads files, which may be slow, off the event loop.
async fn blocking<T: Send + 'static>(
    mut reloading: Reloading,
    work: impl FnOnce(&mut Reloading) -> T + Send + 'static,
) -> (Reloading, T) {
    let working = tokio::task::spawn_blocking(move || {
        let done = work(&mut reloading);
        (reloading, done)
    });
    working.await.expect("reading files does not panic, and nobody aborts it")
}
