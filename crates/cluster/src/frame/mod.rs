//! The frames of the connection from one node of a cluster to another one: messages between members, datagrams of
//! devices that came to another node than the one that has their shard, and moves of devices.
//!
//! ```text
//! | 4 bytes: length of the rest | version | kind | fields of the kind |
//! ```
//!
//! Numbers are big-endian. Only the node that opened a connection sends frames on it; the first one is a [`Hello`].
//! Nodes authenticate each other before, so the contents are believed, but no bytes make the decoder panic or
//! allocate more than [`MAX_FRAME`] allows.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lwm2m_base::{AssociationId, Shard};

use crate::endpoint_move::MoveNumber;
use crate::message::PeerMessage;
use crate::node::{NodeNumber, NodeProcess};

pub use decode::split_frame;

/// The version of the encoding. A node closes a connection with frames of another one.
const VERSION: u8 = 1;
/// Bytes of the length in front of a frame.
const PREFIX: usize = 4;
/// The maximum size of a frame without its length: the largest datagram of UDP, and the fields beside it.
pub const MAX_FRAME: usize = 65_535 + 1_024;
/// The greatest number of nodes that a datagram is forwarded by. The second one applies only while a shard moves.
pub const MAX_HOPS: u8 = 2;

/// A frame from one node to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'d> {
    Hello(Hello<'d>),
    Message(PeerMessage),
    Forward(Forward<'d>),
    Reply(ForwardReply<'d>),
    Learn(Learn<'d>),
    NotMine(NotMine),
    Ways(DeviceWays<'d>),
    Fetch(Fetch<'d>),
    Fetched(FetchResult<'d>),
    Done(Done<'d>),
}

/// The first frame of a connection: the node that opened it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello<'d> {
    pub process: NodeProcess,
    /// The name of the node, which its certificate has.
    pub name: &'d str,
    /// The host and port at which the other nodes connect to it.
    pub address: &'d str,
}

/// A datagram of a device for the node that has the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward<'d> {
    pub shard: Shard,
    /// The number of nodes that have forwarded the datagram, 1 to [`MAX_HOPS`].
    pub hops: u8,
    /// Whether the entry has learned that the shard has a device at the address of the datagram.
    pub is_learned: bool,
    /// The node that received the datagram from the network. Answers leave there.
    pub entry: NodeNumber,
    pub flow: NamedFlow<'d>,
    pub datagram: &'d [u8],
}

/// A datagram to a device that leaves through the receiver of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardReply<'d> {
    pub flow: NamedFlow<'d>,
    pub datagram: &'d [u8],
}

/// Tells the entry of a datagram whether a shard of the sender has a device at its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learn<'d> {
    pub flow: NamedFlow<'d>,
    pub shard: Shard,
    pub has_device: bool,
}

/// Tells a node that forwarded a datagram that its receiver does not have the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMine {
    pub shard: Shard,
    /// The node that has the shard, if the sender knows it.
    pub owner: Option<NodeNumber>,
}

/// Tells the next node of a shard through which nodes the shard's devices are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWays<'d> {
    pub entry: NodeNumber,
    pub listener: &'d str,
    /// The addresses of devices, at most [`MAX_WAYS`].
    pub addresses: Vec<SocketAddr>,
}

/// The maximum number of addresses in one frame.
pub const MAX_WAYS: usize = 1_000;

/// Asks the node that has a device for it, for a DTLS association of the sender ([`crate::endpoint_move`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch<'d> {
    pub number: MoveNumber,
    /// The shard that has the device, as far as the sender knows.
    pub shard: Shard,
    pub reason: FetchReason,
    pub device: FetchedDevice<'d>,
    /// The association that the device speaks by from now on.
    pub association: AssociationId,
    /// The identity that the device has proved there, in a form that the nodes agree on.
    pub identity: &'d str,
}

/// The message of a device that makes a node ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchReason {
    Register,
    /// Another request.
    Request,
    Handshake,
}

/// Names the device that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchedDevice<'d> {
    Endpoint(&'d str),
    /// The last segment of the path of a registration.
    Location(&'d str),
}

/// The answer to a [`Fetch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchResult<'d> {
    pub number: MoveNumber,
    pub answer: FetchAnswer<'d>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchAnswer<'d> {
    /// The entry of the endpoint is frozen: it can be taken from this shard and version.
    Frozen { shard: Shard, version: u64, endpoint: &'d str },
    /// The sender does not have the device, or the device stays.
    Absent,
    /// The sender cannot tell now.
    Busy,
    /// The identity may not use the device, for a reason that the nodes agree on.
    Forbidden(u8),
}

/// Tells the node that had a device that it was taken from this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<'d> {
    pub version: u64,
    pub endpoint: &'d str,
}

/// The address of a device at a listener. The order of listeners may differ between nodes, so the frame has the key of
/// the listener's section in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedFlow<'d> {
    pub listener: &'d str,
    pub address: SocketAddr,
}

/// The reason why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is whole, but this version of the program does not know its kind: a newer node sent it.
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame of version {0}, but version {VERSION} was expected")]
    Version(u8),
    #[error("a frame of {0} bytes, but at most {MAX_FRAME} were expected")]
    TooLong(usize),
    #[error("a malformed frame")]
    Malformed,
}

/// Maps the times in messages to numbers that other nodes repeat, and back. The number of another node is opaque: it is
/// not a time here, and is returned unchanged.
#[derive(Clone, Copy, Debug)]
pub struct FrameClock {
    start: Instant,
}

impl FrameClock {
    /// Makes the clock of a process that encodes no time before `start`.
    pub fn new(start: Instant) -> Self {
        Self { start }
    }

    /// The number has nanoseconds, which last for 584 years.
    fn number(self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    fn time(self, number: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(number))
    }
}

/// The kinds of frames. A number is never given to another kind.
mod kind {
    pub(super) const HELLO: u8 = 0;
    pub(super) const PING: u8 = 1;
    pub(super) const PONG: u8 = 2;
    pub(super) const YOURS: u8 = 3;
    pub(super) const FORWARD: u8 = 4;
    pub(super) const REPLY: u8 = 5;
    pub(super) const LEARN: u8 = 6;
    pub(super) const NOT_MINE: u8 = 7;
    pub(super) const FETCH: u8 = 8;
    pub(super) const FETCHED: u8 = 9;
    pub(super) const DONE: u8 = 10;
    pub(super) const WAYS: u8 = 15;
    pub(super) const SETTLED: u8 = 16;
}
