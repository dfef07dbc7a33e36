//! Reads anew what may change while the program runs: at SIGHUP, and when a file has changed.
//!
//! 1. Something changed: SIGHUP, or the files look different than before, twice in the same way (`watch`), so that
//!    nobody is caught in the middle of writing.
//! 2. The configuration is read. With a mistake in it all stays as it is.
//! 3. Each part (`parts`) reads what is its own by that configuration. One that cannot keeps its old state, says why, and
//!    does not stop the others.
//! 4. What a part has read goes to the driver, which puts it in force between two inputs.
//!
//! A setting that is no part of this is named in the log: it needs a restart.

mod parts;
mod watch;

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::config::Config;
use crate::driver::control::{Control, Request};
use crate::driver::unix_time;
use crate::errors::one_line;
use crate::observability::metrics::{Metrics, Part as Counted};
use crate::service;

pub use parts::{Definitions, Settings, takes_effect_at_once};
pub use watch::FileSnapshot;

/// One thing that can be read anew. What it gives is put in force by the driver.
pub trait Part: Send + 'static {
    fn counted_as(&self) -> Counted;

    /// Files, and folders for what is directly in them: a change is a reason to read anew. The configuration file is
    /// looked at anyway.
    fn files(&self, config: &Config) -> Vec<PathBuf>;

    /// Reads and checks; may block.
    ///
    /// # Errors
    /// In words, if something is wrong: the old state stays.
    fn read(&mut self, config: &Config) -> Result<Vec<Request>, String>;
}

pub struct Reloading {
    /// The last one without mistakes.
    config: Config,
    parts: Vec<Box<dyn Part>>,
    control: Control,
    metrics: Arc<Metrics>,
    /// What is wrong, and was said.
    failures: BTreeMap<Counted, String>,
    /// How the files looked when the program began: what is edited from then on is a change.
    beginning: FileSnapshot,
}

/// Why something is read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// An operator wants to know.
    Signal,
    Change,
}

impl Reloading {
    /// `config` is what the program runs with.
    pub fn new(config: Config, parts: Vec<Box<dyn Part>>, control: Control, metrics: Arc<Metrics>) -> Self {
        let mut reloading =
            Self { config, parts, control, metrics, failures: BTreeMap::new(), beginning: FileSnapshot::default() };
        reloading.beginning = reloading.look();
        reloading
    }

    /// Runs until it is aborted. Without `hangup` only files are a reason.
    pub async fn run(mut self, mut hangup: Option<Signal>) {
        let mut known = std::mem::take(&mut self.beginning);
        let mut before = known.clone();
        loop {
            let reason = tokio::select! {
                () = signalled(&mut hangup) => Reason::Signal,
                () = pause(self.config.watch_interval) => Reason::Change,
            };
            let look;
            (self, look) = blocking(self, |reloading| reloading.look()).await;
            let settled = look == before;
            before = look.clone();
            if reason == Reason::Change && (look == known || !settled) {
                continue;
            }
            known = look;
            if reason == Reason::Signal {
                service::reloading();
            }
            let requests;
            (self, requests) = blocking(self, move |reloading| reloading.read(reason)).await;
            put_in_force(&self.control.clone(), requests).await;
            if reason == Reason::Signal {
                service::ready();
            }
        }
    }

    fn look(&self) -> FileSnapshot {
        let files = self.parts.iter().flat_map(|part| part.files(&self.config));
        FileSnapshot::at(self.config.file.clone().into_iter().chain(files))
    }

    fn read(&mut self, reason: Reason) -> Vec<Request> {
        match Config::load(self.config.file.as_deref(), env::vars_os()) {
            Ok(config) => self.config = config,
            Err(error) => {
                self.failed(Counted::Settings, reason, one_line(&error.to_string()));
                return Vec::new();
            }
        }
        let mut parts = std::mem::take(&mut self.parts);
        let requests = parts.iter_mut().flat_map(|part| self.read_part(reason, part.as_mut())).collect();
        self.parts = parts;
        requests
    }

    fn read_part(&mut self, reason: Reason, part: &mut dyn Part) -> Vec<Request> {
        match part.read(&self.config) {
            Ok(requests) => {
                self.succeeded(part.counted_as());
                requests
            }
            Err(why) => {
                self.failed(part.counted_as(), reason, why);
                Vec::new()
            }
        }
    }

    fn succeeded(&mut self, part: Counted) {
        // Without a clock the metric cannot say when.
        self.metrics.reload.succeeded(part, unix_time().unwrap_or(Duration::ZERO));
        if self.failures.remove(&part).is_some() {
            info!(part = part.name(), "configuration is valid again");
        }
    }

    /// Says it once, and to an operator who asks again.
    fn failed(&mut self, part: Counted, reason: Reason, why: String) {
        self.metrics.reload.failed(part);
        let said = self.failures.insert(part, why.clone());
        if reason == Reason::Signal || said.as_ref() != Some(&why) {
            warn!(part = part.name(), why, "reload failed; the old settings stay in force");
        } else {
            debug!(part = part.name(), why, "reload failed");
        }
    }
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

async fn put_in_force(control: &Control, requests: Vec<Request>) {
    for request in requests {
        if let Err(silent) = control.send(request).await {
            error!(%silent, "reloaded settings are not in force");
        }
    }
}

/// Files may be slow.
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
