//! Prints explanations, MQTT messages and the device's actions.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;

use serde_json::{Value, json};

use lwm2m_core::coap::options::format;
use lwm2m_core::lwm2m::path::Path;
use lwm2m_simulator::DeviceEvent;

/// Maximum length of a message on one line, in characters.
const LINE: usize = 110;

/// Maximum number of content entries that are shown.
const ENTRIES: usize = 6;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const YELLOW: &str = "\x1b[33m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

pub(crate) struct Screen {
    colours: bool,
}

impl Screen {
    /// Creates a screen on standard output. Colours need a terminal and no `NO_COLOR`.
    pub(super) fn new() -> Self {
        Self {
            colours: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    pub(crate) fn explain(&mut self, text: &str) -> io::Result<()> {
        self.line("", "")?;
        self.line(BOLD, text)
    }

    /// Shows an MQTT message: a command, or a message of the device.
    pub(crate) fn show_message(&mut self, topic: &str, message: &Value) -> io::Result<()> {
        let (arrow, style) = if topic.contains("/dn") { ("->", YELLOW) } else { ("<-", GREEN) };
        self.line(style, &format!("  {arrow} {topic}"))?;
        layout(message).iter().try_for_each(|line| self.line("", &format!("     {line}")))
    }

    pub(crate) fn show_device(&mut self, event: &DeviceEvent) -> io::Result<()> {
        self.line(DIM, &format!("     device: {}", in_words(event)))
    }

    pub(crate) fn say_what_next(&mut self, devices: SocketAddr, mqtt: SocketAddr, endpoint: &str) -> io::Result<()> {
        let (host, port) = (mqtt.ip(), mqtt.port());
        let read = json!({ "reqID": 100, "msgType": "read", "data": { "path": "/3303/0" } });
        let paths = ["/3/0/0", "/3303/0/5700"];
        let read_composite = json!({ "reqID": 101, "msgType": "read-composite", "data": { "paths": paths } });
        self.explain("While this program, or lwm2m-gateway run --embedded, is running, try:")?;
        for line in [
            format!("mosquitto_sub -h {host} -p {port} -v -t 'lwm2m/#'"),
            format!("mosquitto_pub -h {host} -p {port} -t lwm2m/{endpoint}/dn -m '{read}'"),
            format!("mosquitto_pub -h {host} -p {port} -t lwm2m/{endpoint}/dn -m '{read_composite}'"),
            format!("lwm2mclient -4 -n my-device -h {} -p {}      (of Eclipse Wakaama)", devices.ip(), devices.port()),
        ] {
            self.line("", &format!("  {line}"))?;
        }
        Ok(())
    }

    fn line(&mut self, style: &str, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.colours && !style.is_empty() { writeln!(out, "{style}{text}{PLAIN}") } else { writeln!(out, "{text}") }
    }
}

/// Formats a message on one line, or with each entry of its content on a line.
fn layout(message: &Value) -> Vec<String> {
    const EMPTY_CONTENT: &str = "\"content\":[]";
    let whole = message.to_string();
    let mut frame = message.clone();
    let entries = match frame.pointer_mut("/data/content") {
        Some(Value::Array(entries)) if whole.len() > LINE && entries.len() > 1 => std::mem::take(entries),
        _ => return vec![whole],
    };
    let frame = frame.to_string();
    let Some((before, after)) = frame.split_once(EMPTY_CONTENT) else { return vec![whole] };
    let mut lines = vec![format!("{before}\"content\":[")];
    lines.extend(entries.iter().take(ENTRIES).map(|entry| format!("  {entry}")));
    if entries.len() > ENTRIES {
        lines.push(format!("  ... and {} more", entries.len() - ENTRIES));
    }
    lines.push(format!("]{after}"));
    lines
}

fn in_words(event: &DeviceEvent) -> String {
    match event {
        DeviceEvent::Bootstrapped { servers } => {
            let servers: Vec<String> =
                servers.iter().map(|server| format!("{} at {}", server.short_server_id, server.uri)).collect();
            format!("was given the server {}", servers.join(", "))
        }
        DeviceEvent::Registered { location } => format!("registered, as {location}"),
        DeviceEvent::Updated => "updated its registration".to_owned(),
        DeviceEvent::Refused { code: Some(code), retry_after } => {
            format!("refused with {code}, will try again in {retry_after:?}")
        }
        DeviceEvent::Refused { code: None, retry_after } => {
            format!("not answered, will try again in {retry_after:?}")
        }
        DeviceEvent::Answered { method, path, code, content_format } => {
            let form = content_format.map_or_else(String::new, |format| format!(" in {}", format_name(format)));
            format!("{} {path}, answered {code}{form}", method_name(method.0))
        }
        DeviceEvent::ObservationBegan { paths } => format!("{} is observed", list(paths)),
        DeviceEvent::Notified { paths } => format!("notified {}", list(paths)),
        DeviceEvent::ObservationEnded { paths } => format!("{} is observed no longer", list(paths)),
        DeviceEvent::SendAnswered { code: Some(code) } => format!("its Send was answered {code}"),
        DeviceEvent::SendAnswered { code: None } => "its Send was not answered".to_owned(),
        DeviceEvent::FirmwareChanged { instance, state, result } => {
            format!("the firmware update /5/{instance} is in State {state} with Update Result {result}")
        }
        DeviceEvent::Rebooted => "starts again".to_owned(),
        DeviceEvent::Stopped => "de-registered".to_owned(),
    }
}

fn list(paths: &[Path]) -> String {
    paths.iter().map(Path::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns the name of a method code (RFC 7252 section 12.1.1, RFC 8132).
fn method_name(code: u8) -> &'static str {
    match code {
        1 => "GET",
        2 => "POST",
        3 => "PUT",
        4 => "DELETE",
        5 => "FETCH",
        7 => "iPATCH",
        _ => "another method on",
    }
}

/// Returns the name of a content format (OMA LwM2M Core 1.2 section 7.4).
fn format_name(number: u16) -> String {
    match number {
        format::TEXT => "text".to_owned(),
        format::LINK_FORMAT => "link format".to_owned(),
        format::OCTET_STREAM => "bytes".to_owned(),
        format::CBOR => "CBOR".to_owned(),
        format::SENML_JSON => "SenML JSON".to_owned(),
        format::SENML_CBOR => "SenML CBOR".to_owned(),
        format::TLV => "TLV".to_owned(),
        format::LWM2M_CBOR => "LwM2M CBOR".to_owned(),
        other => format!("content format {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_message_is_one_line() {
        let message = json!({ "reqID": 1, "data": { "content": [{ "path": "/3/0/0", "value": "\"content\":[]" }] } });
        assert_eq!(layout(&message), [message.to_string()]);
    }

    #[test]
    fn the_content_of_a_long_message_is_a_list_and_its_end_is_counted() {
        let entries: Vec<Value> = (0..9).map(|id| json!({ "path": format!("/3/0/{id}"), "value": id })).collect();
        let message = json!({ "msgType": "read", "data": { "code": "2.05", "content": entries }, "reqID": 2 });
        let lines = layout(&message);
        assert_eq!(lines.first().map(String::as_str), Some(r#"{"msgType":"read","data":{"code":"2.05","content":["#));
        assert_eq!(lines.get(1).map(String::as_str), Some(r#"  {"path":"/3/0/0","value":0}"#));
        assert_eq!(lines.get(7..), Some(&["  ... and 3 more".to_owned(), r#"]},"reqID":2}"#.to_owned()][..]));
    }
}
