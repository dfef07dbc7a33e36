//! The configuration of the core. The program's own `config` module reads it from the file and checks it.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::bootstrap::EndpointPattern;
use crate::coap::Parameters;
use crate::lwm2m::codec::UndefinedResources;
use crate::lwm2m::path::Path;
use crate::lwm2m::register::RegistrationRules;
use crate::mqtt::topics::{Template, Translators};
use lwm2m_base::rate::{Rate, RateLimit};
use lwm2m_dtls::credentials::KeyRealm;

use super::broker::BrokerLogin;
use super::firmware::config::FirmwareConfig;
use super::identity::IdentityRule;

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The divisor for the requests that may wait until the shell has read an image: one in this many of the requests that
/// the CoAP endpoint holds.
const IMAGE_READERS_SHARE: usize = 4;

/// The `apn` values of devices that EMQX's gateway treats as devices in queue mode.
const POWER_SAVING_APN: [&str; 4] = ["Ctnb", "psmA.eDRX0.ctnb", "psmC.eDRX0.ctnb", "psmF.eDRXC.ctnb"];

#[derive(Clone, Debug)]
pub struct GatewayConfig {
    pub coap: Parameters,
    /// `lifetime_min` to `lifetime_max`.
    pub lifetimes: RangeInclusive<Duration>,
    pub translators: Translators,
    /// The client at the broker that publishes `offline` for devices whose session the broker has ended; `None` if
    /// there is none.
    pub status_login: Option<BrokerLogin>,
    pub client: ClientTemplates,
    /// The time for which a device in queue mode counts as awake after its last message.
    pub awake_window: Duration,
    /// Values of the query item `apn` that mean queue mode.
    pub qmode_apn: Vec<String>,
    pub auto_observe: AutoObserve,
    /// Whether `auto_observe` asks devices of LwM2M 1.1 and newer for composite observations.
    pub auto_observe_composite: bool,
    pub update_msg_publish_condition: UpdatePublish,
    pub undefined_resources: UndefinedResources,
    /// Whether the reports `register` and `update` contain the attributes of the links.
    pub report_attributes: bool,
    /// The endpoint names that a DTLS identity may use.
    pub identity: IdentityRule,
    /// Whether a name that has a pre-shared key of its own may be registered over plain UDP.
    pub plain_udp_for_psk_devices: bool,
    /// Whether the reports `register` and `update` contain the authenticated identity.
    pub report_identity: bool,
    /// Whether the answers to the console's commands are published like those of applications. Notifications always
    /// are.
    pub publish_console_answers: bool,
    pub firmware: FirmwareConfig,
    /// The role of each socket, by number. A socket beyond the list is for everything.
    pub roles: Vec<SocketRole>,
    /// `None` if there is no bootstrap server.
    pub bootstrap: Option<BootstrapConfig>,
    pub limits: Limits,
}

/// The role of a socket: the requests that devices may send to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SocketRole {
    /// Registrations, and bootstrap if there is a bootstrap server.
    #[default]
    All,
    Registration,
    Bootstrap,
}

/// The settings of the bootstrap server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapConfig {
    /// The maximum duration of a session.
    pub session_timeout: Duration,
    /// The maximum number of sessions at a time. Sessions over plain UDP can take half of them.
    pub sessions: usize,
    /// The maximum number of keys that are generated for devices.
    pub generated_keys: usize,
    /// The endpoint names that a DTLS identity may ask bootstrap for.
    pub identity: IdentityRule,
    /// The names of the certificates and raw public keys that are for bootstrap only.
    pub certificates: Vec<EndpointPattern>,
    /// The client at the broker that receives accounts; `None` if all accounts are in the file.
    pub login: Option<BrokerLogin>,
}

impl SocketRole {
    pub fn serves_registrations(self) -> bool {
        matches!(self, Self::All | Self::Registration)
    }

    pub fn serves_bootstrap(self) -> bool {
        matches!(self, Self::All | Self::Bootstrap)
    }

    /// Returns the realm of the keys of sockets with this role.
    pub fn realm(self) -> KeyRealm {
        KeyRealm(match self {
            Self::All => 0,
            Self::Registration => 1,
            Self::Bootstrap => 2,
        })
    }

    /// Returns the role of the sockets of a realm.
    pub fn of_realm(realm: KeyRealm) -> Self {
        [Self::Registration, Self::Bootstrap].into_iter().find(|role| role.realm() == realm).unwrap_or_default()
    }
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(240),
            sessions: 1_000,
            generated_keys: 100_000,
            identity: IdentityRule::default(),
            certificates: Vec::new(),
            login: None,
        }
    }
}

/// The defaults. The program's configuration reads them from here.
impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            coap: Parameters::default(),
            lifetimes: SECOND..=10 * YEAR,
            translators: Translators::default(),
            status_login: None,
            client: ClientTemplates::default(),
            awake_window: 22 * SECOND,
            qmode_apn: POWER_SAVING_APN.map(str::to_owned).to_vec(),
            auto_observe: AutoObserve::Off,
            auto_observe_composite: false,
            update_msg_publish_condition: UpdatePublish::ObjectListChanged,
            undefined_resources: UndefinedResources::Refuse,
            report_attributes: false,
            identity: IdentityRule::default(),
            report_identity: false,
            publish_console_answers: true,
            plain_udp_for_psk_devices: false,
            firmware: FirmwareConfig::default(),
            roles: Vec::new(),
            bootstrap: None,
            limits: Limits::default(),
        }
    }
}

impl GatewayConfig {
    /// Returns what devices may do at a socket.
    pub(super) fn role_of(&self, socket: u16) -> SocketRole {
        self.roles.get(usize::from(socket)).copied().unwrap_or_default()
    }

    /// Returns the settings by which Registers and Updates are read.
    pub(super) fn registration_rules(&self) -> RegistrationRules<'_> {
        RegistrationRules { lifetimes: &self.lifetimes, keep_attributes: self.report_attributes }
    }

    /// Returns how many readers of firmware images may wait for the shell.
    pub(super) fn image_readers(&self) -> usize {
        let room = self.coap.pending_requests.saturating_sub(self.limits.pending_registrations);
        (room / IMAGE_READERS_SHARE).max(1)
    }
}

/// The client ID, username and password of a device at the broker. An empty client ID or username is replaced by the
/// endpoint name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTemplates {
    pub clientid: Template,
    pub username: Template,
    /// The query item that holds the password.
    pub password: PasswordSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    None,
    /// The query item `password`.
    QueryItem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AutoObserve {
    Off,
    /// Every instance of the list, or the object where the list has no instance of it, if there is a definition; but
    /// not the objects 0, 1, 2, 4, 5, 6, 7, 9, 15.
    On,
    Paths(Vec<Path>),
}

impl Default for ClientTemplates {
    fn default() -> Self {
        let template = |text| Template::for_client(text).expect("a default is a template");
        Self {
            clientid: template("${endpoint_name}"),
            username: template("${imei}"),
            password: PasswordSource::QueryItem,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdatePublish {
    ObjectListChanged,
    ContainsObjectList,
    Always,
}

/// Bounds on what devices and unregistered peers can make grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Registered devices and pending registrations.
    pub devices: usize,
    /// Pending registrations. The number is below [`Parameters::pending_requests`], so that the requests of registered
    /// devices always have room.
    pub pending_registrations: usize,
    /// Registers of devices that are not registered at the address they come from.
    pub registers: RateLimit,
    /// The rate limit of all other messages from unregistered peers.
    pub unregistered: RateLimit,
    /// Bytes that are kept of one registration: its object list with attributes, and its query items.
    pub registration_size: usize,
    /// Profile IDs whose object list is kept.
    pub profiles: usize,
    /// The rate limit of one registered device, apart from its answers to commands.
    pub registered: Rate,
    /// Commands that wait for one device.
    pub pending_commands: usize,
    /// Bytes of the commands that wait for one device. A device without a pending command can always get one.
    pub pending_command_bytes: usize,
    /// Bytes of the commands of all devices: those that wait and those that are in flight. Beyond it none may wait.
    pub pending_command_bytes_total: usize,
    /// The time that a command without `ttl` may wait.
    pub command_expiry: Duration,
    /// Firmware updates of all devices, including those that have ended but whose device has not registered again.
    pub firmware_jobs: usize,
    /// Observations of one device.
    pub observations: usize,
    /// Limits the paths of one composite operation.
    pub composite_paths: usize,
    /// Limits the entries of one payload of a device.
    pub entries: usize,
    /// Bytes of a body that is sent to a device.
    pub sent_body_size: usize,
    /// Bytes of one command from the broker.
    pub command_size: usize,
    /// `Max-Age` of a 5.03: when a device may try again.
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            devices: 100_000,
            pending_registrations: 10_000,
            // After a power cut a whole fleet comes back within seconds, thousands of it behind one NAT address.
            registers: RateLimit {
                total: Rate { per_second: 2_000, burst: 20_000 },
                address: Rate { per_second: 1_000, burst: 10_000 },
            },
            // After a restart that forgot the devices, each of them needs one 4.04 to register anew.
            unregistered: RateLimit {
                total: Rate { per_second: 4_000, burst: 20_000 },
                address: Rate { per_second: 1_000, burst: 10_000 },
            },
            registration_size: 16 * 1024,
            profiles: 1000,
            // A device that notifies of every sample sends some hundreds a second.
            registered: Rate { per_second: 1_000, burst: 2_000 },
            pending_commands: 64,
            pending_command_bytes: 8 * 1024 * 1024,
            pending_command_bytes_total: 512 * 1024 * 1024,
            command_expiry: Duration::from_secs(24 * 3600),
            firmware_jobs: 100_000,
            observations: 128,
            composite_paths: 128,
            entries: 10_000,
            sent_body_size: 4 * 1024 * 1024,
            command_size: 6 * 1024 * 1024,
            retry_after: Duration::from_secs(30),
        }
    }
}
