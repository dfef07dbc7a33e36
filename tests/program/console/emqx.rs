//! The paths of EMQX's own LwM2M gateway in the console of the built program.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lwm2m_core::coap::Code;
use lwm2m_core::coap::options::{format, number};
use serde_json::{Value, json};

use super::devices::TestConsole;
use super::{Answer, exchange_with, wait_until};

const CLIENTS: &str = "/api/v5/gateways/lwm2m/clients";

/// Returns the names of a list, and its `meta`.
fn list(answer: &Answer) -> (Vec<String>, Value) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut list = answer.json();
    let names = list["data"].as_array().expect("a list").iter().map(|client| client["clientid"].as_str());
    (names.map(|name| name.expect("a name").to_owned()).collect(), list["meta"].take())
}

/// Returns the status and the code of an error in the form of EMQX.
fn error(answer: &Answer) -> (u16, String) {
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    (answer.status, answer.json()["code"].as_str().expect("a code").to_owned())
}

fn basic(name: &str, token: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{token}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_for_emqx_lists_devices_by_its_pages_and_filters() {
    let console = TestConsole::start().await;
    let _devices = ["b2", "a1", "b1"].map(|endpoint| console.register(endpoint, "&imei=86"));
    let _other = console.register("c:3", "");
    let ask = |query: &str| list(&console.ask(&format!("GET {CLIENTS}{query}")));

    let everything = json!({ "page": 1, "limit": 100, "count": 4, "hasnext": false });
    assert_eq!(ask(""), (["a1", "b1", "b2", "c:3"].map(str::to_owned).to_vec(), everything));
    let first = json!({ "page": 1, "limit": 2, "count": 4, "hasnext": true });
    assert_eq!(ask("?limit=2&page=1"), (["a1", "b1"].map(str::to_owned).to_vec(), first));
    let second = json!({ "page": 2, "limit": 2, "count": 4, "hasnext": false });
    assert_eq!(ask("?limit=2&page=2"), (["b2", "c:3"].map(str::to_owned).to_vec(), second));
    assert_eq!(ask("?page=9").0, [""; 0]);
    for (query, expected) in [
        ("?like_clientid=b", &["b1", "b2"][..]),
        ("?like_endpoint_name=2&like_clientid=b", &["b2"]),
        ("?clientid=b1", &["b1"]),
        ("?clientid=b1&endpoint_name=b2", &[]),
        ("?endpoint_name=b", &[]),
        ("?username=86", &["a1", "b1", "b2"]),
        ("?like_username=8&like_clientid=b&limit=1&page=2", &["b2"]),
        ("?ip_address=127.0.0.1&conn_state=connected&proto_ver=1.1", &["a1", "b1", "b2", "c:3"]),
        ("?ip_address=127.0.0.2", &[]),
        ("?conn_state=idle", &[]),
        ("?proto_ver=1.0", &[]),
        ("?gte_lifetime=301", &[]),
        ("?lte_lifetime=300&gte_lifetime=300&clientid=c:3", &["c:3"]),
        ("?lte_lifetime=299&clientid=c:3", &[]),
        ("?node=emqx@127.0.0.1&clean_start=true&gte_created_at=2999-01-01T00:00:00Z&clientid=a1", &["a1"]),
    ] {
        let (names, meta) = ask(query);
        assert_eq!(names, expected, "{query}");
        assert!(meta.get("count").is_none(), "{meta}");
    }
    for (query, code) in [
        ("?limit=0", "BAD_REQUEST"),
        ("?limit=10001", "BAD_REQUEST"),
        ("?page=0", "BAD_REQUEST"),
        ("?gte_lifetime=long", "BAD_REQUEST"),
        ("?ip_address=here", "BAD_REQUEST"),
        ("?limit=10000&page=11", "INVALID_PARAMETER"),
    ] {
        let answer = console.ask(&format!("GET {CLIENTS}{query}"));
        assert_eq!(error(&answer), (400, code.to_owned()), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_every_member_that_emqx_gives_it() {
    let console = TestConsole::start().await;
    let _device = console.register("c:3", "&imei=86");
    let mut client = console.ask(&format!("GET {CLIENTS}/c%3A3")).json();
    let listed = console.ask(&format!("GET {CLIENTS}")).json()["data"][0].take();
    assert_eq!(client, listed);
    let times = ["connected_at", "created_at"].map(|name| client[name].take());
    assert!(times.iter().all(|time| time.as_str().is_some_and(|time| time.ends_with("+00:00"))), "{times:?}");
    assert!(client["port"].take().as_u64().is_some_and(|port| port > 0));
    let expected = json!({
        "node": "lwm2m-gateway", "clientid": "c:3", "endpoint_name": "c:3", "username": "86",
        "mountpoint": "lwm2m/c:3/", "proto_name": "LwM2M", "proto_ver": "1.1", "ip_address": "127.0.0.1", "port": null,
        "is_bridge": false, "connected": true, "connected_at": null, "disconnected_at": null, "created_at": null,
        "lifetime": 300, "keepalive": 300, "clean_start": true, "expiry_interval": 0,
        "subscriptions_cnt": 1, "subscriptions_max": "infinity", "inflight_cnt": 0, "inflight_max": "infinity",
        "mqueue_len": 0, "mqueue_max": "infinity", "mqueue_dropped": 0,
        "awaiting_rel_cnt": 0, "awaiting_rel_max": "infinity",
        "recv_oct": 0, "recv_cnt": 0, "recv_pkt": 0, "recv_msg": 0,
        "send_oct": 0, "send_cnt": 0, "send_pkt": 0, "send_msg": 0,
        "mailbox_len": 0, "heap_size": 0, "reductions": 0
    });
    assert_eq!(client, expected);
    let answer = console.ask(&format!("GET {CLIENTS}/c"));
    assert_eq!(answer.json(), json!({ "code": "RESOURCE_NOT_FOUND", "message": "Client not found" }));
    assert_eq!(answer.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_kicks_a_client_and_a_viewer_does_not() {
    let console = TestConsole::start().await;
    let device = console.register("b1", "");
    let line = format!("DELETE {CLIENTS}/b1");
    for token in [&console.viewer, &console.limited] {
        assert_eq!(error(&console.ask_with(token, &line)), (403, "UNAUTHORIZED_ROLE".to_owned()));
    }
    assert_eq!(console.ask(&line).status, 204);
    assert_eq!(error(&console.ask(&line)), (404, "RESOURCE_NOT_FOUND".to_owned()));
    assert_eq!(device.deregister().code, Code::NOT_FOUND);
    let audit = console.ask("GET /api/v1/audit").json();
    assert_eq!((&audit["entries"][1]["action"], &audit["entries"][1]["result"]), (&json!("kick"), &json!("done")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_an_api_key_for_the_paths_of_emqx_and_for_no_others() {
    let console = TestConsole::start().await;
    let line = format!("GET {CLIENTS}");
    let ask = |line: &str, authorization: &str| console.send(line, &[("Authorization", authorization)]);
    let key = basic("viewer", &console.viewer);
    assert_eq!(ask(&line, &key).status, 200);
    assert_eq!(ask(&line, &format!("Bearer {}", console.viewer)).status, 200);
    for wrong in [&basic("limited", &console.viewer), &basic("viewer", "lgw_wrong"), "Basic %%", "Basic dmlld2Vy"] {
        let answer = ask(&line, wrong);
        assert_eq!(error(&answer), (401, "BAD_API_KEY_OR_SECRET".to_owned()), "{wrong}");
        // A browser would ask for a password.
        assert!(answer.head.contains("www-authenticate: Bearer\r\n"), "{}", answer.head);
    }
    assert_eq!(ask("GET /api/v1/session", &key).problem(), (401, "not-authenticated".to_owned()));

    for header in [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
        let answer = console.send(&line, &[("Authorization", &key), header]);
        assert_eq!(answer.status, 403, "{header:?}");
    }
    assert_eq!(error(&console.ask("GET /api/v5/gateways")), (404, "NOT_FOUND".to_owned()));
    assert_eq!(error(&console.ask(&format!("POST {CLIENTS}"))), (405, "METHOD_NOT_ALLOWED".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_given_without_a_body_and_its_answer_is_looked_up_later() {
    let console = TestConsole::start().await;
    let device = console.register("b1", "");
    let base = format!("{CLIENTS}/b1");
    let lookup =
        |action: &str, path: &str| console.ask(&format!("GET {base}/lookup?action={action}&path={path}")).json();
    let nothing = json!({ "clientid": "b1", "action": "read", "path": "/3/0/0", "code": "6.01",
        "codeMsg": "reply_not_received" });
    assert_eq!(lookup("read", "/3/0/0"), nothing);

    assert_eq!(console.ask(&format!("POST {base}/read?path=/3/0/0")).status, 204);
    let read = device.expect_request(Code::GET, "/3/0/0");
    assert_eq!(lookup("read", "/3/0/0"), nothing);
    device.answer_text(&read, "Acme");
    let answered = json!({ "clientid": "b1", "action": "read", "path": "/3/0/0", "code": "2.05", "codeMsg": "content",
        "content": [{ "path": "/3/0/0", "value": "Acme" }] });
    wait_until(|| lookup("read", "/3/0/0") == answered);
    assert_eq!(lookup("read", "/3/0/1")["code"], "6.01");

    assert_eq!(console.ask(&format!("POST {base}/write?path=/1/0/1&type=Integer&value=250")).status, 204);
    let write = device.expect_request(Code::PUT, "/1/0/1");
    device.answer(&write, Code::CHANGED, None);
    let written =
        json!({ "clientid": "b1", "action": "write", "path": "/1/0/1", "code": "2.04", "codeMsg": "changed" });
    wait_until(|| lookup("write", "/1/0/1") == written);

    // What another resource of the API asks is looked up as well.
    let body = r#"{"msgType":"discover","data":{"path":"/3/0"}}"#;
    let length = body.len().to_string();
    let headers = [("Content-Type", "application/json"), ("Content-Length", length.as_str())];
    let line = "POST /api/v1/devices/b1/commands";
    let sent = exchange_with(console.connect(), "localhost", line, &headers, body.as_bytes());
    assert_eq!(sent.status, 202, "{}", sent.body);
    let discover = device.expect_request(Code::GET, "/3/0");
    device.answer(&discover, Code::CONTENT, Some((format::LINK_FORMAT, b"</3/0>,</3/0/0>;pmin=5,</3/0/4>,</3/0/999>")));
    wait_until(|| lookup("discover", "/3/0")["code"] == "2.05");
    let resources = json!([
        { "path": "/3/0/0", "name": "Manufacturer", "operations": "R", "dataType": "String" },
        { "path": "/3/0/4", "name": "Reboot", "operations": "E" },
        { "path": "/3/0/999" },
    ]);
    assert_eq!(lookup("discover", "/3/0")["content"], resources);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observation_is_begun_and_ended_and_errors_have_the_form_of_emqx() {
    let console = TestConsole::start().await;
    let device = console.register("b1", "");
    let base = format!("{CLIENTS}/b1");
    assert_eq!(console.ask(&format!("POST {base}/observe?path=/3/0/9&enable=true")).status, 204);
    let observe = device.expect_request(Code::GET, "/3/0/9");
    assert_eq!(observe.options.first(number::OBSERVE), Some(&[][..]));
    device.answer_observe(&observe, "90");
    let path = |list: &Value| list["observed"][0]["path"].clone();
    wait_until(|| path(&console.ask("GET /api/v1/devices/b1").json()) == "/3/0/9");
    assert_eq!(console.ask(&format!("POST {base}/observe?path=/3/0/9&enable=false")).status, 204);
    let cancel = device.expect_request(Code::GET, "/3/0/9");
    assert_eq!(cancel.options.first(number::OBSERVE), Some(&[1][..]));
    device.answer_text(&cancel, "90");

    for (path, expected) in [
        ("b1/read", (400, "BAD_REQUEST")),
        ("b1/read?path=3/x", (400, "BAD_REQUEST")),
        ("b1/write?path=/1/0/1&type=Integer&value=many", (400, "BAD_REQUEST")),
        ("b1/write?path=/1/0/1&type=Integer", (400, "BAD_REQUEST")),
        ("nobody/read?path=/3/0/0", (404, "CLIENT_NOT_FOUND")),
        ("nobody/observe?path=/3/0/0&enable=1", (404, "CLIENT_NOT_FOUND")),
    ] {
        let answer = console.ask(&format!("POST {CLIENTS}/{path}"));
        assert_eq!(error(&answer), (expected.0, expected.1.to_owned()), "{path}");
    }
    let missing = console.ask(&format!("GET {CLIENTS}/nobody/lookup?path=/3/0/0&action=read"));
    assert_eq!((missing.status, missing.json()), (404, json!({ "code": "CLIENT_NOT_FOUND" })));
    assert_eq!(error(&console.ask(&format!("GET {base}/lookup?path=/3/0/0"))), (400, "BAD_REQUEST".to_owned()));
    let viewer = console.ask_with(&console.viewer, &format!("POST {base}/read?path=/3/0/0"));
    assert_eq!(error(&viewer), (403, "UNAUTHORIZED_ROLE".to_owned()));
}
