//! Any MQTT broker, including EMQX 6.3 and later: one MQTT connection per device.
//!
//! How a device becomes a client of the broker:
//! 1. `connection` dials, with TLS if that is configured.
//! 2. The gateway sends CONNECT with the device's client ID, username and password, without a clean start: an earlier
//!    session continues.
//! 3. It subscribes the device's command topic. The device is connected.
//! 4. The device's publications and the broker's messages go over this connection.
//! 5. The connection ends, and DISCONNECT may tell why. If the broker did not mean it, the device reconnects from 1.
//!
//! `devices` decides, `connection` acts, and [`MqttLink`] carries between them, in the one task that polls it. A
//! connection is a task of its own, and shares with the link only the bytes that it has to write.
//!
//! Delivery is "at least once": a translator with QoS 2 publishes with QoS 1, because the gateway may repeat a
//! publication all the same.

mod brokers;
pub mod codec;
mod connection;
mod devices;
mod reason;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::info;

use crate::clock::monotonic_now;
use crate::conditions::Condition;
use crate::tls::{self, Connector};
use crate::upstream::LinkConfig;
use crate::upstream::client::device::{ConnectionId, Destination};
use crate::upstream::client::targets::TargetId;
use crate::upstream::dialer::{DialError, Dialer, SECURE, Stream, tls_connector};
use crate::upstream::link::{BrokerLink, LinkIo, random_generator};
use crate::upstream::metrics::UpstreamMetrics;
use lwm2m_base::id_map::IdMap;
use lwm2m_core::gateway::broker::BrokerEvent;

use codec::Frames;
use connection::{Connection, ConnectionEvent, ConnectionEventSender, WriteQueue};
use devices::{MqttAction, MqttDevices, MqttProtocol, Probed};

pub use codec::ProtocolVersion;

/// Limits how long a probe may take, where devices may take longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time after which a connection no longer counts as closed at once.
const CLOSES_AT_ONCE: Duration = Duration::from_millis(300);

/// Configures where the broker is, and how much of it to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttConfig {
    /// Lists at least one address: `host:port` for TCP, `ssl://host:port` for TLS. They are of one cluster:
    /// applications do not notice at which of them a device is.
    pub brokers: Vec<String>,
    /// Configures TLS, for brokers that speak it.
    pub ssl: tls::TlsConfig,
    /// The version that is tried first. A broker without version 5 is spoken to in 3.1.1 from then on.
    pub version: ProtocolVersion,
    /// The silence after which a connection is checked with PINGREQ. Zero means never.
    pub keep_alive: Duration,
    /// Limits the publications of QoS 1 of one device that wait for the broker's acknowledgement.
    pub window: usize,
    /// Limits the bytes of a packet from the broker.
    pub max_packet_size: usize,
    /// Time after a lost connection before the broker publishes the will of its device, with version 5; `None` is at
    /// once. A node of a cluster that takes a device over connects it meanwhile.
    pub will_delay: Option<Duration>,
    pub link: LinkConfig,
}

impl MqttConfig {
    fn keep_alive_seconds(&self) -> u16 {
        u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX)
    }
}

/// The link to the broker by MQTT.
pub type MqttLink = BrokerLink<MqttIo>;

/// Holds the connections of the devices.
pub struct MqttIo {
    config: MqttConfig,
    connector: Option<Connector>,
    /// Holds one dialer for each address.
    dialers: Vec<Dialer>,
    /// The runtime for connections with TLS, if not the one of the link.
    pub(super) tls_runtime: Option<Handle>,
    sender: mpsc::Sender<(ConnectionId, ConnectionEvent)>,
    write_queues: IdMap<ConnectionId, Arc<WriteQueue>>,
}

/// Says which task has ended.
pub enum MqttTaskEnd {
    /// A connection ended. Everything about it was reported as events.
    Connection,
    Probe {
        broker: TargetId,
        outcome: Probed,
    },
}

impl MqttLink {
    /// Starts the link and begins to probe the brokers. A broker that is unavailable is no error: `condition` reports
    /// it.
    ///
    /// # Errors
    /// A file for TLS cannot be used, or the system has no randomness.
    pub fn start(config: MqttConfig, metrics: Arc<UpstreamMetrics>, condition: Condition) -> io::Result<Self> {
        let mut devices = MqttDevices::new(&config, random_generator()?, metrics);
        devices.probe_all(monotonic_now());
        let connector = tls_connector(&config.brokers, &config.ssl, "upstream.mqtt.ssl")?;
        let sources = &config.link.source_addresses;
        let dialer = |broker: &String| Dialer::new(vec![broker.clone()], sources.clone(), connector.clone());
        let dialers = config.brokers.iter().map(dialer).collect();
        let (sender, events) = mpsc::channel(config.link.event_queue.max(1));
        info!(brokers = config.brokers.join(", "), "connecting devices to the broker by MQTT");
        let io = MqttIo { config, connector, dialers, tls_runtime: None, sender, write_queues: IdMap::default() };
        Ok(Self::new(io, devices, events, JoinSet::new(), condition))
    }
}

impl LinkIo for MqttIo {
    type Protocol = MqttProtocol;
    type Event = (ConnectionId, ConnectionEvent);
    type TaskEnd = MqttTaskEnd;

    fn perform(
        &mut self,
        _devices: &mut MqttDevices,
        tasks: &mut JoinSet<MqttTaskEnd>,
        action: MqttAction,
    ) -> Option<BrokerEvent> {
        match action {
            MqttAction::Dial { connection, destination, version } => {
                self.dial(tasks, connection, destination, version);
            }
            MqttAction::Send { connection, bytes } => {
                if let Some(write_queue) = self.write_queues.get(&connection) {
                    write_queue.send(bytes);
                }
            }
            MqttAction::Close { connection } => {
                if let Some(write_queue) = self.write_queues.remove(&connection) {
                    write_queue.close();
                }
            }
            MqttAction::HangUp { connection } => {
                if let Some(write_queue) = self.write_queues.remove(&connection) {
                    write_queue.abort();
                }
            }
            MqttAction::Probe { broker } => self.probe(tasks, broker),
            MqttAction::Emit(event) => return Some(event),
        }
        None
    }

    fn arrived(&mut self, now: Instant, devices: &mut MqttDevices, (connection, event): Self::Event) {
        match event {
            ConnectionEvent::Opened => devices.opened(now, connection),
            ConnectionEvent::NotOpened(failure) => {
                self.write_queues.remove(&connection);
                devices.not_opened(now, connection, &failure);
            }
            ConnectionEvent::Heard(packet) => devices.heard(now, connection, packet),
            ConnectionEvent::Written(bytes) => devices.written(now, connection, bytes),
            ConnectionEvent::Ended(why) => {
                self.write_queues.remove(&connection);
                devices.ended(now, connection, &why);
            }
        }
    }

    fn task_ended(
        &mut self,
        now: Instant,
        devices: &mut MqttDevices,
        _tasks: &mut JoinSet<MqttTaskEnd>,
        end: MqttTaskEnd,
    ) {
        match end {
            MqttTaskEnd::Connection => {}
            MqttTaskEnd::Probe { broker, outcome } => devices.probed(now, broker, outcome),
        }
    }

    /// A connection writes its last packets, such as DISCONNECT, in its task.
    fn has_bytes_to_write(&self, tasks: &JoinSet<MqttTaskEnd>) -> bool {
        !tasks.is_empty()
    }
}

impl MqttIo {
    fn dial(
        &mut self,
        tasks: &mut JoinSet<MqttTaskEnd>,
        connection: ConnectionId,
        destination: Destination,
        version: ProtocolVersion,
    ) {
        let (dial, secure) = match destination {
            Destination::Configured(broker) => (self.dialers[broker.0].dial(), self.is_secure(broker)),
            Destination::Referred(server) => (self.referred(server).dial(), self.is_secure(TargetId(0))),
        };
        let write_queue = Arc::new(WriteQueue::default());
        self.write_queues.insert(connection, write_queue.clone());
        let frames = Frames::new(version, self.config.max_packet_size);
        let sender = ConnectionEventSender { connection, events: self.sender.clone() };
        let connection = Connection::Opening(Box::pin(async move {
            match dial_unless_aborted(dial, write_queue.clone()).await? {
                Ok(stream) => Some(Connection::new(stream, write_queue, frames, sender)),
                Err(error) => {
                    sender.tell_later(ConnectionEvent::NotOpened(error.into())).await;
                    None
                }
            }
        }));
        match self.tls_runtime.as_ref().filter(|_| secure) {
            Some(runtime) => tasks.spawn_on(connection, runtime),
            None => tasks.spawn(connection),
        };
    }

    fn is_secure(&self, broker: TargetId) -> bool {
        self.config.brokers.get(broker.0).is_some_and(|broker| broker.starts_with(SECURE))
    }

    /// Returns the dialer for a server that a broker named. It uses TLS if the first configured broker does.
    fn referred(&self, server: String) -> Dialer {
        let target = if self.is_secure(TargetId(0)) { format!("{SECURE}{server}") } else { server };
        Dialer::new(vec![target], self.config.link.source_addresses.clone(), self.connector.clone())
    }

    /// Begins to find out whether the broker accepts connections.
    fn probe(&mut self, tasks: &mut JoinSet<MqttTaskEnd>, broker: TargetId) {
        let dial = self.dialers[broker.0].dial();
        let patience = self.config.link.connect_timeout.min(PROBE_TIMEOUT);
        tasks.spawn(async move { MqttTaskEnd::Probe { broker, outcome: probe(dial, patience).await } });
    }
}

/// Dials. Returns nothing if the connection is given up meanwhile.
async fn dial_unless_aborted(
    dial: impl Future<Output = Result<Stream, DialError>>,
    write_queue: Arc<WriteQueue>,
) -> Option<Result<Stream, DialError>> {
    tokio::select! {
        opened = dial => Some(opened),
        () = write_queue.aborted() => None,
    }
}

/// Finds out whether the broker accepts connections: a broker waits for CONNECT. One that closes at once is full, or a
/// load balancer without a broker behind it.
async fn probe(dial: impl Future<Output = Result<Stream, DialError>>, patience: Duration) -> Probed {
    let begun = monotonic_now();
    let stream = match tokio::time::timeout(patience, dial).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Probed::NotOpened(error.into()),
        Err(_) => return Probed::NoAnswer,
    };
    let took = monotonic_now().saturating_duration_since(begun);
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
