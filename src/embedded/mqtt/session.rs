//! One MQTT client, from CONNECT to the end of its connection.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::codec::{Connect, Malformed, Publish, Reply, Request, Version};
use crate::embedded::bus::{Bus, Delivery, Member, Message, Options};
use crate::embedded::clock;

/// From accept to CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages of QoS 1 and 2 without acknowledgement, whatever more the client allows.
const MAX_IN_FLIGHT: u16 = 100;
/// While so much waits to be written, no messages are taken for the client, nor bytes from it.
const HIGH_WATER: usize = 4 * 1024 * 1024;
const READ: usize = 16 * 1024;

/// Why a session ended; nobody is told but the log.
#[derive(Debug, Error)]
pub(super) enum Ended {
    #[error("the client is gone: {0}")]
    Gone(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the client was silent for too long")]
    Silent,
    #[error("another client has taken its clientid")]
    TakenOver,
}

/// The sessions by their clientid: there is one of each (MQTT 5.0 section 3.1.4).
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, CancellationToken>>);

impl Sessions {
    /// Ends the session that has this clientid.
    fn take(&self, clientid: &str) -> CancellationToken {
        let mine = CancellationToken::new();
        let mut sessions = self.0.lock().expect(UNPOISONED);
        if let Some(older) = sessions.insert(clientid.to_owned(), mine.clone()) {
            older.cancel();
        }
        mine
    }

    /// Whoever took it over has cancelled it, and stays.
    fn leave(&self, clientid: &str, mine: &CancellationToken) {
        let mut sessions = self.0.lock().expect(UNPOISONED);
        if !mine.is_cancelled() {
            sessions.remove(clientid);
        }
    }
}

const UNPOISONED: &str = "nobody panics while holding the sessions";

pub(super) struct Session {
    socket: TcpStream,
    bus: Arc<Bus>,
    sessions: Arc<Sessions>,
    unread: BytesMut,
}

impl Session {
    pub(super) fn new(socket: TcpStream, bus: Arc<Bus>, sessions: Arc<Sessions>) -> Self {
        Self { socket, bus, sessions, unread: BytesMut::new() }
    }

    /// Returns when the client has said goodbye.
    ///
    /// # Errors
    /// It ended otherwise; then its will has been published.
    pub(super) async fn serve(mut self) -> Result<(), Ended> {
        self.socket.set_nodelay(true)?;
        let (version, connect) = timeout(CONNECT_TIMEOUT, self.connected()).await.map_err(|_| Ended::Silent)??;
        let chosen = connect.clientid.is_empty().then(|| format!("{:032x}", u128::from_be_bytes(clock::random())));
        let clientid = chosen.clone().unwrap_or_else(|| connect.clientid.clone());
        let taken_over = self.sessions.take(&clientid);

        let mut client = Client::new(version, clientid, &connect, &self.bus);
        client.say(Reply::ConnAck { chosen: chosen.as_deref() })?;
        let outcome = tokio::select! {
            outcome = client.converse(&mut self.socket, &mut self.unread) => outcome,
            () = taken_over.cancelled() => Err(Ended::TakenOver),
        };
        self.sessions.leave(&client.clientid, &taken_over);
        client.publish_will(connect.will.filter(|_| !matches!(outcome, Ok(Goodbye { with_will: false }))));
        outcome.map(drop)
    }

    async fn connected(&mut self) -> Result<(Version, Connect), Ended> {
        loop {
            if let Some(version) = Version::of_connect(&self.unread)?
                && let Some(request) = version.decode(&mut self.unread)?
            {
                let Request::Connect(connect) = request else { return Err(unexpected().into()) };
                return Ok((version, connect));
            }
            read(&mut self.socket, &mut self.unread).await?;
        }
    }
}

/// The client said DISCONNECT.
struct Goodbye {
    with_will: bool,
}

struct Client {
    version: Version,
    clientid: String,
    member: Member,
    arriving: mpsc::Receiver<Delivery>,
    unwritten: BytesMut,
    window: usize,
    last_packet: u16,
    /// What we sent with QoS 1 and 2, until it is acknowledged.
    in_flight: HashSet<u16>,
    /// What came with QoS 2, until it is released: it is not published twice.
    received: HashSet<u16>,
    keep_alive: Duration,
    silent_at: Option<Instant>,
}

enum Step {
    Read(io::Result<()>),
    Written(io::Result<usize>),
    Arrived(Delivery),
    Silent,
}

impl Client {
    fn new(version: Version, clientid: String, connect: &Connect, bus: &Arc<Bus>) -> Self {
        let (member, arriving) = bus.join();
        let mut client = Self {
            version,
            clientid,
            member,
            arriving,
            unwritten: BytesMut::new(),
            window: connect.receive_maximum.clamp(1, MAX_IN_FLIGHT).into(),
            last_packet: 0,
            in_flight: HashSet::new(),
            received: HashSet::new(),
            keep_alive: connect.keep_alive,
            silent_at: None,
        };
        client.heard();
        client
    }

    async fn converse(&mut self, socket: &mut TcpStream, unread: &mut BytesMut) -> Result<Goodbye, Ended> {
        loop {
            while let Some(request) = self.version.decode(unread)? {
                if let Some(goodbye) = self.obey(request)? {
                    return Ok(goodbye);
                }
            }
            match self.next_step(socket, unread).await {
                Step::Read(read) => {
                    read?;
                    self.heard();
                }
                Step::Written(written) => self.unwritten.advance(written?),
                Step::Arrived(delivery) => self.deliver(delivery)?,
                Step::Silent => return Err(Ended::Silent),
            }
        }
    }

    async fn next_step(&mut self, socket: &mut TcpStream, unread: &mut BytesMut) -> Step {
        let (mut input, mut output) = socket.split();
        let flows = self.unwritten.len() < HIGH_WATER;
        let takes = flows && self.in_flight.len() < self.window;
        tokio::select! {
            read = read(&mut input, unread), if flows => Step::Read(read),
            written = output.write(&self.unwritten), if !self.unwritten.is_empty() => Step::Written(written),
            Some(delivery) = self.arriving.recv(), if takes => Step::Arrived(delivery),
            () = at(self.silent_at) => Step::Silent,
        }
    }

    /// MQTT 5.0 section 3.1.2.10: one and a half times the Keep Alive.
    fn heard(&mut self) {
        self.silent_at = (!self.keep_alive.is_zero()).then(|| clock::now() + self.keep_alive * 3 / 2);
    }

    fn obey(&mut self, request: Request) -> Result<Option<Goodbye>, Malformed> {
        match request {
            Request::Connect(_) => return Err(unexpected()),
            Request::Publish { packet, publish } => self.published(packet, publish)?,
            Request::PubAck(packet) | Request::PubComp(packet) => {
                self.in_flight.remove(&packet);
            }
            Request::PubRec(packet) => self.say(Reply::PubRel(packet))?,
            Request::PubRel(packet) => {
                self.received.remove(&packet);
                self.say(Reply::PubComp(packet))?;
            }
            Request::Subscribe { packet, filters } => self.subscribe(packet, filters)?,
            Request::Unsubscribe { packet, filters } => {
                let existed = filters.iter().map(|filter| self.member.unsubscribe(filter)).collect();
                self.say(Reply::UnsubAck { packet, existed })?;
            }
            Request::Ping => self.say(Reply::Pong)?,
            Request::Disconnect { with_will } => return Ok(Some(Goodbye { with_will })),
        }
        Ok(None)
    }

    fn published(&mut self, packet: u16, publish: Publish) -> Result<(), Malformed> {
        match publish.qos {
            0 => self.publish(publish),
            1 => {
                self.publish(publish);
                self.say(Reply::PubAck(packet))?;
            }
            _ => {
                if self.received.insert(packet) {
                    self.publish(publish);
                }
                self.say(Reply::PubRec(packet))?;
            }
        }
        Ok(())
    }

    fn publish(&self, publish: Publish) {
        let Publish { topic, qos, retain, payload } = publish;
        self.member.publish(Message { retain, ..Message::new(&self.clientid, topic, qos, payload) });
    }

    fn publish_will(&self, will: Option<Publish>) {
        if let Some(will) = will {
            self.publish(will);
        }
    }

    /// The SUBACK goes before the retained messages: these wait in `arriving`.
    fn subscribe(&mut self, packet: u16, filters: Vec<(String, Options)>) -> Result<(), Malformed> {
        let subscribe =
            |(filter, options): (String, Options)| self.member.subscribe(&filter, options).then_some(options.max_qos);
        let granted = filters.into_iter().map(subscribe).collect();
        self.say(Reply::SubAck { packet, granted })
    }

    fn deliver(&mut self, delivery: Delivery) -> Result<(), Malformed> {
        let Delivery { message, max_qos, retain } = delivery;
        let qos = message.qos.min(max_qos);
        let packet = if qos == 0 { 0 } else { self.next_packet() };
        let publish = Publish { topic: message.topic.clone(), qos, retain, payload: message.payload.clone() };
        self.say(Reply::Publish { packet, publish })
    }

    /// The window keeps most identifiers free.
    fn next_packet(&mut self) -> u16 {
        loop {
            self.last_packet = self.last_packet.checked_add(1).unwrap_or(1);
            if self.in_flight.insert(self.last_packet) {
                return self.last_packet;
            }
        }
    }

    fn say(&mut self, reply: Reply<'_>) -> Result<(), Malformed> {
        self.version.encode(reply, &mut self.unwritten)
    }
}

async fn read(from: &mut (impl AsyncReadExt + Unpin), unread: &mut BytesMut) -> io::Result<()> {
    unread.reserve(READ);
    match from.read_buf(unread).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn unexpected() -> Malformed {
    Malformed("CONNECT is the first packet, and only the first".to_owned())
}
