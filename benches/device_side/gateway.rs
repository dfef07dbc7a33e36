//! The core with an upstream that accepts everything and says nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use lwm2m_base::Peer;
use lwm2m_core::coap::Transmit;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, RegistrationId};
use lwm2m_core::gateway::config::AutoObserve;
use lwm2m_core::gateway::persistence::record::Change;
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_core::lwm2m::path::Path as ObjectPath;
use lwm2m_dtls::credentials::{KeyAnswer, PskKey};
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig};
use lwm2m_dtls::{DtlsConfig, DtlsServer};
use lwm2m_gateway::config::Config;
use lwm2m_gateway::definitions;
use lwm2m_gateway::observability::metrics::Metrics;
use lwm2m_gateway::store::StoreContents;

use crate::devices::{KEY, OBSERVED};

/// The socket that speaks DTLS; socket 0 is plain UDP.
pub(crate) const SECURED: u16 = 1;
/// No rate is limited: bursts come from one address.
const UNLIMITED: u32 = 1_000_000_000;
/// The time of the wall clock at the beginning, since 1970.
pub(crate) const UNIX_TIME: Duration = Duration::from_secs(1_767_225_600);

pub(crate) struct SwallowingGateway {
    gateway: Gateway,
    metrics: Metrics,
    deadline: Option<Instant>,
    /// Counts what was published.
    pub published: u64,
    /// Counts the devices of an earlier process that were to be connected again.
    pub resumed: u64,
    /// The registration that was accepted last.
    pub last_connected: Option<RegistrationId>,
}

impl SwallowingGateway {
    pub(crate) fn new(now: Instant) -> anyhow::Result<Self> {
        let xml = Path::new(env!("CARGO_MANIFEST_DIR")).join("xml");
        let model = definitions::read(&xml)?.model;
        let mut config = Config::default().gateway;
        config.auto_observe = AutoObserve::Paths(vec![OBSERVED.parse::<ObjectPath>().context("a path")?]);
        let limits = &mut config.limits;
        limits.devices = 1_000_000;
        limits.pending_registrations = 100_000;
        for rate in [&mut limits.registers.total, &mut limits.registers.address, &mut limits.registered] {
            (rate.per_second, rate.burst) = (UNLIMITED, UNLIMITED);
        }
        let acceptor = Acceptor::new(&AcceptorConfig::default())?;
        let server = DtlsServer::new(DtlsConfig::default(), Some(acceptor), [7; 32], now);
        let gateway = Gateway::new(config, Arc::new(model), [7; 32], now, UNIX_TIME).with_dtls(server, SECURED);
        Ok(Self {
            gateway,
            metrics: Metrics::default(),
            deadline: None,
            published: 0,
            resumed: 0,
            last_connected: None,
        })
    }

    /// Restores what a store has. From now on changes are kept for [`SwallowingGateway::take_changes`].
    pub(crate) fn restore(&mut self, now: Instant, contents: StoreContents) {
        let StoreContents {
            term: _,
            devices,
            associations: _,
            retained_commands,
            profiles,
            generated_keys: _,
            firmware_jobs: _,
            campaigns: _,
            awaited_bootstraps: _,
            store_clock: _,
        } = contents;
        self.gateway.restore(now, devices);
        self.gateway.restore_retained_commands(retained_commands);
        self.gateway.restore_profiles(profiles);
    }

    pub(crate) fn take_changes(&mut self, now: Instant, most: usize) -> Vec<Change> {
        self.gateway.take_changes(now, most)
    }

    pub(crate) fn handle_datagram(&mut self, now: Instant, peer: Peer, datagram: &[u8]) {
        self.metrics.transport.datagrams_received.inc();
        self.gateway.handle_datagram(now, peer, datagram);
    }

    /// Takes a command of an application.
    pub(crate) fn command(&mut self, now: Instant, registration: RegistrationId, command: &str) {
        let event = BrokerEvent::Message {
            registration,
            topic: String::new(),
            payload: command.as_bytes().to_vec(),
            properties: Default::default(),
        };
        self.gateway.handle_broker(now, event);
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.gateway.handle_timeout(now);
        }
    }

    /// Carries out all outputs; datagrams go to `transmit`.
    pub(crate) fn carry_out(&mut self, now: Instant, mut transmit: impl FnMut(Transmit)) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(datagram) => transmit(datagram),
                Output::Broker(BrokerCommand::Connect { registration, .. }) => {
                    self.last_connected = Some(registration);
                    self.gateway.handle_broker(now, BrokerEvent::Connected { registration });
                }
                Output::Broker(BrokerCommand::Publish { .. }) => self.published += 1,
                Output::Broker(BrokerCommand::Resume { .. }) => self.resumed += 1,
                Output::Broker(
                    BrokerCommand::SetLifetime { .. }
                    | BrokerCommand::Confirm { .. }
                    | BrokerCommand::Disconnect { .. }
                    | BrokerCommand::HandOver { .. }
                    | BrokerCommand::Abandon { .. },
                )
                | Output::DescribeImage { .. }
                | Output::ReadImage { .. }
                | Output::Answer(_) => {}
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::FindKey(question) => {
                    let key = PskKey::new(KEY).expect("a key that is long enough");
                    let answer = KeyAnswer::Found { key: key.into(), keep_for: Duration::ZERO };
                    self.gateway.handle_key(now, &question, answer);
                }
                Output::Report(report) => self.metrics.record(&report),
                Output::Idle(deadline) => {
                    self.deadline = deadline;
                    return;
                }
            }
        }
    }
}
