//! Queue mode (LwM2M Core 1.1 section 6.5): a device in queue mode takes commands only within the awake window after
//! each of its messages. It is asleep after that, and commands wait: [`crate::registry::Device::is_awake`].

use std::time::{Duration, Instant};

use crate::lwm2m::register::Registration;
use crate::registry::{Device, Presence, RegistrationId};
use lwm2m_base::deadlines::IdDeadlines;

use super::presence::{begin_presence, change_presence, renew_status};
use crate::gateway::config::GatewayConfig;
use crate::gateway::context::Context;

/// Owns the times at which it is checked whether a device in queue mode has fallen asleep. A device that is asleep has
/// none until it sends a message.
#[derive(Debug, Default)]
pub(super) struct QueueMode {
    ends_of_awake_time: IdDeadlines<RegistrationId>,
}

impl QueueMode {
    /// Begins the presence of a device that was registered or restored. A restored one whose presence is not published
    /// may be asleep at once.
    pub(super) fn registered(&mut self, context: &Context, device: &mut Device) {
        begin_presence(&context.config, device);
        if device.status.is_none() && !device.is_awake(context.now) {
            return device.fall_asleep();
        }
        self.watch(device);
    }

    /// Takes a message of a device, and publishes that the device is awake if it was asleep.
    pub(crate) fn heard_from(&mut self, context: &mut Context, device: &mut Device) {
        if !device.wake_up() {
            return renew_status(context, device);
        }
        change_presence(context, device, Presence::Online, context.now);
        if let Some(until) = device.awake_until() {
            self.ends_of_awake_time.set(device.id, until);
        }
    }

    /// Recomputes the end of the awake time, because the device may have entered or left queue mode.
    pub(super) fn watch(&mut self, device: &Device) {
        match device.awake_until() {
            Some(until) => self.ends_of_awake_time.set(device.id, until),
            None => self.ends_of_awake_time.cancel(device.id),
        }
    }

    /// Counts a device as asleep if its awake time is over, and publishes that. Every message of the device prolongs
    /// its awake time, so the device is checked only at the time of its earlier check.
    pub(super) fn check(&mut self, context: &mut Context, device: &mut Device) {
        let Some(until) = device.awake_until() else { return };
        if until > context.now {
            return self.ends_of_awake_time.set(device.id, until);
        }
        device.fall_asleep();
        change_presence(context, device, Presence::Asleep, until);
    }

    pub(super) fn forget(&mut self, id: RegistrationId) {
        self.ends_of_awake_time.cancel(id);
    }

    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<RegistrationId> {
        self.ends_of_awake_time.pop_expired(now)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.ends_of_awake_time.next()
    }

    /// Returns the number of devices in queue mode that were awake at their last check.
    pub(super) fn len(&self) -> usize {
        self.ends_of_awake_time.len()
    }
}

/// Returns how long such a device is awake after its last message; `None` for a device that is not in queue mode.
pub(super) fn awake_window(config: &GatewayConfig, registration: &Registration) -> Option<Duration> {
    let apn = registration.item("apn");
    let in_queue_mode = registration.queue_mode()
        || apn.is_some_and(|apn| config.qmode_apn.iter().any(|name| name.eq_ignore_ascii_case(apn)));
    in_queue_mode.then_some(config.awake_window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coap::options::number;
    use crate::coap::{Code, Request};

    fn window(query: &[&str]) -> Option<Duration> {
        let mut request = Request::new(Code::POST);
        query.iter().for_each(|item| request.options.add_text(number::URI_QUERY, item));
        let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let registration = Registration::from_register(&request, &lifetimes, None).unwrap();
        awake_window(&GatewayConfig::default(), &registration)
    }

    #[test]
    fn a_device_sleeps_by_its_binding_or_by_its_apn() {
        let awake = Some(GatewayConfig::default().awake_window);
        assert_eq!(window(&["ep=a", "b=UQ"]), awake);
        assert_eq!(window(&["ep=a", "lwm2m=1.1", "Q"]), awake);
        assert_eq!(window(&["ep=a", "apn=cTNB"]), awake);
        assert_eq!(window(&["ep=a", "apn=internet"]), None);
        assert_eq!(window(&["ep=a"]), None);
    }
}
