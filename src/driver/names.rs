//! Endpoint names in a cluster: the store tells which shard has each. A device that another node has moves here, if it
//! speaks over DTLS ([`lwm2m_cluster::endpoint_move`]).

use std::time::Instant;

use lwm2m_base::{AssociationId, Shard};
use lwm2m_cluster::NodeNumber;
use lwm2m_cluster::endpoint_move::MoveNumber;
use lwm2m_core::gateway::moves::claims::{ClaimAnswer, ClaimPurpose, ClaimQuestion, DeviceName};
use lwm2m_core::registry::Location;
use tracing::debug;

use crate::cluster::moves::SourceAnswer;
use crate::store::redis::shared::EngineAsk;
use crate::store::redis::shared::names::{NameAnswer, NameAsk, NameHolder, Taking};

use super::Driver;

impl Driver {
    /// Asks the store which shard has the device of a question. A location names the shard in which its device
    /// registered.
    pub(super) fn ask_for_name(&mut self, question: ClaimQuestion) {
        let Some(seat) = &self.cluster else { return };
        if let DeviceName::Location(location) = &question.device {
            let shard = Location::shard_of(location);
            return match shard.and_then(|shard| Some((shard, seat.forwarding.owner(shard)?))) {
                Some((shard, node)) => self.fetch(question, shard, node),
                None => self.take_answer(question, ClaimAnswer::Absent),
            };
        }
        if let Err(EngineAsk::Name(NameAsk::Claim(question))) = seat.ask(EngineAsk::Name(NameAsk::Claim(question))) {
            self.refuse(question);
        }
    }

    pub(super) fn give_name_back(&self, endpoint: String) {
        // A claim that cannot be returned expires.
        let (Some(Ok(()) | Err(_)) | None) = self.cluster.as_ref().map(|seat| seat.ask(EngineAsk::Unclaim(endpoint)));
    }

    /// Takes an answer of the store.
    pub(super) fn handle_name(&mut self, answer: NameAnswer) {
        let now = self.now();
        let Self { gateway, cluster: Some(seat), .. } = self else { return };
        match answer {
            NameAnswer::Found(name, holder) => seat.forwarding.handle_name(now, gateway, &name, holder),
            NameAnswer::Claimed(question, holder) => self.handle_claimed(question, holder),
            NameAnswer::Frozen(endpoint, frozen) => {
                let step = seat.departures.handle_frozen(now, &endpoint, frozen);
                self.depart(now, step);
            }
            NameAnswer::Thawed(endpoint, thawed) => {
                let step = seat.departures.handle_thawed(now, &endpoint, thawed);
                self.depart(now, step);
            }
            NameAnswer::Taken { taking, is_taken } => self.handle_taken(now, *taking, is_taken),
        }
    }

    fn handle_claimed(&mut self, question: ClaimQuestion, holder: NameHolder) {
        let Some(seat) = &self.cluster else { return };
        let is_register = question.purpose == ClaimPurpose::Register;
        let is_leaving = match &question.device {
            DeviceName::Endpoint(endpoint) => seat.departures.contains(endpoint),
            DeviceName::Location(_) => false,
        };
        match holder {
            NameHolder::Free if is_register => self.take_answer(question, ClaimAnswer::Mine),
            // The gateway does not have the device: its record is about to be removed.
            NameHolder::Shard { shard, .. } if self.gateway.shards().contains(shard) && is_register && !is_leaving => {
                self.take_answer(question, ClaimAnswer::Mine);
            }
            NameHolder::Shard { shard, node: Some(node) } => self.fetch(question, shard, node),
            NameHolder::Free | NameHolder::Shard { .. } | NameHolder::Claimed | NameHolder::Unknown => {
                self.refuse(question);
            }
        }
    }

    /// Asks the node that has a device for it. A device of this node is being read, handed over, or on its way to
    /// another node: whether the peer may use it is not known. Over plain UDP the Register is forwarded instead, before
    /// the core gets it.
    fn fetch(&mut self, question: ClaimQuestion, shard: Shard, node: NodeNumber) {
        let now = self.now();
        let Some(seat) = &mut self.cluster else { return };
        if node == seat.node() || question.peer.association.is_none() {
            return self.refuse(question);
        }
        let Ok(number) = seat.arrivals.ask(now, node, question.clone()) else { return self.fail(question) };
        if !seat.forwarding.peers().fetch(node, number, shard, &question) {
            let (Some(_) | None) = seat.arrivals.handle_refused(number, node);
            self.fail(question);
        }
    }

    /// Takes the answer of a node that was asked for a device.
    pub(super) fn handle_fetched(&mut self, from: NodeNumber, number: MoveNumber, answer: SourceAnswer) {
        let Some(seat) = &mut self.cluster else { return };
        if let SourceAnswer::Frozen { shard, version, endpoint } = answer {
            let Some(question) = seat.arrivals.handle_frozen(number, from) else { return };
            let taking = Taking { number, endpoint, from: shard, version, peer: question.peer, device: None };
            // Without a keeper the node shuts down.
            let (Ok(()) | Err(_)) = seat.ask(EngineAsk::Name(NameAsk::Take(Box::new(taking))));
            return;
        }
        let Some(question) = seat.arrivals.handle_refused(number, from) else { return };
        match answer {
            SourceAnswer::Forbidden(reason) => {
                self.metrics.cluster.endpoint_moves.forbidden.inc();
                self.take_answer(question, ClaimAnswer::Forbidden(reason));
            }
            SourceAnswer::Busy => self.fail(question),
            SourceAnswer::Absent | SourceAnswer::Frozen { .. } => self.refuse(question),
        }
    }

    /// Takes the decision of the store about a device of another node.
    fn handle_taken(&mut self, now: Instant, taking: Taking, is_taken: bool) {
        let Some(seat) = &mut self.cluster else { return };
        let Some((question, source)) = seat.arrivals.handle_decided(taking.number) else { return };
        let Taking { endpoint, version, device, peer, .. } = taking;
        let (Some(device), true) = (device, is_taken) else { return self.fail(question) };
        self.metrics.cluster.endpoint_moves.arrived.inc();
        seat.forwarding.peers().done(source, &endpoint, version);
        let returned = seat.departures.handle_return(&endpoint);
        self.depart(now, returned);
        let shard = peer.association.map(AssociationId::shard);
        let is_served = shard.is_some_and(|shard| self.gateway.shards().contains(shard));
        if is_served && !self.gateway.is_registered(&endpoint) {
            debug!(endpoint, %source, "the device has come from another node");
            return self.take_answer(question, ClaimAnswer::Arrived(Box::new(device)));
        }
        // The shard was handed over or lost meanwhile. The node that reads the shard gets the device.
        self.park_device(device);
        self.refuse(question);
    }

    /// Answers the questions whose move takes too long, and asks about the devices that no node has taken.
    pub(super) fn handle_moves(&mut self, now: Instant) {
        let Some(seat) = &mut self.cluster else { return };
        let late = seat.arrivals.handle_timeout(now);
        let steps = seat.departures.handle_timeout(now);
        late.into_iter().for_each(|question| self.fail(question));
        self.depart(now, steps);
    }

    /// Counts a move that was not made, and answers the question.
    fn fail(&mut self, question: ClaimQuestion) {
        self.metrics.cluster.endpoint_moves.failed.inc();
        self.refuse(question);
    }

    /// Answers a question whose device does not come: a Register with 5.03. Other messages are handled without the
    /// device.
    fn refuse(&mut self, question: ClaimQuestion) {
        let answer = match question.purpose {
            ClaimPurpose::Register => ClaimAnswer::Unknown,
            ClaimPurpose::Request | ClaimPurpose::Handshake => ClaimAnswer::Absent,
        };
        self.take_answer(question, answer);
    }
}
