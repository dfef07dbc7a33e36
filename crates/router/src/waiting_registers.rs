//! Registers over plain UDP that wait until the shard of their endpoint name is known.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lwm2m_base::expiring_map::ExpiringMap;

use crate::flows::Flow;

/// The time for which a Register waits. Devices retransmit after 2 to 3 s (RFC 7252 section 4.8).
const WAITS_FOR: Duration = Duration::from_secs(3);
/// Maximum number of names that are asked for at the same time.
const NAMES: usize = 4_096;
/// Maximum number of Registers of one name: the blocks of a transfer, and retransmissions.
const PER_NAME: usize = 8;
/// Maximum number of bytes of all Registers.
const BYTES: usize = 1 << 20;

/// A Register that has waited.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitingRegister {
    pub flow: Flow,
    pub datagram: Box<[u8]>,
}

/// The Registers that wait, those of one name in the order in which they came.
#[derive(Debug)]
pub(crate) struct WaitingRegisters {
    by_name: ExpiringMap<Box<str>, Vec<WaitingRegister>>,
    /// The names that the shell has still to ask for.
    unasked: VecDeque<Box<str>>,
    bytes: usize,
}

impl WaitingRegisters {
    pub(crate) fn new() -> Self {
        Self { by_name: ExpiringMap::new(NAMES), unasked: VecDeque::new(), bytes: 0 }
    }

    /// Keeps a Register. Returns whether there was room.
    pub(crate) fn keep(&mut self, now: Instant, name: &str, register: WaitingRegister) -> bool {
        let bytes = self.bytes + register.datagram.len();
        let is_full = self.by_name.len() >= NAMES;
        if bytes > BYTES {
            return false;
        }
        match self.by_name.get_mut(name) {
            Some(registers) if registers.len() >= PER_NAME => return false,
            Some(registers) => registers.push(register),
            None if is_full => return false,
            None => {
                let evicted = self.by_name.insert(name.into(), now + WAITS_FOR, vec![register]);
                debug_assert!(evicted.is_none(), "there is room");
                self.unasked.push_back(name.into());
            }
        }
        self.bytes = bytes;
        true
    }

    /// Returns a name that has to be asked for, each once.
    pub(crate) fn poll_name(&mut self) -> Option<Box<str>> {
        self.unasked.pop_front()
    }

    /// Takes the Registers of a name.
    pub(crate) fn take(&mut self, name: &str) -> Vec<WaitingRegister> {
        let registers = self.by_name.remove(name).unwrap_or_default();
        self.bytes -= size(&registers);
        registers
    }

    /// Drops the Registers whose name was not answered in time, and returns their number.
    pub(crate) fn drop_expired(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while let Some((_, registers)) = self.by_name.pop_expired(now) {
            self.bytes -= size(&registers);
            dropped += registers.len() as u64;
        }
        dropped
    }

    /// Returns when the first Registers expire.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.by_name.next_expiry()
    }
}

fn size(registers: &[WaitingRegister]) -> usize {
    registers.iter().map(|register| register.datagram.len()).sum()
}
