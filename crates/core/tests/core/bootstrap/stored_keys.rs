//! Generated keys and the store: a key leaves for a device when the store has it. Generated keys and the accounts: a
//! key ends when no account generates it any more.

use lwm2m_base::identity::PskIdentity;
use lwm2m_core::gateway::persistence::record::Change;

use super::secured::{APART, BOOTSTRAP_KEY, Client, KEY, Left, Secured};
use super::*;

const REGISTER: &str = "ep=dev-7&lt=300&lwm2m=1.1";

/// A gateway whose bootstrap client is connected.
fn connected(account: Value) -> (Secured, Client) {
    let mut secured = Secured::new(&APART, account).with_bootstrap_identity("dev-7");
    let bootstrap = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    (secured, bootstrap)
}

fn identity() -> PskIdentity {
    PskIdentity::new(b"dev-7").expect("an identity")
}

fn has_key(changes: &[Change]) -> bool {
    changes.iter().any(|change| matches!(change, Change::GeneratedKey(record) if record.keys.is_some()))
}

#[test]
fn nothing_is_deleted_or_written_before_the_store_has_the_generated_key() {
    for discover in [true, false] {
        let (mut secured, mut bootstrap) = connected(generating(json!({ "discover": discover })));
        secured.is_disk_working = false;
        assert_eq!(secured.post(&mut bootstrap, "bs", "ep=dev-7"), Code::CHANGED);
        if discover {
            let request = secured.receive(&mut bootstrap).expect("the Discover");
            let mut answer = Message { kind: Kind::Acknowledgement, code: Code::CONTENT, ..reply(&request) };
            answer.payload = DISCOVERED.as_bytes().to_vec();
            bootstrap.dtls.send(&answer.encode());
            secured.exchange(&mut bootstrap);
        }
        assert_eq!(secured.receive(&mut bootstrap), None, "the key is in no store");
        assert!(secured.gateway.has_urgent_changes());

        // The store has taken it, and was not heard of since.
        let batch = secured.gateway.take_batch(secured.now, 1);
        assert!(has_key(&batch.changes), "a device waits for it: it comes before all others");
        secured.exchange(&mut bootstrap);
        assert_eq!(secured.receive(&mut bootstrap), None);
        secured.gateway.handle_stored(secured.now, batch.version);
        secured.exchange(&mut bootstrap);
        let delete = secured.receive(&mut bootstrap).expect("the next request");
        assert_eq!((delete.code, path_of(&delete)), (Code::DELETE, "/0".to_owned()));
    }
}

#[test]
fn a_session_fails_if_the_store_does_not_keep_the_key() {
    let (mut secured, mut bootstrap) = connected(generating(json!({ "discover": false })));
    secured.is_disk_working = false;
    assert_eq!(secured.post(&mut bootstrap, "bs", "ep=dev-7"), Code::CHANGED);
    secured.reports.clear();
    secured.now += std::time::Duration::from_secs(241);
    secured.gateway.handle_timeout(secured.now);
    secured.exchange(&mut bootstrap);
    let failed = secured.reports.iter().find_map(|report| match report {
        Report::Bootstrap(BootstrapReport::Failed { step, reason, .. }) => Some((step.to_string(), reason.clone())),
        _ => None,
    });
    let (step, reason) = failed.expect("the session has failed");
    assert_eq!((step.as_str(), reason.as_str()), ("DELETE /0", "the store has not written the generated key"));
    assert_eq!(secured.gateway.table_sizes().bootstrap_sessions, 0);
}

#[test]
fn a_second_request_while_a_session_waits_for_the_store_waits_too() {
    let (mut secured, mut bootstrap) = connected(generating(json!({ "discover": false })));
    secured.is_disk_working = false;
    for _ in 0..2 {
        assert_eq!(secured.post(&mut bootstrap, "bs", "ep=dev-7"), Code::CHANGED);
        assert_eq!(secured.receive(&mut bootstrap), None);
    }
    secured.store();
    secured.exchange(&mut bootstrap);
    let delete = secured.receive(&mut bootstrap).expect("the request of the second session");
    assert_eq!(path_of(&delete), "/0");
    assert_eq!(secured.receive(&mut bootstrap), None, "the first session has ended");
    assert_eq!(secured.gateway.table_sizes().bootstrap_sessions, 1);
}

#[test]
fn a_pack_is_sent_when_the_store_has_its_key() {
    let ask = |secured: &mut Secured, client: &mut Client| {
        let mut pack = secured.request(Code::GET, "bspack", "ep=dev-7");
        pack.options.add_uint(number::ACCEPT, 112);
        client.dtls.send(&pack.encode());
        secured.exchange(client);
        secured.receive(client)
    };
    let (mut secured, mut bootstrap) = connected(generating(json!({})));
    secured.is_disk_working = false;
    assert_eq!(ask(&mut secured, &mut bootstrap), None);
    secured.store();
    secured.exchange(&mut bootstrap);
    let pack = secured.receive(&mut bootstrap).expect("the pack");
    assert_eq!(pack.code, Code::CONTENT);
    assert_eq!(ask(&mut secured, &mut bootstrap).expect("the store has the key").payload, pack.payload);

    let (mut secured, mut bootstrap) = connected(generating(json!({})));
    secured.is_disk_working = false;
    assert_eq!(ask(&mut secured, &mut bootstrap), None);
    secured.now += std::time::Duration::from_secs(31);
    secured.gateway.handle_timeout(secured.now);
    secured.exchange(&mut bootstrap);
    let refused = std::iter::from_fn(|| secured.receive(&mut bootstrap)).last().expect("an answer");
    assert_eq!(refused.code, Code::SERVICE_UNAVAILABLE);
    assert_eq!(refused.options.uint(number::MAX_AGE), Ok(Some(30)), "the device may ask again then");
}

/// The process is killed: only what the store has confirmed is left.
#[test]
fn a_key_that_a_device_has_holds_after_a_crash() {
    let (mut secured, mut bootstrap) = connected(generating(json!({})));
    let key = secured.bootstrap(&mut bootstrap, "ep=dev-7");
    let stored = std::mem::take(&mut secured.stored);
    assert!(has_key(&stored));
    let mut keys = Vec::new();
    for change in stored {
        if let Change::GeneratedKey(record) = change {
            keys.push(record);
        }
    }
    let left = Left { keys, ..Left::default() };
    let mut restarted = Secured::begin(secured.now, &APART, generating(json!({})), left);
    let mut registered = restarted.connect(1, "dev-7", &key).expect("the key holds");
    assert_eq!(restarted.post(&mut registered, "rd", REGISTER), Code::CREATED);
}

#[test]
fn a_key_ends_when_its_account_generates_none_any_more_and_the_file_of_keys_holds_again() {
    let fixed = |secret: &str| {
        let server = json!({
            "short_server_id": 101, "uri": "coaps://gw.example.com", "security": "psk",
            "identity": "${endpoint_name}", "secret": secret,
        });
        account(json!({ "server": [server] }))
    };
    let other_match = generating(json!({ "match": "other-*" }));
    for (changed, ends) in [
        (json!([account(json!({}))]), true),
        (json!([fixed("hex:706c616e746564")]), true),
        (json!([other_match]), true),
        (json!([]), true),
        // The first account that matches counts.
        (json!([account(json!({ "match": "dev-*" })), generating(json!({}))]), true),
        (json!([other_match, generating(json!({ "verify": true }))]), false),
    ] {
        let (mut secured, mut bootstrap) = connected(generating(json!({})));
        let key = secured.bootstrap(&mut bootstrap, "ep=dev-7");
        let mut registered = secured.connect(1, "dev-7", &key).expect("the key holds");
        assert_eq!(secured.post(&mut registered, "rd", REGISTER), Code::CREATED);
        let mut secured = secured.with_identity("dev-7");
        secured.gateway.set_bootstrap_accounts(secured.now, accounts(changed.clone()));
        secured.exchange(&mut registered);
        let associations = secured.gateway.associations().associations;
        assert_eq!(associations, if ends { 1 } else { 2 }, "{changed}: that for bootstrap stays");
        assert_eq!(secured.connect(1, "dev-7", &key).is_none(), ends, "{changed}");
        assert_eq!(secured.connect(1, "dev-7", KEY).is_some(), ends, "{changed}");
    }
}

#[test]
fn a_mistake_in_the_accounts_can_be_corrected_within_an_hour() {
    for (hours, is_kept) in [(0.9, true), (1.1, false)] {
        let (mut secured, mut bootstrap) = connected(generating(json!({})));
        let key = secured.bootstrap(&mut bootstrap, "ep=dev-7");
        secured.gateway.set_bootstrap_accounts(secured.now, Vec::new());
        assert!(secured.connect(1, "dev-7", &key).is_none());
        secured.now += std::time::Duration::from_secs_f64(hours * 3600.0);
        secured.gateway.handle_timeout(secured.now);
        secured.store();
        assert_eq!(secured.gateway.table_sizes().generated_keys, usize::from(is_kept));
        secured.gateway.set_bootstrap_accounts(secured.now, accounts(json!([generating(json!({}))])));
        assert_eq!(secured.connect(1, "dev-7", &key).is_some(), is_kept);
        let keys = Left::by(&mut secured).keys;
        assert_eq!(keys.iter().any(|record| record.keys.is_some()), is_kept);
    }
}

#[test]
fn an_operator_removes_a_key_and_the_next_bootstrap_generates_another_one() {
    let (mut secured, mut bootstrap) = connected(generating(json!({})));
    let key = secured.bootstrap(&mut bootstrap, "ep=dev-7");
    let mut registered = secured.connect(1, "dev-7", &key).expect("the key holds");
    assert_eq!(secured.post(&mut registered, "rd", REGISTER), Code::CREATED);
    assert!(secured.gateway.remove_generated_key(secured.now, &identity()));
    assert!(!secured.gateway.remove_generated_key(secured.now, &identity()));
    secured.exchange(&mut registered);
    assert_eq!(secured.gateway.associations().associations, 1, "that for bootstrap stays");
    assert!(secured.connect(1, "dev-7", &key).is_none());
    let next = secured.bootstrap(&mut bootstrap, "ep=dev-7");
    assert_ne!(next, key);
    assert!(secured.connect(1, "dev-7", &next).is_some());
}

#[test]
fn an_account_that_changes_before_the_device_answers_the_discover_generates_no_key() {
    let (mut secured, mut bootstrap) = connected(generating(json!({})));
    for (changed, next) in [(vec![generating(json!({}))], Some("/0")), (Vec::new(), None)] {
        assert_eq!(secured.post(&mut bootstrap, "bs", "ep=dev-7"), Code::CHANGED);
        let request = secured.receive(&mut bootstrap).expect("the Discover");
        secured.gateway.set_bootstrap_accounts(secured.now, accounts(json!(changed)));
        let mut answer = Message { kind: Kind::Acknowledgement, code: Code::CONTENT, ..reply(&request) };
        answer.payload = DISCOVERED.as_bytes().to_vec();
        bootstrap.dtls.send(&answer.encode());
        secured.exchange(&mut bootstrap);
        secured.store();
        secured.exchange(&mut bootstrap);
        let request = secured.receive(&mut bootstrap);
        assert_eq!(request.as_ref().map(path_of).as_deref(), next, "the same account was read again, or none");
    }
    assert_eq!(secured.gateway.table_sizes().bootstrap_sessions, 0);
}

#[test]
fn a_session_that_writes_a_key_ends_with_the_key() {
    let (mut secured, mut bootstrap) = connected(generating(json!({ "discover": false })));
    assert_eq!(secured.post(&mut bootstrap, "bs", "ep=dev-7"), Code::CHANGED);
    secured.receive(&mut bootstrap).expect("the first request");
    assert!(secured.gateway.remove_generated_key(secured.now, &identity()));
    assert_eq!(secured.gateway.table_sizes().bootstrap_sessions, 0);
}

#[test]
fn keys_of_an_earlier_process_that_no_account_generates_do_not_hold_after_the_start() {
    let (mut secured, mut bootstrap) = connected(generating(json!({})));
    let key = secured.bootstrap(&mut bootstrap, "ep=dev-7");
    secured.connect(1, "dev-7", &key).expect("the key holds");
    let left = Left::by(&mut secured);
    let mut restarted = Secured::begin(secured.now, &APART, account(json!({})), left);
    assert_eq!(restarted.gateway.associations().associations, 1, "that for bootstrap stays");
    assert!(restarted.connect(1, "dev-7", &key).is_none());
}
