//! The parts of the program that can be read anew.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::{info, warn};

use crate::config::{Config, Written};
use crate::definitions;
use crate::descriptors::Room;
use crate::driver::control::Request;
use crate::observability::logging;
use crate::observability::metrics::{Metrics, Part as Counted};
use lwm2m_core::lwm2m::model::BrokenFile;

use super::Part;

/// The keys that take effect without a restart; those that end with a dot stand for a section.
const RELOADED: [&str; 20] = [
    "limits.",
    "log.level",
    "xml_dir",
    "watch_interval",
    "dtls.certfile",
    "dtls.keyfile",
    "dtls.password",
    "dtls.cacertfile",
    "dtls.verify",
    "dtls.fail_if_no_peer_cert",
    "dtls.pinned",
    "dtls.raw_public_keys",
    "dtls.ciphers",
    "dtls.psk_ciphers",
    "dtls.connection_id",
    "dtls.session_tickets",
    "dtls.mtu",
    "dtls.psk_file",
    "dtls.psk_separator",
    "dtls.psk_encoding",
];

/// The log level and the limits of the gateway, and the look at all other keys.
pub struct Settings {
    /// What the program began with.
    started: Written,
    in_force: Written,
    /// The keys that were named last as needing a restart.
    named: Vec<String>,
    room: Room,
    /// The warnings that were told.
    warned: Vec<String>,
}

impl Settings {
    /// `room` bounds the devices, whatever the configuration says.
    pub fn new(config: &Config, room: Room) -> Self {
        let (written, warned) = (config.written.clone(), config.warnings.clone());
        Self { started: written.clone(), in_force: written, named: Vec::new(), room, warned }
    }

    fn tell_new_warnings(&mut self, config: &Config) {
        for warning in config.warnings.iter().filter(|warning| !self.warned.contains(warning)) {
            warn!("{warning}");
        }
        self.warned = config.warnings.clone();
    }

    /// Keys of other parts are none of these.
    fn name_those_that_need_a_restart(&mut self, config: &Config) {
        let mut changed = self.started.differences(&config.written);
        changed.retain(|key| !takes_effect_at_once(key));
        if !changed.is_empty() && changed != self.named {
            warn!(keys = changed.join(", "), "these settings have changed, and need a restart to take effect");
        }
        self.named = changed;
    }
}

impl Part for Settings {
    fn counted_as(&self) -> Counted {
        Counted::Settings
    }

    fn files(&self, _: &Config) -> Vec<PathBuf> {
        Vec::new()
    }

    fn read(&mut self, config: &Config) -> Result<Vec<Request>, String> {
        self.name_those_that_need_a_restart(config);
        self.tell_new_warnings(config);
        let mut changed = self.in_force.differences(&config.written);
        self.in_force = config.written.clone();
        changed.retain(|key| takes_effect_at_once(key));
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        logging::set_filter(&config.log.filter).map_err(|error| error.to_string())?;
        info!(keys = changed.join(", "), "these settings have changed, and take effect");
        Ok(vec![Request::Limits(Box::new(self.room.bound(&config.gateway.limits)))])
    }
}

/// The object definitions.
pub struct Definitions {
    /// The files that are broken and were so when the definitions in force were read.
    broken: BTreeSet<String>,
    metrics: Arc<Metrics>,
}

impl Definitions {
    /// `broken`: the files that were not taken at the start.
    pub fn new(broken: &[BrokenFile], metrics: Arc<Metrics>) -> Self {
        Self { broken: names(broken), metrics }
    }
}

impl Part for Definitions {
    fn counted_as(&self) -> Counted {
        Counted::Definitions
    }

    fn files(&self, config: &Config) -> Vec<PathBuf> {
        vec![config.xml_dir.clone()]
    }

    /// Where a file is broken that was not so before, all definitions stay as they are.
    fn read(&mut self, config: &Config) -> Result<Vec<Request>, String> {
        let folder = &config.xml_dir;
        let read = definitions::read(folder).map_err(|error| format!("xml_dir: {}: {error}", folder.display()))?;
        let fresh: Vec<String> = read
            .broken
            .iter()
            .filter(|broken| !self.broken.contains(&broken.file))
            .map(|BrokenFile { file, reason }| format!("{file}: {reason}"))
            .collect();
        if !fresh.is_empty() {
            return Err(fresh.join("; "));
        }
        self.broken = names(&read.broken);
        let objects = read.model.objects().count();
        self.metrics.reload.definitions.set(objects as i64);
        read.warnings.iter().for_each(|warning| warn!("{warning}"));
        info!(objects, "the object definitions were read");
        Ok(vec![Request::Model(Arc::new(read.model))])
    }
}

fn names(broken: &[BrokenFile]) -> BTreeSet<String> {
    broken.iter().map(|broken| broken.file.clone()).collect()
}

/// Whether a key of the configuration is looked at while the program runs.
pub fn takes_effect_at_once(key: &str) -> bool {
    RELOADED.iter().any(|reloaded| key == *reloaded || (reloaded.ends_with('.') && key.starts_with(reloaded)))
}
