//! The state of the broker's addresses, as far as connections and probes have shown, and the choice of the address that a
//! device goes to.
//!
//! An address goes down by the faults that devices and probes meet there. From then on one device in a second tries it, and
//! the first that is answered brings it up again; while no device waits, a probe does. An address that is up is probed every
//! few seconds, also while there is no device. Nothing is moved back to an address that has recovered: it has the fewest
//! devices, and so it gets the next ones.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::codec::Version;

/// From one attempt to the next at an address that is down, or whose last probe failed.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// From one probe to the next at an address that is up.
const QUIET_INTERVAL: Duration = Duration::from_secs(5);
/// Faults in a row after which an address is down, of those that a single device may meet on one that is fine.
const TOLERATED: u32 = 3;

/// The position of an address in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BrokerId(pub usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    NotReached(&'a str),
    /// It closed a connection without an answer to CONNECT.
    Closed,
    /// It accepted a connection, and did not answer to CONNECT.
    Silent,
}

#[derive(Debug)]
pub struct Brokers {
    brokers: Vec<Broker>,
    /// Since the standing was told last.
    changed: bool,
}

/// How it is with all of them, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// One at least is known to serve.
    pub serving: bool,
    pub detail: String,
}

#[derive(Debug)]
struct Broker {
    address: String,
    version: Version,
    connections: usize,
    /// Devices there that are clients of the broker.
    clients: usize,
    /// Whether it ever answered.
    answered: bool,
    /// Why it went down last.
    fault: String,
    /// In a row, up to now.
    silent: u32,
    up: bool,
    /// When a device may try it while it is down, or the next probe begins while it is up; none before the first probe.
    next_probe: Option<Instant>,
}

impl Brokers {
    /// All of them count as up until something else is known.
    pub fn new(addresses: &[String], version: Version) -> Self {
        let broker = |address: &String| Broker {
            address: address.clone(),
            version,
            connections: 0,
            clients: 0,
            answered: false,
            fault: String::new(),
            silent: 0,
            up: true,
            next_probe: None,
        };
        Self { brokers: addresses.iter().map(broker).collect(), changed: true }
    }

    pub fn len(&self) -> usize {
        self.brokers.len()
    }

    pub fn any_up(&self) -> bool {
        self.brokers.iter().any(Broker::is_up)
    }

    pub fn up(&self) -> usize {
        self.brokers.iter().filter(|broker| broker.is_up()).count()
    }

    /// Whether the standing has changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub fn standing(&self) -> Standing {
        Standing {
            serving: self.brokers.iter().any(|broker| broker.is_up() && broker.answered),
            detail: self.brokers.iter().map(Broker::told_to_people).collect::<Vec<_>>().join("; "),
        }
    }

    /// Returns when the next one is due, to be tried or probed.
    pub fn next_probe(&self) -> Option<Instant> {
        self.brokers.iter().filter_map(|broker| broker.next_probe).min()
    }

    /// Where a device goes next: to one whose turn to be tried has come, else to where it was, if that is up, else to the
    /// one with the fewest connections. With `elsewhere`, to where it was only if no other is up.
    pub fn choose(&mut self, now: Instant, before: Option<BrokerId>, elsewhere: bool) -> Option<BrokerId> {
        if let Some(due) = self.due_down(now) {
            return Some(due);
        }
        let is_up = |id: BrokerId| self.brokers.get(id.0).is_some_and(Broker::is_up);
        let before = before.filter(|id| is_up(*id));
        let others = self
            .brokers
            .iter()
            .enumerate()
            .filter(|(index, broker)| broker.is_up() && Some(BrokerId(*index)) != before);
        let other = others.min_by_key(|(_, broker)| broker.connections).map(|(index, _)| BrokerId(index));
        if elsewhere { other.or(before) } else { before.or(other) }
    }

    /// Returns one that is down whose turn to be tried has come: it is being tried now.
    pub fn due_down(&mut self, now: Instant) -> Option<BrokerId> {
        self.due(now, |broker| !broker.up)
    }

    /// The same for one that is up: it is being probed now.
    pub fn due_up(&mut self, now: Instant) -> Option<BrokerId> {
        self.due(now, |broker| broker.up)
    }

    pub fn is_due_down(&self, now: Instant) -> bool {
        self.brokers.iter().any(|broker| !broker.up && broker.next_probe.is_some_and(|at| at <= now))
    }

    fn due(&mut self, now: Instant, wanted: impl Fn(&Broker) -> bool) -> Option<BrokerId> {
        let is_due = |broker: &Broker| wanted(broker) && broker.next_probe.is_some_and(|at| at <= now);
        let index = self.brokers.iter().position(is_due)?;
        let broker = &mut self.brokers[index];
        broker.next_probe = Some(now + if broker.up { QUIET_INTERVAL } else { PROBE_INTERVAL });
        Some(BrokerId(index))
    }

    /// The first probe of all of them is due.
    pub fn begin_probing(&mut self, now: Instant) {
        self.brokers.iter_mut().for_each(|broker| broker.next_probe = Some(now));
    }

    /// A probe said nothing, or left a doubt: the next one is soon.
    pub fn probe_soon(&mut self, now: Instant, id: BrokerId) {
        let broker = &mut self.brokers[id.0];
        let soon = now + PROBE_INTERVAL;
        broker.next_probe = Some(broker.next_probe.map_or(soon, |at| at.min(soon)));
    }

    pub fn add_connection(&mut self, id: BrokerId) {
        self.brokers[id.0].connections += 1;
    }

    pub fn remove_connection(&mut self, id: BrokerId) {
        self.brokers[id.0].connections -= 1;
    }

    /// A device there is a client of the broker now.
    pub fn add_client(&mut self, id: BrokerId) {
        self.brokers[id.0].clients += 1;
    }

    pub fn remove_client(&mut self, id: BrokerId) {
        self.brokers[id.0].clients -= 1;
    }

    /// Returns how many devices are clients, at all addresses.
    pub fn clients(&self) -> usize {
        self.brokers.iter().map(|broker| broker.clients).sum()
    }

    pub fn version(&self, id: BrokerId) -> Version {
        self.brokers[id.0].version
    }

    pub fn speaks(&mut self, id: BrokerId, version: Version) {
        let broker = &mut self.brokers[id.0];
        if broker.version != version {
            broker.version = version;
            warn!(broker = broker.address, "the broker has no MQTT 5: 3.1.1 is spoken, without what only 5 can say");
        }
    }

    /// It answered to a CONNECT, whatever the answer was. Says whether it was down.
    pub fn answers(&mut self, now: Instant, id: BrokerId) -> bool {
        self.brokers[id.0].silent = 0;
        self.accepts(now, id)
    }

    /// It accepted a connection. Says whether it was down.
    pub fn accepts(&mut self, now: Instant, id: BrokerId) -> bool {
        let broker = &mut self.brokers[id.0];
        let was_down = !std::mem::replace(&mut broker.up, true);
        if was_down {
            broker.silent = 0;
            broker.next_probe = Some(now + QUIET_INTERVAL);
            info!(broker = broker.address, "broker available again");
        } else if !broker.answered {
            info!(broker = broker.address, "broker available");
        }
        self.changed |= was_down || !broker.answered;
        broker.answered = true;
        was_down
    }

    /// A device met this there. Says whether it is down by it.
    pub fn failed(&mut self, now: Instant, id: BrokerId, fault: Fault<'_>) -> bool {
        let broker = &mut self.brokers[id.0];
        if !broker.counts(fault) || !broker.up {
            return false;
        }
        broker.up = false;
        broker.next_probe = Some(now + PROBE_INTERVAL);
        broker.fault = broker.in_words(fault);
        self.changed = true;
        warn!(broker = broker.address, "broker unavailable: {}", broker.fault);
        true
    }
}

impl Broker {
    /// Says what is wrong, which key names what was tried, and what to look at. The broker itself is named around it.
    fn in_words(&self, fault: Fault<'_>) -> String {
        match fault {
            Fault::NotReached(why) => {
                let address = self.address.as_str();
                let why = why.strip_prefix(address).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(why);
                format!(
                    "it cannot be reached (upstream.mqtt.brokers): {why}. Is it running, and its MQTT listener here?"
                )
            }
            Fault::Closed => "it closes connections without an answer to CONNECT: is it (upstream.mqtt.brokers) a \
                              listener for MQTT over TCP, or with ssl:// over TLS?"
                .to_owned(),
            Fault::Silent => "it takes connections, and does not answer to CONNECT: is it (upstream.mqtt.brokers) a \
                              listener for MQTT over TCP, or with ssl:// over TLS?"
                .to_owned(),
        }
    }

    fn told_to_people(&self) -> String {
        match (self.is_up(), self.answered) {
            (true, true) => format!("{} is available", self.address),
            (true, false) => format!("{} has not answered yet", self.address),
            (false, _) => format!("{} is unavailable: {}", self.address, self.fault),
        }
    }

    fn is_up(&self) -> bool {
        self.up
    }

    /// Whether this fault is one too many. A broker may close the connection of one device, for what that device is; while
    /// others are connected that is no fault of the broker.
    fn counts(&mut self, fault: Fault<'_>) -> bool {
        match fault {
            Fault::NotReached(_) => true,
            Fault::Closed if self.clients > 0 => false,
            Fault::Closed | Fault::Silent => {
                self.silent += 1;
                !self.answered || self.silent >= TOLERATED
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BrokerId = BrokerId(0);
    const B: BrokerId = BrokerId(1);

    fn two() -> Brokers {
        Brokers::new(&["a:1883".to_owned(), "b:1883".to_owned()], Version::V5)
    }

    #[test]
    fn devices_spread_and_stay_where_they_were() {
        let (now, mut brokers) = (Instant::now(), two());
        assert_eq!(brokers.choose(now, None, false), Some(A));
        brokers.add_connection(A);
        assert_eq!(brokers.choose(now, None, false), Some(B));
        assert_eq!(brokers.choose(now, Some(A), false), Some(A));
        assert_eq!(brokers.choose(now, Some(A), true), Some(B));
    }

    #[test]
    fn one_device_in_a_second_tries_an_address_that_is_down() {
        let (mut now, mut brokers) = (Instant::now(), two());
        assert!(brokers.failed(now, A, Fault::NotReached("refused")));
        assert!(!brokers.failed(now, A, Fault::NotReached("refused")));
        assert_eq!(brokers.choose(now, Some(A), false), Some(B));
        now += PROBE_INTERVAL;
        assert_eq!(brokers.choose(now, Some(B), false), Some(A));
        assert_eq!(brokers.choose(now, Some(A), false), Some(B));
        assert!(brokers.answers(now, A));
        assert_eq!(brokers.choose(now, Some(A), false), Some(A));
        assert!(!brokers.answers(now, A));
    }

    #[test]
    fn silence_is_tolerated_where_there_was_an_answer_before() {
        let (now, mut brokers) = (Instant::now(), two());
        assert!(brokers.failed(now, B, Fault::Silent));
        brokers.answers(now, A);
        assert!(!brokers.failed(now, A, Fault::Silent));
        assert!(!brokers.failed(now, A, Fault::Silent));
        assert!(brokers.failed(now, A, Fault::Silent));
        assert_eq!((brokers.any_up(), brokers.choose(now, None, false)), (false, None));
    }

    #[test]
    fn a_fault_is_told_once_with_the_key_that_names_what_was_tried() {
        let brokers = two();
        assert_eq!(
            brokers.brokers[0].in_words(Fault::NotReached("a:1883: connection refused")),
            "it cannot be reached (upstream.mqtt.brokers): connection refused. Is it running, and its MQTT listener here?"
        );
    }

    #[test]
    fn a_connection_that_is_closed_for_one_device_is_no_fault_while_others_are_connected() {
        let (now, mut brokers) = (Instant::now(), two());
        brokers.answers(now, A);
        brokers.add_client(A);
        (0..100).for_each(|_| assert!(!brokers.failed(now, A, Fault::Closed)));
        assert!(brokers.failed(now, A, Fault::NotReached("refused")), "the listener is gone");

        let mut brokers = two();
        brokers.answers(now, A);
        let counted: Vec<_> = (0..3).map(|_| brokers.failed(now, A, Fault::Closed)).collect();
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
        assert!(brokers.failed(now, A, Fault::NotReached("refused")));
        assert_eq!(brokers.due_down(now), None);
        assert_eq!(brokers.due_down(now + PROBE_INTERVAL), Some(A));
        assert_eq!(brokers.due_down(now + PROBE_INTERVAL), None);
        assert!(brokers.accepts(now + PROBE_INTERVAL, A));
        assert_eq!(brokers.due_up(now + PROBE_INTERVAL), Some(B));
        assert_eq!(brokers.next_probe(), Some(now + PROBE_INTERVAL + QUIET_INTERVAL));
    }
}
