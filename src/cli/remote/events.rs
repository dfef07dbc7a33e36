//! Streams of server-sent events, and the command `events`.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::client::{ApiPath, Client};
use super::error::{RemoteError, RemoteExit};
use super::interrupt::Interrupt;
use super::output::{Cell, Output, Table, text_of, time_of_day};

/// A gateway sends a comment at least each 15 s: a stream without one is broken.
const SILENCE: Duration = Duration::from_secs(60);
/// Maximum size of an event, in bytes.
const LARGEST_EVENT: usize = 1024 * 1024;

/// The members of a registration that are shown; `show` has the others.
const OF_REGISTRATION: [&str; 5] = ["address", "transport", "identity", "lwm2m", "lifetime"];

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSentEvent {
    pub id: Option<String>,
    pub name: String,
    pub data: Value,
}

/// A stream of events.
pub struct EventReader {
    body: Incoming,
    place: String,
    parser: EventParser,
    events: VecDeque<ServerSentEvent>,
}

/// Finds events in the bytes of a stream (HTML Living Standard, section 9.2, "Server-sent events").
#[derive(Debug, Default)]
struct EventParser {
    bytes: Vec<u8>,
    id: Option<String>,
    name: Option<String>,
    data: Vec<String>,
}

impl EventReader {
    pub fn new(body: Incoming, place: String) -> Self {
        Self { body, place, parser: EventParser::default(), events: VecDeque::new() }
    }

    /// Waits for the next event; `None` when the gateway ends the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<ServerSentEvent>, RemoteError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match timeout(SILENCE, self.body.frame()).await {
                Err(_) => return Err(self.broken("no sign of life")),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(self.broken(&error.to_string())),
                Ok(Some(Ok(frame))) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    self.events.extend(self.parser.parse(&bytes));
                    if self.parser.size() > LARGEST_EVENT {
                        return Err(self.broken("an event is too large"));
                    }
                }
            }
        }
    }

    fn broken(&self, reason: &str) -> RemoteError {
        RemoteError::Unreachable { place: self.place.clone(), reason: format!("the stream of events broke: {reason}") }
    }
}

impl EventParser {
    /// Returns the events that end in these bytes.
    fn parse(&mut self, bytes: &[u8]) -> Vec<ServerSentEvent> {
        self.bytes.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            events.extend(self.line(line.trim_end_matches(['\n', '\r'])));
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<ServerSentEvent> {
        if line.is_empty() {
            return self.finish();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => self.name = Some(value.to_owned()),
            "data" => self.data.push(value.to_owned()),
            // A comment has an empty field; other fields are for browsers.
            _ => {}
        }
        None
    }

    fn finish(&mut self) -> Option<ServerSentEvent> {
        let (name, data) = (self.name.take(), std::mem::take(&mut self.data));
        if data.is_empty() {
            return None;
        }
        let data = data.join("\n");
        let data = serde_json::from_str(&data).unwrap_or(Value::String(data));
        Some(ServerSentEvent { id: self.id.clone(), name: name.unwrap_or_else(|| "message".to_owned()), data })
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.data.iter().map(String::len).sum::<usize>()
    }
}

/// Prints the events of a device, or of all, until Ctrl-C or the end of the stream.
pub async fn print(client: &Client, endpoint: Option<&str>, output: &mut Output) -> Result<RemoteExit, RemoteError> {
    let path = match endpoint {
        Some(endpoint) => ApiPath::new(&["devices", endpoint, "events"]),
        None => ApiPath::new(&["events"]),
    };
    let mut interrupt = Interrupt::new()?;
    let mut stream = client.events(path).await?;
    let mut table = Table::new(&["UTC", "EVENT", "DEVICE", "DETAILS"]).with_widths(&[12, 10, 16]);
    loop {
        tokio::select! {
            event = stream.next() => {
                let Some(event) = event? else {
                    output.notice("the gateway has ended the stream");
                    return Ok(RemoteExit::Failed);
                };
                write(&event, endpoint, &mut table, output)?;
            }
            () = interrupt.received() => return Ok(RemoteExit::Done),
        }
    }
}

/// Writes an event as an object with its name, its ID and its data.
pub fn write_json(event: &ServerSentEvent, output: &Output) -> Result<(), RemoteError> {
    let ServerSentEvent { id, name, data } = event;
    Ok(output.line(&json!({ "event": name, "id": id, "data": data }).to_string())?)
}

fn write(
    event: &ServerSentEvent,
    endpoint: Option<&str>,
    table: &mut Table,
    output: &Output,
) -> Result<(), RemoteError> {
    if output.json {
        return write_json(event, output);
    }
    let data = &event.data;
    let device = data["endpoint"].as_str().or(endpoint).unwrap_or_default();
    let row = vec![
        Cell::from(time_of_day(&data["at"])),
        Cell::from(event.name.as_str()),
        Cell::from(device),
        Cell::from(details(event)),
    ];
    Ok(table.write(output, &[row])?)
}

/// Returns the members of an event that have no column, as `name=value`; of a publication its topic and its payload.
fn details(event: &ServerSentEvent) -> String {
    let data = &event.data;
    if event.name == "message" {
        return format!("{} {}", text_of(&data["topic"]), text_of(&data["payload"]));
    }
    let Some(members) = data.as_object() else { return text_of(data) };
    let is_registration = matches!(event.name.as_str(), "registered" | "updated");
    let shown = members.iter().filter(|(name, value)| {
        let has_no_column = !matches!(name.as_str(), "at" | "endpoint") && !value.is_null();
        has_no_column && (!is_registration || OF_REGISTRATION.contains(&name.as_str()))
    });
    shown.map(|(name, value)| format!("{name}={}", text_of(value))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, name: &str, data: Value) -> ServerSentEvent {
        ServerSentEvent { id: id.map(str::to_owned), name: name.to_owned(), data }
    }

    #[test]
    fn events_are_found_however_the_bytes_are_divided() {
        let stream = ": hello\n\nid: 7\nevent: left\ndata: {\"reason\":\ndata: \"ö\"}\n\nretry: 3\ndata:1\r\n\r\n";
        let expected = [event(Some("7"), "left", json!({ "reason": "ö" })), event(Some("7"), "message", json!(1))];
        for size in [1, 2, 5, stream.len()] {
            let mut parser = EventParser::default();
            let found: Vec<ServerSentEvent> =
                stream.as_bytes().chunks(size).flat_map(|part| parser.parse(part)).collect();
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn an_event_that_has_not_ended_is_none() {
        let mut parser = EventParser::default();
        assert_eq!(parser.parse(b"event: left\ndata: {}\n"), []);
        assert_eq!(parser.parse(b"\n"), [event(None, "left", json!({}))]);
    }

    #[test]
    fn details_are_the_members_without_a_column() {
        let moved =
            json!({ "at": "2026-11-27T20:31:05.120Z", "endpoint": "ep1", "from": "a", "to": "b", "code": null });
        assert_eq!(details(&event(None, "moved", moved)), "from=a to=b");
        let updated = json!({ "endpoint": "ep1", "address": "10.0.0.9:1", "lifetime": 300, "waiting": 0 });
        assert_eq!(details(&event(None, "updated", updated)), "address=10.0.0.9:1 lifetime=300");
        let message = json!({ "topic": "lwm2m/ep1/up/resp", "payload": { "reqID": 1 } });
        assert_eq!(details(&event(None, "message", message)), "lwm2m/ep1/up/resp {\"reqID\":1}");
    }
}
