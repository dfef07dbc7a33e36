//! Which of the broker's addresses serve, as far as connections have shown, and which of them a device goes to.
//!
//! An address goes down by the faults that devices meet there. From then on one device in a second tries it, and the
//! first that is answered brings it up again. Nothing is moved back to it: it has the fewest devices, and so it gets the
//! next ones.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::codec::Version;

/// From one attempt to the next at an address that is down.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Faults in a row after which an address is down, of those that a single device may meet on one that is fine.
const TOLERATED: u32 = 3;

/// The position of an address in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BrokerId(pub usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<'a> {
    NotReached(&'a str),
    /// It took a connection, and did not answer to CONNECT.
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
    /// Whether it ever answered.
    answered: bool,
    /// Why it went down last.
    fault: String,
    /// In a row, up to now.
    silent: u32,
    /// When the next device may try it; none while it is up.
    next_probe: Option<Instant>,
}

impl Brokers {
    /// All of them count as up until something else is known.
    pub fn new(addresses: &[String], version: Version) -> Self {
        let broker = |address: &String| Broker {
            address: address.clone(),
            version,
            connections: 0,
            answered: false,
            fault: String::new(),
            silent: 0,
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

    pub fn ids(&self) -> impl Iterator<Item = BrokerId> + use<> {
        (0..self.brokers.len()).map(BrokerId)
    }

    pub fn up(&self) -> usize {
        self.brokers.iter().filter(|broker| broker.is_up()).count()
    }

    pub fn take_standing(&mut self) -> Option<Standing> {
        std::mem::take(&mut self.changed).then(|| Standing {
            serving: self.brokers.iter().any(|broker| broker.is_up() && broker.answered),
            detail: self.brokers.iter().map(Broker::told_to_people).collect::<Vec<_>>().join("; "),
        })
    }

    /// When the first one that is down may be tried.
    pub fn next_probe(&self) -> Option<Instant> {
        self.brokers.iter().filter_map(|broker| broker.next_probe).min()
    }

    /// Where a device goes next: to one whose turn to be tried has come, else to where it was, if that is up, else to the
    /// one with the fewest connections. With `elsewhere`, to where it was only if no other is up.
    pub fn choose(&mut self, now: Instant, before: Option<BrokerId>, elsewhere: bool) -> Option<BrokerId> {
        if let Some(due) = self.due(now) {
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

    /// One that is down whose turn to be tried has come: it is being tried now.
    pub fn due(&mut self, now: Instant) -> Option<BrokerId> {
        let index = self.brokers.iter().position(|broker| broker.next_probe.is_some_and(|at| at <= now))?;
        self.brokers[index].next_probe = Some(now + PROBE_INTERVAL);
        Some(BrokerId(index))
    }

    pub fn add_connection(&mut self, id: BrokerId) {
        self.brokers[id.0].connections += 1;
    }

    pub fn remove_connection(&mut self, id: BrokerId) {
        self.brokers[id.0].connections -= 1;
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
    pub fn answers(&mut self, id: BrokerId) -> bool {
        let broker = &mut self.brokers[id.0];
        broker.silent = 0;
        let was_down = broker.next_probe.take().is_some();
        if was_down {
            info!(broker = broker.address, "the broker serves again");
        } else if !broker.answered {
            info!(broker = broker.address, "the broker is reached");
        }
        self.changed |= was_down || !broker.answered;
        broker.answered = true;
        was_down
    }

    /// A device met this there. Says whether it is down by it.
    pub fn failed(&mut self, now: Instant, id: BrokerId, fault: Fault<'_>) -> bool {
        let broker = &mut self.brokers[id.0];
        let counts = match fault {
            Fault::NotReached(_) => true,
            Fault::Silent => {
                broker.silent += 1;
                !broker.answered || broker.silent >= TOLERATED
            }
        };
        if !counts || !broker.is_up() {
            return false;
        }
        broker.next_probe = Some(now + PROBE_INTERVAL);
        self.changed = true;
        broker.fault = broker.in_words(fault);
        warn!(broker = broker.address, "the broker does not serve: {}", broker.fault);
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
            Fault::Silent => "it takes connections, and does not answer to CONNECT: is it (upstream.mqtt.brokers) a \
                              listener for MQTT over TCP, or with ssl:// over TLS?"
                .to_owned(),
        }
    }

    fn told_to_people(&self) -> String {
        match (self.is_up(), self.answered) {
            (true, true) => format!("{} serves", self.address),
            (true, false) => format!("{} has not answered yet", self.address),
            (false, _) => format!("{}: {}", self.address, self.fault),
        }
    }

    fn is_up(&self) -> bool {
        self.next_probe.is_none()
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
        assert!(brokers.answers(A));
        assert_eq!(brokers.choose(now, Some(A), false), Some(A));
        assert!(!brokers.answers(A));
    }

    #[test]
    fn silence_is_tolerated_where_there_was_an_answer_before() {
        let (now, mut brokers) = (Instant::now(), two());
        assert!(brokers.failed(now, B, Fault::Silent));
        brokers.answers(A);
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
}
