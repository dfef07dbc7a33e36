//! MQTT 5.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{
    self, ConnAck, ConnAckProperties, ConnectReturnCode, DisconnectReasonCode, Packet, PingResp, PubAck, PubComp,
    PubRec, PubRel, RetainForwardRule, SubAck, SubscribeReasonCode, UnsubAck, UnsubAckReason,
};
use rumqttc::v5::mqttbytes::{Error, qos as quality};

use super::codec::{Connect, MAX_PACKET, Malformed, Publish, Reply, Request};
use crate::embedded::bus::{Options, Retained};

/// A DISCONNECT without a reason code: 0, normal (MQTT 5.0 section 3.14.2.1). The codec does not know it.
const PLAIN_DISCONNECT: [u8; 2] = [0xe0, 0];

pub(super) fn decode(bytes: &mut BytesMut) -> Result<Option<Request>, Malformed> {
    if bytes.starts_with(&PLAIN_DISCONNECT) {
        return Ok(Some(Request::Disconnect { with_will: false }));
    }
    match Packet::read(bytes, Some(largest())) {
        Ok(packet) => request(packet).map(Some),
        Err(Error::InsufficientBytes(_)) => Ok(None),
        Err(error) => Err(malformed(&error)),
    }
}

pub(super) fn encode(reply: Reply<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
    packet(reply)?.write(out, None).map(drop).map_err(|error| malformed(&error))
}

fn largest() -> u32 {
    u32::try_from(MAX_PACKET).expect("a packet length of MQTT has 28 bits")
}

fn request(packet: Packet) -> Result<Request, Malformed> {
    Ok(match packet {
        Packet::Connect(connect, will, _) => Request::Connect(connected(connect, will)?),
        Packet::Publish(publish) => Request::Publish {
            packet: publish.pkid,
            publish: Publish {
                topic: text(&publish.topic)?,
                qos: publish.qos as u8,
                retain: publish.retain,
                payload: publish.payload,
            },
        },
        Packet::PubAck(ack) => Request::PubAck(ack.pkid),
        Packet::PubRec(ack) => Request::PubRec(ack.pkid),
        Packet::PubRel(ack) => Request::PubRel(ack.pkid),
        Packet::PubComp(ack) => Request::PubComp(ack.pkid),
        Packet::Subscribe(subscribe) => Request::Subscribe {
            packet: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(subscription).collect(),
        },
        Packet::Unsubscribe(unsubscribe) => {
            Request::Unsubscribe { packet: unsubscribe.pkid, filters: unsubscribe.filters }
        }
        Packet::PingReq(_) => Request::Ping,
        Packet::Disconnect(disconnect) => {
            Request::Disconnect { with_will: disconnect.reason_code == DisconnectReasonCode::DisconnectWithWillMessage }
        }
        Packet::Auth(_) | Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp(_) => {
            return Err(Malformed("a packet that is not understood from a client".to_owned()));
        }
    })
}

fn connected(connect: v5::Connect, will: Option<v5::LastWill>) -> Result<Connect, Malformed> {
    let will = will.map(|will| {
        let topic = text(&will.topic)?;
        Ok(Publish { topic, qos: will.qos as u8, retain: will.retain, payload: will.message })
    });
    let properties = connect.properties;
    Ok(Connect {
        clientid: connect.client_id,
        keep_alive: Duration::from_secs(connect.keep_alive.into()),
        receive_maximum: properties.and_then(|properties| properties.receive_maximum).unwrap_or(u16::MAX),
        will: will.transpose()?,
    })
}

/// A topic alias is not allowed to clients: no Topic Alias Maximum is announced (MQTT 5.0 section 3.2.2.3.8).
fn text(topic: &Bytes) -> Result<String, Malformed> {
    String::from_utf8(topic.to_vec()).map_err(|error| Malformed(error.to_string()))
}

fn subscription(filter: v5::Filter) -> (String, Options) {
    let options = Options {
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

fn packet(reply: Reply<'_>) -> Result<Packet, Malformed> {
    Ok(match reply {
        Reply::ConnAck { chosen } => Packet::ConnAck(ConnAck {
            session_present: false,
            code: ConnectReturnCode::Success,
            properties: Some(properties(chosen)),
        }),
        Reply::Publish { packet, publish } => {
            let qos = quality(publish.qos).ok_or_else(|| Malformed("QoS".to_owned()))?;
            let mut packet_out = v5::Publish::new(publish.topic, qos, publish.payload, None);
            packet_out.pkid = packet;
            packet_out.retain = publish.retain;
            Packet::Publish(packet_out)
        }
        Reply::PubAck(packet) => Packet::PubAck(PubAck::new(packet, None)),
        Reply::PubRec(packet) => Packet::PubRec(PubRec::new(packet, None)),
        Reply::PubRel(packet) => Packet::PubRel(PubRel::new(packet, None)),
        Reply::PubComp(packet) => Packet::PubComp(PubComp::new(packet, None)),
        Reply::SubAck { packet, granted } => {
            let return_codes = granted.into_iter().map(reason).collect();
            Packet::SubAck(SubAck { pkid: packet, return_codes, properties: None })
        }
        Reply::UnsubAck { packet, existed } => {
            let reason =
                |existed| if existed { UnsubAckReason::Success } else { UnsubAckReason::NoSubscriptionExisted };
            let reasons = existed.into_iter().map(reason).collect();
            Packet::UnsubAck(UnsubAck { pkid: packet, reasons, properties: None })
        }
        Reply::Pong => Packet::PingResp(PingResp),
    })
}

fn reason(granted: Option<u8>) -> SubscribeReasonCode {
    granted.and_then(quality).map_or(SubscribeReasonCode::TopicFilterInvalid, SubscribeReasonCode::Success)
}

/// What this broker does otherwise than a client may expect.
fn properties(chosen: Option<&str>) -> ConnAckProperties {
    ConnAckProperties {
        // Sessions end with the connection.
        session_expiry_interval: Some(0),
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

fn malformed(error: &Error) -> Malformed {
    Malformed(error.to_string())
}
