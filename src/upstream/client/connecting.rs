//! The steps around the handshake, from Connect to `Ready`.

use std::mem;
use std::time::{Duration, Instant};

use tracing::debug;

use lwm2m_core::gateway::broker::{BrokerEvent, ClientInfo, CloseReason, ConnectError, RegistrationId};

use super::clients::ClientKey;
use super::device::{Destination, UpstreamDevice};
use super::{ClientTimer, Devices, Protocol};

/// Limits how long a device that was a client before is refused while the broker serves others, before the refusal
/// counts as final. After a restart a broker may listen before its authentication works.
const REFUSED_FOR_GOOD: Duration = Duration::from_secs(30);

impl<P: Protocol> Devices<P> {
    pub(super) fn connect(&mut self, now: Instant, id: RegistrationId, client: ClientInfo) {
        let key = self.clients.add(&client.clientid, id);
        self.devices.insert(id, Box::new(UpstreamDevice::registered(now, client, key, &self.ready)));
        self.deadlines.set(ClientTimer::Device(id), now + self.connect_timeout);
        self.supersede_older(now, key, id);
        self.advance(now, key);
    }

    pub(super) fn first_attempt(&mut self, now: Instant, id: RegistrationId) {
        match self.next_destination(now, id) {
            Some(destination) => self.dial(id, destination),
            None => self.gave_up(now, id, &format!("{} is away", P::BROKER)),
        }
    }

    /// Returns where the device goes next: to the server that another one named, else to the target that is chosen.
    pub(super) fn next_destination(&mut self, now: Instant, id: RegistrationId) -> Option<Destination> {
        let device = self.devices.get(&id)?;
        match &device.destination {
            Some(Destination::Referred(server)) => Some(Destination::Referred(server.clone())),
            Some(Destination::Configured(_)) | None => {
                let (before, elsewhere) = (device.target(), device.elsewhere);
                P::choose(&mut self.targets, now, before, elsewhere).map(Destination::Configured)
            }
        }
    }

    pub(in crate::upstream) fn dial(&mut self, id: RegistrationId, destination: Destination) {
        self.counters().connections_attempted.inc();
        let connection = self.new_connection();
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.destination = Some(destination.clone());
        device.elsewhere = false;
        if let Destination::Configured(target) = destination {
            self.targets.add_connection(target);
        }
        P::dial(self, id, connection, destination);
    }

    /// Notes that the broker has accepted the device, and tells the core if that waits for it. Returns whether it did.
    pub(in crate::upstream) fn accepted(&mut self, id: RegistrationId) -> bool {
        let Some(device) = self.devices.get_mut(&id) else { return false };
        device.refused_since = None;
        if let Some(target) = device.target() {
            self.targets.add_client(target);
        }
        let first = !mem::replace(&mut device.connected_before, true);
        let awaited = first || mem::take(&mut device.resumed);
        let counters = self.counters();
        if first {
            counters.connected.inc();
        } else {
            counters.reconnected.inc();
        }
        if awaited {
            self.emit(id, BrokerEvent::Connected { registration: id });
        }
        awaited
    }

    /// Continues after the device has become ready and its early commands are delivered.
    pub(in crate::upstream) fn settled(&mut self, now: Instant, key: ClientKey, id: RegistrationId) {
        self.retire_older(now, key, id);
        P::publish_next(self, now, key);
        self.returning.connected(now, id);
        self.turns.accepted(now, id);
        self.serve_turns(now);
        if self.disturbances.accepted() {
            self.connect_waiting(now);
        }
    }

    /// Handles a refusal by the broker. The refusal of a device that was a client before is final only if the broker
    /// says so (`is_final`), or if it is repeated for a time in which the broker serves others.
    pub(in crate::upstream) fn refused_by_broker(
        &mut self,
        now: Instant,
        id: RegistrationId,
        why: String,
        is_final: bool,
    ) {
        let clients = self.targets.clients();
        self.disturbances.refused(&why, clients);
        let Some(device) = self.devices.get_mut(&id) else { return };
        if device.connected_before && !is_final {
            let since = *device.refused_since.get_or_insert(now);
            if now < since + REFUSED_FOR_GOOD || clients == 0 {
                debug!(registration = id.0, clientid = device.client.clientid, why, "refused by {} for now", P::BROKER);
                return self.back_off(now, id);
            }
        }
        self.refused(now, id, why);
    }

    /// Ends a device that the broker refuses for good.
    pub(in crate::upstream) fn refused(&mut self, now: Instant, id: RegistrationId, why: String) {
        let Some(device) = self.devices.get(&id) else { return };
        debug!(registration = id.0, clientid = device.client.clientid, why, "refused by {}", P::BROKER);
        if device.connected_before {
            return self.end(now, id, CloseReason::Refused);
        }
        self.emit(id, BrokerEvent::ConnectFailed { registration: id, error: ConnectError::Refused(why) });
        self.remove(now, id);
    }

    /// Handles an attempt that failed for a reason that is not the device's. A first connect tries each target once.
    pub(in crate::upstream) fn attempt_failed(&mut self, now: Instant, id: RegistrationId, why: &str) {
        let Some(device) = self.devices.get(&id) else { return };
        let again = !device.connected_before && (device.failures as usize) + 1 < self.targets.len();
        let before = device.target();
        let other = if again { P::choose(&mut self.targets, now, before, true) } else { None };
        let Some(other) = other.filter(|other| Some(*other) != before) else { return self.gave_up(now, id, why) };
        P::hang_up(self, now, id);
        if let Some(device) = self.devices.get_mut(&id) {
            debug!(
                registration = id.0,
                clientid = device.client.clientid,
                why,
                "connection attempt failed, another address is tried"
            );
            device.failures += 1;
        }
        self.dial(id, Destination::Configured(other));
    }

    /// Handles an attempt that failed when there is no time, or no target, for another one now.
    pub(in crate::upstream) fn gave_up(&mut self, now: Instant, id: RegistrationId, why: &str) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.refused_since = None;
        debug!(registration = id.0, clientid = device.client.clientid, why, "not connected to {}", P::BROKER);
        if device.connected_before {
            return self.back_off(now, id);
        }
        self.emit(
            id,
            BrokerEvent::ConnectFailed { registration: id, error: ConnectError::Unavailable(why.to_owned()) },
        );
        self.remove(now, id);
    }
}
