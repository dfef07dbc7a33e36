//! The end of the core's process, and the beginning of the next one.

use std::time::Duration;

use lwm2m_core::gateway::Gateway;
use rand::RngExt;

use super::{Happening, Network, ScheduledHappening};
use crate::scene::model;
use crate::store::MemoryStore;

impl Network {
    /// Lets the core keep what changes, so that it can be restarted. It has to be called before anything happens.
    pub fn make_persistent(&mut self) {
        self.gateway.restore(self.now, Vec::new());
        self.store = Some(MemoryStore::default());
    }

    /// Ends the process of the core without a word to anybody, and begins the next one with what the store has. What
    /// the link and the broker were about to say to the former process reaches nobody. Datagrams are still on their
    /// way.
    pub(super) fn restart(&mut self) {
        let store = self.store.as_mut().expect("the network was made persistent");
        store.keep(self.gateway.take_changes(self.now, usize::MAX));
        let unix_time = Duration::from_secs(1_700_000_000) + (self.now - self.begun);
        self.gateway = Gateway::new(self.config.clone(), model(), self.rng.random(), self.now, unix_time);
        store.restore(&mut self.gateway, self.now);
        self.restarts += 1;
        self.connected.clear();
        self.clientids.clear();
        self.tickets.clear();
        self.send_watch.restart();
        self.gateway_wakes = None;
        self.queue.retain(|std::cmp::Reverse(ScheduledHappening { happening, .. })| {
            !matches!(happening, Happening::FromBroker(_) | Happening::FromDisk(_) | Happening::GatewayWakes)
        });
        assert_eq!(self.drain_gateway(), 0, "an outcome without a datagram");
    }
}
