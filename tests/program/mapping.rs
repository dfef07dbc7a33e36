//! What an application and a device see of the built program: every row of the mapping between LwM2M and MQTT.

use std::time::Duration;

use crate::common::application::{answer, content, done};
use crate::common::device::{Device, fresh_id, path_of, request};
use crate::common::scene::{LINKS, ProgramScene};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId};
use serde_json::{Value, json};

/// Long enough for everything that the gateway does at once.
const A_MOMENT: Duration = Duration::from_millis(300);

/// The object Device with Manufacturer, Available Power Sources and Current Time, in TLV.
const TLV_INSTANCE: &[u8] = b"\xc4\x00Acme\x86\x06\x41\x00\x01\x41\x01\x05\xc4\x0d\x67\x74\x85\x80";

// --- The registration interface
// -----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_register_is_refused_with_the_code_that_fits_and_nothing_is_published() {
    let mut scene = ProgramScene::start("refused").await;
    let long = format!("ep={}", "x".repeat(256));
    let cases = [
        ("lt=300", Code::BAD_REQUEST),
        ("ep=", Code::BAD_REQUEST),
        (long.as_str(), Code::BAD_REQUEST),
        ("ep=a+b", Code::BAD_REQUEST),
        ("ep=a#", Code::BAD_REQUEST),
        ("ep=a/b", Code::BAD_REQUEST),
        ("ep=refused\u{1}", Code::BAD_REQUEST),
        ("ep=refused\u{9f}", Code::BAD_REQUEST),
        ("ep=refused&lt=-1", Code::BAD_REQUEST),
        ("ep=refused&lt=soon", Code::BAD_REQUEST),
        ("ep=refused&lt=315360001", Code::BAD_REQUEST),
        ("ep=refused&lwm2m=2.0", Code::PRECONDITION_FAILED),
        ("ep=refused&lt=60&lt=70", Code::BAD_REQUEST),
    ];
    for (query, code) in cases {
        assert_eq!(scene.device.try_register(query, LINKS).code, code, "{query}");
    }
    assert_eq!(scene.device.try_register("ep=refused", "</1/0").code, Code::BAD_REQUEST, "a malformed link list");
    let json = request(Code::POST, &["rd"], &["ep=refused"], Some((50, b"{}")));
    assert_eq!(scene.device.request(&json).code, Code::UNSUPPORTED_CONTENT_FORMAT);

    scene.register("lt=300", LINKS);
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_has_every_item_of_the_register_but_the_password() {
    let mut scene = ProgramScene::start("reported").await;
    let links = "</m2m>;rt=\"oma.lwm2m\";ct=11543,</m2m/1/0>,</m2m/3/0>;title=\"a,b;c\"";
    let report = scene.register("lt=60&lwm2m=1.1&b=U&Q&sms=49&password=secret&color=red", links);
    let data = &report["data"];
    assert_eq!(data["ep"], "reported");
    assert_eq!(data["lt"], 60);
    assert_eq!(data["lwm2m"], "1.1");
    assert_eq!((&data["b"], &data["color"]), (&json!("U"), &json!("red")));
    assert_eq!((&data["alternatePath"], &data["objectList"]), (&json!("/m2m"), &json!(["/1/0", "/3/0"])));
    assert!(!report.to_string().contains("secret") && !scene.gateway.output().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_without_lifetime_and_payload_has_the_defaults() {
    let mut scene = ProgramScene::start("plain").await;
    let report = scene.register("lwm2m=1.0", "");
    assert_eq!(report, json!({ "msgType": "register", "data": { "ep": "plain", "lt": 86400, "lwm2m": "1.0" } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_other_paths_and_with_other_methods_are_answered_with_their_codes() {
    let scene = ProgramScene::registered("paths").await;
    let id = scene.device.location[1].clone();
    let ask = |method, path: &[&str]| scene.device.request(&request(method, path, &[], None)).code;
    assert_eq!(ask(Code::GET, &["rd"]), Code::METHOD_NOT_ALLOWED);
    assert_eq!(ask(Code::PUT, &["rd"]), Code::METHOD_NOT_ALLOWED);
    assert_eq!(ask(Code::GET, &["rd", &id]), Code::METHOD_NOT_ALLOWED);
    assert_eq!(ask(Code::POST, &["rd", "unknown"]), Code::NOT_FOUND);
    assert_eq!(ask(Code::DELETE, &["rd", "unknown"]), Code::NOT_FOUND);
    assert_eq!(ask(Code::GET, &["elsewhere"]), Code::NOT_FOUND);
    assert_eq!(ask(Code::GET, &[]), Code::NOT_FOUND);
    let links = scene.device.request(&request(Code::GET, &[".well-known", "core"], &[], None));
    assert_eq!((links.code, links.options.content_format()), (Code::CONTENT, Some(format::LINK_FORMAT)));
    assert!(String::from_utf8_lossy(&links.payload).contains("</rd>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_reset_refused_or_dropped_and_a_duplicate_is_answered_again() {
    let mut scene = ProgramScene::start("message-layer").await;
    let ping = Message::empty(Kind::Confirmable, fresh_id());
    scene.device.send(&ping);
    assert_eq!(scene.device.receive(), Message::empty(Kind::Reset, ping.id));

    let mut critical = request(Code::POST, &["rd"], &["ep=message-layer"], None);
    critical.options.add(9, b"?");
    assert_eq!(scene.device.request(&critical).code, Code::BAD_OPTION);

    // No version 1, cut short, and bytes of something else.
    for datagram in [&[0x80, 1, 0, 1][..], &[0x40, 1], b"\x16\xfe\xfd no CoAP"] {
        scene.device.send_bytes(datagram);
    }
    // Confirmable by its first byte, and malformed behind its token (RFC 7252 section 4.2).
    scene.device.send_bytes(b"GET / HTTP/1.1");
    assert_eq!(scene.device.receive(), Message::empty(Kind::Reset, MessageId(u16::from_be_bytes(*b"T "))));
    let register = request(Code::POST, &["rd"], &["ep=message-layer", "lt=60"], Some((40, LINKS.as_bytes())));
    let first = scene.device.request(&register);
    let second = scene.device.request(&register);
    assert_eq!((first.code, &first), (Code::CREATED, &second), "the stored reply");
    scene.hear("up/resp", "register");
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_new_at_every_register_and_the_old_one_is_unknown() {
    let mut scene = ProgramScene::registered("again").await;
    let old = scene.device.location.clone();
    let observe = json!({ "reqID": 1, "msgType": "observe", "data": { "path": "/3303/0/5700" } });
    scene.command(&observe);
    let observed = scene.device.expect_request(Code::GET, "/3303/0/5700");
    scene.device.answer_observe(&observed, "20.5");
    scene.hear("up/resp", "observe");

    scene.register("lt=60", LINKS);
    assert_ne!(scene.device.location[1], old[1]);
    assert!(scene.device.location[1].len() >= 11, "64 bits need 11 characters of base64: {:?}", scene.device.location);
    let gone = scene.device.request(&request(Code::POST, &["rd", &old[1]], &[], None));
    assert_eq!(gone.code, Code::NOT_FOUND);

    let notification = scene.device.notify(&observed, Kind::Confirmable, 5, "21.5");
    assert_eq!(scene.device.receive(), Message::empty(Kind::Reset, notification.id), "the observation is dropped");
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_in_the_middle_of_a_command_ends_it_and_keeps_what_waits() {
    let mut scene = ProgramScene::registered("restarted").await;
    let [first, second] = [1, 2].map(|id| json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" } }));
    scene.command(&first);
    scene.device.expect_request(Code::GET, "/3/0/0");
    scene.command(&second);

    // The command is known to have come when the one behind it, which may not wait, is refused.
    let now = json!({ "reqID": 3, "msgType": "read", "data": { "path": "/3/0/0" }, "mheaders": { "ttl": 0 } });
    scene.command(&now);
    scene.expect("up/resp", &answer(&now, done("/3/0/0", "4.00", "bad_request")));

    let response = scene.device.try_register(&format!("ep={}&lt=60", scene.endpoint), LINKS);
    assert_eq!(response.code, Code::CREATED);
    let mut timed_out = first.clone();
    timed_out["msgType"] = json!("coap_timeout");
    let mut heard = [scene.application.receive().1, scene.application.receive().1];
    heard.sort_by_key(|payload| payload["msgType"] != "coap_timeout");
    assert_eq!(heard[0], timed_out);
    assert_eq!(heard[1]["msgType"], "register");
    let request = scene.device.expect_request(Code::GET, "/3/0/0");
    scene.device.answer_text(&request, "Acme");
    scene.expect("up/resp", &answer(&second, content("/3/0/0", "Acme")));
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_merged_and_published_when_the_object_list_changed() {
    let mut scene = ProgramScene::registered("updated").await;
    assert_eq!(scene.device.update(&["lt=600"], None).code, Code::CHANGED);
    assert_eq!(scene.device.update(&[], Some((format::LINK_FORMAT, LINKS.as_bytes()))).code, Code::CHANGED);
    scene.nothing_more();

    let put = request(Code::PUT, &["rd", &scene.device.location[1]], &["b=UQ"], Some((40, b"</1/0>,</3/0>")));
    assert_eq!(scene.device.request(&put).code, Code::CHANGED);
    let data = json!({
        "ep": "updated", "lt": 600, "lwm2m": "1.0", "b": "UQ", "alternatePath": "/", "objectList": ["/1/0", "/3/0"],
    });
    scene.expect("up/resp", &json!({ "msgType": "update", "data": data }));
    assert_eq!(scene.device.update(&["lt=soon"], None).code, Code::BAD_REQUEST);
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_chooses_which_updates_are_published() {
    let lines = "update_msg_publish_condition = \"contains_object_list\"\n";
    let mut scene = ProgramScene::registered_with("contains", lines).await;
    assert_eq!(scene.device.update(&["lt=600"], None).code, Code::CHANGED);
    scene.nothing_more();
    assert_eq!(scene.device.update(&[], Some((format::LINK_FORMAT, LINKS.as_bytes()))).code, Code::CHANGED);
    scene.hear("up/resp", "update");
    drop(scene);

    let mut scene = ProgramScene::registered_with("always", "update_msg_publish_condition = \"always\"\n").await;
    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
    scene.hear("up/resp", "update");
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_that_ends_ends_the_registration() {
    let mut scene = ProgramScene::start("short").await;
    scene.register("lt=1", LINKS);
    scene.silence(Duration::from_millis(1500));
    assert_eq!(scene.device.update(&[], None).code, Code::NOT_FOUND);
    scene.register("lt=300", LINKS);
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_follow_the_configuration() {
    let lines = "mountpoint = \"lwm2m/${endpoint_name}/v1/\"\ntranslators.command.topic = \"down\"\n\
                 translators.response.topic = \"answers/${imei}\"\ntranslators.register.topic = \"online\"\n\
                 translators.notify.topic = \"values/%a\"\n";
    let mut scene = ProgramScene::start_with("renamed", lines).await;
    scene.device.register("ep=renamed&lt=60&imei=490154", LINKS);
    scene.hear("v1/online", "register");
    let observe = json!({ "reqID": 1, "msgType": "observe", "data": { "path": "/3303/0/5700" } });
    scene.application.send_to("lwm2m/renamed/v1/down", observe.to_string().as_bytes());
    let observed = scene.device.expect_request(Code::GET, "/3303/0/5700");
    scene.device.answer_observe(&observed, "20.5");
    scene.hear("v1/answers/490154", "observe");
    scene.device.notify(&observed, Kind::NonConfirmable, 1, "21.5");
    scene.hear("v1/values/127.0.0.1", "notify");
}

// --- Commands
// -----------------------------------------------------------------------------------------------------------

/// A command, and what the device gets of it.
struct ExpectedCommand {
    kind: &'static str,
    data: Value,
    method: Code,
    path: &'static str,
    query: &'static [&'static str],
    content: Option<(u16, &'static str)>,
}

/// A command without content.
fn asked(kind: &'static str, data: Value, method: Code, path: &'static str) -> ExpectedCommand {
    ExpectedCommand { kind, data, method, path, query: &[], content: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_is_its_request_and_its_answer_echoes_all_members() {
    let mut scene = ProgramScene::registered("commands").await;
    let tlv = |kind, data, method, path, hex| ExpectedCommand {
        content: Some((format::TLV, hex)),
        ..asked(kind, data, method, path)
    };
    let batch = json!([{ "path": "1", "value": 90 }, { "path": "7", "value": "U" }]);
    let instance = json!([{ "path": "1/5700", "type": "Float", "value": 1.25 }]);
    let attributes = json!({ "path": "/3303/0/5700", "pmin": "5", "pmax": 90, "gt": 30.5, "lt": null });
    let commands = [
        asked("read", json!({ "path": "/3/0/0" }), Code::GET, "/3/0/0"),
        asked("read", json!({ "path": "3/0/" }), Code::GET, "/3/0"),
        asked("read", json!({ "path": "/3" }), Code::GET, "/3"),
        asked("read", json!({ "path": "/3/0/6/1" }), Code::GET, "/3/0/6/1"),
        ExpectedCommand {
            query: &["a=1", "b"],
            ..asked("read", json!({ "path": "/3/0/0?a=1&b" }), Code::GET, "/3/0/0")
        },
        asked("discover", json!({ "path": "/3/0" }), Code::GET, "/3/0"),
        tlv("write", json!({ "path": "/1/0/1", "type": "Integer", "value": "60" }), Code::PUT, "/1/0/1", "c1013c"),
        tlv("write", json!({ "path": "/1/0/1", "value": 70000 }), Code::PUT, "/1/0/1", "c40100011170"),
        tlv("write", json!({ "path": "/1/0/6", "type": "boolean", "value": "true" }), Code::PUT, "/1/0/6", "c10601"),
        tlv("write", json!({ "basePath": "/1/0", "content": batch }), Code::POST, "/1/0", "c1015ac10755"),
        ExpectedCommand {
            query: &["gt=30.5", "pmax=90", "pmin=5"],
            ..asked("write-attr", attributes, Code::PUT, "/3303/0/5700")
        },
        ExpectedCommand {
            content: Some((format::TEXT, "303d2731273b")),
            ..asked("execute", json!({ "path": "/3/0/4", "args": "0='1';" }), Code::POST, "/3/0/4")
        },
        asked("execute", json!({ "path": "/3/0/4", "args": null }), Code::POST, "/3/0/4"),
        tlv(
            "create",
            json!({ "basePath": "/3303", "content": instance }),
            Code::POST,
            "/3303",
            "08010ce81644083ff4000000000000",
        ),
        asked("create", json!({ "basePath": "/3303", "content": [] }), Code::POST, "/3303"),
        asked("delete", json!({ "path": "/3303/1" }), Code::DELETE, "/3303/1"),
    ];
    for (id, asked) in commands.into_iter().enumerate() {
        expect_whole_round(&mut scene, id, &asked);
    }
    scene.nothing_more();
}

/// The device answers 4.05: so every command is answered alike.
fn expect_whole_round(scene: &mut ProgramScene, id: usize, asked: &ExpectedCommand) {
    let (imei, kind, data) = (490154203237518_u64, asked.kind, &asked.data);
    let command = json!({ "reqID": id, "imei": imei, "cacheID": [null, 1.5], "msgType": kind, "data": data });
    scene.command(&command);
    let request = scene.device.receive();
    assert_eq!(
        (request.kind, request.code, path_of(&request).as_str()),
        (Kind::Confirmable, asked.method, asked.path),
        "{command}"
    );
    assert_eq!(request.token.as_bytes().len(), 8);
    let mut query = request.options.texts(number::URI_QUERY).expect("a query is text");
    query.sort_unstable();
    assert_eq!(query, asked.query, "{command}");
    let payload: String = request.payload.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(payload, asked.content.map_or("", |(_, hex)| hex), "{command}");
    if let Some((format, _)) = asked.content {
        assert_eq!(request.options.content_format(), Some(format), "{command}");
    }
    let accept = request.options.uint(number::ACCEPT).expect("a number");
    assert_eq!(accept, (asked.kind == "discover").then_some(u32::from(format::LINK_FORMAT)), "{command}");
    assert!(!request.options.contains(number::OBSERVE), "{command}");

    scene.device.answer(&request, Code::METHOD_NOT_ALLOWED, None);
    let given = asked.data.get("path").unwrap_or(&asked.data["basePath"]).as_str().expect("a path is text");
    let path = given.split('?').next().expect("a first part");
    scene.expect("up/resp", &answer(&command, done(path, "4.05", "method_not_allowed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_codes_of_devices_have_their_names() {
    let mut scene = ProgramScene::registered("codes").await;
    let codes = [
        (Code::CREATED, "created"),
        (Code::DELETED, "deleted"),
        (Code::CHANGED, "changed"),
        (Code::BAD_REQUEST, "bad_request"),
        (Code::UNAUTHORIZED, "unauthorized"),
        (Code::BAD_OPTION, "bad_option"),
        (Code::FORBIDDEN, "forbidden"),
        (Code::NOT_FOUND, "not_found"),
        (Code::METHOD_NOT_ALLOWED, "method_not_allowed"),
        (Code::NOT_ACCEPTABLE, "not_acceptable"),
        (Code::REQUEST_ENTITY_INCOMPLETE, "request_entity_incomplete"),
        (Code::CONFLICT, "conflict"),
        (Code::PRECONDITION_FAILED, "precondition_failed"),
        (Code::REQUEST_ENTITY_TOO_LARGE, "request_entity_too_large"),
        (Code::UNSUPPORTED_CONTENT_FORMAT, "unsupported_content_format"),
        (Code::UNPROCESSABLE_ENTITY, "unprocessable_entity"),
        (Code::TOO_MANY_REQUESTS, "too_many_requests"),
        (Code::INTERNAL_SERVER_ERROR, "internal_server_error"),
        (Code::NOT_IMPLEMENTED, "not_implemented"),
        (Code::BAD_GATEWAY, "bad_gateway"),
        (Code::SERVICE_UNAVAILABLE, "service_unavailable"),
        (Code::GATEWAY_TIMEOUT, "gateway_timeout"),
        (Code::PROXYING_NOT_SUPPORTED, "proxying_not_supported"),
        (Code::of(4, 25), "unknown"),
    ];
    for (code, name) in codes {
        let command = json!({ "reqID": name, "msgType": "delete", "data": { "path": "/3303/1" } });
        scene.command(&command);
        let request = scene.device.expect_request(Code::DELETE, "/3303/1");
        scene.device.answer(&request, code, None);
        scene.expect("up/resp", &answer(&command, done("/3303/1", &code.to_string(), name)));
    }
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_carried_out_is_answered_with_a_reason_and_sends_nothing() {
    let mut scene = ProgramScene::registered("refusals").await;
    let refusals = [
        ("reboot", json!({ "path": "/3/0/4" })),
        ("read", json!({ "path": "/3/x" })),
        ("read", json!({ "path": "/65536" })),
        ("read", json!({ "path": "/3/0/6/1/2" })),
        ("write", json!({ "path": "/3/0/15", "type": "String" })),
        ("write", json!({ "path": "/3/0/15", "type": "Text", "value": "x" })),
        ("write", json!({ "path": "/1/0/1", "type": "Integer", "value": "soon" })),
        ("write", json!({ "path": "/1/0/6", "type": "Boolean", "value": 7 })),
        ("write", json!({ "path": "/3303/0/5700", "value": "warm" })),
        ("write", json!({ "path": "/5/0/0", "type": "Opaque", "value": "no base64!" })),
        ("execute", json!({ "path": "/3/0" })),
        ("execute", json!({ "path": "/3/0/0" })),
        ("create", json!({ "basePath": "/3303" })),
    ];
    for (kind, data) in refusals {
        let path = data.get("path").unwrap_or(&data["basePath"]).as_str().expect("a path").to_owned();
        let command = json!({ "reqID": 7, "msgType": kind, "data": data });
        scene.command(&command);
        let (_, refused) = scene.application.receive();
        assert!(refused["data"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{command}: {refused}");
        crate::common::application::assert_same(&refused, &answer(&command, done(&path, "4.00", "bad_request")));
    }
    for (payload, echo) in [("no JSON", json!({})), ("[1]", json!({})), ("{\"reqID\":8}", json!({ "reqID": 8 }))] {
        scene.application.send_to("lwm2m/refusals/dn/any/level", payload.as_bytes());
        let mut expected = echo;
        expected["msgType"] = json!("error");
        expected["data"] = json!({ "reqPath": null, "code": "4.00", "codeMsg": "bad_request" });
        scene.expect("up/resp", &expected);
    }
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_up_with_their_json_types_in_every_format() {
    let mut scene = ProgramScene::registered("values").await;
    let one = |path: &str, value: Value| json!([{ "path": path, "value": value }]);
    let instance = json!([
        { "path": "/3/0/0", "value": "Acme" }, { "path": "/3/0/6/0", "value": 1 }, { "path": "/3/0/6/1", "value": 5 },
        { "path": "/3/0/13", "value": 1_735_689_600 },
    ]);
    let cases = [
        ("/3/0/0", format::TEXT, &b"Acme"[..], one("/3/0/0", json!("Acme"))),
        ("/3/0/9", format::LEGACY_TEXT, b"81", one("/3/0/9", json!(81))),
        ("/1/0/6", format::TEXT, b"1", one("/1/0/6", json!(true))),
        ("/3303/0/5700", format::TEXT, b"-3.25", one("/3303/0/5700", json!(-3.25))),
        ("/5/0/0", format::OCTET_STREAM, &[0xde, 0xad], one("/5/0/0", json!("3q0="))),
        ("/5/0/0", format::TEXT, b"3q0=", one("/5/0/0", json!("3q0="))),
        ("/3/0", format::TLV, TLV_INSTANCE, instance.clone()),
        ("/3/0", format::LEGACY_TLV, TLV_INSTANCE, instance.clone()),
        (
            "/3/0",
            format::LWM2M_JSON,
            br#"{"bn":"/3/0/","e":[{"n":"0","sv":"Acme"},{"n":"6/0","v":1},{"n":"6/1","v":5},
                {"n":"13","v":1735689600}]}"#,
            instance,
        ),
        ("/3303/0", format::TLV, b"", json!([])),
    ];
    for (path, format, payload, expected) in cases {
        let command = json!({ "reqID": format, "msgType": "read", "data": { "path": path } });
        scene.command(&command);
        let request = scene.device.expect_request(Code::GET, path);
        scene.device.answer(&request, Code::CONTENT, Some((format, payload)));
        let data = json!({ "reqPath": path, "code": "2.05", "codeMsg": "content", "content": expected });
        scene.expect("up/resp", &answer(&command, data));
    }
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_cannot_be_decoded_makes_the_answer_4_00() {
    let mut scene = ProgramScene::registered("undecodable").await;
    let cases = [
        ("/3/0/9", format::TEXT, &b"many"[..]),
        ("/3/0/0", format::TEXT, b"\xff\xfe"),
        ("/3303/0/5700", format::TEXT, b"NaN"),
        ("/3/0", format::TLV, b"\xc8\x00\x20Acme"),
        ("/3/0", format::LWM2M_JSON, b"{\"e\":[{"),
        ("/3/0/0", 50, b"\"Acme\""),
        ("/4321/0/0", format::TEXT, b"x"),
    ];
    for (path, format, payload) in cases {
        let command = json!({ "reqID": format, "msgType": "read", "data": { "path": path } });
        scene.command(&command);
        let request = scene.device.expect_request(Code::GET, path);
        scene.device.answer(&request, Code::CONTENT, Some((format, payload)));
        scene.expect("up/resp", &answer(&command, done(path, "4.00", "bad_request")));
    }
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_definition_comes_as_it_is_when_that_is_configured() {
    let mut scene = ProgramScene::registered_with("opaque", "undefined_resources = \"opaque\"\n").await;
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/4321/0/0" } });
    scene.command(&command);
    let request = scene.device.expect_request(Code::GET, "/4321/0/0");
    scene.device.answer_text(&request, "x");
    let content = json!([{ "path": "/4321/0/0", "value": "eA==", "type": "Opaque" }]);
    let data = json!({ "reqPath": "/4321/0/0", "code": "2.05", "codeMsg": "content", "content": content });
    scene.expect("up/resp", &answer(&command, data));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_travels_in_blocks_both_ways() {
    let mut scene = ProgramScene::registered("large").await;
    let text = "0123456789abcdef".repeat(200);
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } });
    scene.command(&command);
    for (block, bytes) in (0..).zip(text.as_bytes().chunks(1024)) {
        let request = scene.device.expect_request(Code::GET, "/3/0/0");
        let mut response = crate::common::device::response_to(&request, Code::CONTENT, Some((format::TEXT, bytes)));
        response.options.add_uint(number::BLOCK2, block << 4 | u32::from(bytes.len() == 1024) << 3 | 6);
        scene.device.send(&response);
    }
    scene.expect("up/resp", &answer(&command, content("/3/0/0", text.as_str())));

    let command =
        json!({ "reqID": 2, "msgType": "write", "data": { "path": "/3/0/15", "type": "String", "value": text } });
    scene.command(&command);
    let mut written = Vec::new();
    loop {
        let request = scene.device.expect_request(Code::PUT, "/3/0/15");
        written.extend_from_slice(&request.payload);
        let block = request.options.uint(number::BLOCK1).expect("a number").expect("it is too large for one message");
        let more = block & 0x8 != 0;
        let code = if more { Code::CONTINUE } else { Code::CHANGED };
        let mut response = crate::common::device::response_to(&request, code, None);
        response.options.add_uint(number::BLOCK1, block);
        scene.device.send(&response);
        if !more {
            break;
        }
    }
    // Type and identifier, two bytes of length, and the text.
    assert_eq!((&written[..4], &written[4..]), (&[0xd0, 15, 0x0c, 0x80][..], text.as_bytes()));
    scene.expect("up/resp", &answer(&command, done("/3/0/15", "2.04", "changed")));
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alternate_path_is_in_front_of_every_request_and_in_no_answer() {
    let mut scene = ProgramScene::start("alternate").await;
    scene.register("lt=60", "</m2m>;rt=\"oma.lwm2m\",</m2m/3/0>");
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } });
    scene.command(&command);
    let request = scene.device.expect_request(Code::GET, "/m2m/3/0/0");
    scene.device.answer_text(&request, "Acme");
    scene.expect("up/resp", &answer(&command, content("/3/0/0", "Acme")));
}

// --- One exchange at a time
// ---------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_command_is_told_at_once_and_answered_later() {
    let mut scene = ProgramScene::registered("separate").await;
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } });
    scene.command(&command);
    let request = scene.device.expect_request(Code::GET, "/3/0/0");
    scene.device.send(&Message::empty(Kind::Acknowledgement, request.id));
    scene.expect("up/resp", &json!({ "reqID": 1, "msgType": "ack" }));

    let mut response = crate::common::device::response_to(&request, Code::CONTENT, Some((format::TEXT, b"Acme")));
    response.kind = Kind::Confirmable;
    response.id = fresh_id();
    scene.device.send(&response);
    scene.device.expect_acknowledgement(&response);
    scene.expect("up/resp", &answer(&command, content("/3/0/0", "Acme")));
    scene.device.send(&response);
    scene.device.expect_acknowledgement(&response);
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_ends_a_command_and_the_next_one_goes_out() {
    let mut scene = ProgramScene::registered("reset").await;
    let command = json!({ "reqID": 1, "msgType": "execute", "data": { "path": "/3/0/4", "args": "x" } });
    scene.command(&command);
    let request = scene.device.expect_request(Code::POST, "/3/0/4");
    scene.device.send(&Message::empty(Kind::Reset, request.id));
    let expected = json!({ "reqID": 1, "msgType": "coap_reset", "data": { "path": "/3/0/4", "args": "x" } });
    scene.expect("up/resp", &expected);
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_device_is_asked_again_and_the_time_out_is_told_once() {
    let lines = "coap.ack_timeout = \"100ms\"\ncoap.max_retransmit = 2\n";
    let mut scene = ProgramScene::registered_with("silent", lines).await;
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/9" } });
    scene.command(&command);
    let first = scene.device.expect_request(Code::GET, "/3/0/9");
    assert_eq!(scene.device.receive(), first);
    assert_eq!(scene.device.receive(), first);
    scene.expect("up/resp", &json!({ "reqID": 1, "msgType": "coap_timeout", "data": { "path": "/3/0/9" } }));
    scene.device.answer_text(&first, "too late");
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_out_one_by_one_in_their_order() {
    let mut scene = ProgramScene::registered("ordered").await;
    let commands: Vec<Value> = (0..10)
        .map(|resource| (resource, format!("/3/0/{resource}")))
        .map(|(resource, path)| json!({ "reqID": resource, "msgType": "execute", "data": { "path": path } }))
        .filter(|command| ["/3/0/4", "/3/0/5"].contains(&command["data"]["path"].as_str().expect("a path")))
        .cycle()
        .take(10)
        .collect();
    commands.iter().for_each(|command| scene.command(command));
    for command in &commands {
        let path = command["data"]["path"].as_str().expect("a path");
        let request = scene.device.expect_request(Code::POST, path);
        assert_eq!(scene.device.receive_within(Duration::from_millis(20)), None, "one exchange is in flight");
        scene.device.answer(&request, Code::CHANGED, None);
        scene.expect("up/resp", &answer(command, done(path, "2.04", "changed")));
    }
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_and_an_expired_command_are_told() {
    let mut scene = ProgramScene::registered_with("full", "limits.pending_commands = 1\n").await;
    let [flying, waiting, refused] = [(1, 60), (2, 1), (3, 60)].map(
        |(id, ttl)| json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" }, "mheaders": { "ttl": ttl } }),
    );
    scene.command(&flying);
    let request = scene.device.expect_request(Code::GET, "/3/0/0");
    scene.command(&waiting);
    scene.command(&refused);
    let bad_request = done("/3/0/0", "4.00", "bad_request");
    scene.expect("up/resp", &answer(&refused, bad_request.clone()));
    scene.expect("up/resp", &answer(&waiting, bad_request));
    scene.device.answer_text(&request, "Acme");
    scene.expect("up/resp", &answer(&flying, content("/3/0/0", "Acme")));
    scene.nothing_more();
}

// --- Observation, sleep
// -------------------------------------------------------------------------------------------------

/// Observes `/3303/0/5700`; gives the command and the device's request.
fn observe(scene: &mut ProgramScene) -> (Value, Message) {
    let command = json!({ "reqID": "o", "cacheID": 5, "msgType": "observe", "data": { "path": "/3303/0/5700" } });
    scene.command(&command);
    let request = scene.device.expect_request(Code::GET, "/3303/0/5700");
    assert_eq!(request.options.uint(number::OBSERVE), Ok(Some(0)));
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

#[tokio::test(flavor = "multi_thread")]
async fn notifications_come_in_their_order_and_older_ones_are_dropped() {
    let mut scene = ProgramScene::registered("notified").await;
    let (command, request) = observe(&mut scene);
    scene.device.notify(&request, Kind::NonConfirmable, 3, "21");
    scene.expect("up/notify", &notification(&command, 3, 21.0));
    let confirmable = scene.device.notify(&request, Kind::Confirmable, 7, "22.5");
    scene.device.expect_acknowledgement(&confirmable);
    scene.expect("up/notify", &notification(&command, 7, 22.5));
    let older = scene.device.notify(&request, Kind::Confirmable, 5, "0");
    scene.device.expect_acknowledgement(&older);
    scene.device.send(&confirmable);
    scene.device.expect_acknowledgement(&confirmable);
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_with_an_error_code_is_published_and_ends_the_observation() {
    let mut scene = ProgramScene::registered("ended").await;
    let (command, request) = observe(&mut scene);
    let mut gone = crate::common::device::response_to(&request, Code::NOT_FOUND, None);
    gone.kind = Kind::Confirmable;
    gone.id = fresh_id();
    scene.device.send(&gone);
    scene.device.expect_acknowledgement(&gone);
    let heard = scene.hear("up/notify", "notify");
    assert_eq!((&heard["reqID"], &heard["data"]), (&command["reqID"], &done("/3303/0/5700", "4.04", "not_found")));

    let later = scene.device.notify(&request, Kind::Confirmable, 9, "1");
    assert_eq!(scene.device.receive(), Message::empty(Kind::Reset, later.id));
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_or_replaced_observation_brings_nothing_more() {
    let mut scene = ProgramScene::registered("cancelled").await;
    let (_, first) = observe(&mut scene);
    let (command, second) = observe(&mut scene);
    let replaced = scene.device.notify(&first, Kind::Confirmable, 4, "1");
    assert_eq!(scene.device.receive(), Message::empty(Kind::Reset, replaced.id));
    scene.device.notify(&second, Kind::NonConfirmable, 4, "2");
    scene.expect("up/notify", &notification(&command, 4, 2.0));

    let cancel = json!({ "reqID": "c", "msgType": "cancel-observe", "data": { "path": "/3303/0/5700" } });
    scene.command(&cancel);
    let request = scene.device.expect_request(Code::GET, "/3303/0/5700");
    assert_eq!((request.token, request.options.uint(number::OBSERVE)), (second.token, Ok(Some(1))));
    scene.device.answer_text(&request, "3");
    scene.expect("up/resp", &answer(&cancel, content("/3303/0/5700", 3)));
    let late = scene.device.notify(&second, Kind::Confirmable, 5, "4");
    assert_eq!(scene.device.receive(), Message::empty(Kind::Reset, late.id));
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_keeps_the_observations() {
    let mut scene = ProgramScene::registered("kept").await;
    let (command, request) = observe(&mut scene);
    assert_eq!(scene.device.update(&["lt=60"], None).code, Code::CHANGED);
    scene.device.notify(&request, Kind::NonConfirmable, 2, "2");
    scene.expect("up/notify", &notification(&command, 2, 2.0));
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_observe_observes_what_the_device_registers() {
    let mut scene = ProgramScene::start_with("automatic", "auto_observe = true\n").await;
    scene.register("lt=60&lwm2m=1.0", "</1/0>,</3/0>,</3303/0>");
    let mut observed = Vec::new();
    for _ in 0..2 {
        let request = scene.device.receive();
        assert_eq!(request.options.uint(number::OBSERVE), Ok(Some(0)));
        observed.push(path_of(&request));
        scene.device.answer(&request, Code::NOT_FOUND, None);
        let answer = scene.hear("up/resp", "observe");
        assert_eq!((&answer["is_auto_observe"], answer.get("reqID")), (&json!(true), None));
    }
    observed.sort_unstable();
    assert!(observed[0].starts_with("/3") && observed[1].starts_with("/3303"), "{observed:?}");
    scene.nothing_more();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_for_a_sleeping_device_wait_for_its_next_message() {
    let mut scene = ProgramScene::start_with("sleeper", "qmode_time_window = \"100ms\"\n").await;
    scene.register("lt=300&lwm2m=1.0&b=UQ", LINKS);
    scene.silence(A_MOMENT);
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } });
    let never = json!({ "reqID": 2, "msgType": "read", "data": { "path": "/3/0/0" }, "mheaders": { "ttl": 0 } });
    scene.command(&command);
    scene.command(&never);
    scene.expect("up/resp", &answer(&never, done("/3/0/0", "4.00", "bad_request")));
    scene.silence(A_MOMENT);

    assert_eq!(scene.device.update(&[], None).code, Code::CHANGED);
    let request = scene.device.expect_request(Code::GET, "/3/0/0");
    scene.device.answer_text(&request, "Acme");
    scene.expect("up/resp", &answer(&command, content("/3/0/0", "Acme")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_for_nobody_is_answered_by_nobody() {
    let mut scene = ProgramScene::registered("somebody").await;
    assert_eq!(scene.device.deregister().code, Code::DELETED);
    scene.command(&json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } }));
    scene.silence(A_MOMENT);
    let unregistered = Device::new(scene.gateway.address());
    assert_eq!(unregistered.request(&request(Code::GET, &["rd"], &[], None)).code, Code::METHOD_NOT_ALLOWED);
}
