//! The publications that wait for their devices' connections: in order for each device, bounded for each and for all.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use crate::gateway::broker::{DeviceId, Publication, UplinkClass};

/// How often a publication may be under way when its connection ends. The broker may be ending the connection because
/// of it, and would do so for ever.
const ATTEMPTS: u8 = 3;

/// The place of a publication in the order of all. Never used again in the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(u64);

/// Publications under way count as waiting until they are done, so that the bounds hold whatever becomes of them.
#[derive(Debug)]
pub struct Queues {
    per_device: usize,
    total: usize,
    length: usize,
    next: u64,
    queues: HashMap<DeviceId, Queue>,
    /// Everywhere what could be dropped, the oldest first.
    notifications: BTreeSet<(Serial, DeviceId)>,
    answers: BTreeSet<(Serial, DeviceId)>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<Serial, Waiting>,
    /// The first ones, while the broker has them.
    under_way: VecDeque<Serial>,
}

#[derive(Debug)]
struct Waiting {
    publication: Publication,
    attempts: u8,
}

enum Room {
    Free,
    InsteadOf { serial: Serial, owner: DeviceId, class: UplinkClass },
    None,
}

impl Queues {
    pub fn new(per_device: usize, total: usize) -> Self {
        Self {
            per_device,
            total,
            length: 0,
            next: 0,
            queues: HashMap::new(),
            notifications: BTreeSet::new(),
            answers: BTreeSet::new(),
        }
    }

    /// Adds a publication at the end. When there is no room, first the oldest notification has to go, of the device or
    /// of all devices as the bound has it; if there is none, the newcomer if it is a notification, else the oldest
    /// answer, else the newcomer. Gives the class of the one that went.
    pub fn push(&mut self, device: DeviceId, publication: Publication) -> Option<UplinkClass> {
        let newcomer = publication.class;
        match self.room_for(device, newcomer) {
            Room::Free => {
                self.append(device, publication);
                None
            }
            Room::InsteadOf { serial, owner, class } => {
                self.take(owner, serial);
                self.append(device, publication);
                Some(class)
            }
            Room::None => Some(newcomer),
        }
    }

    /// The next publication of the device, if fewer than `window` of it are under way; it is now.
    pub fn begin(&mut self, device: DeviceId, window: usize) -> Option<(Serial, &Publication)> {
        let queue = self.queues.get_mut(&device)?;
        if queue.under_way.len() >= window {
            return None;
        }
        // Those under way are the first ones.
        let (serial, _) = match queue.under_way.back() {
            Some(last) => queue.waiting.range((Bound::Excluded(*last), Bound::Unbounded)).next()?,
            None => queue.waiting.first_key_value()?,
        };
        let serial = *serial;
        queue.under_way.push_back(serial);
        self.spare(device, serial);
        self.publication(device, serial).map(|publication| (serial, publication))
    }

    /// The publication under way is done with.
    pub fn finish(&mut self, device: DeviceId, serial: Serial) -> Option<Publication> {
        let queue = self.queues.get_mut(&device)?;
        queue.under_way.retain(|under_way| *under_way != serial);
        self.take(device, serial)
    }

    /// The connection ended while the broker had the publications under way: perhaps because of the first of them, for it
    /// takes them in order. Gives that one when it has had its attempts.
    pub fn blame(&mut self, device: DeviceId) -> Option<Publication> {
        let queue = self.queues.get_mut(&device)?;
        let first = *queue.under_way.front()?;
        let waiting = queue.waiting.get_mut(&first)?;
        waiting.attempts += 1;
        if waiting.attempts >= ATTEMPTS { self.finish(device, first) } else { None }
    }

    /// The publications under way are the first of the queue again.
    pub fn give_back(&mut self, device: DeviceId) {
        let Some(queue) = self.queues.get_mut(&device) else { return };
        for serial in std::mem::take(&mut queue.under_way) {
            if let Some(class) = self.publication(device, serial).map(|publication| publication.class) {
                self.offer(device, serial, class);
            }
        }
    }

    /// One that waits, or is under way.
    pub fn publication(&self, device: DeviceId, serial: Serial) -> Option<&Publication> {
        self.queues.get(&device)?.waiting.get(&serial).map(|waiting| &waiting.publication)
    }

    /// Drops all that waits for the device, and gives the classes.
    pub fn clear(&mut self, device: DeviceId) -> Vec<UplinkClass> {
        let Some(queue) = self.queues.remove(&device) else { return Vec::new() };
        self.length -= queue.waiting.len();
        for serial in queue.waiting.keys() {
            self.spare(device, *serial);
        }
        queue.waiting.into_values().map(|waiting| waiting.publication.class).collect()
    }

    pub fn is_empty(&self, device: DeviceId) -> bool {
        !self.queues.contains_key(&device)
    }

    /// How many publications wait, of all devices.
    pub fn len(&self) -> usize {
        self.length
    }

    /// How many may.
    pub fn limit(&self) -> usize {
        self.total
    }

    fn room_for(&self, device: DeviceId, newcomer: UplinkClass) -> Room {
        let own = self.queues.get(&device);
        let (notification, answer) = if own.is_some_and(|queue| queue.waiting.len() >= self.per_device) {
            let oldest = |class| own.and_then(|queue| queue.oldest(class)).map(|serial| (serial, device));
            (oldest(UplinkClass::Notification), oldest(UplinkClass::Answer))
        } else if self.length >= self.total {
            (self.notifications.first().copied(), self.answers.first().copied())
        } else {
            return Room::Free;
        };
        match (notification, newcomer, answer) {
            (Some((serial, owner)), _, _) => Room::InsteadOf { serial, owner, class: UplinkClass::Notification },
            (None, UplinkClass::Report | UplinkClass::Answer, Some((serial, owner))) => {
                Room::InsteadOf { serial, owner, class: UplinkClass::Answer }
            }
            (None, UplinkClass::Notification, _) | (None, UplinkClass::Report | UplinkClass::Answer, None) => {
                Room::None
            }
        }
    }

    fn append(&mut self, device: DeviceId, publication: Publication) {
        let serial = Serial(self.next);
        self.next += 1;
        self.length += 1;
        self.offer(device, serial, publication.class);
        self.queues.entry(device).or_default().waiting.insert(serial, Waiting { publication, attempts: 0 });
    }

    fn take(&mut self, device: DeviceId, serial: Serial) -> Option<Publication> {
        let queue = self.queues.get_mut(&device)?;
        let waiting = queue.waiting.remove(&serial)?;
        if queue.waiting.is_empty() {
            self.queues.remove(&device);
        }
        self.length -= 1;
        self.spare(device, serial);
        Some(waiting.publication)
    }

    /// May be dropped from now on.
    fn offer(&mut self, device: DeviceId, serial: Serial, class: UplinkClass) {
        match class {
            UplinkClass::Notification => self.notifications.insert((serial, device)),
            UplinkClass::Answer => self.answers.insert((serial, device)),
            UplinkClass::Report => return,
        };
    }

    /// May not be dropped any more.
    fn spare(&mut self, device: DeviceId, serial: Serial) {
        self.notifications.remove(&(serial, device));
        self.answers.remove(&(serial, device));
    }
}

impl Queue {
    fn oldest(&self, class: UplinkClass) -> Option<Serial> {
        let mut droppable = self.waiting.iter().filter(|(serial, _)| self.under_way.back() < Some(*serial));
        droppable.find(|(_, waiting)| waiting.publication.class == class).map(|(serial, _)| *serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: DeviceId = DeviceId(1);
    const TWO: DeviceId = DeviceId(2);

    fn publication(topic: &str, class: UplinkClass) -> Publication {
        Publication {
            topic: topic.to_owned(),
            qos: 0,
            payload: Vec::new(),
            class,
            retain: false,
            correlation: None,
            ticket: None,
        }
    }

    fn begin(queues: &mut Queues, device: DeviceId, window: usize) -> Option<Serial> {
        queues.begin(device, window).map(|(serial, _)| serial)
    }

    fn drain(queues: &mut Queues, device: DeviceId) -> Vec<String> {
        let mut topics = Vec::new();
        while let Some(serial) = begin(queues, device, 1) {
            topics.extend(queues.finish(device, serial).map(|publication| publication.topic));
        }
        topics
    }

    #[test]
    fn one_publication_of_a_device_is_under_way_at_a_time_in_the_order_of_arrival() {
        let mut queues = Queues::new(10, 10);
        for topic in ["a", "b", "c"] {
            assert_eq!(queues.push(ONE, publication(topic, UplinkClass::Answer)), None);
        }
        assert_eq!(queues.begin(ONE, 1).map(|(_, publication)| publication.topic.as_str()), Some("a"));
        assert_eq!(begin(&mut queues, ONE, 1), None);
        queues.give_back(ONE);
        assert_eq!(drain(&mut queues, ONE), ["a", "b", "c"]);
        assert!(queues.is_empty(ONE));
        assert_eq!(queues.length, 0);
    }

    #[test]
    fn as_many_as_the_window_has_room_for_are_under_way_and_any_of_them_may_be_done_first() {
        let mut queues = Queues::new(10, 10);
        for topic in ["a", "b", "c", "d"] {
            queues.push(ONE, publication(topic, UplinkClass::Answer));
        }
        let under_way: Vec<_> = std::iter::from_fn(|| begin(&mut queues, ONE, 3)).collect();
        assert_eq!(under_way.len(), 3);
        assert_eq!(queues.finish(ONE, under_way[1]).map(|publication| publication.topic).as_deref(), Some("b"));
        let next = begin(&mut queues, ONE, 3).unwrap();
        assert_eq!(queues.publication(ONE, next).map(|publication| publication.topic.as_str()), Some("d"));
        queues.give_back(ONE);
        assert_eq!(drain(&mut queues, ONE), ["a", "c", "d"]);
        assert!(queues.notifications.is_empty() && queues.answers.is_empty());
    }

    #[test]
    fn a_full_queue_gives_up_its_oldest_notification_then_an_answer_and_a_report_never() {
        let mut queues = Queues::new(3, 100);
        queues.push(ONE, publication("report", UplinkClass::Report));
        queues.push(ONE, publication("answer", UplinkClass::Answer));
        queues.push(ONE, publication("notify 1", UplinkClass::Notification));

        let notification = publication("notify 2", UplinkClass::Notification);
        assert_eq!(queues.push(ONE, notification.clone()), Some(UplinkClass::Notification));
        assert_eq!(queues.push(ONE, publication("answer 2", UplinkClass::Answer)), Some(UplinkClass::Notification));
        assert_eq!(queues.push(ONE, notification.clone()), Some(UplinkClass::Notification));
        assert_eq!(queues.push(ONE, publication("report 2", UplinkClass::Report)), Some(UplinkClass::Answer));
        assert_eq!(queues.push(ONE, publication("answer 3", UplinkClass::Answer)), Some(UplinkClass::Answer));
        assert_eq!(queues.push(ONE, publication("report 3", UplinkClass::Report)), Some(UplinkClass::Answer));
        assert_eq!(queues.push(ONE, publication("answer 4", UplinkClass::Answer)), Some(UplinkClass::Answer));
        assert_eq!(queues.push(ONE, publication("report 4", UplinkClass::Report)), Some(UplinkClass::Report));
        assert_eq!(drain(&mut queues, ONE), ["report", "report 2", "report 3"]);
    }

    #[test]
    fn when_all_devices_together_have_too_much_the_oldest_notification_of_any_goes() {
        let mut queues = Queues::new(10, 3);
        queues.push(TWO, publication("old", UplinkClass::Notification));
        queues.push(ONE, publication("new", UplinkClass::Notification));
        queues.push(ONE, publication("answer", UplinkClass::Answer));

        assert_eq!(queues.push(ONE, publication("report", UplinkClass::Report)), Some(UplinkClass::Notification));
        assert_eq!(drain(&mut queues, TWO), [""; 0]);
        assert_eq!(drain(&mut queues, ONE), ["new", "answer", "report"]);
    }

    #[test]
    fn what_is_under_way_is_never_dropped_for_room() {
        let mut queues = Queues::new(1, 100);
        queues.push(ONE, publication("under way", UplinkClass::Notification));
        let serial = begin(&mut queues, ONE, 1).unwrap();
        assert_eq!(queues.push(ONE, publication("late", UplinkClass::Notification)), Some(UplinkClass::Notification));
        assert_eq!(queues.finish(ONE, serial).map(|publication| publication.topic).as_deref(), Some("under way"));
    }

    #[test]
    fn a_publication_that_never_survives_its_connection_is_given_up_at_the_third_time() {
        let mut queues = Queues::new(10, 10);
        queues.push(ONE, publication("poison", UplinkClass::Answer));
        for outcome in [None, None, Some(UplinkClass::Answer)] {
            begin(&mut queues, ONE, 1);
            assert_eq!(queues.blame(ONE).map(|publication| publication.class), outcome);
            queues.give_back(ONE);
        }
        assert_eq!(begin(&mut queues, ONE, 1), None);
        assert_eq!(queues.length, 0);
    }

    #[test]
    fn a_device_that_leaves_takes_its_publications_out_of_the_total() {
        let mut queues = Queues::new(10, 2);
        queues.push(ONE, publication("a", UplinkClass::Answer));
        queues.push(ONE, publication("b", UplinkClass::Notification));
        begin(&mut queues, ONE, 1);
        assert_eq!(queues.clear(ONE), [UplinkClass::Answer, UplinkClass::Notification]);
        assert_eq!(queues.push(TWO, publication("c", UplinkClass::Report)), None);
        assert_eq!(queues.push(TWO, publication("d", UplinkClass::Report)), None);
        assert_eq!(queues.push(TWO, publication("e", UplinkClass::Report)), Some(UplinkClass::Report));
    }
}
