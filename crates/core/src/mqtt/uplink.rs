//! Writes the JSON of everything that is published. Each function returns a whole payload.

use std::time::Duration;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::json;

use crate::coap::Code;
use crate::command::{Command, Echo};
use crate::lwm2m::codec::Entry;
use crate::lwm2m::operation::{Content, Outcome};
use crate::lwm2m::path::Path;
use crate::lwm2m::register::Registration;
use crate::lwm2m::value::{Value, whole_of};
use crate::registry::Presence;

use super::unanswered::UnansweredData;

/// Tells what a report contains about the identity that a device proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proven<'a> {
    /// Leaves the identity out.
    Untold,
    /// Adds the member `identity` for a device that proved one.
    Told(Option<&'a str>),
}

/// Returns a `register` report.
pub fn register(registration: &Registration, proven: Proven<'_>) -> Vec<u8> {
    written(&Report { msg_type: "register", registration, proven })
}

/// Returns an `update` report with the whole merged registration.
pub fn update(registration: &Registration, proven: Proven<'_>) -> Vec<u8> {
    written(&Report { msg_type: "update", registration, proven })
}

/// Returns a presence message. `since` is the time since 1970; a will has none, because it is written in advance.
pub fn status(presence: Presence, since: Option<Duration>) -> Vec<u8> {
    let status = match presence {
        Presence::Online => "online",
        Presence::Asleep => "asleep",
        Presence::Offline => "offline",
    };
    written(&json!({ "msgType": "status", "status": status, "since": since.map(|since| since.as_secs()) }))
}

/// Returns the final answer to a command. `seq_num` is the Observe number of the first answer to `observe`.
pub fn answer(echo: &Echo, outcome: &Outcome, seq_num: Option<u32>) -> Vec<u8> {
    let data = Data::Outcome { echo, outcome };
    // Zero says only that the observation begins.
    let seq_num = seq_num.filter(|number| *number != 0);
    written(&Uplink { echo, msg_type: echo.msg_type(), data: Some(data), seq_num })
}

/// Returns a notification of the observation that this command began.
pub fn notification(echo: &Echo, outcome: &Outcome, seq_num: Option<u32>) -> Vec<u8> {
    let data = Data::Outcome { echo, outcome };
    written(&Uplink { echo, msg_type: "notify", data: Some(data), seq_num })
}

/// Returns `ack` without `data`: the device has received the command and will answer later.
pub fn acknowledged(echo: &Echo) -> Vec<u8> {
    written(&Uplink { echo, msg_type: "ack", data: None, seq_num: None })
}

/// Returns `coap_reset` with the `data` of the command. A large value in it is replaced by its size.
pub fn reset(command: &Command) -> Vec<u8> {
    written(&Uplink { echo: &command.echo, msg_type: "coap_reset", data: command_data(command), seq_num: None })
}

/// Returns `coap_timeout` with the `data` of the command. A large value in it is replaced by its size.
pub fn timed_out(command: &Command) -> Vec<u8> {
    written(&Uplink { echo: &command.echo, msg_type: "coap_timeout", data: command_data(command), seq_num: None })
}

/// Returns 4.00 with the reason for a payload that is no command, or for a command that the gateway gave up.
pub fn refused(echo: &Echo, reason: &str) -> Vec<u8> {
    let outcome = Outcome { code: Code::BAD_REQUEST, content: None, reason: Some(reason.to_owned()) };
    answer(echo, &outcome, None)
}

/// Returns the name of a code in `codeMsg`.
pub fn code_message(code: Code) -> &'static str {
    match code {
        Code::CREATED => "created",
        Code::DELETED => "deleted",
        Code::VALID => "valid",
        Code::CHANGED => "changed",
        Code::CONTENT => "content",
        Code::CONTINUE => "continue",
        Code::BAD_REQUEST => "bad_request",
        Code::UNAUTHORIZED => "unauthorized",
        Code::BAD_OPTION => "bad_option",
        Code::FORBIDDEN => "forbidden",
        Code::NOT_FOUND => "not_found",
        Code::METHOD_NOT_ALLOWED => "method_not_allowed",
        Code::NOT_ACCEPTABLE => "not_acceptable",
        Code::REQUEST_ENTITY_INCOMPLETE => "request_entity_incomplete",
        Code::CONFLICT => "conflict",
        Code::PRECONDITION_FAILED => "precondition_failed",
        Code::REQUEST_ENTITY_TOO_LARGE => "request_entity_too_large",
        Code::UNSUPPORTED_CONTENT_FORMAT => "unsupported_content_format",
        Code::UNPROCESSABLE_ENTITY => "unprocessable_entity",
        Code::TOO_MANY_REQUESTS => "too_many_requests",
        Code::INTERNAL_SERVER_ERROR => "internal_server_error",
        Code::NOT_IMPLEMENTED => "not_implemented",
        Code::BAD_GATEWAY => "bad_gateway",
        Code::SERVICE_UNAVAILABLE => "service_unavailable",
        Code::GATEWAY_TIMEOUT => "gateway_timeout",
        Code::PROXYING_NOT_SUPPORTED => "proxying_not_supported",
        _ => "unknown",
    }
}

fn written(payload: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(payload).expect("members with text keys and finite numbers are JSON")
}

fn command_data(command: &Command) -> Option<Data<'_>> {
    let data = command.echo.data()?;
    Some(Data::Command(UnansweredData { data, operation: &command.operation }))
}

/// Serializes `register` and `update`.
struct Report<'a> {
    msg_type: &'static str,
    registration: &'a Registration,
    proven: Proven<'a>,
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("msgType", self.msg_type)?;
        map.serialize_entry("data", &ReportData(self.registration, self.proven))?;
        map.end()
    }
}

struct ReportData<'a>(&'a Registration, Proven<'a>);

impl Serialize for ReportData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(registration, proven) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ep", &registration.endpoint)?;
        map.serialize_entry("lt", &registration.lifetime.as_secs())?;
        map.serialize_entry("lwm2m", registration.version())?;
        if let Some(binding) = registration.binding() {
            map.serialize_entry("b", binding)?;
        }
        if registration.queue_item() {
            map.serialize_entry("Q", "")?;
        }
        if let Proven::Told(Some(identity)) = proven {
            map.serialize_entry("identity", identity)?;
        }
        // A device cannot put its own text where the object list stands, or the identity that it proved.
        let told = *proven != Proven::Untold;
        let own = |name: &str| {
            matches!(name, "alternatePath" | "objectList" | "objectAttributes") || told && name == "identity"
        };
        for (name, value) in registration.items().filter(|(name, _)| !own(name)) {
            map.serialize_entry(name, value)?;
        }
        if let Some(path) = registration.alternate_path() {
            map.serialize_entry("alternatePath", path)?;
        }
        if let Some(objects) = registration.object_list() {
            map.serialize_entry("objectList", &objects.collect::<Vec<_>>())?;
        }
        if !registration.object_attributes().is_empty() {
            map.serialize_entry("objectAttributes", registration.object_attributes())?;
        }
        map.end()
    }
}

/// Serializes the object of the command with another `msgType` and other `data`.
struct Uplink<'a> {
    echo: &'a Echo,
    msg_type: &'a str,
    data: Option<Data<'a>>,
    seq_num: Option<u32>,
}

impl Serialize for Uplink<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let replaced = |name: &str| matches!(name, "msgType" | "data") || (name == "seqNum" && self.seq_num.is_some());
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.echo.members().filter(|(name, _)| !replaced(name)) {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("msgType", self.msg_type)?;
        if let Some(seq_num) = self.seq_num {
            map.serialize_entry("seqNum", &seq_num)?;
        }
        if let Some(data) = &self.data {
            map.serialize_entry("data", data)?;
        }
        map.end()
    }
}

enum Data<'a> {
    /// Repeats the `data` of the command.
    Command(UnansweredData<'a>),
    Outcome {
        echo: &'a Echo,
        outcome: &'a Outcome,
    },
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (echo, outcome) = match self {
            Self::Command(data) => return data.serialize(serializer),
            Self::Outcome { echo, outcome } => (echo, outcome),
        };
        let path = echo.request_path();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("reqPath", &path)?;
        map.serialize_entry("code", &format_args!("{}", outcome.code))?;
        map.serialize_entry("codeMsg", code_message(outcome.code))?;
        match &outcome.content {
            Some(Content::Entries(entries)) => {
                let leading_slash = path.is_none_or(|path| path.starts_with('/'));
                map.serialize_entry("content", &Entries { entries, leading_slash })?;
            }
            Some(Content::Links(links)) => map.serialize_entry("content", links)?,
            None => {}
        }
        if let Some(reason) = &outcome.reason {
            map.serialize_entry("reason", reason)?;
        }
        map.end()
    }
}

/// Serializes entries. Their paths begin with a slash if the path of the request does.
struct Entries<'a> {
    entries: &'a [Entry],
    leading_slash: bool,
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.entries.len()))?;
        for entry in self.entries {
            list.serialize_element(&EntryJson { entry, leading_slash: self.leading_slash })?;
        }
        list.end()
    }
}

struct EntryJson<'a> {
    entry: &'a Entry,
    leading_slash: bool,
}

impl Serialize for EntryJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("path", &PathText { path: self.entry.path, leading_slash: self.leading_slash })?;
        map.serialize_entry("value", &ValueJson(&self.entry.value))?;
        if self.entry.undefined {
            map.serialize_entry("type", "Opaque")?;
        }
        if let Some(time) = self.entry.time {
            map.serialize_entry("time", &Number(time))?;
        }
        map.end()
    }
}

struct PathText {
    path: Path,
    leading_slash: bool,
}

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.path.to_string();
        serializer.serialize_str(if self.leading_slash { &text } else { text.trim_start_matches('/') })
    }
}

struct ValueJson<'a>(&'a Value);

impl Serialize for ValueJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::String(text) | Value::CoreLink(text) => serializer.serialize_str(text),
            Value::Integer(value) | Value::Time(value) => serializer.serialize_i64(*value),
            Value::UnsignedInteger(value) => serializer.serialize_u64(*value),
            Value::Float(value) => Number(*value).serialize(serializer),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Opaque(bytes) => serializer.collect_str(&Base64Display::new(bytes, &STANDARD)),
            Value::ObjectLink(link) => serializer.collect_str(link),
        }
    }
}

/// Serializes a double. A whole number is written without a point.
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match whole_of(self.0) {
            Some(whole) => serializer.serialize_i64(whole),
            None => serializer.serialize_f64(self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::coap::Request;
    use crate::coap::options::number;
    use crate::lwm2m::model::Model;
    use crate::lwm2m::value::ObjectLink;
    use crate::mqtt::downlink;

    fn registration(query: &[&str], objects: &str) -> Registration {
        let mut request = Request::new(Code::POST);
        query.iter().for_each(|item| request.options.add_text(number::URI_QUERY, item));
        request.payload = objects.as_bytes().to_vec();
        Registration::from_register(&request, &(Duration::from_secs(1)..=Duration::from_secs(86_400))).unwrap()
    }

    fn command(payload: &serde_json::Value) -> Command {
        let registration = registration(&["ep=dev-7"], "");
        downlink::parse(payload.to_string().as_bytes(), &registration, &Model::default()).unwrap()
    }

    fn read(path: &str) -> Command {
        command(&json!({ "reqID": 7, "msgType": "read", "cacheID": [1, null], "data": { "path": path } }))
    }

    fn shown(payload: Vec<u8>) -> serde_json::Value {
        serde_json::from_slice(&payload).unwrap()
    }

    fn entries(values: Vec<Value>) -> Outcome {
        let entry = |value| Entry { path: "/3/0/9".parse().unwrap(), value, time: None, undefined: false };
        let content = Some(Content::Entries(values.into_iter().map(entry).collect()));
        Outcome { code: Code::CONTENT, content, reason: None }
    }

    #[test]
    fn an_answer_is_the_command_with_other_data() {
        let outcome = entries(vec![Value::Integer(81)]);
        assert_eq!(
            shown(answer(&read("/3/0/9?a=1").echo, &outcome, None)),
            json!({ "reqID": 7, "msgType": "read", "cacheID": [1, null], "data": { "reqPath": "/3/0/9", "code": "2.05",
                "codeMsg": "content", "content": [{ "path": "/3/0/9", "value": 81 }] } })
        );
        let without_slash = shown(answer(&read("3/0/9").echo, &outcome, None));
        assert_eq!(without_slash["data"]["reqPath"], "3/0/9");
        assert_eq!(without_slash["data"]["content"][0]["path"], "3/0/9");
    }

    #[test]
    fn every_value_has_its_json_type() {
        for (value, expected) in [
            (Value::String("é\"".into()), json!("é\"")),
            (Value::Integer(i64::MIN), json!(i64::MIN)),
            (Value::UnsignedInteger(u64::MAX), json!(u64::MAX)),
            (Value::Time(1_735_689_600), json!(1_735_689_600)),
            (Value::Float(48.25), json!(48.25)),
            (Value::Float(48.0), json!(48)),
            (Value::Float(-1e300), json!(-1e300)),
            (Value::Boolean(false), json!(false)),
            (Value::Opaque(vec![0xca, 0xfe]), json!("yv4=")),
            (Value::ObjectLink(ObjectLink { object: 3, instance: 0 }), json!("3:0")),
            (Value::CoreLink("</3>".into()), json!("</3>")),
        ] {
            let payload = shown(answer(&read("/3/0/9").echo, &entries(vec![value]), None));
            assert_eq!(payload["data"]["content"][0]["value"], expected);
        }
    }

    #[test]
    fn a_time_and_a_missing_definition_stand_beside_the_value() {
        let mut outcome = entries(vec![Value::Opaque(vec![42])]);
        if let Some(Content::Entries(entries)) = &mut outcome.content {
            entries[0].time = Some(1_500_000_000.5);
            entries[0].undefined = true;
        }
        let payload = shown(answer(&read("/3/0/9").echo, &outcome, None));
        let expected = json!([{ "path": "/3/0/9", "value": "Kg==", "type": "Opaque", "time": 1_500_000_000.5 }]);
        assert_eq!(payload["data"]["content"], expected);
    }

    #[test]
    fn nothing_in_it_is_an_empty_list_and_links_are_texts() {
        let payload = shown(answer(&read("/3/0").echo, &entries(vec![]), None));
        assert_eq!(payload["data"]["content"], json!([]));
        let content = Some(Content::Links(vec!["</3/0/9>;pmin=5".into()]));
        let outcome = Outcome { code: Code::CONTENT, content, reason: None };
        assert_eq!(shown(answer(&read("/3").echo, &outcome, None))["data"]["content"], json!(["</3/0/9>;pmin=5"]));
    }

    #[test]
    fn a_notification_has_its_number_and_the_first_answer_only_one_that_is_not_zero() {
        let echo = read("/3/0/9").echo;
        let outcome = entries(vec![Value::Integer(1)]);
        let notification = shown(notification(&echo, &outcome, Some(0)));
        assert_eq!((&notification["msgType"], &notification["seqNum"]), (&json!("notify"), &json!(0)));
        assert_eq!(notification["reqID"], 7);
        assert_eq!(shown(answer(&echo, &outcome, Some(3)))["seqNum"], 3);
        assert_eq!(shown(answer(&echo, &outcome, Some(0))).get("seqNum"), None);
    }

    #[test]
    fn an_ack_has_no_data_and_what_failed_has_the_command_s() {
        let command = read("/3/0/9");
        assert_eq!(shown(acknowledged(&command.echo)), json!({ "reqID": 7, "msgType": "ack", "cacheID": [1, null] }));
        for (payload, msg_type) in [(reset(&command), "coap_reset"), (timed_out(&command), "coap_timeout")] {
            let expected =
                json!({ "reqID": 7, "msgType": msg_type, "cacheID": [1, null], "data": { "path": "/3/0/9" } });
            assert_eq!(shown(payload), expected);
        }
    }

    /// As large as 1 KiB a value comes back, beyond it its size: of an Opaque its bytes, not those of its base64.
    #[test]
    fn a_large_value_of_an_unanswered_command_is_its_size() {
        let image = "A".repeat(4000);
        let (largest, larger) = ("x".repeat(1022), "x".repeat(1023));
        let value = |value: &str, kind: &str| json!({ "path": "/5/0/0", "type": kind, "value": value, "more": 1.0 });
        let size = |bytes: usize, kind: &str| json!({ "path": "/5/0/0", "type": kind, "value": { "bytes": bytes }, "more": 1.0 });
        for (sent, data) in [
            (("write", value(&image, "Opaque")), size(3000, "Opaque")),
            (("write", value(&largest, "String")), value(&largest, "String")),
            (("write", value(&larger, "String")), size(1023, "String")),
            (
                (
                    "write",
                    json!({ "basePath": "/5/0", "content": [
                    { "path": "0", "type": "Opaque", "value": image }, { "path": 3, "type": "Integer", "value": 7 } ] }),
                ),
                json!({ "basePath": "/5/0", "content": [
                    { "path": "0", "type": "Opaque", "value": { "bytes": 3000 } },
                    { "path": 3, "type": "Integer", "value": 7 } ] }),
            ),
            (
                (
                    "create",
                    json!({ "basePath": "/5", "content": [{ "path": "1/0", "type": "Opaque", "value": image }] }),
                ),
                json!({ "basePath": "/5", "content": [{ "path": "1/0", "type": "Opaque", "value": { "bytes": 3000 } }] }),
            ),
            (
                ("execute", json!({ "path": "/5/0/2", "args": larger })),
                json!({ "path": "/5/0/2", "args": { "bytes": 1023 } }),
            ),
        ] {
            let (msg_type, written) = sent;
            let command = command(&json!({ "reqID": 7, "msgType": msg_type, "data": written }));
            for (payload, msg_type) in [(reset(&command), "coap_reset"), (timed_out(&command), "coap_timeout")] {
                assert_eq!(shown(payload), json!({ "reqID": 7, "msgType": msg_type, "data": data }));
            }
        }
        let hex = "7a".repeat(1000);
        let command = command(&json!({ "msgType": "write", "encoding": "hex",
            "data": { "path": "/3/0/14", "type": "String", "value": hex } }));
        assert_eq!(shown(timed_out(&command))["data"]["value"], json!({ "bytes": 1000 }));
    }

    #[test]
    fn numbers_come_back_as_they_were_written() {
        let registration = registration(&["ep=dev-7"], "");
        let text = r#"{"reqID":123456789012345678901234567890,"f":1.50E+3,"msgType":"read","data":{"path":"/3/0/9","n":1e400}}"#;
        let refused = downlink::parse(text.as_bytes(), &registration, &Model::default());
        assert!(refused.is_err(), "what it means has to be read");
        let text = text.replace("1e400", "1.0e2");
        let command = downlink::parse(text.as_bytes(), &registration, &Model::default()).unwrap();
        let payload = String::from_utf8(timed_out(&command)).unwrap();
        assert!(payload.contains(r#""reqID":123456789012345678901234567890,"f":1.50E+3,"#), "{payload}");
        assert!(payload.contains(r#""data":{"path":"/3/0/9","n":1.0e2}"#), "{payload}");
        let payload = String::from_utf8(answer(&command.echo, &entries(vec![]), Some(1))).unwrap();
        assert!(payload.contains(r#""reqID":123456789012345678901234567890,"f":1.50E+3,"#), "{payload}");
    }

    #[test]
    fn a_refusal_says_why_whatever_came() {
        let registration = registration(&["ep=dev-7"], "");
        for (payload, echoed) in [
            ("x", json!({ "msgType": "error", "data": { "reqPath": null } })),
            ("[1]", json!({ "msgType": "error", "data": { "reqPath": null } })),
            (r#"{"a":1}"#, json!({ "a": 1, "msgType": "error", "data": { "reqPath": null } })),
            (r#"{"msgType":7,"data":{"path":"/3"}}"#, json!({ "msgType": "error", "data": { "reqPath": "/3" } })),
            (
                r#"{"msgType":"reboot","data":{"path":null,"basePath":"/3?a"}}"#,
                json!({ "msgType": "reboot", "data": { "reqPath": "/3" } }),
            ),
        ] {
            let refusal = downlink::parse(payload.as_bytes(), &registration, &Model::default()).unwrap_err();
            let mut expected = echoed;
            expected["data"]["code"] = "4.00".into();
            expected["data"]["codeMsg"] = "bad_request".into();
            expected["data"]["reason"] = refusal.reason.as_str().into();
            assert_eq!(shown(refused(&refusal.echo, &refusal.reason)), expected, "{payload}");
        }
    }

    #[test]
    fn a_code_outside_the_list_is_passed_on_as_unknown() {
        let outcome = Outcome { code: Code::of(4, 18), content: None, reason: None };
        let data = shown(answer(&read("/3").echo, &outcome, None))["data"].clone();
        assert_eq!(data, json!({ "reqPath": "/3", "code": "4.18", "codeMsg": "unknown" }));
        assert_eq!(code_message(Code::CONFLICT), "conflict");
        assert_eq!(code_message(Code::of(2, 31)), "continue");
    }

    #[test]
    fn a_report_is_the_whole_registration_but_the_password() {
        let query = ["ep=dev-7", "lt=300", "lwm2m=1.1", "b=U", "Q", "imei=9", "password=pw1", "objectList=x"];
        let full = registration(&query, "</m2m>;rt=\"oma.lwm2m\",</m2m/1/0>;ver=1.1,</4/0>");
        let data = json!({ "ep": "dev-7", "lt": 300, "lwm2m": "1.1", "b": "U", "Q": "", "imei": "9",
            "alternatePath": "/m2m", "objectList": ["/1/0", "/4/0"] });
        assert_eq!(shown(register(&full, Proven::Untold)), json!({ "msgType": "register", "data": data }));
        assert_eq!(shown(update(&full, Proven::Untold)), json!({ "msgType": "update", "data": data }));
        let bare = registration(&["ep=dev-7", "lt=300"], "");
        assert_eq!(shown(register(&bare, Proven::Untold))["data"], json!({ "ep": "dev-7", "lt": 300, "lwm2m": "1.0" }));
    }
}
