//! The failures of devices in the console of the built program.

use lwm2m_core::coap::Code;
use serde_json::{Value, json};

use super::devices::{LINKS, TestConsole};
use crate::common::application::Application;
use crate::common::device::Device;

/// Returns the list without the times, which have to be there.
fn failures(console: &TestConsole) -> Vec<Value> {
    let mut list = console.ask("GET /api/v1/failures").json()["failures"].take();
    let entries = list.as_array_mut().expect("a list");
    for entry in entries.iter_mut() {
        let members = entry.as_object_mut().expect("a failure");
        let [first, at] = ["first", "at"].map(|name| members.remove(name).expect("a time"));
        assert!(first.as_str().expect("a text") <= at.as_str().expect("a text"));
    }
    std::mem::take(entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_answer_is_listed_with_its_path() {
    let console = TestConsole::start_with("coap.ack_timeout = \"50ms\"\ncoap.max_retransmit = 1").await;
    let _silent = console.register("ep1", "");
    let mut application = Application::connect(&console.broker.addresses.mqtt, &["ep1"]);
    application.send("ep1", &json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/9" } }));
    while application.receive().1["reqID"] != 1 {}

    let listed = failures(&console);

    let [failure] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((&failure["kind"], &failure["endpoint"]), (&json!("timeout"), &json!("ep1")));
    assert_eq!(failure["path"], "/3/0/9");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_register_is_listed_with_its_reason_and_equal_ones_are_counted() {
    let console = TestConsole::start().await;
    assert_eq!(failures(&console), [] as [Value; 0]);
    let (mut nameless, mut moving) = (Device::new(console.gateway.address()), Device::new(console.gateway.address()));
    assert_eq!(nameless.try_register("lt=300&lwm2m=1.1", LINKS).code, Code::BAD_REQUEST);
    assert_eq!(moving.try_register("ep=ep1&lt=never&lwm2m=1.1", LINKS).code, Code::BAD_REQUEST);
    moving.moves();
    assert_eq!(moving.try_register("ep=ep1&lt=never&lwm2m=1.1", LINKS).code, Code::BAD_REQUEST);
    let _registered = console.register("ep2", "");

    let listed = failures(&console);

    let kinds: Vec<_> = listed.iter().map(|entry| (&entry["kind"], &entry["code"], &entry["count"])).collect();
    assert_eq!(
        kinds,
        [(&json!("register"), &json!("4.00"), &json!(2)), (&json!("register"), &json!("4.00"), &json!(1))]
    );
    assert!(listed[0]["reason"].as_str().expect("a reason").contains("lt"), "{listed:?}");
    assert_eq!((&listed[0]["endpoint"], listed[1].get("endpoint")), (&json!("ep1"), None));
    assert!(listed[1]["reason"].as_str().expect("a reason").contains("ep"), "{listed:?}");
    assert!(listed[1]["address"].as_str().expect("an address").starts_with("127.0.0.1:"), "{listed:?}");
    let limited = console.ask_with(&console.limited, "GET /api/v1/failures");
    assert_eq!(limited.problem(), (403, "not-allowed".to_owned()));
}
