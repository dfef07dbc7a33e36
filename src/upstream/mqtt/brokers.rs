//! The health of the broker's addresses, as far as connections and probes have shown, and the choice of the address for
//! a device.
//!
//! An address becomes unavailable by the faults that devices and probes meet there. From then on one device in a second
//! tries it, and the first answer makes it available again; while no device waits, a probe tries it. An available
//! address is probed every few seconds, also while there is no device. No device is moved back to an address that has
//! recovered: it has the fewest devices, and so it gets the next ones.

use std::time::Instant;

use tracing::warn;

use crate::upstream::client::targets::{PROBE_INTERVAL, QUIET_INTERVAL, TOLERATED_FAULTS, Target, TargetId, Targets};

use super::codec::ProtocolVersion;

/// Holds the addresses of an MQTT broker.
pub(crate) type Brokers = Targets<BrokerFaults>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerFault<'a> {
    NotReached(&'a str),
    /// The broker closed a connection without an answer to CONNECT.
    Closed,
    /// The broker accepted a connection, and did not answer CONNECT.
    Silent,
}

/// Keeps what devices and probes have met at one address.
#[derive(Debug)]
pub struct BrokerFaults {
    version: ProtocolVersion,
    /// Counts the connections in a row on which CONNECT had no answer.
    silent: u32,
    /// The time from which a device may try an unavailable address, or at which the next probe of an available one
    /// begins. It is `None` before the first probe.
    next_probe: Option<Instant>,
}

impl Brokers {
    pub fn of(addresses: &[String], version: ProtocolVersion) -> Self {
        let broker = |address: &String| (address.clone(), BrokerFaults { version, silent: 0, next_probe: None });
        Self::new(addresses.iter().map(broker))
    }

    /// Returns when the next address is due, to be tried or probed.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        self.iter().filter_map(|(_, broker)| broker.faults.next_probe).min()
    }

    /// Returns where a device goes next: an address whose turn to be tried has come, else as [`Targets::choose`] says.
    pub(crate) fn try_or_choose(
        &mut self,
        now: Instant,
        before: Option<TargetId>,
        elsewhere: bool,
    ) -> Option<TargetId> {
        self.due_down(now).or_else(|| self.choose(before, elsewhere))
    }

    /// Returns an unavailable address whose turn to be tried has come. The caller tries it.
    pub(crate) fn due_down(&mut self, now: Instant) -> Option<TargetId> {
        self.due(now, |broker| !broker.is_up())
    }

    /// Returns an available address whose next probe is due. The caller probes it.
    pub(crate) fn due_up(&mut self, now: Instant) -> Option<TargetId> {
        self.due(now, Target::is_up)
    }

    pub(crate) fn is_due_down(&self, now: Instant) -> bool {
        self.iter().any(|(_, broker)| !broker.is_up() && broker.faults.is_due(now))
    }

    fn due(&mut self, now: Instant, wanted: impl Fn(&Target<BrokerFaults>) -> bool) -> Option<TargetId> {
        let (id, broker) = self.iter_mut().find(|(_, broker)| wanted(broker) && broker.faults.is_due(now))?;
        broker.faults.next_probe = Some(now + if broker.is_up() { QUIET_INTERVAL } else { PROBE_INTERVAL });
        Some(id)
    }

    /// Makes the first probe of all addresses due.
    pub(crate) fn begin_probing(&mut self, now: Instant) {
        self.iter_mut().for_each(|(_, broker)| broker.faults.next_probe = Some(now));
    }

    /// Plans the next probe of an address soon, after one that said nothing or left a doubt.
    pub(crate) fn probe_soon(&mut self, now: Instant, id: TargetId) {
        let faults = &mut self.target_mut(id).faults;
        let soon = now + PROBE_INTERVAL;
        faults.next_probe = Some(faults.next_probe.map_or(soon, |at| at.min(soon)));
    }

    pub fn version(&self, id: TargetId) -> ProtocolVersion {
        self.target(id).faults.version
    }

    pub fn speaks(&mut self, id: TargetId, version: ProtocolVersion) {
        let broker = self.target_mut(id);
        if broker.faults.version != version {
            broker.faults.version = version;
            warn!(broker = broker.name, "the broker does not support MQTT 5; using 3.1.1 without its features");
        }
    }

    /// Notes an answer to CONNECT, whatever the answer was. Returns whether the address was unavailable.
    pub fn answers(&mut self, now: Instant, id: TargetId) -> bool {
        self.target_mut(id).faults.silent = 0;
        self.accepts(now, id)
    }

    /// Notes that the address accepted a connection. Returns whether it was unavailable.
    pub(crate) fn accepts(&mut self, now: Instant, id: TargetId) -> bool {
        let was_down = self.mark_up(id);
        if was_down {
            let broker = self.target_mut(id);
            (broker.faults.silent, broker.faults.next_probe) = (0, Some(now + QUIET_INTERVAL));
            broker.answered = true;
        }
        self.mark_answered(id);
        was_down
    }

    /// Notes a fault that a device met at the address. Returns whether the address becomes unavailable by it.
    pub fn failed(&mut self, now: Instant, id: TargetId, fault: BrokerFault<'_>) -> bool {
        let broker = self.target_mut(id);
        if !broker.counts(fault) || !broker.is_up() {
            return false;
        }
        broker.faults.next_probe = Some(now + PROBE_INTERVAL);
        let fault = broker.in_words(fault);
        self.mark_down(id, fault);
        true
    }
}

impl Target<BrokerFaults> {
    /// Says what is wrong, which key names the address, and what to check. The caller names the broker.
    fn in_words(&self, fault: BrokerFault<'_>) -> String {
        match fault {
            BrokerFault::NotReached(why) => {
                let why = self.without_name(why);
                format!(
                    "it cannot be reached (upstream.mqtt.brokers): {why}. Is it running, and its MQTT listener here?"
                )
            }
            BrokerFault::Closed => {
                "it closes connections without an answer to CONNECT: is it (upstream.mqtt.brokers) a \
                              listener for MQTT over TCP, or with ssl:// over TLS?"
                    .to_owned()
            }
            BrokerFault::Silent => {
                "it takes connections, and does not answer to CONNECT: is it (upstream.mqtt.brokers) a \
                              listener for MQTT over TCP, or with ssl:// over TLS?"
                    .to_owned()
            }
        }
    }

    /// Returns whether this fault makes the address unavailable. A broker may close the connection of one device
    /// because of that device; while others are connected that is no fault of the broker.
    fn counts(&mut self, fault: BrokerFault<'_>) -> bool {
        match fault {
            BrokerFault::NotReached(_) => true,
            BrokerFault::Closed if self.clients > 0 => false,
            BrokerFault::Closed | BrokerFault::Silent => {
                self.faults.silent += 1;
                !self.answered || self.faults.silent >= TOLERATED_FAULTS
            }
        }
    }
}

impl BrokerFaults {
    fn is_due(&self, now: Instant) -> bool {
        self.next_probe.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TargetId = TargetId(0);
    const B: TargetId = TargetId(1);

    fn two() -> Brokers {
        Brokers::of(&["a:1883".to_owned(), "b:1883".to_owned()], ProtocolVersion::V5)
    }

    #[test]
    fn devices_spread_and_stay_where_they_were() {
        let (now, mut brokers) = (Instant::now(), two());
        assert_eq!(brokers.try_or_choose(now, None, false), Some(A));
        brokers.add_connection(A);
        assert_eq!(brokers.try_or_choose(now, None, false), Some(B));
        assert_eq!(brokers.try_or_choose(now, Some(A), false), Some(A));
        assert_eq!(brokers.try_or_choose(now, Some(A), true), Some(B));
    }

    #[test]
    fn one_device_in_a_second_tries_an_address_that_is_down() {
        let (mut now, mut brokers) = (Instant::now(), two());
        assert!(brokers.failed(now, A, BrokerFault::NotReached("refused")));
        assert!(!brokers.failed(now, A, BrokerFault::NotReached("refused")));
        assert_eq!(brokers.try_or_choose(now, Some(A), false), Some(B));
        now += PROBE_INTERVAL;
        assert_eq!(brokers.try_or_choose(now, Some(B), false), Some(A));
        assert_eq!(brokers.try_or_choose(now, Some(A), false), Some(B));
        assert!(brokers.answers(now, A));
        assert_eq!(brokers.try_or_choose(now, Some(A), false), Some(A));
        assert!(!brokers.answers(now, A));
    }

    #[test]
    fn silence_is_tolerated_where_there_was_an_answer_before() {
        let (now, mut brokers) = (Instant::now(), two());
        assert!(brokers.failed(now, B, BrokerFault::Silent));
        brokers.answers(now, A);
        assert!(!brokers.failed(now, A, BrokerFault::Silent));
        assert!(!brokers.failed(now, A, BrokerFault::Silent));
        assert!(brokers.failed(now, A, BrokerFault::Silent));
        assert_eq!((brokers.any_up(), brokers.try_or_choose(now, None, false)), (false, None));
    }

    #[test]
    fn a_fault_is_told_once_with_the_key_that_names_what_was_tried() {
        let brokers = two();
        assert_eq!(
            brokers.target(A).in_words(BrokerFault::NotReached("a:1883: connection refused")),
            "it cannot be reached (upstream.mqtt.brokers): connection refused. Is it running, and its MQTT listener \
             here?"
        );
    }

    #[test]
    fn a_connection_that_is_closed_for_one_device_is_no_fault_while_others_are_connected() {
        let (now, mut brokers) = (Instant::now(), two());
        brokers.answers(now, A);
        brokers.add_client(A);
        (0..100).for_each(|_| assert!(!brokers.failed(now, A, BrokerFault::Closed)));
        assert!(brokers.failed(now, A, BrokerFault::NotReached("refused")), "the listener is gone");

        let mut brokers = two();
        brokers.answers(now, A);
        let counted: Vec<_> = (0..3).map(|_| brokers.failed(now, A, BrokerFault::Closed)).collect();
        assert_eq!(counted, [false, false, true]);
    }

    #[test]
    fn one_that_is_up_is_probed_every_five_seconds_and_one_that_is_down_every_second() {
        let (start, mut brokers) = (Instant::now(), two());
        assert_eq!(brokers.next_probe(), None);
        brokers.begin_probing(start);
        assert_eq!([brokers.due_up(start), brokers.due_up(start), brokers.due_up(start)], [Some(A), Some(B), None]);
        assert_eq!(brokers.next_probe(), Some(start + QUIET_INTERVAL));

        let now = start + QUIET_INTERVAL;
        assert_eq!(brokers.due_up(now), Some(A));
        assert!(brokers.failed(now, A, BrokerFault::NotReached("refused")));
        assert_eq!(brokers.due_down(now), None);
        assert_eq!(brokers.due_down(now + PROBE_INTERVAL), Some(A));
        assert_eq!(brokers.due_down(now + PROBE_INTERVAL), None);
        assert!(brokers.accepts(now + PROBE_INTERVAL, A));
        assert_eq!(brokers.due_up(now + PROBE_INTERVAL), Some(B));
        assert_eq!(brokers.next_probe(), Some(now + PROBE_INTERVAL + QUIET_INTERVAL));
    }
}
