//! The health of the broker's addresses, as far as connections and probes have shown, and the choice of the address for
//! a device.
//!
//! An address becomes unavailable by the faults that devices and probes meet there. From then on one device in a second
//! tries it, and the first answer makes it available again; while no device waits, a probe tries it. An available
//! address is probed every few seconds, also while there is no device. No device is moved back to an address that has
//! recovered: it has the fewest devices, and so it gets the next ones.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::upstream::client::probing::{FaultsInRow, MetBy, PROBE_INTERVAL, TargetFaults};
use crate::upstream::client::targets::{Target, TargetId, Targets};

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
    silent: FaultsInRow,
}

impl Brokers {
    pub fn of(addresses: &[String], version: ProtocolVersion) -> Self {
        let broker = |address: &String| (address.clone(), BrokerFaults { version, silent: FaultsInRow::default() });
        Self::new(addresses.iter().map(broker))
    }

    /// Returns where a device goes next: an address whose turn to be tried has come, else as [`Targets::choose`] says.
    pub(crate) fn try_or_choose(
        &mut self,
        now: Instant,
        before: Option<TargetId>,
        elsewhere: bool,
    ) -> Option<TargetId> {
        self.try_due(now).or_else(|| self.choose(before, elsewhere))
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

    /// Notes an answer to CONNECT, whatever the answer was. Returns whether the address was unavailable, so that it
    /// serves again.
    pub(crate) fn answers(&mut self, id: TargetId) -> bool {
        self.target_mut(id).faults.silent.end();
        let was_down = !self.is_up(id);
        if !was_down {
            self.mark_answered(id);
        }
        was_down
    }
}

impl TargetFaults for BrokerFaults {
    type Fault<'a> = BrokerFault<'a>;

    /// The device that met the fault has tried the address, and the next one does a second later.
    const PAUSE: Duration = PROBE_INTERVAL;

    /// Counts a fault. A broker may close the connection of one device because of that device; while others are
    /// connected that is no fault of the broker.
    fn count(target: &mut Target<Self>, fault: BrokerFault<'_>) -> bool {
        match fault {
            BrokerFault::NotReached(_) => true,
            BrokerFault::Closed if target.clients > 0 => false,
            BrokerFault::Closed | BrokerFault::Silent => target.faults.silent.count(target.answered),
        }
    }

    fn count_again(&mut self, _fault: BrokerFault<'_>, _met_by: MetBy) {}

    /// Notes that the broker serves. At an available one a probe shows that it accepts connections, but not that it
    /// answers CONNECT.
    fn served(&mut self, was_down: bool) {
        if was_down {
            self.silent.end();
        }
    }

    fn in_words(target: &Target<Self>, fault: BrokerFault<'_>) -> String {
        match fault {
            BrokerFault::NotReached(why) => {
                let why = target.without_name(why);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TargetId = TargetId(0);
    const B: TargetId = TargetId(1);

    fn two() -> Brokers {
        Brokers::of(&["a:1883".to_owned(), "b:1883".to_owned()], ProtocolVersion::V5)
    }

    fn failed(brokers: &mut Brokers, now: Instant, id: TargetId, fault: BrokerFault<'_>) -> bool {
        brokers.failed(now, id, fault, MetBy::Device)
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
        assert!(failed(&mut brokers, now, A, BrokerFault::NotReached("refused")));
        assert!(!failed(&mut brokers, now, A, BrokerFault::NotReached("refused")));
        assert_eq!(brokers.try_or_choose(now, Some(A), false), Some(B));
        now += PROBE_INTERVAL;
        assert_eq!(brokers.try_or_choose(now, Some(B), false), Some(A));
        assert_eq!(brokers.try_or_choose(now, Some(A), false), Some(B));
        assert!(brokers.answers(A) && brokers.serves(now, A));
        assert_eq!(brokers.try_or_choose(now, Some(A), false), Some(A));
        assert!(!brokers.answers(A));
    }

    #[test]
    fn silence_is_tolerated_where_there_was_an_answer_before() {
        let (now, mut brokers) = (Instant::now(), two());
        assert!(failed(&mut brokers, now, B, BrokerFault::Silent));
        brokers.answers(A);
        assert!(!failed(&mut brokers, now, A, BrokerFault::Silent));
        assert!(!failed(&mut brokers, now, A, BrokerFault::Silent));
        assert!(failed(&mut brokers, now, A, BrokerFault::Silent));
        assert_eq!((brokers.any_up(), brokers.try_or_choose(now, None, false)), (false, None));
    }

    #[test]
    fn a_fault_is_told_once_with_the_key_that_names_what_was_tried() {
        let brokers = two();
        assert_eq!(
            BrokerFaults::in_words(brokers.target(A), BrokerFault::NotReached("a:1883: connection refused")),
            "it cannot be reached (upstream.mqtt.brokers): connection refused. Is it running, and its MQTT listener \
             here?"
        );
    }

    #[test]
    fn a_connection_that_is_closed_for_one_device_is_no_fault_while_others_are_connected() {
        let (now, mut brokers) = (Instant::now(), two());
        brokers.answers(A);
        brokers.add_client(A);
        (0..100).for_each(|_| assert!(!failed(&mut brokers, now, A, BrokerFault::Closed)));
        assert!(failed(&mut brokers, now, A, BrokerFault::NotReached("refused")), "the listener is gone");

        let mut brokers = two();
        brokers.answers(A);
        let counted: Vec<_> = (0..3).map(|_| failed(&mut brokers, now, A, BrokerFault::Closed)).collect();
        assert_eq!(counted, [false, false, true]);
    }
}
