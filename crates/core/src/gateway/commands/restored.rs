//! Commands that a broker delivers once more after a restart, although the store had them.

use crate::command::{Echo, Origin};
use crate::registry::{CommandDigest, RegistrationId};
use lwm2m_base::id_map::IdMap;

/// Knows the commands that were restored with each device.
///
/// A broker keeps a command of QoS 1 until it is confirmed, which follows when the store has the command. If the gateway
/// ends in between, the broker delivers the command again, with DUP (MQTT 5.0 section 3.3.1.1).
#[derive(Debug, Default)]
pub(super) struct RestoredCommands {
    of_devices: IdMap<RegistrationId, Vec<CommandDigest>>,
}

impl RestoredCommands {
    /// Notes a command that was restored.
    pub(super) fn restored(&mut self, device: RegistrationId, command: &Echo, origin: &Origin) {
        if *origin == Origin::Application {
            self.of_devices.entry(device).or_default().push(digest(command));
        }
    }

    /// Returns whether a command that is delivered again was restored. Each restored command is recognized once,
    /// because an application may have sent the same command several times.
    pub(super) fn recognizes(&mut self, device: RegistrationId, command: &Echo) -> bool {
        let Some(of_device) = self.of_devices.get_mut(&device) else { return false };
        let digest = digest(command);
        let Some(index) = of_device.iter().position(|restored| *restored == digest) else { return false };
        of_device.swap_remove(index);
        true
    }

    /// Forgets a device that is not registered any more.
    pub(super) fn forget(&mut self, device: RegistrationId) {
        self.of_devices.remove(&device);
    }
}

fn digest(command: &Echo) -> CommandDigest {
    CommandDigest::of(command.to_json().as_bytes())
}
