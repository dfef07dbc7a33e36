//! How full the gateway is.

use std::time::Instant;

use crate::coap;
use lwm2m_dtls as dtls;

use super::Gateway;

/// The entries of each table: all of them are bounded, and empty when every device has left and its messages are
/// forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSizes {
    pub devices: usize,
    /// Bytes that the registrations of the devices take.
    pub registration_bytes: usize,
    /// Registers that wait for the broker.
    pub pending_registrations: usize,
    /// Commands that came before their device was registered.
    pub early_commands: usize,
    pub waiting_commands: usize,
    /// Bytes of the commands that are kept: those that wait, early ones and those in flight.
    pub command_bytes: usize,
    /// Endpoints whose retained commands are remembered.
    pub retained_commands: usize,
    /// Exchanges and observations of devices.
    pub exchanges: usize,
    /// Notifications whose acknowledgement waits for the broker.
    pub deferred_acks: usize,
    /// Observations that `auto_observe` has still to ask for.
    pub to_observe: usize,
    /// Addresses of strangers that sent lately.
    pub addresses: usize,
    /// Registered devices that sent lately.
    pub senders: usize,
    pub deadlines: usize,
    /// What was not polled yet.
    pub outputs: usize,
    pub coap: coap::CoapTableSizes,
    pub dtls: dtls::DtlsTableSizes,
}

impl Gateway {
    /// Counts; it looks at every device.
    pub fn table_sizes(&self) -> TableSizes {
        TableSizes {
            devices: self.registry.len(),
            registration_bytes: self.registry.devices().map(|(_, device)| device.registration.size()).sum(),
            pending_registrations: self.pending_registrations.len(),
            early_commands: self.pending_registrations.early_commands(),
            waiting_commands: self.registry.devices().map(|(_, device)| device.waiting.len()).sum(),
            command_bytes: self.command_bytes.taken(),
            retained_commands: self.retained_commands.len(),
            exchanges: self.exchanges.len(),
            deferred_acks: self.registry.devices().map(|(_, device)| device.deferred_acks.len()).sum(),
            to_observe: self.registry.devices().map(|(_, device)| device.to_observe.len()).sum(),
            addresses: self.admission.addresses(),
            senders: self.admission.senders(),
            deadlines: self.deadlines.len(),
            outputs: self.outputs.len(),
            coap: self.coap.table_sizes(),
            dtls: self.associations(),
        }
    }

    /// Counts the registered devices that take no command now; it looks at every device.
    pub fn sleeping_devices(&self, now: Instant) -> usize {
        self.registry.devices().filter(|(_, device)| !device.is_awake(now)).count()
    }

    /// How many devices there may be.
    pub fn devices_limit(&self) -> usize {
        self.settings.limits.devices
    }

    /// How many bytes of commands there may be before none may wait.
    pub fn command_bytes_limit(&self) -> usize {
        self.settings.limits.waiting_bytes_total
    }
}
