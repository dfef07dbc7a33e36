//! The end of the program: nothing new is begun, what is under way comes to its end.
//!
//! 1. [`Gateway::drain`]: Registers are answered 5.03 from now on, and commands wait, whatever their device does. Messages
//!    of devices, and answers to commands in flight, are taken as ever.
//! 2. [`Gateway::is_drained`], or the shell's patience is at its end.
//! 3. [`Gateway::end`]: what is in flight still is given up.
//!
//! The registrations go on: they do not end with the process.

use std::time::Instant;

use super::Gateway;
use super::broker::RegistrationId;

/// Why a device is turned away: in a word for the device, and in full.
pub(super) const STOPPING: (&str, &str) = ("stopping", "the gateway is stopping");

impl Gateway {
    /// Takes no new work. Registers under way are answered 5.03: their devices come back when the program does.
    pub fn drain(&mut self, now: Instant) {
        self.draining = true;
        for id in self.pending_registrations.ids() {
            self.turn_away(now, id, STOPPING);
        }
        self.flush_coap();
    }

    /// Whether nothing is in flight any more, after [`Gateway::drain`].
    pub fn is_drained(&self) -> bool {
        self.draining && !self.coap.is_transferring()
    }

    /// Gives up the commands that are in flight still: each of them has its last answer.
    pub fn end(&mut self, now: Instant) {
        let devices: Vec<RegistrationId> = self.registry.devices().map(|(id, _)| id).collect();
        for id in devices {
            let Some(in_flight) = self.registry.device_mut(id).and_then(|device| device.take_in_flight()) else {
                continue;
            };
            self.coap.forget(in_flight.exchange);
            self.exchanges.remove(&in_flight.exchange);
            self.changed(id);
            self.give_up(id, &in_flight.command);
        }
        self.handle_coap(now);
    }
}
