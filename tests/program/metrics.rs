//! The metrics and the answers about health, of the core in virtual time and of the built program.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::common::admin::sum;
use crate::common::broker::TestBroker;
use crate::common::device::fresh_id;
use crate::common::gateway::Gateway;
use crate::common::scene::ProgramScene;
use lwm2m_core::coap::Message;
use lwm2m_core::coap::{Code, Kind};
use lwm2m_core::gateway::report::Report;
use lwm2m_gateway::observability::metrics::Metrics;
use lwm2m_gateway::observability::page::MetricsPage;
use lwm2m_gateway::observability::snapshot::DriverSnapshot;
use lwm2m_testkit::scene::{peer, read};
use serde_json::{Value, json};

#[test]
fn the_time_of_a_command_is_that_from_its_first_datagram_to_the_answer() {
    let mut scene = lwm2m_testkit::scene::Scene::registered();
    scene.command(&read(1));
    let sent = scene.now;
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.advance(5.0);
    assert_eq!(scene.expect_request(Code::GET, "/3/0/0"), request, "once more");
    scene.answer_text(&request, "Acme");
    let took: Vec<_> = scene.reports().into_iter().filter_map(took).collect();
    assert_eq!(took, [scene.now - sent]);
}

#[test]
fn a_command_that_waits_for_its_device_does_not_take_longer_by_it() {
    let mut scene = lwm2m_testkit::scene::Scene::with(|_| {});
    scene.register("ep=dev-7&lt=3000&lwm2m=1.0&b=UQ");
    scene.advance(100.0);
    scene.command(&read(1));
    scene.expect_nothing_more();
    scene.advance(100.0);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.advance(0.5);
    scene.answer_text(&request, "Acme");
    let took: Vec<_> = scene.reports().into_iter().filter_map(took).collect();
    assert_eq!(took, [Duration::from_millis(500)]);
}

#[test]
fn no_series_is_added_by_a_device() {
    let page_of = |devices: u32| {
        let metrics = Arc::new(Metrics::default());
        let mut scene = lwm2m_testkit::scene::Scene::new();
        for number in 1..=devices {
            scene.peer = peer(number);
            scene.join(&format!("ep=dev-{number}&lt=300"));
            scene.command(&read(1));
            scene.forget_what_was_said();
        }
        scene.reports().iter().for_each(|report| metrics.record(report));
        let snapshot = DriverSnapshot { gateway: scene.gateway.table_sizes(), ..DriverSnapshot::default() };
        MetricsPage { metrics, snapshot: Some(snapshot) }.text()
    };
    let (one, many) = (page_of(1), page_of(1000));
    assert!(many.contains("\nlwm2m_registrations_total 1000\n"), "{many}");
    assert_eq!(series(&one), series(&many));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datagram_is_accounted_for_exactly_once() {
    let mut scene = ProgramScene::registered("counted").await;
    scene.device.send_bytes(b"");
    scene.device.send_bytes(&[0xff; 40]);
    scene.device.send(&Message::empty(Kind::Acknowledgement, fresh_id()));
    let ping = Message::empty(Kind::Confirmable, fresh_id());
    for _ in 0..2 {
        scene.device.send(&ping);
        scene.device.receive();
    }
    scene.nothing_more();
    let (status, page) = scene.gateway.ask_admin("/metrics");
    assert_eq!(status, 200);
    let received = sum(&page, "lwm2m_socket_datagrams_total{direction=\"in\"}");
    assert!(received >= 8.0, "{page}");
    assert_eq!(sum(&page, "lwm2m_datagrams_total{"), received, "{page}");
    for (series, least) in [
        ("lwm2m_datagrams_total{outcome=\"dropped\",reason=\"too_short\"}", 1.0),
        ("lwm2m_datagrams_total{outcome=\"dropped\",reason=\"version\"}", 1.0),
        ("lwm2m_datagrams_total{outcome=\"dropped\",reason=\"unexpected\"}", 1.0),
        ("lwm2m_registrations_total", 1.0),
        ("lwm2m_commands_total{type=\"read\",outcome=\"answered\"}", 1.0),
        ("lwm2m_exchange_seconds_count", 1.0),
        ("lwm2m_broker_call_seconds_count{call=\"authenticate\"}", 1.0),
        ("lwm2m_broker_call_seconds_count{call=\"publish\"}", 1.0),
        ("lwm2m_devices{state=\"awake\"}", 1.0),
        ("lwm2m_broker_clients{state=\"connected\"}", 1.0),
        ("lwm2m_broker_nodes{state=\"up\"}", 1.0),
        ("lwm2m_event_loop_up", 1.0),
    ] {
        assert!(sum(&page, series) >= least, "{series} in\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_is_ready_when_the_broker_is_reached_and_alive_in_any_case() {
    let broker = TestBroker::start().await;
    let gateway = Gateway::start(&broker.addresses);
    let readiness = wait_for(&gateway, 200);
    assert_eq!(readiness["conditions"]["broker"]["state"], "up", "{readiness}");
    assert_eq!(readiness["conditions"]["sockets"]["detail"], gateway.address().to_string());

    let Some(control) = broker.control() else { return };
    drop(control);
    let mut away = broker.addresses.clone();
    away.listener = "127.0.0.1:1".to_owned();
    away.handler_bind = (std::net::TcpListener::bind("127.0.0.1:0").expect("a port")).local_addr().expect("bound");
    let gateway = Gateway::start(&away);
    let readiness = wait_for(&gateway, 503);
    assert_eq!(readiness["conditions"]["broker"]["state"], "down", "{readiness}");
    assert_eq!(gateway.ask_admin("/healthz"), (200, "ok\n".to_owned()));
}

/// Asks for readiness until the broker is known; gives what is said then.
fn wait_for(gateway: &Gateway, status: u16) -> Value {
    for _ in 0..2_000 {
        let (answered, body) = gateway.ask_admin("/readyz");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let known = !body["conditions"]["broker"]["detail"].as_str().expect("text").contains("yet");
        if known {
            assert_eq!((answered, &body["ready"]), (status, &json!(status == 200)), "{body}");
            return body;
        }
        std::thread::yield_now();
    }
    panic!("the broker stays unknown: {}", gateway.output());
}

fn took(report: Report) -> Option<Duration> {
    match report {
        Report::Command { took, .. } => took,
        _ => None,
    }
}

/// Names and labels, without the values.
fn series(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect()
}
