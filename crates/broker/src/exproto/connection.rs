//! A device connection from accept to OnSocketClosed:
//!
//! 1. OnSocketCreated is called. Bytes of the device wait behind it.
//! 2. Open: bytes and messages become events, and the calls of the adapter are answered. Authenticate makes it
//!    a client.
//! 3. The connection ends (`ending`): the client is removed and the socket is closed.
//! 4. Ending: waiting events are delivered if the cause allows it, and calls of the adapter are still answered.
//!    Then the `conn` is dead, and OnSocketClosed is called last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout, timeout_at};
use tracing::debug;

use super::answer::AdapterAnswer;
use super::context::ExProtoContext;
use super::ending::{ConnectionEnd, RemainingEvents};
use super::events::{EventQueue, HandlerCallError, QueuedEvent};
use super::registry::PendingCall;
use super::timers::{ConnectionTimeout, Timers};
use crate::bus::{BusMember, RoutedDelivery};
use crate::clock;
use crate::exproto::v1::{Address, ConnInfo, SocketType};

/// Bytes of one read, and so of one OnReceivedBytes, at most.
const CHUNK: usize = 1_460;
/// Messages of one OnReceivedMessages, at most.
const BATCH: usize = 101;
/// Limits the time in which a closing socket has to send its remaining bytes (EMQX: `send_timeout`).
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
/// Limits the time in which the events of an ended connection are delivered.
const FLUSH: Duration = Duration::from_secs(15);

pub(super) struct DeviceConnection {
    pub(super) conn: String,
    pub(super) context: Arc<ExProtoContext>,
    calls: mpsc::Receiver<PendingCall>,
    events: EventQueue,
    pub(super) timers: Timers,
    pub(super) client: Option<AuthenticatedClient>,
    pub(super) unwritten: BytesMut,
}

/// The client of an authenticated connection.
pub(super) struct AuthenticatedClient {
    pub(super) clientid: String,
    pub(super) member: Arc<BusMember>,
    pub(super) arriving: mpsc::Receiver<RoutedDelivery>,
}

/// An event in the loop of an open connection.
enum ConnectionStep {
    Answered(Result<(), HandlerCallError>),
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Asked(PendingCall),
    Arrived(Vec<RoutedDelivery>),
    TimerDue,
}

impl DeviceConnection {
    /// Creates a connection and registers it for the adapter.
    pub(super) fn new(
        socket: &TcpStream,
        kind: SocketType,
        peer: SocketAddr,
        context: &Arc<ExProtoContext>,
    ) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let conninfo = ConnInfo {
            socktype: kind.into(),
            peername: Some(address(peer)),
            sockname: Some(address(socket.local_addr()?)),
            peercert: None,
        };
        let (conn, calls) = context.registry.enter();
        let mut events = EventQueue::new(conn.clone(), context.handler.client());
        events.push(QueuedEvent::SocketCreated(Box::new(conninfo)));
        let timers = Timers::new(clock::now(), context.idle_timeout);
        Ok(Self { conn, context: context.clone(), calls, events, timers, client: None, unwritten: BytesMut::new() })
    }

    /// Serves the connection over TCP or TLS.
    pub(super) async fn serve(mut self, mut socket: impl AsyncRead + AsyncWrite + Unpin) {
        let ending = self.open(&mut socket).await;
        debug!(conn = self.conn, ?ending, "a device connection ends");
        self.disconnect();
        if matches!(ending, ConnectionEnd::Closed | ConnectionEnd::KeepaliveTimeout) {
            self.write_rest(&mut socket).await;
        }
        drop(socket);
        self.finish(ending).await;
    }

    async fn open(&mut self, socket: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> ConnectionEnd {
        let mut chunk = [0; CHUNK];
        loop {
            let step = self.next_step(socket, &mut chunk).await;
            let ended = match step {
                ConnectionStep::Answered(outcome) => outcome.err().map(ConnectionEnd::Failed),
                ConnectionStep::Read(read) => self.received(read, &chunk),
                ConnectionStep::Written(written) => self.written(written),
                ConnectionStep::Asked(PendingCall { call, answer }) => {
                    let (outcome, ended) = self.handle_call(call).await;
                    reply(answer, outcome);
                    ended
                }
                ConnectionStep::Arrived(deliveries) => {
                    self.events.push(QueuedEvent::ReceivedMessages(deliveries));
                    None
                }
                ConnectionStep::TimerDue => self.timer_due(),
            };
            if let Some(ending) = ended {
                return ending;
            }
        }
    }

    async fn next_step(
        &mut self,
        socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
        chunk: &mut [u8; CHUNK],
    ) -> ConnectionStep {
        let Self { calls, events, timers, client, unwritten, .. } = self;
        let (mut input, mut output) = split(socket);
        let has_room = events.has_room();
        let deadline = timers.deadline();
        tokio::select! {
            outcome = events.answered() => ConnectionStep::Answered(outcome),
            read = input.read(chunk), if has_room => ConnectionStep::Read(read),
            written = output.write(unwritten), if !unwritten.is_empty() => ConnectionStep::Written(written),
            Some(asked) = calls.recv() => ConnectionStep::Asked(asked),
            Some(deliveries) = arrived(client), if has_room => ConnectionStep::Arrived(deliveries),
            () = sleep_until(deadline.unwrap_or_else(clock::now)), if deadline.is_some() => ConnectionStep::TimerDue,
        }
    }

    /// Handles received bytes. The end of the stream and a reset have the same effect.
    fn received(&mut self, read: io::Result<usize>, chunk: &[u8]) -> Option<ConnectionEnd> {
        let bytes = chunk.get(..read.unwrap_or(0)).filter(|bytes| !bytes.is_empty());
        let Some(bytes) = bytes else { return Some(ConnectionEnd::ClosedByPeer) };
        self.timers.received();
        self.events.push(QueuedEvent::ReceivedBytes(bytes.to_vec()));
        None
    }

    fn written(&mut self, written: io::Result<usize>) -> Option<ConnectionEnd> {
        match written {
            Ok(count) => {
                self.unwritten.advance(count);
                None
            }
            Err(_) => Some(ConnectionEnd::ClosedByPeer),
        }
    }

    /// Sends OnTimerTimeout and closes the connection.
    fn timer_due(&mut self) -> Option<ConnectionEnd> {
        match self.timers.expired(clock::now())? {
            ConnectionTimeout::Idle => Some(ConnectionEnd::IdleTimeout),
            ConnectionTimeout::Keepalive => {
                self.events.push(QueuedEvent::KeepaliveTimeout);
                Some(ConnectionEnd::KeepaliveTimeout)
            }
        }
    }

    /// Writes the remaining bytes, since what was sent before Close has to arrive.
    async fn write_rest(&mut self, socket: &mut (impl AsyncWrite + Unpin)) {
        let rest = async {
            socket.write_all(&self.unwritten).await?;
            socket.shutdown().await
        };
        if !matches!(timeout(SEND_TIMEOUT, rest).await, Ok(Ok(()))) {
            debug!(conn = self.conn, "the device did not take what was sent to it");
        }
    }

    async fn finish(mut self, ending: ConnectionEnd) {
        let all_told = match ending.rest() {
            RemainingEvents::Delivered => self.deliver_rest().await,
            RemainingEvents::LostWithTheEnd => self.events.is_empty(),
            RemainingEvents::Skipped => {
                self.events.clear();
                true
            }
        };
        self.context.registry.leave(&self.conn);
        if all_told {
            self.calls.close();
            self.events.push(QueuedEvent::SocketClosed { reason: ending.reason() });
            if let Err(failure) = self.events.answered().await {
                debug!(conn = self.conn, %failure, "OnSocketClosed is lost");
            }
        }
    }

    /// Delivers the remaining events; returns `false` if that takes too long, and OnSocketClosed is then lost.
    async fn deliver_rest(&mut self) -> bool {
        let deadline = clock::now() + FLUSH;
        while !self.events.is_empty() {
            let step = async {
                tokio::select! {
                    outcome = self.events.answered() => ConnectionStep::Answered(outcome),
                    Some(asked) = self.calls.recv() => ConnectionStep::Asked(asked),
                }
            };
            match timeout_at(deadline, step).await {
                Ok(ConnectionStep::Answered(Err(_))) => self.events.clear(),
                Ok(ConnectionStep::Asked(PendingCall { call, answer })) => {
                    reply(answer, call.answer_of_closed_socket())
                }
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

fn reply(caller: oneshot::Sender<AdapterAnswer>, answer: AdapterAnswer) {
    if caller.send(answer).is_err() {
        debug!(?answer, "the caller has given up");
    }
}

/// Waits for the next messages of a client; for ever without a client.
async fn arrived(client: &mut Option<AuthenticatedClient>) -> Option<Vec<RoutedDelivery>> {
    let client = client.as_mut()?;
    let mut deliveries = Vec::new();
    client.arriving.recv_many(&mut deliveries, BATCH).await;
    Some(deliveries)
}

fn address(of: SocketAddr) -> Address {
    Address { host: of.ip().to_string(), port: of.port().into() }
}
