//! What is told of the presence of devices, where `translators.status` has a topic: retained, so that who subscribes later
//! knows too. When the connection of a device is lost the broker tells that it is offline, by the will.

use std::time::Instant;

use crate::mqtt::uplink;
use crate::registry::{Device, Presence, Topics};

use super::broker::{Publication, RegistrationId, UplinkClass, Will};
use super::{Deadline, Gateway};

impl Gateway {
    /// A device that has just registered, or was restored.
    pub(super) fn set_status(&mut self, id: RegistrationId, device: &mut Device) {
        if device.topics.status.is_none() {
            return;
        }
        device.status = Some((Presence::Online, device.last_heard()));
        if let Some(until) = device.awake_until() {
            self.deadlines.set(Deadline::Sleep(id), until);
        }
    }

    /// A message of the device has come.
    pub(super) fn wakes_up(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.registry.device_mut(id) else { return };
        let Some((Presence::Asleep, _)) = device.status else { return };
        device.status = Some((Presence::Online, now));
        let awake_until = device.awake_until();
        self.publish_status(id);
        if let Some(until) = awake_until {
            self.deadlines.set(Deadline::Sleep(id), until);
        }
    }

    /// Whether it sleeps may have changed.
    pub(super) fn watch_sleep(&mut self, id: RegistrationId) {
        let device = self.registry.device(id).filter(|device| device.status.is_some());
        match device.and_then(Device::awake_until) {
            Some(until) => self.deadlines.set(Deadline::Sleep(id), until),
            None => self.deadlines.cancel(Deadline::Sleep(id)),
        }
    }

    /// Every message of a device moves the end of its awake time: called when the one of the last look has come.
    pub(super) fn check_sleep(&mut self, now: Instant, id: RegistrationId) {
        let Some(device) = self.registry.device_mut(id) else { return };
        let Some(until) = device.awake_until() else { return };
        if until > now {
            return self.deadlines.set(Deadline::Sleep(id), until);
        }
        device.status = Some((Presence::Asleep, until));
        self.publish_status(id);
    }

    /// The device leaves.
    pub(super) fn goes_offline(&mut self, now: Instant, id: RegistrationId) {
        if let Some(status) = self.registry.device_mut(id).and_then(|device| device.status.as_mut()) {
            *status = (Presence::Offline, now);
            self.publish_status(id);
        }
    }

    pub(super) fn publish_status(&mut self, id: RegistrationId) {
        let Some(device) = self.registry.device(id) else { return };
        let Some(((presence, since), topic)) = device.status.zip(device.topics.status.clone()) else { return };
        let publication = Publication {
            topic: topic.name,
            qos: topic.qos,
            payload: uplink::status(presence, Some(self.wall_clock.unix_time(since))),
            class: UplinkClass::Report,
            retain: true,
            correlation: None,
            ticket: None,
        };
        self.push_publication(id, publication);
    }
}

pub(super) fn will(topics: &Topics) -> Option<Will> {
    let topic = topics.status.clone()?;
    Some(Will { topic: topic.name, qos: topic.qos, payload: uplink::status(Presence::Offline, None) })
}
