//! How full the program is at one moment, as the driver tells it when it is asked.

use crate::upstream;
use lwm2m_core::gateway::TableSizes;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    pub gateway: TableSizes,
    /// Of the registered devices, those that sleep.
    pub asleep: usize,
    /// How many devices there may be.
    pub devices_limit: usize,
    /// Bytes of commands beyond which none may wait.
    pub command_bytes_limit: usize,
    pub upstream: upstream::Occupancy,
}

/// One number that goes up and down, as a page of metrics shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub name: &'static str,
    pub meaning: &'static str,
    pub labels: &'static str,
    pub value: u64,
}

/// Writes the list: name, meaning, and the values under that name with their labels.
macro_rules! levels {
    ($($name:literal: $meaning:literal [$($value:expr => $labels:literal),+])*) => {
        vec![$($(Level { name: $name, meaning: $meaning, labels: $labels, value: $value as u64 }),+),*]
    };
}

impl Vitals {
    /// Those of one name stand together.
    pub fn levels(&self) -> Vec<Level> {
        let Self { gateway, upstream, .. } = self;
        let (coap, dtls) = (&gateway.coap, &gateway.dtls);
        levels! {
            "lwm2m_devices": "Devices: on their way in, registered and awake, registered and asleep." [
                gateway.pending_registrations => r#"state="joining""#,
                gateway.devices.saturating_sub(self.asleep) => r#"state="awake""#,
                self.asleep => r#"state="asleep""#
            ]
            "lwm2m_devices_limit": "Devices that there may be: limits.devices." [self.devices_limit => ""]
            "lwm2m_registration_bytes": "Bytes that the registrations of devices take in memory: object lists and query items." [
                gateway.registration_bytes => ""
            ]
            "lwm2m_queue_length": "What waits: commands for devices, publications for the broker, acknowledgements for publications." [
                gateway.waiting_commands => r#"queue="commands""#,
                gateway.early_commands => r#"queue="early_commands""#,
                gateway.to_observe => r#"queue="auto_observe""#,
                gateway.deferred_acks => r#"queue="acknowledgements""#,
                upstream.publications => r#"queue="publications""#
            ]
            "lwm2m_command_bytes": "Bytes of the commands that wait for their device or are in flight." [gateway.command_bytes => ""]
            "lwm2m_command_bytes_limit": "Bytes of commands beyond which none may wait: limits.waiting_bytes_total." [
                self.command_bytes_limit => ""
            ]
            "lwm2m_publications_limit": "Publications that may wait for the broker: queue_total." [
                upstream.publications_limit => ""
            ]
            "lwm2m_table_entries": "Entries of the tables of the CoAP endpoint, of the rate limits, and endpoints whose retained commands are remembered." [
                coap.exchanges => r#"table="exchanges""#,
                coap.observations => r#"table="observations""#,
                coap.transmissions => r#"table="transmissions""#,
                coap.pending_requests => r#"table="pending_requests""#,
                coap.remembered_messages => r#"table="remembered_messages""#,
                coap.transfers => r#"table="transfers""#,
                coap.assemblies => r#"table="assemblies""#,
                coap.concluded_bodies => r#"table="concluded_bodies""#,
                gateway.addresses => r#"table="addresses""#,
                gateway.senders => r#"table="senders""#,
                gateway.retained_commands => r#"table="retained_commands""#
            ]
            "lwm2m_received_body_bytes": "Bytes that have come of bodies which devices send in blocks; coap.received_bytes is their limit." [
                coap.received_bytes => ""
            ]
            "lwm2m_dtls_associations": "DTLS associations." [dtls.associations => ""]
            "lwm2m_dtls_table_entries": "Entries of the other tables of DTLS: handshakes under way, identities whose key is looked up, keys that are remembered." [
                dtls.handshakes => r#"table="handshakes""#,
                dtls.key_questions => r#"table="key_questions""#,
                dtls.cached_keys => r#"table="cached_keys""#
            ]
            "lwm2m_broker_clients": "Devices that are clients of the broker, and those that are on their way to it." [
                upstream.connected => r#"state="connected""#,
                upstream.connecting => r#"state="connecting""#
            ]
            "lwm2m_broker_nodes": "Nodes of the broker that serve, as far as is known, and those that do not." [
                upstream.nodes_up => r#"state="up""#,
                upstream.nodes_down => r#"state="down""#
            ]
        }
    }
}
