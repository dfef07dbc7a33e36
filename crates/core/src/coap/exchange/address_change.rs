//! Moves the exchanges and observations of a device whose address has changed.

use std::time::Instant;

use lwm2m_base::Peer;

use super::{ExchangeId, Exchanges, MessageKey, Owner};

impl Exchanges {
    /// Makes messages of this peer duplicates also if they are repeated from its other address.
    pub(crate) fn readdress_received(&mut self, from: Peer, to: Peer) {
        self.dedup.readdress(from, to);
    }

    /// Moves these exchanges and observations to another address of their device. Requests in flight are sent there.
    pub(crate) fn readdress(&mut self, now: Instant, ids: impl IntoIterator<Item = ExchangeId>, to: Peer) {
        for id in ids {
            if let Some(from) = self.open.readdress_exchange(id, to) {
                self.readdress_transmission(now, id, from, to);
            }
            self.open.readdress_observation(id, to);
        }
    }

    /// Sends the request of an exchange to another address at once, with as many retransmissions as a new one. The
    /// message keeps its id, so that the device recognises a repetition, unless another message in flight to that
    /// address has it. A request that was acknowledged is sent again too: its answer may have come from the new address
    /// before the gateway knew whose that is.
    fn readdress_transmission(&mut self, now: Instant, id: ExchangeId, from: MessageKey, to: Peer) {
        let on_its_way = if self.owns_transmission(id, from) { self.transmissions.take(from) } else { None };
        let acknowledged = self.open.exchange_mut(id).and_then(|exchange| exchange.acknowledged.take());
        let Some(mut sent) = on_its_way.map(|(_, sent)| sent).or(acknowledged) else { return };
        self.open.cancel_deadline(id);
        let mut key = (to, from.1);
        if self.transmissions.contains(key) {
            key.1 = self.new_message_id(to);
            sent.set_message_id(key.1);
            if let Some(exchange) = self.open.exchange_mut(id) {
                exchange.message_id = key.1;
            }
        }
        self.transmissions.begin_anew(now, key, sent, Owner::Exchange(id), &self.parameters, &mut self.rng);
    }

    /// Returns whether this message in flight belongs to the exchange. An exchange that waits for a separate response
    /// has none, and its message id may belong to another one.
    pub(super) fn owns_transmission(&self, id: ExchangeId, key: MessageKey) -> bool {
        matches!(self.transmissions.owner(key), Some(Owner::Exchange(owner)) if owner == id)
    }
}
