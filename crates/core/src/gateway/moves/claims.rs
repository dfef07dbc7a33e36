//! The question which gateway has a device, its answer, and the messages that wait for it. [`crate::gateway::moves`] has the
//! procedure.

use std::collections::HashMap;
use std::sync::Arc;

use lwm2m_base::Peer;
use lwm2m_base::identity::Identity;

use crate::gateway::firmware::jobs::record::FirmwareJobRecord;
use crate::gateway::persistence::record::{Change, DeviceRecord, RetainedCommandsRecord};
use crate::gateway::report::Forbidden;

/// Maximum number of peers whose messages wait for the answer to a question.
const MOST_PEERS: usize = 4_096;
/// Maximum number of messages of one peer that wait. A device has few on their way (NSTART 1, RFC 7252 section 4.7).
const MOST_MESSAGES: usize = 16;

/// Asks which gateway has a device, for a peer that speaks as this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimQuestion {
    pub device: DeviceName,
    pub purpose: ClaimPurpose,
    /// The peer that the device speaks from now.
    pub peer: Peer,
    /// The identity that DTLS has authenticated; `None` over plain UDP.
    pub identity: Option<Arc<Identity>>,
}

/// Names a device that another gateway may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceName {
    Endpoint(String),
    /// The last segment of the path of a registration.
    Location(String),
}

/// The event that made a gateway ask for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimPurpose {
    /// A Register. If nobody has the endpoint name, the gateway that asks has it from now on.
    Register,
    /// Another request over DTLS.
    Request,
    /// A handshake of an identity that stands for the endpoint name.
    Handshake,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimAnswer {
    /// The gateway that asks has the endpoint name.
    Mine,
    /// The device comes from the gateway that had it.
    Arrived(Box<MovedDevice>),
    /// No gateway gives the device to this peer: it does not exist, or it stays where it is.
    Absent,
    /// The peer may not use the endpoint name.
    Forbidden(Forbidden),
    /// The owner of the name cannot be found out now. The Register is answered 5.03.
    Unknown,
}

/// A device on its way to another gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct MovedDevice {
    pub record: DeviceRecord,
    /// The retained commands that the device was sent.
    pub retained: RetainedCommandsRecord,
    /// The firmware update of the device, if there is one.
    pub job: Option<FirmwareJobRecord>,
}

impl MovedDevice {
    /// Returns the changes that store the device.
    pub fn into_changes(self) -> Vec<Change> {
        let Self { record, retained, job } = self;
        let companions = [Some(Change::RetainedCommands(retained)), job.map(Change::FirmwareJob)];
        [Change::Put(Box::new(record))].into_iter().chain(companions.into_iter().flatten()).collect()
    }
}

/// The messages of peers that wait for the answers to questions.
#[derive(Debug, Default)]
pub(in crate::gateway) struct ClaimQuestions {
    /// Other gateways have devices, too.
    pub enabled: bool,
    waiting: HashMap<Peer, WaitingPeer>,
    /// The endpoints whose claim may have to be given back.
    pub unclaimed: Vec<String>,
}

#[derive(Debug, Default)]
struct WaitingPeer {
    /// The questions that are not answered.
    questions: usize,
    messages: Vec<Box<[u8]>>,
}

/// Tells whether a message is kept because questions about its peer are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum KeepResult {
    /// The message is kept until the questions about its peer are answered.
    Kept,
    /// Too many messages wait.
    Full,
    /// Nothing is asked about its peer, so that the message is handled now.
    NoQuestion,
}

impl ClaimQuestions {
    pub(in crate::gateway) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Notes that this endpoint may have no registration any more.
    pub(crate) fn mark_unclaimed(&mut self, endpoint: &str) {
        if self.enabled {
            self.unclaimed.push(endpoint.to_owned());
        }
    }

    /// Returns the number of peers whose messages wait.
    pub(in crate::gateway) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Notes that another gateway has this endpoint: there is nothing to give back.
    pub(super) fn released(&mut self, endpoint: &str) {
        self.unclaimed.retain(|unclaimed| unclaimed != endpoint);
    }

    /// Counts a question about a peer, unless too many peers wait.
    pub(super) fn asked(&mut self, peer: Peer) -> bool {
        if self.waiting.len() >= MOST_PEERS && !self.waiting.contains_key(&peer) {
            return false;
        }
        self.waiting.entry(peer).or_default().questions += 1;
        true
    }

    pub(super) fn keep(&mut self, peer: Peer, datagram: &[u8]) -> KeepResult {
        match self.waiting.get_mut(&peer) {
            Some(waiting) if waiting.messages.len() < MOST_MESSAGES => {
                waiting.messages.push(datagram.into());
                KeepResult::Kept
            }
            Some(_) => KeepResult::Full,
            None => KeepResult::NoQuestion,
        }
    }

    /// Takes the messages of a peer, unless another question about it is open.
    pub(super) fn answered(&mut self, peer: Peer) -> Vec<Box<[u8]>> {
        let Some(waiting) = self.waiting.get_mut(&peer) else { return Vec::new() };
        waiting.questions = waiting.questions.saturating_sub(1);
        if waiting.questions > 0 {
            return Vec::new();
        }
        self.waiting.remove(&peer).map(|waiting| waiting.messages).unwrap_or_default()
    }
}
