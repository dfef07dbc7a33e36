//! Reloads the log level and the limits of the gateway.

use tracing::{info, warn};

use crate::config::{Config, ConfigValues, takes_effect_at_once};
use crate::driver::control::SettingsChange;
use crate::observability::logging;
use crate::process::descriptors::DeviceCapacity;

/// The settings in force, and the messages about them that were logged.
pub(crate) struct ReloadableSettings {
    /// The settings at the start of the program.
    started: ConfigValues,
    in_force: ConfigValues,
    /// The keys that were named last as needing a restart.
    named: Vec<String>,
    room: DeviceCapacity,
    /// The warnings that were logged.
    warned: Vec<String>,
}

impl ReloadableSettings {
    /// Creates the settings; `room` is the maximum number of devices, whatever the configuration allows.
    pub(crate) fn new(config: &Config, room: DeviceCapacity) -> Self {
        let (written, warned) = (config.written.clone(), config.warnings.clone());
        Self { started: written.clone(), in_force: written, named: Vec::new(), room, warned }
    }

    /// Applies the log level, and returns the limits, if a key has changed that takes effect at once.
    pub(super) fn read(&mut self, config: &Config) -> Result<Option<SettingsChange>, String> {
        self.name_those_that_need_a_restart(config);
        self.log_new_warnings(config);
        let mut changed = self.in_force.differences(&config.written);
        self.in_force = config.written.clone();
        changed.retain(|key| takes_effect_at_once(key));
        if changed.is_empty() {
            return Ok(None);
        }
        logging::set_filter(&config.log.filter).map_err(|error| error.to_string())?;
        info!(keys = changed.join(", "), "changed settings are in force");
        Ok(Some(SettingsChange::Limits(Box::new(self.room.bound(&config.gateway.limits)))))
    }

    fn log_new_warnings(&mut self, config: &Config) {
        for warning in config.warnings.iter().filter(|warning| !self.warned.contains(warning)) {
            warn!("{warning}");
        }
        self.warned = config.warnings.clone();
    }

    fn name_those_that_need_a_restart(&mut self, config: &Config) {
        let mut changed = self.started.differences(&config.written);
        changed.retain(|key| !takes_effect_at_once(key));
        if !changed.is_empty() && changed != self.named {
            warn!(keys = changed.join(", "), "changed settings need a restart");
        }
        self.named = changed;
    }
}
