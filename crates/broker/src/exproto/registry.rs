//! The connections by their `conn`, and the authenticated clients by their client ID.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::answer::AdapterAnswer;
use crate::bus::BusMember;
use crate::clock;
use crate::rules::DeviceCredentials;

/// Calls that wait for one connection; the next caller waits for a place.
const WAITING_CALLS: usize = 64;
/// The prefix of every decoded `conn`. It distinguishes a dead connection from garbage.
const MARK: &[u8] = b"conn";

/// A call of the adapter or of the administrator to a connection.
pub(super) enum ConnectionCall {
    Send(Bytes),
    Close,
    Authenticate(DeviceCredentials),
    /// The interval in seconds, not 0.
    StartTimer(u32),
    Publish {
        topic: String,
        qos: u8,
        payload: Bytes,
    },
    Subscribe {
        filter: String,
        qos: u8,
    },
    Unsubscribe {
        filter: String,
    },
    Kick,
    /// Another connection has authenticated with its client ID.
    Discard,
}

impl ConnectionCall {
    /// Returns the answer to a call for a closed socket. While its events are being delivered Send still succeeds.
    pub(super) fn answer_of_closed_socket(&self) -> AdapterAnswer {
        match self {
            Self::Send(_) | Self::Close | Self::StartTimer(_) | Self::Kick | Self::Discard => AdapterAnswer::Success,
            Self::Authenticate(_) => AdapterAnswer::SocketDisconnected,
            Self::Publish { .. } | Self::Subscribe { .. } | Self::Unsubscribe { .. } => AdapterAnswer::UnexpectedCall,
        }
    }
}

pub(super) struct PendingCall {
    pub(super) call: ConnectionCall,
    pub(super) answer: oneshot::Sender<AdapterAnswer>,
}

/// A way to a connection, as long as it lives.
#[derive(Clone)]
pub(super) struct ConnectionHandle(mpsc::Sender<PendingCall>);

impl ConnectionHandle {
    /// Calls a connection; `None` if it has ended, or ends before it answers.
    pub(super) async fn call(&self, call: ConnectionCall) -> Option<AdapterAnswer> {
        let (answer, answered) = oneshot::channel();
        self.0.send(PendingCall { call, answer }).await.ok()?;
        answered.await.ok()
    }
}

#[derive(Default)]
pub(super) struct ConnectionRegistry(Mutex<RegistryEntries>);

#[derive(Default)]
struct RegistryEntries {
    connections: HashMap<String, ConnectionHandle>,
    clients: BTreeMap<String, RegisteredClient>,
}

struct RegisteredClient {
    conn: String,
    caller: ConnectionHandle,
    member: Arc<BusMember>,
}

impl ConnectionRegistry {
    /// Registers a connection, and returns its unpredictable `conn` and its calls.
    pub(super) fn enter(&self) -> (String, mpsc::Receiver<PendingCall>) {
        let conn = STANDARD.encode([MARK, &clock::random()].concat());
        let (caller, calls) = mpsc::channel(WAITING_CALLS);
        self.with(|entries| entries.connections.insert(conn.clone(), ConnectionHandle(caller)));
        (conn, calls)
    }

    pub(super) fn leave(&self, conn: &str) {
        self.with(|entries| entries.connections.remove(conn));
    }

    /// Gives a client ID to a connection. The connection that had it before has to be discarded.
    pub(super) fn claim(&self, clientid: &str, conn: &str, member: Arc<BusMember>) -> Option<ConnectionHandle> {
        self.with(|entries| {
            let caller = entries.connections.get(conn)?.clone();
            let client = RegisteredClient { conn: conn.to_owned(), caller, member };
            entries.clients.insert(clientid.to_owned(), client).map(|older| older.caller)
        })
    }

    /// Unless another connection has it by now.
    pub(super) fn release(&self, clientid: &str, conn: &str) {
        self.with(|entries| {
            if entries.clients.get(clientid).is_some_and(|client| client.conn == conn) {
                entries.clients.remove(clientid);
            }
        });
    }

    /// Returns the connection of a `conn`.
    ///
    /// # Errors
    /// The answer for one that has ended, or that never was one.
    pub(super) fn connection(&self, conn: &str) -> Result<ConnectionHandle, AdapterAnswer> {
        let caller = self.with(|entries| entries.connections.get(conn).cloned());
        let was_one = || STANDARD.decode(conn).is_ok_and(|decoded| decoded.starts_with(MARK));
        caller.ok_or_else(|| if was_one() { AdapterAnswer::NotAlive } else { AdapterAnswer::Crashed })
    }

    pub(super) fn client(&self, clientid: &str) -> Option<ConnectionHandle> {
        self.with(|entries| entries.clients.get(clientid).map(|client| client.caller.clone()))
    }

    pub(super) fn clients(&self) -> Vec<String> {
        self.with(|entries| entries.clients.keys().cloned().collect())
    }

    pub(super) fn subscriptions(&self, clientid: &str) -> Option<Vec<String>> {
        self.with(|entries| entries.clients.get(clientid).map(|client| client.member.clone()))
            .map(|member| member.filters())
    }

    pub(super) fn len(&self) -> usize {
        self.with(|entries| entries.connections.len())
    }

    fn with<T>(&self, act: impl FnOnce(&mut RegistryEntries) -> T) -> T {
        act(&mut self.0.lock().expect("nobody panics while holding the registry"))
    }
}
