//! The commands for a device: read, write, execute and the others. Their body is the JSON of the MQTT interface.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::arguments::{TargetArguments, ValueArguments, WaitArguments};
use super::client::{ApiClient, ApiPath};
use super::document::Document;
use super::error::{RemoteError, RemoteExit};
use super::output::{Cell, CommandOutput, Table, Tone, text_of};

/// Maximum time for which one request waits at the gateway.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Interval at which a command that still waits is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// The resource that resets a device to factory settings (OMA LwM2M Core, object 3).
const FACTORY_RESET: &str = "/3/0/5";

/// A command as the MQTT interface has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OperationBody {
    msg_type: &'static str,
    data: Value,
    /// Whether an observation ends with the stream of events of whoever asks.
    is_for_stream: bool,
}

/// The consent to a command that changes much.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Confirmation {
    /// Do not ask before a command that changes much: execute, create, delete, a write to object 1, and the removal of
    /// a key
    #[arg(long)]
    yes: bool,
}

impl OperationBody {
    /// Returns a command that has nothing but a path.
    pub(super) fn plain(msg_type: &'static str, path: &str) -> Self {
        Self::new(msg_type, json!({ "path": path }))
    }

    pub(super) fn read(path: &str, more: Vec<String>) -> Self {
        if more.is_empty() {
            return Self::plain("read", path);
        }
        let paths: Vec<String> = std::iter::once(path.to_owned()).chain(more).collect();
        Self::new("read-composite", json!({ "paths": paths }))
    }

    /// Returns a write of the value, or of the content of the file.
    pub(super) fn write(path: &str, arguments: &ValueArguments) -> Result<Self, RemoteError> {
        let (value, kind) = match (&arguments.value, &arguments.file) {
            (Some(value), _) => (value.clone(), arguments.kind.clone()),
            (None, Some(file)) => value_of_file(file, arguments.kind.clone())?,
            (None, None) => return Err(RemoteError::Usage("a write needs a value or --file".to_owned())),
        };
        let mut data = json!({ "path": path });
        if let Some(kind) = kind {
            data["type"] = kind.into();
        }
        data["value"] = value.into();
        Ok(Self::new("write", data))
    }

    pub(super) fn execute(path: &str, arguments: Option<String>) -> Self {
        let mut request = Self::plain("execute", path);
        if let Some(arguments) = arguments {
            request.data["args"] = arguments.into();
        }
        request
    }

    /// Returns a create of `/OBJECT/INSTANCE`, or of `/OBJECT`, where the device chooses the instance.
    pub(super) fn create(path: &str, resources: &[(String, String)]) -> Result<Self, RemoteError> {
        let wrong = || RemoteError::Usage(format!("{path}: expected /OBJECT or /OBJECT/INSTANCE"));
        let segments: Vec<&str> = path.strip_prefix('/').ok_or_else(wrong)?.split('/').collect();
        let (object, instance) = match segments[..] {
            [object] => (object, "*"),
            [object, instance] => (object, instance),
            _ => return Err(wrong()),
        };
        let item = |(id, value): &(String, String)| json!({ "path": format!("{instance}/{id}"), "value": value });
        let content: Vec<Value> = resources.iter().map(item).collect();
        Ok(Self::new("create", json!({ "basePath": format!("/{object}"), "content": content })))
    }

    /// Returns a write of attributes; what is a number is sent as one.
    pub(super) fn write_attributes(path: &str, attributes: &[(String, String)]) -> Self {
        let mut data = Map::from_iter([("path".to_owned(), Value::from(path))]);
        for (name, value) in attributes {
            let number = serde_json::from_str::<Value>(value).ok().filter(Value::is_number);
            data.insert(name.clone(), number.unwrap_or_else(|| value.as_str().into()));
        }
        Self::new("write-attr", data.into())
    }

    /// Returns the same observation, which ends soon after the stream of events of whoever asks.
    pub(crate) fn for_stream(self) -> Self {
        Self { is_for_stream: true, ..self }
    }

    fn new(msg_type: &'static str, data: Value) -> Self {
        Self { msg_type, data, is_for_stream: false }
    }

    fn body(&self, ttl: Option<Duration>) -> Value {
        let mut body = json!({ "msgType": self.msg_type });
        if let Some(ttl) = ttl {
            body["mheaders"] = json!({ "ttl": ttl.as_secs() });
        }
        body["data"] = self.data.clone();
        body
    }
}

impl Confirmation {
    /// Asks at the terminal; without one, and without `--yes`, the command is not sent.
    pub(crate) fn ask(self, what: &str, target: &TargetArguments) -> Result<(), RemoteError> {
        if self.yes {
            return Ok(());
        }
        let TargetArguments { endpoint, path } = target;
        let action = format!("{what} {path} at {endpoint}");
        if path == FACTORY_RESET {
            let question = format!("{path} resets {endpoint} to factory settings. Type its name to go on: ");
            return confirm(&action, &question, endpoint);
        }
        confirm(&action, &format!("{action}? [y/N] "), "y")
    }

    /// Asks before a generated key is removed.
    pub(crate) fn ask_for_key(self, identity: &str) -> Result<(), RemoteError> {
        if self.yes {
            return Ok(());
        }
        let action = format!("remove the key of {identity}");
        confirm(&action, &format!("{action}? [y/N] "), "y")
    }

    /// Asks before a write to the server object: it can make a device unreachable.
    pub(crate) fn ask_for_write(self, target: &TargetArguments) -> Result<(), RemoteError> {
        if target.path == "/1" || target.path.starts_with("/1/") { self.ask("write", target) } else { Ok(()) }
    }
}

/// Asks the question at the terminal. The error is that of another answer than the expected one, or of no terminal.
fn confirm(action: &str, question: &str, expected: &str) -> Result<(), RemoteError> {
    if !io::stdin().is_terminal() {
        return Err(RemoteError::Usage(format!("{action} needs --yes, or a terminal to ask at")));
    }
    let answer = answer_to(question)?;
    if answer == expected || (expected == "y" && answer.eq_ignore_ascii_case("yes")) {
        return Ok(());
    }
    Err(RemoteError::Usage("not confirmed: nothing was sent".to_owned()))
}

/// Sends a command, waits for its answer, and writes it.
pub(super) async fn send(
    client: &ApiClient,
    endpoint: &str,
    request: &OperationBody,
    waiting: &WaitArguments,
    output: &mut CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    let document = ask(client, endpoint, request, waiting).await?;
    if output.json {
        output.document(&document)?;
        return Ok(exit_of(&document.value, waiting.wait));
    }
    write_result(&document.value, waiting.wait, output)
}

/// Sends a command and waits; returns the state of the command when it is done, or when the time is over.
pub(super) async fn ask(
    client: &ApiClient,
    endpoint: &str,
    request: &OperationBody,
    waiting: &WaitArguments,
) -> Result<Document, RemoteError> {
    let first = waiting.wait.min(LONGEST_WAIT);
    let path = ApiPath::new(&["devices", endpoint, "commands"])
        .with("wait", &first.as_secs_f64().to_string())
        .with_some("force", waiting.force.then_some("true"))
        .with_some("while", request.is_for_stream.then_some("stream"));
    let (_, mut document) = client.post(path, &request.body(waiting.ttl)).await?;
    let mut left = waiting.wait.saturating_sub(first);
    while document.value["state"] == "pending" && !left.is_zero() {
        let Some(id) = document.value["id"].as_str() else { break };
        sleep(INTERVAL.min(left)).await;
        left = left.saturating_sub(INTERVAL);
        document = client.get(ApiPath::new(&["commands", id])).await?;
    }
    Ok(document)
}

/// Returns the exit code of a command in this state.
pub(crate) fn exit_of(command: &Value, wait: Duration) -> RemoteExit {
    if command["state"] == "pending" {
        return if wait.is_zero() { RemoteExit::Done } else { RemoteExit::Pending };
    }
    let code = command["answer"]["data"]["code"].as_str();
    match (command["outcome"].as_str(), code) {
        (Some("answered"), Some(code)) if code.starts_with('2') => RemoteExit::Done,
        (Some("answered"), _) => RemoteExit::DeviceError,
        _ => RemoteExit::NoAnswer,
    }
}

fn write_result(command: &Value, wait: Duration, output: &CommandOutput) -> Result<RemoteExit, RemoteError> {
    let exit = exit_of(command, wait);
    match exit {
        RemoteExit::Done if command["state"] == "pending" => write_pending(command, output)?,
        RemoteExit::Done => write_answer(&command["answer"], output)?,
        RemoteExit::DeviceError => {
            output.notice(&format!("the device answered {}", code_in_words(&command["answer"]["data"])));
        }
        RemoteExit::Pending => {
            output.notice(&waits_in_words(command));
        }
        RemoteExit::NoAnswer => output.notice(&outcome_in_words(command)),
        RemoteExit::Failed
        | RemoteExit::Usage
        | RemoteExit::NotRegistered
        | RemoteExit::NotAllowed
        | RemoteExit::Elsewhere => {}
    }
    Ok(exit)
}

fn write_pending(command: &Value, output: &CommandOutput) -> io::Result<()> {
    let row = ["id", "state", "place", "device", "expires"].map(|member| Cell::from(&command[member]));
    Table::new(&["COMMAND", "STATE", "PLACE", "DEVICE", "EXPIRES"]).write(output, &[row.to_vec()])
}

/// Writes the values of an answer, or the paths of a discover; an answer without content is its code.
pub(crate) fn write_answer(answer: &Value, output: &CommandOutput) -> io::Result<()> {
    let data = &answer["data"];
    let Some(content) = data["content"].as_array() else {
        let code = text_of(&data["code"]);
        let path = data["location"].as_str().or(data["reqPath"].as_str()).unwrap_or_default();
        let row = vec![Cell::from(path), Cell::toned(&code, Tone::of_code(&code)), Cell::from(&data["codeMsg"])];
        return Table::new(&["PATH", "CODE", "MEANING"]).write(output, &[row]);
    };
    let is_links = content.iter().any(Value::is_string);
    let header = if is_links { ["PATH", "ATTRIBUTES"] } else { ["PATH", "VALUE"] };
    let rows: Vec<_> = content.iter().map(|entry| if is_links { link_row(entry) } else { value_row(entry) }).collect();
    Table::new(&header).write(output, &rows)
}

/// Returns the row of an entry of a content.
pub(crate) fn value_row(entry: &Value) -> Vec<Cell> {
    vec![Cell::from(&entry["path"]), Cell::from(&entry["value"])]
}

/// Divides `</3/0/9>;pmin=5` into the path and the attributes.
fn link_row(link: &Value) -> Vec<Cell> {
    let link = text_of(link);
    let (path, attributes) = link.split_once('>').unwrap_or((&link, ""));
    vec![Cell::from(path.trim_start_matches('<')), Cell::from(attributes.trim_start_matches(';'))]
}

fn waits_in_words(command: &Value) -> String {
    let [id, place, device, expires] = ["id", "place", "device", "expires"].map(|member| text_of(&command[member]));
    match command["place"].as_u64() {
        None | Some(0) => format!("the command {id} was sent to the device, whose answer is not there yet"),
        Some(_) => format!("the command {id} still waits, at place {place}, until {expires}; the device is {device}"),
    }
}

fn code_in_words(data: &Value) -> String {
    let words = ["code", "codeMsg"].map(|member| text_of(&data[member])).join(" ");
    match data["reason"].as_str() {
        Some(reason) => format!("{words}: {reason}"),
        None => words,
    }
}

fn outcome_in_words(command: &Value) -> String {
    let reason = command["answer"]["data"]["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
    let words = match command["outcome"].as_str().unwrap_or_default() {
        "reset" => "the device rejected the message (Reset)",
        "timedOut" => "the device did not answer",
        "expired" => "the command expired before it could be sent",
        "refused" => "the gateway refused the command",
        "transferFailed" => "the transfer failed",
        "withdrawn" => "the command was withdrawn",
        "left" => "the registration of the device has ended",
        other => return format!("the command ended: {other}{reason}"),
    };
    format!("{words}{reason}")
}

fn value_of_file(file: &Path, kind: Option<String>) -> Result<(String, Option<String>), RemoteError> {
    let failed = |error| RemoteError::File { file: file.display().to_string(), error };
    let bytes = match file.to_str() {
        Some("-") => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
        }
        _ => fs::read(file),
    };
    let bytes = bytes.map_err(failed)?;
    match kind {
        Some(kind) if !kind.eq_ignore_ascii_case("opaque") => {
            let text = String::from_utf8(bytes).map_err(|_| failed(io::Error::other("not text (UTF-8)")))?;
            Ok((text, Some(kind)))
        }
        _ => Ok((BASE64.encode(bytes), Some("Opaque".to_owned()))),
    }
}

fn answer_to(question: &str) -> Result<String, RemoteError> {
    let mut error_output = io::stderr().lock();
    write!(error_output, "{}", super::output::printable(question))?;
    error_output.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn commands_are_those_of_the_mqtt_interface() {
        let value = |value: Option<&str>, kind: Option<&str>| ValueArguments {
            value: value.map(str::to_owned),
            kind: kind.map(str::to_owned),
            file: None,
        };
        for (request, msg_type, data) in [
            (OperationBody::read("/3/0", vec![]), "read", json!({ "path": "/3/0" })),
            (
                OperationBody::read("/3/0/0", vec!["/3303".to_owned()]),
                "read-composite",
                json!({ "paths": ["/3/0/0", "/3303"] }),
            ),
            (
                OperationBody::write("/1/0/1", &value(Some("60"), Some("Integer"))).unwrap(),
                "write",
                json!({ "path": "/1/0/1", "type": "Integer", "value": "60" }),
            ),
            (OperationBody::execute("/3/0/4", None), "execute", json!({ "path": "/3/0/4" })),
            (
                OperationBody::execute("/3/0/4", Some("0='now'".to_owned())),
                "execute",
                json!({ "path": "/3/0/4", "args": "0='now'" }),
            ),
            (
                OperationBody::create("/6/1", &pairs(&[("0", "48.1")])).unwrap(),
                "create",
                json!({ "basePath": "/6", "content": [{ "path": "1/0", "value": "48.1" }] }),
            ),
            (
                OperationBody::create("/6", &pairs(&[("0", "48.1")])).unwrap(),
                "create",
                json!({ "basePath": "/6", "content": [{ "path": "*/0", "value": "48.1" }] }),
            ),
            (
                OperationBody::write_attributes("/3303", &pairs(&[("pmin", "10"), ("gt", "25.5"), ("x", "a")])),
                "write-attr",
                json!({ "path": "/3303", "pmin": 10, "gt": 25.5, "x": "a" }),
            ),
        ] {
            assert_eq!((request.msg_type, &request.data), (msg_type, &data));
        }
        assert!(OperationBody::write("/1/0/1", &value(None, None)).is_err());
        assert!(OperationBody::create("/6/1/0", &[]).is_err() && OperationBody::create("6", &[]).is_err());
    }

    #[test]
    fn a_time_to_live_is_a_header_of_the_command() {
        let body = OperationBody::plain("read", "/3").body(Some(Duration::from_secs(60)));
        assert_eq!(body, json!({ "msgType": "read", "mheaders": { "ttl": 60 }, "data": { "path": "/3" } }));
    }

    #[test]
    fn the_exit_code_tells_how_the_command_ended() {
        let wait = Duration::from_secs(1);
        let answered =
            |code: &str| json!({ "state": "done", "outcome": "answered", "answer": { "data": { "code": code } } });
        assert_eq!(exit_of(&answered("2.05"), wait), RemoteExit::Done);
        assert_eq!(exit_of(&answered("4.04"), wait), RemoteExit::DeviceError);
        for outcome in ["reset", "timedOut", "expired", "refused", "transferFailed", "withdrawn", "left", "other"] {
            assert_eq!(exit_of(&json!({ "state": "done", "outcome": outcome }), wait), RemoteExit::NoAnswer);
        }
        let pending = json!({ "state": "pending", "id": "c1" });
        assert_eq!(exit_of(&pending, wait), RemoteExit::Pending);
        assert_eq!(exit_of(&pending, Duration::ZERO), RemoteExit::Done);
    }

    #[test]
    fn a_link_is_divided_into_its_path_and_its_attributes() {
        let row = |link: &str| link_row(&json!(link));
        assert_eq!(row("</3/0/9>;pmin=5;pmax=60"), [Cell::from("/3/0/9"), Cell::from("pmin=5;pmax=60")]);
        assert_eq!(row("</3/0/0>"), [Cell::from("/3/0/0"), Cell::from("")]);
    }
}
