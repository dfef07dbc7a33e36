//! The publications that wait for the broker: in order for each client ID, and bounded for each and for all. They
//! belong to the client ID, not to a registration: when a device registers again, the next connection publishes them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use crate::upstream::client::clients::ClientKey;
use lwm2m_base::id_map::IdMap;
use lwm2m_base::sparse::ShrinkSparse;
use lwm2m_core::gateway::broker::{Publication, RegistrationId, UplinkClass};

/// Limits how often a publication may be in flight when its connection ends. The broker may be ending the connection
/// because of it, and would do so for ever.
const ATTEMPTS: u8 = 3;

/// Orders all publications. A serial is never used again in the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(u64);

/// Holds the publications of all client IDs. Those in flight count as waiting until they are done, so that the bounds
/// hold whatever becomes of them.
#[derive(Debug)]
pub(crate) struct PublicationQueues {
    per_client: usize,
    total: usize,
    length: usize,
    next: u64,
    queues: IdMap<ClientKey, Queue>,
    /// Lists the notifications that may be dropped, of all client IDs, the oldest first.
    notifications: BTreeSet<(Serial, ClientKey)>,
    answers: BTreeSet<(Serial, ClientKey)>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: BTreeMap<Serial, QueueEntry>,
    /// Lists the publications in flight, which are the first of the queue.
    in_flight: VecDeque<Serial>,
}

#[derive(Debug)]
struct QueueEntry {
    queued: Queued,
    attempts: u8,
}

/// A publication with the registration that asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub registration: RegistrationId,
    pub publication: Publication,
}

enum QueueRoom {
    Free,
    InsteadOf { serial: Serial, owner: ClientKey },
    None,
}

impl PublicationQueues {
    pub(crate) fn new(per_client: usize, total: usize) -> Self {
        Self {
            per_client,
            total,
            length: 0,
            next: 0,
            queues: IdMap::default(),
            notifications: BTreeSet::new(),
            answers: BTreeSet::new(),
        }
    }

    /// Adds a publication at the end. If there is no room, the oldest notification is dropped, of the client ID or of
    /// all, depending on the bound. Without one, the new publication is dropped if it is a notification, else the
    /// oldest answer, else the new publication. A Send takes the place of nothing, because its device can try again.
    /// Returns the dropped one.
    pub(crate) fn push(&mut self, client: ClientKey, queued: Queued) -> Option<Queued> {
        match self.room_for(client, queued.publication.class) {
            QueueRoom::Free => {
                self.append(client, queued);
                None
            }
            QueueRoom::InsteadOf { serial, owner } => {
                let dropped = self.take(owner, serial);
                self.append(client, queued);
                dropped
            }
            QueueRoom::None => Some(queued),
        }
    }

    /// Passes the publications of a registration that is gone to another one of its client ID, which hears what becomes
    /// of them.
    pub(crate) fn pass_on(&mut self, client: ClientKey, from: RegistrationId, to: RegistrationId) {
        let Some(queue) = self.queues.get_mut(&client) else { return };
        for entry in queue.entries.values_mut().filter(|entry| entry.queued.registration == from) {
            entry.queued.registration = to;
        }
    }

    /// Marks the next publication of the client as in flight, if fewer than `window` are, and returns it.
    pub(crate) fn begin(&mut self, client: ClientKey, window: usize) -> Option<(Serial, &Publication)> {
        let queue = self.queues.get_mut(&client)?;
        if queue.in_flight.len() >= window {
            return None;
        }
        // Those under way are the first ones.
        let (serial, _) = match queue.in_flight.back() {
            Some(last) => queue.entries.range((Bound::Excluded(*last), Bound::Unbounded)).next()?,
            None => queue.entries.first_key_value()?,
        };
        let serial = *serial;
        queue.in_flight.push_back(serial);
        self.unmark_droppable(client, serial);
        self.publication(client, serial).map(|publication| (serial, publication))
    }

    /// Removes a publication in flight that is done.
    pub(crate) fn finish(&mut self, client: ClientKey, serial: Serial) -> Option<Queued> {
        let queue = self.queues.get_mut(&client)?;
        queue.in_flight.retain(|in_flight| *in_flight != serial);
        self.take(client, serial)
    }

    /// Counts a failed attempt of the first publication in flight, whose connection has ended: the broker takes
    /// publications in order, so that one may be the cause. Removes and returns it after its last attempt.
    pub(crate) fn count_failed_attempt(&mut self, client: ClientKey) -> Option<Queued> {
        let queue = self.queues.get_mut(&client)?;
        let first = *queue.in_flight.front()?;
        let entry = queue.entries.get_mut(&first)?;
        entry.attempts += 1;
        if entry.attempts >= ATTEMPTS { self.finish(client, first) } else { None }
    }

    /// Puts the publications in flight back to the front of the queue.
    pub(crate) fn requeue_in_flight(&mut self, client: ClientKey) {
        let Some(queue) = self.queues.get_mut(&client) else { return };
        for serial in std::mem::take(&mut queue.in_flight) {
            if let Some(class) = self.publication(client, serial).map(|publication| publication.class) {
                self.mark_droppable(client, serial, class);
            }
        }
    }

    /// Returns a publication that waits or is in flight.
    pub(crate) fn publication(&self, client: ClientKey, serial: Serial) -> Option<&Publication> {
        self.queues.get(&client)?.entries.get(&serial).map(|entry| &entry.queued.publication)
    }

    /// Drops the queue of the client, and returns the classes of its publications.
    pub(crate) fn clear(&mut self, client: ClientKey) -> Vec<UplinkClass> {
        let Some(queue) = self.queues.remove(&client) else { return Vec::new() };
        self.length -= queue.entries.len();
        for serial in queue.entries.keys() {
            self.unmark_droppable(client, *serial);
        }
        queue.entries.into_values().map(|entry| entry.queued.publication.class).collect()
    }

    pub(crate) fn is_empty(&self, client: ClientKey) -> bool {
        !self.queues.contains_key(&client)
    }

    /// Returns how many publications wait, of all devices.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Returns how many publications may wait.
    pub(crate) fn limit(&self) -> usize {
        self.total
    }

    fn room_for(&self, client: ClientKey, newcomer: UplinkClass) -> QueueRoom {
        let own = self.queues.get(&client);
        let (notification, answer) = if own.is_some_and(|queue| queue.entries.len() >= self.per_client) {
            let oldest = |class| own.and_then(|queue| queue.oldest(class)).map(|serial| (serial, client));
            (oldest(UplinkClass::Notification), oldest(UplinkClass::Answer))
        } else if self.length >= self.total {
            (self.notifications.first().copied(), self.answers.first().copied())
        } else {
            return QueueRoom::Free;
        };
        match (notification, newcomer, answer) {
            (_, UplinkClass::Send, _) => QueueRoom::None,
            (Some((serial, owner)), _, _) => QueueRoom::InsteadOf { serial, owner },
            (None, UplinkClass::Registration | UplinkClass::Answer, Some((serial, owner))) => {
                QueueRoom::InsteadOf { serial, owner }
            }
            (None, UplinkClass::Notification, _) | (None, UplinkClass::Registration | UplinkClass::Answer, None) => {
                QueueRoom::None
            }
        }
    }

    fn append(&mut self, client: ClientKey, queued: Queued) {
        let serial = Serial(self.next);
        self.next += 1;
        self.length += 1;
        self.mark_droppable(client, serial, queued.publication.class);
        self.queues.entry(client).or_default().entries.insert(serial, QueueEntry { queued, attempts: 0 });
    }

    fn take(&mut self, client: ClientKey, serial: Serial) -> Option<Queued> {
        let queue = self.queues.get_mut(&client)?;
        let entry = queue.entries.remove(&serial)?;
        if queue.entries.is_empty() {
            self.queues.remove(&client);
            self.queues.shrink_sparse();
        }
        self.length -= 1;
        self.unmark_droppable(client, serial);
        Some(entry.queued)
    }

    /// Allows the publication to be dropped.
    fn mark_droppable(&mut self, client: ClientKey, serial: Serial, class: UplinkClass) {
        match class {
            UplinkClass::Notification => self.notifications.insert((serial, client)),
            UplinkClass::Answer => self.answers.insert((serial, client)),
            UplinkClass::Registration | UplinkClass::Send => return,
        };
    }

    /// Protects the publication from being dropped.
    fn unmark_droppable(&mut self, client: ClientKey, serial: Serial) {
        self.notifications.remove(&(serial, client));
        self.answers.remove(&(serial, client));
    }
}

impl Queue {
    fn oldest(&self, class: UplinkClass) -> Option<Serial> {
        let mut droppable = self.entries.iter().filter(|(serial, _)| self.in_flight.back() < Some(*serial));
        droppable.find(|(_, entry)| entry.queued.publication.class == class).map(|(serial, _)| *serial)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::upstream::client::clients::Clients;

    use super::*;

    fn two_clients() -> (ClientKey, ClientKey) {
        let mut clients = Clients::<()>::default();
        (clients.add("one", RegistrationId(1)), clients.add("two", RegistrationId(2)))
    }

    fn publication(topic: &str, class: UplinkClass) -> Queued {
        let publication = Publication {
            topic: topic.to_owned(),
            qos: 0,
            payload: Bytes::new(),
            class,
            retain: false,
            expiry: None,
            correlation: None,
            ticket: None,
        };
        Queued { registration: RegistrationId(1), publication }
    }

    /// Adds a publication, and returns the class of the one that is dropped for it.
    fn dropped(queues: &mut PublicationQueues, client: ClientKey, queued: Queued) -> Option<UplinkClass> {
        queues.push(client, queued).map(|dropped| dropped.publication.class)
    }

    fn begin(queues: &mut PublicationQueues, client: ClientKey, window: usize) -> Option<Serial> {
        queues.begin(client, window).map(|(serial, _)| serial)
    }

    fn drain(queues: &mut PublicationQueues, client: ClientKey) -> Vec<String> {
        let mut topics = Vec::new();
        while let Some(serial) = begin(queues, client, 1) {
            topics.extend(queues.finish(client, serial).map(|queued| queued.publication.topic));
        }
        topics
    }

    #[test]
    fn one_publication_of_a_device_is_under_way_at_a_time_in_the_order_of_arrival() {
        let (one, _) = two_clients();
        let mut queues = PublicationQueues::new(10, 10);
        for topic in ["a", "b", "c"] {
            assert_eq!(dropped(&mut queues, one, publication(topic, UplinkClass::Answer)), None);
        }
        assert_eq!(queues.begin(one, 1).map(|(_, publication)| publication.topic.as_str()), Some("a"));
        assert_eq!(begin(&mut queues, one, 1), None);
        queues.requeue_in_flight(one);
        assert_eq!(drain(&mut queues, one), ["a", "b", "c"]);
        assert!(queues.is_empty(one));
        assert_eq!(queues.length, 0);
    }

    #[test]
    fn as_many_as_the_window_has_room_for_are_under_way_and_any_of_them_may_be_done_first() {
        let (one, _) = two_clients();
        let mut queues = PublicationQueues::new(10, 10);
        for topic in ["a", "b", "c", "d"] {
            queues.push(one, publication(topic, UplinkClass::Answer));
        }
        let in_flight: Vec<_> = std::iter::from_fn(|| begin(&mut queues, one, 3)).collect();
        assert_eq!(in_flight.len(), 3);
        assert_eq!(queues.finish(one, in_flight[1]).map(|queued| queued.publication.topic).as_deref(), Some("b"));
        let next = begin(&mut queues, one, 3).unwrap();
        assert_eq!(queues.publication(one, next).map(|publication| publication.topic.as_str()), Some("d"));
        queues.requeue_in_flight(one);
        assert_eq!(drain(&mut queues, one), ["a", "c", "d"]);
        assert!(queues.notifications.is_empty() && queues.answers.is_empty());
    }

    #[test]
    fn a_full_queue_gives_up_its_oldest_notification_then_an_answer_and_a_report_never() {
        let (one, _) = two_clients();
        let mut queues = PublicationQueues::new(3, 100);
        queues.push(one, publication("report", UplinkClass::Registration));
        queues.push(one, publication("answer", UplinkClass::Answer));
        queues.push(one, publication("notify 1", UplinkClass::Notification));

        let notification = publication("notify 2", UplinkClass::Notification);
        assert_eq!(dropped(&mut queues, one, notification.clone()), Some(UplinkClass::Notification));
        assert_eq!(
            dropped(&mut queues, one, publication("answer 2", UplinkClass::Answer)),
            Some(UplinkClass::Notification)
        );
        assert_eq!(dropped(&mut queues, one, notification.clone()), Some(UplinkClass::Notification));
        assert_eq!(
            dropped(&mut queues, one, publication("report 2", UplinkClass::Registration)),
            Some(UplinkClass::Answer)
        );
        assert_eq!(dropped(&mut queues, one, publication("answer 3", UplinkClass::Answer)), Some(UplinkClass::Answer));
        assert_eq!(
            dropped(&mut queues, one, publication("report 3", UplinkClass::Registration)),
            Some(UplinkClass::Answer)
        );
        assert_eq!(dropped(&mut queues, one, publication("answer 4", UplinkClass::Answer)), Some(UplinkClass::Answer));
        assert_eq!(
            dropped(&mut queues, one, publication("report 4", UplinkClass::Registration)),
            Some(UplinkClass::Registration)
        );
        assert_eq!(drain(&mut queues, one), ["report", "report 2", "report 3"]);
    }

    #[test]
    fn a_send_takes_the_place_of_nothing_and_nothing_takes_its_place() {
        let (one, _) = two_clients();
        let mut queues = PublicationQueues::new(2, 100);
        queues.push(one, publication("send", UplinkClass::Send));
        queues.push(one, publication("notify", UplinkClass::Notification));
        assert_eq!(dropped(&mut queues, one, publication("send 2", UplinkClass::Send)), Some(UplinkClass::Send));
        assert_eq!(
            dropped(&mut queues, one, publication("report", UplinkClass::Registration)),
            Some(UplinkClass::Notification)
        );
        assert_eq!(
            dropped(&mut queues, one, publication("report 2", UplinkClass::Registration)),
            Some(UplinkClass::Registration)
        );
        assert_eq!(drain(&mut queues, one), ["send", "report"]);
    }

    #[test]
    fn when_all_devices_together_have_too_much_the_oldest_notification_of_any_goes() {
        let (one, two) = two_clients();
        let mut queues = PublicationQueues::new(10, 3);
        queues.push(two, publication("old", UplinkClass::Notification));
        queues.push(one, publication("new", UplinkClass::Notification));
        queues.push(one, publication("answer", UplinkClass::Answer));

        assert_eq!(
            dropped(&mut queues, one, publication("report", UplinkClass::Registration)),
            Some(UplinkClass::Notification)
        );
        assert_eq!(drain(&mut queues, two), [""; 0]);
        assert_eq!(drain(&mut queues, one), ["new", "answer", "report"]);
    }

    #[test]
    fn what_is_under_way_is_never_dropped_for_room() {
        let (one, _) = two_clients();
        let mut queues = PublicationQueues::new(1, 100);
        queues.push(one, publication("under way", UplinkClass::Notification));
        let serial = begin(&mut queues, one, 1).unwrap();
        assert_eq!(
            dropped(&mut queues, one, publication("late", UplinkClass::Notification)),
            Some(UplinkClass::Notification)
        );
        assert_eq!(queues.finish(one, serial).map(|queued| queued.publication.topic).as_deref(), Some("under way"));
    }

    #[test]
    fn a_publication_that_never_survives_its_connection_is_given_up_at_the_third_time() {
        let (one, _) = two_clients();
        let mut queues = PublicationQueues::new(10, 10);
        queues.push(one, publication("poison", UplinkClass::Answer));
        for outcome in [None, None, Some(UplinkClass::Answer)] {
            begin(&mut queues, one, 1);
            assert_eq!(queues.count_failed_attempt(one).map(|queued| queued.publication.class), outcome);
            queues.requeue_in_flight(one);
        }
        assert_eq!(begin(&mut queues, one, 1), None);
        assert_eq!(queues.length, 0);
    }

    #[test]
    fn a_device_that_leaves_takes_its_publications_out_of_the_total() {
        let (one, two) = two_clients();
        let mut queues = PublicationQueues::new(10, 2);
        queues.push(one, publication("a", UplinkClass::Answer));
        queues.push(one, publication("b", UplinkClass::Notification));
        begin(&mut queues, one, 1);
        assert_eq!(queues.clear(one), [UplinkClass::Answer, UplinkClass::Notification]);
        assert_eq!(dropped(&mut queues, two, publication("c", UplinkClass::Registration)), None);
        assert_eq!(dropped(&mut queues, two, publication("d", UplinkClass::Registration)), None);
        assert_eq!(
            dropped(&mut queues, two, publication("e", UplinkClass::Registration)),
            Some(UplinkClass::Registration)
        );
    }
}
