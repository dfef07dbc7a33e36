//! Any MQTT broker, EMQX 6.3 and later among them: one MQTT connection per device.
//!
//! How a device becomes a client of the broker:
//! 1. `connection` dials, with TLS if that is set.
//! 2. CONNECT with the device's clientid, username and password, without a clean start: the session of before goes on.
//! 3. SUBSCRIBE its command topic; the device is connected.
//! 4. PUBLISH for what it says, PUBLISH of the broker for what it hears.
//! 5. The connection ends, and DISCONNECT may tell why. Where the broker did not mean it, again from 1.
//!
//! `devices` decides, `connection` does, and [`MqttLink`] carries between them, in the one task that polls it. A connection is a
//! task of its own and shares nothing with the link but the bytes that it has to write.
//!
//! What is promised is "at least once": QoS 2 of a translator is published as QoS 1, since a publication may be repeated by
//! the gateway all the same.

mod brokers;
pub mod codec;
mod connection;
mod devices;
mod reason;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tracing::info;

use crate::conditions::{Condition, ConditionState};
use crate::tls::{self, Connector};
use crate::upstream::UpstreamTableSizes;
use crate::upstream::client::device::{ConnectionId, Destination};
use crate::upstream::client::targets::{TargetId, TargetsHealth};
use crate::upstream::dialer::{DialError, Dialer, SECURE, Stream};
use crate::upstream::metrics::UpstreamMetrics;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};

use codec::Frames;
use connection::{ConnectionEvent, EventSender, Outbox};
use devices::{MqttAction, MqttDevices, Probed};

pub use codec::ProtocolVersion;

/// How long a probe may take, where devices may take longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is open for so long was not closed at once.
const CLOSES_AT_ONCE: Duration = Duration::from_millis(300);

/// Where the broker is, and how much of it to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttConfig {
    /// `host:port` for TCP, `ssl://host:port` for TLS, at least one. They are of one cluster: which of them a device is at
    /// makes no difference to applications.
    pub brokers: Vec<String>,
    /// For brokers that speak TLS.
    pub ssl: tls::TlsConfig,
    /// What is tried first. A broker that has no version 5 is spoken to in 3.1.1 from then on.
    pub version: ProtocolVersion,
    /// After so much silence a connection is asked whether it is still there; zero: never.
    pub keep_alive: Duration,
    /// Publications of QoS 1 of one device that wait for the broker's acknowledgement.
    pub window: usize,
    /// Bytes of the largest packet that is taken.
    pub max_packet_size: usize,
    /// Source addresses of the connections; none lets the system choose. A source address is good for about 28,000 of them to each broker.
    pub source_addresses: Vec<IpAddr>,
    /// From the Register to the end of SUBSCRIBE.
    pub connect_timeout: Duration,
    /// New connections in a second, when many have to be made again.
    pub connections_per_second: u32,
    /// Publications that wait for one device, and for all.
    pub queue_per_device: usize,
    pub queue_total: usize,
    /// Packets from the broker that wait for the core.
    pub event_queue: usize,
}

impl MqttConfig {
    fn keep_alive_seconds(&self) -> u16 {
        u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX)
    }

    /// None where no broker speaks TLS: then its files are not looked at.
    fn connector(&self) -> io::Result<Option<Connector>> {
        if !self.brokers.iter().any(|broker| broker.starts_with(SECURE)) {
            return Ok(None);
        }
        let unusable = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("upstream.mqtt.ssl: {error}"));
        Connector::new(&self.ssl).map(Some).map_err(unusable)
    }
}

/// The link to the broker. Its state lives where it is polled; sockets are served beside it and report back.
pub struct MqttLink {
    devices: MqttDevices,
    settings: MqttConfig,
    connector: Option<Connector>,
    /// One for each address.
    dialers: Vec<Dialer>,
    events: mpsc::Receiver<(ConnectionId, ConnectionEvent)>,
    sender: mpsc::Sender<(ConnectionId, ConnectionEvent)>,
    outboxes: HashMap<ConnectionId, Arc<Outbox>>,
    tasks: JoinSet<MqttTaskEnd>,
    condition: Condition,
}

/// How a task ended.
enum MqttTaskEnd {
    /// All about it was told as events.
    Connection,
    Probe {
        broker: TargetId,
        outcome: Probed,
    },
}

/// What can happen to the link.
enum LinkInput {
    Event(ConnectionId, ConnectionEvent),
    Ended(Result<MqttTaskEnd, JoinError>),
    Deadline,
}

impl MqttLink {
    /// Looks whether the broker is there. One that is away is no error; `condition` says so.
    ///
    /// # Errors
    /// If a file for TLS cannot be used, or the system has no randomness.
    pub fn start(settings: MqttConfig, metrics: Arc<UpstreamMetrics>, condition: Condition) -> io::Result<Self> {
        let rng = StdRng::try_from_rng(&mut SysRng).map_err(io::Error::other)?;
        let mut devices = MqttDevices::new(&settings, rng, metrics);
        devices.probe_all(now());
        let connector = settings.connector()?;
        let sources = &settings.source_addresses;
        let dialer = |broker: &String| Dialer::new(vec![broker.clone()], sources.clone(), connector.clone());
        let dialers = settings.brokers.iter().map(dialer).collect();
        let (sender, events) = mpsc::channel(settings.event_queue.max(1));
        info!(brokers = settings.brokers.join(", "), "connecting devices to the broker by MQTT");
        Ok(Self {
            devices,
            settings,
            connector,
            dialers,
            events,
            sender,
            outboxes: HashMap::new(),
            tasks: JoinSet::new(),
            condition,
        })
    }

    /// Takes a command; never waits.
    pub fn submit(&mut self, command: BrokerCommand) {
        self.devices.command(now(), command);
    }

    /// How full it is; it looks at every device.
    pub fn table_sizes(&self) -> UpstreamTableSizes {
        self.devices.table_sizes()
    }

    /// The next event for the core. Drives the link: it has to be polled all the time. Cancel-safe.
    pub async fn event(&mut self) -> BrokerEvent {
        loop {
            if let Some(event) = self.poll_event() {
                return event;
            }
            let input = self.input().await;
            self.take(input);
        }
    }

    /// Publishes what is queued, then closes the connections; gives up at the deadline.
    pub async fn shut_down(mut self, deadline: Duration) {
        self.devices.disconnect_all(now());
        let leaving = async {
            loop {
                while self.poll_event().is_some() {}
                if self.devices.is_empty() && self.tasks.is_empty() {
                    return;
                }
                let input = self.input().await;
                self.take(input);
            }
        };
        if tokio::time::timeout(deadline, leaving).await.is_err() {
            info!("publications left unsent at shutdown");
        }
    }

    /// Does what the devices want done, up to the next event for the core.
    pub fn poll_event(&mut self) -> Option<BrokerEvent> {
        if let Some(TargetsHealth { serving, detail }) = self.devices.take_health() {
            self.condition.set(if serving { ConditionState::Up } else { ConditionState::Down }, detail);
        }
        while let Some(action) = self.devices.poll_action() {
            match action {
                MqttAction::Dial { connection, destination, version } => self.dial(connection, destination, version),
                MqttAction::Send { connection, bytes } => {
                    if let Some(outbox) = self.outboxes.get(&connection) {
                        outbox.send(&bytes);
                    }
                }
                MqttAction::Close { connection } => {
                    if let Some(outbox) = self.outboxes.remove(&connection) {
                        outbox.close();
                    }
                }
                MqttAction::HangUp { connection } => {
                    if let Some(outbox) = self.outboxes.remove(&connection) {
                        outbox.abort();
                    }
                }
                MqttAction::Probe { broker } => self.probe(broker),
                MqttAction::Emit(event) => return Some(event),
            }
        }
        None
    }

    async fn input(&mut self) -> LinkInput {
        let deadline = self.devices.next_deadline().map(tokio::time::Instant::from_std);
        let timer = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((connection, event)) = self.events.recv() => LinkInput::Event(connection, event),
            Some(ended) = self.tasks.join_next() => LinkInput::Ended(ended),
            () = timer => LinkInput::Deadline,
        }
    }

    fn take(&mut self, input: LinkInput) {
        let now = now();
        match input {
            LinkInput::Event(connection, ConnectionEvent::Opened) => self.devices.opened(now, connection),
            LinkInput::Event(connection, ConnectionEvent::NotOpened(failure)) => {
                self.outboxes.remove(&connection);
                self.devices.not_opened(now, connection, &failure);
            }
            LinkInput::Event(connection, ConnectionEvent::Heard(packet)) => self.devices.heard(now, connection, packet),
            LinkInput::Event(connection, ConnectionEvent::Written(bytes)) => {
                self.devices.written(now, connection, bytes)
            }
            LinkInput::Event(connection, ConnectionEvent::Ended(why)) => {
                self.outboxes.remove(&connection);
                self.devices.ended(now, connection, &why);
            }
            LinkInput::Ended(Ok(MqttTaskEnd::Connection)) => {}
            LinkInput::Ended(Ok(MqttTaskEnd::Probe { broker, outcome })) => self.devices.probed(now, broker, outcome),
            LinkInput::Ended(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            LinkInput::Deadline => self.devices.handle_timeout(now),
        }
    }

    fn dial(&mut self, connection: ConnectionId, destination: Destination, version: ProtocolVersion) {
        let dial = match destination {
            Destination::Configured(broker) => self.dialers[broker.0].dial(),
            Destination::Referred(server) => self.referred(server).dial(),
        };
        let outbox = Arc::new(Outbox::default());
        self.outboxes.insert(connection, outbox.clone());
        let frames = Frames::new(version, self.settings.max_packet_size);
        let sender = EventSender { connection, events: self.sender.clone() };
        self.tasks.spawn(async move {
            // What only dialing needs is freed after it, and what only TLS needs is there only with TLS.
            let opened = tokio::select! {
                opened = Box::pin(dial) => opened,
                () = outbox.aborted() => return MqttTaskEnd::Connection,
            };
            match opened {
                Ok(Stream::Plain(stream)) => connection::serve(stream, outbox, frames, sender).await,
                Ok(Stream::Secure(stream)) => Box::pin(connection::serve(*stream, outbox, frames, sender)).await,
                Err(error) => sender.tell(ConnectionEvent::NotOpened(error.into())).await,
            }
            MqttTaskEnd::Connection
        });
    }

    /// A server that a broker named is spoken to as the brokers are: with TLS if the first of them is.
    fn referred(&self, server: String) -> Dialer {
        let secure = self.settings.brokers.first().is_some_and(|broker| broker.starts_with(SECURE));
        let target = if secure { format!("{SECURE}{server}") } else { server };
        Dialer::new(vec![target], self.settings.source_addresses.clone(), self.connector.clone())
    }

    /// Looks whether the broker accepts connections.
    fn probe(&mut self, broker: TargetId) {
        let dial = self.dialers[broker.0].dial();
        let patience = self.settings.connect_timeout.min(PROBE_TIMEOUT);
        self.tasks.spawn(async move { MqttTaskEnd::Probe { broker, outcome: probe(dial, patience).await } });
    }
}

/// A broker waits for CONNECT. One that closes at once is full, or a load balancer without a broker behind it.
async fn probe(dial: impl Future<Output = Result<Stream, DialError>>, patience: Duration) -> Probed {
    let begun = now();
    let stream = match tokio::time::timeout(patience, dial).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Probed::NotOpened(error.into()),
        Err(_) => return Probed::NoAnswer,
    };
    let took = now().saturating_duration_since(begun);
    let closed = async {
        match stream {
            Stream::Plain(mut stream) => stream.read(&mut [0]).await,
            Stream::Secure(mut stream) => stream.read(&mut [0]).await,
        }
    };
    match tokio::time::timeout(CLOSES_AT_ONCE, closed).await {
        Ok(Ok(0) | Err(_)) => Probed::Closed,
        Ok(Ok(_)) | Err(_) => Probed::Accepted { took },
    }
}

/// The link's clock: the one place here that reads it.
#[expect(clippy::disallowed_methods, reason = "the driver of the devices' state machine; it gets the time as argument")]
fn now() -> Instant {
    Instant::now()
}
