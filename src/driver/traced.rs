//! The bounded queue of traced messages from the drivers to the console. No driver waits for the console.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use lwm2m_core::gateway::operators::trace::{Traced, TracedEvent};

/// Maximum number of copies in the queue, and of the bytes of their messages.
#[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
const QUEUED: usize = 1_024;
const QUEUED_BYTES: usize = 1024 * 1024;

/// The sending end, for the drivers.
#[derive(Clone, Debug)]
pub struct TraceSender {
    copies: mpsc::Sender<Traced>,
    bytes: Arc<AtomicUsize>,
    lost: Counter,
}

/// The receiving end, for the console.
#[derive(Debug)]
#[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
pub(crate) struct TraceReceiver {
    copies: mpsc::Receiver<Traced>,
    bytes: Arc<AtomicUsize>,
}

/// Creates a queue. Copies that find no room are counted by `lost`.
#[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
pub(crate) fn trace_queue(lost: Counter) -> (TraceSender, TraceReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUED);
    let bytes = Arc::new(AtomicUsize::new(0));
    (TraceSender { copies: sender, bytes: Arc::clone(&bytes), lost }, TraceReceiver { copies: receiver, bytes })
}

impl TraceSender {
    /// Queues a copy if there is room.
    pub fn send(&self, traced: Traced) {
        let bytes = bytes_of(&traced);
        let has_room = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= QUEUED_BYTES;
        if !has_room || self.copies.try_send(traced).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.lost.inc();
        }
    }
}

#[cfg_attr(not(feature = "console"), allow(dead_code, reason = "for the console"))]
impl TraceReceiver {
    /// Returns the next copy; `None` when all senders are gone. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Traced> {
        let traced = self.copies.recv().await?;
        self.bytes.fetch_sub(bytes_of(&traced), Ordering::Relaxed);
        Some(traced)
    }
}

fn bytes_of(traced: &Traced) -> usize {
    match &traced.event {
        TracedEvent::Message(message) => message.datagram.len(),
        TracedEvent::Report { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use lwm2m_base::Peer;
    use lwm2m_core::gateway::operators::trace::{Direction, TracedMessage};

    use super::*;

    fn message(bytes: usize) -> Traced {
        let address = SocketAddr::from(([192, 0, 2, 1], 5683));
        let (direction, peer, datagram) = (Direction::In, Peer::udp(0, address), vec![0; bytes]);
        let message = TracedMessage { direction, peer, address, datagram, subject: None };
        Traced { traces: Vec::new(), at: Duration::ZERO, event: TracedEvent::Message(Box::new(message)) }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted_and_what_is_taken_makes_room() {
        let lost = Counter::default();
        let (sender, mut receiver) = trace_queue(lost.clone());
        let half = QUEUED_BYTES / 2;
        [half, half, 1].into_iter().for_each(|bytes| sender.send(message(bytes)));
        assert_eq!(lost.get(), 1);
        assert!(receiver.next().await.is_some());
        sender.send(message(half));
        assert_eq!(lost.get(), 1);
        (0..QUEUED).for_each(|_| sender.send(message(0)));
        assert_eq!(lost.get(), 3);
    }
}
