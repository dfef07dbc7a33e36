//! A bare client of MQTT 5: each connection writes one PUBLISH at a time; with QoS 1 it waits for acknowledgements when
//! as many are in flight as the gateway allows.

use std::net::SocketAddr;

use anyhow::ensure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{BareWork, PAYLOAD, names};

/// Publications of QoS 1 in flight on a connection: `upstream.mqtt.max_inflight`.
const WINDOW: usize = 8;
/// The bytes of a PUBACK without a reason code (MQTT 5.0 section 3.4).
const PUBACK: usize = 4;

/// Makes so many clients of the broker, and has each of them publish.
pub(super) async fn begin(work: &'static BareWork, devices: u32, qos: u8, broker: SocketAddr) -> anyhow::Result<()> {
    for number in 0..devices {
        let mut stream = TcpStream::connect(broker).await?;
        stream.set_nodelay(true)?;
        let (clientid, _) = names(number);
        stream.write_all(&connect(&clientid)).await?;
        let mut connack = [0; 2];
        stream.read_exact(&mut connack).await?;
        let mut rest = vec![0; usize::from(connack[1])];
        stream.read_exact(&mut rest).await?;
        ensure!(connack[0] == 0x20 && rest[1] == 0, "CONNECT was answered {connack:x?} {rest:x?}");
        tokio::spawn(async move {
            if let Err(error) = publish(work, stream, number, qos).await {
                eprintln!("load: the bare client: {error:#}");
            }
        });
    }
    Ok(())
}

async fn publish(work: &BareWork, mut stream: TcpStream, number: u32, qos: u8) -> anyhow::Result<()> {
    let (_, topic) = names(number);
    let packet = packet(&topic, qos);
    let mut pace = work.pace(number);
    let (mut in_flight, mut partial, mut acks) = (0, 0, [0; PUBACK * WINDOW]);
    while work.goes_on() {
        pace.tick().await;
        stream.write_all(&packet).await?;
        work.count(1);
        if qos == 0 {
            continue;
        }
        in_flight += 1;
        while in_flight == WINDOW {
            let read = partial + stream.read(&mut acks).await?;
            ensure!(read > partial, "the broker closed the connection");
            in_flight -= (read / PUBACK).min(in_flight);
            partial = read % PUBACK;
        }
    }
    Ok(())
}

fn connect(clientid: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\x02\x00\x00\x00".to_vec();
    body.extend(text(clientid));
    [vec![0x10], length(body.len()), body].concat()
}

/// PUBLISH with the properties of the gateway. All use one packet identifier: brokers only echo it.
fn packet(topic: &str, qos: u8) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend([0, 1]);
    }
    let content_type = [vec![0x03], text("application/json")].concat();
    body.extend(length(content_type.len()));
    body.extend(content_type);
    body.extend(PAYLOAD);
    [vec![0x30 | qos << 1], length(body.len()), body].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// Encodes the length of a packet (MQTT 5.0 section 1.5.5).
fn length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        bytes.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if length == 0 {
            return bytes;
        }
    }
}
