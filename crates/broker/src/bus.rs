//! Routes messages: it has the subscriptions and the retained messages. It knows neither MQTT's packets nor ExProto.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::warn;

use super::clock;
use super::filters::{self, FilterTree};
use super::subscribers::{MemberId, Retained, SubscriptionOptions};

/// Maximum number of messages that wait for one subscriber; further ones are lost to it (EMQX: `max_mqueue_len`).
const INBOX: usize = 16_384;
/// Filters of one member.
const MAX_FILTERS: usize = 10_000;
/// Retained messages in all.
const MAX_RETAINED: usize = 100_000;

/// A published message.
#[derive(Debug)]
pub(super) struct RoutedMessage {
    /// The publisher's client ID.
    pub(super) from: String,
    pub(super) topic: String,
    pub(super) qos: u8,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
    pub(super) properties: ForwardedProperties,
    /// Milliseconds since 1970.
    pub(super) timestamp: u64,
}

impl RoutedMessage {
    pub(super) fn new(from: impl Into<String>, topic: impl Into<String>, qos: u8, payload: Bytes) -> Self {
        let timestamp = clock::unix_milliseconds();
        Self {
            from: from.into(),
            topic: topic.into(),
            qos,
            payload,
            retain: false,
            properties: ForwardedProperties::default(),
            timestamp,
        }
    }

    /// Returns whether the Message Expiry Interval of the message has passed (MQTT 5.0 section 3.3.2.3.3).
    fn is_expired(&self, unix_milliseconds: u64) -> bool {
        let expiry = self.properties.message_expiry.map(|seconds| u64::from(seconds) * 1000);
        expiry.is_some_and(|expiry| self.timestamp.saturating_add(expiry) <= unix_milliseconds)
    }
}

/// The properties that MQTT 5 forwards unchanged with a message (section 3.3.2.3).
#[derive(Clone, Debug, Default)]
pub(super) struct ForwardedProperties {
    pub(super) content_type: Option<String>,
    pub(super) response_topic: Option<String>,
    pub(super) correlation_data: Option<Bytes>,
    pub(super) user_properties: Vec<(String, String)>,
    /// Message expiry in seconds; time spent here is not subtracted.
    pub(super) message_expiry: Option<u32>,
}

/// A message on its way to a subscriber.
#[derive(Debug)]
pub(super) struct RoutedDelivery {
    pub(super) message: Arc<RoutedMessage>,
    /// The maximum QoS of the subscription.
    pub(super) max_qos: u8,
    /// The retain flag to deliver with.
    pub(super) retain: bool,
}

#[derive(Default)]
pub(super) struct Bus(Mutex<Routes>);

impl Bus {
    /// Creates a member without subscriptions, and the receiver of its messages.
    pub(super) fn join(self: &Arc<Self>) -> (BusMember, mpsc::Receiver<RoutedDelivery>) {
        let (inbox, arriving) = mpsc::channel(INBOX);
        let id = self.with(|routes| routes.admit(inbox));
        (BusMember { id, bus: self.clone() }, arriving)
    }

    /// Publishes to every subscriber. Messages without a subscriber are dropped, and so are topics with a wildcard.
    pub(super) fn publish(&self, message: RoutedMessage) {
        self.with(|routes| routes.publish(message, None));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Routes) -> T) -> T {
        act(&mut self.0.lock().expect("nobody panics while routing"))
    }
}

/// A place in the bus; leaves it, with all subscriptions, when dropped.
pub(super) struct BusMember {
    id: MemberId,
    bus: Arc<Bus>,
}

impl BusMember {
    pub(super) fn publish(&self, message: RoutedMessage) {
        self.bus.with(|routes| routes.publish(message, Some(self.id)));
    }

    /// Subscribes; the same filter again changes the options. Returns `false` if the filter is invalid, or too many are
    /// subscribed.
    pub(super) fn subscribe(&self, filter: &str, options: SubscriptionOptions) -> bool {
        filters::is_valid(filters::split_group(filter).1)
            && self.bus.with(|routes| routes.subscribe(self.id, filter, options))
    }

    /// Unsubscribes, and returns whether the filter was subscribed.
    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        self.bus.with(|routes| routes.unsubscribe(self.id, filter))
    }

    pub(super) fn filters(&self) -> Vec<String> {
        self.bus.with(|routes| routes.inboxes[&self.id].filters.keys().cloned().collect())
    }
}

impl Drop for BusMember {
    fn drop(&mut self) {
        self.bus.with(|routes| routes.dismiss(self.id));
    }
}

#[derive(Default)]
struct Routes {
    tree: FilterTree,
    inboxes: HashMap<MemberId, Inbox>,
    retained: BTreeMap<String, Arc<RoutedMessage>>,
    last: u64,
}

struct Inbox {
    sender: mpsc::Sender<RoutedDelivery>,
    filters: BTreeMap<String, SubscriptionOptions>,
    full: Cell<bool>,
}

impl Routes {
    fn admit(&mut self, sender: mpsc::Sender<RoutedDelivery>) -> MemberId {
        self.last += 1;
        let id = MemberId(self.last);
        self.inboxes.insert(id, Inbox { sender, filters: BTreeMap::new(), full: Cell::new(false) });
        id
    }

    fn dismiss(&mut self, id: MemberId) {
        let member = self.inboxes.remove(&id).expect("a member leaves once");
        for filter in member.filters.keys() {
            self.uproot(id, filter);
        }
    }

    fn subscribe(&mut self, id: MemberId, filter: &str, options: SubscriptionOptions) -> bool {
        let inbox = self.inboxes.get_mut(&id).expect("a member is there until it leaves");
        if inbox.filters.len() >= MAX_FILTERS && !inbox.filters.contains_key(filter) {
            return false;
        }
        let is_new = inbox.filters.insert(filter.to_owned(), options).is_none();
        let (group, plain) = filters::split_group(filter);
        let subscribers = self.tree.entry(plain);
        match group {
            // MQTT 5.0, section 4.8.2: no retained messages for a shared subscription.
            Some(group) => {
                subscribers.groups.entry(group.to_owned()).or_default().members.insert(id, options);
            }
            None => {
                subscribers.each.insert(id, options);
                if options.retained == Retained::Always || (options.retained == Retained::OnNew && is_new) {
                    self.deliver_retained(id, filter, options);
                }
            }
        }
        true
    }

    fn unsubscribe(&mut self, id: MemberId, filter: &str) -> bool {
        let inbox = self.inboxes.get_mut(&id).expect("a member is there until it leaves");
        let was = inbox.filters.remove(filter).is_some();
        if was {
            self.uproot(id, filter);
        }
        was
    }

    fn uproot(&mut self, id: MemberId, filter: &str) {
        let (group, plain) = filters::split_group(filter);
        self.tree.remove(plain, |subscribers| match group {
            Some(name) => {
                if let Some(group) = subscribers.groups.get_mut(name) {
                    group.members.remove(&id);
                }
                subscribers.groups.retain(|_, group| !group.members.is_empty());
            }
            None => {
                subscribers.each.remove(&id);
            }
        });
    }

    fn publish(&mut self, message: RoutedMessage, publisher: Option<MemberId>) {
        if message.topic.is_empty() || filters::has_wildcard(&message.topic) {
            return;
        }
        let message = Arc::new(message);
        if message.retain {
            self.retain(&message);
        }
        let send = |id: &MemberId, options: &SubscriptionOptions| {
            if !(options.no_local && publisher == Some(*id)) {
                let retain = options.retain_as_published && message.retain;
                self.inboxes[id].put(id, RoutedDelivery { message: message.clone(), max_qos: options.max_qos, retain });
            }
        };
        self.tree.matching(&message.topic, |subscribers| {
            subscribers.each.iter().for_each(|(id, options)| send(id, options));
            for group in subscribers.groups.values() {
                let turn = group.turn.get() % group.members.len();
                group.turn.set(turn + 1);
                group.members.iter().skip(turn).take(1).for_each(|(id, options)| send(id, options));
            }
        });
    }

    fn retain(&mut self, message: &Arc<RoutedMessage>) {
        if self.retained.len() >= MAX_RETAINED {
            let now = clock::unix_milliseconds();
            self.retained.retain(|_, message| !message.is_expired(now));
        }
        if message.payload.is_empty() {
            self.retained.remove(&message.topic);
        } else if self.retained.len() < MAX_RETAINED || self.retained.contains_key(&message.topic) {
            self.retained.insert(message.topic.clone(), message.clone());
        } else {
            warn!(topic = message.topic, "too many retained messages: this one is not kept");
        }
    }

    fn deliver_retained(&self, id: MemberId, filter: &str, options: SubscriptionOptions) {
        let exact = self.retained.get(filter).into_iter();
        let matching = self.retained.values().filter(|message| filters::matches(filter, &message.topic));
        let now = clock::unix_milliseconds();
        let deliver = |message: &Arc<RoutedMessage>| {
            if message.is_expired(now) {
                return;
            }
            let delivery = RoutedDelivery { message: message.clone(), max_qos: options.max_qos, retain: true };
            self.inboxes[&id].put(&id, delivery);
        };
        if filters::has_wildcard(filter) { matching.for_each(deliver) } else { exact.for_each(deliver) }
    }
}

impl Inbox {
    fn put(&self, id: &MemberId, delivery: RoutedDelivery) {
        match self.sender.try_send(delivery) {
            Ok(()) => self.full.set(false),
            // It is about to leave.
            Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(lost)) => {
                if !self.full.replace(true) {
                    warn!(
                        member = id.0,
                        topic = lost.message.topic,
                        "a subscriber is too slow: messages to it are lost"
                    );
                }
            }
        }
    }
}
