//! Handles the calls of the adapter and of the administrator to a connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tracing::debug;

use super::answer::AdapterAnswer;
use super::connection::{AuthenticatedClient, DeviceConnection};
use super::ending::ConnectionEnd;
use super::registry::ConnectionCall;
use crate::bus::RoutedMessage;
use crate::rules::DeviceCredentials;
use crate::subscribers::SubscriptionOptions;
use crate::{clock, filters};

/// Limits the bytes that wait for a device that does not read.
const MAX_UNWRITTEN: usize = 64 * 1024 * 1024;
/// Limits the time in which an older connection with the same client ID has to end.
const DISCARD: Duration = Duration::from_secs(5);

impl DeviceConnection {
    /// Returns the answer, and the end of the connection if the call ends it. A Kick or a Discard is answered after
    /// the client is removed.
    pub(super) async fn handle_call(&mut self, call: ConnectionCall) -> (AdapterAnswer, Option<ConnectionEnd>) {
        match call {
            ConnectionCall::Send(bytes) => self.send(&bytes),
            ConnectionCall::Close => (AdapterAnswer::Success, Some(ConnectionEnd::Closed)),
            ConnectionCall::Authenticate(credentials) => (self.authenticate(credentials).await, None),
            ConnectionCall::StartTimer(seconds) => {
                self.timers.start_keepalive(clock::now(), Duration::from_secs(seconds.into()));
                (AdapterAnswer::Success, None)
            }
            ConnectionCall::Publish { topic, qos, payload } => self.publish(topic, qos, payload),
            ConnectionCall::Subscribe { filter, qos } => self.subscribe(&filter, qos),
            ConnectionCall::Unsubscribe { filter } => (self.unsubscribe(&filter), None),
            ConnectionCall::Kick => {
                self.disconnect();
                (AdapterAnswer::Success, Some(ConnectionEnd::Kicked))
            }
            ConnectionCall::Discard => {
                self.disconnect();
                (AdapterAnswer::Success, Some(ConnectionEnd::Discarded))
            }
        }
    }

    /// Queues bytes for the device. SUCCESS is returned before they are written.
    fn send(&mut self, bytes: &[u8]) -> (AdapterAnswer, Option<ConnectionEnd>) {
        self.unwritten.extend_from_slice(bytes);
        let stuck = self.unwritten.len() > MAX_UNWRITTEN;
        (AdapterAnswer::Success, stuck.then_some(ConnectionEnd::SendTimeout))
    }

    /// Authenticates the client. It may be repeated after a refusal. An older connection with this client id is
    /// discarded first.
    async fn authenticate(&mut self, credentials: DeviceCredentials) -> AdapterAnswer {
        if self.client.is_some() {
            return AdapterAnswer::DuplicatedAuthenticate;
        }
        if self.context.rules.refuses(&credentials) {
            return AdapterAnswer::NotAuthorized;
        }
        let clientid = credentials.clientid;
        let (member, arriving) = self.context.bus.join();
        let member = Arc::new(member);
        if let Some(older) = self.context.registry.claim(&clientid, &self.conn, member.clone())
            && timeout(DISCARD, older.call(ConnectionCall::Discard)).await.is_err()
        {
            debug!(clientid, "the older connection does not answer");
        }
        self.client = Some(AuthenticatedClient { clientid, member, arriving });
        AdapterAnswer::Success
    }

    /// Publishes a message if the topic is permitted. Nothing tells whether it has a receiver.
    fn publish(&mut self, topic: String, qos: u8, payload: Bytes) -> (AdapterAnswer, Option<ConnectionEnd>) {
        let Some(client) = &self.client else { return (AdapterAnswer::UnexpectedCall, None) };
        if !self.context.rules.may_publish(&topic) {
            return (AdapterAnswer::AuthorizationDenied, None);
        }
        if filters::has_wildcard(&topic) {
            return (AdapterAnswer::Crashed, Some(ConnectionEnd::Crashed));
        }
        client.member.publish(RoutedMessage::new(&client.clientid, topic, qos, payload));
        (AdapterAnswer::Success, None)
    }

    /// Subscribes. Retained messages are delivered at the first Subscribe of a filter only; an invalid filter is
    /// accepted and matches nothing.
    fn subscribe(&mut self, filter: &str, qos: u8) -> (AdapterAnswer, Option<ConnectionEnd>) {
        let Some(client) = &self.client else { return (AdapterAnswer::UnexpectedCall, None) };
        if !self.context.rules.may_subscribe(filter) {
            return (AdapterAnswer::AuthorizationDenied, None);
        }
        if filters::split_group(filter).0.is_some() {
            return (AdapterAnswer::Crashed, Some(ConnectionEnd::Crashed));
        }
        let valid =
            client.member.subscribe(filter, SubscriptionOptions { max_qos: qos, ..SubscriptionOptions::default() });
        debug!(filter, valid, "a device subscribes");
        (AdapterAnswer::Success, None)
    }

    fn unsubscribe(&mut self, filter: &str) -> AdapterAnswer {
        let Some(client) = &self.client else { return AdapterAnswer::UnexpectedCall };
        let was_subscribed = client.member.unsubscribe(filter);
        debug!(filter, was_subscribed, "a device unsubscribes");
        AdapterAnswer::Success
    }

    /// Removes the client and its subscriptions.
    pub(super) fn disconnect(&mut self) {
        if let Some(client) = self.client.take() {
            self.context.registry.release(&client.clientid, &self.conn);
        }
    }
}
