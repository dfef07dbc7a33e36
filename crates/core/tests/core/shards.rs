//! The ids that a gateway gives out name its shards, so that a datagram can be routed by them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_base::{AssociationId, Peer, Shard, ShardSet, ThreadShards};
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Message, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, RegistrationId};
use lwm2m_core::gateway::moves::claims::{ClaimAnswer, ClaimPurpose, ClaimQuestion, DeviceName};
use lwm2m_core::gateway::moves::shards::ShardContents;
use lwm2m_core::gateway::persistence::record::Change;
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_core::registry::Location;
use lwm2m_dtls::Term;
use lwm2m_testkit::scene::{QUERY, Scene, peer, read};
use proptest::prelude::*;

/// Registers devices with a gateway that has these shards, sends each of them a command, and returns the shards of the
/// Locations and of the tokens.
fn given_out(shards: ThreadShards, token_length: usize, devices: usize) -> (Vec<Shard>, Vec<Shard>) {
    let mut scene = Scene::with(|config| {
        config.coap.shards = shards.into();
        config.coap.token_length = token_length;
    });
    let both = (0..devices).map(|number| {
        scene.join(&format!("ep=dev-{number}&lt=300&lwm2m=1.0"));
        scene.forget_what_was_said();
        scene.command(&read(number as u64));
        let token = scene.expect_request(Code::GET, "/3/0/0").token;
        assert!(token.as_bytes().len() >= token_length);
        let location = scene.location.last().expect("a registered device has a Location");
        let shard = Location::shard_of(location).expect("a Location names a shard");
        (shard, token.shard().expect("a token that is not empty names a shard"))
    });
    both.unzip()
}

#[test]
fn locations_and_tokens_are_of_the_shards_of_the_thread() {
    for (thread, threads) in [(0, 2), (1, 2), (2, 3), (7, 8), (100, 128)] {
        let shards = ThreadShards::new(thread, threads).expect("there is such a thread");
        let (locations, tokens) = given_out(shards, 4, 60);
        assert!(locations.iter().chain(&tokens).all(|shard| shards.contains(*shard)), "{thread} of {threads}");
        let different: HashSet<_> = locations.into_iter().collect();
        assert!(different.len() > 1, "the shards of a thread are all in use");
    }
}

#[test]
fn the_only_thread_gives_out_ids_of_all_shards() {
    let (locations, tokens) = given_out(ThreadShards::ALL, 8, 500);
    for given in [locations, tokens] {
        let different: HashSet<_> = given.into_iter().collect();
        // 500 random numbers below 256 have 220 different ones on average.
        assert!(different.len() > 180, "{}", different.len());
    }
}

#[test]
fn a_text_that_is_no_location_names_no_shard() {
    for text in ["", "A", "A+", "ä", "%41A"] {
        assert_eq!(Location::shard_of(text), None, "{text}");
    }
    assert_eq!(Token::EMPTY.shard(), None);
}

#[test]
fn the_shard_of_a_location_is_in_its_first_eight_bits() {
    for (text, number) in [("AAAAAAAAAAAA", 0), ("AQ", 1), ("BA", 4), ("BP", 4), ("_w", 255), ("__________", 255)] {
        assert_eq!(Location::shard_of(text), Some(Shard::new(number)), "{text}");
    }
}

/// Returns the outputs of a gateway that are no reports.
fn outputs(gateway: &mut Gateway) -> Vec<Output> {
    let mut outputs = Vec::new();
    loop {
        match gateway.poll_output() {
            Output::Idle(_) => return outputs,
            Output::Report(_) => {}
            output => outputs.push(output),
        }
    }
}

#[test]
fn a_lost_shard_is_forgotten_without_a_word_and_one_that_comes_continues_its_devices() {
    let mut scene = Scene::new();
    scene.gateway.restore(scene.now, Vec::new());
    scene.register(QUERY);
    let changes = scene.gateway.take_changes(scene.now, 100);
    let record = changes.into_iter().find_map(|change| match change {
        Change::Put(record) => Some(*record),
        _ => None,
    });
    let record = record.expect("the device is stored");
    let shard = record.shard();
    scene.command(&read(1));
    scene.forget_what_was_said();

    scene.gateway.forget_shard(scene.now, shard);
    let said = outputs(&mut scene.gateway);
    assert!(matches!(said[..], [Output::Broker(BrokerCommand::Abandon { .. })]), "{said:?}");
    assert_eq!(scene.gateway.registered_names().count(), 0);
    assert!(!scene.gateway.shards().contains(shard) && !scene.gateway.has_changes());
    scene.gateway.handle_timeout(scene.now + Duration::from_secs(60));
    assert_eq!(outputs(&mut scene.gateway), [], "nothing is sent to the device again");

    let now = scene.now + Duration::from_secs(60);
    let contents = ShardContents { devices: vec![record.clone()], ..ShardContents::default() };
    scene.gateway.restore_shard(now, (shard, Term::new(7)), contents);
    let said = outputs(&mut scene.gateway);
    assert!(matches!(said[..], [Output::Broker(BrokerCommand::Resume { .. })]), "{said:?}");
    let names: Vec<_> = scene.gateway.registered_names().collect();
    assert_eq!(names, [(record.registration.endpoint.as_str(), record.location.as_str())]);
    assert!(scene.gateway.shards().contains(shard));
}

/// A device that is registered, and registers again: the broker has not answered yet. Returns the shard of the first
/// registration, its id, and the second Register.
fn registering_again() -> (Scene, Shard, RegistrationId, Message) {
    let mut scene = Scene::new();
    scene.gateway.restore(scene.now, Vec::new());
    scene.register(QUERY);
    let (first, location) = (scene.device, scene.location.last().expect("it is registered"));
    let shard = Location::shard_of(location).expect("a Location names a shard");
    let register = scene.send_register(QUERY);
    scene.expect_connect();
    (scene, shard, first, register)
}

#[test]
fn a_register_that_waits_for_the_broker_is_answered_5_03_when_the_shard_of_its_device_is_handed_over() {
    let (mut scene, shard, first, register) = registering_again();
    let second = scene.device;
    scene.gateway.change_shard(shard);
    drop(scene.gateway.take_changes(scene.now, 100));
    scene.gateway.hand_over_shard(scene.now, shard);
    scene.settle();
    let answer = scene.expect_reply(scene.peer, &register, Code::SERVICE_UNAVAILABLE);
    assert!(answer.options.uint(number::MAX_AGE).expect("a number").is_some(), "it comes again soon");
    for registration in [second, first] {
        assert_eq!(scene.expect_broker_command(), BrokerCommand::HandOver { registration }, "its session stays");
    }
    scene.broker_takes_it();
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.registered_names().count(), 0);
    assert!(!scene.gateway.has_changes());
}

#[test]
fn a_register_that_waits_for_the_broker_is_answered_5_03_when_the_shard_of_its_device_is_lost() {
    let (mut scene, shard, first, register) = registering_again();
    scene.gateway.forget_shard(scene.now, shard);
    scene.settle();
    scene.expect_reply(scene.peer, &register, Code::SERVICE_UNAVAILABLE);
    for registration in [scene.device, first] {
        assert_eq!(scene.expect_broker_command(), BrokerCommand::Abandon { registration });
    }
    scene.broker_takes_it();
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.registered_names().count(), 0);
}

#[test]
fn a_register_of_another_shard_goes_on_when_a_shard_is_handed_over() {
    let mut scene = Scene::new();
    scene.register(QUERY);
    let shard = scene.location.last().and_then(|location| Location::shard_of(location)).expect("it names a shard");
    scene.peer = peer(2);
    let register = scene.send_register("ep=dev-8&lt=300&lwm2m=1.0");
    scene.expect_connect();
    scene.gateway.hand_over_shard(scene.now, shard);
    scene.settle();
    assert!(matches!(scene.expect_broker_command(), BrokerCommand::HandOver { .. }));
    scene.broker_takes_it();
    scene.expect_created(&register);
}

#[test]
fn the_last_shard_takes_the_registers_with_it_and_gives_their_names_back() {
    let shard = Shard::new(7);
    let mut scene = Scene::with(|config| {
        config.coap.shards = ShardSet::EMPTY;
        config.coap.shards.insert(shard);
    });
    scene.gateway.share_endpoints();
    let register = scene.register_message(QUERY);
    scene.gateway.handle_datagram(scene.now, scene.peer, &register.encode());
    let Some(Output::Claim(question)) = outputs(&mut scene.gateway).pop() else { panic!("the name is asked for") };
    scene.gateway.handle_claim(scene.now, question, ClaimAnswer::Mine);
    let said = outputs(&mut scene.gateway);
    let [Output::Broker(BrokerCommand::Connect { registration, .. })] = said[..] else { panic!("{said:?}") };

    scene.gateway.hand_over_shard(scene.now, shard);
    let said = outputs(&mut scene.gateway);
    let sent = said.iter().find_map(|output| match output {
        Output::Transmit(transmit) => Message::decode(&transmit.datagram).ok(),
        _ => None,
    });
    assert_eq!(sent.map(|message| message.code), Some(Code::SERVICE_UNAVAILABLE));
    assert!(said.contains(&Output::Broker(BrokerCommand::HandOver { registration })), "{said:?}");
    assert!(said.contains(&Output::Unclaim { endpoint: "dev-7".to_owned() }), "{said:?}");
    assert_eq!(said.len(), 3, "{said:?}");
}

/// The question of another node for the device of the scene.
fn asked_by_another_node() -> ClaimQuestion {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    ClaimQuestion {
        device: DeviceName::Endpoint("dev-7".to_owned()),
        purpose: ClaimPurpose::Register,
        peer: Peer { socket: 0, address: nowhere, association: Some(AssociationId(7)) },
        identity: PskIdentity::new(b"dev-7").map(Identity::Psk).map(Arc::new),
    }
}

#[test]
fn a_device_that_another_node_asked_for_and_did_not_take_is_served_again_with_its_commands() {
    let mut scene = Scene::new();
    scene.gateway.restore(scene.now, Vec::new());
    scene.register(QUERY);
    drop(scene.gateway.take_changes(scene.now, 100));
    scene.command(&read(1));
    let token = scene.expect_request(Code::GET, "/3/0/0").token;
    scene.forget_what_was_said();

    let stranger = ClaimQuestion { identity: None, ..asked_by_another_node() };
    assert!(matches!(scene.gateway.release(scene.now, &stranger), ClaimAnswer::Forbidden(_)));
    let ClaimAnswer::Arrived(moved) = scene.gateway.release(scene.now, &asked_by_another_node()) else {
        panic!("the identity may have the device")
    };
    let said = outputs(&mut scene.gateway);
    assert!(matches!(said[..], [Output::Broker(BrokerCommand::HandOver { .. })]), "{said:?}");
    assert!(!scene.gateway.is_registered("dev-7"));
    scene.gateway.take_back(scene.now, *moved);
    let said = outputs(&mut scene.gateway);
    assert!(matches!(said[..], [Output::Broker(BrokerCommand::Resume { .. })]), "{said:?}");
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    assert_eq!(scene.expect_request(Code::GET, "/3/0/0").token, token, "the same command");
}

#[test]
fn the_record_of_a_device_that_another_node_has_taken_is_removed() {
    let mut scene = Scene::new();
    scene.gateway.restore(scene.now, Vec::new());
    scene.register(QUERY);
    drop(scene.gateway.take_changes(scene.now, 100));
    let ClaimAnswer::Arrived(moved) = scene.gateway.release(scene.now, &asked_by_another_node()) else {
        panic!("the identity may have the device")
    };
    let shard = moved.record.shard();
    assert!(!scene.gateway.has_changes(), "its record stays until it is taken");
    scene.gateway.remove_record("dev-7", shard);
    let removed = scene.gateway.take_changes(scene.now, 100);
    assert_eq!(removed, [Change::Remove { shard, endpoint: "dev-7".to_owned() }]);
}

#[test]
fn commands_for_a_device_that_cannot_be_reached_wait_until_it_is_heard() {
    let mut scene = Scene::new();
    scene.register(QUERY);
    scene.forget_what_was_said();
    scene.gateway.hold_until_heard("dev-7");
    scene.command(&read(1));
    scene.expect_nothing_more();
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

#[test]
fn a_shard_is_wound_down_when_the_command_in_flight_has_ended_and_the_next_one_waits() {
    let mut scene = Scene::new();
    scene.register(QUERY);
    let shard = scene.location.last().and_then(|location| Location::shard_of(location)).expect("it names a shard");
    scene.command(&read(1));
    scene.forget_what_was_said();
    scene.command(&read(2));
    scene.gateway.wind_down(shard);
    assert!(!scene.gateway.is_wound_down(shard));
    scene.expect_nothing_more();

    scene.gateway.go_on(scene.now, shard);
    scene.settle();
    scene.expect_nothing_more();
    scene.gateway.wind_down(shard);
    scene.advance(100.0);
    assert!(scene.gateway.is_wound_down(shard), "the command has timed out");
    scene.forget_what_was_said();
    scene.command(&read(3));
    scene.expect_nothing_more();
    scene.gateway.go_on(scene.now, shard);
    scene.settle();
    scene.expect_request(Code::GET, "/3/0/0");
    scene.expect_nothing_more();
}

proptest! {
    #[test]
    fn ids_of_a_gateway_without_shards_name_a_shard_too(location in "[A-Za-z0-9_-]{12}", token in any::<[u8; 8]>()) {
        prop_assert!(Location::shard_of(&location).is_some());
        prop_assert_eq!(Token::new(&token).shard(), Some(Shard::new(token[0])));
    }
}
