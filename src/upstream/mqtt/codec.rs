//! The packets of MQTT 5 and 3.1.1, in the same words for both versions: the packets of the gateway as bytes, those of
//! the broker as [`Incoming`]. The packets are those of `mqtt-protocol-core`, which no other module knows. What 3.1.1
//! cannot express is left out, and its return codes are read as the reason codes of version 5.

use std::fmt;
use std::io::IoSlice;
use std::time::Duration;

use mqtt_protocol_core::mqtt::packet::{
    ContentType, CorrelationData, MaximumPacketSize, MessageExpiryInterval, Property, Qos, ReceiveMaximum,
    RetainHandling, SessionExpiryInterval, SubEntry, SubOpts, UserProperty, VariableByteInteger, WillDelayInterval,
    v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{DisconnectReasonCode, MqttError};
use thiserror::Error;

use lwm2m_core::command::ResponseTopic;
use lwm2m_core::gateway::broker::{ClientInfo, MessageProperties, Publication, UplinkClass};

use super::reason::Reason;

/// The content type of every payload.
const JSON: &str = "application/json";
/// Limits the messages of QoS 1 that the broker may send without an acknowledgement (Receive Maximum).
pub(crate) const RECEIVE_MAXIMUM: u16 = 64;
/// Limits the bytes of a packet's length (MQTT 5.0 section 1.5.5).
const LONGEST_LENGTH: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolVersion {
    V5,
    V311,
}

/// Describes the gateway in CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    pub client: &'a ClientInfo,
    pub keep_alive: u16,
    /// The time for which the broker keeps the session after the connection.
    pub session_expiry: Duration,
    pub max_packet_size: usize,
    /// The time after which the broker publishes the will; `None` is at once.
    pub will_delay: Option<Duration>,
}

/// Says how a publication is sent this time.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    pub client: &'a ClientInfo,
    /// `None` for QoS 0.
    pub packet: Option<PacketId>,
    /// Tells that the publication was sent before (DUP).
    pub again: bool,
    pub retain: bool,
}

/// A packet identifier, which is never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketId(u16);

/// Lists the packets from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    ConnAck(Box<ConnAck>),
    SubAck { packet: PacketId, reason: Reason },
    UnsubAck,
    PubAck { packet: PacketId, reason: Reason },
    Publish(Box<MqttMessage>),
    Pong,
    Disconnect { reason: Reason, server: Option<String> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    pub reason: Reason,
    pub session_present: bool,
    pub limits: ServerLimits,
    /// Names another server to use.
    pub server: Option<String>,
}

/// Lists the limits that the broker set in CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Limits the publications of QoS 1 without the broker's acknowledgement.
    pub receive_maximum: u16,
    pub max_packet_size: usize,
    pub max_qos: u8,
    pub retain: bool,
    /// The keep alive in seconds that replaces that of the gateway. Zero means none.
    pub keep_alive: Option<u16>,
}

/// A message of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttMessage {
    pub topic: String,
    pub payload: Vec<u8>,
    /// The identifier to acknowledge, with QoS 1.
    pub packet: Option<PacketId>,
    /// Tells that the broker sent the message before (DUP), perhaps on an earlier connection.
    pub again: bool,
    pub properties: MessageProperties,
}

/// Says how a packet of the broker violates the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("a malformed packet: {0}")]
    Packet(MqttError),
    #[error("a packet of {0} bytes")]
    TooLarge(usize),
    #[error("a packet of type {0}, which no broker sends to this client")]
    Unexpected(u8),
}

/// Says that MQTT has no packet for a value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the broker's MQTT version cannot express it: {0}")]
pub struct EncodeError(MqttError);

impl fmt::Display for Incoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ConnAck(_) => "CONNACK",
            Self::SubAck { .. } => "SUBACK",
            Self::UnsubAck => "UNSUBACK",
            Self::PubAck { .. } => "PUBACK",
            Self::Publish(_) => "PUBLISH",
            Self::Pong => "PINGRESP",
            Self::Disconnect { .. } => "DISCONNECT",
        })
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl PacketId {
    pub const FIRST: Self = Self(1);

    pub(crate) const fn new(number: u16) -> Self {
        Self(number)
    }

    pub(crate) const fn number(self) -> u16 {
        self.0
    }

    /// Returns the next identifier. The first follows the last.
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).unwrap_or(1))
    }
}

impl Default for ServerLimits {
    /// Returns the limits of a broker that states none (MQTT 5.0 section 3.2.2.3).
    fn default() -> Self {
        Self { receive_maximum: u16::MAX, max_packet_size: usize::MAX, max_qos: 2, retain: true, keep_alive: None }
    }
}

// -- What we say ------------------------------------------------------------------------------------------------------

pub fn connect(version: ProtocolVersion, connect: Connect<'_>) -> Result<Vec<u8>, EncodeError> {
    Ok(match version {
        ProtocolVersion::V5 => connect_v5(connect)?,
        ProtocolVersion::V311 => connect_v311(connect)?,
    })
}

/// Encodes SUBSCRIBE, with QoS 1 at most: a command that comes twice after a restart is no worse than one that is sent
/// to the device twice.
pub fn subscribe(version: ProtocolVersion, packet: PacketId, filter: &str, qos: u8) -> Result<Vec<u8>, EncodeError> {
    // A session that had the filter already is not given the retained messages again.
    let options = SubOpts::new().set_qos(quality(qos));
    Ok(match version {
        ProtocolVersion::V5 => {
            let entry = SubEntry::new(filter, options.set_rh(RetainHandling::SendRetainedIfNotExists))?;
            v5_0::Subscribe::builder().packet_id(packet.0).entries(vec![entry]).build()?.to_continuous_buffer()
        }
        ProtocolVersion::V311 => {
            let entry = SubEntry::new(filter, options)?;
            v3_1_1::Subscribe::builder().packet_id(packet.0).entries(vec![entry]).build()?.to_continuous_buffer()
        }
    })
}

/// Encodes the end of a session for version 3.1.1: nothing waits in it any more.
pub(crate) fn unsubscribe_v311(packet: PacketId, filter: &str) -> Result<Vec<u8>, EncodeError> {
    let packet = v3_1_1::Unsubscribe::builder().packet_id(packet.0).entries(vec![filter])?.build()?;
    Ok(packet.to_continuous_buffer())
}

/// Encodes PUBLISH. QoS 2 is sent as QoS 1, see the documentation of [`super`].
pub fn publish(
    version: ProtocolVersion,
    publication: &Publication,
    sending: Sending<'_>,
) -> Result<Vec<u8>, EncodeError> {
    Ok(match version {
        ProtocolVersion::V5 => {
            let mut packet = v5_0::Publish::builder()
                .topic_name(publication.topic.as_str())?
                .qos(quality(u8::from(sending.packet.is_some())))
                .retain(sending.retain)
                .dup(sending.again)
                .props(properties(publication, sending.client)?);
            if let Some(PacketId(id)) = sending.packet {
                packet = packet.packet_id(id);
            }
            with_payload(&packet.build()?.to_buffers(), &publication.payload)?
        }
        ProtocolVersion::V311 => {
            let mut packet = v3_1_1::Publish::builder()
                .topic_name(publication.topic.as_str())?
                .qos(quality(u8::from(sending.packet.is_some())))
                .retain(sending.retain)
                .dup(sending.again);
            if let Some(PacketId(id)) = sending.packet {
                packet = packet.packet_id(id);
            }
            with_payload(&packet.build()?.to_buffers(), &publication.payload)?
        }
    })
}

/// Joins the parts of a PUBLISH without a payload, in their order, with its payload. The payload is copied once: the
/// packet of the library would keep a copy of its own. It changes nothing but the length, which is the second part.
fn with_payload(packet: &[IoSlice<'_>], payload: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let [header, _, parts @ ..] = packet else { return Err(EncodeError(MqttError::MalformedPacket)) };
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + payload.len();
    let length = u32::try_from(length).ok().and_then(VariableByteInteger::from_u32);
    let length = length.ok_or(EncodeError(MqttError::PacketTooLarge))?;
    let mut bytes = Vec::with_capacity(header.len() + length.size() + length.to_u32() as usize);
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(length.as_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// Encodes PUBACK. Without a reason code, which means success, it is the same in both versions.
pub(crate) fn puback(packet: PacketId) -> Vec<u8> {
    let [high, low] = packet.0.to_be_bytes();
    vec![0x40, 2, high, low]
}

pub fn ping() -> Vec<u8> {
    vec![0xc0, 0]
}

/// Encodes DISCONNECT. The session ends with the connection, or is kept for `session_expiry`; version 3.1.1 keeps it in
/// any case. With `with_will` the broker publishes the will.
pub fn disconnect(version: ProtocolVersion, session_expiry: Duration, with_will: bool) -> Result<Vec<u8>, EncodeError> {
    let reason = if with_will {
        DisconnectReasonCode::DisconnectWithWillMessage
    } else {
        DisconnectReasonCode::NormalDisconnection
    };
    Ok(match version {
        ProtocolVersion::V5 => {
            let expiry = Property::SessionExpiryInterval(SessionExpiryInterval::new(seconds(session_expiry))?);
            v5_0::Disconnect::builder().reason_code(reason).props(vec![expiry]).build()?.to_continuous_buffer()
        }
        ProtocolVersion::V311 => vec![0xe0, 0],
    })
}

fn connect_v5(connect: Connect<'_>) -> Result<Vec<u8>, EncodeError> {
    let Connect { client, keep_alive, session_expiry, max_packet_size, will_delay } = connect;
    let size = u32::try_from(max_packet_size).unwrap_or(u32::MAX);
    let properties = vec![
        Property::SessionExpiryInterval(SessionExpiryInterval::new(seconds(session_expiry))?),
        Property::ReceiveMaximum(ReceiveMaximum::new(RECEIVE_MAXIMUM)?),
        Property::MaximumPacketSize(MaximumPacketSize::new(size)?),
    ];
    let mut packet = v5_0::Connect::builder()
        .client_id(client.clientid.as_str())?
        .clean_start(false)
        .keep_alive(keep_alive)
        .user_name(client.username.as_str())?
        .props(properties);
    if let Some(password) = &client.password {
        packet = packet.password(password.reveal().as_bytes().to_vec())?;
    }
    if let Some(will) = &client.will {
        let mut properties = vec![Property::ContentType(ContentType::new(JSON)?)];
        if let Some(delay) = will_delay {
            properties.push(Property::WillDelayInterval(WillDelayInterval::new(seconds(delay))?));
        }
        packet = packet
            .will_message(will.topic.as_str(), will.payload.clone(), quality(will.qos.min(1)), true)?
            .will_props(properties);
    }
    Ok(packet.build()?.to_continuous_buffer())
}

fn connect_v311(connect: Connect<'_>) -> Result<Vec<u8>, EncodeError> {
    let Connect { client, keep_alive, .. } = connect;
    let mut packet = v3_1_1::Connect::builder()
        .client_id(client.clientid.as_str())?
        .clean_session(false)
        .keep_alive(keep_alive)
        .user_name(client.username.as_str())?;
    if let Some(password) = &client.password {
        packet = packet.password(password.reveal().as_bytes().to_vec())?;
    }
    if let Some(will) = &client.will {
        packet = packet.will_message(will.topic.as_str(), will.payload.clone(), quality(will.qos.min(1)), true)?;
    }
    Ok(packet.build()?.to_continuous_buffer())
}

fn properties(publication: &Publication, client: &ClientInfo) -> Result<Vec<Property>, EncodeError> {
    let mut properties = vec![Property::ContentType(ContentType::new(JSON)?)];
    if let Some(expiry) = publication.expiry {
        properties.push(Property::MessageExpiryInterval(MessageExpiryInterval::new(seconds(expiry))?));
    }
    if let Some(correlation) = &publication.correlation {
        properties.push(Property::CorrelationData(CorrelationData::new(correlation.clone())?));
    }
    if publication.class == UplinkClass::Registration {
        properties.push(Property::UserProperty(UserProperty::new("endpoint", client.endpoint.as_str())?));
        properties.push(Property::UserProperty(UserProperty::new("lwm2m", client.proto_ver.as_str())?));
    }
    Ok(properties)
}

/// Encodes an expiry interval, rounded up. The largest number means "never" for a session (MQTT 5.0 section
/// 3.1.2.11.2), and is not used by accident.
fn seconds(expiry: Duration) -> u32 {
    let rounded_up = expiry.as_secs().saturating_add(u64::from(expiry.subsec_nanos() > 0));
    u32::try_from(rounded_up).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

fn quality(qos: u8) -> Qos {
    if qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce }
}

// -- What we hear -----------------------------------------------------------------------------------------------------

/// Splits a stream into packets.
#[derive(Debug)]
pub struct Frames {
    version: ProtocolVersion,
    max_packet_size: usize,
    /// Holds the bytes that are no whole packet yet. It is empty, and without memory, between packets.
    partial: Vec<u8>,
}

impl Frames {
    pub fn new(version: ProtocolVersion, max_packet_size: usize) -> Self {
        Self { version, max_packet_size, partial: Vec::new() }
    }

    /// Adds what was read, and gives the packets that are whole now.
    ///
    /// # Errors
    /// If a packet is malformed or too large. The connection has to be closed then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Incoming>, Malformed> {
        let mut packets = Vec::new();
        if self.partial.is_empty() {
            let taken = self.decode(bytes, &mut packets)?;
            self.partial.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        } else {
            let mut joined = std::mem::take(&mut self.partial);
            joined.extend_from_slice(bytes);
            let taken = self.decode(&joined, &mut packets)?;
            if taken < joined.len() {
                joined.drain(..taken);
                self.partial = joined;
            }
        }
        Ok(packets)
    }

    /// Gives how many bytes the whole packets take.
    fn decode(&self, bytes: &[u8], packets: &mut Vec<Incoming>) -> Result<usize, Malformed> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..)
            && let Some((header, body)) = self.frame(rest)?
        {
            packets.push(decode(self.version, rest[0], body)?);
            taken += header + body.len();
        }
        Ok(taken)
    }

    /// Returns the number of bytes of the fixed header of the first packet, and its body, or `None` while the packet is
    /// incomplete.
    fn frame<'a>(&self, bytes: &'a [u8]) -> Result<Option<(usize, &'a [u8])>, Malformed> {
        let mut length = 0_usize;
        for (index, byte) in bytes.iter().skip(1).take(LONGEST_LENGTH).enumerate() {
            length |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let header = index + 2;
                if header + length > self.max_packet_size {
                    return Err(Malformed::TooLarge(header + length));
                }
                return Ok(bytes.get(header..header + length).map(|body| (header, body)));
            }
        }
        if bytes.len() > LONGEST_LENGTH { Err(Malformed::Packet(MqttError::MalformedPacket)) } else { Ok(None) }
    }
}

fn decode(version: ProtocolVersion, first: u8, body: &[u8]) -> Result<Incoming, Malformed> {
    match (first >> 4, version) {
        // A broker that knows no version 5 says so in the words of version 3.1.1, which are shorter.
        (2, _) if body.len() == 2 => connack_v311(body),
        (2, ProtocolVersion::V5) => connack_v5(body),
        (3, ProtocolVersion::V5) => publish_v5(first & 0xf, body),
        (3, ProtocolVersion::V311) => publish_v311(first & 0xf, body),
        (4, ProtocolVersion::V5) => {
            let ack = whole(body, v5_0::Puback::parse(body))?;
            let reason = ack.reason_code().map_or(Reason::SUCCESS, |reason| Reason(reason as u8));
            Ok(Incoming::PubAck { packet: PacketId(ack.packet_id()), reason })
        }
        (4, ProtocolVersion::V311) => {
            let ack = whole(body, v3_1_1::Puback::parse(body))?;
            Ok(Incoming::PubAck { packet: PacketId(ack.packet_id()), reason: Reason::SUCCESS })
        }
        (9, ProtocolVersion::V5) => {
            let ack = whole(body, v5_0::Suback::parse(body))?;
            let reason = ack.reason_codes().first().map(|reason| Reason(*reason as u8));
            suback(ack.packet_id(), reason)
        }
        (9, ProtocolVersion::V311) => {
            let ack = whole(body, v3_1_1::Suback::parse(body))?;
            let reason = ack.return_codes().first().map(|code| Reason(*code as u8));
            suback(ack.packet_id(), reason)
        }
        (11, _) => Ok(Incoming::UnsubAck),
        (13, _) if body.is_empty() => Ok(Incoming::Pong),
        (14, ProtocolVersion::V5) => {
            let packet = whole(body, v5_0::Disconnect::parse(body))?;
            let reason = packet.reason_code().map_or(Reason::SUCCESS, |reason| Reason(reason as u8));
            let server = packet.props().as_ref().and_then(|properties| server_reference(properties));
            Ok(Incoming::Disconnect { reason, server })
        }
        (other, _) => Err(Malformed::Unexpected(other)),
    }
}

fn connack_v5(body: &[u8]) -> Result<Incoming, Malformed> {
    let packet = whole(body, v5_0::Connack::parse(body))?;
    let mut limits = ServerLimits::default();
    for property in packet.props() {
        match property {
            Property::ReceiveMaximum(maximum) => limits.receive_maximum = maximum.val(),
            Property::MaximumPacketSize(size) => limits.max_packet_size = size.val() as usize,
            Property::MaximumQos(qos) => limits.max_qos = qos.val(),
            Property::RetainAvailable(available) => limits.retain = available.val() != 0,
            Property::ServerKeepAlive(seconds) => limits.keep_alive = Some(seconds.val()),
            // The library has checked which may be there; the others ask nothing of us.
            _ => {}
        }
    }
    Ok(Incoming::ConnAck(Box::new(ConnAck {
        reason: Reason(packet.reason_code() as u8),
        session_present: packet.session_present(),
        limits,
        server: server_reference(packet.props()),
    })))
}

/// Reads the return codes of MQTT 3.1.1 section 3.2.2.3 as reason codes of version 5.
fn connack_v311(body: &[u8]) -> Result<Incoming, Malformed> {
    let packet = whole(body, v3_1_1::Connack::parse(body))?;
    let reason = match packet.return_code() as u8 {
        0 => Reason::SUCCESS,
        1 => Reason::UNSUPPORTED_PROTOCOL_VERSION,
        2 => Reason::CLIENT_IDENTIFIER_NOT_VALID,
        3 => Reason::SERVER_UNAVAILABLE,
        4 => Reason::BAD_USER_NAME_OR_PASSWORD,
        5 => Reason::NOT_AUTHORIZED,
        _ => Reason::UNSPECIFIED_ERROR,
    };
    let session_present = packet.session_present();
    Ok(Incoming::ConnAck(Box::new(ConnAck { reason, session_present, limits: ServerLimits::default(), server: None })))
}

fn suback(packet: u16, reason: Option<Reason>) -> Result<Incoming, Malformed> {
    let reason = reason.ok_or(Malformed::Packet(MqttError::ProtocolError))?;
    Ok(Incoming::SubAck { packet: PacketId(packet), reason })
}

fn publish_v5(flags: u8, body: &[u8]) -> Result<Incoming, Malformed> {
    let packet = whole(body, v5_0::Publish::parse(flags, body.into()))?;
    let mut properties = MessageProperties { retained: packet.retain(), ..MessageProperties::default() };
    let (mut topic, mut correlation) = (None, None);
    for property in packet.props() {
        match property {
            Property::MessageExpiryInterval(expiry) => {
                properties.expiry = Some(Duration::from_secs(expiry.val().into()));
            }
            Property::ResponseTopic(response) => topic = Some(response.val().to_owned()),
            Property::CorrelationData(data) => correlation = Some(data.val().to_vec()),
            // What else an application may say is of no use to a device.
            _ => {}
        }
    }
    properties.reply = topic.map(|topic| ResponseTopic { topic, correlation });
    let delivery = (packet.qos(), packet.packet_id(), packet.dup());
    message(packet.topic_name(), packet.payload().as_slice(), delivery, properties)
}

fn publish_v311(flags: u8, body: &[u8]) -> Result<Incoming, Malformed> {
    let packet = whole(body, v3_1_1::Publish::parse(flags, body.into()))?;
    let properties = MessageProperties { retained: packet.retain(), ..MessageProperties::default() };
    let delivery = (packet.qos(), packet.packet_id(), packet.dup());
    message(packet.topic_name(), packet.payload().as_slice(), delivery, properties)
}

/// Rejects QoS 2, which was not subscribed.
fn message(
    topic: &str,
    payload: &[u8],
    (qos, packet, again): (Qos, Option<u16>, bool),
    properties: MessageProperties,
) -> Result<Incoming, Malformed> {
    if qos == Qos::ExactlyOnce {
        return Err(Malformed::Packet(MqttError::QosNotSupported));
    }
    let packet = packet.map(PacketId);
    let (topic, payload) = (topic.to_owned(), payload.to_vec());
    Ok(Incoming::Publish(Box::new(MqttMessage { topic, payload, packet, again, properties })))
}

fn server_reference(properties: &[Property]) -> Option<String> {
    properties.iter().find_map(|property| match property {
        Property::ServerReference(server) => Some(server.val().to_owned()),
        _ => None,
    })
}

/// Rejects bytes that the parser of the library left behind.
fn whole<T>(body: &[u8], parsed: Result<(T, usize), MqttError>) -> Result<T, Malformed> {
    match parsed {
        Ok((packet, length)) if length == body.len() => Ok(packet),
        Ok(_) => Err(Malformed::Packet(MqttError::MalformedPacket)),
        Err(error) => Err(Malformed::Packet(error)),
    }
}

impl From<MqttError> for EncodeError {
    fn from(error: MqttError) -> Self {
        Self(error)
    }
}

#[cfg(test)]
mod tests;
