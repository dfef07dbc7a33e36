//! The counts of what the devices of a fleet have done.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::Latencies;

/// Counts the events of all devices.
#[derive(Debug, Default)]
pub struct FleetCounts {
    pub registered: Cell<u64>,
    pub observed: Cell<u64>,
    pub notified: Cell<u64>,
    pub updated: Cell<u64>,
    /// The time from an Update that was ordered to its answer.
    pub updates: RefCell<Latencies>,
    /// Firmware images that were fetched to their end, and those that failed.
    pub downloaded: Cell<u64>,
    pub failed_downloads: Cell<u64>,
    pub stopped: Cell<u64>,
    /// Notifications that were due while the one before them waited for its acknowledgement; they are not sent.
    pub delayed: Cell<u64>,
    /// Datagrams that the system did not take.
    pub unsent: Cell<u64>,
    /// Registers and Updates that were refused, by the response code; `no answer` when there was none.
    pub refused: RefCell<BTreeMap<String, u64>>,
    /// The time from the first datagram of a device to the answer to its Register, a DTLS handshake included.
    pub registrations: RefCell<Latencies>,
}

impl FleetCounts {
    pub(crate) fn add(counter: &Cell<u64>) {
        counter.set(counter.get() + 1);
    }
}
