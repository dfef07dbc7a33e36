//! An upstream that accepts every device and forgets what devices publish: a benchmark measures everything else, with
//! more devices than a process may have connections. No release has it (the Cargo feature `swallow`).
//!
//! The benchmark is the application. It sends datagrams to a Unix socket, each with an endpoint name, a line feed and a
//! command, and gets the answers as datagrams.

use std::collections::{HashMap, VecDeque};
use std::env;
use std::io;
use std::path::PathBuf;

use tokio::net::UnixDatagram;
use tracing::warn;

use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, ClientInfo, MessageProperties, Publication, RegistrationId, UplinkClass,
};

use super::UpstreamTableSizes;

/// The environment variable with the path of the socket. Without it the configured upstream is used.
const PATH: &str = "LWM2M_SWALLOW";
/// The size of the largest command.
const COMMAND_BYTES: usize = 64 * 1024;

/// The devices, and the application that commands them.
pub struct SwallowLink {
    socket: UnixDatagram,
    devices: HashMap<String, SwallowedDevice>,
    endpoints: HashMap<RegistrationId, String>,
    events: VecDeque<BrokerEvent>,
    /// The address of the application, once it has sent a command.
    application: Option<PathBuf>,
    buffer: Vec<u8>,
}

struct SwallowedDevice {
    registration: RegistrationId,
    /// The topic of its commands.
    topic: String,
}

/// Returns the path of the socket, if this upstream is wanted.
pub(super) fn path() -> Option<PathBuf> {
    env::var_os(PATH).map(PathBuf::from)
}

impl SwallowLink {
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        Ok(Self {
            socket: UnixDatagram::bind(path)?,
            devices: HashMap::new(),
            endpoints: HashMap::new(),
            events: VecDeque::new(),
            application: None,
            buffer: vec![0; COMMAND_BYTES],
        })
    }

    pub(crate) fn submit(&mut self, command: BrokerCommand) {
        match command {
            BrokerCommand::Connect { registration, client } | BrokerCommand::Resume { registration, client } => {
                self.connect(registration, client);
            }
            BrokerCommand::Publish { registration, publication } => self.publish(registration, &publication),
            BrokerCommand::SetLifetime { .. } | BrokerCommand::Confirm { .. } => {}
            BrokerCommand::Disconnect { registration }
            | BrokerCommand::HandOver { registration }
            | BrokerCommand::Abandon { registration } => {
                if let Some(endpoint) = self.endpoints.remove(&registration) {
                    self.devices.remove(&endpoint);
                }
            }
        }
    }

    pub(crate) fn table_sizes(&self) -> UpstreamTableSizes {
        UpstreamTableSizes { connected: self.devices.len(), ..UpstreamTableSizes::default() }
    }

    pub(crate) fn poll_event(&mut self) -> Option<BrokerEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let (length, address) = self.socket.try_recv_from(&mut self.buffer).ok()?;
        self.command(length, address.as_pathname().map(PathBuf::from))
    }

    /// Cancel-safe.
    pub(crate) async fn event(&mut self) -> BrokerEvent {
        loop {
            if let Some(event) = self.poll_event() {
                return event;
            }
            if let Err(error) = self.socket.readable().await {
                warn!(%error, "the socket of the benchmark failed");
                std::future::pending().await
            }
        }
    }

    fn connect(&mut self, registration: RegistrationId, client: ClientInfo) {
        let topic = client.command_filter.trim_end_matches("/#").to_owned();
        self.endpoints.insert(registration, client.endpoint.clone());
        self.devices.insert(client.endpoint, SwallowedDevice { registration, topic });
        self.events.push_back(BrokerEvent::Connected { registration });
    }

    fn publish(&mut self, registration: RegistrationId, publication: &Publication) {
        if let Some(ticket) = publication.ticket {
            if publication.class == UplinkClass::Send {
                self.events.push_back(BrokerEvent::Queued { registration, ticket });
            }
            self.events.push_back(BrokerEvent::Published { registration, ticket });
        }
        if let (UplinkClass::Answer, Some(application)) = (publication.class, &self.application)
            && let Err(error) = self.socket.try_send_to(&publication.payload, application)
        {
            warn!(%error, "the benchmark missed an answer");
        }
    }

    fn command(&mut self, length: usize, from: Option<PathBuf>) -> Option<BrokerEvent> {
        let datagram = self.buffer.get(..length)?;
        let end = datagram.iter().position(|byte| *byte == b'\n')?;
        let (endpoint, payload) = (std::str::from_utf8(&datagram[..end]).ok()?, datagram[end + 1..].to_vec());
        let SwallowedDevice { registration, topic } = self.devices.get(endpoint)?;
        self.application = from;
        let (registration, topic) = (*registration, topic.clone());
        let properties = MessageProperties::default();
        Some(BrokerEvent::Message { registration, topic, payload, properties })
    }
}
