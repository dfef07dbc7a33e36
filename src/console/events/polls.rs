//! Events by polling. The events of a device that somebody polls are kept for a while, so that none is missed between
//! two polls.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{interval, timeout_at};
use utoipa::ToSchema;

use crate::clock::monotonic_now;

use super::documents::Event;
use super::feed::{CHECK_EVERY, EventFeed};
use super::streams::OpenEventStream;
use crate::console::ConsoleServer;
use crate::console::access::tokens::Access;
use crate::console::http::problem::Problem;

/// Maximum number of events that are kept for a device, and their size in bytes.
const EVENTS: usize = 256;
const BYTES: usize = 256 * 1024;
/// Time after the last poll for which events are kept.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// The devices whose events are polled.
#[derive(Debug, Default)]
pub(crate) struct Polls(tokio::sync::Mutex<HashMap<PollKey, Arc<PolledDevice>>>);

/// The permissions of the client, and the endpoint name: operators see the messages of traces, viewers do not.
type PollKey = (Access, String);

#[derive(Debug)]
struct PolledDevice {
    kept: Mutex<KeptEvents>,
    arrived: Notify,
}

#[derive(Debug)]
struct KeptEvents {
    events: VecDeque<KeptEvent>,
    bytes: usize,
    /// The ID of the newest event that is not kept any more.
    removed_to: u64,
    last_id: u64,
    last_polled: Instant,
    has_ended: bool,
}

#[derive(Debug)]
struct KeptEvent {
    numbered: NumberedEvent,
    bytes: usize,
}

/// Some events of a device.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventList {
    events: Vec<NumberedEvent>,
    /// The parameter `since` of the next request.
    last: u64,
}

/// An event and its ID.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct NumberedEvent {
    id: u64,
    #[serde(flatten)]
    event: Event,
}

/// Returns the events of a device after `since`, and waits for one if there is none.
pub(super) async fn poll(
    server: &Arc<ConsoleServer>,
    access: &Access,
    endpoint: String,
    since: u64,
    max: Duration,
) -> Result<EventList, Problem> {
    let deadline = monotonic_now() + max;
    let device = server.polls.device(server, access, endpoint).await?;
    loop {
        let arrived = device.arrived.notified();
        tokio::pin!(arrived);
        arrived.as_mut().enable();
        if let Some(list) = device.lock().after(monotonic_now(), since) {
            return Ok(list);
        }
        if timeout_at(deadline.into(), arrived).await.is_err() {
            let mut kept = device.lock();
            kept.last_polled = monotonic_now();
            return Ok(EventList { events: Vec::new(), last: since.max(kept.last_id) });
        }
    }
}

impl Polls {
    /// Returns the kept events of a device; begins to keep them if need be.
    async fn device(
        &self,
        server: &Arc<ConsoleServer>,
        access: &Access,
        endpoint: String,
    ) -> Result<Arc<PolledDevice>, Problem> {
        let key = (access.clone(), endpoint);
        let mut devices = self.0.lock().await;
        devices.retain(|_, device| !device.lock().has_ended);
        if let Some(device) = devices.get(&key) {
            return Ok(Arc::clone(device));
        }
        let (_, endpoint) = &key;
        let open = server.streams.open(&access.name, Some(endpoint))?;
        let feed = EventFeed::of_device(server, access, endpoint).await?;
        let begun = server.next_event_id();
        let device = Arc::new(PolledDevice { kept: Mutex::new(KeptEvents::new(begun)), arrived: Notify::new() });
        device.lock().push(server.next_event_id(), Event::hello());
        tokio::spawn(keep(Arc::clone(&device), feed, open, access.clone()));
        devices.insert(key, Arc::clone(&device));
        Ok(device)
    }
}

/// Keeps the events of a device until nobody has polled for a while, or its token is not valid any more.
async fn keep(device: Arc<PolledDevice>, mut feed: EventFeed, open: OpenEventStream, access: Access) {
    let mut checks = interval(CHECK_EVERY);
    loop {
        tokio::select! {
            event = feed.next() => {
                let Some(event) = event else { break };
                device.lock().push(feed.server().next_event_id(), event);
                device.arrived.notify_waiters();
            }
            _ = checks.tick() => {
                let is_polled = monotonic_now() - device.lock().last_polled < KEPT_FOR;
                if !is_polled || !feed.server().files.tokens().grants(&access) {
                    break;
                }
            }
        }
    }
    device.lock().has_ended = true;
    device.arrived.notify_waiters();
    drop(open);
}

impl PolledDevice {
    // A panic while the events are locked cannot leave them in a state that matters.
    fn lock(&self) -> MutexGuard<'_, KeptEvents> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptEvents {
    /// Creates an empty list; events up to this ID are missing.
    fn new(begun: u64) -> Self {
        let last_polled = monotonic_now();
        Self { events: VecDeque::new(), bytes: 0, removed_to: begun, last_id: begun, last_polled, has_ended: false }
    }

    fn push(&mut self, id: u64, event: Event) {
        let bytes = serde_json::to_vec(&event).map_or(0, |json| json.len());
        self.bytes += bytes;
        self.last_id = id;
        self.events.push_back(KeptEvent { numbered: NumberedEvent { id, event }, bytes });
        while self.events.len() > EVENTS || self.bytes > BYTES {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= oldest.bytes;
            self.removed_to = oldest.numbered.id;
        }
    }

    /// Returns the events after this ID; `None` if there are none yet. A client that begins, with 0, gets `hello`. One
    /// that has missed events gets `lost` first.
    fn after(&mut self, now: Instant, since: u64) -> Option<EventList> {
        self.last_polled = now;
        let last = self.last_id;
        if since == 0 {
            return Some(EventList { events: vec![NumberedEvent { id: last, event: Event::hello() }], last });
        }
        // An ID that was not given yet is one of an earlier process.
        let has_missed = since < self.removed_to || since > last;
        let missing = has_missed.then(|| NumberedEvent { id: self.removed_to, event: Event::lost(None) });
        let since = if since > last { 0 } else { since };
        let newer = self.events.iter().map(|kept| &kept.numbered).filter(|event| event.id > since).cloned();
        let events: Vec<_> = missing.into_iter().chain(newer).collect();
        (!events.is_empty() || self.has_ended).then_some(EventList { events, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &EventList) -> Vec<(u64, &'static str)> {
        list.events.iter().map(|numbered| (numbered.id, numbered.event.name)).collect()
    }

    #[test]
    fn a_client_gets_hello_first_and_then_each_event_once() {
        let mut kept = KeptEvents::new(10);
        let now = kept.last_polled;
        kept.push(11, Event::hello());
        let first = kept.after(now, 0).unwrap();
        assert_eq!((ids(&first), first.last), (vec![(11, "hello")], 11));
        assert!(kept.after(now, 11).is_none());
        kept.push(14, Event::definitions());
        kept.push(19, Event::lost(Some(3)));
        let second = kept.after(now, 11).unwrap();
        assert_eq!((ids(&second), second.last), (vec![(14, "definitions"), (19, "lost")], 19));
        assert!(kept.after(now, 19).is_none());
    }

    #[test]
    fn a_client_that_has_missed_events_is_told_so_first() {
        let mut kept = KeptEvents::new(10);
        let now = kept.last_polled;
        (11..=20 + EVENTS as u64).for_each(|id| kept.push(id, Event::definitions()));
        assert_eq!(kept.events.len(), EVENTS);
        let list = kept.after(now, 12).unwrap();
        assert_eq!((list.events.len(), ids(&list)[0]), (EVENTS + 1, (20, "lost")));
        // The newest that is not kept is the last one that the client has.
        assert_eq!(kept.after(now, 20).unwrap().events.len(), EVENTS);
        // An ID of an earlier process.
        assert_eq!(ids(&kept.after(now, 1_000_000).unwrap())[0], (20, "lost"));
    }
}
