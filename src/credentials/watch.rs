//! Keys and certificates that change while the program runs.
//!
//! Each file is looked at now and then, and all of them at once when [`Reload::now`] is called. What has changed is read
//! anew: good credentials take the place of the old ones, from the next handshake on; bad ones are told once, and the old
//! ones stay. Associations that there are stay in any case.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::driver::control::Control;
use crate::observability::conditions::{Condition, State};
use crate::observability::metrics::Metrics;

use super::files::{CredentialsError, Settings};
use super::keys::FileKeys;

/// How often the files are looked at: a look costs a few system calls, and needs no word of the file system.
const EVERY: Duration = Duration::from_secs(2);

/// Has the credentials read anew; a clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// Reads all files, whether they seem to have changed or not.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

pub struct Watcher {
    settings: Settings,
    keys: FileKeys,
    control: Control,
    condition: Condition,
    metrics: Arc<Metrics>,
    seen: Seen,
    reload: Reload,
}

/// What the files looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    certificates: Vec<(PathBuf, Option<Look>)>,
    keys: Option<Look>,
}

/// A file that was written, or that another one was put in the place of, looks another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Watcher {
    /// `condition` says whether there can be handshakes. It is up, or else the credentials are of no use now.
    pub fn new(
        settings: Settings,
        keys: FileKeys,
        control: Control,
        condition: Condition,
        metrics: Arc<Metrics>,
        reload: Reload,
    ) -> Self {
        let seen = Seen::of(&settings);
        Self { settings, keys, control, condition, metrics, seen, reload }
    }

    /// For as long as the program runs.
    pub async fn run(mut self) {
        loop {
            let asked = tokio::select! {
                () = self.reload.0.notified() => true,
                () = sleep(EVERY) => false,
            };
            self.look(asked).await;
        }
    }

    async fn look(&mut self, asked: bool) {
        let settings = self.settings.clone();
        let seen = tokio::task::spawn_blocking(move || Seen::of(&settings)).await;
        let Ok(seen) = seen else { return };
        let before = std::mem::replace(&mut self.seen, seen);
        if asked || before.keys != self.seen.keys {
            self.read_keys().await;
        }
        if asked || before.certificates != self.seen.certificates {
            self.read_certificates().await;
        }
    }

    async fn read_keys(&self) {
        let Some(file) = self.settings.psk_file.as_ref().map(|settings| settings.file.display()) else { return };
        let settings = self.settings.clone();
        match tokio::task::spawn_blocking(move || settings.load_keys()).await {
            Ok(Ok(keys)) => {
                self.metrics.credentials.reloads_taken.increment();
                info!(%file, keys = keys.len(), "keys of devices read anew");
                self.keys.replace(keys);
                self.told(self.control.forget_keys().await.is_ok());
            }
            Ok(Err(error)) => self.kept(&CredentialsError::from(error)),
            Err(error) => error!(%error, "reading the keys of devices failed"),
        }
    }

    async fn read_certificates(&self) {
        let settings = self.settings.clone();
        match tokio::task::spawn_blocking(move || settings.load_acceptor()).await {
            Ok(Ok(acceptor)) => {
                self.metrics.credentials.reloads_taken.increment();
                info!("credentials of DTLS read anew");
                self.told(self.control.set_acceptor(acceptor).await.is_ok());
                self.condition.set(State::Up, "handshakes are taken");
            }
            Ok(Err(error)) => self.kept(&error),
            Err(error) => error!(%error, "reading the credentials of DTLS failed"),
        }
    }

    fn kept(&self, error: &CredentialsError) {
        self.metrics.credentials.reloads_refused.increment();
        warn!(%error, "changed credentials of DTLS are of no use: what was read before stays in force");
    }

    fn told(&self, taken: bool) {
        if !taken {
            debug!("the driver was not there to take credentials");
        }
    }
}

impl Seen {
    fn of(settings: &Settings) -> Self {
        let look = |file: PathBuf| {
            let look = Look::at(&file);
            (file, look)
        };
        Self {
            certificates: settings.certificate_files().into_iter().map(look).collect(),
            keys: settings.psk_file.as_ref().and_then(|settings| Look::at(&settings.file)),
        }
    }
}

impl Look {
    /// None for what is not there.
    fn at(file: &Path) -> Option<Self> {
        let metadata = fs::metadata(file).ok()?;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() })
    }
}
