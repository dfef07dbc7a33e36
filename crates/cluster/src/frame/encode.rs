//! Writes frames.

use std::net::SocketAddr;

use super::{DeviceWays, Forward, ForwardReply, Frame, FrameClock, FrameError, Hello, Learn, NamedFlow, NotMine};
use super::{Done, Fetch, FetchAnswer, FetchReason, FetchResult, FetchedDevice};
use super::{MAX_FRAME, PREFIX, VERSION, kind};
use crate::message::PeerMessage;
use crate::node::{NodeNumber, NodeProcess};

impl Frame<'_> {
    /// Appends the frame with its length to a buffer.
    ///
    /// # Errors
    /// Returns [`FrameError::TooLong`], and appends nothing, if the frame would be longer than [`MAX_FRAME`].
    pub fn encode(&self, clock: FrameClock, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
        let begin = buffer.len();
        buffer.extend([0; PREFIX]);
        buffer.push(VERSION);
        let mut writer = FrameWriter { buffer, clock, longest_text: 0 };
        writer.frame(self);
        let longest_text = writer.longest_text;
        let length = buffer.len() - begin - PREFIX;
        match u32::try_from(length) {
            Ok(prefix) if length <= MAX_FRAME && longest_text <= usize::from(u16::MAX) => {
                buffer[begin..begin + PREFIX].copy_from_slice(&prefix.to_be_bytes());
                Ok(())
            }
            Ok(_) | Err(_) => {
                buffer.truncate(begin);
                Err(FrameError::TooLong(length))
            }
        }
    }
}

struct FrameWriter<'b> {
    buffer: &'b mut Vec<u8>,
    clock: FrameClock,
    /// Bytes of the longest text, whose length has two bytes.
    longest_text: usize,
}

impl FrameWriter<'_> {
    fn frame(&mut self, frame: &Frame<'_>) {
        match frame {
            Frame::Hello(Hello { process, name, address }) => {
                self.byte(kind::HELLO);
                self.process(*process);
                self.text(name);
                self.text(address);
            }
            Frame::Message(message) => self.message(message),
            Frame::Forward(forward) => self.forward(forward),
            Frame::Reply(ForwardReply { flow, datagram }) => {
                self.byte(kind::REPLY);
                self.flow(*flow);
                self.buffer.extend_from_slice(datagram);
            }
            Frame::Learn(Learn { flow, shard, has_device }) => {
                self.byte(kind::LEARN);
                self.flow(*flow);
                self.byte(shard.number());
                self.flag(*has_device);
            }
            Frame::NotMine(NotMine { shard, owner }) => {
                self.byte(kind::NOT_MINE);
                self.byte(shard.number());
                self.flag(owner.is_some());
                owner.iter().for_each(|owner| self.node(*owner));
            }
            Frame::Ways(DeviceWays { entry, listener, addresses }) => {
                self.byte(kind::WAYS);
                self.node(*entry);
                self.text(listener);
                self.count(addresses.len());
                addresses.iter().for_each(|address| self.address(*address));
            }
            Frame::Fetch(fetch) => self.fetch(fetch),
            Frame::Fetched(fetched) => self.fetched(fetched),
            Frame::Done(Done { version, endpoint }) => {
                self.byte(kind::DONE);
                self.long(*version);
                self.text(endpoint);
            }
        }
    }

    fn fetch(&mut self, Fetch { number, shard, reason, device, association, identity }: &Fetch<'_>) {
        self.byte(kind::FETCH);
        self.long(number.0);
        self.byte(shard.number());
        self.byte(match reason {
            FetchReason::Register => 0,
            FetchReason::Request => 1,
            FetchReason::Handshake => 2,
        });
        let (is_location, name) = match device {
            FetchedDevice::Endpoint(endpoint) => (false, endpoint),
            FetchedDevice::Location(location) => (true, location),
        };
        self.flag(is_location);
        self.text(name);
        self.long(association.0);
        self.text(identity);
    }

    fn fetched(&mut self, FetchResult { number, answer }: &FetchResult<'_>) {
        self.byte(kind::FETCHED);
        self.long(number.0);
        match answer {
            FetchAnswer::Frozen { shard, version, endpoint } => {
                self.byte(0);
                self.byte(shard.number());
                self.long(*version);
                self.text(endpoint);
            }
            FetchAnswer::Absent => self.byte(1),
            FetchAnswer::Busy => self.byte(2),
            FetchAnswer::Forbidden(reason) => {
                self.byte(3);
                self.byte(*reason);
            }
        }
    }

    fn message(&mut self, message: &PeerMessage) {
        match message {
            PeerMessage::Ping { from, asked } => {
                self.byte(kind::PING);
                self.process(*from);
                self.long(self.clock.number(*asked));
            }
            PeerMessage::Pong { from, asked, reaches, newest, acquired, others } => {
                self.byte(kind::PONG);
                self.process(*from);
                self.long(self.clock.number(*asked));
                self.flag(*reaches);
                self.flag(newest.is_some());
                newest.iter().for_each(|newest| self.long(newest.0));
                self.count(acquired.len());
                for (shard, term) in acquired {
                    self.byte(shard.number());
                    self.long(term.number());
                }
                self.count(others.len());
                others.iter().for_each(|other| self.process(*other));
            }
            PeerMessage::Yours { shard } => {
                self.byte(kind::YOURS);
                self.byte(shard.number());
            }
            PeerMessage::Settled { shard } => {
                self.byte(kind::SETTLED);
                self.byte(shard.number());
            }
        }
    }

    fn forward(&mut self, Forward { shard, hops, is_learned, entry, flow, datagram }: &Forward<'_>) {
        self.byte(kind::FORWARD);
        self.byte(shard.number());
        self.byte(*hops);
        self.flag(*is_learned);
        self.node(*entry);
        self.flow(*flow);
        self.buffer.extend_from_slice(datagram);
    }

    fn process(&mut self, NodeProcess { node, incarnation }: NodeProcess) {
        self.node(node);
        self.long(incarnation.0);
    }

    fn flow(&mut self, NamedFlow { listener, address }: NamedFlow<'_>) {
        self.text(listener);
        self.address(address);
    }

    fn address(&mut self, address: SocketAddr) {
        match address {
            SocketAddr::V4(address) => {
                self.byte(4);
                self.buffer.extend(address.ip().octets());
            }
            SocketAddr::V6(address) => {
                self.byte(6);
                self.buffer.extend(address.ip().octets());
                self.buffer.extend(address.flowinfo().to_be_bytes());
                self.buffer.extend(address.scope_id().to_be_bytes());
            }
        }
        self.buffer.extend(address.port().to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.longest_text = self.longest_text.max(text.len());
        self.count(text.len());
        self.buffer.extend_from_slice(text.as_bytes());
    }

    /// Lists are shorter than a frame, whose length is checked at the end, and so are texts.
    fn count(&mut self, count: usize) {
        self.buffer.extend(u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
    }

    fn node(&mut self, node: NodeNumber) {
        self.byte(node.number());
    }

    fn flag(&mut self, flag: bool) {
        self.byte(u8::from(flag));
    }

    fn long(&mut self, number: u64) {
        self.buffer.extend(number.to_be_bytes());
    }

    fn byte(&mut self, byte: u8) {
        self.buffer.push(byte);
    }
}
