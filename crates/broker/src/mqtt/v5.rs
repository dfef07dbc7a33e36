//! MQTT 5.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{
    self, ConnAck, ConnAckProperties, ConnectReturnCode, DisconnectReasonCode, Packet, PingResp, PubAck,
    PubAckProperties, PubAckReason, PubComp, PubRec, PubRel, RetainForwardRule, SubAck, SubscribeReasonCode, UnsubAck,
    UnsubAckReason,
};
use rumqttc::v5::mqttbytes::{Error, qos as quality};

use super::packet::{
    ClientPacket, ConnectPacket, DisconnectCause, Grant, MAX_PACKET, MalformedClientPacket, PublishPacket, ServerPacket,
};
use crate::bus::ForwardedProperties;
use crate::rules::DeviceCredentials;
use crate::subscribers::{Retained, SubscriptionOptions};

/// A DISCONNECT without a reason code: 0, normal (MQTT 5.0 section 3.14.2.1). The codec does not know it.
const PLAIN_DISCONNECT: [u8; 2] = [0xe0, 0];

pub(super) fn decode(bytes: &mut BytesMut) -> Result<Option<ClientPacket>, MalformedClientPacket> {
    if bytes.starts_with(&PLAIN_DISCONNECT) {
        let disconnect = ClientPacket::Disconnect { with_will: false, session_expiry: None };
        bytes.advance(PLAIN_DISCONNECT.len());
        return Ok(Some(disconnect));
    }
    match Packet::read(bytes, Some(largest())) {
        Ok(packet) => request(packet).map(Some),
        Err(Error::InsufficientBytes(_)) => Ok(None),
        Err(error) => Err(malformed(&error)),
    }
}

pub(super) fn encode(reply: ServerPacket<'_>, out: &mut BytesMut) -> Result<(), MalformedClientPacket> {
    if let ServerPacket::Disconnect(ending) = reply {
        // The codec leaves the reason out where there are no properties.
        out.extend_from_slice(&[0xe0, 2, reason_of(ending) as u8, 0]);
        return Ok(());
    }
    packet(reply)?.write(out, None).map(drop).map_err(|error| malformed(&error))
}

fn largest() -> u32 {
    u32::try_from(MAX_PACKET).expect("a packet length of MQTT has 28 bits")
}

fn request(packet: Packet) -> Result<ClientPacket, MalformedClientPacket> {
    Ok(match packet {
        Packet::Connect(connect, will, login) => ClientPacket::Connect(connected(connect, will, login)?),
        Packet::Publish(publish) => ClientPacket::Publish {
            packet: publish.pkid,
            publish: PublishPacket {
                topic: text(&publish.topic)?,
                qos: publish.qos as u8,
                retain: publish.retain,
                dup: publish.dup,
                payload: publish.payload,
                properties: publish.properties.map(forwarded).unwrap_or_default(),
            },
        },
        Packet::PubAck(ack) => ClientPacket::PubAck(ack.pkid),
        Packet::PubRec(ack) => ClientPacket::PubRec(ack.pkid),
        Packet::PubRel(ack) => ClientPacket::PubRel(ack.pkid),
        Packet::PubComp(ack) => ClientPacket::PubComp(ack.pkid),
        Packet::Subscribe(subscribe) => ClientPacket::Subscribe {
            packet: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(subscription).collect(),
        },
        Packet::Unsubscribe(unsubscribe) => {
            ClientPacket::Unsubscribe { packet: unsubscribe.pkid, filters: unsubscribe.filters }
        }
        Packet::PingReq(_) => ClientPacket::Ping,
        Packet::Disconnect(disconnect) => {
            let expiry = disconnect.properties.and_then(|properties| properties.session_expiry_interval);
            ClientPacket::Disconnect {
                with_will: disconnect.reason_code == DisconnectReasonCode::DisconnectWithWillMessage,
                session_expiry: expiry.map(|seconds| Duration::from_secs(seconds.into())),
            }
        }
        Packet::Auth(_) | Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp(_) => {
            return Err(MalformedClientPacket("a packet that is not understood from a client".to_owned()));
        }
    })
}

fn connected(
    connect: v5::Connect,
    will: Option<v5::LastWill>,
    login: Option<v5::Login>,
) -> Result<ConnectPacket, MalformedClientPacket> {
    let will = will.map(|will| {
        let topic = text(&will.topic)?;
        let properties = ForwardedProperties::default();
        Ok(PublishPacket {
            topic,
            qos: will.qos as u8,
            retain: will.retain,
            dup: false,
            payload: will.message,
            properties,
        })
    });
    let (expiry, receive_maximum) = connect
        .properties
        .map_or((None, None), |properties| (properties.session_expiry_interval, properties.receive_maximum));
    let login = login.unwrap_or_else(|| v5::Login::new("", ""));
    Ok(ConnectPacket {
        credentials: DeviceCredentials {
            clientid: connect.client_id,
            username: login.username,
            password: login.password,
        },
        clean_start: connect.clean_start,
        session_expiry: Duration::from_secs(expiry.unwrap_or(0).into()),
        keep_alive: Duration::from_secs(connect.keep_alive.into()),
        receive_maximum: receive_maximum.unwrap_or(u16::MAX),
        will: will.transpose()?,
    })
}

/// Returns a topic. Aliases are not allowed, because no Topic Alias Maximum is announced (MQTT 5.0 section 3.2.2.3.8).
fn text(topic: &Bytes) -> Result<String, MalformedClientPacket> {
    String::from_utf8(topic.to_vec()).map_err(|error| MalformedClientPacket(error.to_string()))
}

fn subscription(filter: v5::Filter) -> (String, SubscriptionOptions) {
    let options = SubscriptionOptions {
        max_qos: filter.qos as u8,
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retained: match filter.retain_forward_rule {
            RetainForwardRule::OnEverySubscribe => Retained::Always,
            RetainForwardRule::OnNewSubscribe => Retained::OnNew,
            RetainForwardRule::Never => Retained::Never,
        },
    };
    (filter.path, options)
}

fn packet(reply: ServerPacket<'_>) -> Result<Packet, MalformedClientPacket> {
    Ok(match reply {
        ServerPacket::ConnAck { chosen, session_present } => Packet::ConnAck(ConnAck {
            session_present,
            code: ConnectReturnCode::Success,
            properties: Some(properties(chosen)),
        }),
        ServerPacket::Refused => Packet::ConnAck(ConnAck {
            session_present: false,
            code: ConnectReturnCode::NotAuthorized,
            properties: Some(properties(None)),
        }),
        ServerPacket::Disconnect(ending) => Packet::Disconnect(v5::Disconnect::new(reason_of(ending))),
        ServerPacket::Publish { packet, publish } => {
            let qos = quality(publish.qos).ok_or_else(|| MalformedClientPacket("QoS".to_owned()))?;
            let mut packet_out = v5::Publish::new(publish.topic, qos, publish.payload, Some(told(publish.properties)));
            packet_out.pkid = packet;
            packet_out.retain = publish.retain;
            packet_out.dup = publish.dup;
            Packet::Publish(packet_out)
        }
        ServerPacket::PubAck { packet, allowed: true } => Packet::PubAck(PubAck::new(packet, None)),
        ServerPacket::PubAck { packet, allowed: false } => Packet::PubAck(PubAck {
            pkid: packet,
            reason: PubAckReason::NotAuthorized,
            // The codec writes a wrong length without.
            properties: Some(PubAckProperties { reason_string: None, user_properties: Vec::new() }),
        }),
        ServerPacket::PubRec(packet) => Packet::PubRec(PubRec::new(packet, None)),
        ServerPacket::PubRel(packet) => Packet::PubRel(PubRel::new(packet, None)),
        ServerPacket::PubComp(packet) => Packet::PubComp(PubComp::new(packet, None)),
        ServerPacket::SubAck { packet, grants } => {
            let return_codes = grants.into_iter().map(reason).collect();
            Packet::SubAck(SubAck { pkid: packet, return_codes, properties: None })
        }
        ServerPacket::UnsubAck { packet, existed } => {
            let reason =
                |existed| if existed { UnsubAckReason::Success } else { UnsubAckReason::NoSubscriptionExisted };
            let reasons = existed.into_iter().map(reason).collect();
            Packet::UnsubAck(UnsubAck { pkid: packet, reasons, properties: None })
        }
        ServerPacket::Pong => Packet::PingResp(PingResp),
    })
}

fn reason(grant: Grant) -> SubscribeReasonCode {
    match grant {
        Grant::Granted(qos) => {
            quality(qos).map_or(SubscribeReasonCode::TopicFilterInvalid, SubscribeReasonCode::Success)
        }
        Grant::Invalid => SubscribeReasonCode::TopicFilterInvalid,
        Grant::Denied => SubscribeReasonCode::NotAuthorized,
    }
}

fn reason_of(ending: DisconnectCause) -> DisconnectReasonCode {
    match ending {
        DisconnectCause::TakenOver => DisconnectReasonCode::SessionTakenOver,
        DisconnectCause::Kicked => DisconnectReasonCode::AdministrativeAction,
        DisconnectCause::Stopped => DisconnectReasonCode::ServerShuttingDown,
    }
}

fn forwarded(properties: v5::PublishProperties) -> ForwardedProperties {
    ForwardedProperties {
        content_type: properties.content_type,
        response_topic: properties.response_topic,
        correlation_data: properties.correlation_data,
        user_properties: properties.user_properties,
        message_expiry: properties.message_expiry_interval,
    }
}

fn told(properties: ForwardedProperties) -> v5::PublishProperties {
    v5::PublishProperties {
        content_type: properties.content_type,
        response_topic: properties.response_topic,
        correlation_data: properties.correlation_data,
        user_properties: properties.user_properties,
        message_expiry_interval: properties.message_expiry,
        ..v5::PublishProperties::default()
    }
}

/// Returns the CONNACK properties in which this broker differs from the defaults of MQTT.
fn properties(chosen: Option<&str>) -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: Some(largest()),
        assigned_client_identifier: chosen.map(str::to_owned),
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: Some(0),
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

fn malformed(error: &Error) -> MalformedClientPacket {
    MalformedClientPacket(error.to_string())
}
