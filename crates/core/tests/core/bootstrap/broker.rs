//! Accounts that applications publish, and what they hear of the sessions.

use lwm2m_core::gateway::broker::BrokerLogin;
use lwm2m_core::gateway::broker::{
    BrokerCommand, BrokerEvent, ClientInfo, CloseReason, MessageProperties, RegistrationId, Ticket, UplinkClass,
};
use lwm2m_testkit::scene::Said;

use super::*;

/// The session of the bootstrap server's own client.
const OWN: RegistrationId = RegistrationId(0);

fn connected() -> Scene {
    let mut scene = scene_with(account(json!({ "delete": [] })), |config| {
        let client = BrokerLogin { username: "bs".to_owned(), password: None };
        config.bootstrap.as_mut().expect("it is on").login = Some(client);
    });
    scene.advance(0.0);
    expect_client(&mut scene);
    scene.broker_says(BrokerEvent::Connected { registration: OWN });
    scene
}

/// A client that has all accounts, of which these came after the subscription.
fn settled(published: &[(&str, &str)]) -> Scene {
    let mut scene = connected();
    published.iter().for_each(|(topic, payload)| publishes(&mut scene, topic, payload));
    scene.advance(5.0);
    let ticket = expect_question(&mut scene, published.len());
    scene.broker_says(BrokerEvent::Published { registration: OWN, ticket });
    scene
}

/// Takes the message whose acknowledgement tells that the connection was not lost, with this number of accounts.
fn expect_question(scene: &mut Scene, accounts: usize) -> Ticket {
    match scene.expect_broker_command() {
        BrokerCommand::Publish { registration: OWN, publication } => {
            let payload: Value = serde_json::from_slice(&publication.payload).expect("JSON");
            assert_eq!(publication.topic, "lwm2m-bootstrap/gateway/status");
            assert_eq!(payload, json!({ "msgType": "accounts", "data": { "accounts": accounts } }));
            assert_eq!((publication.qos, publication.retain), (1, false));
            publication.ticket.expect("its acknowledgement is awaited")
        }
        other => panic!("a message of the client is expected, not {other:?}"),
    }
}

/// Sends a request for a session, and returns the code of the answer.
fn code_for(scene: &mut Scene, endpoint: &str) -> Code {
    let request = scene.request(Code::POST, &["bs"], &format!("ep={endpoint}"));
    scene.device_sends(&request);
    let (_, answer) = scene.expect_sent();
    if answer.code == Code::CHANGED {
        scene.expect_request(Code::GET, "");
    }
    answer.code
}

fn expect_client(scene: &mut Scene) -> ClientInfo {
    match scene.expect_broker_command() {
        BrokerCommand::Resume { registration: OWN, client } => {
            assert_eq!(client.command_filter, "lwm2m-bootstrap/+/account");
            client
        }
        other => panic!("a client of its own is expected, not {other:?}"),
    }
}

fn publishes(scene: &mut Scene, topic: &str, payload: &str) {
    let (topic, payload) = (topic.to_owned(), payload.as_bytes().to_vec());
    let properties = MessageProperties { retained: true, ..MessageProperties::default() };
    scene.broker_says(BrokerEvent::Message { registration: OWN, topic, payload, properties });
}

fn expect_status(scene: &mut Scene, topic: &str, data: Value) {
    match scene.expect_broker_command() {
        BrokerCommand::Publish { registration: OWN, publication } => {
            let payload: Value = serde_json::from_slice(&publication.payload).expect("JSON");
            assert_eq!((publication.topic.as_str(), payload), (topic, json!({ "msgType": "bootstrap", "data": data })));
            assert_eq!((publication.class, publication.retain), (UplinkClass::Registration, false));
        }
        other => panic!("a status is expected, not {other:?}"),
    }
}

/// Runs a session to its end and returns the URI that was written.
fn given(scene: &mut Scene, endpoint: &str) -> String {
    begin(scene, &format!("ep={endpoint}&pct=110"));
    let security = next_request(scene).expect("the object 0");
    scene.answer(&security, Code::CHANGED);
    for _ in 0..2 {
        let request = next_request(scene).expect("a request");
        scene.answer(&request, Code::CHANGED);
    }
    let records: Value = serde_json::from_slice(&security.payload).expect("JSON");
    records[0]["vs"].as_str().expect("a text").to_owned()
}

const OWN_ACCOUNT: &str = r#"{"delete":[],"server":[{"short_server_id":7,"uri":"coap://own.example.com"}]}"#;

#[test]
fn a_published_account_comes_before_those_of_the_file_until_it_is_removed() {
    let mut scene = settled(&[("lwm2m-bootstrap/dev-7/account", OWN_ACCOUNT)]);
    let finished = |endpoint: &str| json!({ "ep": endpoint, "result": "finished" });
    assert_eq!(given(&mut scene, "dev-7"), "coap://own.example.com");
    expect_status(&mut scene, "lwm2m-bootstrap/dev-7/status", finished("dev-7"));
    assert_eq!(given(&mut scene, "dev-8"), "coap://gw.example.com:5683");
    expect_status(&mut scene, "lwm2m-bootstrap/dev-8/status", finished("dev-8"));
    publishes(&mut scene, "lwm2m-bootstrap/dev-7/account", "");
    assert_eq!(given(&mut scene, "dev-7"), "coap://gw.example.com:5683");
    expect_status(&mut scene, "lwm2m-bootstrap/dev-7/status", finished("dev-7"));
    scene.expect_nothing_more();
}

#[test]
fn an_account_that_cannot_be_used_leaves_the_former_in_force_and_no_report_shows_it() {
    let mut scene = connected();
    publishes(&mut scene, "lwm2m-bootstrap/dev-7/account", OWN_ACCOUNT);
    let planted = r#"{"server":[{"short_server_id":7,"uri":"coaps://gw","security":"psk","identity":"a","secret":"#;
    for wrong in [
        "planted",
        r#"{"server":"planted"}"#,
        r#"{"match":"*","server":[]}"#,
        &format!("{planted}\"file:planted\"}}]}}"),
        &format!("{planted}\"planted\"}}]}}"),
        &"x".repeat(100_000),
    ] {
        reports(&mut scene);
        publishes(&mut scene, "lwm2m-bootstrap/dev-7/account", wrong);
        let said = reports(&mut scene);
        assert!(matches!(said[..], [BootstrapReport::AccountRejected { .. }]), "{said:?}");
        assert!(!format!("{said:?}").contains("planted"), "{said:?}");
    }
    assert_eq!(given(&mut scene, "dev-7"), "coap://own.example.com");
}

#[test]
fn a_failed_session_is_published_with_its_step_and_code() {
    let mut scene = settled(&[]);
    begin(&mut scene, "ep=dev-7");
    // The instance 1 of the device is another server's, for nothing was deleted.
    let security = scene.expect_request(Code::PUT, "/0/2");
    scene.answer(&security, Code::BAD_REQUEST);
    let failed = json!({
        "ep": "dev-7", "result": "failed", "step": "PUT /0/2", "code": "4.00",
        "reason": "the device refused the request",
    });
    expect_status(&mut scene, "lwm2m-bootstrap/dev-7/status", failed);
}

/// A stranger does not choose the rate at which the gateway publishes.
#[test]
fn ends_of_sessions_without_dtls_have_a_rate_limit() {
    let mut scene = settled(&[]);
    // The last block of a pack ends the bootstrap of a device: a block behind it does not.
    let ask_block = |scene: &mut Scene, endpoint: &str, block: u32| {
        let mut request = scene.request(Code::GET, &["bspack"], &format!("ep={endpoint}"));
        request.options.add_uint(number::ACCEPT, 112);
        request.options.add_uint(number::BLOCK2, block << 4);
        scene.device_sends(&request);
        let said = std::iter::from_fn(|| scene.next_said());
        let of_client = |said: &Said| matches!(said, Said::ToBroker(BrokerCommand::Publish { registration: OWN, .. }));
        said.filter(of_client).count()
    };
    let last = (0..100).find(|block| ask_block(&mut scene, "dev-7", *block) == 1).expect("the pack has an end");
    assert_eq!(ask_block(&mut scene, "dev-7", last + 1), 0);
    scene.advance(60.0);
    reports(&mut scene);
    let published: usize = (0..600).map(|number| ask_block(&mut scene, &format!("dev-{number}"), last)).sum();
    assert_eq!(published, 500);
    let dropped = reports(&mut scene);
    let dropped = dropped.iter().filter(|report| matches!(report, BootstrapReport::StatusDropped { .. })).count();
    assert_eq!(dropped, 100);
    scene.advance(1.0);
    let published: usize = (0..60).map(|number| ask_block(&mut scene, &format!("dev-{number}"), last)).sum();
    assert_eq!(published, 50, "50 in each second");
}

#[test]
fn an_endpoint_name_that_is_no_level_of_a_topic_has_no_status() {
    let mut scene = settled(&[]);
    given(&mut scene, "a/b");
    scene.expect_nothing_more();
    publishes(&mut scene, "lwm2m-bootstrap/a/b/account", OWN_ACCOUNT);
    publishes(&mut scene, "elsewhere/a/account", OWN_ACCOUNT);
    assert!(!reports(&mut scene).iter().any(|report| matches!(report, BootstrapReport::AccountSet { .. })));
}

#[test]
fn a_client_whose_session_the_broker_has_closed_connects_again() {
    let mut scene = settled(&[]);
    scene.broker_says(BrokerEvent::Closed { registration: OWN, reason: CloseReason::Kicked });
    scene.advance(29.0);
    scene.expect_nothing_more();
    scene.advance(2.0);
    expect_client(&mut scene);
    scene.expect_nothing_more();
}

#[test]
fn before_all_accounts_have_come_a_device_gets_its_own_or_none() {
    let mut scene = connected();
    publishes(&mut scene, "lwm2m-bootstrap/dev-7/account", OWN_ACCOUNT);
    assert_eq!(given(&mut scene, "dev-7"), "coap://own.example.com");
    scene.forget_what_was_said();
    assert_eq!(code_for(&mut scene, "dev-8"), Code::SERVICE_UNAVAILABLE);
    // Retained messages come in batches; each postpones the end.
    scene.advance(4.0);
    scene.forget_what_was_said();
    publishes(&mut scene, "lwm2m-bootstrap/dev-9/account", OWN_ACCOUNT);
    scene.advance(4.0);
    scene.expect_nothing_more();
    assert_eq!(code_for(&mut scene, "dev-8"), Code::SERVICE_UNAVAILABLE);
    scene.forget_what_was_said();
    scene.advance(1.0);
    let ticket = expect_question(&mut scene, 2);
    assert_eq!(code_for(&mut scene, "dev-8"), Code::SERVICE_UNAVAILABLE, "the broker has not answered");
    scene.broker_says(BrokerEvent::Published { registration: OWN, ticket });
    assert_eq!(code_for(&mut scene, "dev-8"), Code::CHANGED);
}

#[test]
fn an_account_that_was_removed_while_the_client_was_away_is_removed_after_the_next_subscription() {
    let other = OWN_ACCOUNT.replace("own", "other");
    let mut scene = settled(&[
        ("lwm2m-bootstrap/dev-7/account", OWN_ACCOUNT),
        ("lwm2m-bootstrap/dev-8/account", OWN_ACCOUNT),
        ("lwm2m-bootstrap/dev-9/account", OWN_ACCOUNT),
    ]);
    scene.broker_says(BrokerEvent::Reconnected { registration: OWN });
    publishes(&mut scene, "lwm2m-bootstrap/dev-8/account", &other);
    // One that cannot be used leaves the former in force.
    publishes(&mut scene, "lwm2m-bootstrap/dev-9/account", "{}}");
    assert_eq!(given(&mut scene, "dev-7"), "coap://own.example.com", "it may still come");
    scene.forget_what_was_said();
    scene.advance(5.0);
    let ticket = expect_question(&mut scene, 3);
    reports(&mut scene);
    scene.broker_says(BrokerEvent::Published { registration: OWN, ticket });
    assert_eq!(reports(&mut scene), [BootstrapReport::AccountRemoved { endpoint: "dev-7".to_owned() }]);
    for (endpoint, uri) in [
        ("dev-7", "coap://gw.example.com:5683"),
        ("dev-8", "coap://other.example.com"),
        ("dev-9", "coap://own.example.com"),
    ] {
        assert_eq!(given(&mut scene, endpoint), uri);
        scene.forget_what_was_said();
    }
}

#[test]
fn a_connection_that_was_lost_meanwhile_removes_no_account() {
    let mut scene = settled(&[("lwm2m-bootstrap/dev-7/account", OWN_ACCOUNT)]);
    scene.broker_says(BrokerEvent::Reconnected { registration: OWN });
    scene.advance(5.0);
    let first = expect_question(&mut scene, 1);
    scene.broker_says(BrokerEvent::Reconnected { registration: OWN });
    scene.broker_says(BrokerEvent::Published { registration: OWN, ticket: first });
    publishes(&mut scene, "lwm2m-bootstrap/dev-7/account", OWN_ACCOUNT);
    scene.advance(5.0);
    let second = expect_question(&mut scene, 1);
    scene.broker_says(BrokerEvent::Unpublished { registration: OWN, ticket: second });
    scene.advance(5.0);
    let third = expect_question(&mut scene, 1);
    scene.broker_says(BrokerEvent::Published { registration: OWN, ticket: third });
    assert_eq!(given(&mut scene, "dev-7"), "coap://own.example.com");
}

/// Returns whether a device with a generated key is kept from plain UDP, and so whether the key holds.
fn key_holds(scene: &mut Scene, endpoint: &str) -> bool {
    let register = scene.register_message(&format!("ep={endpoint}&lt=300&lwm2m=1.1"));
    scene.device_sends(&register);
    let is_refused = match scene.next_said() {
        Some(Said::ToDevice(_, answer)) => answer.code == Code::FORBIDDEN,
        _ => false,
    };
    scene.forget_what_was_said();
    is_refused
}

#[test]
fn a_key_ends_when_its_published_account_is_removed_but_not_before_all_accounts_have_come() {
    let generating = generating(json!({ "delete": [] })).to_string().replace("\"match\":\"*\",", "");
    let topic = "lwm2m-bootstrap/dev-7/account";
    let mut scene = settled(&[(topic, &generating)]);
    begin(&mut scene, "ep=dev-7");
    obey_and_ignore(&mut scene);
    assert!(key_holds(&mut scene, "dev-7"));
    // After a lost connection the account may still come, whatever else changes.
    scene.broker_says(BrokerEvent::Reconnected { registration: OWN });
    scene.gateway.set_bootstrap_accounts(scene.now, accounts(json!([account(json!({}))])));
    assert!(key_holds(&mut scene, "dev-7"));
    scene.advance(5.0);
    let ticket = expect_question(&mut scene, 1);
    scene.broker_says(BrokerEvent::Published { registration: OWN, ticket });
    assert!(!key_holds(&mut scene, "dev-7"), "it is not retained any more");
    publishes(&mut scene, topic, &generating);
    assert!(key_holds(&mut scene, "dev-7"));
    publishes(&mut scene, topic, "");
    assert!(!key_holds(&mut scene, "dev-7"));
}

#[test]
fn keys_of_an_earlier_process_hold_until_all_accounts_have_come() {
    use lwm2m_core::bootstrap::secret::SecretBytes;
    use lwm2m_core::gateway::persistence::record::{GeneratedKeyRecord, KeyPairRecord};

    let mut scene = connected();
    let record = |name: &str| GeneratedKeyRecord {
        identity: lwm2m_base::identity::PskIdentity::new(name.as_bytes()).expect("an identity"),
        keys: Some(KeyPairRecord { key: SecretBytes::new([7; 16]), next: None }),
    };
    scene.gateway.restore_generated_keys(vec![record("dev-7"), record("dev-8")]);
    assert!(key_holds(&mut scene, "dev-7") && key_holds(&mut scene, "dev-8"));
    let generating = generating(json!({})).to_string().replace("\"match\":\"*\",", "");
    publishes(&mut scene, "lwm2m-bootstrap/dev-7/account", &generating);
    assert!(key_holds(&mut scene, "dev-7") && key_holds(&mut scene, "dev-8"));
    scene.advance(5.0);
    scene.reports();
    let ticket = expect_question(&mut scene, 1);
    scene.broker_says(BrokerEvent::Published { registration: OWN, ticket });
    assert!(key_holds(&mut scene, "dev-7") && !key_holds(&mut scene, "dev-8"));
}

fn obey_and_ignore(scene: &mut Scene) {
    for _ in 0..3 {
        let request = next_request(scene).expect("a request");
        scene.answer(&request, success(&request));
    }
    scene.forget_what_was_said();
}

#[test]
fn a_broker_that_refuses_the_question_has_answered_it() {
    let mut scene = connected();
    scene.advance(5.0);
    let ticket = expect_question(&mut scene, 0);
    scene.broker_says(BrokerEvent::Unpublished { registration: OWN, ticket });
    assert_eq!(code_for(&mut scene, "dev-7"), Code::SERVICE_UNAVAILABLE);
    let topic = "lwm2m-bootstrap/gateway/status".to_owned();
    scene.broker_says(BrokerEvent::PublishRefused { registration: OWN, topic });
    assert_eq!(code_for(&mut scene, "dev-7"), Code::CHANGED);
}

#[test]
fn without_mqtt_there_is_no_client() {
    let mut scene = scene(account(json!({})));
    scene.advance(60.0);
    scene.expect_nothing_more();
}
