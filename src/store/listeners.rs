//! The names of listeners in stored records. The core knows a listener by its number, which may be another one after a
//! restart.

use serde::{Deserialize, Serialize};

use crate::transport::{Security, UdpListener};
use lwm2m_core::gateway::persistence::record::DeviceRecord;

pub(crate) struct ListenerNames(Vec<UdpListener>);

/// A device record with the name of its listener.
#[derive(Serialize)]
struct StoredRecordRef<'a> {
    listener: Option<&'a str>,
    record: &'a DeviceRecord,
}

#[derive(Deserialize)]
pub(crate) struct StoredRecord {
    listener: Option<String>,
    pub record: DeviceRecord,
}

impl ListenerNames {
    pub(super) fn new(listeners: &[UdpListener]) -> Self {
        Self(listeners.to_vec())
    }

    /// Returns the DTLS listener of this name, or else the first one.
    pub(crate) fn secured_socket(&self, listener: &str) -> u16 {
        let mut secured = self.0.iter().enumerate().filter(|(_, known)| known.security == Security::Dtls);
        let first = secured.clone().next();
        let index = secured.find(|(_, known)| known.name == listener).or(first).map(|(index, _)| index);
        index.and_then(|index| index.try_into().ok()).unwrap_or(0)
    }

    /// Returns the name of a listener; empty if it does not exist.
    pub(super) fn name(&self, socket: u16) -> &str {
        self.0.get(usize::from(socket)).map_or("", |listener| listener.name.as_str())
    }

    pub(super) fn encode(&self, record: &DeviceRecord) -> Vec<u8> {
        let listener = self.0.get(usize::from(record.peer.socket)).map(|listener| listener.name.as_str());
        serde_json::to_vec(&StoredRecordRef { listener, record }).expect("keys are texts, and numbers are finite")
    }

    /// Assigns a restored device to the listener of the stored name. If that listener no longer exists, the device gets
    /// one of the same address family until it sends to another one.
    pub(super) fn place(&self, StoredRecord { listener, mut record }: StoredRecord) -> DeviceRecord {
        if record.peer.association.is_some() {
            // As with its association, of which the socket is a part of the name.
            record.peer.socket = self.secured_socket(listener.as_deref().unwrap_or_default());
            return record;
        }
        let position = |fits: &dyn Fn(&UdpListener) -> bool| {
            self.0.iter().position(|known| known.security == Security::None && fits(known))
        };
        let index = position(&|known| Some(&known.name) == listener.as_ref())
            .or_else(|| position(&|known| known.bind.is_ipv4() == record.peer.address.is_ipv4()));
        record.peer.socket = index.and_then(|index| index.try_into().ok()).unwrap_or(0);
        record
    }
}
