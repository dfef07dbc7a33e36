//! `trace`: the CoAP messages of a device, printed or as a pcap file.
//!
//! 1. A trace is begun, and asked for its new messages at an interval.
//! 2. A message of a device is printed when its outcome is known, or a turn later.
//! 3. At Ctrl-C, or when the trace has ended, the trace is removed.

mod pcap;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Interval, interval};

use super::arguments::TraceArguments;
use super::client::{ApiClient, ApiPath};
use super::error::{ProblemDetails, RemoteError, RemoteExit};
use super::interrupt::Interrupt;
use super::output::{Cell, CommandOutput, Table, Tone, text_of, time_of_day};

use pcap::PcapFollower;

/// Interval at which the gateway is asked for new messages.
const INTERVAL: Duration = Duration::from_millis(500);

/// Maximum length of a payload that is shown as text, in bytes.
const LONGEST_TEXT: usize = 200;

const COLUMNS: [&str; 8] = ["UTC", "DIRECTION", "PEER", "TYPE", "CODE", "MID", "TOKEN", "DETAILS"];
const WIDTHS: [usize; 7] = [12, 9, 21, 4, 4, 5, 16];

/// Starts a trace, prints its messages until Ctrl-C or its end, and removes it.
pub(super) async fn trace(
    client: &ApiClient,
    arguments: &TraceArguments,
    output: &mut CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    let mut interrupt = Interrupt::new()?;
    let mut sink = match &arguments.pcap {
        Some(path) => TraceSink::Pcap(PcapFile::create(path)?),
        None => TraceSink::Table(Table::new(&COLUMNS).with_widths(&WIDTHS)),
    };
    let (_, begun) = client.post(ApiPath::new(&["traces"]), &request(arguments)).await?;
    let id = begun.value["id"].as_str().ok_or_else(|| client.unexpected("a trace without an ID"))?;
    let mut follower = TraceReader { client, id, printed: 0, seen: 0 };
    let mut due = interval(INTERVAL);
    let followed = follower.follow(&mut sink, &mut due, &mut interrupt, output).await;
    let removed = client.delete(ApiPath::new(&["traces", id])).await;
    for done in [followed, removed] {
        match done {
            // Somebody else has removed it.
            Err(RemoteError::Problem(ProblemDetails { status: 404, .. })) => {}
            other => other?,
        }
    }
    Ok(RemoteExit::Done)
}

fn request(arguments: &TraceArguments) -> Value {
    let TraceArguments { endpoint, address, identity, minutes, .. } = arguments;
    let mut request = json!({ "minutes": minutes });
    for (member, value) in [("endpoint", endpoint), ("address", address), ("identity", identity)] {
        if let Some(value) = value {
            request[member] = value.as_str().into();
        }
    }
    request
}

/// The destination of the messages.
enum TraceSink {
    Table(Table),
    Pcap(PcapFile),
}

/// Asks for the messages of a trace.
struct TraceReader<'a> {
    client: &'a ApiClient,
    id: &'a str,
    /// Number of the last message that was written.
    printed: u64,
    /// Number of the last message that the turn before had.
    seen: u64,
}

impl TraceReader<'_> {
    /// Writes messages until a signal comes or the trace has ended. What has come before the signal is written too.
    async fn follow(
        &mut self,
        sink: &mut TraceSink,
        due: &mut Interval,
        interrupt: &mut Interrupt,
        output: &CommandOutput,
    ) -> Result<(), RemoteError> {
        loop {
            let is_interrupted = tokio::select! {
                _ = due.tick() => false,
                () = interrupt.received() => true,
            };
            let messages = self.new_messages(is_interrupted, output).await?;
            match sink {
                TraceSink::Table(table) => write_messages(&messages.new, table, output)?,
                TraceSink::Pcap(file) if messages.have_come || messages.is_last || !file.has_begun => {
                    file.fetch(self.client, self.id).await?;
                }
                TraceSink::Pcap(_) => {}
            }
            if is_interrupted || messages.is_last {
                return Ok(());
            }
        }
    }

    async fn new_messages(&mut self, is_last: bool, output: &CommandOutput) -> Result<NewMessages, RemoteError> {
        let path = ApiPath::new(&["traces", self.id]).with("after", &self.printed.to_string());
        let trace = self.client.get(path).await?.value;
        let is_last = is_last || trace["running"] == false;
        let mut new = trace["messages"].as_array().cloned().unwrap_or_default();
        let number = |message: &Value| message["n"].as_u64().unwrap_or_default();
        // The outcome of a message follows the message.
        let is_settled = |message: &Value| {
            let awaits = message["direction"] == "in" && message["outcome"].is_null();
            is_last || !awaits || number(message) <= self.seen
        };
        let newest = new.last().map_or(self.seen, number);
        let settled = new.iter().take_while(|message| is_settled(message)).count();
        new.truncate(settled);
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            let missing = number(first).saturating_sub(self.printed + 1);
            if missing > 0 && self.printed > 0 {
                output.notice(&format!("{missing} messages are missing: the gateway keeps the newest only"));
            }
            self.printed = number(last);
        }
        let have_come = newest > self.seen;
        self.seen = newest;
        Ok(NewMessages { new, have_come, is_last })
    }
}

struct NewMessages {
    /// The messages to print.
    new: Vec<Value>,
    /// Whether there are messages that the turn before did not have.
    have_come: bool,
    /// Whether the trace has ended.
    is_last: bool,
}

fn write_messages(messages: &[Value], table: &mut Table, output: &CommandOutput) -> io::Result<()> {
    if output.json {
        return messages.iter().try_for_each(|message| output.line(&message.to_string()));
    }
    table.write(output, &messages.iter().map(message_row).collect::<Vec<_>>())
}

fn message_row(message: &Value) -> Vec<Cell> {
    let is_dtls = message["dtls"] == true;
    let code = text_of(&message["code"]);
    let tone = if matches!(code.as_bytes().first(), Some(b'4' | b'5')) { Tone::Bad } else { Tone::Neutral };
    let kind = if is_dtls { "DTLS".to_owned() } else { text_of(&message["type"]) };
    vec![
        Cell::from(time_of_day(&message["at"])),
        Cell::from(&message["direction"]),
        Cell::from(&message["peer"]),
        Cell::from(kind),
        Cell::toned(code, tone),
        Cell::from(&message["mid"]),
        Cell::from(&message["token"]),
        Cell::from(if is_dtls { dtls_details(message) } else { details(message) }),
    ]
}

/// Returns the name of the code, the options, the values and the outcome of a CoAP message.
fn details(message: &Value) -> String {
    let mut parts = vec![text_of(&message["name"]), joined(message, "Uri-Path", "/")];
    let others = message["options"].as_array().into_iter().flatten().filter(|option| !is_joined(option));
    parts.extend(joined_query(message));
    for option in others {
        let name = option["name"].as_str().map_or_else(|| text_of(&option["number"]), str::to_owned);
        parts.push(format!("{name}={}", text_of(&option["value"])));
    }
    parts.push(joined(message, "Location-Path", "/"));
    parts.push(payload(&message["payload"]));
    parts.push(text_of(&message["hex"]));
    if message["again"] == true {
        parts.push("(again)".to_owned());
    }
    parts.extend(message["outcome"].as_str().map(|outcome| format!("({outcome})")));
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

/// Returns the values of a payload, its text, or its size.
fn payload(payload: &Value) -> String {
    match payload["entries"].as_array() {
        Some(entries) => {
            let entry = |entry: &Value| {
                format!("{}={}{}", text_of(&entry["path"]), text_of(&entry["value"]), text_of(&entry["units"]))
            };
            entries.iter().map(entry).collect::<Vec<_>>().join(" ")
        }
        None if payload["bytes"].is_null() => String::new(),
        None if payload["hidden"] == true => format!("{} hidden bytes", text_of(&payload["bytes"])),
        None => match short_text(&text_of(&payload["hex"])) {
            Some(text) => format!("{text:?}"),
            None => format!("{} bytes", text_of(&payload["bytes"])),
        },
    }
}

/// Returns the text of hexadecimal digits, such as a diagnostic payload or links; `None` if it is none, or too long.
fn short_text(digits: &str) -> Option<String> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_short = rest.is_empty() && (1..=LONGEST_TEXT).contains(&pairs.len());
    let bytes: Vec<u8> = if is_short { pairs.iter().map(byte).collect::<Option<_>>()? } else { return None };
    String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control))
}

fn is_joined(option: &Value) -> bool {
    matches!(option["name"].as_str(), Some("Uri-Path" | "Location-Path" | "Uri-Query"))
}

/// Joins the values of an option that a message has several times, each after the separator.
fn joined(message: &Value, name: &str, separator: &str) -> String {
    let options = message["options"].as_array().into_iter().flatten();
    let values = options.filter(|option| option["name"] == name).map(|option| text_of(&option["value"]));
    values.map(|value| format!("{separator}{value}")).collect()
}

fn joined_query(message: &Value) -> Option<String> {
    joined(message, "Uri-Query", "&").strip_prefix('&').map(|query| format!("?{query}"))
}

/// Returns what happened in DTLS, with the members that have no column.
fn dtls_details(entry: &Value) -> String {
    let members = entry.as_object().into_iter().flatten();
    let others = members.filter(|(name, value)| {
        !matches!(name.as_str(), "n" | "at" | "dtls" | "event" | "peer" | "reason") && !value.is_null()
    });
    let mut parts = vec![text_of(&entry["event"]), text_of(&entry["reason"])];
    parts.extend(others.map(|(name, value)| format!("{name}={}", text_of(value))));
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

/// A pcap file that grows with the trace.
struct PcapFile {
    output: Box<dyn Write>,
    follower: PcapFollower,
    /// Whether it has its header, without which Wireshark does not begin.
    has_begun: bool,
}

impl PcapFile {
    fn create(path: &Path) -> Result<Self, RemoteError> {
        let output: Box<dyn Write> = match path.to_str() {
            Some("-") => Box::new(io::stdout()),
            _ => {
                let failed = |error| RemoteError::File { file: path.display().to_string(), error };
                Box::new(File::create(path).map_err(failed)?)
            }
        };
        Ok(Self { output, follower: PcapFollower::default(), has_begun: false })
    }

    /// Gets the messages that the gateway keeps, and adds those that are new.
    async fn fetch(&mut self, client: &ApiClient, id: &str) -> Result<(), RemoteError> {
        let whole = client.download(ApiPath::new(&["traces", &format!("{id}.pcap")])).await?;
        let new = self.follower.new_part(&whole).ok_or_else(|| client.unexpected("no pcap file"))?;
        self.has_begun = true;
        self.output.write_all(&new)?;
        Ok(self.output.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_have_path_options_values_and_the_outcome() {
        let option = |name: &str, value: &str| json!({ "number": 6, "name": name, "value": value });
        let message = json!({ "name": "Content", "options": [option("Observe", "12"), option("Location-Path", "rd")],
            "payload": { "bytes": 12, "entries": [{ "path": "/3303/0/5700", "value": 21.5, "units": "Cel" }] },
            "outcome": "notification", "again": true });
        assert_eq!(details(&message), "Content Observe=12 /rd /3303/0/5700=21.5Cel (again) (notification)");
        let options = [("Uri-Path", "3"), ("Uri-Path", "0"), ("Uri-Query", "pmin=1"), ("Uri-Query", "pmax=2")];
        let options = options.map(|(name, value)| option(name, value));
        let put = json!({ "name": "PUT", "options": options, "payload": { "bytes": 3, "hex": "010203" } });
        assert_eq!(details(&put), "PUT /3/0 ?pmin=1&pmax=2 3 bytes");
        let refused = json!({ "name": "Bad Request", "options": [], "payload": { "bytes": 2, "hex": "6e6f" } });
        assert_eq!(details(&refused), "Bad Request \"no\"");
        let hidden = json!({ "name": "POST", "options": [], "payload": { "bytes": 2, "hex": "2a2a", "hidden": true } });
        assert_eq!(details(&hidden), "POST 2 hidden bytes");
        assert_eq!(details(&json!({ "name": "Empty", "payload": null, "options": [] })), "Empty");
        assert_eq!(details(&json!({ "options": [], "hex": "400212", "outcome": "no CoAP" })), "400212 (no CoAP)");
    }

    #[test]
    fn an_entry_about_dtls_has_its_reason_and_its_members() {
        let entry = json!({ "n": 1, "at": "", "dtls": true, "event": "handshakeFailed", "peer": "10.0.0.9:1",
            "identity": "ep1", "reason": "unknown identity" });
        assert_eq!(dtls_details(&entry), "handshakeFailed unknown identity identity=ep1");
    }
}
