//! Moves of devices between gateways: those of the driver threads of one program, and those of the nodes of a cluster.
//!
//! A device that makes a new handshake, or registers again from another address, may reach another gateway than the one
//! that has it. It moves there, with its observations and its pending commands:
//!
//! 1. The new gateway asks which gateway has the device, by [`Output::Claim`]. Meanwhile the Register is pending, as
//!    while it waits for the broker; other messages of the peer are kept.
//! 2. The shell looks into the table of endpoint names. If no gateway has the device, or if the new one has it, it
//!    answers at once. Otherwise it passes the question to the gateway that has the device: [`Gateway::release`].
//! 3. That gateway checks that the peer may have the device, and removes it. It informs neither the device nor the
//!    broker of that.
//! 4. The shell writes the new gateway into the table of endpoint names and passes the device on:
//!    [`Gateway::handle_claim`]. The new gateway continues the device as after a restart, and handles what has waited.
//! 5. The new gateway's record of the device is stored. Then the old gateway removes its own, by
//!    [`Gateway::handed_over`]. If the program ends before, there are two records: the one with the latest message of
//!    the device is valid ([`newest_records`]).
//!
//! Between the gateways of one process no device is lost if the shell reserves the place in the channel before step 3:
//! at any time a device is at one gateway, or on its way to one.
//!
//! A gateway that is the only one asks no questions: [`Gateway::share_endpoints`] switches them on.

pub mod claims;
pub mod shards;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::coap::options::number;
use crate::coap::{Code, Message};
use crate::registry::Location;
use lwm2m_base::identity::Identity;
use lwm2m_base::{Peer, Shard};

use super::Gateway;
use super::context::Context;
use super::output::Output;
use super::persistence::record::DeviceRecord;
use super::persistence::restart::{Restoration, take_up};
use super::registrations::Registrations;
use super::registrations::send_request;
use super::report::Report;

use claims::{ClaimAnswer, ClaimPurpose, ClaimQuestion, DeviceName, KeepResult, MovedDevice};

/// Moves of devices.
impl Gateway {
    /// Makes the gateway ask the shell for each device that it does not have. A shell with one gateway does not call
    /// this.
    pub fn share_endpoints(&mut self) {
        self.context.claims.enabled = true;
    }

    /// Takes the answer to [`Output::Claim`]. Each question is answered once.
    pub fn handle_claim(&mut self, now: Instant, question: ClaimQuestion, answer: ClaimAnswer) {
        let Self { context, registrations, .. } = self;
        context.now = now;
        let (moved, answer) = match answer {
            ClaimAnswer::Arrived(moved) => (Some(*moved), ClaimAnswer::Mine),
            ClaimAnswer::Mine | ClaimAnswer::Absent | ClaimAnswer::Forbidden(_) | ClaimAnswer::Unknown => {
                (None, answer)
            }
        };
        let restoration = moved.and_then(|moved| adopt(context, registrations, moved, question.peer));
        match (question.purpose, question.device) {
            (ClaimPurpose::Register, DeviceName::Endpoint(endpoint)) => {
                registrations.claimed(context, (&endpoint, question.peer), answer);
            }
            (ClaimPurpose::Register, DeviceName::Location(_))
            | (ClaimPurpose::Request | ClaimPurpose::Handshake, _) => {}
        }
        if let Some(restoration) = restoration {
            registrations.resume(context, restoration);
        }
        if question.purpose != ClaimPurpose::Register {
            for message in self.context.claims.answered(question.peer) {
                self.admit(question.peer, Message::decode(&message), &message);
            }
        }
        self.handle_coap();
    }

    /// Gives a device away, if this gateway has it and the peer of the question may have it. Afterwards the gateway
    /// does not know the device. The shell carries out all outputs before it passes the device on.
    pub fn release(&mut self, now: Instant, question: &ClaimQuestion) -> ClaimAnswer {
        self.context.now = now;
        let Self { context, registrations, .. } = self;
        let answer = match registrations.release(context, question) {
            Ok(moved) => ClaimAnswer::Arrived(Box::new(moved)),
            Err(Some(reason)) => ClaimAnswer::Forbidden(reason),
            Err(None) => ClaimAnswer::Absent,
        };
        self.handle_coap();
        answer
    }

    /// Removes the record of a device that was given away: the store has that of the other gateway. If the device has
    /// come back meanwhile, its record stays.
    pub fn handed_over(&mut self, endpoint: &str) {
        self.context.changes.mark(endpoint);
    }

    /// Serves a device again that was released, and that nobody has taken.
    pub fn take_back(&mut self, now: Instant, moved: MovedDevice) {
        let MovedDevice { record, retained, job } = moved;
        self.context.now = now;
        self.registrations.devices_mut().commands_mut().retained.adopt(retained);
        self.restore_devices(vec![record], usize::MAX);
        if let Some(job) = job {
            self.registrations.devices_mut().restore_job(&mut self.context, job);
        }
        self.handle_coap();
    }

    /// Removes the record of a device in a shard: another shard has the device.
    pub fn remove_record(&mut self, endpoint: &str, shard: Shard) {
        self.context.changes.mark_left(endpoint, Some(shard));
    }

    /// Returns whether a device of this name is registered.
    pub fn is_registered(&self, endpoint: &str) -> bool {
        self.registrations.devices().registry().id_by_endpoint(endpoint).is_some()
    }

    /// Returns whether a device of this name is registered, or about to be.
    pub fn has_endpoint(&self, endpoint: &str) -> bool {
        self.registrations.has_endpoint(endpoint)
    }

    /// Returns whether a device speaks from this address, by a registration over plain UDP or by a DTLS association.
    pub fn has_device_at(&self, peer: Peer) -> bool {
        match self.context.dtls.as_ref().filter(|dtls| dtls.serves(peer)) {
            Some(dtls) => dtls.server.has_association_at(peer.socket, peer.address),
            None => self.registrations.devices().registry().is_known(peer),
        }
    }

    /// Returns the shard of the device that speaks from this address, by a DTLS association, also one with a connection
    /// ID, or by a registration over plain UDP.
    pub fn shard_at(&self, peer: Peer) -> Option<Shard> {
        match self.context.dtls.as_ref().filter(|dtls| dtls.serves(peer)) {
            Some(dtls) => dtls.server.shard_at(peer.socket, peer.address),
            None => self.registrations.devices().registry().at(peer).find_map(|device| {
                // The locations that the gateway assigns name a shard.
                Shard::of_text(device.location.as_str().as_bytes())
            }),
        }
    }

    /// Returns whether a device of this shard speaks from this address, as [`Gateway::shard_at`] finds it. Several devices
    /// over plain UDP may have one address.
    pub fn has_device_of(&self, peer: Peer, shard: Shard) -> bool {
        match self.context.dtls.as_ref().filter(|dtls| dtls.serves(peer)) {
            Some(dtls) => dtls.server.shard_at(peer.socket, peer.address) == Some(shard),
            None => self.registrations.devices().registry().at(peer).any(|device| device.shard() == shard),
        }
    }

    /// Returns when the last message that cannot be forged came from this address: an authentic record of a DTLS
    /// association, or over plain UDP a message that only the device is expected to send, such as a notification with
    /// its token.
    pub fn last_heard_at(&self, peer: Peer) -> Option<Instant> {
        match self.context.dtls.as_ref().filter(|dtls| dtls.serves(peer)) {
            Some(dtls) => dtls.server.last_heard_at(peer.socket, peer.address),
            None => self.registrations.devices().registry().at(peer).map(|device| device.last_heard()).max(),
        }
    }

    /// Iterates over the sockets and addresses of DTLS associations without connection ID: nothing in their records
    /// names them.
    pub fn unnamed_addresses(&self) -> impl Iterator<Item = (u16, SocketAddr)> {
        self.context.dtls.iter().flat_map(|dtls| dtls.server.addresses_without_connection_id())
    }

    /// Returns whether the next batches of changes have to contain the record of this endpoint.
    pub fn has_change_of(&self, endpoint: &str) -> bool {
        self.context.changes.is_marked(endpoint)
    }

    /// Iterates over the endpoint names and the locations of all registrations.
    pub fn registered_names(&self) -> impl Iterator<Item = (&str, &str)> {
        let devices = self.registrations.devices().registry().devices();
        devices.map(|device| (device.registration.endpoint.as_str(), device.location.as_str()))
    }

    /// Keeps a message whose peer waits for an answer, or whose device another gateway may have. Returns whether the
    /// message is handled later.
    pub(super) fn waits_for_claim(&mut self, peer: Peer, message: Option<&Message>, datagram: &[u8]) -> KeepResult {
        if !self.context.claims.enabled || peer.association.is_none() {
            return KeepResult::NoQuestion;
        }
        match self.context.claims.keep(peer, datagram) {
            KeepResult::NoQuestion => {}
            waits @ (KeepResult::Kept | KeepResult::Full) => return waits,
        }
        let device = message.and_then(|message| self.named_elsewhere(peer, message));
        let Some(device) = device else { return KeepResult::NoQuestion };
        if !self.context.ask(device, ClaimPurpose::Request, peer) {
            return KeepResult::Full;
        }
        self.context.claims.keep(peer, datagram)
    }

    /// Asks for the devices of an identity that has made a handshake.
    pub(super) fn ask_for_devices_of(&mut self, peer: Peer, identity: &Arc<Identity>) {
        let Self { context, registrations, .. } = self;
        if !context.claims.enabled {
            return;
        }
        let registry = registrations.devices().registry();
        let named = context.config.identity.endpoints_of(identity);
        let elsewhere = named.filter(|endpoint| registry.id_by_endpoint(endpoint).is_none());
        let elsewhere: Vec<String> = elsewhere.map(str::to_owned).collect();
        for endpoint in elsewhere {
            context.ask(DeviceName::Endpoint(endpoint), ClaimPurpose::Handshake, peer);
        }
    }

    /// Returns an endpoint name that this gateway no longer claims, because its device has left or its Register was
    /// rejected.
    pub(super) fn next_unclaimed(&mut self) -> Option<String> {
        loop {
            let endpoint = self.context.claims.unclaimed.pop()?;
            let is_leaving = self.registrations.devices().status_client().awaits(&endpoint);
            if !is_leaving && !self.registrations.has_endpoint(&endpoint) {
                return Some(endpoint);
            }
        }
    }

    /// Returns the name of the device that a message is about, if this gateway does not have it.
    fn named_elsewhere(&self, peer: Peer, message: &Message) -> Option<DeviceName> {
        let registry = self.registrations.devices().registry();
        let mut path = message.options.all(number::URI_PATH);
        match (path.next(), path.next(), path.next()) {
            (Some(b"rd"), Some(location), None) if message.code.is_request() => {
                let location = std::str::from_utf8(location).ok().filter(|text| Location::is_one(text))?;
                let is_here = registry.id_by_location(location).is_some();
                (!is_here).then(|| DeviceName::Location(location.to_owned()))
            }
            (Some(path), None, None)
                if path == super::notifications::send::PATH.as_bytes() && message.code == Code::POST =>
            {
                let is_here = send_request::sender(registry, &self.context, peer).is_some();
                let identity = self.context.identity(peer);
                let named = self.context.config.identity.endpoint_named_by(identity.as_deref());
                named.filter(|_| !is_here).map(|endpoint| DeviceName::Endpoint(endpoint.to_owned()))
            }
            _ => None,
        }
    }
}

impl Context {
    /// Asks for the device of a Register. The Register itself waits as a pending registration.
    pub(super) fn ask_for_register(&mut self, endpoint: &str, peer: Peer, identity: Option<Arc<Identity>>) {
        let device = DeviceName::Endpoint(endpoint.to_owned());
        self.push(Output::Claim(ClaimQuestion { device, purpose: ClaimPurpose::Register, peer, identity }));
    }

    /// Notes that another gateway has the device of this endpoint. The record in the store stays until that gateway has
    /// stored its own.
    pub(super) fn gave_away(&mut self, endpoint: &str) {
        self.changes.take_one(endpoint);
        self.claims.released(endpoint);
    }

    /// Asks for a device. The messages of the peer wait for the answer. Returns whether there was room for the
    /// question.
    fn ask(&mut self, device: DeviceName, purpose: ClaimPurpose, peer: Peer) -> bool {
        let is_asked = self.claims.asked(peer);
        if is_asked {
            let identity = self.identity(peer);
            self.push(Output::Claim(ClaimQuestion { device, purpose, peer, identity }));
        }
        is_asked
    }
}

/// Takes a device that comes from another gateway. Its messages come from this peer now.
fn adopt(
    context: &mut Context,
    registrations: &mut Registrations,
    moved: MovedDevice,
    peer: Peer,
) -> Option<Restoration> {
    let MovedDevice { mut record, retained, job } = moved;
    let (endpoint, from) = (record.registration.endpoint.clone(), std::mem::replace(&mut record.peer, peer));
    // The device has just sent a message, so this record is newer than that of the other gateway.
    record.last_heard = context.wall_clock.unix_time(context.now);
    registrations.devices_mut().commands_mut().retained.adopt(retained);
    let restoration = match take_up(context, registrations, record) {
        Ok(restoration) => restoration,
        Err(reason) => {
            context.claims.mark_unclaimed(&endpoint);
            context.report(Report::NotRestored { endpoint, reason });
            return None;
        }
    };
    if let Some(job) = job {
        registrations.devices_mut().restore_job(context, job);
    }
    context.changes.mark(&endpoint);
    context.report(Report::Moved { endpoint, from, to: peer });
    Some(restoration)
}

/// Separates the records of devices from those that are out of date: of several records of one endpoint the one with
/// the latest message of its device is valid. Returns the valid records and the others.
pub fn newest_records(records: Vec<DeviceRecord>) -> (Vec<DeviceRecord>, Vec<DeviceRecord>) {
    let mut newest: HashMap<String, DeviceRecord> = HashMap::with_capacity(records.len());
    let mut older = Vec::new();
    for record in records {
        match newest.get_mut(&record.registration.endpoint) {
            Some(other) if other.last_heard < record.last_heard => older.push(std::mem::replace(other, record)),
            Some(_) => older.push(record),
            None => {
                newest.insert(record.registration.endpoint.clone(), record);
            }
        }
    }
    (newest.into_values().collect(), older)
}
