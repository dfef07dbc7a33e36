//! A device with a Firmware Update object, its application and the folder of images, in virtual time.

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId};
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_testkit::scene::{Said, Scene, path_of, reply, text_reply};
use serde_json::{Value, json};

pub(crate) const QUERY: &str = "ep=dev-7&lt=3600&lwm2m=1.1";
pub(crate) const LINKS: &str = "</>;ct=0,</3/0>,</5>;ver=1.1,</5/0>,</5/1>";
pub(crate) const EVENTS: &str = "lwm2m/dev-7/up/firmware";
pub(crate) const IMAGE: &str = "app-2.1.0.bin";
/// Three blocks and a half.
pub(crate) const SIZE: usize = 3 * 1024 + 512;

pub(crate) fn image() -> Vec<u8> {
    (0..SIZE).map(|at| (at * 7 % 251) as u8).collect()
}

pub(crate) fn scene_with(change: impl FnOnce(&mut GatewayConfig)) -> Scene {
    let mut scene = Scene::with(change);
    scene.images.write(IMAGE, &image());
    scene.gateway.restore(scene.now, Vec::new());
    register(&mut scene, QUERY);
    scene
}

pub(crate) fn scene() -> Scene {
    scene_with(|_| {})
}

/// A scene in which devices can pull.
pub(crate) fn public_scene() -> Scene {
    scene_with(|config| {
        config.firmware.public_uris.add("coap://gw.example.com:5683".parse().expect("a URI"));
    })
}

/// Registers the device by way of the broker. What comes out on the way is taken.
pub(crate) fn register(scene: &mut Scene, query: &str) {
    let mut message = scene.register_message(query);
    message.payload = LINKS.as_bytes().to_vec();
    scene.device_sends(&message);
    scene.expect_connect();
    scene.broker_takes_it();
    let former = scene.next_said();
    if let Some(Said::ToDevice(_, created)) = &former {
        scene.location = lwm2m_testkit::scene::location_of(created);
    } else {
        // Its former registration is disconnected first.
        scene.expect_created(&message);
    }
    scene.expect_reported("register");
}

pub(crate) fn update(members: Value) -> Value {
    json!({ "reqID": 1, "msgType": "firmware-update", "data": members })
}

/// Gives the command, and expects that it has begun. Returns the `data` of the answer.
pub(crate) fn begin(scene: &mut Scene, members: Value) -> Value {
    scene.command(&update(members));
    let mut answer = scene.expect_any_published("lwm2m/dev-7/up/resp");
    assert_eq!((&answer["reqID"], &answer["msgType"]), (&json!(1), &json!("firmware-update")));
    assert_eq!(answer["data"]["code"], "2.01", "{answer}");
    assert_eq!(answer["data"]["reqPath"], "/5/0");
    answer["data"].take()
}

/// Expects an event with this phase, and returns its `data`.
pub(crate) fn expect_event(scene: &mut Scene, phase: &str) -> Value {
    let mut event = scene.expect_any_published(EVENTS);
    assert_eq!((&event["reqID"], &event["msgType"]), (&json!(1), &json!("firmware-status")), "{event}");
    assert_eq!(event["data"]["phase"], phase, "{event}");
    event["data"].take()
}

/// Expects a refusal of the gateway, and returns its reason.
pub(crate) fn expect_refused(scene: &mut Scene, code: &str) -> String {
    let answer = scene.expect_any_published("lwm2m/dev-7/up/resp");
    assert_eq!(answer["data"]["code"], code, "{answer}");
    assert!(answer["data"]["reqPath"].as_str().is_some_and(|path| path.starts_with("/5/")), "{answer}");
    answer["data"]["reason"].as_str().expect("a reason").to_owned()
}

/// The whole object as TLV.
pub(crate) fn object(request: &Message, state: u8, result: u8, delivery: u8) -> Message {
    let mut answer = Message { kind: Kind::Acknowledgement, code: Code::CONTENT, id: request.id, ..reply(request) };
    answer.options.add_uint(number::CONTENT_FORMAT, format::TLV.into());
    answer.payload = [[0xc1, 3, state], [0xc1, 5, result], [0xc1, 9, delivery]].concat();
    // Protocols: an instance of the resource, with CoAP.
    answer.payload.extend([0x83, 8, 0x41, 0, 0]);
    answer
}

/// Plays the preparation of an idle device that lets itself be observed. Returns the requests of its observations of
/// State and Update Result.
pub(crate) fn prepare(scene: &mut Scene, delivery: u8) -> [Message; 2] {
    let read = scene.expect_request(Code::GET, "/5/0");
    scene.device_sends(&object(&read, 0, 0, delivery));
    observe(scene, 0, 0)
}

pub(crate) fn observe(scene: &mut Scene, state: u8, result: u8) -> [Message; 2] {
    [("/5/0/3", state), ("/5/0/5", result)].map(|(path, value)| {
        let request = scene.expect_request(Code::GET, path);
        assert_eq!(request.options.uint(number::OBSERVE), Ok(Some(0)));
        scene.answer_observe(&request, 1, &value.to_string());
        request
    })
}

/// Sends a notification that nobody acknowledges.
pub(crate) fn notify(scene: &mut Scene, observation: &Message, number: u32, value: u8) {
    scene.notify(observation, Kind::NonConfirmable, number, &value.to_string());
}

/// Expects the URI of a pull, and returns its key and the name of the image.
pub(crate) fn expect_uri(scene: &mut Scene) -> (Message, String, String) {
    let write = scene.expect_request(Code::PUT, "/5/0/1");
    let uri = String::from_utf8(write.payload.clone()).expect("text");
    let rest = uri.strip_prefix("coap://gw.example.com:5683/fw/").expect("the URI of this gateway");
    let (key, name) = rest.split_once('/').expect("a key and a name");
    assert_eq!(key.len(), 16);
    (write.clone(), key.to_owned(), name.to_owned())
}

/// Fetches a block of the image, and returns its bytes.
pub(crate) fn fetch(scene: &mut Scene, (key, name): (&str, &str), block: u32) -> Vec<u8> {
    let mut get = scene.request(Code::GET, &["fw", key, name], "");
    get.options.add_uint(number::BLOCK2, block << 4 | 6);
    scene.device_sends(&get);
    let peer = scene.peer;
    scene.expect_reply(peer, &get, Code::CONTENT).payload
}

/// Expects a block of a push, and answers it. The last one is answered with this code.
pub(crate) fn take_block(scene: &mut Scene, last: Code) -> Message {
    let (_, block) = scene.expect_sent();
    assert_eq!((block.code, path_of(&block).as_str()), (Code::PUT, "/5/0/0"));
    let value = block.options.uint(number::BLOCK1).expect("an option").expect("Block1");
    let code = if value & 8 == 0 { last } else { Code::CONTINUE };
    let mut answer = Message { kind: Kind::Acknowledgement, code, id: block.id, ..reply(&block) };
    answer.options.add_uint(number::BLOCK1, value);
    scene.device_sends(&answer);
    block
}

/// Answers a read with text.
pub(crate) fn answer_value(scene: &mut Scene, path: &str, value: &str) {
    let read = scene.expect_request(Code::GET, path);
    let answer = text_reply(&read, Kind::Acknowledgement, read.id, None, value);
    scene.device_sends(&answer);
}

pub(crate) fn expect_execute(scene: &mut Scene, path: &str) -> Message {
    scene.expect_request(Code::POST, path)
}

/// A message id that no message of the device has had.
pub(crate) fn other_id(scene: &mut Scene) -> MessageId {
    scene.fresh_id()
}
