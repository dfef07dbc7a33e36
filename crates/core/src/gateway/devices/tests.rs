use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::coap::Response;
use crate::gateway::broker::{CloseReason, MessageProperties, Ticket};
use crate::gateway::config::GatewayConfig;
use crate::gateway::firmware::image::{FileIdentity, Image, ImageDigest};
use crate::gateway::firmware::jobs::job_id::JobId;
use crate::gateway::firmware::pulls::{Pull, PullProgress};
use crate::gateway::fixtures::{
    Outputs, YEAR_2026, address, association, context, json, new_device, psk, topic_ends, update,
};
use crate::gateway::report::CommandOutcome;
use crate::registry::{Topic, TopicEnds, Topics};

/// The registered devices of a context whose time the test moves.
struct RegisteredDevicesScene {
    context: Context,
    devices: RegisteredDevices,
    start: Instant,
}

impl RegisteredDevicesScene {
    fn new(config: GatewayConfig) -> Self {
        let context = context(config);
        let start = context.now;
        Self { context, devices: RegisteredDevices::default(), start }
    }

    /// Registers `dev-ID` with these query items, and returns its registration.
    fn register(&mut self, id: u64, query: &[&str]) -> RegistrationId {
        self.insert(new_device(id, query, self.context.now))
    }

    /// Registers a device whose presence is published.
    fn register_with_status(&mut self, id: u64, query: &[&str]) -> RegistrationId {
        let mut new = new_device(id, query, self.context.now);
        let status = Some(Topic { name: "status".to_owned(), qos: 0 });
        new.topics = Topics::new(String::new(), TopicEnds { status, ..topic_ends() });
        self.insert(new)
    }

    fn insert(&mut self, new: NewDevice) -> RegistrationId {
        let id = new.id;
        self.devices.insert(&self.context, new);
        id
    }

    /// Lets this many seconds pass since the start, and returns what was due.
    fn at(&mut self, seconds: f64) -> Outputs {
        self.context.now = self.start + Duration::from_secs_f64(seconds);
        self.devices.handle_timeout(&mut self.context);
        self.outputs()
    }

    /// The device sends an Update with these query items from its present address.
    fn update(&mut self, id: RegistrationId, query: &[&str]) -> Outputs {
        let peer = self.device(id).peer;
        self.update_from(id, peer, query)
    }

    fn update_from(&mut self, id: RegistrationId, peer: Peer, query: &[&str]) -> Outputs {
        let update = update(self.device(id), query);
        self.devices.update(&mut self.context, id, peer, update);
        self.outputs()
    }

    /// An application asks the device to execute something, within `ttl` seconds.
    fn command(&mut self, id: RegistrationId, number: u64, ttl: f64) -> Outputs {
        let command = json!({
            "reqID": number, "msgType": "execute", "data": { "path": "/3/0/4" }, "mheaders": { "ttl": ttl },
        });
        let (device, commands) = self.devices.with_commands(id).expect("the device is registered");
        commands.handle(&mut self.context, device, command.to_string().into_bytes(), MessageProperties::default());
        self.outputs()
    }

    fn device(&self, id: RegistrationId) -> &Device {
        self.devices.registry().device(id).expect("the device is registered")
    }

    fn asleep(&self) -> usize {
        self.devices.registry().totals().asleep.sum()
    }

    fn registered(&self, id: RegistrationId) -> bool {
        self.devices.registry().device(id).is_some()
    }

    fn outputs(&mut self) -> Outputs {
        Outputs::take(&mut self.context)
    }

    /// Returns the next deadline in seconds since the start.
    fn next_deadline(&self) -> Option<f64> {
        self.devices.next_deadline().map(|at| (at - self.start).as_secs_f64())
    }
}

fn limited(devices: usize) -> GatewayConfig {
    let mut config = GatewayConfig::default();
    config.limits.devices = devices;
    config
}

fn left(endpoint: &str, reason: LeaveReason) -> Report {
    Report::Left { endpoint: endpoint.to_owned(), reason }
}

fn is_quiet(outputs: &Outputs) -> bool {
    outputs.messages.is_empty() && outputs.broker.is_empty() && outputs.reports.is_empty()
}

/// Returns the `status` and the `since` of what is published, in seconds since the test began.
fn statuses(outputs: &Outputs) -> Vec<(Value, u64)> {
    let published = outputs.publications().into_iter().map(|(_, publication)| {
        assert!(publication.retain && publication.topic == "status", "{publication:?}");
        let status = json(publication);
        let since = status["since"].as_u64().expect("a time") - YEAR_2026.as_secs();
        (status["status"].clone(), since)
    });
    published.collect()
}

// --- Lifetimes -------------------------------------------------------------------------------------------------------

#[test]
fn a_registration_ends_when_its_lifetime_is_over_and_not_before() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register(7, &["lt=60"]);
    assert_eq!(scene.next_deadline(), Some(60.0));
    assert!(is_quiet(&scene.at(59.999)) && scene.registered(id));

    let outputs = scene.at(60.0);
    assert_eq!(outputs.reports, [left("dev-7", LeaveReason::LifetimeOver)]);
    assert_eq!(outputs.broker, [BrokerCommand::Disconnect { registration: id }]);
    assert!(!scene.registered(id));
    assert_eq!((scene.next_deadline(), scene.devices.deadlines()), (None, 0));
}

#[test]
fn each_message_of_a_device_begins_its_lifetime_again() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register(7, &["lt=60"]);
    scene.at(45.0);
    assert!(is_quiet(&scene.update(id, &[])));
    assert!(is_quiet(&scene.at(60.0)) && scene.registered(id));
    assert_eq!(scene.next_deadline(), Some(105.0));
    assert!(is_quiet(&scene.at(104.999)));
    assert_eq!(scene.at(105.0).reports, [left("dev-7", LeaveReason::LifetimeOver)]);
}

#[test]
fn a_restored_lifetime_of_zero_lasts_as_long_as_the_longest_one() {
    let lifetimes = Duration::from_secs(1)..=Duration::from_secs(3600);
    let mut scene = RegisteredDevicesScene::new(GatewayConfig { lifetimes, ..Default::default() });
    // A Register with 0 gets the longest lifetime, but a stored record may have it.
    let mut new = new_device(7, &[], scene.context.now);
    new.registration.lifetime = Duration::ZERO;
    let id = scene.insert(new);
    assert!(is_quiet(&scene.at(3599.999)) && scene.registered(id));
    assert_eq!(scene.at(3600.0).reports, [left("dev-7", LeaveReason::LifetimeOver)]);
}

#[test]
fn an_update_makes_the_lifetime_shorter_or_longer_and_the_broker_hears_of_it() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register(7, &["lt=3600"]);
    let set = |seconds| BrokerCommand::SetLifetime { registration: id, lifetime: Duration::from_secs(seconds) };
    scene.at(10.0);
    assert_eq!(scene.update(id, &["lt=60"]).broker, [set(60)]);
    assert_eq!(scene.next_deadline(), Some(70.0));
    assert!(is_quiet(&scene.update(id, &["lt=60"])), "it is the same lifetime");
    assert_eq!(scene.update(id, &["lt=600"]).broker, [set(600)]);
    assert!(is_quiet(&scene.at(609.999)) && scene.registered(id));
    assert_eq!(scene.at(610.0).reports, [left("dev-7", LeaveReason::LifetimeOver)]);
}

#[test]
fn lifetimes_end_in_their_order_after_a_long_pause() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    for (id, lifetime) in [(1, "lt=300"), (2, "lt=100"), (3, "lt=200"), (4, "lt=900")] {
        scene.register(id, &[lifetime]);
    }
    let over = |endpoint| left(endpoint, LeaveReason::LifetimeOver);
    assert_eq!(scene.at(500.0).reports, [over("dev-2"), over("dev-3"), over("dev-1")]);
    assert_eq!(scene.devices.deadlines(), 1);
}

#[test]
fn a_command_that_expires_with_the_lifetime_of_its_device_is_refused_once_and_before_the_session_ends() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register(7, &["lt=60", "Q"]);
    scene.at(30.0);
    assert!(is_quiet(&scene.command(id, 1, 30.0)), "the device is asleep");
    let outputs = scene.at(60.0);
    let [BrokerCommand::Publish { publication, .. }, BrokerCommand::Disconnect { registration }] = &outputs.broker[..]
    else {
        panic!("{outputs:?}");
    };
    let published = json(publication);
    assert_eq!((&published["reqID"], &published["data"]["code"], *registration), (&json!(1), &json!("4.00"), id));
    let [Report::Command { outcome, .. }, last] = &outputs.reports[..] else { panic!("{outputs:?}") };
    assert_eq!((outcome, last), (&CommandOutcome::Expired, &left("dev-7", LeaveReason::LifetimeOver)));
    assert_eq!((scene.devices.deadlines(), scene.devices.commands().bytes()), (0, 0));
}

// --- Awake time ------------------------------------------------------------------------------------------------------

#[test]
fn a_device_in_queue_mode_is_published_asleep_when_its_awake_time_is_over_and_online_when_it_speaks() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register_with_status(7, &["lt=3600", "Q"]);
    assert_eq!(scene.next_deadline(), Some(22.0));
    assert!(is_quiet(&scene.at(21.999)));
    assert_eq!(statuses(&scene.at(22.0)), [(json!("asleep"), 22)]);
    assert!(is_quiet(&scene.at(100.0)), "it is said once");

    scene.context.now = scene.start + Duration::from_secs(200);
    assert_eq!(statuses(&scene.update(id, &[])), [(json!("online"), 200)]);
    assert_eq!(scene.next_deadline(), Some(222.0));
    assert_eq!(statuses(&scene.at(222.0)), [(json!("asleep"), 222)]);
}

#[test]
fn each_message_of_a_device_begins_its_awake_time_again() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register_with_status(7, &["lt=3600", "Q"]);
    scene.at(20.0);
    assert!(is_quiet(&scene.update(id, &[])));
    assert!(is_quiet(&scene.at(41.999)));
    assert_eq!(statuses(&scene.at(42.0)), [(json!("asleep"), 42)]);
}

#[test]
fn a_late_timeout_tells_when_the_device_fell_asleep() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    scene.register_with_status(7, &["lt=3600", "Q"]);
    assert_eq!(statuses(&scene.at(500.0)), [(json!("asleep"), 22)]);
}

#[test]
fn an_update_enters_queue_mode() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register_with_status(7, &["lt=3600"]);
    assert_eq!(scene.next_deadline(), Some(3600.0), "it never sleeps");
    scene.at(100.0);
    scene.update(id, &["Q"]);
    assert_eq!(statuses(&scene.at(122.0)), [(json!("asleep"), 122)]);
}

#[test]
fn a_device_whose_presence_is_not_published_is_counted_asleep_and_has_one_deadline_for_each_awake_time() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register(7, &["lt=3600", "Q"]);
    scene.register(8, &["lt=3600"]);
    assert_eq!((scene.next_deadline(), scene.devices.deadlines()), (Some(22.0), 3));
    assert!(is_quiet(&scene.at(21.999)));
    assert_eq!(scene.asleep(), 0);
    assert!(is_quiet(&scene.at(22.0)));
    assert_eq!((scene.asleep(), scene.next_deadline(), scene.devices.deadlines()), (1, Some(3600.0), 2));
    assert!(!scene.device(id).is_awake(scene.context.now));

    scene.at(1000.0);
    assert!(is_quiet(&scene.update(id, &[])));
    assert_eq!((scene.asleep(), scene.next_deadline()), (0, Some(1022.0)));
    scene.at(1010.0);
    scene.update(id, &[]);
    assert_eq!(scene.next_deadline(), Some(1022.0), "a later message moves the end when the deadline is due");
    scene.at(1022.0);
    assert_eq!((scene.asleep(), scene.next_deadline()), (0, Some(1032.0)));
}

#[test]
fn a_sleeping_device_that_leaves_queue_mode_or_the_gateway_is_not_counted_any_more() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let [first, second] = [7, 8].map(|id| scene.register_with_status(id, &["lt=3600", "b=UQ"]));
    scene.at(30.0);
    assert_eq!(scene.asleep(), 2);
    scene.update(first, &["b=U"]);
    assert_eq!((scene.asleep(), scene.device(first).awake_until()), (1, None));
    scene.devices.leave(&mut scene.context, second, LeaveReason::Deregistered);
    assert_eq!((scene.asleep(), scene.next_deadline()), (0, Some(3600.0)));
}

#[test]
fn a_restored_device_whose_awake_time_is_over_is_counted_asleep_at_once() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let since = scene.start;
    scene.at(100.0);
    let id = scene.insert(new_device(7, &["lt=3600", "Q"], since));
    assert_eq!((scene.asleep(), scene.next_deadline()), (1, Some(3600.0)));
    scene.update(id, &[]);
    assert_eq!((scene.asleep(), scene.next_deadline()), (0, Some(122.0)));
}

#[test]
fn a_device_that_leaves_is_published_offline_before_its_session_ends() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register_with_status(7, &["lt=3600", "Q"]);
    scene.devices.leave(&mut scene.context, id, LeaveReason::Deregistered);
    let outputs = scene.outputs();
    assert_eq!(statuses(&outputs), [(json!("offline"), 0)]);
    assert_eq!(outputs.broker.last(), Some(&BrokerCommand::Disconnect { registration: id }));
    assert_eq!(outputs.reports, [left("dev-7", LeaveReason::Deregistered)]);
    assert_eq!((scene.next_deadline(), scene.devices.deadlines()), (None, 0));
}

// --- Silent devices --------------------------------------------------------------------------------------------------

const DAY: f64 = 24.0 * 3600.0;

#[test]
fn the_device_that_was_silent_the_longest_makes_room_after_a_day() {
    let mut scene = RegisteredDevicesScene::new(limited(2));
    let first = scene.register(1, &["lt=8640000"]);
    scene.at(60.0);
    let second = scene.register(2, &["lt=8640000"]);
    scene.at(120.0);
    scene.update(first, &[]);

    scene.at(DAY + 59.0);
    assert!(!scene.devices.make_room_for(&mut scene.context, "dev-3"));
    assert!(is_quiet(&scene.outputs()), "both were heard within a day");
    scene.at(DAY + 60.0);
    assert!(scene.devices.make_room_for(&mut scene.context, "dev-3"));
    let outputs = scene.outputs();
    assert_eq!(outputs.reports, [left("dev-2", LeaveReason::Evicted)]);
    assert_eq!(outputs.broker, [BrokerCommand::Disconnect { registration: second }]);
    assert!(scene.registered(first) && !scene.registered(second));
}

#[test]
fn nobody_is_evicted_while_there_is_room_or_for_a_device_that_registers_again() {
    let mut scene = RegisteredDevicesScene::new(limited(2));
    scene.register(1, &["lt=8640000"]);
    scene.at(2.0 * DAY);
    assert!(scene.devices.make_room_for(&mut scene.context, "dev-2"), "one of two places is free");
    scene.register(2, &["lt=8640000"]);
    assert!(scene.devices.make_room_for(&mut scene.context, "dev-2"), "it takes its own place");
    assert!(is_quiet(&scene.outputs()));
    assert_eq!(scene.devices.registry().len(), 2);
}

#[test]
fn a_device_that_speaks_dtls_is_never_evicted() {
    let mut scene = RegisteredDevicesScene::new(limited(1));
    let new = new_device(1, &["lt=86400000"], scene.context.now);
    let id = scene.insert(NewDevice { peer: association(1), identity: Some(Arc::new(psk("dev-1"))), ..new });
    scene.at(100.0 * DAY);
    assert!(!scene.devices.make_room_for(&mut scene.context, "dev-2"));
    assert!(scene.registered(id));
}

// --- Leaving and moving ----------------------------------------------------------------------------------------------

#[test]
fn a_device_that_leaves_gets_the_final_answer_to_each_command_in_their_order() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register(7, &["lt=3600"]);
    (1..=3).for_each(|number| drop(scene.command(id, number, 600.0)));
    assert_eq!((scene.devices.commands().exchanges(), scene.devices.deadlines()), (1, 2));
    scene.devices.leave(&mut scene.context, id, LeaveReason::Deregistered);
    let outputs = scene.outputs();
    let answered: Vec<_> = outputs.publications().into_iter().map(|(_, publication)| json(publication)).collect();
    let answered: Vec<_> = answered.iter().map(|answer| (&answer["reqID"], &answer["msgType"])).collect();
    let (timeout, execute) = (json!("coap_timeout"), json!("execute"));
    assert_eq!(answered, [(&json!(1), &timeout), (&json!(2), &execute), (&json!(3), &execute)]);
    assert_eq!((scene.devices.commands().exchanges(), scene.devices.deadlines()), (0, 0));
    assert_eq!(scene.context.coap.next_deadline(), None, "the request is not repeated");
}

#[test]
fn nothing_is_published_by_a_session_that_the_broker_has_ended() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register_with_status(7, &["lt=3600"]);
    scene.command(id, 1, 600.0);
    scene.command(id, 2, 600.0);
    let reason = LeaveReason::Broker(CloseReason::Kicked);
    scene.devices.leave(&mut scene.context, id, reason);
    let outputs = scene.outputs();
    assert!(outputs.broker.is_empty(), "{outputs:?}");
    assert_eq!(outputs.reports, [left("dev-7", reason)]);
    assert_eq!((scene.devices.commands().bytes(), scene.devices.deadlines()), (0, 0));
}

#[test]
fn a_device_that_registers_again_takes_its_pending_commands_along() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register(7, &["lt=3600", "Q"]);
    scene.at(30.0);
    scene.command(id, 1, 600.0);
    let former = scene.devices.replace(&mut scene.context, "dev-7").expect("it is registered");
    assert_eq!((former.id, former.waiting.len()), (id, 1));
    let outputs = scene.outputs();
    assert_eq!(outputs.broker, [BrokerCommand::Disconnect { registration: id }], "no command is answered");
    assert_eq!(outputs.reports, [left("dev-7", LeaveReason::Replaced)]);
    assert_eq!(scene.devices.deadlines(), 0);
    assert!(scene.devices.replace(&mut scene.context, "dev-7").is_none());
}

#[test]
fn an_update_from_another_address_moves_the_device() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register(7, &["lt=3600"]);
    let (from, to, endpoint) = (address(1), address(2), "dev-7".to_owned());
    let outputs = scene.update_from(id, to, &[]);
    assert_eq!(outputs.reports, [Report::Moved { endpoint, from, to }]);
    assert_eq!(scene.device(id).peer, to);
    assert!(scene.devices.registry().is_known(to) && !scene.devices.registry().is_known(from));
    let outputs = scene.command(id, 1, 600.0);
    assert_eq!(outputs.messages.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [to]);
}

#[test]
fn a_new_association_takes_over_the_registration_of_its_own_identity_only() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let mut bound = |id: u64, identity: &str| {
        let new = new_device(id, &["lt=3600"], scene.context.now);
        scene.insert(NewDevice { peer: association(id), identity: Some(Arc::new(psk(identity))), ..new })
    };
    // The second name is that of the identity, but another identity made the registration.
    let (own, foreign) = (bound(1, "dev-1"), bound(2, "dev-9"));
    scene.devices.established(&mut scene.context, association(8), &Arc::new(psk("dev-2")));
    assert!(is_quiet(&scene.outputs()));
    scene.devices.established(&mut scene.context, association(9), &Arc::new(psk("dev-1")));
    let (endpoint, from, to) = ("dev-1".to_owned(), association(1), association(9));
    assert_eq!(scene.outputs().reports, [Report::Moved { endpoint, from, to }]);
    assert_eq!((scene.device(own).peer, scene.device(foreign).peer), (association(9), association(2)));
}

#[test]
fn a_device_that_fetches_its_image_by_another_association_stays_where_it_is_until_it_updates() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let new = new_device(1, &["lt=3600"], scene.context.now);
    let identity = Arc::new(psk("dev-1"));
    let id = scene.insert(NewDevice { peer: association(1), identity: Some(Arc::clone(&identity)), ..new });
    let file = FileIdentity { inode: 1, modified: (0, 0), changed: (0, 0) };
    let pull = Pull {
        job: JobId(1),
        name: "a.bin".parse().unwrap(),
        image: Image { size: 1, sha256: ImageDigest::new([0; 32]), file },
        identity: Some(Arc::clone(&identity)),
        progress: PullProgress::default(),
    };
    scene.context.pulls.offer("ABCDEFGHIJKLMNOP".parse().unwrap(), pull);
    scene.devices.established(&mut scene.context, association(9), &identity);
    assert!(is_quiet(&scene.outputs()));
    assert_eq!(scene.device(id).peer, association(1));
    scene.update_from(id, association(9), &[]);
    assert_eq!(scene.device(id).peer, association(9));
    scene.context.pulls.withdraw(JobId(1));
    scene.devices.established(&mut scene.context, association(10), &identity);
    assert_eq!(scene.device(id).peer, association(10));
}

#[test]
fn events_of_a_device_that_has_left_have_no_effect() {
    let mut scene = RegisteredDevicesScene::new(GatewayConfig::default());
    let id = scene.register(7, &["lt=3600"]);
    scene.command(id, 1, 600.0);
    let exchange = scene.device(id).in_flight().expect("it was sent").exchange;
    scene.devices.leave(&mut scene.context, id, LeaveReason::Deregistered);
    scene.outputs();
    let (context, response) = (&mut scene.context, Response::new(crate::coap::Code::CHANGED));
    scene.devices.acknowledged(context, exchange);
    scene.devices.answered(context, exchange, &response, None);
    scene.devices.reset(context, exchange);
    scene.devices.timed_out(context, exchange);
    scene.devices.published(context, id, Ticket(1));
    scene.devices.unpublished(context, id, Ticket(1));
    scene.devices.leave(context, id, LeaveReason::LifetimeOver);
    assert!(is_quiet(&scene.outputs()));
}
