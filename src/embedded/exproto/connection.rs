//! One device connection, from accept to OnSocketClosed. The life of it:
//!
//! 1. OnSocketCreated is told; what the device sends meanwhile waits behind it.
//! 2. Open: bytes and messages become events, the adapter's calls are answered. Authenticate makes it a client.
//! 3. It ends (`ending`): the client is gone, the socket is closed.
//! 4. Ending: what waits is delivered if the ending allows it, the adapter's calls are still answered. Then the `conn` is
//!    dead, and OnSocketClosed is told, last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout, timeout_at};
use tracing::debug;

use super::Site;
use super::answer::Answer;
use super::ending::{Ending, Rest};
use super::events::{Event, Events, Failure};
use super::registry::{Asked, Call};
use super::timers::{Timeout, Timers};
use crate::embedded::bus::{Delivery, Member, Message, Options};
use crate::embedded::control::Credentials;
use crate::embedded::{clock, filters};
use crate::upstream::exproto::v1::{Address, ConnInfo, SocketType};

/// Bytes of one read, and so of one OnReceivedBytes, at most (section 13.2).
const CHUNK: usize = 1_460;
/// Messages of one OnReceivedMessages, at most (section 7.1).
const BATCH: usize = 101;
/// What waits to be written to a device that does not read.
const MAX_UNWRITTEN: usize = 64 * 1024 * 1024;
/// How long a closing socket may take to send what it was given (EMQX: `send_timeout`).
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the events of an ended connection may take (section 7.4).
const FLUSH: Duration = Duration::from_secs(15);
/// How long an older connection with the same clientid may take to give way.
const DISCARD: Duration = Duration::from_secs(5);

pub(super) struct Connection {
    conn: String,
    site: Arc<Site>,
    calls: mpsc::Receiver<Asked>,
    events: Events,
    timers: Timers,
    client: Option<Client>,
    unwritten: BytesMut,
}

/// What Authenticate made of the connection.
struct Client {
    clientid: String,
    member: Arc<Member>,
    arriving: mpsc::Receiver<Delivery>,
}

/// What an open connection met.
enum Step {
    Answered(Result<(), Failure>),
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Asked(Asked),
    Arrived(Vec<Delivery>),
    TimerDue,
}

impl Connection {
    /// Known to the adapter from now on.
    pub(super) fn new(socket: &TcpStream, peer: SocketAddr, site: &Arc<Site>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let conninfo = ConnInfo {
            socktype: SocketType::Tcp.into(),
            peername: Some(address(peer)),
            sockname: Some(address(socket.local_addr()?)),
            peercert: None,
        };
        let (conn, calls) = site.registry.enter();
        let mut events = Events::new(conn.clone(), site.handler.client());
        events.push(Event::SocketCreated(Box::new(conninfo)));
        let timers = Timers::new(clock::now(), site.idle_timeout);
        Ok(Self { conn, site: site.clone(), calls, events, timers, client: None, unwritten: BytesMut::new() })
    }

    pub(super) async fn serve(mut self, mut socket: TcpStream) {
        let ending = self.open(&mut socket).await;
        debug!(conn = self.conn, ?ending, "a device connection ends");
        self.disconnect();
        if matches!(ending, Ending::Closed | Ending::KeepaliveTimeout) {
            self.write_rest(&mut socket).await;
        }
        drop(socket);
        self.finish(ending).await;
    }

    async fn open(&mut self, socket: &mut TcpStream) -> Ending {
        let mut chunk = [0; CHUNK];
        loop {
            let step = self.next_step(socket, &mut chunk).await;
            let ended = match step {
                Step::Answered(outcome) => outcome.err().map(Ending::Failed),
                Step::Read(read) => self.received(read, &chunk),
                Step::Written(written) => self.written(written),
                Step::Asked(Asked { call, answer }) => {
                    let (outcome, ended) = self.obey(call).await;
                    reply(answer, outcome);
                    ended
                }
                Step::Arrived(deliveries) => {
                    self.events.push(Event::ReceivedMessages(deliveries));
                    None
                }
                Step::TimerDue => self.timer_due(),
            };
            if let Some(ending) = ended {
                return ending;
            }
        }
    }

    async fn next_step(&mut self, socket: &mut TcpStream, chunk: &mut [u8; CHUNK]) -> Step {
        let Self { calls, events, timers, client, unwritten, .. } = self;
        let (mut input, mut output) = socket.split();
        let has_room = events.has_room();
        let deadline = timers.deadline();
        tokio::select! {
            outcome = events.answered() => Step::Answered(outcome),
            read = input.read(chunk), if has_room => Step::Read(read),
            written = output.write(unwritten), if !unwritten.is_empty() => Step::Written(written),
            Some(asked) = calls.recv() => Step::Asked(asked),
            Some(deliveries) = arrived(client), if has_room => Step::Arrived(deliveries),
            () = sleep_until(deadline.unwrap_or_else(clock::now)), if deadline.is_some() => Step::TimerDue,
        }
    }

    /// Section 13.4: the end of the stream and a reset look alike.
    fn received(&mut self, read: io::Result<usize>, chunk: &[u8]) -> Option<Ending> {
        let bytes = chunk.get(..read.unwrap_or(0)).filter(|bytes| !bytes.is_empty());
        let Some(bytes) = bytes else { return Some(Ending::ClosedByPeer) };
        self.timers.received();
        self.events.push(Event::ReceivedBytes(Bytes::copy_from_slice(bytes)));
        None
    }

    fn written(&mut self, written: io::Result<usize>) -> Option<Ending> {
        match written {
            Ok(count) => {
                self.unwritten.advance(count);
                None
            }
            Err(_) => Some(Ending::ClosedByPeer),
        }
    }

    /// Section 6.2: OnTimerTimeout is told, and the connection closed all the same.
    fn timer_due(&mut self) -> Option<Ending> {
        match self.timers.expired(clock::now())? {
            Timeout::Idle => Some(Ending::IdleTimeout),
            Timeout::Keepalive => {
                self.events.push(Event::KeepaliveTimeout);
                Some(Ending::KeepaliveTimeout)
            }
        }
    }

    /// The adapter's calls (section 4).
    async fn obey(&mut self, call: Call) -> (Answer, Option<Ending>) {
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
            Call::Kick => (Answer::Success, Some(Ending::Kicked)),
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

    /// Section 5: after a refusal it may be tried again. An older connection with this clientid is discarded first.
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
    fn disconnect(&mut self) {
        if let Some(client) = self.client.take() {
            self.site.registry.release(&client.clientid, &self.conn);
        }
    }

    /// Section 13.3: what was sent before Close arrives.
    async fn write_rest(&mut self, socket: &mut TcpStream) {
        let rest = async {
            socket.write_all(&self.unwritten).await?;
            socket.shutdown().await
        };
        if !matches!(timeout(SEND_TIMEOUT, rest).await, Ok(Ok(()))) {
            debug!(conn = self.conn, "the device did not take what was sent to it");
        }
    }

    async fn finish(mut self, ending: Ending) {
        let all_told = match ending.rest() {
            Rest::Delivered => self.deliver_rest().await,
            Rest::LostWithTheEnd => self.events.is_empty(),
            Rest::Skipped => {
                self.events.clear();
                true
            }
        };
        self.site.registry.leave(&self.conn);
        if all_told {
            self.calls.close();
            self.events.push(Event::SocketClosed { reason: ending.reason() });
            if let Err(failure) = self.events.answered().await {
                debug!(conn = self.conn, %failure, "OnSocketClosed is lost");
            }
        }
    }

    /// False if that takes too long: then OnSocketClosed is lost (section 7.4).
    async fn deliver_rest(&mut self) -> bool {
        let deadline = clock::now() + FLUSH;
        while !self.events.is_empty() {
            let step = async {
                tokio::select! {
                    outcome = self.events.answered() => Step::Answered(outcome),
                    Some(asked) = self.calls.recv() => Step::Asked(asked),
                }
            };
            match timeout_at(deadline, step).await {
                Ok(Step::Answered(Err(_))) => self.events.clear(),
                Ok(Step::Asked(Asked { call, answer })) => reply(answer, closed_socket_answers(&call)),
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

fn reply(caller: oneshot::Sender<Answer>, answer: Answer) {
    if caller.send(answer).is_err() {
        debug!(?answer, "the caller has given up");
    }
}

/// Section 13.6: while the events are delivered, Send still succeeds.
fn closed_socket_answers(call: &Call) -> Answer {
    match call {
        Call::Send(_) | Call::Close | Call::StartTimer(_) | Call::Kick | Call::Discard => Answer::Success,
        Call::Authenticate(_) => Answer::SocketDisconnected,
        Call::Publish { .. } | Call::Subscribe { .. } | Call::Unsubscribe { .. } => Answer::UnexpectedCall,
    }
}

/// The next messages for a client; none, ever, before there is one.
async fn arrived(client: &mut Option<Client>) -> Option<Vec<Delivery>> {
    let client = client.as_mut()?;
    let mut deliveries = Vec::new();
    client.arriving.recv_many(&mut deliveries, BATCH).await;
    Some(deliveries)
}

fn address(of: SocketAddr) -> Address {
    Address { host: of.ip().to_string(), port: of.port().into() }
}
