//! What the tests of composite operations share: a device of LwM2M 1.1, its messages and what is published of them.

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::broker::BrokerCommand;
use lwm2m_core::gateway::config::GatewayConfig;
use lwm2m_core::gateway::persistence::record::{Change, DeviceRecord};
use lwm2m_testkit::scene::{Scene, reply};
use serde_json::{Value, json};

pub(crate) const QUERY_1_1: &str = "ep=dev-7&lt=300&lwm2m=1.1";

pub(crate) fn registered() -> Scene {
    registered_with(|_| {})
}

pub(crate) fn registered_with(change: impl FnOnce(&mut GatewayConfig)) -> Scene {
    let mut scene = Scene::with(change);
    // From now on there are records.
    scene.gateway.restore(scene.now, Vec::new());
    scene.register(QUERY_1_1);
    scene
}

pub(crate) fn composite(id: u64, msg_type: &str, paths: &[&str]) -> Value {
    json!({ "reqID": id, "msgType": msg_type, "data": { "paths": paths } })
}

pub(crate) fn entries(paths: &[&str], entries: &[(&str, i64)]) -> Value {
    let entry = |(path, value): &(&str, i64)| json!({ "path": path, "value": value });
    let content: Vec<_> = entries.iter().map(entry).collect();
    json!({ "code": "2.05", "codeMsg": "content", "reqPaths": paths, "content": content })
}

pub(crate) fn senml_json(entries: &[(&str, i64)]) -> Vec<u8> {
    let entry = |(path, value): &(&str, i64)| json!({ "n": path, "v": value });
    json!(entries.iter().map(entry).collect::<Vec<_>>()).to_string().into_bytes()
}

/// A 2.05 of the device in SenML JSON.
pub(crate) fn senml(request: &Message, kind: Kind, observe: Option<u32>, entries: &[(&str, i64)]) -> Message {
    let mut message = Message { kind, payload: senml_json(entries), ..reply(request) };
    observe.iter().for_each(|number| message.options.add_uint(number::OBSERVE, *number));
    message.options.add_uint(number::CONTENT_FORMAT, format::SENML_JSON.into());
    message
}

/// Registers no more than a device that observes these paths, and gives the request that began it.
pub(crate) fn observing(scene: &mut Scene, paths: &[&str], values: &[(&str, i64)]) -> Message {
    let command = composite(1, "observe-composite", paths);
    scene.command(&command);
    let request = scene.expect_request(Code::FETCH, "");
    scene.device_sends(&senml(&request, Kind::Acknowledgement, Some(0), values));
    scene.expect_answer(&command, entries(paths, values));
    request
}

pub(crate) fn notified(scene: &mut Scene, observe: &Message, number: u32, values: &[(&str, i64)], published: &Value) {
    let id = scene.fresh_id();
    let notification = Message { id, ..senml(observe, Kind::NonConfirmable, Some(number), values) };
    scene.device_sends(&notification);
    scene.expect_published("up/notify", published);
}

pub(crate) fn notification(seq_num: u32, paths: &[&str], values: &[(&str, i64)]) -> Value {
    json!({ "reqID": 1, "msgType": "notify", "seqNum": seq_num, "data": entries(paths, values) })
}

/// Makes another gateway, which knows what the records tell.
pub(crate) fn restarted(scene: Scene) -> Scene {
    restarted_with(scene, |_| {})
}

pub(crate) fn restarted_with(mut scene: Scene, change: impl FnOnce(&mut GatewayConfig)) -> Scene {
    let mut records: Vec<DeviceRecord> = Vec::new();
    for change in scene.gateway.take_changes(scene.now, usize::MAX) {
        if let Change::Put(record) = change {
            let json = serde_json::to_string(&record).expect("a record is JSON");
            let mut read: DeviceRecord = serde_json::from_str(&json).expect("a record is read again");
            // A store keeps the commands apart from the rest of the record.
            read.commands.iter_mut().zip(&record.commands).for_each(|(read, kept)| read.command = kept.command.clone());
            records.push(read);
        }
    }
    let mut next = Scene::with(change);
    next.gateway.restore(next.now, records);
    next.advance(0.0);
    let resumed = next.expect_broker_command();
    let BrokerCommand::Resume { registration, .. } = resumed else { panic!("{resumed:?} resumes nothing") };
    next.device = registration;
    next.broker_takes_it();
    next.location = scene.location;
    next
}
