//! The sessions of a listener by their client ID: there is one of each (MQTT 5.0 section 3.1.4).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::bus::{BusMember, RoutedDelivery};
use crate::clock;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::packet::{DisconnectCause, PublishPacket};

pub(super) const UNPOISONED: &str = "nobody panics while holding the sessions";

/// The sessions by their client ID.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, SessionEntry>>);

/// The entry of one client ID.
enum SessionEntry {
    Connected { filters: Arc<BusMember>, end: Arc<ConnectionStop> },
    Kept(Box<KeptSession>),
}

/// Signals a connection to end, and signals back that it has ended.
#[derive(Default)]
pub(super) struct ConnectionStop {
    pub why: Mutex<Option<DisconnectCause>>,
    pub told: CancellationToken,
    pub done: CancellationToken,
}

/// The part of a session that outlives its connection.
pub(super) struct KeptSession {
    pub member: Arc<BusMember>,
    pub arriving: mpsc::Receiver<RoutedDelivery>,
    pub in_flight: Vec<(u16, Option<PublishPacket>)>,
    pub last_packet: u16,
    pub until: Instant,
}

impl ConnectionStop {
    fn tell(&self, why: DisconnectCause) {
        self.why.lock().expect(UNPOISONED).get_or_insert(why);
        self.told.cancel();
    }
}

impl Sessions {
    /// Ends the connection that has this client ID, and returns its session, if it was kept. While it ends, another
    /// connection may take the client ID; that one is ended as well.
    pub(super) async fn take(&self, clientid: &str) -> Option<Box<KeptSession>> {
        loop {
            let older = {
                let mut places = self.0.lock().expect(UNPOISONED);
                match places.get(clientid)? {
                    SessionEntry::Connected { end, .. } => end.clone(),
                    SessionEntry::Kept(_) => {
                        let Some(SessionEntry::Kept(kept)) = places.remove(clientid) else { return None };
                        return Some(kept).filter(|kept| kept.until > clock::now());
                    }
                }
            };
            older.tell(DisconnectCause::TakenOver);
            older.done.cancelled().await;
        }
    }

    pub(super) fn enter(&self, clientid: &str, filters: Arc<BusMember>) -> Arc<ConnectionStop> {
        let end = Arc::new(ConnectionStop::default());
        let place = SessionEntry::Connected { filters, end: end.clone() };
        if let Some(SessionEntry::Connected { end, .. }) =
            self.0.lock().expect(UNPOISONED).insert(clientid.to_owned(), place)
        {
            end.tell(DisconnectCause::TakenOver);
        }
        end
    }

    /// Removes the connection, unless another one has taken its place.
    pub(super) fn leave(&self, clientid: &str, end: &Arc<ConnectionStop>, kept: Option<KeptSession>) {
        let mut places = self.0.lock().expect(UNPOISONED);
        let mine = matches!(
            places.get(clientid),
            Some(SessionEntry::Connected { end: current, .. }) if Arc::ptr_eq(current, end)
        );
        if mine {
            match kept {
                Some(kept) => drop(places.insert(clientid.to_owned(), SessionEntry::Kept(Box::new(kept)))),
                None => drop(places.remove(clientid)),
            }
            let now = clock::now();
            places.retain(|_, place| !matches!(place, SessionEntry::Kept(kept) if kept.until <= now));
        }
        end.done.cancel();
    }

    /// Closes the connection of a client; returns `false` if there is none.
    pub(crate) async fn kick(&self, clientid: &str) -> bool {
        let end = match self.0.lock().expect(UNPOISONED).get(clientid) {
            Some(SessionEntry::Connected { end, .. }) => end.clone(),
            Some(SessionEntry::Kept(_)) | None => return false,
        };
        end.tell(DisconnectCause::Kicked);
        end.done.cancelled().await;
        true
    }

    /// Returns the client IDs of the connected clients in alphabetical order.
    pub(crate) fn clients(&self) -> Vec<String> {
        let places = self.0.lock().expect(UNPOISONED);
        let connected = places.iter().filter(|(_, place)| matches!(place, SessionEntry::Connected { .. }));
        let mut clients: Vec<String> = connected.map(|(clientid, _)| clientid.clone()).collect();
        clients.sort();
        clients
    }

    pub(crate) fn subscriptions(&self, clientid: &str) -> Vec<String> {
        match self.0.lock().expect(UNPOISONED).get(clientid) {
            Some(SessionEntry::Connected { filters, .. }) => filters.filters(),
            Some(SessionEntry::Kept(_)) | None => Vec::new(),
        }
    }
}
