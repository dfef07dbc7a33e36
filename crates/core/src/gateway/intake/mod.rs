//! Decides which messages of peers reach the CoAP endpoint, and when.
//!
//! 1. A request for a block of a firmware image may wait until other messages are handled ([`DeferredPulls`]).
//! 2. A message beyond the rate limits is dropped, or, if it is a Register, rejected ([`AdmissionControl`]).
//! 3. The CoAP endpoint handles every other message.

pub(super) mod admission;
pub(super) mod received_request;

use std::time::Instant;

use crate::coap::{Message, MessageDecodeError};
use lwm2m_base::Peer;

use super::config::Limits;
use super::context::Context;
use super::firmware::pulls::deferral::{DeferredPulls, PullTurn};
use super::firmware::pulls::serving;
use super::registrations::Registrations;
use super::report::{DatagramOutcome, DropReason, Report};

use admission::{AdmissionControl, Decision, refuse_register};

/// Owns the checks and queues that a message passes before it reaches the CoAP endpoint.
#[derive(Debug)]
pub(super) struct MessageIntake {
    admission: AdmissionControl,
    /// Requests for blocks of images that wait until other messages are handled.
    deferred: DeferredPulls,
}

impl MessageIntake {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { admission: AdmissionControl::new(limits), deferred: DeferredPulls::default() }
    }

    /// Keeps a request for a block of an image for a later turn, or drops it, if others wait. Returns every other
    /// message, which is handled now.
    pub(crate) fn defer(
        &mut self,
        context: &mut Context,
        peer: Peer,
        decoded: Result<Message, MessageDecodeError>,
        datagram: &[u8],
    ) -> Option<Result<Message, MessageDecodeError>> {
        let is_pull = decoded.as_ref().is_ok_and(|message| serving::is_pull(context, message));
        if !is_pull {
            return Some(decoded);
        }
        match self.deferred.admit(context.now, peer, datagram) {
            PullTurn::Now => return Some(decoded),
            PullTurn::Later => {}
            PullTurn::Never => drop_datagram(context, peer, DropReason::TooManyRequests),
        }
        None
    }

    /// Returns the deferred requests of the next turn.
    pub(super) fn take_turn(&mut self) -> Vec<(Peer, Box<[u8]>)> {
        self.deferred.take_turn()
    }

    /// Passes a message, or what could not be decoded as one, to the CoAP endpoint, unless it is beyond the rate
    /// limits.
    pub(super) fn admit(
        &mut self,
        context: &mut Context,
        registrations: &Registrations,
        peer: Peer,
        decoded: Result<Message, MessageDecodeError>,
        datagram: &[u8],
    ) {
        let outcome = match (self.admission.decide(context, registrations, peer, &decoded, datagram), decoded) {
            (Decision::Admit(class), decoded) => {
                context.coap.handle_decoded(context.now, peer, class, decoded, datagram)
            }
            (Decision::Refuse(exceeded), Ok(register)) => {
                refuse_register(context, peer, &register, exceeded);
                DatagramOutcome::Refused
            }
            (Decision::Refuse(_), Err(_)) => DatagramOutcome::Dropped(DropReason::RateLimited),
            (Decision::Drop(reason), _) => DatagramOutcome::Dropped(reason),
        };
        context.report(Report::Datagram { peer, outcome });
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.admission.handle_timeout(now);
    }

    pub(super) fn set_limits(&mut self, limits: &Limits) {
        self.admission.set_limits(limits);
    }

    /// Returns when the next turn of the deferred requests is: at once, if there are any.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        (!self.deferred.is_empty()).then_some(now)
    }

    pub(super) fn admission(&self) -> &AdmissionControl {
        &self.admission
    }

    /// Returns the number of deferred requests.
    pub(super) fn deferred(&self) -> usize {
        self.deferred.len()
    }
}

pub(super) fn drop_datagram(context: &mut Context, peer: Peer, reason: DropReason) {
    context.report(Report::Datagram { peer, outcome: DatagramOutcome::Dropped(reason) });
}
