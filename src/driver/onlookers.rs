//! Onlookers: event streams of the console. They get copies, and the driver does not wait for them: an event without
//! room in a stream is counted as lost. Without onlookers nothing is copied.
//!
//! 1. A [`Watch`] names a device, registered or not, or all devices.
//! 2. Each report of the core and each publication comes here before it passes on.
//! 3. A watch whose receiver has gone is forgotten.

mod event;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::clock::unix_time;
use crate::observability::failures::CountedFailure;
use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::broker::{BrokerCommand, Publication, RegistrationId};
use lwm2m_core::gateway::report::Report;

pub(crate) use event::{EventKind, OnlookerEvent};

/// Maximum number of events that wait for one receiver.
#[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
pub(crate) const EVENTS: usize = 128;
/// Maximum size of the payload of an event, in bytes. A longer one is cut.
pub(crate) const PAYLOAD_BYTES: usize = 2 * 1024;
/// Maximum number of events in a second for a watch of all devices.
const EVENTS_OF_ALL: u32 = 50;

/// Asks for the events of devices.
#[derive(Clone, Debug)]
pub struct Watch {
    pub target: WatchTarget,
    pub events: EventSender,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchTarget {
    /// The device of this endpoint name, now and whenever it registers.
    Device(String),
    /// Registrations, their ends, address changes and failures of all devices.
    All,
}

/// The sending half of a stream of events. Clones send to the same stream.
#[derive(Clone, Debug)]
pub struct EventSender {
    events: mpsc::Sender<Arc<OnlookerEvent>>,
    lost: Arc<AtomicU64>,
}

/// The receiving half of a stream of events.
#[derive(Debug)]
#[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
pub(crate) struct EventReceiver {
    events: mpsc::Receiver<Arc<OnlookerEvent>>,
    lost: Arc<AtomicU64>,
}

/// The watches in force.
#[derive(Debug, Default)]
pub(crate) struct Onlookers {
    watches: Vec<ActiveWatch>,
    /// The endpoint names of the watched devices by the registrations in whose name they publish, because a publication
    /// contains no endpoint name.
    publishers: HashMap<RegistrationId, String>,
    /// Counts the events that found no room.
    lost: Counter,
}

#[derive(Debug)]
struct ActiveWatch {
    target: WatchTarget,
    events: EventSender,
    /// The second of a watch of all devices, and the number of its events.
    second: Option<Instant>,
    in_second: u32,
}

/// Creates a stream of events.
#[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
pub(crate) fn event_stream() -> (EventSender, EventReceiver) {
    let (sender, receiver) = mpsc::channel(EVENTS);
    let lost = Arc::<AtomicU64>::default();
    (EventSender { events: sender, lost: Arc::clone(&lost) }, EventReceiver { events: receiver, lost })
}

#[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
impl EventReceiver {
    /// Returns the next event; `None` if the driver has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Arc<OnlookerEvent>> {
        self.events.recv().await
    }

    /// Closes the stream: it takes no more events.
    pub(crate) fn close(&mut self) {
        self.events.close();
    }

    /// Returns the number of events that were lost since the last call.
    pub(crate) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Onlookers {
    pub(crate) fn new(lost: Counter) -> Self {
        Self { lost, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// Adds a watch.
    pub(crate) fn watch(&mut self, gateway: &Gateway, watch: Watch) {
        self.forget_closed();
        let Watch { target, events } = watch;
        if let WatchTarget::Device(endpoint) = &target
            && let Some(publisher) = gateway.publisher_of(endpoint)
        {
            self.publishers.insert(publisher, endpoint.clone());
        }
        self.watches.push(ActiveWatch { target, events, second: None, in_second: 0 });
    }

    /// Removes the watches whose receivers have gone.
    pub(crate) fn forget_closed(&mut self) {
        self.watches.retain(|watch| !watch.events.events.is_closed());
        let watches = &self.watches;
        self.publishers.retain(|_, endpoint| watches.iter().any(|watch| watch.names(endpoint)));
    }

    /// Takes a report of the core.
    pub(crate) fn report(&mut self, now: Instant, gateway: &mut Gateway, report: &Report) {
        if self.is_empty() {
            return;
        }
        let Some(endpoint) = report.endpoint() else { return };
        let of_all = matches!(report, Report::Registered { .. } | Report::Left { .. } | Report::Moved { .. });
        if !self.wants(now, endpoint, of_all) {
            return;
        }
        if let Some(kind) = EventKind::of(now, gateway, report) {
            self.deliver(Some(endpoint), of_all, kind);
        }
    }

    /// Takes a command to the broker, which may be a publication of a watched device.
    pub(crate) fn broker_command(&mut self, command: &BrokerCommand) {
        if self.is_empty() {
            return;
        }
        match command {
            BrokerCommand::Connect { registration, client } | BrokerCommand::Resume { registration, client } => {
                if self.watches.iter().any(|watch| watch.names(&client.endpoint)) {
                    self.publishers.insert(*registration, client.endpoint.clone());
                }
            }
            BrokerCommand::Publish { registration, publication } => self.publication(*registration, publication),
            BrokerCommand::Disconnect { registration }
            | BrokerCommand::HandOver { registration }
            | BrokerCommand::Abandon { registration } => drop(self.publishers.remove(registration)),
            BrokerCommand::SetLifetime { .. } | BrokerCommand::Confirm { .. } => {}
        }
    }

    /// Takes a failure of any origin.
    pub(crate) fn failure(&mut self, now: Instant, failure: &CountedFailure) {
        if self.is_empty() {
            return;
        }
        let endpoint = failure.failure.endpoint.as_deref();
        if self.wants(now, endpoint.unwrap_or_default(), true) {
            self.deliver(endpoint, true, EventKind::Failure(Box::new(failure.clone())));
        }
    }

    fn publication(&mut self, publisher: RegistrationId, publication: &Publication) {
        let Some(endpoint) = self.publishers.get(&publisher).cloned() else { return };
        self.deliver(Some(&endpoint), false, EventKind::message(publication));
    }

    /// Returns whether a watch takes an event of this device. An event beyond the rate of a watch of all devices is
    /// lost for it.
    fn wants(&mut self, now: Instant, endpoint: &str, of_all: bool) -> bool {
        let lost = &self.lost;
        self.watches.iter_mut().fold(false, |wanted, watch| match &watch.target {
            WatchTarget::Device(watched) => wanted || watched == endpoint,
            WatchTarget::All => {
                let takes = of_all && watch.takes_one_more(now);
                if of_all && !takes {
                    watch.events.lost.fetch_add(1, Ordering::Relaxed);
                    lost.inc();
                }
                wanted || takes
            }
        })
    }

    fn deliver(&mut self, endpoint: Option<&str>, of_all: bool, kind: EventKind) {
        // While the clock is not set the events are of 1970.
        let at = unix_time().unwrap_or_default();
        let event = Arc::new(OnlookerEvent { at, endpoint: endpoint.map(str::to_owned), kind });
        let mut any_closed = false;
        for watch in &mut self.watches {
            let takes = match &watch.target {
                WatchTarget::Device(watched) => endpoint == Some(watched.as_str()),
                WatchTarget::All => of_all && watch.in_second <= EVENTS_OF_ALL,
            };
            if takes {
                any_closed |= watch.events.send(&event, &self.lost);
            }
        }
        if any_closed {
            self.forget_closed();
        }
    }
}

impl ActiveWatch {
    fn names(&self, endpoint: &str) -> bool {
        matches!(&self.target, WatchTarget::Device(watched) if watched == endpoint)
    }

    fn takes_one_more(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1)) {
            (self.second, self.in_second) = (Some(now), 0);
        }
        self.in_second = self.in_second.saturating_add(1);
        self.in_second <= EVENTS_OF_ALL
    }
}

impl EventSender {
    /// Sends an event if there is room. Returns whether the receiver has gone.
    fn send(&self, event: &Arc<OnlookerEvent>, lost: &Counter) -> bool {
        match self.events.try_send(Arc::clone(event)) {
            Ok(()) => false,
            Err(TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                lost.inc();
                false
            }
            Err(TrySendError::Closed(_)) => true,
        }
    }
}

#[cfg(test)]
mod tests;
