//! The devices against a broker and a core that do anything at any time.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use proptest::prelude::*;
use rand::SeedableRng;

use crate::upstream::LinkConfig;
use crate::upstream::client::device::Wait;
use crate::upstream::client::{ClientTimer, DRAIN_TIMEOUT};
use crate::upstream::dialer::DialFailure;
use crate::upstream::exproto::Node;

use lwm2m_core::gateway::broker::{BrokerCommand, UplinkClass};

use super::*;

/// What the outside knows, and what it has promised.
struct RandomEmqx {
    now: Instant,
    devices: ExProtoDevices,
    next_device: u64,
    next_conn: u64,
    next_publication: u64,
    alive: Vec<Known>,
    /// Anchors that were to be dialed and are not hung up, and whether they are.
    anchors: Vec<Anchor>,
    calls: Vec<(TargetId, ConnectionId)>,
    conns: Vec<String>,
    hung_up: HashSet<ConnectionId>,
}

struct Anchor {
    id: ConnectionId,
    node: TargetId,
    token: AnchorToken,
    dialed: bool,
}

struct Known {
    registration: RegistrationId,
    resumed: bool,
    connected: bool,
    disconnected: bool,
    last_published: u64,
}

impl RandomEmqx {
    fn new() -> Self {
        let config = ExProtoConfig {
            ssl: crate::tls::TlsConfig::default(),
            nodes: ["a", "b"].map(|name| Node { listeners: vec![name.to_owned()], adapter: String::new() }).to_vec(),
            adapter_connections: 1,
            handler_bind: (Ipv4Addr::LOCALHOST, 0).into(),
            proto_name: "exproto".to_owned(),
            link: LinkConfig {
                source_addresses: Vec::new(),
                connect_timeout: Duration::from_secs(8),
                connections_per_second: 2,
                queue_per_device: 3,
                queue_total: 7,
                event_queue: 1,
            },
        };
        let now = Instant::now();
        let mut devices = ExProtoDevices::new(&config, StdRng::seed_from_u64(1), Arc::new(UpstreamMetrics::default()));
        devices.probe_all(now);
        Self {
            now,
            devices,
            next_device: 0,
            next_conn: 0,
            next_publication: 0,
            alive: Vec::new(),
            anchors: Vec::new(),
            calls: Vec::new(),
            conns: Vec::new(),
            hung_up: HashSet::new(),
        }
    }

    /// One thing that happens, chosen by `what`, to something that is chosen by `which`.
    fn step(&mut self, what: u8, which: usize) {
        match what {
            0 => self.connect(which),
            1 => self.publish(which),
            2 => self.disconnect(which),
            3 | 4 => self.dialed(which),
            5..=8 => self.announce(which),
            9..=14 => self.answer(which),
            15 => self.anchor_ends(which),
            16 => self.socket_closes(which),
            17 => self.message(which),
            _ => self.pass_time(which),
        }
        self.check();
    }

    fn connect(&mut self, which: usize) {
        let registration = RegistrationId(self.next_device);
        self.next_device += 1;
        // Every fifth is one of an earlier process: nobody may be told that it failed.
        let resumed = which.is_multiple_of(5);
        self.alive.push(Known { registration, resumed, connected: false, disconnected: false, last_published: 0 });
        let client = ClientInfo {
            endpoint: format!("ep{}", which % 3),
            clientid: format!("ep{}", which % 3),
            username: String::new(),
            password: None,
            proto_ver: "1.0".to_owned(),
            peerhost: IpAddr::V4(Ipv4Addr::LOCALHOST),
            command_filter: "dn".to_owned(),
            command_qos: 0,
            lifetime: Duration::from_secs(300),
            will: None,
        };
        self.devices.command(
            self.now,
            if resumed {
                BrokerCommand::Resume { registration, client }
            } else {
                BrokerCommand::Connect { registration, client }
            },
        );
    }

    fn publish(&mut self, which: usize) {
        let Some(registration) = pick(&self.alive, which).map(|known| known.registration) else { return };
        self.next_publication += 1;
        let class = [UplinkClass::Registration, UplinkClass::Answer, UplinkClass::Notification][which % 3];
        let publication = Publication {
            topic: self.next_publication.to_string(),
            qos: 0,
            payload: Bytes::new(),
            class,
            retain: false,
            expiry: None,
            correlation: None,
            ticket: None,
        };
        self.devices.command(self.now, BrokerCommand::Publish { registration, publication });
    }

    fn disconnect(&mut self, which: usize) {
        let Some(index) = index(&self.alive, which) else { return };
        self.alive[index].disconnected = true;
        let registration = self.alive[index].registration;
        self.devices.command(self.now, BrokerCommand::Disconnect { registration });
    }

    fn dialed(&mut self, which: usize) {
        let Some(index) = index(&self.anchors, which) else { return };
        let anchor = &mut self.anchors[index];
        if std::mem::replace(&mut anchor.dialed, true) {
            return;
        }
        let outcome = match which % 10 {
            0 => Err(DialFailure::NotReached("refused".to_owned())),
            5 => Err(DialFailure::Local("no file descriptor is left".to_owned())),
            _ => Ok(()),
        };
        self.devices.dialed(self.now, anchor.id, outcome);
    }

    fn announce(&mut self, which: usize) {
        let Some(token) = pick(&self.anchors, which).map(|anchor| anchor.token.clone()) else { return };
        self.next_conn += 1;
        let conn = format!("c{}", self.next_conn);
        self.conns.push(conn.clone());
        let bytes = token.line();
        self.devices.heard(self.now, ExProtoEvent::ReceivedBytes { conn, bytes });
    }

    fn answer(&mut self, which: usize) {
        let Some(index) = index(&self.calls, which) else { return };
        let (node, anchor) = self.calls.swap_remove(index);
        let text = String::new;
        let outcome = match which % 18 {
            0 | 16 => CallOutcome::Refused(text()),
            17 => CallOutcome::Short(text()),
            1 => CallOutcome::ConnectionLost(text()),
            2 => CallOutcome::Rejected(text()),
            3 => CallOutcome::Failed(text()),
            4 => CallOutcome::Unreachable(text()),
            _ => CallOutcome::Done,
        };
        self.devices.called(self.now, node, anchor, outcome);
    }

    fn anchor_ends(&mut self, which: usize) {
        let Some(anchor) = pick(&self.anchors, which).map(|anchor| anchor.id) else { return };
        self.devices.anchor_ended(self.now, anchor);
    }

    fn socket_closes(&mut self, which: usize) {
        let Some(conn) = pick(&self.conns, which).cloned() else { return };
        let reason = ["{shutdown,kicked}", "{shutdown,tcp_closed}", "{shutdown,discarded}"][which % 3].to_owned();
        self.devices.heard(self.now, ExProtoEvent::SocketClosed { conn, reason });
    }

    fn message(&mut self, which: usize) {
        let Some(conn) = pick(&self.conns, which).cloned() else { return };
        let messages = vec![ExProtoMessage { topic: "dn".to_owned(), payload: Vec::new() }];
        self.devices.heard(self.now, ExProtoEvent::ReceivedMessages { conn, messages });
    }

    fn pass_time(&mut self, which: usize) {
        self.now += Duration::from_millis(which as u64 % 4000);
        self.devices.handle_timeout(self.now);
    }

    /// Takes the actions, each of which has to be one that is allowed now.
    fn check(&mut self) {
        while let Some(action) = self.devices.poll_action() {
            match action {
                ExProtoAction::Dial { anchor, node, token } => {
                    self.anchors.push(Anchor { id: anchor, node, token, dialed: false });
                }
                ExProtoAction::HangUp { anchor } => {
                    assert!(self.hung_up.insert(anchor), "{anchor:?} is hung up twice");
                    self.anchors.retain(|open| open.id != anchor);
                }
                ExProtoAction::Call { anchor, node, call } => self.call(node, anchor, &call),
                ExProtoAction::Emit(event) => self.told(&event),
            }
        }
        assert!(self.devices.next_deadline().is_none_or(|at| at > self.now));
        let anchored = self.devices.devices.values().filter(|device| device.state.anchor().is_some()).count();
        let probing =
            self.devices.protocol.by_anchor.values().filter(|owner| matches!(owner, AnchorOwner::Probe(_))).count();
        assert_eq!(anchored + probing, self.anchors.len());
        assert_eq!(anchored + probing, self.devices.protocol.by_anchor.len());
        for node in [TargetId(0), TargetId(1)] {
            let of_device =
                |anchor: ConnectionId| matches!(self.devices.protocol.by_anchor[&anchor], AnchorOwner::Device(_));
            let there = self.anchors.iter().filter(|open| open.node == node && of_device(open.id)).count();
            assert_eq!(self.devices.targets.target(node).connections, there);
        }
        let clients = self.devices.devices.values().filter(|device| device.is_ready()).count();
        assert_eq!((self.devices.targets.clients(), self.devices.table_sizes().connected), (clients, clients));
        for (id, device) in &self.devices.devices {
            let waits = |wait| matches!(&device.state, UpstreamState::WaitingToReconnect(waiting) if *waiting == wait);
            assert_eq!(self.devices.turns.contains(*id), waits(Wait::Turn));
            assert_eq!(self.devices.parked.contains(id), waits(Wait::Parked));
        }
        for id in self.devices.turns.under_way() {
            let state = &self.devices.devices[&id].state;
            assert!(matches!(state, UpstreamState::Connecting(_)), "{id:?} has no attempt under way");
        }
        let next = self.devices.turns.next(self.now);
        assert!(next.is_none() || next == self.devices.deadlines.get(ClientTimer::Turn), "{next:?}");
        let parked = self.devices.parked.len();
        assert!(parked == 0 || !self.devices.targets.any_up(), "{parked} wait for a node that is up");
        let conns = self
            .devices
            .devices
            .values()
            .map(|device| usize::from(device.protocol.conn.is_some()) + device.protocol.former.len());
        assert_eq!(conns.sum::<usize>(), self.devices.protocol.by_conn.len());
        self.check_that_only_the_newest_connects();
    }

    /// Of each client ID.
    fn check_that_only_the_newest_connects(&self) {
        for (id, device) in &self.devices.devices {
            let connects = matches!(device.state, UpstreamState::Connecting(_));
            assert!(!(connects && self.devices.clients.is_superseded(device.key, *id)), "{id:?} is superseded");
        }
    }

    /// Checks a call: its anchor is open, at the node of the call, and has no other call. It belongs to a device or a
    /// probe, and stays open at least until the call is on its way. Publications of a device come in the order in which
    /// they were asked for; one whose call failed may come again.
    fn call(&mut self, node: TargetId, anchor: ConnectionId, call: &AdapterCall) {
        let open = self.anchors.iter().find(|open| open.id == anchor).expect("a call without an anchor");
        assert_eq!(open.node, node, "a call to another node than its anchor");
        assert!(!self.calls.contains(&(node, anchor)), "two calls at a time");
        self.calls.push((node, anchor));
        let owner = self.devices.protocol.by_anchor.get(&anchor).expect("a call on an anchor that is closed at once");
        if let (AdapterCall::Publish { publication, .. }, AnchorOwner::Device(registration)) = (call, owner) {
            let serial: u64 = publication.topic.parse().expect("a number");
            let known = self.alive.iter_mut().find(|known| known.registration == *registration).expect("a device");
            assert!(serial >= known.last_published, "{serial} after {}", known.last_published);
            known.last_published = serial;
        }
    }

    fn told(&mut self, event: &BrokerEvent) {
        let (BrokerEvent::Connected { registration }
        | BrokerEvent::ConnectFailed { registration, .. }
        | BrokerEvent::Closed { registration, .. }
        | BrokerEvent::Message { registration, .. }
        | BrokerEvent::Reconnected { registration }
        | BrokerEvent::Published { registration, .. }
        | BrokerEvent::Queued { registration, .. }
        | BrokerEvent::Unpublished { registration, .. }
        | BrokerEvent::PublishRefused { registration, .. }) = event;
        let index =
            self.alive.iter().position(|known| known.registration == *registration).expect("a device that is not over");
        let known = &mut self.alive[index];
        assert!(!known.disconnected, "{event:?} after Disconnect");
        match event {
            BrokerEvent::Connected { .. } => {
                assert!(!std::mem::replace(&mut known.connected, true), "{event:?} twice");
            }
            BrokerEvent::ConnectFailed { .. } => {
                assert!(!known.connected && !known.resumed, "{event:?} after Connected");
                self.alive.swap_remove(index);
            }
            BrokerEvent::Closed { .. } => {
                assert!(known.connected || known.resumed, "{event:?} before Connected");
                self.alive.swap_remove(index);
            }
            BrokerEvent::Message { .. } | BrokerEvent::Reconnected { .. } => {
                assert!(known.connected || known.resumed, "{event:?} before Connected");
            }
            // The connection of an older registration may have published it.
            BrokerEvent::Published { .. }
            | BrokerEvent::Queued { .. }
            | BrokerEvent::Unpublished { .. }
            | BrokerEvent::PublishRefused { .. } => {}
        }
    }

    /// Everything is given back when all devices have left.
    fn end(mut self) {
        self.devices.disconnect_all(self.now);
        for known in &mut self.alive {
            known.disconnected = true;
        }
        self.check();
        self.now += DRAIN_TIMEOUT;
        self.devices.handle_timeout(self.now);
        self.check();
        assert!(self.devices.is_empty());
        let is_probe = |anchor: &Anchor| matches!(self.devices.protocol.by_anchor[&anchor.id], AnchorOwner::Probe(_));
        assert!(self.anchors.iter().all(is_probe), "only probes are left");
        assert!(self.devices.parked.is_empty() && self.devices.protocol.by_conn.is_empty());
        assert_eq!(self.devices.queues.len(), 0);
        for (node, anchor) in std::mem::take(&mut self.calls) {
            self.devices.called(self.now, node, anchor, CallOutcome::Done);
        }
        assert_eq!((self.devices.clients.len(), self.devices.protocol.calls.len()), (0, 0));
        self.pass_time(3999);
        let next = self.devices.deadlines.first();
        assert!(next.is_none_or(|(_, timer)| matches!(timer, ClientTimer::Protocol(_))), "{next:?}");
    }
}

fn index<T>(items: &[T], which: usize) -> Option<usize> {
    which.checked_rem(items.len())
}

fn pick<T>(items: &[T], which: usize) -> Option<&T> {
    items.get(index(items, which)?)
}

proptest! {
    #[test]
    fn promises_are_kept_whatever_happens(steps in prop::collection::vec((0..20_u8, 0..60_000_usize), 0..400)) {
        let mut world = RandomEmqx::new();
        for (what, which) in steps {
            world.step(what, which);
        }
        world.end();
    }
}
