mod lwm2m_11;

use proptest::prelude::*;
use serde_json::json;

use crate::coap::options::number;
use crate::coap::{Code, Request};
use crate::lwm2m::codec::Assignment;
use crate::lwm2m::model::{Object, Operations, Range, Version};
use crate::lwm2m::value::{ObjectLink, ResourceType, Value as Lwm2mValue};

use super::*;

fn registration() -> Registration {
    let mut request = Request::new(Code::POST);
    request.options.add_text(number::URI_QUERY, "ep=dev-7");
    Registration::from_register(&request, &(Duration::from_secs(1)..=Duration::from_secs(86_400)), None).unwrap()
}

fn model() -> Model {
    let mut object = Object::new(3, Version::FIRST, "Device");
    for (id, resource_type, range) in [
        (0, Some(ResourceType::String), None),
        (4, None, None),
        (6, Some(ResourceType::Integer), Some(Range { min: 0.0, max: 7.0 })),
        (9, Some(ResourceType::UnsignedInteger), None),
        (10, Some(ResourceType::Float), None),
        (11, Some(ResourceType::Boolean), None),
        (12, Some(ResourceType::Opaque), None),
        (13, Some(ResourceType::Time), None),
        (22, Some(ResourceType::ObjectLink), None),
    ] {
        let execute = resource_type.is_none();
        let operations = Operations { read: !execute, write: false, execute };
        let resource = Resource {
            id,
            name: String::new(),
            operations,
            multiple: false,
            mandatory: false,
            resource_type,
            range,
            units: String::new(),
        };
        object.insert(resource).unwrap();
    }
    let mut model = Model::default();
    model.insert(object).unwrap();
    model
}

fn read_command(payload: &[u8]) -> Result<Command, Refusal> {
    let (registration, model) = (registration(), model());
    parse(payload, CommandContext { registration: &registration, model: &model, composite_paths: 128 })
}

fn command(payload: Value) -> Result<Command, String> {
    read_command(payload.to_string().as_bytes()).map_err(|refusal| refusal.reason)
}

fn operation(msg_type: &str, data: Value) -> Result<Operation, String> {
    command(json!({ "msgType": msg_type, "data": data })).map(|command| command.operation)
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

/// The value that a single write of this JSON would send.
fn written(resource: &str, kind: Value, value: Value) -> Result<Lwm2mValue, String> {
    match operation("write", json!({ "path": resource, "type": kind, "value": value }))? {
        Operation { kind: OperationKind::Write { mut values, .. }, .. } => Ok(values.remove(0).value),
        other => panic!("{other:?} is no write"),
    }
}

#[test]
fn a_command_is_an_operation_with_its_own_object() {
    let payload = json!({ "reqID": 7, "msgType": "read", "imei": "1", "data": { "path": "3/0/9/?a=1&b" } });
    let command = command(payload.clone()).unwrap();
    assert_eq!(command.operation, Operation::new(path("/3/0/9"), vec!["a=1".into(), "b".into()], OperationKind::Read));
    assert_eq!(serde_json::from_str::<Value>(&command.echo.to_json()).unwrap(), payload);
    assert_eq!(command.echo.request_path(), Some("3/0/9/"));
    assert_eq!((command.msg_type(), command.echo.msg_type(), command.expiry), ("read", "read", None));
}

/// Numbers of any size and form, escapes and depth: nothing of it is read.
#[test]
fn the_members_of_a_command_are_kept_as_they_were_written() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for member in [
        "123456789012345678901234567890",
        "-0",
        "1E5",
        "1.50e+010",
        "1e400",
        "[1.0,{\"a\":1e2 }]",
        "\"\\u00e9\\ud83d\\ude00\"",
        &deep,
    ] {
        let payload = format!(r#"{{"reqID":{member},"msgType":"read","data":{{"path":"/3/0/9"}}}}"#);
        let command = read_command(payload.as_bytes()).unwrap();
        assert_eq!(command.echo.to_json(), payload);
        assert_eq!(Echo::try_from(payload).unwrap(), command.echo, "it is read again after a restart");
    }
}

#[test]
fn of_two_members_with_one_name_the_later_counts() {
    let payload = br#"{"reqID":1,"msgType":"write","msgType":"read","data":{"path":"/3/0/9"},"reqID":2}"#;
    let command = read_command(payload).unwrap();
    assert_eq!(command.echo.to_json(), r#"{"reqID":2,"msgType":"read","data":{"path":"/3/0/9"}}"#);
    assert_eq!((command.msg_type(), command.echo.msg_type()), ("read", "read"));
}

#[test]
fn what_is_no_object_of_json_is_refused_with_the_reason() {
    for (payload, reason) in [
        (&b"[1]"[..], "the command is no JSON object"),
        (b"7", "the command is no JSON object"),
        (b"reboot", "the command is no JSON: expected value at line 1 column 1"),
        (b"{\"reqID\":01}", "the command is no JSON: invalid number at line 1 column 11"),
        (b"{} x", "the command is no JSON: trailing characters at line 1 column 4"),
    ] {
        let refusal = read_command(payload).unwrap_err();
        assert_eq!((refusal.reason.as_str(), refusal.echo), (reason, Echo::default()));
    }
    assert!(read_command(b"{\"reqID\":\"\xff\"}").is_err());
    let deep = format!(r#"{{"msgType":"read","data":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert!(read_command(deep.as_bytes()).is_err());
}

#[test]
fn every_msg_type_has_its_operation() {
    for (msg_type, data) in [
        ("read", json!({ "path": "/3" })),
        ("discover", json!({ "path": "/3/0" })),
        ("observe", json!({ "path": "/3/0/22/1" })),
        ("cancel-observe", json!({ "path": "/3/0" })),
        ("write", json!({ "path": "/3/0/0", "value": "x" })),
        ("write-attr", json!({ "path": "/3/0", "pmin": 1 })),
        ("execute", json!({ "path": "/3/0/4" })),
        ("create", json!({ "basePath": "/3", "content": [] })),
        ("delete", json!({ "path": "/3/1" })),
    ] {
        let command = command(json!({ "msgType": msg_type, "data": data })).unwrap();
        assert_eq!((command.msg_type(), command.echo.msg_type()), (msg_type, msg_type));
    }
}

#[test]
fn what_is_no_command_is_refused_with_the_reason() {
    for (payload, reason) in [
        ("", "no JSON"),
        ("{\"msgType\":\"read\"", "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "msgType is missing"),
        ("{\"msgType\":7}", "msgType is not a text"),
        ("{\"msgtype\":\"read\"}", "msgType is missing; the command has \"msgtype\""),
        (
            "{\"msgType\":\"reboot\",\"data\":{\"path\":\"/3/0/4\"}}",
            "unknown msgType \"reboot\"; known are read, discover, write, write-attr, execute, create, delete, \
             observe, cancel-observe, read-composite, write-composite, observe-composite, cancel-observe-composite",
        ),
        ("{\"msgType\":\"raed\"}", "unknown msgType \"raed\"; did you mean \"read\"? Known are read, "),
        ("{\"msgType\":\"write_attr\"}", "did you mean \"write-attr\"?"),
        ("{\"msgType\":\"cancelObserve\"}", "did you mean \"cancel-observe\"?"),
        ("{\"msgType\":\"read\",\"path\":\"/3\"}", "data is missing; path belongs inside data"),
        ("{\"msgType\":\"write\",\"basePath\":\"/3\"}", "data is missing; basePath belongs inside data"),
        ("{\"msgType\":\"read\",\"data\":{\"Path\":\"/3\"}}", "path is missing; the command has \"Path\""),
        ("{\"msgType\":\"read\"}", "data is missing"),
        ("{\"msgType\":\"read\",\"data\":[]}", "data is not an object"),
        ("{\"msgType\":\"read\",\"data\":{}}", "path is missing"),
        ("{\"msgType\":\"read\",\"data\":{\"path\":3}}", "path is not a text"),
        ("{\"msgType\":\"observe\",\"data\":{\"path\":\"/\"}}", "not /"),
        ("{\"msgType\":\"read\",\"data\":{\"path\":\"/3/x\"}}", "0 to 65535"),
        ("{\"msgType\":\"read\",\"data\":{\"path\":\"/1/2/3/4/5\"}}", "four segments"),
        ("{\"msgType\":\"discover\",\"data\":{\"path\":\"/1/2/3/4\"}}", "discover takes"),
        ("{\"msgType\":\"execute\",\"data\":{\"path\":\"/3/0\"}}", "execute takes a resource, not /3/0"),
        ("{\"msgType\":\"execute\",\"data\":{\"path\":\"/3/0/0\"}}", "cannot be executed"),
        ("{\"msgType\":\"execute\",\"data\":{\"path\":\"/3/0/4\",\"args\":1}}", "args is not a text"),
        ("{\"msgType\":\"delete\",\"data\":{\"path\":\"/3\"}}", "delete takes"),
        ("{\"msgType\":\"delete\",\"data\":{\"path\":\"/3/0/0\"}}", "delete takes"),
        ("{\"msgType\":\"create\",\"data\":{\"basePath\":\"/3\"}}", "content is missing"),
        ("{\"msgType\":\"create\",\"data\":{\"basePath\":\"/3/0\",\"content\":[]}}", "create takes an object"),
        ("{\"msgType\":\"write-attr\",\"data\":{\"path\":\"/3\",\"pmin\":null}}", "no attribute"),
        ("{\"msgType\":\"write-attr\",\"data\":{\"path\":\"/3\",\"pmin\":true}}", "pmin is not"),
        ("{\"msgType\":\"read\",\"data\":{\"path\":\"/3\"},\"mheaders\":{\"ttl\":-1}}", "mheaders.ttl"),
    ] {
        let refusal = read_command(payload.as_bytes()).unwrap_err();
        assert!(refusal.reason.contains(reason), "{payload}: {}", refusal.reason);
    }
    let long = format!("/3?{}", "x".repeat(256));
    assert!(operation("read", json!({ "path": long })).is_err());
    let deep = "[".repeat(100_000);
    assert!(read_command(deep.as_bytes()).is_err());
}

#[test]
fn a_command_may_say_how_long_it_may_wait() {
    for (ttl, expected) in
        [(json!(0), Duration::ZERO), (json!(90), Duration::from_secs(90)), (json!(0.5), Duration::from_millis(500))]
    {
        let command = command(json!({ "msgType": "read", "data": { "path": "/3" }, "mheaders": { "ttl": ttl } }));
        assert_eq!(command.unwrap().expiry, Some(expected));
    }
}

#[test]
fn a_value_is_its_json_type_or_its_text() {
    for (resource, value, expected) in [
        ("/3/0/0", json!("Oslo"), Lwm2mValue::String("Oslo".into())),
        ("/3/0/6", json!(5), Lwm2mValue::Integer(5)),
        ("/3/0/6", json!("5"), Lwm2mValue::Integer(5)),
        ("/3/0/9", json!(u64::MAX), Lwm2mValue::UnsignedInteger(u64::MAX)),
        ("/3/0/10", json!(48), Lwm2mValue::Float(48.0)),
        ("/3/0/10", json!("271.5"), Lwm2mValue::Float(271.5)),
        ("/3/0/10", json!(1e20), Lwm2mValue::Float(1e20)),
        ("/3/0/9", json!(9_007_199_254_740_993_u64), Lwm2mValue::UnsignedInteger(9_007_199_254_740_993)),
        ("/3/0/9", json!("9007199254740993.0"), Lwm2mValue::UnsignedInteger(9_007_199_254_740_993)),
        ("/3/0/9", json!(9_007_199_254_740_991.0), Lwm2mValue::UnsignedInteger(9_007_199_254_740_991)),
        ("/3/0/11", json!(true), Lwm2mValue::Boolean(true)),
        ("/3/0/11", json!("false"), Lwm2mValue::Boolean(false)),
        ("/3/0/12", json!("yv4="), Lwm2mValue::Opaque(vec![0xca, 0xfe])),
        ("/3/0/12", json!("yv\r\n4=\n"), Lwm2mValue::Opaque(vec![0xca, 0xfe])),
        ("/3/0/12", json!(" yv 4"), Lwm2mValue::Opaque(vec![0xca, 0xfe])),
        ("/3/0/9", json!("+52"), Lwm2mValue::UnsignedInteger(52)),
        ("/3/0/9", json!("52.0"), Lwm2mValue::UnsignedInteger(52)),
        ("/3/0/13", json!(1_735_689_600), Lwm2mValue::Time(1_735_689_600)),
        ("/3/0/22", json!("3:0"), Lwm2mValue::ObjectLink(ObjectLink { object: 3, instance: 0 })),
    ] {
        assert_eq!(written(resource, Value::Null, value), Ok(expected), "{resource}");
    }
}

#[test]
fn a_value_that_does_not_fit_is_refused() {
    for (resource, value) in [
        ("/3/0/0", json!(5)),
        ("/3/0/0", json!(null)),
        ("/3/0/0", json!(["x"])),
        ("/3/0/6", json!(8)),
        ("/3/0/6", json!(-1)),
        ("/3/0/6", json!(1.5)),
        ("/3/0/6", json!("x")),
        ("/3/0/6", json!(true)),
        ("/3/0/9", json!(-1)),
        // The double nearest to 9007199254740993.0 is another whole number.
        ("/3/0/9", serde_json::from_str("9007199254740993.0").unwrap()),
        ("/3/0/9", json!(1e19)),
        ("/3/0/10", json!("NaN")),
        ("/3/0/11", json!("yes")),
        ("/3/0/11", json!(1)),
        ("/3/0/12", json!("xyz")),
        ("/3/0/22", json!("3")),
        ("/3/0/4", json!("x")),
    ] {
        assert!(written(resource, Value::Null, value.clone()).is_err(), "{resource} {value}");
    }
}

#[test]
fn a_given_type_must_be_written_as_the_defined_one() {
    assert_eq!(written("/3/0/9", json!("integer"), json!(5)), Ok(Lwm2mValue::UnsignedInteger(5)));
    assert_eq!(written("/3/0/13", json!("UNSIGNED INTEGER"), json!(5)), Ok(Lwm2mValue::Time(5)));
    assert_eq!(written("/3/0/10", json!("Integer"), json!(5)), Ok(Lwm2mValue::Float(5.0)));
    assert_eq!(written("/3/0/6", json!("Float"), json!(5.0)), Ok(Lwm2mValue::Integer(5)));
    assert!(written("/3/0/6", json!("Float"), json!(5.5)).is_err());
    assert_eq!(written("/3/0/0", json!("Corelnk"), json!("x")), Ok(Lwm2mValue::String("x".into())));
    for (resource, kind, reason) in [
        ("/3/0/6", json!("String"), "/3/0/6 is of type Integer, not String"),
        ("/3/0/10", json!("Boolean"), "is of type Float"),
        ("/3/0/6", json!("Unsigned"), "unknown type"),
        ("/3/0/6", json!(1), "type is not a text"),
        ("/4321/0/0", json!(null), "type is missing"),
    ] {
        let error = written(resource, kind, json!("1")).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(written("/4321/0/0", json!("Float"), json!(1)), Ok(Lwm2mValue::Float(1.0)));
}

#[test]
fn hex_is_the_hex_of_the_value_s_text() {
    let write = |resource: &str, value: Value| {
        let data = json!({ "path": resource, "value": value });
        command(json!({ "msgType": "write", "encoding": "hex", "data": data })).map(|command| match command.operation {
            Operation { kind: OperationKind::Write { values, .. }, .. } => values[0].value.clone(),
            other => panic!("{other:?} is no write"),
        })
    };
    assert_eq!(write("/3/0/0", json!("4f736C6f")), Ok(Lwm2mValue::String("Oslo".into())));
    assert_eq!(write("/3/0/6", json!("35")), Ok(Lwm2mValue::Integer(5)));
    assert_eq!(write("/3/0/12", json!("7976343d")), Ok(Lwm2mValue::Opaque(vec![0xca, 0xfe])));
    for value in [json!("QQ"), json!("4f7"), json!(5), json!("ff"), json!("+1")] {
        assert!(write("/3/0/0", value.clone()).is_err(), "{value}");
    }
}

#[test]
fn the_values_of_a_batch_count_from_its_base_path() {
    let text = |at: &str, value: &str| Assignment { path: path(at), value: Lwm2mValue::String(value.into()) };
    let write = |data| match operation("write", data)? {
        Operation { path, kind: OperationKind::Write { values, .. }, .. } => Ok((path, values)),
        other => Err(format!("{other:?} is no write")),
    };
    let data = json!({ "basePath": "3/0/", "content": [
        { "path": "/0", "value": "a" }, { "path": "0", "value": "b" }, { "path": 6, "value": 1 },
            { "path": "22/1", "value": "3:0" },
    ]});
    let (target, values) = write(data).unwrap();
    assert_eq!((target, values.len(), &values[0]), (path("/3/0"), 3, &text("/3/0/0", "b")));
    assert_eq!((values[1].path, values[2].path), (path("/3/0/6"), path("/3/0/22/1")));
    let alone = json!({ "basePath": "/3/0/0", "content": [{ "value": "a" }] });
    assert_eq!(write(alone), Ok((path("/3/0/0"), vec![text("/3/0/0", "a")])));
    for data in [
        json!({ "basePath": "/3/0", "content": [] }),
        json!({ "basePath": "/3/0", "content": {} }),
        json!({ "basePath": "/3/0", "content": ["x"] }),
        json!({ "basePath": "/3/0", "content": [{ "value": "a" }] }),
        json!({ "basePath": "/3/0", "content": [{ "path": "0" }] }),
        json!({ "basePath": "/3", "content": [{ "path": "0/0", "value": "a" }] }),
        json!({ "basePath": "/3/0/22", "content": [{ "path": "1/1", "value": "3:0" }] }),
        json!({ "basePath": "/3/0", "content": [
                { "path": "22", "value": "3:0" },
                { "path": "22/1", "value": "3:0" },
            ] }),
        json!({ "content": [{ "path": "0", "value": "a" }] }),
    ] {
        assert!(write(data.clone()).is_err(), "{data}");
    }
}

#[test]
fn arguments_that_say_nothing_are_empty() {
    for (args, expected) in [(json!(null), ""), (json!("undefined"), ""), (json!(""), ""), (json!("0='x'"), "0='x'")] {
        let operation = operation("execute", json!({ "path": "/3/0/4", "args": args }));
        let expected = Operation::new(path("/3/0/4"), vec![], OperationKind::Execute { arguments: expected.into() });
        assert_eq!(operation, Ok(expected));
    }
}

#[test]
fn attributes_are_numbers_or_their_text_in_one_order() {
    let data = json!({ "path": "/3/0", "st": 0.25, "pmin": 10, "pmax": "60", "gt": null, "lt": 1e21, "note": "x" });
    let expected = ["lt=1000000000000000000000", "pmax=60", "pmin=10", "st=0.25"];
    assert_eq!(
        operation("write-attr", data).map(|operation| operation.query),
        Ok(expected.map(str::to_owned).to_vec())
    );
}

#[test]
fn an_observation_of_our_own_says_so() {
    let command = Command::auto_observe(&path("/3303/0"));
    assert_eq!(command.operation, Operation::new(path("/3303/0"), vec![], OperationKind::Observe));
    assert_eq!(command.echo.request_path(), Some("/3303/0"));
    let echoed: Value = serde_json::from_str(&command.echo.to_json()).unwrap();
    assert_eq!(echoed["is_auto_observe"], true);
}

proptest! {
    #[test]
    fn any_payload_is_a_command_or_a_refusal(payload in concat!(
        r#"\{"msgType":"(write|read|create|write-attr)","data":"#,
        r#"\{("(path|basePath|content|value|type)":("/3/0/[0-9]{1,2}"|[0-9.e-]{1,4}|null|\[\{\}\]),?){0,4}\}\}?"#
    )) {
        match read_command(payload.as_bytes()) {
            Ok(command) => prop_assert!(!command.operation.path.is_empty()),
            Err(refusal) => prop_assert!(!refusal.reason.is_empty()),
        }
    }
}
