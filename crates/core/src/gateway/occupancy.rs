//! How full the gateway is.

use std::time::Instant;

use crate::coap;
use lwm2m_dtls as dtls;

use super::Gateway;

/// The entries of each table: all of them are bounded, and empty when every device has left and its messages are
/// forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    pub devices: usize,
    /// Bytes that the registrations of the devices take.
    pub registration_bytes: usize,
    /// Registers that wait for the broker.
    pub joinings: usize,
    /// Commands that came before their device was registered.
    pub early_commands: usize,
    pub waiting_commands: usize,
    /// Bytes of the commands that are kept: those that wait, early ones and those in flight.
    pub command_bytes: usize,
    /// Endpoints whose retained commands are remembered.
    pub obeyed: usize,
    /// Exchanges and observations of devices.
    pub exchanges: usize,
    /// Notifications whose acknowledgement waits for the broker.
    pub owed_acknowledgements: usize,
    /// Observations that `auto_observe` has still to ask for.
    pub to_observe: usize,
    /// Addresses of strangers that sent lately.
    pub addresses: usize,
    /// Registered devices that sent lately.
    pub senders: usize,
    pub deadlines: usize,
    /// What was not polled yet.
    pub outputs: usize,
    pub coap: coap::Occupancy,
    pub dtls: dtls::DtlsTableSizes,
}

impl Gateway {
    /// Counts; it looks at every device.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            devices: self.registry.len(),
            registration_bytes: self.registry.devices().map(|(_, device)| device.registration.size()).sum(),
            joinings: self.joinings.len(),
            early_commands: self.joinings.early_commands(),
            waiting_commands: self.registry.devices().map(|(_, device)| device.waiting.len()).sum(),
            command_bytes: self.command_bytes.taken(),
            obeyed: self.obeyed.len(),
            exchanges: self.exchanges.len(),
            owed_acknowledgements: self.registry.devices().map(|(_, device)| device.owed.len()).sum(),
            to_observe: self.registry.devices().map(|(_, device)| device.to_observe.len()).sum(),
            addresses: self.admission.addresses(),
            senders: self.admission.senders(),
            deadlines: self.deadlines.len(),
            outputs: self.outputs.len(),
            coap: self.coap.occupancy(),
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
