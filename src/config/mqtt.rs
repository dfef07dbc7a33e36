//! The section `upstream.mqtt`.

use std::time::Duration;

use crate::upstream::mqtt::{MqttConfig, ProtocolVersion};

use super::groups::{check_queues, tls};
use super::reader::ConfigReader;
use super::value_parsers::{
    HOUR, MAX_COUNT, MILLISECOND, SECOND, broker_address, choice, duration, list, not_empty, parsed, whole,
};

/// Address of an MQTT listener on this machine.
const BROKER: &str = "127.0.0.1:1883";
/// Keep Alive is a number of two bytes (MQTT 5.0 section 3.1.2.10).
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(65_535);
/// The largest that there is (MQTT 5.0 section 2.1.4).
const LARGEST_PACKET: usize = 268_435_460;

pub(super) fn settings(reader: &mut ConfigReader) -> MqttConfig {
    let key = |last: &str| format!("upstream.mqtt.{last}");
    let versions = [("5", ProtocolVersion::V5), ("3.1.1", ProtocolVersion::V311)];
    let settings = MqttConfig {
        brokers: reader.read(&key("brokers"), vec![BROKER.to_owned()], not_empty(list(broker_address(BROKER)))),
        ssl: tls(reader, "upstream.mqtt.ssl"),
        version: reader.read(&key("version"), ProtocolVersion::V5, choice(versions)),
        keep_alive: reader.read(&key("keep_alive"), 120 * SECOND, duration(Duration::ZERO..=LONGEST_KEEP_ALIVE)),
        window: reader.read(&key("max_inflight"), 8, whole(1..=1024)),
        max_packet_size: reader.read(&key("max_packet_size"), 8 * 1024 * 1024, whole(1024..=LARGEST_PACKET)),
        source_addresses: reader.read(&key("source_addresses"), Vec::new(), list(parsed("an IP address"))),
        connect_timeout: reader.read(&key("connect_timeout"), 10 * SECOND, duration(MILLISECOND..=HOUR)),
        connections_per_second: reader.read(&key("connections_per_second"), 5_000, whole(1..=1_000_000)),
        queue_per_device: reader.read(&key("queue_per_device"), 100, whole(1..=MAX_COUNT)),
        queue_total: reader.read(&key("queue_total"), 100_000, whole(1..=MAX_COUNT)),
        event_queue: reader.read(&key("event_queue"), 65_536, whole(1..=MAX_COUNT)),
    };
    check_queues(reader, "upstream.mqtt", settings.queue_per_device, settings.queue_total);
    settings
}
