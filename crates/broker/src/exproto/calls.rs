//! What a connection answers to the adapter's calls, and to its administrator's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tracing::debug;

use super::answer::Answer;
use super::connection::{Client, Connection};
use super::ending::Ending;
use super::registry::Call;
use crate::bus::{Message, Options};
use crate::control::Credentials;
use crate::{clock, filters};

/// What waits to be written to a device that does not read.
const MAX_UNWRITTEN: usize = 64 * 1024 * 1024;
/// How long an older connection with the same clientid may take to give way.
const DISCARD: Duration = Duration::from_secs(5);

impl Connection {
    /// What to answer, and the end if it is one. Whoever kicks or discards hears of it when the client is gone.
    pub(super) async fn obey(&mut self, call: Call) -> (Answer, Option<Ending>) {
        match call {
            Call::Send(bytes) => self.send(&bytes),
            Call::Close => (Answer::Success, Some(Ending::Closed)),
            Call::Authenticate(credentials) => (self.authenticate(credentials).await, None),
            Call::StartTimer(seconds) => {
                self.timers.start_keepalive(clock::now(), Duration::from_secs(seconds.into()));
                (Answer::Success, None)
            }
            Call::Publish { topic, qos, payload } => self.publish(topic, qos, payload),
            Call::Subscribe { filter, qos } => self.subscribe(&filter, qos),
            Call::Unsubscribe { filter } => (self.unsubscribe(&filter), None),
            Call::Kick => {
                self.disconnect();
                (Answer::Success, Some(Ending::Kicked))
            }
            Call::Discard => {
                self.disconnect();
                (Answer::Success, Some(Ending::Discarded))
            }
        }
    }

    /// SUCCESS comes before the bytes are written.
    fn send(&mut self, bytes: &[u8]) -> (Answer, Option<Ending>) {
        self.unwritten.extend_from_slice(bytes);
        let stuck = self.unwritten.len() > MAX_UNWRITTEN;
        (Answer::Success, stuck.then_some(Ending::SendTimeout))
    }

    /// After a refusal it may be tried again. An older connection with this clientid is discarded first.
    async fn authenticate(&mut self, credentials: Credentials) -> Answer {
        if self.client.is_some() {
            return Answer::DuplicatedAuthenticate;
        }
        if self.site.rules.refuses(&credentials) {
            return Answer::NotAuthorized;
        }
        let clientid = credentials.clientid;
        let (member, arriving) = self.site.bus.join();
        let member = Arc::new(member);
        if let Some(older) = self.site.registry.claim(&clientid, &self.conn, member.clone())
            && timeout(DISCARD, older.call(Call::Discard)).await.is_err()
        {
            debug!(clientid, "the older connection does not answer");
        }
        self.client = Some(Client { clientid, member, arriving });
        Answer::Success
    }

    /// The permission is that of the topic; whether somebody receives it is not told.
    fn publish(&mut self, topic: String, qos: u8, payload: Bytes) -> (Answer, Option<Ending>) {
        let Some(client) = &self.client else { return (Answer::UnexpectedCall, None) };
        if !self.site.rules.may_publish(&topic) {
            return (Answer::AuthorizationDenied, None);
        }
        if filters::has_wildcard(&topic) {
            return (Answer::Crashed, Some(Ending::Crashed));
        }
        client.member.publish(Message::new(&client.clientid, topic, qos, payload));
        (Answer::Success, None)
    }

    /// Retained messages come at the first Subscribe of a filter only; an invalid filter is accepted, and matches nothing.
    fn subscribe(&mut self, filter: &str, qos: u8) -> (Answer, Option<Ending>) {
        let Some(client) = &self.client else { return (Answer::UnexpectedCall, None) };
        if !self.site.rules.may_subscribe(filter) {
            return (Answer::AuthorizationDenied, None);
        }
        if filters::split_group(filter).0.is_some() {
            return (Answer::Crashed, Some(Ending::Crashed));
        }
        let valid = client.member.subscribe(filter, Options { max_qos: qos, ..Options::default() });
        debug!(filter, valid, "a device subscribes");
        (Answer::Success, None)
    }

    fn unsubscribe(&mut self, filter: &str) -> Answer {
        let Some(client) = &self.client else { return Answer::UnexpectedCall };
        let was_subscribed = client.member.unsubscribe(filter);
        debug!(filter, was_subscribed, "a device unsubscribes");
        Answer::Success
    }

    /// The client is gone, with its subscriptions.
    pub(super) fn disconnect(&mut self) {
        if let Some(client) = self.client.take() {
            self.site.registry.release(&client.clientid, &self.conn);
        }
    }
}

/// While the events are delivered, Send still succeeds.
pub(super) fn closed_socket_answers(call: &Call) -> Answer {
    match call {
        Call::Send(_) | Call::Close | Call::StartTimer(_) | Call::Kick | Call::Discard => Answer::Success,
        Call::Authenticate(_) => Answer::SocketDisconnected,
        Call::Publish { .. } | Call::Subscribe { .. } | Call::Unsubscribe { .. } => Answer::UnexpectedCall,
    }
}
