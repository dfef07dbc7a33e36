//! Messages that cannot be read as a whole. Where header and token say what such a message was meant to answer, waiting
//! for a better one is in vain: the device would send the same again.

use std::time::Instant;

use crate::coap::{Code, DatagramOutcome, DropReason, ExchangeError, Header, Kind, Message, MessageDecodeError};
use lwm2m_base::Peer;

use super::{ExchangeId, Exchanges, Handled};

/// Names the message that a malformed message answers.
#[derive(Clone, Copy, Debug)]
enum Answered {
    Exchange(ExchangeId),
    Observation(ExchangeId),
}

impl Exchanges {
    /// Handles a message with a format error. RFC 7252 sections 4.2 and 4.3: a confirmable one is reset, any other is
    /// ignored. When it answers a request of the gateway, the request fails at once.
    pub(super) fn handle_malformed(
        &mut self,
        now: Instant,
        peer: Peer,
        error: MessageDecodeError,
        datagram: &[u8],
    ) -> Handled {
        let mut event = None;
        if let Some(header) = Header::of(datagram) {
            let confirmable = header.kind == Kind::Confirmable;
            event = self.malformed_answer(peer, header).map(|answered| match answered {
                Answered::Exchange(exchange) => self.fail(exchange, ExchangeError::Malformed(error)),
                Answered::Observation(id) => self.notification_failed(id, ExchangeError::Malformed(error), confirmable),
            });
            if confirmable {
                // The reset concerns this message only, and no well-formed message with its id.
                self.reset_unremembered(now, peer, header.id);
            }
        }
        Handled { outcome: DatagramOutcome::Dropped(DropReason::NoMessage(error)), event }
    }

    /// Finds what the peer meant to answer with a message of which only this can be read.
    fn malformed_answer(&self, peer: Peer, header: Header) -> Option<Answered> {
        match header.kind {
            // An empty acknowledgement with further bytes is not an answer, which may still come.
            Kind::Acknowledgement if header.code == Code::EMPTY => None,
            Kind::Acknowledgement => self.acknowledged_by(peer, header.id, header.token?).map(Answered::Exchange),
            Kind::Reset => self.transmitted(peer, header.id).map(Answered::Exchange),
            Kind::Confirmable | Kind::NonConfirmable if header.code.class() == 0 => None,
            Kind::Confirmable | Kind::NonConfirmable => {
                let expected = self.open.expected(peer, header.token?);
                let observation = expected.observation.map(Answered::Observation);
                observation.or(expected.exchange.map(Answered::Exchange))
            }
        }
    }

    /// Handles an acknowledgement or a reset with a code that it cannot have.
    pub(super) fn handle_invalid_code(&mut self, peer: Peer, message: &Message) -> Handled {
        let exchange = match message.kind {
            Kind::Acknowledgement => self.acknowledged_by(peer, message.id, message.token),
            Kind::Reset | Kind::Confirmable | Kind::NonConfirmable => self.transmitted(peer, message.id),
        };
        let event = exchange.map(|exchange| self.fail(exchange, ExchangeError::NotAResponse(message.code)));
        Handled { outcome: DatagramOutcome::Dropped(DropReason::InvalidCodeForType), event }
    }
}
