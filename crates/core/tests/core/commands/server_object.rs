//! What an application does with the Server object of a device: the gateway passes it on (LwM2M 1.2 section 6.2.2 and
//! appendix E.2).

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_testkit::scene::{Scene, content, outcome, read, text_reply};
use serde_json::{Value, json};

const QUERY: &str = "ep=dev-7&lt=300&lwm2m=1.1";

fn registered() -> Scene {
    let mut scene = Scene::new();
    scene.register(QUERY);
    scene
}

fn execute(id: u64, path: &str) -> Value {
    json!({ "reqID": id, "msgType": "execute", "data": { "path": path } })
}

fn changed(path: &str) -> Value {
    outcome("2.04", "changed", &json!(path))
}

/// The trigger of an Update, of a bootstrap and the disabling of the server are executions like any other.
#[test]
fn the_triggers_of_the_server_object_are_passed_on() {
    let mut scene = registered();
    for (id, path) in [(1, "/1/0/8"), (2, "/1/0/9"), (3, "/1/0/4")] {
        scene.command(&execute(id, path));
        let request = scene.expect_request(Code::POST, path);
        assert_eq!(request.payload, b"");
        scene.answer(&request, Code::CHANGED);
        scene.expect_answer(&execute(id, path), changed(path));
    }
    scene.expect_nothing_more();
}

#[test]
fn the_update_may_come_before_the_answer_to_its_trigger() {
    let mut scene = registered();
    let trigger = execute(1, "/1/0/8");
    scene.command(&trigger);
    scene.command(&read(2));
    let request = scene.expect_request(Code::POST, "/1/0/8");
    let update = scene.update("lt=250");
    scene.device_sends(&update);
    let me = scene.peer;
    scene.expect_reply(me, &update, Code::CHANGED);
    scene.expect_nothing_more();
    scene.answer(&request, Code::CHANGED);
    scene.expect_answer(&trigger, changed("/1/0/8"));
    let next = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&next, "Acme");
    scene.expect_answer(&read(2), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}

/// Between Disable and its next Register a device answers nothing. What waits is for its next registration.
#[test]
fn a_disabled_device_registers_again_and_gets_what_waits() {
    let mut scene = Scene::new();
    scene.register("ep=dev-7&lt=300&lwm2m=1.1&Q");
    let disable = execute(1, "/1/0/4");
    scene.command(&disable);
    let request = scene.expect_request(Code::POST, "/1/0/4");
    scene.answer(&request, Code::CHANGED);
    scene.expect_answer(&disable, changed("/1/0/4"));
    scene.advance(60.0);
    scene.command(&read(2));
    scene.expect_nothing_more();

    let before = scene.device;
    let register = scene.send_register("ep=dev-7&lt=300&lwm2m=1.1&Q");
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_disconnect(before);
    scene.expect_created(&register);
    scene.expect_reported("register");
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(2), content("/3/0/0", "Acme"));
    scene.expect_nothing_more();
}

/// Each message of the device opens the window of queue mode: also a Send, a notification and an answer.
#[test]
fn a_device_of_1_1_is_awake_after_each_of_its_messages() {
    let mut scene = Scene::new();
    scene.register("ep=dev-7&lt=3000&lwm2m=1.1&Q");
    let observed = scene.observe(1, "/3303/0/5700");
    for (id, kind) in [(2, "update"), (3, "notification"), (4, "answer"), (5, "Send")] {
        scene.advance(60.0);
        match kind {
            "update" => {
                let update = scene.update("");
                scene.ask(&update, Code::CHANGED);
            }
            "notification" => {
                let number = u32::try_from(id).expect("small");
                scene.notify(&observed, Kind::NonConfirmable, number, "21.5");
                scene.expect_any_published("lwm2m/dev-7/up/notify");
            }
            "answer" => {
                // The command that was sent before in the window is answered late.
                let update = scene.update("");
                scene.ask(&update, Code::CHANGED);
                scene.command(&read(10));
                let request = scene.expect_request(Code::GET, "/3/0/0");
                scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
                scene.expect_any_published("lwm2m/dev-7/up/resp");
                scene.advance(30.0);
                let separate = text_reply(&request, Kind::NonConfirmable, scene.fresh_id(), None, "Acme");
                scene.device_sends(&separate);
                scene.expect_answer(&read(10), content("/3/0/0", "Acme"));
            }
            _ => {
                let mut send = scene.request(Code::POST, &["dp"], "");
                send.options.add_uint(number::CONTENT_FORMAT, format::SENML_JSON.into());
                send.payload = br#"[{"n":"/3/0/9","v":81}]"#.to_vec();
                send.kind = Kind::NonConfirmable;
                scene.device_sends(&send);
                scene.expect_any_published("lwm2m/dev-7/up/send");
            }
        }
        scene.advance(10.0);
        scene.command(&read(id));
        let request = scene.expect_request(Code::GET, "/3/0/0");
        scene.answer(&request, Code::NOT_FOUND);
        scene.expect_answer(&read(id), outcome("4.04", "not_found", &json!("/3/0/0")));
        scene.expect_nothing_more();
    }
}
