//! The sizes of tables and queues at one moment, as the event loop reports them when it is asked.

use std::fmt;

use lwm2m_core::gateway::TableSizes;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::upstream;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverSnapshot {
    pub gateway: TableSizes,
    /// Number of registered devices that sleep.
    pub asleep: usize,
    /// Maximum number of devices.
    pub devices_limit: usize,
    /// Number of addresses whose datagrams go to another driver thread.
    pub forwarded_addresses: usize,
    /// Number of such addresses that were forgotten since the start, because there were too many.
    pub evicted_addresses: u64,
    /// Maximum size of all pending commands, in bytes.
    pub command_bytes_limit: usize,
    pub upstream: upstream::UpstreamTableSizes,
}

impl DriverSnapshot {
    /// Adds the sizes of the tables of another driver.
    pub fn add(&mut self, other: Self) {
        let Self { gateway, asleep, devices_limit, forwarded_addresses, .. } = other;
        let Self { evicted_addresses, command_bytes_limit, upstream, .. } = other;
        self.gateway += gateway;
        self.asleep += asleep;
        self.devices_limit += devices_limit;
        self.forwarded_addresses += forwarded_addresses;
        self.evicted_addresses += evicted_addresses;
        self.command_bytes_limit += command_bytes_limit;
        self.upstream.add(upstream);
    }

    /// Writes the gauges of the page of metrics.
    pub(super) fn encode(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_devices(page)?;
        self.encode_queues(page)?;
        self.encode_tables(page)?;
        self.encode_dtls(page)?;
        self.encode_broker(page)
    }

    fn encode_devices(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let awake = self.gateway.devices.saturating_sub(self.asleep);
        let states = [("registering", self.gateway.pending_registrations), ("awake", awake), ("asleep", self.asleep)];
        gauges(page, "lwm2m_devices", "Devices by state.", "state", &states)?;
        gauge(page, "lwm2m_devices_limit", "Maximum number of devices (limits.devices).", self.devices_limit)?;
        let help = "Memory used by registrations, in bytes.";
        gauge(page, "lwm2m_registration_bytes", help, self.gateway.registration_bytes)
    }

    fn encode_queues(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self { gateway, upstream, .. } = self;
        let queues = [
            ("commands", gateway.pending_commands),
            ("early_commands", gateway.early_commands),
            ("auto_observe", gateway.to_observe),
            ("acknowledgements", gateway.deferred_acks),
            ("publications", upstream.publications),
        ];
        gauges(page, "lwm2m_queue_length", "Queue lengths.", "queue", &queues)?;
        gauge(page, "lwm2m_command_bytes", "Pending and in-flight commands, in bytes.", gateway.command_bytes)?;
        let help = "Maximum size of pending commands, in bytes (limits.pending_command_bytes_total).";
        gauge(page, "lwm2m_command_bytes_limit", help, self.command_bytes_limit)?;
        let help = "Maximum number of publications queued for the broker (queue_total).";
        gauge(page, "lwm2m_publications_limit", help, upstream.publications_limit)
    }

    fn encode_tables(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self { gateway, forwarded_addresses, .. } = self;
        let coap = &gateway.coap;
        let tables = [
            ("exchanges", coap.exchanges),
            ("observations", coap.observations),
            ("transmissions", coap.transmissions),
            ("pending_requests", coap.pending_requests),
            ("deduplication_entries", coap.remembered_messages),
            ("block_transfers", coap.transfers),
            ("block_uploads", coap.assemblies),
            ("completed_uploads", coap.concluded_bodies),
            ("rate_limited_addresses", gateway.addresses),
            ("rate_limited_devices", gateway.senders),
            ("retained_commands", gateway.retained_commands),
            ("profiles", gateway.profiles),
            ("bootstrap_sessions", gateway.bootstrap_sessions),
            ("awaited_bootstraps", gateway.awaited_bootstraps),
            ("generated_keys", gateway.generated_keys),
            ("firmware_jobs", gateway.firmware_jobs),
            ("firmware_campaigns", gateway.campaigns),
            ("firmware_campaign_devices", gateway.campaign_devices),
            ("image_requests", gateway.image_requests),
            ("image_offers", gateway.image_offers),
            ("deferred_image_blocks", gateway.deferred_pulls),
            ("claim_questions", gateway.claim_questions),
            ("held_messages", gateway.held_outputs),
            ("status_withdrawals", gateway.status_withdrawals),
            ("unpublished_answers", gateway.unpublished_answers),
            ("forwarded_addresses", *forwarded_addresses),
        ];
        let help = "Entries of the bounded tables of the gateway by table.";
        gauges(page, "lwm2m_table_entries", help, "table", &tables)?;
        let help = "Addresses of devices of other driver threads evicted because the table was full.";
        let name = "lwm2m_forwarded_addresses_evicted";
        ConstCounter::new(self.evicted_addresses).encode(page.encode_descriptor(
            name,
            help,
            None,
            MetricType::Counter,
        )?)?;
        let help = "Partly received bodies of block-wise transfers, in bytes (limit: coap.block_transfer_bytes).";
        gauge(page, "lwm2m_block_transfer_bytes", help, coap.block_transfer_bytes)
    }

    fn encode_dtls(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let dtls = &self.gateway.dtls;
        gauge(page, "lwm2m_dtls_associations", "Established DTLS associations.", dtls.associations)?;
        let tables =
            [("handshakes", dtls.handshakes), ("key_lookups", dtls.key_questions), ("cached_keys", dtls.cached_keys)];
        let help = "DTLS handshakes in progress, key lookups in flight and cached keys.";
        gauges(page, "lwm2m_dtls_table_entries", help, "table", &tables)
    }

    fn encode_broker(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let upstream = &self.upstream;
        let clients = [("connected", upstream.connected), ("connecting", upstream.connecting)];
        gauges(page, "lwm2m_broker_clients", "Devices as clients of the broker by state.", "state", &clients)?;
        let nodes = [("up", upstream.nodes_available), ("down", upstream.nodes_unavailable)];
        gauges(page, "lwm2m_broker_nodes", "Broker nodes by availability.", "state", &nodes)
    }
}

fn gauge(page: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> fmt::Result {
    ConstGauge::new(value).encode(page.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

/// Writes the gauges of one name, which differ in the value of one label.
fn gauges(
    page: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: &[(&'static str, usize)],
) -> fmt::Result {
    let mut family = page.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (label_value, value) in values {
        ConstGauge::new(*value).encode(family.encode_family(&[(label, *label_value)])?)?;
    }
    Ok(())
}
