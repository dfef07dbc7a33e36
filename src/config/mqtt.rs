//! The section `upstream.mqtt`.

use std::time::Duration;

use crate::upstream::mqtt::{MqttConfig, ProtocolVersion};

use super::groups::{link, tls};
use super::reader::ConfigReader;
use super::value_parsers::{SECOND, broker_address, choice, duration, list, not_empty, whole};

/// Address of an MQTT listener on this machine.
const BROKER: &str = "127.0.0.1:1883";
/// Keep Alive is a number of two bytes (MQTT 5.0 section 3.1.2.10).
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(65_535);
/// The largest that there is (MQTT 5.0 section 2.1.4).
const LARGEST_PACKET: usize = 268_435_460;

pub(super) fn read(reader: &mut ConfigReader) -> MqttConfig {
    let key = |last: &str| format!("upstream.mqtt.{last}");
    let versions = [("5", ProtocolVersion::V5), ("3.1.1", ProtocolVersion::V311)];
    MqttConfig {
        brokers: reader.read(&key("brokers"), vec![BROKER.to_owned()], not_empty(list(broker_address(BROKER)))),
        ssl: tls(reader, "upstream.mqtt.ssl"),
        version: reader.read(&key("version"), ProtocolVersion::V5, choice(versions)),
        keep_alive: reader.read(&key("keep_alive"), 120 * SECOND, duration(Duration::ZERO..=LONGEST_KEEP_ALIVE)),
        window: reader.read(&key("max_inflight"), 8, whole(1..=1024)),
        max_packet_size: reader.read(&key("max_packet_size"), 8 * 1024 * 1024, whole(1024..=LARGEST_PACKET)),
        will_delay: None,
        link: link(reader, "upstream.mqtt"),
    }
}
