//! Plays cases of JSON and bytes that need no gateway: TLV as bytes and as trees, and commands from JSON to a CoAP
//! request and from a CoAP response to JSON. They are read from the file that `LWM2M_VECTORS` names, or else from
//! `../shared/spec/vectors.json`; those of LwM2M 1.1 and 1.2 from `LWM2M_VECTORS_11` or
//! `../shared/spec/vectors-11.json`.

mod lwm2m_11;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Request, Response};
use lwm2m_core::lwm2m::codec::tlv::{self, Tlv};
use lwm2m_core::lwm2m::codec::{DecodeContext, UndefinedResources};
use lwm2m_core::lwm2m::format_choice::Attempts;
use lwm2m_core::lwm2m::model::Model;
use lwm2m_core::lwm2m::register::Registration;
use lwm2m_core::mqtt::downlink::{self, CommandContext};
use lwm2m_core::mqtt::uplink;
use serde_json::Value;

/// The time of the wall clock when payloads come.
const NOW: Duration = Duration::from_secs(1_700_000_000);

#[test]
fn every_tlv_vector_is_the_same_tree_in_both_directions() {
    let cases = cases("tlv_codec");
    for case in &cases {
        let (bytes, tree) = tlv_case(case);
        assert_eq!(tlv::parse(&bytes), Ok(tree.clone()), "{}", case["name"]);
        assert_eq!(tlv::encode(&tree), bytes, "{}", case["name"]);
    }
}

#[test]
fn every_command_vector_is_its_request_and_its_answer() {
    let model = model();
    for case in cases("command") {
        let registration = registration(case["setup"]["alternate_path"].as_str().expect("an alternate path"));
        let payload = match &case["downlink"]["payload_raw"] {
            Value::String(raw) => raw.clone().into_bytes(),
            _ => case["downlink"]["payload"].to_string().into_bytes(),
        };
        let uplinks = match &case["uplink"] {
            Value::Array(list) => list.clone(),
            Value::Null => Vec::new(),
            single => vec![single.clone()],
        };
        match downlink::parse(&payload, command_context(&registration, &model)) {
            Ok(command) => check_exchange(&case, &command, &registration, &model, &uplinks),
            Err(refusal) => {
                assert_eq!(case["coap_request"], Value::Null, "{}: {}", case["name"], refusal.reason);
                check_uplink(&case, &uplinks[0]["payload"], &uplink::refused(&refusal.echo, &refusal.reason));
            }
        }
    }
}

fn check_exchange(
    case: &Value,
    command: &lwm2m_core::command::Command,
    registration: &Registration,
    model: &Model,
    uplinks: &[Value],
) {
    let formats = Attempts::first(&command.operation, registration).formats();
    check_request(case, &command.operation.request_in(formats, registration));
    let responses = match &case["coap_response"] {
        Value::Array(list) => list.clone(),
        single => vec![single.clone()],
    };
    assert_eq!(responses.len(), uplinks.len(), "{}", case["name"]);
    for (at, (response, expected)) in responses.iter().zip(uplinks).enumerate() {
        let written = if response["empty"] == true {
            let reset = response["type"] == "RST";
            if reset { uplink::reset(command) } else { uplink::acknowledged(&command.echo) }
        } else {
            let seq_num = response["observe"].as_u64().map(|number| number as u32);
            let outcome = command.operation.outcome(&response_of(response), decode_context(registration, model));
            match (at, seq_num) {
                (1.., Some(seq_num)) => uplink::notification(&command.echo, &outcome, Some(seq_num)),
                _ => uplink::answer(&command.echo, &outcome, seq_num),
            }
        };
        check_uplink(case, &expected["payload"], &written);
    }
}

fn command_context<'a>(registration: &'a Registration, model: &'a Model) -> CommandContext<'a> {
    CommandContext { registration, model, composite_paths: 128 }
}

fn decode_context<'a>(registration: &'a Registration, model: &'a Model) -> DecodeContext<'a> {
    let undefined = UndefinedResources::Refuse;
    DecodeContext { registration, model, undefined, unix_time: NOW, max_entries: 10_000 }
}

fn check_request(case: &Value, request: &Request) {
    let name = &case["name"];
    let expected = &case["coap_request"];
    let texts = |number| request.options.texts(number).expect("text");
    assert_eq!(Value::from(texts(number::URI_PATH)), expected["uri_path"], "{name}");
    assert_eq!(Value::from(texts(number::URI_QUERY)), expected["uri_query"], "{name}");
    assert_eq!(Value::from(request.method.to_string()), expected["code"], "{name}");
    assert_eq!(Value::from(hex(&request.payload)), expected["payload_hex"], "{name}");
    for (member, number) in [("accept", number::ACCEPT), ("observe", number::OBSERVE)] {
        let value = request.options.uint(number).expect("a number");
        assert_eq!(value.map(u64::from), expected[member].as_u64(), "{name}: {member}");
    }
    if !request.payload.is_empty() {
        let format = request.options.content_format();
        assert_eq!(format.map(u64::from), expected["content_format"].as_u64(), "{name}");
    }
}

fn check_uplink(case: &Value, expected: &Value, written: &[u8]) {
    let mut written: Value = serde_json::from_slice(written).expect("JSON");
    // A reason may always stand there in addition.
    if let Some(data) = written.get_mut("data").and_then(Value::as_object_mut)
        && expected["data"]["reason"].is_null()
    {
        data.remove("reason");
    }
    assert_eq!(&written, expected, "{}", case["name"]);
}

fn response_of(response: &Value) -> Response {
    let (class, detail) = response["code"].as_str().and_then(|code| code.split_once('.')).expect("a code");
    let mut made = Response::new(Code::of(class.parse().expect("digits"), detail.parse().expect("digits")));
    if let Some(format) = response["content_format"].as_u64() {
        made.options.add_uint(number::CONTENT_FORMAT, format as u32);
    }
    made.payload = bytes(&response["payload_hex"]);
    made
}

fn registration(alternate_path: &str) -> Registration {
    let mut request = Request::new(Code::POST);
    request.options.add_text(number::URI_QUERY, "ep=dev-7");
    request.payload = match alternate_path {
        "/" => b"</1/0>,</3/0>".to_vec(),
        path => format!("<{path}>;rt=\"oma.lwm2m\",<{path}/3/0>").into_bytes(),
    };
    Registration::from_register(&request, &(Duration::from_secs(1)..=Duration::from_secs(86400)), None)
        .expect("accepted")
}

fn model() -> Model {
    model_with(&[])
}

/// The shipped definitions, and these files.
fn model_with(files: &[PathBuf]) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xml");
    let shipped = fs::read_dir(folder).expect("the shipped definitions").map(|entry| entry.expect("an entry").path());
    let files = shipped.chain(files.iter().cloned());
    let files = files.map(|path| (path.display().to_string(), fs::read(&path).expect("a file that can be read")));
    let (model, broken) = Model::from_files(files.collect::<Vec<_>>());
    assert_eq!(broken, []);
    model
}

/// One vector tells its 65536 zero bytes in words.
fn tlv_case(case: &Value) -> (Vec<u8>, Vec<Tlv<'static>>) {
    let mut payload = bytes(&case["coap_response"]["payload_hex"]);
    let mut tree: Vec<_> = case["tlv_tree"].as_array().expect("a tree").iter().map(tree).collect();
    if case["coap_response"]["payload_note"].is_string() {
        payload.extend(vec![0; 65536]);
        tree = vec![Tlv::Resource { id: tree[0].id(), value: Cow::Owned(vec![0; 65536]) }];
    }
    (payload, tree)
}

fn tree(element: &Value) -> Tlv<'static> {
    let id = element["id"].as_u64().and_then(|id| u16::try_from(id).ok()).expect("an id");
    let items = || element["items"].as_array().expect("items").iter().map(tree).collect();
    let value = || Cow::Owned(bytes(&element["value_hex"]));
    match element["kind"].as_str() {
        Some("object_instance") => Tlv::ObjectInstance { id, items: items() },
        Some("multiple_resource") => Tlv::MultipleResource { id, items: items() },
        Some("resource") => Tlv::Resource { id, value: value() },
        Some("resource_instance") => Tlv::ResourceInstance { id, value: value() },
        other => panic!("{other:?} is no kind"),
    }
}

/// Returns a file or folder that a variable names, or else the one beside the project, if it is there.
fn beside(variable: &str, path: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    std::env::var_os(variable).map(PathBuf::from).or_else(|| beside.exists().then_some(beside))
}

fn read_cases(variable: &str, path: &str) -> Vec<Value> {
    let Some(file) = beside(variable, path) else {
        println!("skipped: no vectors ({variable})");
        return Vec::new();
    };
    let text = fs::read(&file).expect("a file that can be read");
    serde_json::from_slice(&text).expect("a list of cases")
}

fn cases(kind: &str) -> Vec<Value> {
    let all = read_cases("LWM2M_VECTORS", "spec/vectors.json");
    if all.is_empty() {
        return all;
    }
    let cases: Vec<_> = all.into_iter().filter(|case| case["kind"] == kind).collect();
    assert!(!cases.is_empty(), "no case of kind {kind}");
    cases
}

fn bytes(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap_or_default();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
