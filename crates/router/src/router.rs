//! The router of one thread.

use std::time::Instant;

use lwm2m_base::{Shard, ThreadShards};

use crate::flows::{Flow, FlowTable};
use crate::named::Named;

/// The settings of a router.
#[derive(Clone, Copy, Debug)]
pub struct RouterConfig {
    /// The shards of the thread that owns the router.
    pub shards: ThreadShards,
    /// The index of the first DTLS listener. All listeners after it are DTLS listeners, too; those before it are for
    /// plain CoAP.
    pub first_dtls_socket: u16,
    /// The maximum number of addresses that the router remembers.
    pub flows: usize,
}

/// Decides which thread handles each datagram that its own thread has received.
///
/// # How to use it
///
/// 1. [`Router::route`] decides about a datagram. The shell hands a datagram for another thread over to that thread,
///    with the `is_learned` of its route.
/// 2. The other thread handles the datagram. After that it asks its gateway whether it has a device at this address. If
///    the answer differs from `is_learned`, it tells the first thread, which calls [`Router::learn`] or
///    [`Router::forget`].
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    flows: FlowTable<u8>,
}

/// The thread that handles a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The thread that received it.
    Own,
    /// Another thread.
    Thread {
        /// The number of the thread, counted from 0.
        thread: u8,
        /// Whether the router has learned that this thread has a device at the address of the datagram.
        is_learned: bool,
    },
}

impl Router {
    /// The number of addresses that a router remembers if nothing else is configured.
    pub const FLOWS: usize = 1_000_000;

    pub fn new(config: RouterConfig) -> Self {
        Self { config, flows: FlowTable::new(config.flows) }
    }

    /// Decides which thread handles a datagram. `claimed` looks up the thread that has an endpoint name
    /// ([`Claims::find`](crate::Claims::find)); it is called only for a Register.
    pub fn route(
        &mut self,
        now: Instant,
        flow: Flow,
        datagram: &[u8],
        claimed: impl FnOnce(&str) -> Option<u8>,
    ) -> Route {
        let is_dtls = flow.socket >= self.config.first_dtls_socket;
        let named = if is_dtls { Named::by_record(datagram) } else { Named::by_message(datagram) };
        let thread = match named {
            Named::Shard(shard) => Some(self.thread_of(shard)),
            Named::Endpoint(endpoint) => claimed(endpoint),
            Named::Nothing => None,
        };
        match thread {
            Some(thread) if thread == self.config.shards.thread() => Route::Own,
            Some(thread) => Route::Thread { thread, is_learned: self.flows.get(now, flow) == Some(thread) },
            None => self.by_flow(now, flow),
        }
    }

    /// Notes that another thread has a device at this address.
    pub fn learn(&mut self, now: Instant, flow: Flow, thread: u8) {
        if thread != self.config.shards.thread() {
            self.flows.insert(now, flow, thread);
        }
    }

    /// Notes that this thread has no device at this address any more.
    pub fn forget(&mut self, flow: Flow, thread: u8) {
        self.flows.remove(flow, thread);
    }

    /// Notes at the start that another thread has restored an association without connection ID at this address. It is
    /// remembered until [`Router::forget`], because its records name no shard.
    pub fn restore(&mut self, flow: Flow, thread: u8) {
        if thread != self.config.shards.thread() {
            let (true | false) = self.flows.keep(flow, thread);
        }
    }

    /// Returns the number of addresses that the router remembers.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Returns how many addresses were forgotten because there were too many.
    pub fn evicted_flows(&self) -> u64 {
        self.flows.evicted()
    }

    fn by_flow(&mut self, now: Instant, flow: Flow) -> Route {
        match self.flows.get(now, flow) {
            Some(thread) => Route::Thread { thread, is_learned: true },
            None => Route::Own,
        }
    }

    fn thread_of(&self, shard: Shard) -> u8 {
        ThreadShards::thread_of(shard, self.config.shards.threads())
    }
}
