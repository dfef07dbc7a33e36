//! Composite operations whose path list or answer takes several blocks, in virtual time (RFC 7959, RFC 8132 section 2).

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_testkit::scene::{Scene, reply};
use serde_json::json;

use super::scene::{
    composite, entries, notification, observing, registered, registered_with, restarted, restarted_with, senml,
    senml_json,
};

/// Their list fits into one block of 1024 bytes, and not into one of 64 bytes.
const PATHS: [&str; 5] = ["/3303/0/5601", "/3303/0/5602", "/3303/0/5603", "/3303/0/5604", "/3303/0/5700"];
const VALUES: [(&str, i64); 5] = [(PATHS[0], 18), (PATHS[1], 24), (PATHS[2], -40), (PATHS[3], 125), (PATHS[4], 21)];
/// The size of the blocks of the device, and its exponent in a Block option.
const SIZE: (usize, u32) = (64, 2);

fn blocks_of_64(config: &mut GatewayConfig) {
    config.coap.block_size = 64;
}

/// Returns one block of the answer of the device.
fn part(request: &Message, index: usize) -> Message {
    let (body, (size, exponent)) = (senml_json(&VALUES), SIZE);
    let end = body.len().min((index + 1) * size);
    let block = (u32::try_from(index).expect("few blocks") << 4) | (u32::from(end < body.len()) << 3) | exponent;
    let payload = body[index * size..end].to_vec();
    let mut message = Message { kind: Kind::Acknowledgement, payload, ..reply(request) };
    message.options.add_uint(number::CONTENT_FORMAT, format::SENML_JSON.into());
    message.options.add_uint(number::BLOCK2, block);
    message
}

fn notified_part(scene: &mut Scene, observe: &Message, seq_num: u32) {
    let mut first = Message { kind: Kind::NonConfirmable, id: scene.fresh_id(), ..part(observe, 0) };
    first.options.add_uint(number::OBSERVE, seq_num);
    scene.device_sends(&first);
}

/// Takes the requests of the further blocks, each with this payload, and answers them.
fn fetches(scene: &mut Scene, begun: &Message, payload: &[u8]) {
    for index in 1..senml_json(&VALUES).len().div_ceil(SIZE.0) {
        let request = scene.expect_request(Code::FETCH, "");
        let number = u32::try_from(index).expect("few blocks");
        assert_eq!(request.options.uint(number::BLOCK2), Ok(Some((number << 4) | SIZE.1)));
        assert_eq!(request.payload, payload, "block {index}");
        for option in [number::CONTENT_FORMAT, number::ACCEPT] {
            assert_eq!(request.options.first(option), begun.options.first(option));
        }
        let of_the_first = [number::OBSERVE, number::BLOCK1, number::SIZE1];
        assert!(of_the_first.iter().all(|option| !request.options.contains(*option)), "{request:?}");
        assert_ne!(request.token, begun.token);
        scene.device_sends(&part(&request, index));
    }
}

/// Takes the blocks of a path list, and answers all but the last one; gives the last one and the whole list.
fn uploaded(scene: &mut Scene) -> (Message, Vec<u8>) {
    let mut list = Vec::new();
    loop {
        let request = scene.expect_request(Code::FETCH, "");
        let block = request.options.uint(number::BLOCK1).expect("a number").expect("a block");
        assert_eq!(block >> 4, u32::try_from(list.len() / 64).expect("few blocks"));
        list.extend(&request.payload);
        if block & 8 == 0 {
            return (request, list);
        }
        let mut more = Message { kind: Kind::Acknowledgement, code: Code::CONTINUE, ..reply(&request) };
        more.options.add_uint(number::BLOCK1, block);
        scene.device_sends(&more);
    }
}

/// Answers the last block of a path list with the first block of the answer.
fn answer_upload(scene: &mut Scene, last: &Message, observe: Option<u32>) {
    let mut answer = part(last, 0);
    let block = last.options.uint(number::BLOCK1).expect("a number").expect("a block");
    answer.options.add_uint(number::BLOCK1, block);
    observe.iter().for_each(|number| answer.options.add_uint(number::OBSERVE, *number));
    scene.device_sends(&answer);
}

#[test]
fn the_request_of_each_further_block_of_an_answer_repeats_the_path_list() {
    let mut scene = registered();
    let command = composite(1, "read-composite", &PATHS);
    scene.command(&command);
    let first = scene.expect_request(Code::FETCH, "");
    assert!(!first.payload.is_empty());
    scene.device_sends(&part(&first, 0));
    fetches(&mut scene, &first, &first.payload);
    scene.expect_answer(&command, entries(&PATHS, &VALUES));
    scene.expect_nothing_more();
}

/// RFC 7959 section 3.3: the device has kept the list, which no single message holds.
#[test]
fn a_path_list_of_several_blocks_is_not_repeated() {
    let mut scene = registered_with(blocks_of_64);
    let command = composite(1, "read-composite", &PATHS);
    scene.command(&command);
    let (last, list) = uploaded(&mut scene);
    let mut whole = registered();
    whole.command(&command);
    assert_eq!(list, whole.expect_request(Code::FETCH, "").payload);
    answer_upload(&mut scene, &last, None);
    fetches(&mut scene, &last, b"");
    scene.expect_answer(&command, entries(&PATHS, &VALUES));
    scene.expect_nothing_more();
}

#[test]
fn a_path_list_that_the_device_wants_in_smaller_blocks_is_not_repeated() {
    let mut scene = registered();
    let command = composite(1, "read-composite", &PATHS);
    scene.command(&command);
    let whole = scene.expect_request(Code::FETCH, "");
    let mut too_large = Message { kind: Kind::Acknowledgement, code: Code::REQUEST_ENTITY_TOO_LARGE, ..reply(&whole) };
    too_large.options.add_uint(number::BLOCK1, SIZE.1);
    scene.device_sends(&too_large);
    let (last, list) = uploaded(&mut scene);
    assert_eq!(list, whole.payload);
    answer_upload(&mut scene, &last, None);
    fetches(&mut scene, &last, b"");
    scene.expect_answer(&command, entries(&PATHS, &VALUES));
}

/// Several composite observations of one device have the same URI: the list alone tells them apart.
#[test]
fn further_blocks_of_a_notification_are_asked_for_with_the_path_list_also_after_a_restart() {
    let mut scene = registered();
    let observe = observing(&mut scene, &PATHS, &VALUES);
    notified_part(&mut scene, &observe, 5);
    fetches(&mut scene, &observe, &observe.payload);
    scene.expect_published("up/notify", &notification(5, &PATHS, &VALUES));

    let mut scene = restarted(scene);
    notified_part(&mut scene, &observe, 6);
    fetches(&mut scene, &observe, &observe.payload);
    scene.expect_published("up/notify", &notification(6, &PATHS, &VALUES));
    scene.expect_nothing_more();
}

#[test]
fn a_notification_that_becomes_the_answer_is_fetched_with_the_path_list() {
    let mut scene = registered();
    let command = composite(1, "observe-composite", &PATHS);
    scene.command(&command);
    let observe = scene.expect_request(Code::FETCH, "");
    let mut answer = part(&observe, 0);
    answer.options.add_uint(number::OBSERVE, 3);
    scene.device_sends(&answer);
    scene.expect_request(Code::FETCH, "");
    notified_part(&mut scene, &observe, 4);
    fetches(&mut scene, &observe, &observe.payload);
    let mut told = command.clone();
    told["seqNum"] = json!(4);
    scene.expect_answer(&told, entries(&PATHS, &VALUES));
    notified_part(&mut scene, &observe, 5);
    fetches(&mut scene, &observe, &observe.payload);
    scene.expect_published("up/notify", &notification(5, &PATHS, &VALUES));
    scene.expect_nothing_more();
}

#[test]
fn an_observation_whose_path_list_went_in_blocks_goes_on_and_is_cancelled_in_blocks() {
    let mut scene = registered_with(blocks_of_64);
    let command = composite(1, "observe-composite", &PATHS);
    scene.command(&command);
    let (last, list) = uploaded(&mut scene);
    assert_eq!(last.options.uint(number::OBSERVE), Ok(Some(0)));
    answer_upload(&mut scene, &last, Some(3));
    fetches(&mut scene, &last, b"");
    let mut told = command.clone();
    told["seqNum"] = json!(3);
    scene.expect_answer(&told, entries(&PATHS, &VALUES));
    notified_part(&mut scene, &last, 5);
    fetches(&mut scene, &last, b"");
    scene.expect_published("up/notify", &notification(5, &PATHS, &VALUES));

    let mut scene = restarted_with(scene, blocks_of_64);
    notified_part(&mut scene, &last, 6);
    fetches(&mut scene, &last, b"");
    scene.expect_published("up/notify", &notification(6, &PATHS, &VALUES));
    let cancel = composite(9, "cancel-observe-composite", &PATHS);
    scene.command(&cancel);
    let (cancelled, cancelled_list) = uploaded(&mut scene);
    assert_eq!((cancelled.options.uint(number::OBSERVE), cancelled_list), (Ok(Some(1)), list));
    scene.device_sends(&senml(&cancelled, Kind::Acknowledgement, None, &VALUES));
    scene.expect_answer(&cancel, entries(&PATHS, &VALUES));
    scene.expect_nothing_more();
    let sizes = scene.gateway.table_sizes().coap;
    assert_eq!((sizes.observations, sizes.tokens), (0, 0));
}
