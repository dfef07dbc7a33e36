//! Views of registered devices for onlookers: copies without secrets, keys and Locations. No view holds a type that has
//! one.
//!
//! Times are those of the wall clock, since 1970.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::command::Origin;
use crate::lwm2m::model::ObjectVersion;
use crate::lwm2m::path::Path;
use lwm2m_dtls::cipher::Suite;

use crate::gateway::report::command_outcome::CommandOutcome;

/// The maximum number of rows that one page has. The messages of devices wait while a page is made: the bounds of a
/// page keep that below a tenth of a millisecond.
pub const PAGE_ROWS: usize = 50;
/// The maximum number of devices that are looked at for one page.
pub const PAGE_EXAMINED: usize = 500;
/// The maximum number of devices that are looked at for one page that is chosen by the username, which is rendered for
/// each of them.
pub(crate) const PAGE_RENDERED: usize = 125;

/// Asks for devices in the order of their endpoint names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageQuery {
    /// The endpoint name after which the page begins: [`DevicePage::next`] of the page before.
    pub after: Option<String>,
    pub filter: DeviceFilter,
    /// The number of chosen devices that are passed over before the first row.
    pub skip: usize,
    /// Whether the rows have the names of the devices at the broker.
    pub names: bool,
    /// The maximum number of rows. A page never has more than [`PAGE_ROWS`].
    pub limit: usize,
}

/// Chooses devices: those that have all that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    /// The beginning of the endpoint name. Other devices are not looked at.
    pub prefix: String,
    /// Parts of the endpoint name, which has all of them.
    pub name_parts: Vec<String>,
    /// The username at the broker.
    pub username: Option<String>,
    /// A part of the username at the broker.
    pub username_part: Option<String>,
    pub state: Option<WakeState>,
    pub transport: Option<DeviceTransport>,
    /// The LwM2M version as the device announced it.
    pub lwm2m: Option<String>,
    /// The binding as the device announced it.
    pub binding: Option<String>,
    pub lifetime: Option<RangeInclusive<Duration>>,
    /// An object of the object list.
    pub object: Option<u16>,
    /// The address that the device speaks from, at any port.
    pub address: Option<IpAddr>,
    /// The name of the identity that DTLS has authenticated.
    pub identity: Option<String>,
    /// The shortest time since the last message of the device.
    pub silent: Option<Duration>,
    /// Whether only devices with pending commands are chosen.
    pub waiting: bool,
}

/// Some devices, in the order of their endpoint names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePage {
    /// The rows. They may be fewer than asked for, or none, although there are more: see [`DevicePage::next`].
    pub rows: Vec<DeviceRow>,
    /// The endpoint name after which the next page begins; `None` if no device is left.
    pub next: Option<String>,
    /// The number of chosen devices that were passed over, [`PageQuery::skip`] at most.
    pub skipped: usize,
    /// The number of devices that were looked at.
    pub examined: usize,
    /// The number of all registered devices.
    pub total: usize,
}

/// Tells whether a device takes commands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeState {
    Awake,
    /// A device in queue mode whose awake window is over.
    Asleep,
}

/// Tells how a device reaches the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceTransport {
    Udp,
    Dtls,
}

/// A device in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    pub endpoint: String,
    /// `None` if they were not asked for.
    pub names: Option<BrokerNames>,
    pub state: WakeState,
    /// The end of the awake window; `None` for a device that never sleeps.
    pub awake_until: Option<Duration>,
    pub transport: DeviceTransport,
    /// The address that its last message came from.
    pub address: SocketAddr,
    /// The name of the identity that DTLS has authenticated.
    pub identity: Option<String>,
    /// The LwM2M version as the device announced it.
    pub lwm2m: String,
    /// The binding as the device announced it.
    pub binding: Option<String>,
    /// Zero if the device asked for no end.
    pub lifetime: Duration,
    /// The time at which the registration ends without another message.
    pub expires: Duration,
    /// The time of the Register. For a device of an earlier process it is the time of its last message before.
    pub registered: Duration,
    pub last_heard: Duration,
    /// The number of pending commands.
    pub waiting: usize,
    pub in_flight: bool,
    /// The number of observations that the device has accepted.
    pub observations: usize,
}

/// The names of a device at the broker. They follow from the present address if their templates have `${peerhost}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerNames {
    pub username: String,
    /// The beginning of all topics of the device.
    pub mountpoint: String,
}

/// All that is known of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    pub row: DeviceRow,
    /// The alternate path as the device wrote it; `None` if it sent no object list.
    pub alternate_path: Option<String>,
    /// The query items of the Register without meaning for the gateway, such as `imei`. The password is not among them.
    pub items: Vec<(String, String)>,
    /// The client ID at the broker. It follows from the present address if its template has `${peerhost}`.
    pub clientid: String,
    /// The username at the broker. It follows from the present address if its template has `${peerhost}`.
    pub username: String,
    pub topics: TopicNames,
    /// The objects of the object list, in the order of their ids.
    pub objects: Vec<ObjectView>,
    /// The numbers of the content formats that the root link announces.
    pub formats: Vec<u16>,
    /// `None` over plain UDP, and if the association is closed.
    pub dtls: Option<DtlsView>,
    pub in_flight: Option<InFlightView>,
    /// The pending commands, in the order in which they are sent.
    pub waiting: Vec<PendingView>,
    pub observations: Vec<ObservationView>,
}

/// The topics of a device. `command` is a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNames {
    pub command: String,
    pub response: String,
    pub notify: String,
    /// `None` if Send is disabled.
    pub send: Option<String>,
    pub register: String,
    pub update: String,
    pub firmware: String,
    /// `None` if presence is not published.
    pub status: Option<String>,
}

/// An object of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectView {
    pub id: u16,
    pub version: ObjectVersion,
    /// The instances in the object list, in the order of their ids.
    pub instances: Vec<u16>,
}

/// The DTLS association of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DtlsView {
    pub kind: IdentityKind,
    pub suite: Suite,
    /// Whether the records of the device carry a connection ID (RFC 9146), so that it may change its address.
    pub connection_id: bool,
    /// The time of the handshake; `None` for a session of an earlier process.
    pub since: Option<Duration>,
    /// Whether the handshake resumed an earlier session.
    pub resumed: Option<bool>,
}

/// The credentials by which a device has proved its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    PreSharedKey,
    Certificate,
    RawPublicKey,
    /// The device has proved no identity, which the configuration allows.
    Unproved,
}

/// The request of a command, and the origin of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandView {
    /// Names the command among those of this process. A restart gives a pending command another number.
    pub number: u64,
    /// The `msgType`: one of [`crate::command::MSG_TYPES`].
    pub msg_type: &'static str,
    /// The path; those of a composite operation, in its order.
    pub paths: Vec<Path>,
    pub origin: Origin,
    /// The size of the command as it came.
    pub bytes: usize,
}

/// The stage that a command has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandProgress {
    /// The number of its [`CommandView`].
    pub number: u64,
    /// The `msgType`: one of [`crate::command::MSG_TYPES`].
    pub msg_type: &'static str,
    /// The path; those of a composite operation, in its order.
    pub paths: Vec<Path>,
    pub is_composite: bool,
    pub origin: Origin,
    pub stage: CommandStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandStage {
    /// The command waits for its device.
    Pending,
    /// Its request was sent.
    Sent,
    Done {
        outcome: CommandOutcome,
        /// The time from its first datagram to the answer; `None` if the device did not answer.
        took: Option<Duration>,
    },
}

/// The command whose request was sent to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlightView {
    pub command: CommandView,
    /// The time at which the first datagram was sent.
    pub sent: Duration,
    /// Whether the device has acknowledged the request and will answer later.
    pub acknowledged: bool,
}

/// A command that waits for its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingView {
    pub command: CommandView,
    /// The time at which it expires.
    pub expires: Duration,
}

/// An observation that the device has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservationView {
    /// The path of the observation, or all paths of a composite observation in their order.
    pub paths: Vec<Path>,
    pub is_composite: bool,
    pub origin: Origin,
    /// The time at which the device accepted it; `None` for an observation of an earlier process.
    pub since: Option<Duration>,
}
