//! An MQTT client from CONNECT to the end of its connection.

use std::collections::HashSet;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::codec::MqttVersion;
use super::packet::{
    ClientPacket, ConnectPacket, DisconnectCause, Grant, MalformedClientPacket, PublishPacket, ServerPacket,
};
use super::sessions::{KeptSession, Sessions, UNPOISONED};
use crate::bus::{Bus, BusMember, RoutedDelivery, RoutedMessage};
use crate::clock;
use crate::rules::Rules;
use crate::subscribers::SubscriptionOptions;

/// Maximum time from accept to CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages of QoS 1 and 2 without acknowledgement, whatever more the client allows.
const MAX_IN_FLIGHT: u16 = 100;
/// While so much waits to be written, no messages are taken for the client, nor bytes from it.
const HIGH_WATER: usize = 4 * 1024 * 1024;
/// Maximum time to write DISCONNECT.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A session is kept for no longer.
const MAX_SESSION_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);
const READ_SIZE: usize = 16 * 1024;

/// The reason why a session ended, for the log.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    #[error("the client is gone: {0}")]
    Gone(#[from] io::Error),
    #[error(transparent)]
    MalformedClientPacket(#[from] MalformedClientPacket),
    #[error("the client was silent for too long")]
    Silent,
    #[error("refused")]
    Refused,
    #[error("ended by the broker: {0:?}")]
    Told(DisconnectCause),
}

/// State that the clients of one listener share.
pub(crate) struct ListenerContext {
    pub(super) bus: Arc<Bus>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) rules: Arc<Rules>,
}

pub(super) struct ClientConnection {
    socket: TcpStream,
    context: Arc<ListenerContext>,
    unread: BytesMut,
}

impl ClientConnection {
    pub(super) fn new(socket: TcpStream, context: Arc<ListenerContext>) -> Self {
        Self { socket, context, unread: BytesMut::new() }
    }

    /// Returns when the client has sent DISCONNECT.
    ///
    /// # Errors
    /// It ended otherwise; then its will has been published.
    pub(super) async fn serve(mut self, stopped: impl Future<Output = ()>) -> Result<(), SessionError> {
        tokio::pin!(stopped);
        self.socket.set_nodelay(true)?;
        let connected = async { timeout(CONNECT_TIMEOUT, self.connected()).await.map_err(|_| SessionError::Silent)? };
        let (version, connect) = tokio::select! {
            connected = connected => connected?,
            () = &mut stopped => return Err(SessionError::Told(DisconnectCause::Stopped)),
        };
        sleep(self.context.rules.delay()).await;
        if self.context.rules.refuses(&connect.credentials) {
            return self.refuse(version).await;
        }
        let given = &connect.credentials.clientid;
        let chosen = given.is_empty().then(|| format!("{:032x}", u128::from_be_bytes(clock::random())));
        let clientid = chosen.clone().unwrap_or_else(|| given.clone());
        let kept = self.context.sessions.take(&clientid).await.filter(|_| !connect.clean_start);

        let session_present = kept.is_some();
        let mut client = ConnectedClient::new(version, clientid, &connect, kept, &self.context);
        let end = self.context.sessions.enter(&client.clientid, client.member.clone());
        client.send(ServerPacket::ConnAck { chosen: chosen.as_deref(), session_present })?;
        client.send_again()?;
        let outcome = tokio::select! {
            outcome = client.run(&mut self.socket, &mut self.unread) => outcome,
            () = end.told.cancelled() => {
                let cause = *end.why.lock().expect(UNPOISONED);
                Err(SessionError::Told(cause.unwrap_or(DisconnectCause::TakenOver)))
            }
            () = stopped => Err(SessionError::Told(DisconnectCause::Stopped)),
        };
        if let Err(SessionError::Told(cause)) = &outcome
            && version == MqttVersion::V5
        {
            self.disconnect(*cause).await?;
        }
        let with_will = !matches!(outcome, Ok(ClientDisconnect { with_will: false, .. }));
        client.publish_will(connect.will.filter(|_| with_will));
        let expiry = match &outcome {
            Ok(ClientDisconnect { session_expiry: Some(expiry), .. }) => *expiry,
            Ok(_) | Err(_) => connect.session_expiry,
        };
        let clientid = client.clientid.clone();
        self.context.sessions.leave(&clientid, &end, (!expiry.is_zero()).then(|| client.keep(expiry)));
        outcome.map(drop)
    }

    /// Sends a CONNACK with the refusal, and returns it as the error.
    async fn refuse(&mut self, version: MqttVersion) -> Result<(), SessionError> {
        let mut refusal = BytesMut::new();
        version.encode(ServerPacket::Refused, &mut refusal)?;
        self.socket.write_all(&refusal).await?;
        Err(SessionError::Refused)
    }

    /// Sends the DISCONNECT that only MQTT 5 has.
    async fn disconnect(&mut self, cause: DisconnectCause) -> Result<(), SessionError> {
        let mut disconnect = BytesMut::new();
        MqttVersion::V5.encode(ServerPacket::Disconnect(cause), &mut disconnect)?;
        // The broker does not wait for a client that does not read.
        let sent = timeout(DISCONNECT_TIMEOUT, self.socket.write_all(&disconnect)).await;
        tracing::trace!(?sent, "DISCONNECT");
        Ok(())
    }

    async fn connected(&mut self) -> Result<(MqttVersion, ConnectPacket), SessionError> {
        loop {
            if let Some(version) = MqttVersion::of_connect(&self.unread)?
                && let Some(request) = version.decode(&mut self.unread)?
            {
                let ClientPacket::Connect(connect) = request else { return Err(unexpected().into()) };
                return Ok((version, connect));
            }
            read(&mut self.socket, &mut self.unread).await?;
        }
    }
}

/// The client said DISCONNECT.
struct ClientDisconnect {
    with_will: bool,
    session_expiry: Option<Duration>,
}

struct ConnectedClient {
    version: MqttVersion,
    clientid: String,
    rules: Arc<Rules>,
    member: Arc<BusMember>,
    arriving: mpsc::Receiver<RoutedDelivery>,
    unwritten: BytesMut,
    window: usize,
    last_packet: u16,
    /// Unacknowledged messages with QoS 1 and 2, in order. After a PUBREC (QoS 2) the message itself is dropped.
    in_flight: Vec<(u16, Option<PublishPacket>)>,
    /// Packet identifiers of QoS 2 that are not released yet. Such a message is not published twice.
    received: HashSet<u16>,
    keep_alive: Duration,
    silent_at: Option<Instant>,
}

enum SessionStep {
    Read(io::Result<()>),
    Written(io::Result<usize>),
    Arrived(RoutedDelivery),
    Silent,
}

impl ConnectedClient {
    fn new(
        version: MqttVersion,
        clientid: String,
        connect: &ConnectPacket,
        kept: Option<Box<KeptSession>>,
        context: &Arc<ListenerContext>,
    ) -> Self {
        let (member, arriving, in_flight, last_packet) = match kept {
            Some(kept) => (kept.member, kept.arriving, kept.in_flight, kept.last_packet),
            None => {
                let (member, arriving) = context.bus.join();
                (Arc::new(member), arriving, Vec::new(), 0)
            }
        };
        let mut client = Self {
            version,
            clientid,
            rules: context.rules.clone(),
            member,
            arriving,
            unwritten: BytesMut::new(),
            window: connect.receive_maximum.clamp(1, MAX_IN_FLIGHT).into(),
            last_packet,
            in_flight,
            received: HashSet::new(),
            keep_alive: connect.keep_alive,
            silent_at: None,
        };
        client.restart_keep_alive();
        client
    }

    /// Sends the messages again that the previous connection left unacknowledged (MQTT 5.0 section 4.4).
    fn send_again(&mut self) -> Result<(), MalformedClientPacket> {
        for (packet, publish) in self.in_flight.clone() {
            match publish {
                Some(publish) => {
                    self.send(ServerPacket::Publish { packet, publish: PublishPacket { dup: true, ..publish } })?
                }
                None => self.send(ServerPacket::PubRel(packet))?,
            }
        }
        Ok(())
    }

    fn keep(self, expiry: Duration) -> KeptSession {
        let Self { member, arriving, in_flight, last_packet, .. } = self;
        KeptSession { member, arriving, in_flight, last_packet, until: clock::now() + expiry.min(MAX_SESSION_EXPIRY) }
    }

    async fn run(&mut self, socket: &mut TcpStream, unread: &mut BytesMut) -> Result<ClientDisconnect, SessionError> {
        loop {
            while let Some(request) = self.version.decode(unread)? {
                if let Some(disconnect) = self.handle_packet(request)? {
                    return Ok(disconnect);
                }
            }
            match self.next_step(socket, unread).await {
                SessionStep::Read(read) => {
                    read?;
                    self.restart_keep_alive();
                }
                SessionStep::Written(written) => self.unwritten.advance(written?),
                SessionStep::Arrived(delivery) => self.deliver(delivery)?,
                SessionStep::Silent => return Err(SessionError::Silent),
            }
        }
    }

    async fn next_step(&mut self, socket: &mut TcpStream, unread: &mut BytesMut) -> SessionStep {
        let (mut input, mut output) = socket.split();
        let flows = self.unwritten.len() < HIGH_WATER;
        let takes = flows && self.in_flight.len() < self.window;
        tokio::select! {
            read = read(&mut input, unread), if flows => SessionStep::Read(read),
            written = output.write(&self.unwritten), if !self.unwritten.is_empty() => SessionStep::Written(written),
            Some(delivery) = self.arriving.recv(), if takes => SessionStep::Arrived(delivery),
            () = at(self.silent_at) => SessionStep::Silent,
        }
    }

    /// Restarts the keep-alive timer: one and a half times the Keep Alive (MQTT 5.0 section 3.1.2.10).
    fn restart_keep_alive(&mut self) {
        self.silent_at = (!self.keep_alive.is_zero()).then(|| clock::now() + self.keep_alive * 3 / 2);
    }

    fn handle_packet(&mut self, request: ClientPacket) -> Result<Option<ClientDisconnect>, MalformedClientPacket> {
        match request {
            ClientPacket::Connect(_) => return Err(unexpected()),
            ClientPacket::Publish { packet, publish } => self.published(packet, publish)?,
            ClientPacket::PubAck(packet) | ClientPacket::PubComp(packet) => {
                self.in_flight.retain(|(waits, _)| *waits != packet);
            }
            ClientPacket::PubRec(packet) => {
                if let Some((_, publish)) = self.in_flight.iter_mut().find(|(waits, _)| *waits == packet) {
                    *publish = None;
                }
                self.send(ServerPacket::PubRel(packet))?;
            }
            ClientPacket::PubRel(packet) => {
                self.received.remove(&packet);
                self.send(ServerPacket::PubComp(packet))?;
            }
            ClientPacket::Subscribe { packet, filters } => self.subscribe(packet, filters)?,
            ClientPacket::Unsubscribe { packet, filters } => {
                let existed = filters.iter().map(|filter| self.member.unsubscribe(filter)).collect();
                self.send(ServerPacket::UnsubAck { packet, existed })?;
            }
            ClientPacket::Ping => self.send(ServerPacket::Pong)?,
            ClientPacket::Disconnect { with_will, session_expiry } => {
                return Ok(Some(ClientDisconnect { with_will, session_expiry }));
            }
        }
        Ok(None)
    }

    fn published(&mut self, packet: u16, publish: PublishPacket) -> Result<(), MalformedClientPacket> {
        let allowed = self.rules.may_publish(&publish.topic);
        match publish.qos {
            _ if !allowed && publish.qos != 1 => {}
            0 => self.publish(publish),
            1 => {
                if allowed {
                    self.publish(publish);
                }
                self.send(ServerPacket::PubAck { packet, allowed })?;
            }
            _ => {
                if self.received.insert(packet) {
                    self.publish(publish);
                }
                self.send(ServerPacket::PubRec(packet))?;
            }
        }
        Ok(())
    }

    fn publish(&self, publish: PublishPacket) {
        let PublishPacket { topic, qos, retain, payload, properties, .. } = publish;
        self.member.publish(RoutedMessage {
            retain,
            properties,
            ..RoutedMessage::new(&self.clientid, topic, qos, payload)
        });
    }

    fn publish_will(&self, will: Option<PublishPacket>) {
        if let Some(will) = will {
            self.publish(will);
        }
    }

    /// Subscribes. The SUBACK precedes the retained messages, which wait in `arriving`.
    fn subscribe(
        &mut self,
        packet: u16,
        filters: Vec<(String, SubscriptionOptions)>,
    ) -> Result<(), MalformedClientPacket> {
        let subscribe = |(filter, options): (String, SubscriptionOptions)| {
            if !self.rules.may_subscribe(&filter) {
                Grant::Denied
            } else if self.member.subscribe(&filter, options) {
                Grant::Granted(options.max_qos)
            } else {
                Grant::Invalid
            }
        };
        let grants = filters.into_iter().map(subscribe).collect();
        self.send(ServerPacket::SubAck { packet, grants })
    }

    fn deliver(&mut self, delivery: RoutedDelivery) -> Result<(), MalformedClientPacket> {
        let RoutedDelivery { message, max_qos, retain } = delivery;
        let qos = message.qos.min(max_qos);
        let publish = PublishPacket {
            topic: message.topic.clone(),
            qos,
            retain,
            dup: false,
            payload: message.payload.clone(),
            properties: message.properties.clone(),
        };
        let packet = if qos == 0 { 0 } else { self.next_packet() };
        if qos > 0 {
            self.in_flight.push((packet, Some(publish.clone())));
        }
        self.send(ServerPacket::Publish { packet, publish })
    }

    /// Returns a free packet identifier. The window keeps most of them free.
    fn next_packet(&mut self) -> u16 {
        loop {
            self.last_packet = self.last_packet.checked_add(1).unwrap_or(1);
            if !self.in_flight.iter().any(|(packet, _)| *packet == self.last_packet) {
                return self.last_packet;
            }
        }
    }

    fn send(&mut self, reply: ServerPacket<'_>) -> Result<(), MalformedClientPacket> {
        self.version.encode(reply, &mut self.unwritten)
    }
}

async fn read(from: &mut (impl AsyncReadExt + Unpin), unread: &mut BytesMut) -> io::Result<()> {
    unread.reserve(READ_SIZE);
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

fn unexpected() -> MalformedClientPacket {
    MalformedClientPacket("CONNECT is the first packet, and only the first".to_owned())
}
