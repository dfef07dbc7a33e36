//! The built program in its world: brokers that come and go, refuse and are slow; devices that move; signals.

use std::time::Duration;

use crate::common::application::{Application, answer, assert_same, content};
use crate::common::broker::{TestBroker, start_again};
use crate::common::device::{Device, PATIENCE, request};
use crate::common::gateway::Gateway;
use crate::common::scene::{LINKS, ProgramScene};
use lwm2m_broker::BrokerControl;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind, Message};
use serde_json::{Value, json};

crate::over_both_upstreams! {
    a_device_registers_is_read_observed_and_leaves,
    a_device_is_one_client_of_the_broker_named_by_its_endpoint,
    an_update_from_a_new_address_moves_the_session_there,
    devices_of_two_listeners_are_answered_by_the_socket_they_spoke_to,
    a_device_that_the_broker_kicked_has_to_register_again,
    a_device_that_another_client_replaced_has_to_register_again,
    a_device_that_the_broker_refuses_is_told_4_03,
    a_device_that_may_not_hear_commands_is_told_4_03,
    a_publication_that_the_broker_refuses_is_no_matter_to_the_device,
    a_register_while_the_broker_is_away_is_told_5_03_until_it_is_back,
    a_broker_that_stops_and_starts_is_not_noticed_by_the_device,
    a_register_that_takes_the_broker_long_is_acknowledged_first_and_answered_later,
    a_register_that_is_repeated_while_the_broker_thinks_is_one_register,
    of_two_registers_of_one_endpoint_the_newer_one_holds,
    a_broker_that_was_never_there_is_5_03_and_no_reason_to_end,
    a_signal_ends_it_in_time_although_the_broker_is_away,
    a_command_in_flight_is_answered_before_it_ends,
    the_second_signal_ends_it_at_once,
    a_full_queue_gives_up_notifications_and_keeps_reports,
    a_signal_stops_it_without_error_and_its_clients_leave,
    a_listener_that_is_taken_stops_the_start_with_a_word_about_it,
}

/// Short waits, so that a test of a broker that is away takes seconds.
const IMPATIENT: &str = "upstream.exproto.connect_timeout = \"500ms\"\nlimits.retry_after = \"7s\"\n";

async fn a_device_registers_is_read_observed_and_leaves() {
    let mut scene = ProgramScene::registered("whole-round").await;
    scene.nothing_more();
    let (command, observed) = observe(&mut scene);
    scene.device.notify(&observed, Kind::NonConfirmable, 2, "21.5");
    scene.expect("up/notify", &notification(&command, 2, 21.5));

    assert_eq!(scene.device.deregister().code, Code::DELETED);
    let late = scene.device.notify(&observed, Kind::Confirmable, 3, "22.5");
    assert_eq!(scene.device.receive(), Message::empty(Kind::Reset, late.id));
    assert_eq!(scene.device.update(&[], None).code, Code::NOT_FOUND);
    if let Some(control) = scene.broker.control() {
        until(|| control.clients().is_empty()).await;
    }
}

async fn a_device_is_one_client_of_the_broker_named_by_its_endpoint() {
    let scene = ProgramScene::registered("one-client").await;
    let Some(control) = scene.broker.control() else { return };
    assert_eq!(control.clients(), ["one-client"]);
    assert_eq!(control.subscriptions("one-client"), ["lwm2m/one-client/dn/#"]);
}

async fn an_update_from_a_new_address_moves_the_session_there() {
    let mut scene = ProgramScene::registered("moving").await;
    scene.device.moves();
    assert_eq!(scene.device.update(&["lt=600"], None).code, Code::CHANGED);
    scene.nothing_more();
    scene.device.moves();
    assert_eq!(scene.device.deregister().code, Code::DELETED);
}

async fn devices_of_two_listeners_are_answered_by_the_socket_they_spoke_to() {
    let broker = TestBroker::start().await;
    let gateway = Gateway::start_with(&broker.addresses, 2, "");
    let mut application = Application::connect(&broker.addresses.mqtt, &["left", "right"]);
    for (listener, endpoint) in gateway.listeners.iter().zip(["left", "right"]) {
        let mut device = Device::new(*listener);
        device.register(&format!("ep={endpoint}&lt=300"), LINKS);
        assert_eq!(application.receive().1["data"]["ep"], endpoint);
        let command = json!({ "reqID": endpoint, "msgType": "read", "data": { "path": "/3/0/0" } });
        application.send(endpoint, &command);
        let request = device.expect_request(Code::GET, "/3/0/0");
        device.answer_text(&request, endpoint);
        application.expect(&format!("lwm2m/{endpoint}/up/resp"), &answer(&command, content("/3/0/0", endpoint)));
    }
}

async fn a_device_that_the_broker_kicked_has_to_register_again() {
    let mut scene = ProgramScene::registered("kicked").await;
    let Some(control) = scene.broker.control() else { return };
    assert!(control.kick("kicked").await);
    until_unknown(&scene.device).await;
    scene.register("lt=300", LINKS);
    scene.nothing_more();
    assert_eq!(control.clients(), ["kicked"]);
}

async fn a_device_that_another_client_replaced_has_to_register_again() {
    // Two endpoints under one clientid: the broker keeps the newer one.
    let mut scene = ProgramScene::start_with("older", "clientinfo.clientid = \"the-same\"\n").await;
    let Some(control) = scene.broker.control() else { return };
    scene.register("lt=300", LINKS);
    let mut newer = Device::new(scene.gateway.address());
    newer.register("ep=newer&lt=300", LINKS);
    until_unknown(&scene.device).await;
    assert_eq!(newer.update(&[], None).code, Code::CHANGED);
    assert_eq!(control.clients(), ["the-same"]);
}

async fn a_device_that_the_broker_refuses_is_told_4_03() {
    let mut scene = ProgramScene::start("refused").await;
    let Some(control) = scene.broker.control() else { return };
    control.refuse(|credentials| credentials.password != "letmein");
    let refused = scene.device.try_register("ep=refused&lt=300&password=guess", LINKS);
    assert_eq!(refused.code, Code::FORBIDDEN);
    assert_eq!(control.clients(), [""; 0]);
    scene.register("lt=300&password=letmein", LINKS);
    scene.nothing_more();
}

async fn a_device_that_may_not_hear_commands_is_told_4_03() {
    let mut scene = ProgramScene::start("deaf").await;
    let Some(control) = scene.broker.control() else { return };
    control.deny_subscribe("lwm2m/deaf/dn/#");
    assert_eq!(scene.device.try_register("ep=deaf&lt=300", LINKS).code, Code::FORBIDDEN);
    until(|| control.clients().is_empty()).await;
    control.allow_all();
    scene.register("lt=300", LINKS);
    scene.nothing_more();
}

async fn a_publication_that_the_broker_refuses_is_no_matter_to_the_device() {
    let mut scene = ProgramScene::start("muted").await;
    let Some(control) = scene.broker.control() else { return };
    control.deny_publish("lwm2m/muted/up/notify");
    scene.register("lt=300", LINKS);
    let (_, observed) = observe(&mut scene);
    for sequence in 2..5 {
        let notification = scene.device.notify(&observed, Kind::Confirmable, sequence, "21.5");
        scene.device.expect_acknowledgement(&notification);
    }
    scene.nothing_more();
}

async fn a_register_while_the_broker_is_away_is_told_5_03_until_it_is_back() {
    let mut scene = ProgramScene::start_with("patient", IMPATIENT).await;
    let Some(control) = scene.broker.control() else { return };
    control.stop().await;
    let away = scene.device.try_register("ep=patient&lt=300", LINKS);
    assert_eq!((away.code, away.options.uint(number::MAX_AGE)), (Code::SERVICE_UNAVAILABLE, Ok(Some(7))));

    start_again(&control).await;
    let mut code = away.code;
    for _ in 0..40 {
        code = scene.device.try_register("ep=patient&lt=300", LINKS).code;
        if code == Code::CREATED {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(code, Code::CREATED);
    scene.hear("up/resp", "register");
    scene.nothing_more();
}

async fn a_broker_that_stops_and_starts_is_not_noticed_by_the_device() {
    let mut scene = ProgramScene::registered("steady").await;
    let Some(control) = scene.broker.control() else { return };
    let (command, observed) = observe(&mut scene);
    control.stop().await;
    for sequence in 2..12 {
        let notification = scene.device.notify(&observed, Kind::Confirmable, sequence, &format!("{sequence}.5"));
        scene.device.expect_acknowledgement(&notification);
    }
    assert_eq!(scene.device.update(&["lt=600"], None).code, Code::CHANGED);

    start_again(&control).await;
    let mut heard = Vec::new();
    while heard.len() < 10 {
        let (_, payload) = scene.application.receive();
        // The answer may come once more: nobody told the gateway that it had come, when the broker went at once.
        if payload["msgType"] != "observe" {
            heard.push(payload);
        }
    }
    for (sequence, payload) in (2..12).zip(&heard) {
        assert_same(payload, &notification(&command, sequence, f64::from(sequence) + 0.5));
    }
    until(|| control.subscriptions("steady") == ["lwm2m/steady/dn/#"]).await;
    scene.nothing_more();
}

async fn a_register_that_takes_the_broker_long_is_acknowledged_first_and_answered_later() {
    let mut scene = ProgramScene::start("slow").await;
    let Some(control) = scene.broker.control() else { return };
    control.delay_answers(Duration::from_millis(1500));
    let register = request(Code::POST, &["rd"], &["ep=slow", "lt=300"], Some((40, LINKS.as_bytes())));
    scene.device.send(&register);
    assert_eq!(scene.device.receive(), Message::empty(Kind::Acknowledgement, register.id));
    let response = scene.device.receive();
    assert_eq!((response.kind, response.code), (Kind::Confirmable, Code::CREATED));
    assert_eq!(response.token, register.token);
    scene.device.send(&Message::empty(Kind::Acknowledgement, response.id));
    control.delay_answers(Duration::ZERO);
    scene.hear("up/resp", "register");
    scene.nothing_more();
}

async fn a_register_that_is_repeated_while_the_broker_thinks_is_one_register() {
    let mut scene = ProgramScene::start("repeated").await;
    let Some(control) = scene.broker.control() else { return };
    control.delay_answers(Duration::from_millis(1500));
    let register = request(Code::POST, &["rd"], &["ep=repeated", "lt=300"], Some((40, LINKS.as_bytes())));
    (0..3).for_each(|_| scene.device.send(&register));
    let mut answer = scene.device.receive();
    while answer.code == Code::EMPTY {
        assert_eq!(answer, Message::empty(Kind::Acknowledgement, register.id));
        answer = scene.device.receive();
    }
    assert_eq!((answer.kind, answer.code), (Kind::Confirmable, Code::CREATED));
    scene.device.send(&Message::empty(Kind::Acknowledgement, answer.id));
    control.delay_answers(Duration::ZERO);
    scene.hear("up/resp", "register");
    scene.nothing_more();
    assert_eq!(control.clients(), ["repeated"]);
}

async fn of_two_registers_of_one_endpoint_the_newer_one_holds() {
    let mut scene = ProgramScene::start("twice").await;
    let Some(control) = scene.broker.control() else { return };
    control.delay_answers(Duration::from_millis(300));
    let older = Device::new(scene.gateway.address());
    older.send(&request(Code::POST, &["rd"], &["ep=twice", "lt=111"], Some((40, LINKS.as_bytes()))));
    let newer = request(Code::POST, &["rd"], &["ep=twice", "lt=222"], Some((40, LINKS.as_bytes())));
    let response = scene.device.request(&newer);
    assert_eq!(response.code, Code::CREATED);
    control.delay_answers(Duration::ZERO);
    let mut report = scene.hear("up/resp", "register");
    if report["data"]["lt"] == 111 {
        report = scene.hear("up/resp", "register");
    }
    assert_eq!(report["data"]["lt"], 222);
    scene.nothing_more();
    assert_eq!(control.clients(), ["twice"]);
}

async fn a_broker_that_was_never_there_is_5_03_and_no_reason_to_end() {
    let broker = TestBroker::start().await;
    if broker.control().is_none() {
        return;
    }
    let addresses = broker.addresses.clone();
    drop(broker);
    let mut gateway = Gateway::start_with(&addresses, 1, IMPATIENT);
    let mut device = Device::new(gateway.address());
    assert_eq!(device.try_register("ep=early&lt=300", LINKS).code, Code::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.stop("TERM").code(), Some(0), "{}", gateway.output());
}

async fn a_signal_ends_it_in_time_although_the_broker_is_away() {
    let mut scene = ProgramScene::registered_with("hurried", "shutdown_timeout = \"1s\"\n").await;
    let Some(control) = scene.broker.control() else { return };
    let (_, observed) = observe(&mut scene);
    control.stop().await;
    let waiting = scene.device.notify(&observed, Kind::Confirmable, 2, "21.5");
    scene.device.expect_acknowledgement(&waiting);
    assert_eq!(scene.gateway.stop("TERM").code(), Some(0), "{}", scene.gateway.output());
}

async fn a_command_in_flight_is_answered_before_it_ends() {
    let mut scene = ProgramScene::registered("in-flight").await;
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } });
    scene.command(&command);
    let request = scene.device.expect_request(Code::GET, "/3/0/0");
    scene.gateway.signal("TERM");
    until_refused(&scene.gateway).await;
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
    scene.device.answer_text(&request, "Acme");
    scene.expect("up/resp", &answer(&command, content("/3/0/0", "Acme")));
    assert_eq!(scene.gateway.wait().code(), Some(0), "{}", scene.gateway.output());
}

async fn the_second_signal_ends_it_at_once() {
    let mut scene = ProgramScene::registered("hasty").await;
    scene.command(&json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } }));
    scene.device.expect_request(Code::GET, "/3/0/0");
    scene.gateway.signal("TERM");
    until_refused(&scene.gateway).await;
    assert_eq!(scene.gateway.stop("INT").code(), Some(1), "{}", scene.gateway.output());
    assert!(scene.gateway.output().contains("stopped at once"), "{}", scene.gateway.output());
}

/// Until it has heard the signal: then a Register is answered 5.03.
async fn until_refused(gateway: &Gateway) {
    for number in 0.. {
        let mut late = Device::new(gateway.address());
        let answer = late.try_register(&format!("ep=late-{number}&lt=60"), LINKS);
        if answer.code == Code::SERVICE_UNAVAILABLE {
            assert_eq!(answer.options.uint(number::MAX_AGE), Ok(Some(30)));
            return;
        }
    }
}

async fn a_full_queue_gives_up_notifications_and_keeps_reports() {
    let mut scene = ProgramScene::registered_with("crowded", "upstream.exproto.queue_per_device = 5\n").await;
    let Some(control) = scene.broker.control() else { return };
    let (command, observed) = observe(&mut scene);
    control.stop().await;
    for sequence in 2..22 {
        let notification = scene.device.notify(&observed, Kind::Confirmable, sequence, &format!("{sequence}.5"));
        scene.device.expect_acknowledgement(&notification);
    }
    let changed = request(
        Code::POST,
        &["rd", &scene.device.location[1].clone()],
        &[],
        Some((40, b"</1/0>,</3/0>,</3303/0>,</3303/1>")),
    );
    assert_eq!(scene.device.request(&changed).code, Code::CHANGED);
    start_again(&control).await;
    let mut heard = Vec::new();
    while heard.last().is_none_or(|kind| kind != "update") {
        let (_, payload) = scene.application.receive();
        heard.push(payload["msgType"].as_str().expect("a text").to_owned());
    }
    assert!(heard.len() <= 6, "{heard:?} of {command}");
    scene.nothing_more();
}

async fn a_signal_stops_it_without_error_and_its_clients_leave() {
    for signal in ["TERM", "INT"] {
        let mut scene = ProgramScene::registered("stopped").await;
        let (command, observed) = observe(&mut scene);
        // What came before the signal is still published.
        let last = scene.device.notify(&observed, Kind::Confirmable, 2, "21.5");
        scene.device.expect_acknowledgement(&last);
        assert_eq!(scene.gateway.stop(signal).code(), Some(0), "{}", scene.gateway.output());
        scene.expect("up/notify", &notification(&command, 2, 21.5));
        let control: Option<BrokerControl> = scene.broker.control();
        if let Some(control) = control {
            until(|| control.clients().is_empty()).await;
        }
    }
}

async fn a_listener_that_is_taken_stops_the_start_with_a_word_about_it() {
    let scene = ProgramScene::start("second").await;
    let taken = scene.gateway.address();
    let mut second =
        Gateway::start_without_waiting(&scene.broker.addresses, &format!("listeners.udp.a.bind = \"{taken}\"\n"));
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.output().contains(&taken.to_string()), "{}", second.output());
}

/// Observes `/3303/0/5700`; gives the command and the device's request.
fn observe(scene: &mut ProgramScene) -> (Value, Message) {
    let command = json!({ "reqID": "o", "msgType": "observe", "data": { "path": "/3303/0/5700" } });
    scene.command(&command);
    let request = scene.device.expect_request(Code::GET, "/3303/0/5700");
    scene.device.answer_observe(&request, "20.5");
    scene.expect("up/resp", &answer(&command, content("/3303/0/5700", 20.5)));
    (command, request)
}

fn notification(command: &Value, sequence: u32, value: f64) -> Value {
    let mut payload = answer(command, content("/3303/0/5700", value));
    payload["msgType"] = json!("notify");
    payload["seqNum"] = json!(sequence);
    payload
}

/// The registration ends soon: then an Update is answered 4.04.
async fn until_unknown(device: &Device) {
    until(|| device.update(&[], None).code == Code::NOT_FOUND).await;
}

/// Waits for what another task is about to do.
async fn until(mut happened: impl FnMut() -> bool) {
    let attempt = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.expect("it happens in time");
}
