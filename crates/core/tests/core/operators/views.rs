//! What onlookers see of devices, page by page and one by one, and what an operator ends.

use std::time::Duration;

use lwm2m_core::coap::Code;
use lwm2m_core::command::Origin;
use lwm2m_core::gateway::operators::view::{
    BrokerNames, DeviceFilter, DevicePage, DeviceTransport, PAGE_EXAMINED, PAGE_ROWS, PageQuery, WakeState,
};
use lwm2m_core::gateway::report::{LeaveReason, Report};
use lwm2m_testkit::scene::{PASSWORD, Scene, observe, peer, read};
use serde_json::json;

fn joins(scene: &mut Scene, name: &str) {
    joins_with(scene, &format!("ep={name}&lt=300&lwm2m=1.0"));
}

fn joins_with(scene: &mut Scene, query: &str) {
    scene.join(query);
    scene.forget_what_was_said();
    scene.reports();
}

fn page(scene: &mut Scene, query: &PageQuery) -> DevicePage {
    scene.gateway.page(scene.now, query)
}

fn all(filter: DeviceFilter) -> PageQuery {
    PageQuery { filter, limit: PAGE_ROWS, ..PageQuery::default() }
}

fn names(page: &DevicePage) -> Vec<&str> {
    page.rows.iter().map(|row| row.endpoint.as_str()).collect()
}

fn found(scene: &mut Scene, filter: DeviceFilter) -> Vec<String> {
    page(scene, &all(filter)).rows.into_iter().map(|row| row.endpoint).collect()
}

#[test]
fn pages_are_complete_and_ordered_and_tell_no_device_twice_while_devices_come_and_go() {
    let mut scene = Scene::new();
    for number in 0..1000 {
        joins(&mut scene, &format!("ep{number:04}"));
    }
    let mut query = all(DeviceFilter::default());
    let mut told: Vec<String> = Vec::new();
    let mut turn = 0;
    loop {
        let page = page(&mut scene, &query);
        assert!(page.rows.len() <= PAGE_ROWS);
        told.extend(page.rows.iter().map(|row| row.endpoint.clone()));
        let Some(next) = page.next else { break };
        // One that was told leaves, the cursor itself; one comes before it, one after all others.
        assert!(scene.gateway.kick(scene.now, &next));
        scene.advance(0.0);
        scene.forget_what_was_said();
        joins(&mut scene, &format!("before{turn:02}"));
        joins(&mut scene, &format!("late{turn:02}"));
        turn += 1;
        query.after = Some(next);
    }
    let mut ordered = told.clone();
    ordered.sort();
    ordered.dedup();
    assert_eq!(told, ordered);
    let lasting = told.iter().filter(|name| name.starts_with("ep")).count();
    assert_eq!(lasting, 1000);
}

#[test]
fn a_page_looks_at_a_bounded_number_of_devices_and_tells_where_to_go_on() {
    let mut scene = Scene::new();
    for number in 0..PAGE_EXAMINED + 10 {
        joins(&mut scene, &format!("ep{number:04}"));
    }
    let wanted = DeviceFilter { name_parts: vec!["0505".to_owned()], ..DeviceFilter::default() };
    let first = page(&mut scene, &all(wanted.clone()));
    let last = format!("ep{:04}", PAGE_EXAMINED - 1);
    assert_eq!((first.rows.len(), first.examined, first.next.as_deref()), (0, PAGE_EXAMINED, Some(last.as_str())));
    assert_eq!(first.total, PAGE_EXAMINED + 10);
    let second = page(&mut scene, &PageQuery { after: first.next, ..all(wanted.clone()) });
    assert_eq!((names(&second), second.examined, second.next.as_deref()), (vec!["ep0505"], 10, None));
    // A prefix is a range: only its devices are looked at.
    let prefixed = page(&mut scene, &all(DeviceFilter { prefix: "ep050".to_owned(), ..wanted }));
    assert_eq!((names(&prefixed), prefixed.examined), (vec!["ep0505"], 10));
}

#[test]
fn devices_are_passed_over_as_far_as_asked_and_named_as_the_broker_knows_them() {
    let mut scene = Scene::new();
    for number in 0..10 {
        joins(&mut scene, &format!("ep{number}"));
    }
    let odd = ["ep1", "ep3", "ep5", "ep7", "ep9"];
    let unnamed = page(&mut scene, &PageQuery { skip: 8, ..all(DeviceFilter::default()) });
    assert_eq!((names(&unnamed), unnamed.skipped, &unnamed.rows[0].names), (vec!["ep8", "ep9"], 8, &None));
    odd.iter().for_each(|name| assert!(scene.gateway.kick(scene.now, name)));
    let query = PageQuery { skip: 3, names: true, limit: 1, ..PageQuery::default() };
    let page = page(&mut scene, &query);
    assert_eq!((names(&page), page.skipped, page.next.as_deref()), (vec!["ep6"], 3, Some("ep6")));
    let named = BrokerNames { username: "ep6".to_owned(), mountpoint: "lwm2m/ep6/".to_owned() };
    assert_eq!(page.rows[0].names, Some(named));
}

#[test]
fn filters_choose_by_what_the_devices_have() {
    let mut scene = Scene::new();
    joins_with(&mut scene, "ep=meter&lt=300&lwm2m=1.1&b=U&Q");
    scene.peer = peer(2);
    scene.advance(30.0);
    joins_with(&mut scene, "ep=lamp&lt=300&lwm2m=1.0&b=UQ");
    let any = DeviceFilter::default();
    assert_eq!(found(&mut scene, any.clone()), ["lamp", "meter"]);
    let asleep = DeviceFilter { state: Some(WakeState::Asleep), ..any.clone() };
    assert_eq!(found(&mut scene, asleep), ["meter"]);
    let udp = DeviceFilter { transport: Some(DeviceTransport::Udp), ..any.clone() };
    assert_eq!(found(&mut scene, udp), ["lamp", "meter"]);
    let dtls = DeviceFilter { transport: Some(DeviceTransport::Dtls), ..any.clone() };
    assert_eq!(found(&mut scene, dtls), [""; 0]);
    let binding = DeviceFilter { binding: Some("UQ".to_owned()), ..any.clone() };
    assert_eq!(found(&mut scene, binding), ["lamp"]);
    let address = DeviceFilter { address: Some(peer(1).address.ip()), ..any.clone() };
    assert_eq!(found(&mut scene, address), ["meter"]);
    let object = |id| DeviceFilter { object: Some(id), ..DeviceFilter::default() };
    assert_eq!(found(&mut scene, object(3303)), ["lamp", "meter"]);
    assert_eq!(found(&mut scene, object(330)), [""; 0]);
    let version = DeviceFilter { lwm2m: Some("1.1".to_owned()), ..any.clone() };
    assert_eq!(found(&mut scene, version), ["meter"]);
    let lifetime = |range| DeviceFilter { lifetime: Some(range), ..DeviceFilter::default() };
    let second = Duration::from_secs(1);
    assert_eq!(found(&mut scene, lifetime(300 * second..=300 * second)), ["lamp", "meter"]);
    assert_eq!(found(&mut scene, lifetime(301 * second..=Duration::MAX)), [""; 0]);
    let username = DeviceFilter { username: Some("lamp".to_owned()), ..any.clone() };
    assert_eq!(found(&mut scene, username), ["lamp"]);
    let part_of_username = DeviceFilter { username_part: Some("mete".to_owned()), ..any.clone() };
    assert_eq!(found(&mut scene, part_of_username), ["meter"]);
    let silent = DeviceFilter { silent: Some(Duration::from_secs(30)), ..any.clone() };
    assert_eq!(found(&mut scene, silent), ["meter"]);
    let identity = DeviceFilter { identity: Some("lamp".to_owned()), ..any };
    assert_eq!(found(&mut scene, identity), [""; 0]);
}

#[test]
fn a_device_is_seen_with_its_commands_and_observations_and_without_its_secrets() {
    let mut scene = Scene::new();
    joins_with(&mut scene, &format!("ep=dev-7&lt=300&lwm2m=1.1&imei=123&password={PASSWORD}"));
    scene.observe(1, "/3303/0/5700");
    scene.forget_what_was_said();
    scene.command(&read(2));
    scene.command(&observe(3, "/3/0/7"));
    let view = scene.gateway.device(scene.now, "dev-7").expect("it is registered");
    assert_eq!((view.row.waiting, view.row.in_flight, view.row.observations), (1, true, 1));
    assert_eq!(view.items, [("imei".to_owned(), "123".to_owned())]);
    let objects: Vec<_> = view.objects.iter().map(|object| (object.id, object.instances.as_slice())).collect();
    assert_eq!(objects, [(1, [0].as_slice()), (3, &[0]), (3303, &[0])]);
    let [observation] = view.observations.as_slice() else { panic!("{:?}", view.observations) };
    assert!(observation.since.is_some_and(|since| since >= view.row.registered), "{observation:?}");
    assert_eq!(
        (observation.paths[0].to_string(), observation.origin.clone()),
        ("/3303/0/5700".to_owned(), Origin::Application)
    );
    let in_flight = view.in_flight.as_ref().expect("the read was sent");
    let [waiting] = view.waiting.as_slice() else { panic!("{:?}", view.waiting) };
    assert_eq!((in_flight.command.msg_type, waiting.command.msg_type), ("read", "observe"));
    assert!(in_flight.command.number < waiting.command.number);
    assert_eq!(waiting.expires - in_flight.sent, Duration::from_secs(24 * 3600));
    let shown = format!("{view:?}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    assert!(!shown.contains(scene.location.last().expect("it has a Location")), "{shown}");
    assert_eq!(scene.gateway.device(scene.now, "dev-8"), None);
}

#[test]
fn a_kicked_device_leaves_and_its_next_update_is_answered_4_04() {
    let mut scene = Scene::registered();
    let update = scene.request(Code::POST, &scene.location.clone(), "");
    scene.reports();
    assert!(scene.gateway.kick(scene.now, "dev-7"));
    scene.advance(0.0);
    let device = scene.device;
    scene.expect_disconnect(device);
    let left = Report::Left { endpoint: "dev-7".to_owned(), reason: LeaveReason::Operator };
    assert!(scene.reports().contains(&left));
    scene.ask(&update, Code::NOT_FOUND);
    assert!(!scene.gateway.kick(scene.now, "dev-7"));
    scene.expect_nothing_more();
}

#[test]
fn a_command_of_a_kicked_device_gets_its_final_answer() {
    let mut scene = Scene::registered();
    let (first, second) = (read(1), read(2));
    scene.command(&first);
    scene.expect_request(Code::GET, "/3/0/0");
    scene.command(&second);
    assert!(scene.gateway.kick(scene.now, "dev-7"));
    scene.advance(0.0);
    scene.expect_returned(&first, "coap_timeout");
    let reason = scene.expect_refused(&second);
    assert_eq!(json!(reason), json!("the device is not registered any more"));
}
