//! One registered device does its worst: what it costs, and what the gateway keeps of it, has bounds.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lwm2m_base::Peer;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Message};
use lwm2m_core::gateway::TableSizes;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, ConnectError, MessageProperties, RegistrationId};
use lwm2m_core::gateway::config::Limits;
use lwm2m_core::gateway::persistence::record::Change;
use lwm2m_core::gateway::report::Report;
use lwm2m_core::registry::CommandDigest;
use lwm2m_testkit::scene::{QUERY, Said, Scene, peer};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// Returns the bytes that this allocates: a cost that is the same on every machine.
fn allocated(work: impl FnOnce()) -> usize {
    usize::try_from(allocation_counter::measure(work).bytes_total).expect("bytes of this process")
}

// --- The cost of an Update
// ------------------------------------------------------------------------------------------------

#[test]
fn an_update_that_changes_nothing_costs_the_same_however_long_the_list_is() {
    let [short, long] = [3, 2_900].map(cost_of_an_update);
    assert!(long < short + 512, "{long} bytes with 2,900 links, {short} bytes with 3");
}

/// Gives the bytes that one empty Update of a registration with so many links allocates, its record for the store
/// included.
fn cost_of_an_update(links: usize) -> usize {
    const UPDATES: usize = 200;
    let mut scene = Scene::with(|config| config.limits.registration_size = 1_000_000);
    scene.gateway.restore(scene.now, Vec::new());
    register(&mut scene, &list(links));
    drop(scene.gateway.take_changes(scene.now, usize::MAX));
    let updates: Vec<_> = (0..UPDATES).map(|_| scene.update("")).collect();
    let cost = allocated(|| {
        for update in &updates {
            scene.ask(update, Code::CHANGED);
            drop(scene.gateway.take_changes(scene.now, usize::MAX));
        }
    });
    cost / UPDATES
}

#[test]
fn an_update_that_says_what_is_known_already_makes_no_record() {
    let mut scene = Scene::with(|_| {});
    scene.gateway.restore(scene.now, Vec::new());
    scene.register(QUERY);
    assert_eq!(scene.gateway.take_changes(scene.now, 10).len(), 1);
    for query in ["", "lt=300", "lwm2m=1.0"] {
        let update = scene.update(query);
        scene.ask(&update, Code::CHANGED);
        assert_eq!(scene.gateway.take_changes(scene.now, 10), [], "{query}");
    }
    let update = scene.update("lt=301");
    scene.ask(&update, Code::CHANGED);
    assert_eq!(scene.gateway.take_changes(scene.now, 10).len(), 1);
}

// --- The bytes of a registration
// ------------------------------------------------------------------------------------------

#[test]
fn a_register_that_is_too_large_is_answered_4_13_and_the_broker_is_not_asked() {
    for (query, links) in [
        (QUERY.to_owned(), list(2_900)),
        (QUERY.to_owned(), versions(400)),
        (QUERY.to_owned() + &items(0..64, 250), String::new()),
    ] {
        let mut scene = Scene::new();
        let mut register = scene.register_message(&query);
        register.payload = links.into_bytes();
        scene.device_sends(&register);
        let peer = scene.peer;
        let answer = scene.expect_reply(peer, &register, Code::REQUEST_ENTITY_TOO_LARGE);
        let reason = String::from_utf8(answer.payload).expect("text");
        assert!(reason.ends_with("limits.registration_size is 16384"), "{reason}");
        scene.expect_nothing_more();
        let reports = scene.reports();
        let [Report::RegisterRejected { endpoint, code, .. }] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!((endpoint.as_deref(), *code), (Some("dev-7"), Code::REQUEST_ENTITY_TOO_LARGE));
    }
}

#[test]
fn no_update_makes_a_registration_grow_beyond_its_bound_and_a_refused_one_changes_nothing() {
    let mut scene = Scene::registered();
    let kept = |scene: &Scene| scene.gateway.table_sizes().registration_bytes;
    let before = kept(&scene);
    let update = scene.update_with_links(&list(2_900));
    scene.ask(&update, Code::REQUEST_ENTITY_TOO_LARGE);
    assert_eq!(kept(&scene), before);

    // Item by item.
    let codes: Vec<Code> = (0..64)
        .map(|number| {
            let update = scene.update(&items(number..number + 1, 400));
            scene.device_sends(&update);
            scene.expect_sent().1.code
        })
        .collect();
    let first = codes.iter().position(|code| *code == Code::REQUEST_ENTITY_TOO_LARGE).expect("a bound");
    assert!(first > 30 && codes[..first].iter().all(|code| *code == Code::CHANGED), "{codes:?}");
    assert!((15_000..=16_384).contains(&kept(&scene)), "{}", kept(&scene));

    // It may shrink, and say that it is there.
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    let update = scene.update("k0=short");
    scene.ask(&update, Code::CHANGED);
    assert!(kept(&scene) < 16_384 - 350, "{}", kept(&scene));
}

#[test]
fn a_bound_that_has_become_narrower_lets_a_device_shrink_and_live_on() {
    let mut scene = Scene::new();
    register(&mut scene, &list(500));
    scene.gateway.set_limits(Limits { registration_size: 1024, ..Limits::default() });
    let update = scene.update("lt=900");
    scene.ask(&update, Code::CHANGED);
    let update = scene.update_with_links(&list(501));
    scene.ask(&update, Code::REQUEST_ENTITY_TOO_LARGE);
    let update = scene.update_with_links(&list(400));
    scene.ask(&update, Code::CHANGED);
}

fn register(scene: &mut Scene, links: &str) {
    let mut register = scene.register_message(QUERY);
    register.payload = links.as_bytes().to_vec();
    scene.device_sends(&register);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
}

/// Links of one byte each, and what belongs to it.
fn list(links: usize) -> String {
    (0..links).map(|instance| format!("</9/{instance}>")).collect::<Vec<_>>().join(",")
}

/// Objects with a version each.
fn versions(objects: usize) -> String {
    (0..objects).map(|object| format!("</{object}>;ver=1")).collect::<Vec<_>>().join(",")
}

/// Query items `k0`, `k1` ... of so many bytes each.
fn items(numbers: std::ops::Range<u32>, length: usize) -> String {
    let value = "v".repeat(length);
    numbers.map(|number| format!("&k{number}={value}")).collect()
}

// --- The bytes of commands
// ------------------------------------------------------------------------------------------------

#[test]
fn commands_that_wait_have_a_bound_in_bytes_for_a_device_and_for_all() {
    let mut scene = Scene::with(|config| {
        config.limits.pending_command_bytes = 10_000;
        config.limits.pending_command_bytes_total = 25_000;
    });
    let sleepers: Vec<RegistrationId> = (1..=3).map(|number| sleeper(&mut scene, number)).collect();
    scene.advance(60.0);
    let refused = |scene: &mut Scene, device: RegistrationId, bytes: usize| {
        scene.command_to(device, padded(bytes).to_string().as_bytes());
        reason(scene)
    };
    // One always has room in an empty queue, and then no other.
    assert_eq!(refused(&mut scene, sleepers[0], 12_000), None);
    let of_device = "the pending commands of this device have too many bytes (limits.pending_command_bytes)";
    assert_eq!(refused(&mut scene, sleepers[0], 1).as_deref(), Some(of_device));
    assert_eq!(refused(&mut scene, sleepers[1], 5_000), None);
    assert_eq!(refused(&mut scene, sleepers[1], 4_000), None);
    let of_all = "the commands of all devices have too many bytes (limits.pending_command_bytes_total)";
    assert_eq!(refused(&mut scene, sleepers[2], 5_000).as_deref(), Some(of_all));
    let taken = scene.gateway.table_sizes().command_bytes;
    assert!((21_000..22_000).contains(&taken), "{taken}");

    // What expires makes room, and so does what is answered.
    scene.advance(86_400.0 + 60.0);
    assert_eq!(scene.gateway.table_sizes().command_bytes, 0);
}

#[test]
fn a_command_counts_until_it_is_answered_and_one_that_need_not_wait_is_never_refused() {
    let mut scene = Scene::registered_with(|config| config.limits.pending_command_bytes_total = 4_000);
    scene.command(&padded(5_000));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    assert!(scene.gateway.table_sizes().command_bytes > 5_000);
    scene.command(&padded(1));
    assert!(reason(&mut scene).expect("refused").contains("limits.pending_command_bytes_total"));
    scene.answer_text(&request, "Acme");
    assert_eq!(scene.gateway.table_sizes().command_bytes, 0);
}

#[test]
fn early_commands_have_the_same_bounds() {
    for (bytes, total, key) in
        [(2_000, 1_000_000, "limits.pending_command_bytes)"), (1_000_000, 2_000, "limits.pending_command_bytes_total)")]
    {
        let mut scene = Scene::with(|config| {
            (config.limits.pending_command_bytes, config.limits.pending_command_bytes_total) = (bytes, total);
        });
        scene.send_register(QUERY);
        scene.expect_connect();
        scene.command(&padded(1_000));
        assert_eq!(reason(&mut scene), None);
        scene.command(&padded(1_000));
        assert!(reason(&mut scene).expect("refused").ends_with(key));
        scene.broker_says(BrokerEvent::ConnectFailed {
            registration: scene.device,
            error: ConnectError::Refused("no".to_owned()),
        });
        assert_eq!(scene.gateway.table_sizes().command_bytes, 0);
    }
}

/// A device in queue mode at an address of its own.
fn sleeper(scene: &mut Scene, number: u32) -> RegistrationId {
    scene.peer = peer(number);
    scene.join(&format!("ep=sleeper-{number}&lt=400000&b=UQ"));
    scene.forget_what_was_said();
    scene.device
}

/// A read of a little more than so many bytes.
fn padded(bytes: usize) -> Value {
    json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" }, "padding": "x".repeat(bytes) })
}

/// Why a command was refused just now; `None` if it was not.
fn reason(scene: &mut Scene) -> Option<String> {
    let said = scene.next_said()?;
    let Said::ToBroker(BrokerCommand::Publish { publication, .. }) = said else { panic!("{said:?}") };
    let payload: Value = serde_json::from_slice(&publication.payload).expect("JSON");
    assert_eq!(scene.next_said(), None);
    Some(payload["data"]["reason"].as_str().expect("a reason").to_owned())
}

// --- An hour of all of it
// -------------------------------------------------------------------------------------------------

/// Between two of its acts, in seconds, and how many there are.
const PAUSE: f64 = 3.0;
const ACTS: u32 = 1_200;

/// The application is not careful either: it sends the device more than that answers.
#[test]
fn an_hour_of_a_device_that_does_its_worst_stays_within_the_bounds_and_others_are_served() {
    let limits =
        Limits { pending_command_bytes: 1_000_000, pending_command_bytes_total: 1_500_000, ..Limits::default() };
    let mut scene = Scene::with(|config| config.limits = limits.clone());
    scene.gateway.restore(scene.now, Vec::new());
    scene.peer = peer(1);
    scene.join("ep=honest&lt=7200");
    scene.forget_what_was_said();
    let honest = scene.location.clone();
    let mut hostile = Hostile { rng: StdRng::seed_from_u64(7), item: 0 };
    scene.peer = HOSTILE;
    scene.join(QUERY);

    let mut store = Store::default();
    let mut most = TableSizes::default();
    for act in 0..ACTS {
        hostile.acts(&mut scene);
        hostile.is_commanded(&mut scene);
        scene.forget_what_was_said();
        store.keep(&mut scene);
        let now = scene.gateway.table_sizes();
        assert!(now.registration_bytes <= 2 * limits.registration_size, "{now:?}");
        assert!(now.command_bytes <= limits.pending_command_bytes_total + limits.command_size, "{now:?}");
        assert!(now.pending_commands <= 2 * limits.pending_commands, "{now:?}");
        assert!(
            now.devices <= 2 && now.pending_registrations <= 1 && now.retained_commands <= 1 && now.outputs == 0,
            "{now:?}"
        );
        assert!(now.deadlines < 16 && now.exchanges <= limits.observations + 1, "{now:?}");
        assert!(
            store.bytes() <= limits.pending_command_bytes + limits.command_size + 4 * limits.registration_size,
            "{act}"
        );
        most.registration_bytes = most.registration_bytes.max(now.registration_bytes);
        most.command_bytes = most.command_bytes.max(now.command_bytes);
        most.retained_commands = most.retained_commands.max(now.retained_commands);
        if act % 20 == 0 {
            is_served(&mut scene, &honest);
        }
        scene.advance(PAUSE);
        scene.forget_what_was_said();
        scene.reports();
    }
    // The bounds were reached.
    assert!(most.registration_bytes > limits.registration_size * 9 / 10, "{most:?}");
    assert!(most.command_bytes > limits.pending_command_bytes * 9 / 10, "{most:?}");
    assert_eq!(most.retained_commands, 1, "{most:?}");

    scene.advance(4.0 * 86_400.0);
    scene.forget_what_was_said();
    store.keep(&mut scene);
    let left = scene.gateway.table_sizes();
    assert_eq!((left.devices, left.command_bytes, left.exchanges, left.deadlines), (0, 0, 0, 0), "{left:?}");
    assert!(store.devices.is_empty() && store.retained_commands.values().all(|commands| commands.len() <= 256));
}

const HOSTILE: Peer =
    Peer { socket: 0, address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66)), 5683), association: None };

fn is_served(scene: &mut Scene, location: &[String]) {
    scene.peer = peer(1);
    let update = scene.request(Code::POST, location, "");
    scene.ask(&update, Code::CHANGED);
    scene.expect_nothing_more();
    scene.peer = HOSTILE;
}

struct Hostile {
    rng: StdRng,
    item: u32,
}

impl Hostile {
    /// One thing that a registered device can do, or many.
    fn acts(&mut self, scene: &mut Scene) {
        let message = match self.rng.random_range(0..8) {
            0 => scene.update(""),
            1 => {
                let links = self.rng.random_range(1..4_000);
                scene.update_with_links(&list(links))
            }
            2 => {
                let objects = self.rng.random_range(1..400);
                scene.update_with_links(&versions(objects))
            }
            3 | 4 => {
                self.item += 1;
                let length = self.rng.random_range(1..500);
                scene.update(&items(self.item..self.item + 1, length))
            }
            5 => scene.update(&format!("lt={}", self.rng.random_range(60..7200))),
            6 => scene.update("b=UQ"),
            _ => return self.registers(scene),
        };
        for _ in 0..self.rng.random_range(1..4) {
            let again = Message { id: scene.fresh_id(), ..message.clone() };
            scene.device_sends(&again);
        }
    }

    /// Registers anew, with as much as it likes; the broker takes it.
    fn registers(&mut self, scene: &mut Scene) {
        let mut register = scene.register_message(QUERY);
        let links = self.rng.random_range(1..3_500);
        register.payload = list(links).into_bytes();
        scene.forget_what_was_said();
        scene.device_sends(&register);
        while let Some(said) = scene.next_said() {
            if let Said::ToBroker(BrokerCommand::Connect { registration: device, .. }) = said {
                scene.device = device;
                scene.broker_takes_it();
            } else if let Said::ToDevice(_, Message { code: Code::CREATED, options, .. }) = said {
                scene.location =
                    options.texts(number::LOCATION_PATH).expect("text").into_iter().map(str::to_owned).collect();
            }
        }
    }

    /// Commands that it never answers, some of them retained.
    fn is_commanded(&mut self, scene: &mut Scene) {
        let mut command = padded(self.rng.random_range(1..200_000));
        command["reqID"] = self.rng.random::<u32>().into();
        let properties = MessageProperties { retained: self.rng.random(), ..MessageProperties::default() };
        let (topic, payload) = ("dn".to_owned(), command.to_string().into_bytes());
        scene.broker_says(BrokerEvent::Message { registration: scene.device, topic, payload, properties });
    }
}

/// What the store would hold.
#[derive(Default)]
struct Store {
    devices: BTreeMap<String, usize>,
    retained_commands: BTreeMap<String, Vec<CommandDigest>>,
}

impl Store {
    fn keep(&mut self, scene: &mut Scene) {
        for change in scene.gateway.take_changes(scene.now, usize::MAX) {
            match change {
                Change::Put(record) => {
                    let commands: usize = record.commands.iter().map(|command| command.command.to_json().len()).sum();
                    let json = serde_json::to_string(&record).expect("a record is JSON").len();
                    self.devices.insert(record.registration.endpoint, json + commands);
                }
                Change::Remove { endpoint, .. } => drop(self.devices.remove(&endpoint)),
                Change::RetainedCommands(record) => {
                    drop(self.retained_commands.insert(record.endpoint, record.commands))
                }
                Change::Profile(record) => panic!("no device named a profile, {record:?}"),
                Change::GeneratedKey(record) => panic!("nobody is bootstrapped, {record:?}"),
                Change::AwaitedBootstrap(record) => panic!("nobody is bootstrapped, {record:?}"),
                Change::Campaign(record) => panic!("no campaign was begun, {record:?}"),
                Change::FirmwareJob(record) => panic!("no firmware was updated, {record:?}"),
                Change::Association(change) => panic!("nobody speaks DTLS here, {change:?}"),
            }
        }
    }

    fn bytes(&self) -> usize {
        self.devices.values().sum::<usize>()
            + self.retained_commands.values().map(|commands| 8 * commands.len()).sum::<usize>()
    }
}
