//! What unregistered peers send cannot grow the memory past its bounds, cannot stop registered devices, and is not
//! multiplied.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_base::rate::{Rate, RateLimit};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, ConnectError};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::report::{DatagramOutcome, DropReason, LeaveReason, Report};
use lwm2m_core::gateway::{Gateway, Output, TableSizes};
use lwm2m_simulator::{DeviceEvent, SimulatedDeviceConfig};
use lwm2m_testkit::network::{BrokerBehaviour, Happening, Network, Weather};
use lwm2m_testkit::scene::{Scene, beginning, model, observe, peer};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const DEVICES: usize = 100;
const TEMPERATURE: &str = "/3303/0/5700";
/// What the devices do before unregistered peers come, how long those stay, and what is left to do after them, in
/// seconds.
const BEFORE: u64 = 20;
const FLOOD: u64 = 15;
const AFTER: u64 = 40;
/// Datagrams of unregistered peers in a second: more than is taken.
const RATE: u64 = 2_500;
const ADDRESSES: u64 = 50;
const ENDPOINTS: u64 = 10_000;

// --- Floods
// -------------------------------------------------------------------------------------------------------------

#[test]
fn a_flood_of_registers_that_the_broker_takes_stays_within_the_bounds() {
    let (network, most) = flooded(BrokerBehaviour::Takes, register_of_unregistered_peer);
    assert!(most.devices > DEVICES, "no unregistered peer was taken");
    gone_when_it_is_over(network);
}

#[test]
fn a_flood_of_registers_that_the_broker_refuses_stays_within_the_bounds() {
    let (network, most) = flooded(BrokerBehaviour::Refuses, register_of_unregistered_peer);
    assert_eq!(most.devices, DEVICES);
    gone_when_it_is_over(network);
}

#[test]
fn a_flood_of_registers_that_the_broker_never_answers_stays_within_the_bounds() {
    let (network, most) = flooded(BrokerBehaviour::NeverAnswers, register_of_unregistered_peer);
    assert!(most.pending_registrations > 1_000, "{most:?}");
    gone_when_it_is_over(network);
}

#[test]
fn a_flood_of_garbage_leaves_nothing_behind() {
    let (network, most) = flooded(BrokerBehaviour::Takes, garbage);
    assert_eq!((most.devices, most.pending_registrations), (DEVICES, 0));
    gone_when_it_is_over(network);
}

/// A hundred devices that notify and update, and unregistered peers between them; gives the most that the tables ever
/// held.
fn flooded(broker: BrokerBehaviour, of_unregistered: impl Fn(u64, &mut StdRng) -> Vec<u8>) -> (Network, TableSizes) {
    let mut config = lwm2m_core::gateway::config::GatewayConfig::default();
    let rate = |per_second, burst| Rate { per_second, burst };
    config.limits.registers.total = rate(500, 2_500);
    config.limits.unregistered.total = rate(500, 2_500);
    let mut network = Network::new(config.clone(), Weather::FAIR, 1);
    for number in 0..DEVICES {
        let device = network.attach(SimulatedDeviceConfig {
            lifetime: Duration::from_secs(60),
            notification_interval: Some(Duration::from_secs(5)),
            confirmable_notifications: true,
            ..SimulatedDeviceConfig::new(format!("dev-{number}"))
        });
        network.at(number as f64 * 0.01, Happening::Start(device));
        network.at(5.0, Happening::Command(device, observe(0, TEMPERATURE).to_string().into_bytes()));
        network.at((BEFORE + FLOOD + AFTER) as f64, Happening::Stop(device));
    }
    network.run_until(BEFORE as f64);
    assert_eq!(network.gateway.table_sizes().devices, DEVICES);
    network.broker = broker;
    let (mut rng, mut most) = (StdRng::seed_from_u64(2), TableSizes::default());
    for second in BEFORE..BEFORE + FLOOD {
        for number in 0..RATE {
            let at = second as f64 + number as f64 / RATE as f64;
            let from = unregistered(second * RATE + number);
            network.at(at, Happening::ToGateway(from, of_unregistered(second * RATE + number, &mut rng)));
        }
        for quarter in 1..=4 {
            network.run_until(second as f64 + f64::from(quarter) * 0.25);
            most = within_bounds(&network, &config, most);
        }
    }
    network.run_until((BEFORE + FLOOD + AFTER) as f64 - 1.0);
    all_devices_were_served(&network);
    assert!(network.rate_limited > 1_000, "{}", network.rate_limited);
    (network, most)
}

#[track_caller]
fn within_bounds(network: &Network, config: &GatewayConfig, most: TableSizes) -> TableSizes {
    let occupancy = network.gateway.table_sizes();
    let (limits, coap) = (&config.limits, &config.coap);
    let TableSizes { devices, pending_registrations, addresses, outputs, .. } = occupancy;
    let of_all = |limit: RateLimit| (limit.total.burst + limit.total.per_second) as usize;
    assert!(
        devices + pending_registrations <= limits.devices && pending_registrations <= limits.pending_registrations,
        "{occupancy:?}"
    );
    assert!(addresses <= 2 * of_all(limits.registers) + of_all(limits.unregistered), "{occupancy:?}");
    assert!(occupancy.coap.pending_requests <= coap.pending_requests, "{occupancy:?}");
    assert!(
        occupancy.coap.remembered_messages <= coap.deduplication_entries + coap.deduplication_entries / 4,
        "{occupancy:?}"
    );
    assert!(occupancy.coap.assemblies <= coap.block_uploads.div_ceil(2), "{occupancy:?}");
    assert!(occupancy.coap.block_transfer_bytes <= coap.block_transfer_bytes / 8, "{occupancy:?}");
    assert!(occupancy.exchanges <= devices * (limits.observations + 1), "{occupancy:?}");
    assert_eq!(occupancy.coap.exchanges, 0, "nobody asked a device for anything");
    assert_eq!((outputs, occupancy.coap.outputs), (0, 0));
    TableSizes {
        devices: most.devices.max(devices),
        pending_registrations: most.pending_registrations.max(pending_registrations),
        ..most
    }
}

/// What the devices said was taken, answered and published.
#[track_caller]
fn all_devices_were_served(network: &Network) {
    for (number, device) in network.devices.iter().enumerate() {
        let count = |wanted: fn(&DeviceEvent) -> bool| device.events.iter().filter(|event| wanted(event)).count();
        let notified = count(|event| matches!(event, DeviceEvent::Notified { .. }));
        let refused = count(|event| matches!(event, DeviceEvent::Refused { .. }));
        let ended = count(|event| matches!(event, DeviceEvent::ObservationEnded { .. }));
        let published = network.published_for(number).filter(|payload| payload["msgType"] == "notify").count();
        assert_eq!((refused, ended, device.registers), (0, 0, 1), "{}", device.endpoint);
        assert!(count(|event| matches!(event, DeviceEvent::Updated)) >= 2, "{}", device.endpoint);
        assert!(notified >= 11 && notified - published <= 1, "{}: {notified}, {published}", device.endpoint);
        assert!(notified - device.confirmed.len() <= 1, "{}", device.endpoint);
    }
    let retransmitted = network.reports.iter().filter(|report| is_repetition_to_a_device(report)).count();
    assert_eq!(retransmitted, 0);
}

fn is_repetition_to_a_device(report: &Report) -> bool {
    matches!(report, Report::Retransmitted { peer } if !is_unregistered(*peer))
}

/// The devices leave, the unregistered peers' registrations are over, and every message is forgotten.
#[track_caller]
fn gone_when_it_is_over(mut network: Network) {
    network.run_until((BEFORE + FLOOD + AFTER) as f64 + 500.0);
    network.gateway.handle_timeout(network.now);
    while !matches!(network.gateway.poll_output(), Output::Idle(_)) {}
    assert_eq!(network.gateway.table_sizes(), TableSizes::default());
    let over = |report: &&Report| {
        matches!(
            report,
            Report::Left { reason: LeaveReason::LifetimeOver, endpoint } if endpoint.starts_with("dev-")
        )
    };
    assert_eq!(network.reports.iter().filter(over).count(), 0);
}

fn unregistered(number: u64) -> Peer {
    let (address, port) = (number % ADDRESSES, number / ADDRESSES % (ENDPOINTS / ADDRESSES));
    Peer::udp(0, ([198, 51, 100, address as u8], 10_000 + port as u16).into())
}

fn is_unregistered(peer: Peer) -> bool {
    peer.address.ip().to_string().starts_with("198.51.100.")
}

/// Each of the endpoints, in turn, with a new message each time.
fn register_of_unregistered_peer(number: u64, rng: &mut StdRng) -> Vec<u8> {
    let query = format!("ep=unregistered-{}&lt=60", number % ENDPOINTS);
    request(Code::POST, &["rd"], &query, MessageId(rng.random())).encode()
}

/// Random bytes, requests to nowhere, responses to nothing, beginnings of bodies, pings.
fn garbage(number: u64, rng: &mut StdRng) -> Vec<u8> {
    let id = MessageId(rng.random());
    match number % 8 {
        0 => (0..rng.random_range(0..100)).map(|_| rng.random()).collect(),
        1 => request(Code::GET, &["no", "such", "place"], "", id).encode(),
        2 => request(Code::POST, &["rd", "unknown-location"], "lt=60", id).encode(),
        3 => Message { code: Code::CONTENT, payload: b"21.5".to_vec(), ..request(Code::GET, &[], "", id) }.encode(),
        4 => {
            // The beginning of a body that never goes on.
            let mut begun = request(Code::POST, &["3303"], "", id);
            begun.options.add_uint(number::BLOCK1, 0x0e);
            begun.payload = vec![b'<'; 1024];
            begun.encode()
        }
        5 => Message::empty(Kind::Confirmable, id).encode(),
        6 => Message::empty(Kind::Acknowledgement, id).encode(),
        _ => request(Code::GET, &[".well-known", "core"], "", id).encode(),
    }
}

// --- Limits
// -------------------------------------------------------------------------------------------------------------

fn narrow(config: &mut GatewayConfig) {
    let rate = |per_second, burst| Rate { per_second, burst };
    config.limits.registers = RateLimit { total: rate(1, 6), address: rate(1, 4) };
    config.limits.unregistered = RateLimit { total: rate(1, 6), address: rate(1, 4) };
}

#[test]
fn a_register_too_many_from_one_address_is_answered_4_29_and_then_not_at_all() {
    let mut world = World::with(narrow);
    let codes: Vec<_> = (0..12).map(|number| world.register_from(unregistered(number * ADDRESSES), number)).collect();
    let refused = Some((Code::TOO_MANY_REQUESTS, 30..=60));
    assert_eq!(codes[..4], [None, None, None, None], "four of them wait for the broker");
    assert_eq!(world.connects, 4);
    for code in &codes[4..8] {
        let (code, max_age) = code.expect("an answer");
        assert_eq!(Some(code), refused.as_ref().map(|(code, _)| *code));
        assert!(refused.as_ref().is_some_and(|(_, range)| range.contains(&max_age)), "{max_age}");
    }
    assert_eq!(codes[8..], [None, None, None, None]);
    let limited = DatagramOutcome::Dropped(DropReason::RateLimited);
    assert_eq!(
        world.outcomes(),
        BTreeMap::from([(key(DatagramOutcome::Request), 4), (key(DatagramOutcome::Refused), 4), (key(limited), 4)])
    );
}

#[test]
fn a_register_too_many_of_all_addresses_is_answered_5_03_and_the_time_brings_room_again() {
    let mut world = World::with(narrow);
    let mut codes: Vec<_> =
        (0..4).map(|number| world.register_from(unregistered(number * ADDRESSES), number)).collect();
    codes.extend((0..4).map(|number| world.register_from(unregistered(number * ADDRESSES + 1), 4 + number)));
    assert!(codes[..6].iter().all(Option::is_none));
    assert!(codes[6..].iter().all(|answer| answer.is_some_and(|(code, _)| code == Code::SERVICE_UNAVAILABLE)));
    world.now += Duration::from_secs(1);
    assert_eq!(world.register_from(unregistered(7), 20), None);
    assert_eq!(world.connects, 7);
}

#[test]
fn the_same_register_again_is_no_other_one() {
    let mut world = World::with(narrow);
    let register = register_of_unregistered_peer(1, &mut StdRng::seed_from_u64(1));
    for _ in 0..3 {
        world.send(unregistered(1), &register);
    }
    assert_eq!((world.connects, world.sent.len()), (1, 0));
    assert_eq!(
        world.outcomes(),
        BTreeMap::from([(key(DatagramOutcome::Request), 1), (key(DatagramOutcome::Duplicate), 2)])
    );
}

#[test]
fn a_registered_device_is_served_whatever_unregistered_peers_behind_its_address_do() {
    let mut scene = Scene::registered_with(narrow);
    let device = scene.peer;
    let neighbour = |port: u16| Peer { address: (device.address.ip(), port).into(), ..device };
    for port in 0..40 {
        let ping = Message::empty(Kind::Confirmable, MessageId(port));
        scene.device_sends_from(neighbour(10_000 + port), &ping);
        let mut register = scene.register_message("ep=neighbour&lt=60");
        register.token = Token::EMPTY;
        scene.device_sends_from(neighbour(20_000 + port), &register);
    }
    scene.forget_what_was_said();
    for _ in 0..20 {
        let update = scene.update("");
        scene.ask(&update, Code::CHANGED);
    }
    // From another port, by its location: that counts as an unregistered peer's until it is known there.
    scene.peer = neighbour(30_000);
    let update = scene.update("");
    scene.device_sends(&update);
    scene.expect_nothing_more();
    scene.advance(1.0);
    scene.forget_what_was_said();
    for _ in 0..20 {
        let update = scene.update("");
        scene.ask(&update, Code::CHANGED);
    }
    // Registering anew, from where it is.
    scene.advance(60.0);
    scene.forget_what_was_said();
    scene.send_register(lwm2m_testkit::scene::QUERY);
    scene.expect_connect();
}

#[test]
fn unregistered_peers_have_half_as_many_bodies_in_blocks_and_the_oldest_makes_room() {
    let mut world = World::with(|config| config.coap.block_uploads = 4);
    let begun = |number: u64| {
        let mut begun = request(Code::POST, &["rd"], &format!("ep=blocks-{number}"), MessageId(number as u16));
        begun.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        begun.options.add_uint(number::BLOCK1, 0x08);
        begun.payload = b"</3/0>,</3303/0>".to_vec();
        begun.encode()
    };
    for number in 0..4 {
        world.send(peer(number), &begun(number.into()));
    }
    let codes: Vec<_> = world.sent.drain(..).map(|(_, message)| message.code).collect();
    assert_eq!(codes, [Code::CONTINUE; 4]);
    assert_eq!(world.gateway.table_sizes().coap.assemblies, 2);
}

/// The first and the last block of a Register, of 16 bytes and of 7.
fn register_in_blocks(endpoint: &str, last: bool) -> Vec<u8> {
    let id = MessageId(if last { 2 } else { 1 });
    let mut part = request(Code::POST, &["rd"], &format!("ep={endpoint}&lt=60"), id);
    part.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
    part.options.add_uint(number::BLOCK1, if last { 0x10 } else { 0x08 });
    part.payload = if last { b"3303/0>".to_vec() } else { b"</1/0>,</3/0>,</".to_vec() };
    part.encode()
}

/// 510 spoofed beginnings kept every other one out for minutes once.
#[test]
fn spoofed_beginnings_of_bodies_do_not_keep_devices_out() {
    let mut world = World::with(|_| {});
    for number in 0..2_000u32 {
        let spoofed = Peer::udp(0, ([172, 16, (number >> 8) as u8, number as u8], 5683).into());
        world.send(spoofed, &register_in_blocks(&format!("spoofed-{number}"), false));
        if number % 500 == 0 {
            let device = peer(number);
            let endpoint = format!("device-{number}");
            world.send(device, &register_in_blocks(&endpoint, false));
            world.send(device, &register_in_blocks(&endpoint, true));
        }
    }
    assert_eq!(world.connects, 4);
    assert!(world.sent.iter().all(|(_, message)| message.code == Code::CONTINUE));
    let occupancy = world.gateway.table_sizes().coap;
    assert_eq!((occupancy.assemblies, occupancy.block_transfer_bytes), (500, 500 * 16));
    world.advance(Duration::from_secs(31));
    let occupancy = world.gateway.table_sizes().coap;
    assert_eq!((occupancy.assemblies, occupancy.block_transfer_bytes), (0, 0));
}

#[test]
fn the_own_location_named_from_elsewhere_counts_as_an_unregistered_peers_request() {
    let mut scene = Scene::registered_with(narrow);
    let location = scene.location.clone();
    let get = |scene: &mut Scene| scene.request(Code::GET, &location, "");
    let mut answered = 0;
    for number in 0..40 {
        let get = get(&mut scene);
        scene.device_sends_from(peer(100 + number), &get);
        answered += usize::from(scene.next_said().is_some());
    }
    assert_eq!(answered, 6, "the burst of unregistered peers");
    // From its own address it is the device.
    for _ in 0..40 {
        let get = get(&mut scene);
        scene.ask(&get, Code::METHOD_NOT_ALLOWED);
    }
}

#[test]
fn a_reset_of_what_is_no_message_counts_as_an_answer_to_an_unregistered_peer() {
    let mut scene = Scene::registered_with(narrow);
    let datagram = [0x40, 0x45, 0x20, 0x02, 0xff];
    let resets = |scene: &mut Scene, from: &dyn Fn(u32) -> Peer| {
        (0..40)
            .filter(|number| {
                let outcome = scene.device_sends_bytes_from(from(*number), &datagram);
                let reset = scene.next_said().is_some();
                assert_eq!(outcome == DatagramOutcome::Dropped(DropReason::RateLimited), !reset, "{outcome:?}");
                reset
            })
            .count()
    };
    assert_eq!(resets(&mut scene, &|number| peer(100 + number)), 6);
    let device = scene.peer;
    assert_eq!(resets(&mut scene, &|_| device), 40);
}

// --- Registered devices
// -------------------------------------------------------------------------------------------------

#[test]
fn a_registered_device_has_a_rate_and_what_is_beyond_it_is_dropped_and_counted() {
    let slow = |config: &mut GatewayConfig| config.limits.registered = Rate { per_second: 10, burst: 20 };
    let mut scene = Scene::registered_with(slow);
    // The observation, and a command later: acknowledgements are not counted.
    let observed = scene.observe(1, TEMPERATURE);
    let limited = DatagramOutcome::Dropped(DropReason::DeviceRateLimited);
    let dropped = |scene: &mut Scene, count: usize| {
        (0..count)
            .filter(|_| {
                let update = scene.update("");
                scene.device_sends_bytes(&update.encode()) == limited
            })
            .count()
    };
    assert_eq!(dropped(&mut scene, 50), 30);
    scene.forget_what_was_said();
    scene.notify(&observed, Kind::NonConfirmable, 9, "30");
    let malformed = [0x40, 0x45, 0x20, 0x02, 0xff];
    assert_eq!(scene.device_sends_bytes(&malformed), limited);
    scene.expect_nothing_more();
    scene.command(&lwm2m_testkit::scene::read(2));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_any_published("lwm2m/dev-7/up/resp");
    scene.command(&lwm2m_testkit::scene::read(3));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    let separate = lwm2m_testkit::scene::text_reply(&request, Kind::Confirmable, MessageId(900), None, "Acme");
    scene.device_sends(&separate);
    scene.expect_acknowledgement(&separate);
    scene.expect_any_published("lwm2m/dev-7/up/resp");
    scene.advance(1.0);
    assert_eq!(dropped(&mut scene, 50), 40);
    scene.forget_what_was_said();

    // Another device has its own, and two behind one port have twice as much.
    scene.peer = peer(2);
    scene.join("ep=dev-8&lt=300");
    scene.forget_what_was_said();
    assert_eq!(dropped(&mut scene, 50), 30);
    scene.advance(10.0);
    scene.forget_what_was_said();
    scene.join("ep=dev-9&lt=300");
    scene.advance(10.0);
    scene.forget_what_was_said();
    assert_eq!(dropped(&mut scene, 50), 10);
    scene.advance(60.0);
    assert_eq!(scene.gateway.table_sizes().senders, 0);
}

#[test]
fn a_register_more_than_may_wait_for_the_broker_is_answered_5_03() {
    let mut world = World::with(|config| config.limits.pending_registrations = 2);
    let codes: Vec<_> = (0..3).map(|number| world.register_from(unregistered(number), number)).collect();
    assert_eq!(codes, [None, None, Some((Code::SERVICE_UNAVAILABLE, 30))]);
    // The same endpoint again takes the place that it has.
    let again = request(Code::POST, &["rd"], "ep=unregistered-0", MessageId(100));
    world.send(unregistered(0), &again.encode());
    assert_eq!((world.connects, world.gateway.table_sizes().pending_registrations), (3, 2));
}

// --- Amplification
// ------------------------------------------------------------------------------------------------------

type Change = fn(&mut GatewayConfig);

/// How much larger all the answers to an unregistered peer's datagram may be together.
const ABOUT: usize = 16;

/// What the broker says to a Register, and when.
const OUTCOMES: [(Option<ConnectFailure>, u64); 6] = [
    (Some(ConnectFailure::Refused), 0),
    (Some(ConnectFailure::Refused), 5),
    (Some(ConnectFailure::Unavailable), 0),
    (Some(ConnectFailure::Unavailable), 5),
    (None, 0),
    (None, 5),
];

#[derive(Clone, Copy, Debug)]
enum ConnectFailure {
    Refused,
    Unavailable,
}

#[test]
fn the_answers_to_an_unregistered_peer_are_together_no_larger_than_about_the_datagram() {
    let config: [(&str, Change); 4] = [
        ("default", |_| {}),
        ("full", |config| config.limits.devices = 0),
        ("busy", |config| config.limits.pending_registrations = 0),
        ("limited", |config| config.limits.registers.total = Rate { per_second: 1, burst: 1 }),
    ];
    for (case, change) in config {
        for (failure, delay) in OUTCOMES {
            for datagram in datagrams_of_unregistered_peers() {
                let answered = answered_bytes(change, failure, delay, &datagram);
                let (sent, message) = (datagram.len(), Message::decode(&datagram));
                assert!(
                    answered <= sent + ABOUT,
                    "{case}, {failure:?} after {delay} s: {answered} for {sent}, {message:?}"
                );
            }
        }
    }
}

#[test]
fn a_register_that_gives_way_is_answered_in_few_words() {
    let mut world = World::with(|_| {});
    let registers: Vec<_> =
        (0..4).map(|number| request(Code::POST, &["rd"], "ep=x", MessageId(number)).encode()).collect();
    let longest = registers.iter().map(Vec::len).max().expect("four of them");
    for register in &registers {
        world.send(unregistered(1), register);
        world.advance(Duration::from_secs(2));
    }
    world.advance(Duration::from_secs(300));
    // Each was acknowledged, and three were answered.
    assert_eq!(world.sent.len(), 7);
    let bytes: usize = world.sent.iter().map(|(_, message)| message.encode().len()).sum();
    assert!(bytes <= 4 * (longest + ABOUT), "{bytes}");
}

/// All that goes to the unregistered peer because of one datagram. A Register that the broker never answers is left as
/// it is.
fn answered_bytes(change: Change, failure: Option<ConnectFailure>, delay: u64, datagram: &[u8]) -> usize {
    let mut world = World::with(change);
    // The first one, where one is all that is taken.
    world.send(unregistered(2), &request(Code::POST, &["rd"], "ep=first", MessageId(1)).encode());
    world.send(unregistered(1), datagram);
    world.advance(Duration::from_secs(delay));
    for device in std::mem::take(&mut world.joining) {
        let error = match failure {
            Some(ConnectFailure::Refused) => ConnectError::Refused("bad username or password".to_owned()),
            Some(ConnectFailure::Unavailable) => ConnectError::Unavailable("connection refused".to_owned()),
            None => continue,
        };
        world.gateway.handle_broker(world.now, BrokerEvent::ConnectFailed { registration: device, error });
        world.poll();
    }
    world.advance(Duration::from_secs(300));
    let answers = world.sent.iter().filter(|(to, _)| *to == unregistered(1));
    answers.map(|(_, message)| message.encode().len()).sum()
}

fn datagrams_of_unregistered_peers() -> Vec<Vec<u8>> {
    let mut datagrams: Vec<Vec<u8>> = vec![Message::empty(Kind::Confirmable, MessageId(7)).encode()];
    for kind in [Kind::Confirmable, Kind::NonConfirmable] {
        for token in [Token::EMPTY, Token::new(b"12345678")] {
            let messages = requests_of_unregistered_peers().into_iter();
            datagrams.extend(messages.map(|message| Message { kind, token, ..message }.encode()));
        }
    }
    datagrams
}

/// The smallest of each kind.
fn requests_of_unregistered_peers() -> Vec<Message> {
    let with = |mut request: Message, options: &[(u16, u32)], payload: &[u8]| {
        options.iter().for_each(|(number, value)| request.options.add_uint(*number, *value));
        request.payload = payload.to_vec();
        request
    };
    let new = |method, path: &[&str], query| request(method, path, query, MessageId(7));
    let core = || new(Code::GET, &[".well-known", "core"], "");
    let register = |query| new(Code::POST, &["rd"], query);
    vec![
        core(),
        with(core(), &[(number::ACCEPT, 0)], b""),
        with(core(), &[(number::BLOCK2, 0)], b""),
        with(core(), &[(number::BLOCK2, 0x10)], b""),
        with(core(), &[(number::BLOCK2, 0x06)], b""),
        with(core(), &[(number::BLOCK2, 0x07)], b""),
        with(core(), &[(number::OBSERVE, 0)], b""),
        new(Code::POST, &[".well-known", "core"], ""),
        new(Code::GET, &[], ""),
        new(Code::GET, &["x"], ""),
        new(Code::DELETE, &["rd"], ""),
        new(Code::POST, &["rd", "x"], ""),
        new(Code::PUT, &["rd", "x"], "lt=1"),
        new(Code::of(0, 31), &["rd"], ""),
        with(new(Code::GET, &[], ""), &[(1, 0)], b""),
        with(new(Code::GET, &[], ""), &[(35, 0)], b""),
        with(new(Code::GET, &[], ""), &[(65_001, 0)], b""),
        Message { code: Code::CONTENT, ..new(Code::GET, &[], "") },
        register("ep=x"),
        register(""),
        register("ep="),
        register("e"),
        register("lwm2m=9"),
        register("ep=x&lwm2m=9"),
        register("ep=x&lt=0"),
        register("ep=x&lt=x"),
        with(register("ep=x"), &[(number::CONTENT_FORMAT, 0)], b""),
        with(register(""), &[(number::CONTENT_FORMAT, 0)], b""),
        with(register("ep=x"), &[], b"<"),
        with(register("ep=x"), &[(number::BLOCK2, 0)], b""),
        with(register("ep=x"), &[(number::BLOCK1, 0)], b""),
        with(register(""), &[(number::BLOCK1, 0x08)], b"0123456789abcdef"),
        with(register(""), &[(number::BLOCK1, 0x08)], b"1"),
        with(register(""), &[(number::BLOCK1, 0x10)], b"1"),
        with(new(Code::PUT, &[], ""), &[(number::BLOCK1, 0x0e)], &[0; 1024]),
    ]
}

// --- The world
// ----------------------------------------------------------------------------------------------------------

/// The gateway alone, and what it says.
struct World {
    gateway: Gateway,
    now: Instant,
    deadline: Option<Instant>,
    sent: Vec<(Peer, Message)>,
    said: Vec<DatagramOutcome>,
    connects: usize,
    joining: Vec<lwm2m_core::gateway::broker::RegistrationId>,
}

impl World {
    fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut config = lwm2m_core::gateway::config::GatewayConfig::default();
        change(&mut config);
        let now = beginning();
        Self {
            gateway: Gateway::new(config, model(), [3; 32], now, Duration::from_secs(1_700_000_000)),
            now,
            deadline: None,
            sent: Vec::new(),
            said: Vec::new(),
            connects: 0,
            joining: Vec::new(),
        }
    }

    fn send(&mut self, from: Peer, datagram: &[u8]) {
        let before = self.said.len();
        self.gateway.handle_datagram(self.now, from, datagram);
        self.poll();
        assert_eq!(self.said.len(), before + 1, "one outcome for each datagram");
    }

    /// Sends a Register of an endpoint of its own; gives the code and the Max-Age of the answer, if there is one at
    /// once.
    fn register_from(&mut self, from: Peer, number: u64) -> Option<(Code, u32)> {
        let query = format!("ep=unregistered-{}&lt=60", number % ENDPOINTS);
        self.sent.clear();
        self.send(from, &request(Code::POST, &["rd"], &query, MessageId(number as u16)).encode());
        let (to, answer) = self.sent.pop()?;
        assert_eq!((to, answer.kind, answer.id), (from, Kind::Acknowledgement, MessageId(number as u16)));
        Some((answer.code, answer.options.uint(number::MAX_AGE).expect("a number")?))
    }

    fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(next) = self.deadline.filter(|next| *next <= until) {
            self.now = next.max(self.now);
            self.gateway.handle_timeout(self.now);
            self.poll();
        }
        self.now = until;
    }

    fn poll(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.datagram).expect("what leaves is a message");
                    self.sent.push((transmit.peer, message));
                }
                Output::Broker(BrokerCommand::Connect { registration: device, .. }) => {
                    self.connects += 1;
                    self.joining.push(device);
                }
                Output::Broker(_) => {}
                Output::Report(Report::Datagram { outcome, .. }) => self.said.push(outcome),
                Output::Report(_) | Output::Answer(_) => {}
                Output::FindKey(question) => panic!("nobody speaks DTLS here, {question}"),
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::DescribeImage { .. } | Output::ReadImage { .. } => panic!("nobody asks for an image here"),
                Output::Idle(deadline) => {
                    self.deadline = deadline;
                    return;
                }
            }
        }
    }

    fn outcomes(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        self.said.iter().for_each(|outcome| *counts.entry(key(*outcome)).or_default() += 1);
        counts
    }
}

fn key(outcome: DatagramOutcome) -> String {
    format!("{outcome:?}")
}

fn request(method: Code, path: &[&str], query: &str, id: MessageId) -> Message {
    let mut options = Options::new();
    path.iter().for_each(|segment| options.add_text(number::URI_PATH, segment));
    query.split('&').filter(|item| !item.is_empty()).for_each(|item| options.add_text(number::URI_QUERY, item));
    Message { kind: Kind::Confirmable, code: method, id, token: Token::EMPTY, options, payload: Vec::new() }
}
