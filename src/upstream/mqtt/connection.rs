//! The connection of one device: a small task that owns the socket. It reads into a buffer that all tasks of a thread
//! share, and so needs memory of its own only for an incomplete packet, or for bytes that the socket does not take yet.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use std::vec;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;
use tokio_openssl::SslStream;

use crate::upstream::client::device::ConnectionId;
use crate::upstream::dialer::{DialFailure, Stream};

use super::MqttTaskEnd;
use super::codec::{Frames, Incoming};

const READ: usize = 64 * 1024;
/// The number of written bytes that are reported together.
const REPORT_WRITTEN: usize = 16 * 1024;
/// Limits how long the broker may take to close a connection that the gateway has closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Lists what a connection reports, in order. The end is the last.
#[derive(Debug)]
pub enum ConnectionEvent {
    Opened,
    Heard(Incoming),
    /// The connection could not be opened. Nothing else is reported then.
    NotOpened(DialFailure),
    /// The system has taken this many bytes more.
    Written(usize),
    Ended(String),
}

/// Carries bytes to be written from the link to the task. The lock is held while bytes are appended.
#[derive(Debug, Default)]
pub(super) struct WriteQueue(Mutex<WriteQueueState>);

#[derive(Debug, Default)]
struct WriteQueueState {
    bytes: Vec<u8>,
    end: Option<WriteQueueEnd>,
    task: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteQueueEnd {
    /// The connection ends after everything is written.
    Close,
    Abort,
}

enum Taken {
    Bytes(Vec<u8>),
    Closed,
    Aborted,
}

impl WriteQueue {
    /// Takes bytes to be written. They are copied only if earlier ones wait.
    pub(super) fn send(&self, bytes: Vec<u8>) {
        self.change(|waiting| {
            if waiting.bytes.is_empty() {
                waiting.bytes = bytes;
            } else {
                waiting.bytes.extend_from_slice(&bytes);
            }
        });
    }

    /// Ends the connection after everything is written.
    pub(super) fn close(&self) {
        self.change(|waiting| waiting.end = waiting.end.or(Some(WriteQueueEnd::Close)));
    }

    /// Ends the connection now, without a report.
    pub(super) fn abort(&self) {
        self.change(|waiting| waiting.end = Some(WriteQueueEnd::Abort));
    }

    fn change(&self, change: impl FnOnce(&mut WriteQueueState)) {
        let task = {
            let mut waiting = self.0.lock().expect(UNPOISONED);
            change(&mut waiting);
            waiting.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    fn poll_take(&self, context: &Context<'_>) -> Poll<Taken> {
        let mut waiting = self.0.lock().expect(UNPOISONED);
        if waiting.end == Some(WriteQueueEnd::Abort) {
            return Poll::Ready(Taken::Aborted);
        }
        if !waiting.bytes.is_empty() {
            return Poll::Ready(Taken::Bytes(mem::take(&mut waiting.bytes)));
        }
        if waiting.end == Some(WriteQueueEnd::Close) {
            return Poll::Ready(Taken::Closed);
        }
        waiting.task = Some(context.waker().clone());
        Poll::Pending
    }

    /// Returns when the connection is given up.
    pub(super) async fn aborted(&self) {
        std::future::poll_fn(|context| {
            let mut waiting = self.0.lock().expect(UNPOISONED);
            if waiting.end == Some(WriteQueueEnd::Abort) {
                return Poll::Ready(());
            }
            waiting.task = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

const UNPOISONED: &str = "nobody panics while appending bytes";

/// Sends the events of a connection to the link.
#[derive(Clone)]
pub(crate) struct ConnectionEventSender {
    pub connection: ConnectionId,
    pub events: mpsc::Sender<(ConnectionId, ConnectionEvent)>,
}

impl ConnectionEventSender {
    /// Sends an event. It comes back while the queue to the link is full. A link that has ended does not need it.
    fn try_tell(&self, event: ConnectionEvent) -> Result<(), ConnectionEvent> {
        match self.events.try_send((self.connection, event)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full((_, event))) => Err(event),
            Err(TrySendError::Closed(_)) => {
                tracing::trace!("event dropped: the link has ended");
                Ok(())
            }
        }
    }

    /// Sends an event when the queue to the link has room.
    pub(crate) async fn tell_later(self, event: ConnectionEvent) {
        if self.events.send((self.connection, event)).await.is_err() {
            tracing::trace!("event dropped: the link has ended");
        }
    }
}

/// The life of a connection: it is opened, and served until its end. Each device has one, so that its size counts: what
/// only few connections need at a time is boxed.
pub(super) enum Connection {
    Opening(Opening),
    Plain(Serving<TcpStream>),
    Secure(Box<Serving<SslStream<TcpStream>>>),
}

/// Opens a connection. Without one there is nothing more to do.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Option<Connection>> + Send>>;

impl Connection {
    pub(super) fn new(
        stream: Stream,
        write_queue: Arc<WriteQueue>,
        frames: Frames,
        sender: ConnectionEventSender,
    ) -> Self {
        match stream {
            Stream::Plain(stream) => Self::Plain(Serving::new(stream, write_queue, frames, sender)),
            Stream::Secure(stream) => Self::Secure(Box::new(Serving::new(*stream, write_queue, frames, sender))),
        }
    }
}

impl Future for Connection {
    type Output = MqttTaskEnd;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<MqttTaskEnd> {
        loop {
            match &mut *self {
                Self::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Some(open) => *self = open,
                    None => return Poll::Ready(MqttTaskEnd::Connection),
                },
                Self::Plain(serving) => return serving.poll_end(context).map(|()| MqttTaskEnd::Connection),
                Self::Secure(serving) => return serving.poll_end(context).map(|()| MqttTaskEnd::Connection),
            }
        }
    }
}

/// Serves an open stream until its end.
pub(crate) struct Serving<S> {
    /// `None` when the end is told, or the connection is being closed.
    connection: Option<OpenStream<S>>,
    sender: ConnectionEventSender,
    /// The packets that were heard and are not told yet. Without memory while there are none.
    heard: vec::IntoIter<Incoming>,
    /// Tells an event while the queue to the link is full, or closes the connection.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Serving<S> {
    pub(super) fn new(stream: S, write_queue: Arc<WriteQueue>, frames: Frames, sender: ConnectionEventSender) -> Self {
        let connection = OpenStream { stream, write_queue, frames, unwritten: Vec::new(), begun: 0, unreported: 0 };
        let mut serving = Self { connection: Some(connection), sender, heard: Vec::new().into_iter(), waiting: None };
        serving.tell(ConnectionEvent::Opened);
        serving
    }

    /// Returns when everything about the connection is told.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(context));
                self.waiting = None;
            }
            if let Some(packet) = self.heard.next() {
                self.tell(ConnectionEvent::Heard(packet));
                continue;
            }
            self.heard = Vec::new().into_iter();
            let Some(connection) = &mut self.connection else { return Poll::Ready(()) };
            match ready!(connection.poll_step(context)) {
                ServeStep::Heard(packets) => self.heard = packets.into_iter(),
                ServeStep::Written(bytes) => self.tell(ConnectionEvent::Written(bytes)),
                ServeStep::Ended(why) => {
                    self.connection = None;
                    self.tell(ConnectionEvent::Ended(why));
                }
                ServeStep::Closed => {
                    self.waiting =
                        self.connection.take().map(|connection| Box::pin(connection.close_gracefully()) as _);
                }
                ServeStep::Aborted => return Poll::Ready(()),
            }
        }
    }

    fn tell(&mut self, event: ConnectionEvent) {
        if let Err(event) = self.sender.try_tell(event) {
            self.waiting = Some(Box::pin(self.sender.clone().tell_later(event)));
        }
    }
}

struct OpenStream<S> {
    stream: S,
    write_queue: Arc<WriteQueue>,
    frames: Frames,
    unwritten: Vec<u8>,
    /// Counts the bytes of `unwritten` that are written.
    begun: usize,
    /// Counts the bytes that were written and not reported.
    unreported: usize,
}

enum ServeStep {
    Heard(Vec<Incoming>),
    Written(usize),
    Ended(String),
    Closed,
    Aborted,
}

impl<S: AsyncRead + AsyncWrite + Unpin> OpenStream<S> {
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<ServeStep> {
        if let Poll::Ready(step) = self.poll_write(context) {
            return Poll::Ready(step);
        }
        self.poll_read(context)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<ServeStep> {
        loop {
            if self.unreported >= REPORT_WRITTEN {
                return Poll::Ready(ServeStep::Written(mem::take(&mut self.unreported)));
            }
            let rest = self.unwritten.get(self.begun..).unwrap_or_default();
            if rest.is_empty() {
                self.begun = 0;
                self.unwritten = match ready!(self.write_queue.poll_take(context)) {
                    Taken::Bytes(bytes) => bytes,
                    Taken::Closed => return Poll::Ready(ServeStep::Closed),
                    Taken::Aborted => return Poll::Ready(ServeStep::Aborted),
                };
                continue;
            }
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest)) {
                Ok(0) => return Poll::Ready(ServeStep::Ended("nothing more can be written".to_owned())),
                Ok(written) => {
                    self.begun += written;
                    self.unreported += written;
                    if self.begun == self.unwritten.len() {
                        self.unwritten = Vec::new();
                        self.begun = 0;
                    }
                }
                Err(error) => return Poll::Ready(ServeStep::Ended(error.to_string())),
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<ServeStep> {
        BUFFER.with_borrow_mut(|buffer| {
            loop {
                let mut read = ReadBuf::new(buffer);
                if let Err(error) = ready!(Pin::new(&mut self.stream).poll_read(context, &mut read)) {
                    return Poll::Ready(ServeStep::Ended(error.to_string()));
                }
                if read.filled().is_empty() {
                    return Poll::Ready(ServeStep::Ended("the broker closed the connection".to_owned()));
                }
                match self.frames.push(read.filled()) {
                    Ok(packets) if packets.is_empty() => {}
                    Ok(packets) => return Poll::Ready(ServeStep::Heard(packets)),
                    Err(malformed) => return Poll::Ready(ServeStep::Ended(malformed.to_string())),
                }
            }
        })
    }

    /// Closes after everything is written. Closing a socket with unread bytes discards what the broker has not read
    /// yet, so the broker may close first.
    async fn close_gracefully(mut self) {
        let farewell = async {
            self.stream.shutdown().await?;
            let mut ignored = [0; 256];
            while self.stream.read(&mut ignored).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        if !matches!(timeout(CLOSE_TIMEOUT, farewell).await, Ok(Ok(()))) {
            tracing::debug!("the broker did not close a connection that the gateway had closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use crate::upstream::mqtt::codec::{self, ProtocolVersion};

    use super::*;

    fn start(
        capacity: usize,
    ) -> (tokio::io::DuplexStream, Arc<WriteQueue>, mpsc::Receiver<(ConnectionId, ConnectionEvent)>) {
        let (ours, broker) = duplex(capacity);
        let write_queue = Arc::new(WriteQueue::default());
        let (events, told) = mpsc::channel(10);
        let sender = ConnectionEventSender { connection: ConnectionId(1), events };
        let mut serving = Serving::new(ours, write_queue.clone(), Frames::new(ProtocolVersion::V5, 1000), sender);
        tokio::spawn(std::future::poll_fn(move |context| serving.poll_end(context)));
        (broker, write_queue, told)
    }

    #[test]
    fn an_open_connection_needs_little_memory() {
        let size = size_of::<Connection>();
        assert!(size <= 232, "{size}");
    }

    #[tokio::test]
    async fn packets_are_heard_however_they_are_cut_and_the_end_is_told_last() {
        let (mut broker, _write_queue, mut told) = start(3);
        broker.write_all(&[0xd0, 0, 0xd0, 0, 0x40, 2, 0, 7]).await.unwrap();
        drop(broker);
        assert!(matches!(told.recv().await, Some((_, ConnectionEvent::Opened))));
        for _ in 0..2 {
            assert!(matches!(told.recv().await, Some((_, ConnectionEvent::Heard(Incoming::Pong)))));
        }
        assert!(matches!(told.recv().await, Some((_, ConnectionEvent::Heard(Incoming::PubAck { .. })))));
        assert!(matches!(told.recv().await, Some((_, ConnectionEvent::Ended(_)))));
        assert!(told.recv().await.is_none());
    }

    #[tokio::test]
    async fn what_waits_is_written_before_a_connection_closes() {
        let (mut broker, write_queue, mut told) = start(8);
        for _ in 0..100 {
            write_queue.send(codec::ping());
        }
        write_queue.close();
        let mut bytes = Vec::new();
        broker.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, codec::ping().repeat(100));
        drop(broker);
        assert!(matches!(told.recv().await, Some((_, ConnectionEvent::Opened))));
        assert!(told.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_connection_that_is_given_up_ends_at_once() {
        let (mut broker, write_queue, mut told) = start(8);
        assert!(matches!(told.recv().await, Some((_, ConnectionEvent::Opened))));
        write_queue.abort();
        let mut bytes = Vec::new();
        broker.read_to_end(&mut bytes).await.unwrap();
        assert!(bytes.is_empty());
        assert!(told.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_packet_that_is_none_ends_the_connection() {
        let (mut broker, _write_queue, mut told) = start(100);
        broker.write_all(&[0x10, 0]).await.unwrap();
        assert!(matches!(told.recv().await, Some((_, ConnectionEvent::Opened))));
        let Some((_, ConnectionEvent::Ended(why))) = told.recv().await else { panic!("no end") };
        assert!(why.contains("type 1"), "{why}");
    }
}
