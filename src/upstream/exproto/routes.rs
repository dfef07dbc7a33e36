//! Finds the driver thread that an event of EMQX is for. EMQX calls one handler for the connections of all threads.
//!
//! The first two characters of an anchor's token name the shard of its thread. From the token on, the name that EMQX
//! gives the connection stands for the thread, until EMQX reports the end of the connection.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};

use lwm2m_base::{Shard, ThreadShards};
use tokio::sync::mpsc;

use super::devices::ExProtoEvent;

/// Maximum number of connections that are kept: more than a process has descriptors for.
const CONNECTIONS: usize = 1 << 22;
/// The characters of a token that name a shard.
const SHARD_CHARACTERS: usize = 2;
/// The thread that gets the events of connections that are no anchors, and those of no connection.
const FIRST_THREAD: usize = 0;

/// The queues of the links of all threads.
pub(crate) struct EventRoutes {
    links: Vec<mpsc::Sender<ExProtoEvent>>,
    /// The connections of several threads. With one thread it stays empty.
    connections: Mutex<HashMap<String, KnownConnection>>,
}

enum KnownConnection {
    /// Fewer characters than name a shard have come.
    Begun(Vec<u8>),
    Of(usize),
}

impl EventRoutes {
    /// Creates the routes to the links of threads, at least one, by number.
    pub(super) fn new(links: Vec<mpsc::Sender<ExProtoEvent>>) -> Self {
        Self { links, connections: Mutex::default() }
    }

    /// Returns the queue of the link that an event is for, and the event. Bytes that do not name a thread yet are kept.
    pub(super) fn route(&self, event: ExProtoEvent) -> Option<(&mpsc::Sender<ExProtoEvent>, ExProtoEvent)> {
        if self.links.len() == 1 {
            return Some((&self.links[FIRST_THREAD], event));
        }
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |connections: &HashMap<_, _>, conn: &String| match connections.get(conn) {
            Some(KnownConnection::Of(thread)) => Some(*thread),
            Some(KnownConnection::Begun(_)) | None => None,
        };
        let (thread, event) = match event {
            ExProtoEvent::ReceivedBytes { conn, bytes } => {
                let (thread, bytes) = match known(&connections, &conn) {
                    Some(thread) => (thread, bytes),
                    None => self.begin(&mut connections, &conn, bytes)?,
                };
                (thread, ExProtoEvent::ReceivedBytes { conn, bytes })
            }
            ExProtoEvent::SocketClosed { conn, reason } => {
                let thread = known(&connections, &conn).unwrap_or(FIRST_THREAD);
                connections.remove(&conn);
                (thread, ExProtoEvent::SocketClosed { conn, reason })
            }
            ExProtoEvent::ReceivedMessages { conn, messages } => {
                let thread = known(&connections, &conn).unwrap_or(FIRST_THREAD);
                (thread, ExProtoEvent::ReceivedMessages { conn, messages })
            }
            ExProtoEvent::SocketCreated | ExProtoEvent::TimerTimeout => (FIRST_THREAD, event),
        };
        Some((&self.links[thread], event))
    }

    /// Takes the first bytes of a connection. Returns its thread, and all bytes that have come; `None` if they are too
    /// few. Bytes that are no token are for the first thread, which counts them.
    fn begin(
        &self,
        connections: &mut HashMap<String, KnownConnection>,
        conn: &str,
        bytes: Vec<u8>,
    ) -> Option<(usize, Vec<u8>)> {
        let mut begun = match connections.remove(conn) {
            Some(KnownConnection::Begun(begun)) => begun,
            Some(KnownConnection::Of(_)) | None => Vec::new(),
        };
        begun.extend(bytes);
        let has_room = connections.len() < CONNECTIONS;
        let Some(characters) = begun.get(..SHARD_CHARACTERS) else {
            if has_room {
                connections.insert(conn.to_owned(), KnownConnection::Begun(begun));
            }
            return None;
        };
        let threads = u8::try_from(self.links.len()).ok().and_then(NonZero::new)?;
        let shard = std::str::from_utf8(characters).ok().and_then(|text| u8::from_str_radix(text, 16).ok());
        let thread = shard.map(|shard| usize::from(ThreadShards::thread_of(Shard::new(shard), threads)));
        if let Some(thread) = thread.filter(|_| has_room) {
            connections.insert(conn.to_owned(), KnownConnection::Of(thread));
        }
        Some((thread.unwrap_or(FIRST_THREAD), begun))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use crate::upstream::exproto::announcements::AnchorToken;

    use super::*;

    struct Routed {
        routes: EventRoutes,
        links: Vec<mpsc::Receiver<ExProtoEvent>>,
    }

    impl Routed {
        fn new(threads: usize) -> Self {
            let (senders, links) = (0..threads).map(|_| mpsc::channel(16)).unzip();
            Self { routes: EventRoutes::new(senders), links }
        }

        /// Returns the thread that gets an event, and the event.
        fn route(&mut self, event: ExProtoEvent) -> Option<(usize, ExProtoEvent)> {
            let (link, event) = self.routes.route(event)?;
            link.try_send(event).expect("there is room");
            let taken = self.links.iter_mut().map(|link| link.try_recv().ok()).enumerate();
            taken.filter_map(|(thread, event)| Some((thread, event?))).next()
        }

        fn bytes(&mut self, conn: &str, bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
            let event = ExProtoEvent::ReceivedBytes { conn: conn.to_owned(), bytes: bytes.to_vec() };
            match self.route(event)? {
                (thread, ExProtoEvent::ReceivedBytes { bytes, .. }) => Some((thread, bytes)),
                (_, other) => panic!("{other:?}"),
            }
        }

        fn thread_of_message(&mut self, conn: &str) -> usize {
            let event = ExProtoEvent::ReceivedMessages { conn: conn.to_owned(), messages: Vec::new() };
            self.route(event).expect("messages are never kept").0
        }

        fn thread_of_end(&mut self, conn: &str) -> usize {
            let event = ExProtoEvent::SocketClosed { conn: conn.to_owned(), reason: String::new() };
            self.route(event).expect("an end is never kept").0
        }
    }

    #[test]
    fn the_token_of_a_thread_brings_all_events_of_its_connection_to_this_thread() {
        let mut routed = Routed::new(3);
        let mut rng = StdRng::seed_from_u64(1);
        for thread in (0..3).cycle().take(30) {
            let shards = ThreadShards::new(thread, 3).expect("there is such a thread");
            let line = AnchorToken::random(&mut rng, shards).line();
            let thread = usize::from(thread);
            assert_eq!(routed.bytes("conn", &line), Some((thread, line.clone())));
            assert_eq!(routed.thread_of_message("conn"), thread);
            assert_eq!(routed.bytes("conn", b"more"), Some((thread, b"more".to_vec())));
            assert_eq!(routed.thread_of_end("conn"), thread);
            assert_eq!(routed.thread_of_message("conn"), FIRST_THREAD, "the connection has ended");
        }
        assert!(routed.routes.connections.into_inner().unwrap().is_empty());
    }

    #[test]
    fn a_token_that_comes_in_pieces_reaches_its_thread_as_a_whole() {
        let mut routed = Routed::new(2);
        assert_eq!(routed.bytes("a", b""), None);
        assert_eq!(routed.bytes("a", b"0"), None);
        assert_eq!(routed.bytes("a", b"1c"), Some((1, b"01c".to_vec())));
        assert_eq!(routed.bytes("a", b"d\n"), Some((1, b"d\n".to_vec())));
        assert_eq!(routed.bytes("b", b"0"), None);
        assert_eq!(routed.thread_of_end("b"), FIRST_THREAD);
        assert_eq!(routed.bytes("b", b"02"), Some((0, b"02".to_vec())), "it is another connection");
    }

    #[test]
    fn what_is_no_token_is_for_the_first_thread_and_is_not_remembered() {
        let mut routed = Routed::new(2);
        assert_eq!(routed.bytes("a", b"GET / HTTP/1.1"), Some((FIRST_THREAD, b"GET / HTTP/1.1".to_vec())));
        assert_eq!(routed.bytes("b", b"\xff\xfe"), Some((FIRST_THREAD, b"\xff\xfe".to_vec())));
        assert_eq!(routed.route(ExProtoEvent::SocketCreated).map(|(thread, _)| thread), Some(FIRST_THREAD));
        assert!(routed.routes.connections.into_inner().unwrap().is_empty());
    }

    #[test]
    fn the_only_thread_gets_all_events_as_they_are() {
        let mut routed = Routed::new(1);
        assert_eq!(routed.bytes("a", b"0"), Some((0, b"0".to_vec())));
        assert_eq!((routed.thread_of_message("a"), routed.thread_of_end("a")), (0, 0));
        assert!(routed.routes.connections.into_inner().unwrap().is_empty());
    }
}
