//! MQTT 3.1.1.

use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::qos as quality;
use rumqttc::mqttbytes::v4::{
    ConnAck, ConnectReturnCode, Packet, PubAck, PubComp, PubRec, PubRel, SubAck, SubscribeReasonCode, UnsubAck,
};
use rumqttc::mqttbytes::{Error, v4};

use super::packet::{
    ClientPacket, ConnectPacket, Grant, MAX_PACKET, MalformedClientPacket, PublishPacket, ServerPacket,
};
use crate::bus::ForwardedProperties;
use crate::rules::DeviceCredentials;
use crate::subscribers::{Retained, SubscriptionOptions};

/// Lifetime of a session whose client did not set one.
const KEPT: Duration = Duration::from_secs(24 * 3600);

pub(super) fn decode(bytes: &mut BytesMut) -> Result<Option<ClientPacket>, MalformedClientPacket> {
    match Packet::read(bytes, MAX_PACKET) {
        Ok(packet) => request(packet).map(Some),
        Err(Error::InsufficientBytes(_)) => Ok(None),
        Err(error) => Err(malformed(&error)),
    }
}

pub(super) fn encode(reply: ServerPacket<'_>, out: &mut BytesMut) -> Result<(), MalformedClientPacket> {
    packet(reply)?.write(out, usize::MAX).map(drop).map_err(|error| malformed(&error))
}

fn request(packet: Packet) -> Result<ClientPacket, MalformedClientPacket> {
    Ok(match packet {
        Packet::Connect(connect) => ClientPacket::Connect(connected(connect)),
        Packet::Publish(publish) => ClientPacket::Publish {
            packet: publish.pkid,
            publish: PublishPacket {
                topic: publish.topic,
                qos: publish.qos as u8,
                retain: publish.retain,
                dup: publish.dup,
                payload: publish.payload,
                properties: ForwardedProperties::default(),
            },
        },
        Packet::PubAck(ack) => ClientPacket::PubAck(ack.pkid),
        Packet::PubRec(ack) => ClientPacket::PubRec(ack.pkid),
        Packet::PubRel(ack) => ClientPacket::PubRel(ack.pkid),
        Packet::PubComp(ack) => ClientPacket::PubComp(ack.pkid),
        Packet::Subscribe(subscribe) => ClientPacket::Subscribe {
            packet: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(|filter| (filter.path, options(filter.qos as u8))).collect(),
        },
        Packet::Unsubscribe(unsubscribe) => {
            ClientPacket::Unsubscribe { packet: unsubscribe.pkid, filters: unsubscribe.topics }
        }
        Packet::PingReq => ClientPacket::Ping,
        Packet::Disconnect => ClientPacket::Disconnect { with_will: false, session_expiry: None },
        Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
            return Err(MalformedClientPacket("a packet that only a server sends".to_owned()));
        }
    })
}

fn connected(connect: v4::Connect) -> ConnectPacket {
    let login = connect.login.unwrap_or_else(|| v4::Login::new("", ""));
    ConnectPacket {
        credentials: DeviceCredentials {
            clientid: connect.client_id,
            username: login.username,
            password: login.password,
        },
        clean_start: connect.clean_session,
        // This version does not say how long.
        session_expiry: if connect.clean_session { Duration::ZERO } else { KEPT },
        keep_alive: Duration::from_secs(connect.keep_alive.into()),
        receive_maximum: u16::MAX,
        will: connect.last_will.map(|will| PublishPacket {
            topic: will.topic,
            qos: will.qos as u8,
            retain: will.retain,
            dup: false,
            payload: will.message,
            properties: ForwardedProperties::default(),
        }),
    }
}

/// Returns the options of a subscription: every SUBSCRIBE delivers the retained messages (MQTT 3.1.1 section 3.8.4).
fn options(max_qos: u8) -> SubscriptionOptions {
    SubscriptionOptions { max_qos, retained: Retained::Always, ..SubscriptionOptions::default() }
}

fn packet(reply: ServerPacket<'_>) -> Result<Packet, MalformedClientPacket> {
    Ok(match reply {
        // Version 3.1.1 cannot tell a chosen client ID.
        ServerPacket::ConnAck { chosen: _, session_present } => {
            Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, session_present))
        }
        ServerPacket::Refused => Packet::ConnAck(ConnAck::new(ConnectReturnCode::NotAuthorized, false)),
        ServerPacket::Disconnect(_) => {
            return Err(MalformedClientPacket("version 3.1.1 has no DISCONNECT of the server".to_owned()));
        }
        ServerPacket::Publish { packet, publish } => {
            let qos = quality(publish.qos).map_err(|error| malformed(&error))?;
            let mut packet_out = v4::Publish::from_bytes(publish.topic, qos, publish.payload);
            packet_out.pkid = packet;
            packet_out.retain = publish.retain;
            packet_out.dup = publish.dup;
            Packet::Publish(packet_out)
        }
        // Nor can it tell that a publication is denied.
        ServerPacket::PubAck { packet, allowed: _ } => Packet::PubAck(PubAck::new(packet)),
        ServerPacket::PubRec(packet) => Packet::PubRec(PubRec::new(packet)),
        ServerPacket::PubRel(packet) => Packet::PubRel(PubRel::new(packet)),
        ServerPacket::PubComp(packet) => Packet::PubComp(PubComp::new(packet)),
        ServerPacket::SubAck { packet, grants } => {
            Packet::SubAck(SubAck::new(packet, grants.into_iter().map(reason).collect()))
        }
        ServerPacket::UnsubAck { packet, existed: _ } => Packet::UnsubAck(UnsubAck::new(packet)),
        ServerPacket::Pong => Packet::PingResp,
    })
}

fn reason(grant: Grant) -> SubscribeReasonCode {
    let granted = if let Grant::Granted(qos) = grant { quality(qos).ok() } else { None };
    granted.map_or(SubscribeReasonCode::Failure, SubscribeReasonCode::Success)
}

fn malformed(error: &Error) -> MalformedClientPacket {
    MalformedClientPacket(error.to_string())
}
