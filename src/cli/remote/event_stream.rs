//! Streams of server-sent events.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::timeout;

use super::error::RemoteError;

/// A gateway sends a comment at least each 15 s: a stream without one is broken.
const SILENCE: Duration = Duration::from_secs(60);
/// Maximum size of an event, in bytes.
const LARGEST_EVENT: usize = 1024 * 1024;

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServerSentEvent {
    pub id: Option<String>,
    pub name: String,
    pub data: Value,
}

/// A stream of events.
pub(super) struct EventReader {
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
    pub(super) fn new(body: Incoming, place: String) -> Self {
        Self { body, place, parser: EventParser::default(), events: VecDeque::new() }
    }

    /// Waits for the next event; `None` when the gateway ends the stream. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<ServerSentEvent>, RemoteError> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

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
}
