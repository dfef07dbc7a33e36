//! The shapes of devices in the API. They are types of their own, without members for keys, passwords and Locations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::unix_time;
use crate::observability::log::reasons::suite_name;
use lwm2m_core::command::Origin;
use lwm2m_core::gateway::operators::view::{
    CommandView, DeviceRow, DeviceTransport, DeviceView, DtlsView, IdentityKind, InFlightView, ObjectView,
    ObservationView, PendingView, TopicNames, WakeState,
};
use lwm2m_core::lwm2m::model::Model;

use crate::console::time::Timestamp;

/// Some devices, in the order of their endpoint names.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeviceList {
    pub devices: Vec<DeviceListRow>,
    /// The parameter `cursor` of the next request; null at the end.
    #[schema(required)]
    pub next: Option<String>,
    /// Number of devices that were looked at.
    pub examined: usize,
    /// Number of all registered devices; 0 for a token with a prefix.
    pub total: usize,
}

/// A device in a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceListRow {
    #[serde(flatten)]
    facts: DeviceFacts,
    /// Whether a request was sent to the device and is not answered yet.
    in_flight: bool,
}

/// The facts of a registration.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceFacts {
    endpoint: String,
    state: DeviceState,
    /// End of the awake window; absent for a device that never sleeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    awake_until: Option<Timestamp>,
    transport: Transport,
    /// The address that the last message came from.
    #[schema(example = "10.0.0.9:56830")]
    address: String,
    /// The identity that DTLS has authenticated.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[schema(example = "1.1")]
    lwm2m: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "UQ")]
    binding: Option<String>,
    /// Lifetime of the registration in seconds.
    lifetime: u64,
    /// End of the registration without another message.
    expires: Timestamp,
    registered: Timestamp,
    last_heard: Timestamp,
    /// Number of pending commands.
    waiting: usize,
    /// Number of observations.
    observations: usize,
}

/// `asleep`: a device in queue mode whose awake window is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = State)]
pub(crate) enum DeviceState {
    Awake,
    Asleep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Udp,
    Dtls,
}

/// Everything that is known of a device.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Device)]
pub(crate) struct DeviceDocument {
    #[serde(flatten)]
    facts: DeviceFacts,
    /// The path that all paths of the device begin with.
    alternate_path: String,
    /// Further query items of the Register, such as `imei`.
    items: BTreeMap<String, String>,
    /// Client ID at the broker.
    clientid: String,
    username: String,
    /// Topics by their purpose. That of commands is a filter.
    topics: BTreeMap<&'static str, String>,
    objects: Vec<DeviceObject>,
    /// Numbers of the content formats that the device announces.
    formats: Vec<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dtls: Option<DeviceSession>,
    /// The command that was sent to the device and is not answered yet.
    #[schema(required)]
    in_flight: Option<SentCommand>,
    /// Pending commands, in the order in which they are sent.
    queue: Vec<PendingCommandDocument>,
    observed: Vec<ObservationDocument>,
}

/// An object of the object list.
#[derive(Debug, Serialize, ToSchema)]
struct DeviceObject {
    id: u16,
    /// The version that applies to it.
    version: String,
    instances: Vec<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Whether the gateway has a definition that applies to this version.
    defined: bool,
    /// The version of that definition: another one of the same major number applies as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<String>,
}

/// The DTLS session of a device.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeviceSession {
    /// `psk`, `certificate`, `rpk` or `none`.
    kind: &'static str,
    #[schema(example = "AES_128_CCM_8")]
    suite: &'static str,
    /// Whether the device may change its address.
    connection_id: bool,
    /// Time of the handshake; absent for a session from before the start of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// Whether the handshake resumed an earlier session; absent together with `since`.
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
}

/// A command.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CommandFacts {
    number: u64,
    #[schema(example = "read")]
    msg_type: &'static str,
    /// The path; absent for a composite command.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The paths of a composite command.
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
    /// Size of the command, in bytes.
    bytes: usize,
    /// `mqtt`, `auto_observe`, or `console:` and the name of a token.
    by: String,
}

/// A command that waits for its device.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PendingCommand)]
struct PendingCommandDocument {
    #[serde(flatten)]
    facts: CommandFacts,
    /// Time at which the command is refused if it was not sent before.
    expires: Timestamp,
}

/// A command that was sent.
#[derive(Debug, Serialize, ToSchema)]
struct SentCommand {
    #[serde(flatten)]
    facts: CommandFacts,
    sent: Timestamp,
    /// Time since it was sent, in seconds.
    #[serde(rename = "for")]
    since: f64,
    /// Whether the device has acknowledged it and will answer later.
    acknowledged: bool,
}

/// An observation that the device has accepted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Observation)]
struct ObservationDocument {
    /// The path; absent for a composite observation.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
    /// `mqtt`, `auto_observe`, or `console:` and the name of a token.
    by: String,
    /// Time at which the device accepted it; absent for an observation from before the start of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

impl From<DeviceRow> for DeviceListRow {
    fn from(row: DeviceRow) -> Self {
        Self { in_flight: row.in_flight, facts: DeviceFacts::from(row) }
    }
}

impl From<DeviceRow> for DeviceFacts {
    fn from(row: DeviceRow) -> Self {
        Self {
            endpoint: row.endpoint,
            state: match row.state {
                WakeState::Awake => DeviceState::Awake,
                WakeState::Asleep => DeviceState::Asleep,
            },
            awake_until: row.awake_until.map(Timestamp),
            transport: match row.transport {
                DeviceTransport::Udp => Transport::Udp,
                DeviceTransport::Dtls => Transport::Dtls,
            },
            address: row.address.to_string(),
            identity: row.identity,
            lwm2m: row.lwm2m,
            binding: row.binding,
            lifetime: row.lifetime.as_secs(),
            expires: Timestamp(row.expires),
            registered: Timestamp(row.registered),
            last_heard: Timestamp(row.last_heard),
            waiting: row.waiting,
            observations: row.observations,
        }
    }
}

impl DeviceDocument {
    /// Adds the names of the definitions to the view of the core.
    pub(super) fn of(view: DeviceView, model: &Model) -> Self {
        Self {
            facts: view.row.into(),
            alternate_path: view.alternate_path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned()),
            items: view.items.into_iter().collect(),
            clientid: view.clientid,
            username: view.username,
            topics: topics(view.topics),
            objects: view.objects.into_iter().map(|object| DeviceObject::of(object, model)).collect(),
            formats: view.formats,
            dtls: view.dtls.map(DeviceSession::from),
            in_flight: view.in_flight.map(SentCommand::from),
            queue: view.waiting.into_iter().map(PendingCommandDocument::from).collect(),
            observed: view.observations.into_iter().map(ObservationDocument::from).collect(),
        }
    }
}

impl DeviceObject {
    fn of(object: ObjectView, model: &Model) -> Self {
        let definition = model.object(object.id, object.version);
        Self {
            id: object.id,
            version: object.version.version().to_string(),
            instances: object.instances,
            name: definition.map(|definition| definition.name.clone()),
            defined: definition.is_some(),
            definition: definition.map(|definition| definition.version.to_string()),
        }
    }
}

impl From<DtlsView> for DeviceSession {
    fn from(view: DtlsView) -> Self {
        let kind = match view.kind {
            IdentityKind::PreSharedKey => "psk",
            IdentityKind::Certificate => "certificate",
            IdentityKind::RawPublicKey => "rpk",
            IdentityKind::Unproved => "none",
        };
        Self {
            kind,
            suite: suite_name(view.suite),
            connection_id: view.connection_id,
            since: view.since.map(Timestamp),
            resumed: view.resumed,
        }
    }
}

impl From<CommandView> for CommandFacts {
    fn from(view: CommandView) -> Self {
        let is_composite = view.msg_type.ends_with("composite");
        let mut paths: Vec<String> = view.paths.iter().map(ToString::to_string).collect();
        Self {
            number: view.number,
            msg_type: view.msg_type,
            path: if is_composite { None } else { paths.pop() },
            paths: is_composite.then_some(paths),
            bytes: view.bytes,
            by: author(&view.origin),
        }
    }
}

impl From<PendingView> for PendingCommandDocument {
    fn from(view: PendingView) -> Self {
        Self { facts: view.command.into(), expires: Timestamp(view.expires) }
    }
}

impl From<InFlightView> for SentCommand {
    fn from(view: InFlightView) -> Self {
        let since = unix_time().unwrap_or(view.sent).saturating_sub(view.sent);
        Self {
            facts: view.command.into(),
            sent: Timestamp(view.sent),
            since: since.as_secs_f64(),
            acknowledged: view.acknowledged,
        }
    }
}

impl From<ObservationView> for ObservationDocument {
    fn from(view: ObservationView) -> Self {
        let mut paths: Vec<String> = view.paths.iter().map(ToString::to_string).collect();
        Self {
            path: if view.is_composite { None } else { paths.pop() },
            paths: view.is_composite.then_some(paths),
            by: author(&view.origin),
            since: view.since.map(Timestamp),
        }
    }
}

fn topics(topics: TopicNames) -> BTreeMap<&'static str, String> {
    let TopicNames { command, response, notify, send, register, update, firmware, status } = topics;
    let always = [("command", command), ("response", response), ("notify", notify)];
    let mut names = BTreeMap::from(always);
    names.extend([("register", register), ("update", update), ("firmware", firmware)]);
    names.extend(send.map(|send| ("send", send)));
    names.extend(status.map(|status| ("status", status)));
    names
}

/// Returns the origin of a command: `mqtt`, `auto_observe`, `firmware`, or `console:` and the name of a token.
pub(crate) fn author(origin: &Origin) -> String {
    match origin {
        Origin::Application => "mqtt".to_owned(),
        Origin::AutoObserve => "auto_observe".to_owned(),
        Origin::Firmware => "firmware".to_owned(),
        Origin::Campaign => "campaign".to_owned(),
        Origin::Console(console) => format!("console:{}", console.user),
    }
}
