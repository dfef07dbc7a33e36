//! Requests for bootstrap that are refused, and what strangers can cause.

use lwm2m_base::Peer;
use lwm2m_core::gateway::config::SocketRole;
use lwm2m_core::gateway::report::BootstrapRefusal;
use lwm2m_testkit::scene::peer;

use super::*;

/// Sends a request and returns the code of its answer, after which nothing more is said.
fn refused(scene: &mut Scene, method: Code, path: &str, query: &str) -> Code {
    let request = scene.request(method, &[path], query);
    scene.device_sends(&request);
    let (_, answer) = scene.expect_sent();
    scene.expect_nothing_more();
    assert_eq!(scene.gateway.table_sizes().bootstrap_sessions, 0);
    answer.code
}

fn refusals(scene: &mut Scene) -> Vec<BootstrapRefusal> {
    let refusals = reports(scene).into_iter().map(|report| match report {
        BootstrapReport::Rejected { refusal, .. } => refusal,
        other => panic!("a refusal is expected, not {other:?}"),
    });
    refusals.collect()
}

#[test]
fn a_request_is_refused_with_the_code_of_its_reason() {
    let mut scene = scene(json!({ "match": "dev-*", "server": [{ "short_server_id": 1, "uri": "coap://gw" }] }));
    for (method, query, code, refusal) in [
        (Code::POST, "ep=other", Code::BAD_REQUEST, BootstrapRefusal::NoAccount),
        (Code::POST, "", Code::BAD_REQUEST, BootstrapRefusal::NoEndpoint),
        (Code::POST, "ep=", Code::BAD_REQUEST, BootstrapRefusal::Malformed),
        (Code::POST, "ep=dev-7&pct=60", Code::UNSUPPORTED_CONTENT_FORMAT, BootstrapRefusal::Format),
        (Code::POST, "ep=dev-7&pct=11543", Code::UNSUPPORTED_CONTENT_FORMAT, BootstrapRefusal::Format),
        (Code::POST, "ep=dev-7&pct=x", Code::UNSUPPORTED_CONTENT_FORMAT, BootstrapRefusal::Format),
        (Code::GET, "ep=dev-7", Code::METHOD_NOT_ALLOWED, BootstrapRefusal::Method),
        (Code::PUT, "ep=dev-7", Code::METHOD_NOT_ALLOWED, BootstrapRefusal::Method),
        (Code::DELETE, "ep=dev-7", Code::METHOD_NOT_ALLOWED, BootstrapRefusal::Method),
    ] {
        assert_eq!(refused(&mut scene, method, "bs", query), code, "{method} {query}");
        assert_eq!(refusals(&mut scene), [refusal], "{method} {query}");
    }
}

#[test]
fn without_dtls_no_secret_leaves() {
    let psk = json!({
        "short_server_id": 1, "uri": "coaps://gw", "security": "psk", "identity": "a", "secret": "hex:00",
    });
    let mut with_key = scene(account(json!({ "server": [psk] })));
    assert_eq!(refused(&mut with_key, Code::POST, "bs", "ep=dev-7"), Code::BAD_REQUEST);
    assert_eq!(refusals(&mut with_key), [BootstrapRefusal::Plaintext]);
    let mut scene = scene(generating(json!({ "allow_plaintext": false })));
    assert_eq!(refused(&mut scene, Code::POST, "bs", "ep=dev-7"), Code::BAD_REQUEST);
    assert_eq!(scene.gateway.table_sizes().generated_keys, 0);
}

#[test]
fn objects_that_may_have_secrets_are_not_written_without_dtls() {
    // The URI of a package may have a password.
    let firmware = json!({ "path": "/5/0", "resources": { "1": "coap://files.example.com/a" } });
    for (members, code) in [
        (json!({ "object": [firmware] }), Code::BAD_REQUEST),
        (json!({ "object": [firmware], "allow_plaintext": true }), Code::CHANGED),
    ] {
        let mut scene = super::scene(account(members));
        let request = scene.request(Code::POST, &["bs"], "ep=dev-7");
        scene.device_sends(&request);
        assert_eq!(scene.expect_sent().1.code, code);
    }
}

#[test]
fn without_a_bootstrap_server_there_is_nothing() {
    let mut scene = Scene::new();
    scene.gateway.set_bootstrap_accounts(scene.now, accounts(json!([account(json!({}))])));
    assert_eq!(refused(&mut scene, Code::POST, "bs", "ep=dev-7"), Code::NOT_FOUND);
    assert_eq!(refused(&mut scene, Code::GET, "bspack", "ep=dev-7"), Code::NOT_IMPLEMENTED);
    scene.register("ep=dev-7&lt=300&lwm2m=1.0");
}

#[test]
fn a_socket_serves_what_its_role_says() {
    let with_role = |role| scene_with(account(json!({})), |config| config.roles = vec![role]);
    let mut registration = with_role(SocketRole::Registration);
    assert_eq!(refused(&mut registration, Code::POST, "bs", "ep=dev-7"), Code::NOT_FOUND);
    assert_eq!(refused(&mut registration, Code::GET, "bspack", "ep=dev-7"), Code::NOT_IMPLEMENTED);
    registration.register("ep=dev-7&lt=300&lwm2m=1.0");

    let mut bootstrap = with_role(SocketRole::Bootstrap);
    assert_eq!(refused(&mut bootstrap, Code::POST, "rd", "ep=dev-7"), Code::FORBIDDEN);
    assert_eq!(refused(&mut bootstrap, Code::POST, "dp", ""), Code::FORBIDDEN);
    begin(&mut bootstrap, "ep=dev-7");

    let mut both = with_role(SocketRole::All);
    begin(&mut both, "ep=dev-8");
    obey(&mut both);
    both.register("ep=dev-7&lt=300&lwm2m=1.0");
}

#[test]
fn a_stranger_gets_no_more_bytes_than_a_few_requests_and_no_session_for_long() {
    let mut scene = scene(account(json!({ "discover": false, "delete": [] })));
    let request = scene.request(Code::POST, &["bs"], "ep=dev-7");
    scene.device_sends(&request);
    let sent = |scene: &mut Scene| {
        let said = std::iter::from_fn(|| scene.next_said());
        let bytes = said.map(|said| match said {
            lwm2m_testkit::scene::Said::ToDevice(_, message) => message.encode().len(),
            other => panic!("{other:?}"),
        });
        bytes.collect::<Vec<_>>()
    };
    let mut bytes = sent(&mut scene);
    scene.advance(10.0);
    bytes.extend(sent(&mut scene));
    let asked = request.encode().len();
    assert!(bytes.iter().all(|sent| *sent <= asked), "{bytes:?} for {asked}");
    assert_eq!(bytes.len(), 3, "the answer and two Discovers");
    // RFC 7252 section 11.3, for the shortest endpoint name.
    let shortest = asked - "ev-7".len();
    assert!(bytes.iter().sum::<usize>() <= 3 * shortest, "{bytes:?} for {shortest}");
    assert_eq!(scene.gateway.table_sizes().bootstrap_sessions, 0);
    scene.expect_nothing_left_behind();
}

#[test]
fn sessions_without_dtls_take_half_of_the_places() {
    let limit = |config: &mut GatewayConfig| config.bootstrap.as_mut().expect("it is on").sessions = 4;
    let mut scene = scene_with(account(json!({})), limit);
    for number in 1..=3 {
        scene.peer = peer(number);
        let request = scene.request(Code::POST, &["bs"], &format!("ep=dev-{number}"));
        scene.device_sends(&request);
        let (_, answer) = scene.expect_sent();
        assert_eq!(answer.code, if number <= 2 { Code::CHANGED } else { Code::SERVICE_UNAVAILABLE });
        assert_eq!(answer.options.contains(number::MAX_AGE), number == 3);
        scene.forget_what_was_said();
    }
    assert_eq!(scene.gateway.table_sizes().bootstrap_sessions, 2);
    assert!(matches!(
        reports(&mut scene).last(),
        Some(BootstrapReport::Rejected { refusal: BootstrapRefusal::Busy, .. })
    ));
    scene.advance(11.0);
    scene.forget_what_was_said();
    scene.peer = peer(3);
    ask(&mut scene, "ep=dev-3");
}

/// Forged requests of one address do not keep the devices of other addresses away.
#[test]
fn when_half_of_the_places_without_dtls_are_taken_an_address_has_a_share() {
    let mut scene = scene_with(account(json!({})), |config| {
        config.bootstrap.as_mut().expect("it is on").sessions = 200;
        config.limits.unregistered.address.burst = 1_000;
    });
    let begins = |scene: &mut Scene, number: u32, port: u16| {
        scene.peer = Peer { address: (peer(number).address.ip(), port).into(), ..peer(number) };
        let request = scene.request(Code::POST, &["bs"], &format!("ep=dev-{number}-{port}"));
        scene.device_sends(&request);
        let (_, answer) = scene.expect_sent();
        scene.forget_what_was_said();
        answer.code == Code::CHANGED
    };
    // 100 places, a share is 2 of them.
    let of_one = (1..=100).filter(|port| begins(&mut scene, 1, *port)).count();
    assert_eq!(of_one, 50);
    assert_eq!((1..=5).filter(|port| begins(&mut scene, 2, *port)).count(), 2);
    // A session that takes the place of another one of its endpoint needs no further place.
    assert!(begins(&mut scene, 2, 1));
    assert_eq!((3..=50).filter(|number| begins(&mut scene, *number, 1)).count(), 48);
    assert!(!begins(&mut scene, 51, 1), "all 100 are taken");
    scene.advance(11.0);
    scene.forget_what_was_said();
    assert!(begins(&mut scene, 1, 200), "the places are free again");
    scene.advance(11.0);
    scene.forget_what_was_said();
    scene.expect_nothing_left_behind();
}

#[test]
fn strangers_are_limited_like_everywhere() {
    let mut scene = scene_with(account(json!({})), |config| {
        config.limits.unregistered.address.burst = 5;
        config.limits.unregistered.address.per_second = 1;
    });
    for number in 0..20 {
        let request = scene.request(Code::POST, &["bs"], &format!("ep=nobody-{number}&pct=1"));
        scene.device_sends(&request);
    }
    let answers = std::iter::from_fn(|| scene.next_said()).count();
    assert_eq!(answers, 5);
}

#[test]
fn generated_keys_have_a_limit() {
    let limit = |config: &mut GatewayConfig| config.bootstrap.as_mut().expect("it is on").generated_keys = 1;
    let mut scene = scene_with(generating(json!({})), limit);
    begin(&mut scene, "ep=dev-1");
    obey(&mut scene);
    begin(&mut scene, "ep=dev-2");
    let (step, _, reason) = failure(&mut scene);
    assert!(step == "GET /" && reason.contains("bootstrap.generated_keys"), "{step} {reason}");
    assert_eq!(scene.gateway.table_sizes().generated_keys, 1);
}

#[test]
fn a_name_with_a_generated_key_is_not_registered_without_dtls() {
    let mut scene = scene(generating(json!({})));
    begin(&mut scene, "ep=dev-7");
    obey(&mut scene);
    let register = scene.register_message("ep=dev-7&lt=300&lwm2m=1.0");
    scene.ask(&register, Code::FORBIDDEN);
}

#[test]
fn a_gateway_that_stops_begins_no_session() {
    let mut scene = scene(account(json!({})));
    scene.drains();
    assert_eq!(refused(&mut scene, Code::POST, "bs", "ep=dev-7"), Code::SERVICE_UNAVAILABLE);
}

#[test]
fn a_registered_device_stays_registered_while_it_is_bootstrapped() {
    let mut scene = scene(account(json!({})));
    scene.register("ep=dev-7&lt=300&lwm2m=1.0");
    begin(&mut scene, "ep=dev-7");
    obey(&mut scene);
    assert_eq!(scene.gateway.table_sizes().devices, 1);
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
}
