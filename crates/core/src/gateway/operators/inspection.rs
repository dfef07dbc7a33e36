//! Makes the views of devices: copies of what their owners hold. It changes nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::command::Command;
use crate::lwm2m::operation::OperationKind;
use crate::lwm2m::path::Path;
use crate::lwm2m::register::Registration;
use crate::registry::{Device, InFlight, Observation, ObservedPaths, PendingCommand, Registry, Topics};
use lwm2m_base::AssociationId;
use lwm2m_base::identity::Identity;

use super::view::{
    BrokerNames, CommandProgress, CommandStage, CommandView, DeviceFilter, DevicePage, DeviceRow, DeviceTransport,
    DeviceView, DtlsView, IdentityKind, InFlightView, ObjectView, ObservationView, PAGE_EXAMINED, PAGE_RENDERED,
    PAGE_ROWS, PageQuery, PendingView, TopicNames, WakeState,
};
use crate::gateway::client::{allowed_silence, broker_names, client};
use crate::gateway::context::Context;

/// Returns the devices that the query asks for, as far as the bounds of one page allow.
pub(super) fn page(context: &Context, registry: &Registry, query: &PageQuery) -> DevicePage {
    let PageQuery { after, filter, skip, names, limit } = query;
    let most = (*limit).clamp(1, PAGE_ROWS);
    let is_rendered = filter.username.is_some() || filter.username_part.is_some();
    let most_examined = if is_rendered { PAGE_RENDERED } else { PAGE_EXAMINED };
    let (mut rows, mut skipped, mut examined, mut last) = (Vec::new(), 0, 0, None);
    let mut named = registry.names_in_order(after.as_deref(), &filter.prefix);
    while rows.len() < most && examined < most_examined {
        last = named.next();
        let Some((name, id)) = last else { break };
        examined += 1;
        if !filter.name_parts.iter().all(|part| name.contains(part.as_str())) {
            continue;
        }
        let Some(device) = registry.device(id).filter(|device| is_chosen(filter, context, device)) else { continue };
        if skipped < *skip {
            skipped += 1;
        } else {
            let names = names.then(|| broker_names_of(context, device));
            rows.push(DeviceRow { names, ..row(context, device) });
        }
    }
    let next = last.map(|(name, _)| name.to_owned());
    DevicePage { rows, next, skipped, examined, total: registry.len() }
}

pub(super) fn device(context: &Context, device: &Device) -> DeviceView {
    let registration = &device.registration;
    // The names of a device were valid when it registered. With its present address they may be invalid.
    let names = client(&context.config, registration, device.peer, device.identity.as_deref());
    let (clientid, username) = match names {
        Ok((client, _)) => (client.clientid, client.username),
        Err(_) => (registration.endpoint.clone(), registration.endpoint.clone()),
    };
    DeviceView {
        row: row(context, device),
        alternate_path: registration.alternate_path().map(str::to_owned),
        items: registration.items().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        clientid,
        username,
        topics: topic_names(&device.topics),
        objects: objects(registration),
        formats: registration.formats().iter().map(|format| format.number()).collect(),
        dtls: device.peer.association.and_then(|association| dtls(context, association)),
        in_flight: device.in_flight().map(|in_flight| in_flight_view(context, in_flight)),
        waiting: device.waiting.iter().map(|waiting| pending_view(context, waiting)).collect(),
        observations: device
            .observations
            .iter()
            .map(|(_, observation)| observation_view(context, observation))
            .collect(),
    }
}

pub(super) fn row(context: &Context, device: &Device) -> DeviceRow {
    let unix_time = |at| context.wall_clock.unix_time(at);
    let registration = &device.registration;
    DeviceRow {
        endpoint: registration.endpoint.clone(),
        names: None,
        state: state(context.now, device),
        awake_until: device.awake_until().map(unix_time),
        transport: transport(device),
        address: device.peer.address,
        identity: device.identity.as_ref().and_then(|identity| identity.name()).map(str::to_owned),
        lwm2m: registration.version().to_owned(),
        binding: registration.binding().map(str::to_owned),
        lifetime: registration.lifetime,
        expires: unix_time(device.last_heard() + allowed_silence(&context.config, registration)),
        registered: unix_time(device.registered()),
        last_heard: unix_time(device.last_heard()),
        waiting: device.waiting.len(),
        in_flight: device.in_flight().is_some(),
        observations: device.observations.iter().count(),
    }
}

fn is_chosen(filter: &DeviceFilter, context: &Context, device: &Device) -> bool {
    // Prefix and name parts were applied to the endpoint name before.
    let DeviceFilter { prefix: _, name_parts: _, username, username_part, state: awake, transport: by, .. } = filter;
    let DeviceFilter { lwm2m, binding, lifetime, object, address, identity, silent, waiting, .. } = filter;
    let (registration, now) = (&device.registration, context.now);
    let name = || device.identity.as_ref().and_then(|identity| identity.name());
    awake.is_none_or(|wanted| state(now, device) == wanted)
        && by.is_none_or(|wanted| transport(device) == wanted)
        && lwm2m.as_ref().is_none_or(|wanted| registration.version() == wanted)
        && binding.as_ref().is_none_or(|wanted| registration.binding() == Some(wanted.as_str()))
        && lifetime.as_ref().is_none_or(|wanted| wanted.contains(&registration.lifetime))
        && address.is_none_or(|wanted| device.peer.address.ip() == wanted)
        && identity.as_ref().is_none_or(|wanted| name() == Some(wanted.as_str()))
        && silent.is_none_or(|least| now.saturating_duration_since(device.last_heard()) >= least)
        && (!waiting || !device.waiting.is_empty())
        && object.is_none_or(|wanted| registration.object_paths().any(|path| path.object() == Some(wanted)))
        && has_username(context, device, username.as_deref(), username_part.as_deref())
}

fn has_username(context: &Context, device: &Device, whole: Option<&str>, part: Option<&str>) -> bool {
    if whole.is_none() && part.is_none() {
        return true;
    }
    let username = broker_names_of(context, device).username;
    whole.is_none_or(|whole| whole == username) && part.is_none_or(|part| username.contains(part))
}

fn broker_names_of(context: &Context, device: &Device) -> BrokerNames {
    broker_names(&context.config, &device.registration, device.peer, device.identity.as_deref())
}

pub(in crate::gateway) fn state(now: Instant, device: &Device) -> WakeState {
    if device.is_awake(now) { WakeState::Awake } else { WakeState::Asleep }
}

fn transport(device: &Device) -> DeviceTransport {
    if device.peer.association.is_some() { DeviceTransport::Dtls } else { DeviceTransport::Udp }
}

fn topic_names(topics: &Topics) -> TopicNames {
    TopicNames {
        command: topics.command().name,
        response: topics.response().name,
        notify: topics.notify().name,
        send: topics.send().map(|topic| topic.name),
        register: topics.register().name,
        update: topics.update().name,
        firmware: topics.firmware().name,
        status: topics.status().map(|topic| topic.name),
    }
}

fn objects(registration: &Registration) -> Vec<ObjectView> {
    let mut instances: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
    for path in registration.object_paths() {
        let Some(object) = path.object() else { continue };
        instances.entry(object).or_default().extend(path.instance());
    }
    let views = instances.into_iter().map(|(id, mut instances)| {
        instances.sort_unstable();
        instances.dedup();
        ObjectView { id, version: registration.object_version(id), instances }
    });
    views.collect()
}

fn dtls(context: &Context, association: AssociationId) -> Option<DtlsView> {
    let facts = context.dtls.as_ref()?.server.facts(association)?;
    let kind = match context.dtls.as_ref()?.server.identity(association)?.as_ref() {
        Identity::Psk(_) => IdentityKind::PreSharedKey,
        Identity::Certificate { .. } => IdentityKind::Certificate,
        Identity::RawPublicKey { .. } => IdentityKind::RawPublicKey,
        Identity::Unknown => IdentityKind::Unproved,
    };
    Some(DtlsView {
        kind,
        suite: facts.suite,
        connection_id: facts.connection_id,
        since: facts.handshake.map(|handshake| context.wall_clock.unix_time(handshake.at)),
        resumed: facts.handshake.map(|handshake| handshake.resumed),
    })
}

fn in_flight_view(context: &Context, in_flight: &InFlight) -> InFlightView {
    let InFlight { command, sent, acknowledged, room, .. } = in_flight;
    InFlightView {
        command: command_view(command, room.bytes()),
        sent: context.wall_clock.unix_time(*sent),
        acknowledged: *acknowledged,
    }
}

fn pending_view(context: &Context, waiting: &PendingCommand) -> PendingView {
    let PendingCommand { command, expires, room, .. } = waiting;
    PendingView { command: command_view(command, room.bytes()), expires: context.wall_clock.unix_time(*expires) }
}

fn command_view(command: &Command, bytes: usize) -> CommandView {
    let paths = paths(command);
    CommandView { number: command.number, msg_type: command.msg_type(), paths, origin: command.origin.clone(), bytes }
}

/// Returns the report for onlookers that a command has reached this stage.
pub(in crate::gateway) fn progress(command: &Command, stage: CommandStage) -> CommandProgress {
    CommandProgress {
        number: command.number,
        msg_type: command.msg_type(),
        paths: paths(command),
        is_composite: command.operation.kind.is_composite(),
        origin: command.origin.clone(),
        stage,
    }
}

pub(super) fn paths(command: &Command) -> Vec<Path> {
    match &command.operation.kind {
        OperationKind::ReadComposite { paths }
        | OperationKind::ObserveComposite { paths }
        | OperationKind::CancelObserveComposite { paths } => paths.clone(),
        OperationKind::WriteComposite { patches } => patches.iter().map(|patch| patch.path).collect(),
        OperationKind::Read
        | OperationKind::Discover
        | OperationKind::Write { .. }
        | OperationKind::WriteAttributes
        | OperationKind::Execute { .. }
        | OperationKind::TriggerBootstrap
        | OperationKind::Create { .. }
        | OperationKind::Delete
        | OperationKind::Observe
        | OperationKind::CancelObserve => vec![command.operation.path],
    }
}

/// Returns the path of a command, or the paths of a composite one with commas between them.
pub(in crate::gateway) fn path_words(command: &Command) -> String {
    paths(command).iter().map(Path::to_string).collect::<Vec<_>>().join(",")
}

fn observation_view(context: &Context, observation: &Observation) -> ObservationView {
    let (paths, is_composite) = match &observation.paths {
        ObservedPaths::Single(path) | ObservedPaths::Firmware(path) => (vec![*path], false),
        ObservedPaths::Composite(paths) => (paths.iter().copied().collect(), true),
    };
    let since = observation.since.map(|since| context.wall_clock.unix_time(since));
    ObservationView { paths, is_composite, origin: observation.command.origin.clone(), since }
}
