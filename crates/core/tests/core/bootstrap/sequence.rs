//! What is asked of a device in a session, in which order and in which bytes.

use lwm2m_core::coap::Kind;
use lwm2m_core::gateway::Gateway;
use lwm2m_testkit::store::MemoryStore;

use super::*;

#[test]
fn a_session_discovers_deletes_writes_and_finishes() {
    let mut scene = scene(account(json!({})));
    begin(&mut scene, "ep=dev-7");
    let requests = obey(&mut scene);
    let expected = ["0.04 /0", "0.04 /1", "0.03 /0/1", "0.03 /1/0", "0.02 /bs"];
    assert_eq!(lines(&requests), expected);
    assert!(requests.iter().all(|request| request.kind == Kind::Confirmable));

    let (security, server, finish) = (&requests[2], &requests[3], &requests[4]);
    assert_eq!(security.options.uint(number::CONTENT_FORMAT), Ok(Some(11542)));
    let uri = b"\xc8\x00\x1acoap://gw.example.com:5683";
    assert_eq!(security.payload, [&uri[..], b"\xc1\x01\x00\xc1\x02\x03\xc0\x03\xc0\x04\xc0\x05\xc1\x0a\x65"].concat());
    assert_eq!(server.payload, b"\xc1\x00\x65\xc2\x01\x0e\x10\xc1\x06\x01\xc1\x07U");
    assert!(finish.payload.is_empty());

    let reports = reports(&mut scene);
    assert!(matches!(&reports[0], BootstrapReport::Started { endpoint, .. } if endpoint == "dev-7"), "{reports:?}");
    assert!(
        matches!(&reports[1..], [BootstrapReport::Finished { endpoint, .. }] if endpoint == "dev-7"),
        "{reports:?}"
    );
    scene.expect_nothing_left_behind();
    assert_eq!(scene.gateway.table_sizes().bootstrap_sessions, 0);
}

#[test]
fn the_device_chooses_the_format_before_the_account_does() {
    let written = |members, query: &str| {
        let mut scene = scene(account(members));
        begin(&mut scene, query);
        let requests = obey(&mut scene);
        let security = requests.into_iter().find(|request| path_of(request) == "/0/1").expect("the object 0");
        (security.options.uint(number::CONTENT_FORMAT).unwrap().unwrap(), security.payload)
    };
    assert_eq!(written(json!({}), "ep=dev-7").0, 11542);
    assert_eq!(written(json!({ "format": "senml-json" }), "ep=dev-7").0, 110);
    assert_eq!(written(json!({ "format": "senml-json" }), "ep=dev-7&pct=11544").0, 11544);
    assert_eq!(written(json!({ "format": "senml-json" }), "ep=dev-7&pct=11542").0, 11542);

    let (_, json) = written(json!({}), "ep=dev-7&pct=110");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    let expected = json!([
        { "bn": "/0/1/", "n": "0", "vs": "coap://gw.example.com:5683" },
        { "n": "1", "vb": false }, { "n": "2", "v": 3 }, { "n": "3", "vd": "" }, { "n": "4", "vd": "" },
        { "n": "5", "vd": "" }, { "n": "10", "v": 101 },
    ]);
    assert_eq!(json, expected);
    let (number, cbor) = written(json!({}), "ep=dev-7&pct=112");
    assert_eq!((number, &cbor[..11]), (112, &b"\x87\xa3\x21\x65/0/1/\x00\x61"[..]));
}

#[test]
fn a_server_is_written_to_the_lowest_instance_that_is_not_the_bootstrap_account() {
    let server = |id, instance: Option<u16>| {
        let mut server = json!({ "short_server_id": id, "uri": "coap://gw" });
        server
            .as_object_mut()
            .unwrap()
            .extend(instance.map(|instance| ("security_instance".to_owned(), instance.into())));
        server
    };
    let written = |servers: Value, links: &str| {
        let mut scene = scene(account(json!({ "server": servers })));
        ask(&mut scene, "ep=dev-7");
        let discover = scene.expect_request(Code::GET, "");
        answer_links(&mut scene, &discover, links);
        let requests = lines(&obey(&mut scene));
        requests.iter().filter_map(|line| line.strip_prefix("0.03 ").map(str::to_owned)).collect::<Vec<_>>()
    };
    let two = json!([server(1, None), server(2, None)]);
    assert_eq!(written(two.clone(), DISCOVERED), ["/0/1", "/1/0", "/0/2", "/1/1"]);
    assert_eq!(written(two.clone(), "</0/0>;ssid=1,</0/1>"), ["/0/0", "/1/0", "/0/2", "/1/1"]);
    assert_eq!(written(two, "lwm2m=\"1.0\",</0/5>,</1>"), ["/0/0", "/1/0", "/0/1", "/1/1"]);
    let fixed = json!([server(1, None), server(2, Some(1))]);
    assert_eq!(written(fixed, DISCOVERED), ["/0/2", "/1/0", "/0/1", "/1/1"]);
}

#[test]
fn a_fixed_instance_does_not_take_the_place_of_the_bootstrap_account() {
    let server = json!({ "short_server_id": 1, "uri": "coap://gw", "security_instance": 0 });
    let mut scene = scene(account(json!({ "server": [server] })));
    begin(&mut scene, "ep=dev-7");
    assert_eq!(failure(&mut scene).0, "GET /");
    scene.expect_nothing_more();
}

#[test]
fn a_device_without_discover_has_its_bootstrap_account_at_0() {
    for code in [Code::NOT_FOUND, Code::METHOD_NOT_ALLOWED, Code::NOT_IMPLEMENTED] {
        let mut scene = scene(account(json!({})));
        ask(&mut scene, "ep=dev-7");
        let discover = scene.expect_request(Code::GET, "");
        scene.answer(&discover, code);
        assert_eq!(lines(&obey(&mut scene))[2], "0.03 /0/1");
    }
}

#[test]
fn what_is_not_there_need_not_be_deleted() {
    let mut scene = scene(account(json!({ "delete": ["/"] })));
    begin(&mut scene, "ep=dev-7");
    let delete = scene.expect_request(Code::DELETE, "");
    scene.answer(&delete, Code::NOT_FOUND);
    assert_eq!(lines(&obey(&mut scene)), ["0.03 /0/1", "0.03 /1/0", "0.02 /bs"]);
}

#[test]
fn resources_of_lwm2m_1_1_are_written_to_devices_that_have_them() {
    let server = json!({ "short_server_id": 101, "uri": "coap://gw", "mute_send": true, "retry_count": 3 });
    let written = |query: &str, links: &str| {
        let mut scene = scene(account(json!({ "server": [server] })));
        ask(&mut scene, query);
        let discover = scene.expect_request(Code::GET, "");
        answer_links(&mut scene, &discover, links);
        let requests = obey(&mut scene);
        let written = requests.into_iter().find(|request| path_of(request) == "/1/0").expect("the object 1");
        written.payload.ends_with(b"\xc1\x11\x03\xc1\x17\x01") || written.payload.windows(2).any(|pair| pair == b"23")
    };
    assert!(written("ep=dev-7", DISCOVERED));
    assert!(written("ep=dev-7&pct=110", "lwm2m=\"1.0\",</0/0>"));
    assert!(!written("ep=dev-7", "lwm2m=\"1.0\",</0/0>"));
}

/// The tables of OMA LwM2M Core 1.1 appendix E.1 and E.2: which member of an account is which resource.
#[test]
fn each_member_of_a_server_is_written_to_its_resource() {
    let written = |server: Value| {
        let mut scene = scene(account(json!({ "server": [server], "allow_plaintext": true })));
        begin(&mut scene, "ep=dev-7&pct=110");
        let requests = obey(&mut scene);
        ["/0/1", "/1/0"].map(|path| {
            let request = requests.iter().find(|request| path_of(request) == path).expect("the instance");
            let records: Value = serde_json::from_slice(&request.payload).expect("JSON");
            let records = records.as_array().expect("records").iter();
            let resource = |record: &Value| {
                let value = ["v", "vs", "vb", "vd"].iter().find_map(|member| record.get(member)).expect("a value");
                (record["n"].as_str().expect("a name").to_owned(), value.clone())
            };
            Value::Object(records.map(resource).collect())
        })
    };
    let keys = json!({ "certificate": "hex:01", "server_certificate": "hex:02", "secret": "hex:03" });
    // The bytes 1, 2 and 3 in base64url.
    let written_keys = json!({ "3": "AQ", "4": "Ag", "5": "Aw" });
    let psk = json!({ "identity": "id-of-${endpoint_name}", "secret": "hex:03" });
    let written_psk = json!({ "3": "aWQtb2YtZGV2LTc", "4": "", "5": "Aw" });
    let modes = [("psk", 0, &psk, &written_psk), ("rpk", 1, &keys, &written_keys), ("x509", 2, &keys, &written_keys)];
    for (security, mode, members, expected) in modes {
        let mut server = json!({
            "short_server_id": 101, "uri": "coaps://gw", "security": security, "hold_off": "7s",
            "account_timeout": "1m",
        });
        merge(&mut server, members);
        let mut security = json!({ "0": "coaps://gw", "1": false, "2": mode, "10": 101, "11": 7, "12": 60 });
        merge(&mut security, expected);
        assert_eq!(written(server)[0], security);
    }

    let [_, server] = written(json!({
        "short_server_id": 101, "uri": "coap://gw", "lifetime": "1h", "binding": "UQ", "pmin": "2s", "pmax": "1m",
        "disable_timeout": "5m", "store_notifications": false, "registration_priority": 1, "registration_delay": "3s",
        "registration_failure_block": true, "bootstrap_on_registration_failure": false, "retry_count": 4,
        "retry_timer": "6s", "sequence_delay": "8s", "sequence_retry_count": 9, "mute_send": true,
    }));
    let expected = json!({
        "0": 101, "1": 3600, "2": 2, "3": 60, "5": 300, "6": false, "7": "UQ", "13": 1, "14": 3, "15": true, "16": false,
        "17": 4, "18": 6, "19": 8, "20": 9, "23": true,
    });
    assert_eq!(server, expected);
}

fn merge(object: &mut Value, members: &Value) {
    let members = members.as_object().expect("an object").clone();
    object.as_object_mut().expect("an object").extend(members);
}

#[test]
fn further_objects_are_written_behind_the_servers() {
    let object = json!({ "path": "/2/0", "resources": { "0": 3, "1": 0, "2": { "101": 15 }, "3": 65535 } });
    let mut scene = scene(account(json!({ "object": [object] })));
    begin(&mut scene, "ep=dev-7");
    let requests = obey(&mut scene);
    assert_eq!(lines(&requests)[4..], ["0.03 /2/0", "0.02 /bs"]);
    assert_eq!(requests[4].payload, b"\xc1\x00\x03\xc1\x01\x00\x83\x02\x41\x65\x0f\xc4\x03\x00\x00\xff\xff");
}

#[test]
fn verify_reads_the_servers_back_and_reports_what_differs() {
    let mut scene = scene(account(json!({ "verify": true })));
    for (payload, expected) in [
        (&b"\x08\x00\x0d\xc1\x00\x65\xc2\x01\x0e\x10\xc1\x06\x01\xc1\x07U"[..], None),
        (
            &b"\x08\x00\x0d\xc1\x00\x65\xc2\x01\x0e\x11\xc1\x06\x01\xc1\x07U"[..],
            Some("/1/0/1 has another value or none"),
        ),
    ] {
        begin(&mut scene, "ep=dev-7");
        for _ in 0..4 {
            let request = next_request(&mut scene).expect("a request");
            scene.answer(&request, success(&request));
        }
        let verify = scene.expect_request(Code::GET, "/1");
        assert_eq!(verify.options.uint(number::ACCEPT), Ok(Some(11542)));
        let mut answer = Message { kind: Kind::Acknowledgement, code: Code::CONTENT, ..reply(&verify) };
        answer.options.add_uint(number::CONTENT_FORMAT, 11542);
        answer.payload = payload.to_vec();
        scene.device_sends(&answer);
        let finish = scene.expect_request(Code::POST, "/bs");
        scene.answer(&finish, Code::CHANGED);
        let differs = reports(&mut scene).into_iter().find_map(|report| match report {
            BootstrapReport::Differs { reason, .. } => Some(reason),
            _ => None,
        });
        assert_eq!(differs.as_deref(), expected);
    }
}

#[test]
fn a_device_that_cannot_be_read_is_no_error() {
    let mut scene = scene(account(json!({ "verify": true })));
    begin(&mut scene, "ep=dev-7");
    for _ in 0..4 {
        let request = next_request(&mut scene).expect("a request");
        scene.answer(&request, success(&request));
    }
    let verify = scene.expect_request(Code::GET, "/1");
    scene.answer(&verify, Code::METHOD_NOT_ALLOWED);
    let finish = scene.expect_request(Code::POST, "/bs");
    scene.answer(&finish, Code::CHANGED);
    assert!(matches!(reports(&mut scene).last(), Some(BootstrapReport::Finished { .. })));
}

#[test]
fn a_generated_key_is_given_again_and_survives_a_restart() {
    let bootstrap = |scene: &mut Scene, store: &mut MemoryStore, endpoint: &str| {
        begin(scene, &format!("ep={endpoint}"));
        store_urgent(scene, store);
        let requests = obey(scene);
        let security = requests.into_iter().find(|request| path_of(request) == "/0/1").expect("the object 0");
        let key = security.payload.windows(3).position(|part| part == b"\xc8\x05\x10").expect("a key of 16 bytes");
        security.payload[key + 3..key + 19].to_vec()
    };
    let mut scene = scene(generating(json!({})));
    scene.gateway.restore(scene.now, Vec::new());
    let mut store = MemoryStore::default();
    let first = bootstrap(&mut scene, &mut store, "dev-7");
    assert_eq!(bootstrap(&mut scene, &mut store, "dev-7"), first);
    assert_ne!(bootstrap(&mut scene, &mut store, "dev-8"), first);
    assert_eq!(scene.gateway.table_sizes().generated_keys, 2);

    let shown = format!("{store:?} {:?}", reports(&mut scene));
    assert!(store.generated_keys.contains_key("dev-7") && shown.contains("SecretBytes(..)"), "{shown}");
    let config = GatewayConfig { bootstrap: Some(BootstrapConfig::default()), ..GatewayConfig::default() };
    let unix_time = std::time::Duration::from_secs(1_700_000_000);
    let mut restarted = scene_with(generating(json!({})), |_| {});
    restarted.gateway = Gateway::new(config, model(), [9; 32], restarted.now, unix_time);
    store.restore(&mut restarted.gateway, restarted.now);
    restarted.gateway.set_bootstrap_accounts(restarted.now, accounts(json!([generating(json!({}))])));
    assert_eq!(bootstrap(&mut restarted, &mut store, "dev-7"), first);
}

/// Lets the store write what somebody waits for.
fn store_urgent(scene: &mut Scene, store: &mut MemoryStore) {
    if scene.gateway.has_urgent_changes() {
        let batch = scene.gateway.take_batch(scene.now, 100);
        store.keep(batch.changes);
        scene.gateway.handle_stored(scene.now, batch.version);
        scene.settle();
    }
}
