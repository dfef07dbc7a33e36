//! The frames that wait for the connection to a node.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lwm2m_cluster::frame::{Frame, FrameClock};
use tokio::sync::Notify;

/// Maximum number of bytes that wait for a connection.
const MAX_BYTES: usize = 4 << 20;
/// The number of bytes by which messages of members may exceed that, so that a flood of datagrams does not make a
/// node silent.
const EXTRA_BYTES_FOR_MESSAGES: usize = 64 << 10;

/// The frames for one node, as the bytes of its connection. Senders append them, and the task of the connection takes
/// them all at once.
#[derive(Default)]
pub(super) struct PeerOutbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    is_connected: bool,
    bytes: Vec<u8>,
    /// The number of datagrams among the frames.
    datagrams: u64,
}

/// The frames that the task of a connection writes next.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) datagrams: u64,
}

/// The reason for which a frame is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// No connection to the node exists.
    Away,
    /// The connection is slower than the senders.
    Full,
}

impl PeerOutbox {
    /// Appends a frame.
    pub(super) fn push(&self, frame: &Frame<'_>, clock: FrameClock) -> Result<(), NotSent> {
        let mut waiting = self.lock();
        if !waiting.is_connected {
            return Err(NotSent::Away);
        }
        let (room, datagrams) = match frame {
            Frame::Hello(_) | Frame::Message(_) => (MAX_BYTES + EXTRA_BYTES_FOR_MESSAGES, 0),
            Frame::Forward(_) | Frame::Reply(_) => (MAX_BYTES, 1),
            Frame::Learn(_) | Frame::NotMine(_) | Frame::Ways(_) => (MAX_BYTES, 0),
            Frame::Fetch(_) | Frame::Fetched(_) | Frame::Done(_) => (MAX_BYTES, 0),
        };
        let before = waiting.bytes.len();
        if frame.encode(clock, &mut waiting.bytes).is_err() || waiting.bytes.len() > room {
            waiting.bytes.truncate(before);
            return Err(NotSent::Full);
        }
        waiting.datagrams += datagrams;
        drop(waiting);
        if before == 0 {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes all frames, and waits until there is one. Cancel-safe. There is one waiter: the task of the connection.
    pub(super) async fn next_batch(&self) -> Batch {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.bytes.is_empty() {
                    let bytes = std::mem::take(&mut waiting.bytes);
                    return Batch { bytes, datagrams: std::mem::take(&mut waiting.datagrams) };
                }
            }
            self.filled.notified().await;
        }
    }

    /// Notes that there is a connection.
    pub(super) fn open(&self) {
        self.lock().is_connected = true;
    }

    /// Notes that there is no connection any more. Returns the number of datagrams that are lost with it.
    pub(super) fn close(&self) -> u64 {
        std::mem::take(&mut *self.lock()).datagrams
    }

    // A panic while the lock is held cannot leave a frame half written, but a frame that is not sent.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use lwm2m_base::Shard;
    use lwm2m_cluster::PeerMessage;
    use lwm2m_cluster::frame::{ForwardReply, NamedFlow, split_frame};

    use super::*;
    use crate::clock::monotonic_now;

    fn reply(datagram: &[u8]) -> Frame<'_> {
        Frame::Reply(ForwardReply { flow: NamedFlow { listener: "a", address: ([192, 0, 2, 1], 1).into() }, datagram })
    }

    #[tokio::test]
    async fn frames_wait_in_their_order_up_to_the_bound_and_messages_have_room_beyond_it() {
        let (outbox, clock) = (PeerOutbox::default(), FrameClock::new(monotonic_now()));
        assert_eq!(outbox.push(&reply(b"early"), clock), Err(NotSent::Away));
        outbox.open();
        let datagram = [0; 1_000];
        let mut sent = 0;
        while outbox.push(&reply(&datagram), clock) == Ok(()) {
            sent += 1;
        }
        assert!((4_000..4_200).contains(&sent), "{sent}");
        let yours = Frame::Message(PeerMessage::Yours { shard: Shard::new(7) });
        assert_eq!(outbox.push(&yours, clock), Ok(()));
        assert_eq!(outbox.push(&reply(&datagram), clock), Err(NotSent::Full));

        let Batch { bytes, datagrams } = outbox.next_batch().await;
        assert_eq!(datagrams, sent);
        let (mut rest, mut last) = (bytes.as_slice(), None);
        while let Some(frame) = split_frame(&mut rest).expect("a valid length") {
            last = Some(Frame::decode(frame, clock).expect("a frame"));
        }
        assert_eq!((last, rest), (Some(yours), &b""[..]));
        assert_eq!(outbox.push(&reply(&datagram), clock), Ok(()), "there is room again");
        assert_eq!(outbox.close(), 1);
        assert_eq!(outbox.push(&reply(&datagram), clock), Err(NotSent::Away));
    }
}
