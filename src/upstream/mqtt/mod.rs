//! Any MQTT broker, EMQX 6.3 and later among them: one MQTT connection per device.
//!
//! How a device becomes a client of the broker:
//! 1. `connection` dials, with TLS if that is set.
//! 2. CONNECT with the device's clientid, username and password, without a clean start: the session of before goes on.
//! 3. SUBSCRIBE its command topic; the device is connected.
//! 4. PUBLISH for what it says, PUBLISH of the broker for what it hears.
//! 5. The connection ends, and DISCONNECT may tell why. Where the broker did not mean it, again from 1.
//!
//! `devices` decides, `connection` does, and [`Link`] carries between them, in the one task that polls it. A connection is a
//! task of its own and shares nothing with the link but the bytes that it has to write.
//!
//! What is promised is "at least once": QoS 2 of a translator is published as QoS 1, since a publication may be repeated by
//! the gateway all the same.

mod brokers;
mod codec;
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
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tracing::info;

use crate::gateway::broker::{BrokerCommand, BrokerEvent};
use crate::observability::metrics::Metrics;
use crate::upstream::dialer::Dialer;
use crate::upstream::tls;

use codec::Frames;
use connection::{Event, Outbox, Teller};
use devices::{Action, ConnectionId, Devices, Target};

pub use codec::Version;

/// Where the broker is, and how much of it to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `host:port`, at least one. They are of one cluster: which of them a device is at makes no difference to applications.
    pub brokers: Vec<String>,
    /// None: plain TCP.
    pub tls: Option<tls::Settings>,
    /// What is tried first. A broker that has no version 5 is spoken to in 3.1.1 from then on.
    pub version: Version,
    /// After so much silence a connection is asked whether it is still there; zero: never.
    pub keep_alive: Duration,
    /// Publications of QoS 1 of one device that wait for the broker's acknowledgement.
    pub window: usize,
    /// Bytes of the largest packet that is taken.
    pub max_packet_size: usize,
    /// Source addresses of the connections; none lets the system choose. A source address is good for about 28,000 of them.
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

impl Settings {
    fn keep_alive_seconds(&self) -> u16 {
        u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX)
    }
}

/// The link to the broker. Its state lives where it is polled; sockets are served beside it and report back.
pub struct Link {
    devices: Devices,
    settings: Settings,
    connector: Option<tls::Connector>,
    /// One for each address.
    dialers: Vec<Dialer>,
    events: mpsc::Receiver<(ConnectionId, Event)>,
    sender: mpsc::Sender<(ConnectionId, Event)>,
    outboxes: HashMap<ConnectionId, Arc<Outbox>>,
    tasks: JoinSet<()>,
}

/// What can happen to the link.
enum Input {
    Event(ConnectionId, Event),
    Ended(Result<(), JoinError>),
    Deadline,
}

impl Link {
    /// A broker that is away is no error. Has to be made inside a runtime.
    ///
    /// # Errors
    /// If a file for TLS cannot be used, or the system has no randomness.
    pub fn start(settings: Settings, metrics: Arc<Metrics>) -> io::Result<Self> {
        let rng = StdRng::try_from_rng(&mut SysRng).map_err(io::Error::other)?;
        let devices = Devices::new(&settings, rng, metrics);
        let connector = settings.tls.as_ref().map(tls::Connector::new).transpose()?;
        let dialer = |broker: &String| Dialer::new(vec![broker.clone()], settings.source_addresses.clone());
        let dialers = settings.brokers.iter().map(dialer).collect();
        let (sender, events) = mpsc::channel(settings.event_queue.max(1));
        info!(brokers = settings.brokers.join(", "), tls = connector.is_some(), "devices go to a broker by MQTT");
        Ok(Self {
            devices,
            settings,
            connector,
            dialers,
            events,
            sender,
            outboxes: HashMap::new(),
            tasks: JoinSet::new(),
        })
    }

    /// Takes a command; never waits.
    pub fn submit(&mut self, command: BrokerCommand) {
        self.devices.command(now(), command);
    }

    /// The next event for the core. Drives the link: it has to be polled all the time. Cancel-safe.
    pub async fn event(&mut self) -> BrokerEvent {
        loop {
            if let Some(event) = self.act() {
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
                while self.act().is_some() {}
                if self.devices.is_empty() && self.tasks.is_empty() {
                    return;
                }
                let input = self.input().await;
                self.take(input);
            }
        };
        if tokio::time::timeout(deadline, leaving).await.is_err() {
            info!("publications were left when the link to the broker was shut down");
        }
    }

    /// Does what the devices want done, up to the next event for the core.
    fn act(&mut self) -> Option<BrokerEvent> {
        while let Some(action) = self.devices.poll_action() {
            match action {
                Action::Dial { connection, target, version } => self.dial(connection, target, version),
                Action::Send { connection, bytes } => {
                    if let Some(outbox) = self.outboxes.get(&connection) {
                        outbox.send(&bytes);
                    }
                }
                Action::Close { connection } => {
                    if let Some(outbox) = self.outboxes.remove(&connection) {
                        outbox.close();
                    }
                }
                Action::HangUp { connection } => {
                    if let Some(outbox) = self.outboxes.remove(&connection) {
                        outbox.abort();
                    }
                }
                Action::Tell(event) => return Some(event),
            }
        }
        None
    }

    async fn input(&mut self) -> Input {
        let deadline = self.devices.next_deadline().map(tokio::time::Instant::from_std);
        let timer = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((connection, event)) = self.events.recv() => Input::Event(connection, event),
            Some(ended) = self.tasks.join_next() => Input::Ended(ended),
            () = timer => Input::Deadline,
        }
    }

    fn take(&mut self, input: Input) {
        let now = now();
        match input {
            Input::Event(connection, Event::Opened) => self.devices.opened(now, connection),
            Input::Event(connection, Event::Heard(packet)) => self.devices.heard(now, connection, packet),
            Input::Event(connection, Event::Written(bytes)) => self.devices.written(now, connection, bytes),
            Input::Event(connection, Event::Ended(why)) => {
                self.outboxes.remove(&connection);
                self.devices.ended(now, connection, &why);
            }
            Input::Ended(Ok(())) => {}
            Input::Ended(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            Input::Deadline => self.devices.handle_timeout(now),
        }
    }

    fn dial(&mut self, connection: ConnectionId, target: Target, version: Version) {
        let (mut referred, address);
        let dialer = match target {
            Target::Configured(broker) => {
                address = self.settings.brokers[broker.0].clone();
                &mut self.dialers[broker.0]
            }
            Target::Referred(server) => {
                address = server;
                referred = Dialer::new(vec![address.clone()], self.settings.source_addresses.clone());
                &mut referred
            }
        };
        let dial = dialer.dial();
        let connector = self.connector.clone();
        let outbox = Arc::new(Outbox::default());
        self.outboxes.insert(connection, outbox.clone());
        let frames = Frames::new(version, self.settings.max_packet_size);
        let teller = Teller { connection, events: self.sender.clone() };
        self.tasks.spawn(async move {
            // What only dialing needs is freed after it.
            let opening = Box::pin(async {
                let stream = dial.await.map_err(|error| error.to_string())?;
                let Some(connector) = connector else { return Ok((stream, None)) };
                Ok((stream, Some((connector, address))))
            });
            let opened: Result<_, String> = tokio::select! {
                opened = opening => opened,
                () = outbox.aborted() => return,
            };
            match opened {
                Ok((stream, None)) => connection::serve(stream, outbox, frames, teller).await,
                Ok((stream, Some((connector, address)))) => {
                    Box::pin(async move {
                        let secured = tokio::select! {
                            secured = connector.connect(&address, stream) => secured,
                            () = outbox.aborted() => return,
                        };
                        match secured {
                            Ok(stream) => connection::serve(stream, outbox, frames, teller).await,
                            Err(error) => teller.tell(Event::Ended(format!("TLS: {error}"))).await,
                        }
                    })
                    .await;
                }
                Err(why) => teller.tell(Event::Ended(why)).await,
            }
        });
    }
}

/// The link's clock: the one place here that reads it.
#[expect(clippy::disallowed_methods, reason = "the driver of the devices' state machine; it gets the time as argument")]
fn now() -> Instant {
    Instant::now()
}
