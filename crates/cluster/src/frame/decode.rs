//! Reads frames.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Instant;

use lwm2m_base::{AssociationId, Shard};

use super::{DeviceWays, Forward, ForwardReply, Frame, FrameClock, FrameError, Hello, Learn, NamedFlow, NotMine};
use super::{Done, Fetch, FetchAnswer, FetchReason, FetchResult, FetchedDevice};
use super::{MAX_FRAME, MAX_HOPS, MAX_WAYS, PREFIX, VERSION, kind};
use crate::endpoint_move::MoveNumber;
use crate::message::PeerMessage;
use crate::node::{Incarnation, NodeNumber, NodeProcess};
use crate::term::Term;

/// Takes the first frame off the received bytes, without its length. Returns `None` if it is not complete yet.
///
/// # Errors
/// Returns [`FrameError::TooLong`] for a length above [`MAX_FRAME`]. Nothing can be read of the connection after it.
pub fn split_frame<'d>(received: &mut &'d [u8]) -> Result<Option<&'d [u8]>, FrameError> {
    let Some((prefix, rest)) = received.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let Some((frame, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    *received = rest;
    Ok(Some(frame))
}

impl<'d> Frame<'d> {
    /// Reads a frame without its length.
    ///
    /// # Errors
    /// Returns [`FrameError::UnknownKind`] for a frame that the receiver skips. After any other error the receiver
    /// closes the connection.
    pub fn decode(bytes: &'d [u8], clock: FrameClock) -> Result<Self, FrameError> {
        match *bytes {
            [VERSION, kind, ref fields @ ..] => FrameReader { rest: fields, clock }.frame(kind),
            [version, _, ..] => Err(FrameError::Version(version)),
            [_] | [] => Err(FrameError::Malformed),
        }
    }
}

struct FrameReader<'d> {
    rest: &'d [u8],
    clock: FrameClock,
}

impl<'d> FrameReader<'d> {
    fn frame(mut self, kind: u8) -> Result<Frame<'d>, FrameError> {
        let frame = match kind {
            kind::HELLO => self.hello().map(Frame::Hello),
            kind::PING => self.ping().map(Frame::Message),
            kind::PONG => self.pong().map(Frame::Message),
            kind::YOURS => self.shard().map(|shard| Frame::Message(PeerMessage::Yours { shard })),
            kind::SETTLED => self.shard().map(|shard| Frame::Message(PeerMessage::Settled { shard })),
            kind::FORWARD => self.forward().map(Frame::Forward),
            kind::REPLY => self.reply().map(Frame::Reply),
            kind::LEARN => self.learn().map(Frame::Learn),
            kind::NOT_MINE => self.not_mine().map(Frame::NotMine),
            kind::WAYS => self.ways().map(Frame::Ways),
            kind::FETCH => self.fetch().map(Frame::Fetch),
            kind::FETCHED => self.fetched().map(Frame::Fetched),
            kind::DONE => self.done().map(Frame::Done),
            unknown => return Err(FrameError::UnknownKind(unknown)),
        };
        frame.filter(|_| self.rest.is_empty()).ok_or(FrameError::Malformed)
    }

    fn hello(&mut self) -> Option<Hello<'d>> {
        Some(Hello { process: self.process()?, name: self.text()?, address: self.text()? })
    }

    fn ping(&mut self) -> Option<PeerMessage> {
        Some(PeerMessage::Ping { from: self.process()?, asked: self.time()? })
    }

    fn pong(&mut self) -> Option<PeerMessage> {
        let (from, asked, reaches) = (self.process()?, self.time()?, self.flag()?);
        let newest = if self.flag()? { Some(Incarnation(self.long()?)) } else { None };
        // Each element has bytes of its own, so that the frame bounds the lists.
        let acquired = (0..self.count()?).map(|_| self.acquired()).collect::<Option<_>>()?;
        let others = (0..self.count()?).map(|_| self.process()).collect::<Option<_>>()?;
        Some(PeerMessage::Pong { from, asked, reaches, newest, acquired, others })
    }

    fn forward(&mut self) -> Option<Forward<'d>> {
        let (shard, hops, is_learned) = (self.shard()?, self.byte()?, self.flag()?);
        let (entry, flow, datagram) = (self.node()?, self.flow()?, self.remainder());
        let is_valid = (1..=MAX_HOPS).contains(&hops);
        is_valid.then_some(Forward { shard, hops, is_learned, entry, flow, datagram })
    }

    fn reply(&mut self) -> Option<ForwardReply<'d>> {
        Some(ForwardReply { flow: self.flow()?, datagram: self.remainder() })
    }

    fn learn(&mut self) -> Option<Learn<'d>> {
        Some(Learn { flow: self.flow()?, shard: self.shard()?, has_device: self.flag()? })
    }

    fn not_mine(&mut self) -> Option<NotMine> {
        let shard = self.shard()?;
        let owner = if self.flag()? { Some(self.node()?) } else { None };
        Some(NotMine { shard, owner })
    }

    fn ways(&mut self) -> Option<DeviceWays<'d>> {
        let (entry, listener, count) = (self.node()?, self.text()?, self.count()?);
        let count = usize::from(count);
        let addresses = (0..count).map(|_| self.address());
        (count <= MAX_WAYS).then_some(DeviceWays { entry, listener, addresses: addresses.collect::<Option<_>>()? })
    }

    fn fetch(&mut self) -> Option<Fetch<'d>> {
        let (number, shard) = (MoveNumber(self.long()?), self.shard()?);
        let reason = match self.byte()? {
            0 => FetchReason::Register,
            1 => FetchReason::Request,
            2 => FetchReason::Handshake,
            _ => return None,
        };
        let device = if self.flag()? { FetchedDevice::Location } else { FetchedDevice::Endpoint }(self.text()?);
        let (association, identity) = (AssociationId(self.long()?), self.text()?);
        Some(Fetch { number, shard, reason, device, association, identity })
    }

    fn fetched(&mut self) -> Option<FetchResult<'d>> {
        let number = MoveNumber(self.long()?);
        let answer = match self.byte()? {
            0 => FetchAnswer::Frozen { shard: self.shard()?, version: self.long()?, endpoint: self.text()? },
            1 => FetchAnswer::Absent,
            2 => FetchAnswer::Busy,
            3 => FetchAnswer::Forbidden(self.byte()?),
            _ => return None,
        };
        Some(FetchResult { number, answer })
    }

    fn done(&mut self) -> Option<Done<'d>> {
        Some(Done { version: self.long()?, endpoint: self.text()? })
    }

    fn flow(&mut self) -> Option<NamedFlow<'d>> {
        Some(NamedFlow { listener: self.text()?, address: self.address()? })
    }

    fn address(&mut self) -> Option<SocketAddr> {
        match self.byte()? {
            4 => Some(SocketAddr::from((Ipv4Addr::from(self.array()?), u16::from_be_bytes(self.array()?)))),
            6 => {
                let ip = Ipv6Addr::from(self.array::<16>()?);
                let (flow_info, scope) = (u32::from_be_bytes(self.array()?), u32::from_be_bytes(self.array()?));
                Some(SocketAddrV6::new(ip, u16::from_be_bytes(self.array()?), flow_info, scope).into())
            }
            _ => None,
        }
    }

    fn acquired(&mut self) -> Option<(Shard, Term)> {
        Some((self.shard()?, Term::new(self.long()?)))
    }

    fn process(&mut self) -> Option<NodeProcess> {
        Some(NodeProcess { node: self.node()?, incarnation: Incarnation(self.long()?) })
    }

    fn node(&mut self) -> Option<NodeNumber> {
        NodeNumber::try_from(u64::from(self.byte()?)).ok()
    }

    fn shard(&mut self) -> Option<Shard> {
        self.byte().map(Shard::new)
    }

    fn time(&mut self) -> Option<Instant> {
        let number = self.long()?;
        self.clock.time(number)
    }

    fn text(&mut self) -> Option<&'d str> {
        let length = usize::from(self.count()?);
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    fn remainder(&mut self) -> &'d [u8] {
        std::mem::take(&mut self.rest)
    }

    fn count(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn array<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        let (array, rest) = self.rest.split_first_chunk::<LENGTH>()?;
        self.rest = rest;
        Some(*array)
    }
}
