//! Loss, repetition, silence, resets, refusals and second requests, at each step of a session.

use std::time::Duration;

use lwm2m_core::coap::MessageId;
use lwm2m_testkit::scene::Said;

use super::*;

/// The requests of a session in their order.
const STEPS: [&str; 7] = ["GET /", "DELETE /0", "DELETE /1", "PUT /0/1", "PUT /1/0", "GET /1", "POST /bs"];

fn verifying() -> Value {
    account(json!({ "verify": true }))
}

/// Begins a session, lets the device answer the first steps, and returns the request of the next one.
fn at_step(scene: &mut Scene, step: usize) -> Message {
    ask(scene, "ep=dev-7");
    for _ in 0..step {
        answer_next(scene);
    }
    next_request(scene).expect("the request of the step")
}

fn answer_next(scene: &mut Scene) {
    let request = next_request(scene).expect("a request");
    match path_of(&request).as_str() {
        "" if request.code == Code::GET => answer_links(scene, &request, DISCOVERED),
        _ => scene.answer(&request, success(&request)),
    }
}

#[test]
fn the_session_ends_at_the_first_error_of_the_device() {
    for (step, name) in STEPS.iter().enumerate() {
        for code in [Code::BAD_REQUEST, Code::INTERNAL_SERVER_ERROR] {
            let mut scene = scene(verifying());
            let request = at_step(&mut scene, step);
            scene.answer(&request, code);
            let (failed, answered, _) = failure(&mut scene);
            assert_eq!((failed.as_str(), answered), (*name, Some(code)));
            scene.expect_nothing_left_behind();
            assert_eq!(scene.gateway.table_sizes().bootstrap_sessions, 0);
        }
    }
}

#[test]
fn a_finish_that_is_not_acceptable_means_that_the_account_is_inconsistent() {
    let mut scene = scene(account(json!({})));
    let finish = at_step(&mut scene, 5);
    scene.answer(&finish, Code::NOT_ACCEPTABLE);
    let reason = "the device found the account inconsistent".to_owned();
    assert_eq!(failure(&mut scene), ("POST /bs".to_owned(), Some(Code::NOT_ACCEPTABLE), reason));
}

#[test]
fn a_device_that_is_silent_at_a_step_ends_the_session() {
    for (step, name) in STEPS.iter().enumerate() {
        let mut scene = scene(verifying());
        let request = at_step(&mut scene, step);
        scene.advance(240.0);
        assert_eq!(failure(&mut scene), ((*name).to_owned(), None, "the device did not answer".to_owned()));
        // It was repeated as often as CoAP says, and to an unproven address less often.
        let repeated = std::iter::from_fn(|| scene.next_said()).collect::<Vec<_>>();
        let expected = Said::ToDevice(scene.peer, request);
        assert!(repeated.iter().all(|said| *said == expected));
        assert!(if step == 0 { repeated.len() <= 2 } else { repeated.len() == 4 }, "{name}: {}", repeated.len());
        scene.expect_nothing_left_behind();
    }
}

#[test]
fn a_reset_ends_the_session() {
    for (step, name) in STEPS.iter().enumerate() {
        let mut scene = scene(verifying());
        let request = at_step(&mut scene, step);
        scene.device_sends(&Message::empty(Kind::Reset, request.id));
        assert_eq!(failure(&mut scene), ((*name).to_owned(), None, "the device reset the request".to_owned()));
        scene.expect_nothing_left_behind();
    }
}

#[test]
fn an_answer_that_was_lost_is_asked_for_again() {
    for step in 0..STEPS.len() {
        let mut scene = scene(verifying());
        let request = at_step(&mut scene, step);
        scene.advance(3.0);
        scene.expect_message(&request);
        match step {
            0 => answer_links(&mut scene, &request, DISCOVERED),
            _ => scene.answer(&request, success(&request)),
        }
        (step + 1..STEPS.len()).for_each(|_| answer_next(&mut scene));
        assert!(matches!(reports(&mut scene).last(), Some(BootstrapReport::Finished { .. })));
    }
}

#[test]
fn repeated_answers_of_the_device_have_no_effect() {
    let mut scene = scene(account(json!({})));
    ask(&mut scene, "ep=dev-7");
    for step in 0..STEPS.len() - 1 {
        let request = next_request(&mut scene).expect("a request");
        for _ in 0..2 {
            match step {
                0 => answer_links(&mut scene, &request, DISCOVERED),
                _ => scene.answer(&request, success(&request)),
            }
        }
    }
    scene.expect_nothing_more();
    assert!(matches!(reports(&mut scene)[..], [BootstrapReport::Started { .. }, BootstrapReport::Finished { .. }]));
}

#[test]
fn the_device_may_answer_each_request_later() {
    let mut scene = scene(verifying());
    ask(&mut scene, "ep=dev-7");
    for step in 0..STEPS.len() {
        let request = next_request(&mut scene).expect("a request");
        scene.device_sends(&Message::empty(Kind::Acknowledgement, request.id));
        scene.advance(5.0);
        let mut answer = Message { code: success(&request), id: MessageId(9000 + step as u16), ..reply(&request) };
        if step == 0 {
            answer.payload = DISCOVERED.as_bytes().to_vec();
        }
        scene.device_sends(&answer);
        // The acknowledgement of the answer may leave before or behind the next request.
        let said: Vec<_> = std::iter::from_fn(|| scene.next_said()).collect();
        let acknowledged = Said::ToDevice(scene.peer, Message::empty(Kind::Acknowledgement, answer.id));
        assert!(said.contains(&acknowledged), "{said:?}");
        for other in said.into_iter().filter(|said| *said != acknowledged) {
            scene.say_again(other);
        }
    }
    assert!(matches!(reports(&mut scene).last(), Some(BootstrapReport::Finished { .. })));
}

#[test]
fn a_session_ends_after_session_timeout() {
    let config = |config: &mut GatewayConfig| {
        let bootstrap = config.bootstrap.as_mut().expect("it is on");
        bootstrap.session_timeout = std::time::Duration::from_secs(30);
    };
    let mut scene = scene_with(account(json!({})), config);
    begin(&mut scene, "ep=dev-7");
    // The device takes its time at each step.
    let delete = scene.expect_request(Code::DELETE, "/0");
    scene.device_sends(&Message::empty(Kind::Acknowledgement, delete.id));
    scene.advance(29.0);
    assert_eq!(scene.gateway.table_sizes().bootstrap_sessions, 1);
    scene.advance(2.0);
    assert_eq!(failure(&mut scene).2, "the session took longer than bootstrap.session_timeout");
    // What the device sends afterwards belongs to nothing.
    let late = Message { code: Code::DELETED, id: MessageId(9000), ..reply(&delete) };
    scene.device_sends(&late);
    scene.expect_reset(&late);
    scene.expect_nothing_left_behind();
}

#[test]
fn a_second_request_ends_the_session_that_runs_and_begins_another_one() {
    for (step, name) in STEPS.iter().enumerate() {
        let mut scene = scene(verifying());
        let former = at_step(&mut scene, step);
        ask(&mut scene, "ep=dev-7");
        let discover = scene.expect_request(Code::GET, "");
        let reports = reports(&mut scene);
        let [.., ended, started] = &reports[..] else { panic!("{reports:?}") };
        let has_ended = matches!(ended, BootstrapReport::Failed { step, reason, .. }
            if step.to_string() == *name && reason == "the device asked for another session");
        assert!(has_ended && matches!(started, BootstrapReport::Started { .. }), "{reports:?}");
        assert_eq!(scene.gateway.table_sizes().bootstrap_sessions, 1);
        // The answer to a request of the session that has ended is not taken for one of the new session.
        scene.device_sends(&Message { kind: Kind::Acknowledgement, code: success(&former), ..reply(&former) });
        scene.expect_nothing_more();
        answer_links(&mut scene, &discover, DISCOVERED);
        scene.expect_request(Code::DELETE, "/0");
    }
}

#[test]
fn a_request_that_is_repeated_because_its_answer_was_lost_does_not_begin_the_session_again() {
    let mut scene = scene(verifying());
    let request = ask(&mut scene, "ep=dev-7");
    let discover = scene.expect_request(Code::GET, "");
    scene.device_sends(&request);
    scene.expect_reply(scene.peer, &request, Code::CHANGED);
    scene.expect_nothing_more();
    answer_links(&mut scene, &discover, DISCOVERED);
    scene.expect_request(Code::DELETE, "/0");
}

#[test]
fn a_device_that_has_rebooted_asks_from_another_port() {
    let mut scene = scene(verifying());
    at_step(&mut scene, 3);
    scene.peer = lwm2m_base::Peer::udp(0, ([10, 0, 0, 1], 40_000).into());
    begin(&mut scene, "ep=dev-7");
    (2..STEPS.len()).for_each(|_| answer_next(&mut scene));
    answer_next(&mut scene);
    scene.expect_nothing_more();
    assert!(matches!(reports(&mut scene).last(), Some(BootstrapReport::Finished { .. })));
}

#[test]
fn a_device_that_only_acknowledges_the_discover_has_no_more_time_than_a_session() {
    for (session_timeout, ends_after) in [(4, 4.0), (240, 10.0)] {
        let mut scene = scene_with(account(json!({})), |config| {
            let config = config.bootstrap.as_mut().expect("it is on");
            config.session_timeout = Duration::from_secs(session_timeout);
        });
        ask(&mut scene, "ep=dev-7");
        let discover = scene.expect_request(Code::GET, "");
        scene.device_sends(&Message::empty(Kind::Acknowledgement, discover.id));
        scene.advance(ends_after - 0.5);
        assert_eq!(scene.gateway.table_sizes().bootstrap_sessions, 1);
        scene.advance(1.0);
        assert_eq!(scene.gateway.table_sizes().bootstrap_sessions, 0);
    }
}
