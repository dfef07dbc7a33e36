//! `trace`: the CoAP messages of a device, printed or as a pcap file.

mod pcap;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::arguments::TraceArguments;
use super::client::{ApiPath, Client};
use super::error::{RemoteError, RemoteExit};
use super::events::{Event, EventStream, write_json};
use super::interrupt::Interrupt;
use super::output::{Cell, Output, Table, Tone, text_of, time_of_day};

use pcap::PcapFollower;

/// Time in which messages are collected before the file gets them.
const COLLECTED: Duration = Duration::from_millis(200);

/// Starts a trace, prints its messages until Ctrl-C or its end, and removes it.
pub async fn trace(
    client: &Client,
    arguments: &TraceArguments,
    output: &mut Output,
) -> Result<RemoteExit, RemoteError> {
    let mut interrupt = Interrupt::new()?;
    let file = arguments.pcap.as_deref().map(PcapFile::create).transpose()?;
    let (_, started) = client.post(ApiPath::new(&["traces"]), &request(arguments)).await?;
    let id = started.value["id"].as_str().ok_or_else(|| client.unexpected("a trace without an ID"))?;
    let followed = follow(client, id, file, &mut interrupt, output).await;
    let removed = client.delete(ApiPath::new(&["traces", id])).await;
    followed?;
    match removed {
        Ok(()) => Ok(RemoteExit::Done),
        // A trace that has ended by itself may be gone.
        Err(RemoteError::Problem(problem)) if problem.status == 404 => Ok(RemoteExit::Done),
        Err(error) => Err(error),
    }
}

/// Prints the messages, or writes them to the file, until Ctrl-C or the end of the trace.
async fn follow(
    client: &Client,
    id: &str,
    file: Option<PcapFile>,
    interrupt: &mut Interrupt,
    output: &Output,
) -> Result<(), RemoteError> {
    let mut stream = client.events(ApiPath::new(&["traces", id, "events"])).await?;
    let Some(mut file) = file else {
        return tokio::select! {
            ended = print(&mut stream, output) => ended,
            () = interrupt.received() => Ok(()),
        };
    };
    tokio::select! {
        ended = file.follow(client, id, &mut stream) => ended?,
        () = interrupt.received() => {}
    }
    file.fetch(client, id).await
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

async fn print(stream: &mut EventStream, output: &Output) -> Result<(), RemoteError> {
    let header = ["UTC", "DIRECTION", "PEER", "TYPE", "CODE", "MID", "TOKEN", "DETAILS"];
    let mut table = Table::new(&header).with_widths(&[12, 9, 21, 4, 4, 5, 16]);
    while let Some(event) = stream.next().await? {
        match (output.json, event.name.as_str()) {
            (true, _) => write_json(&event, output)?,
            (false, "coap" | "dtls") => table.write(output, &[message_row(&event)])?,
            (false, "lost") => output.notice(&format!("{} messages lost", text_of(&event.data["count"]))),
            (false, _) => {}
        }
    }
    Ok(())
}

fn message_row(event: &Event) -> Vec<Cell> {
    let message = &event.data;
    let code = text_of(&message["code"]);
    let tone = if matches!(code.as_bytes().first(), Some(b'4' | b'5')) { Tone::Bad } else { Tone::Neutral };
    let kind = if event.name == "dtls" { "DTLS".to_owned() } else { text_of(&message["type"]) };
    vec![
        Cell::from(time_of_day(&message["at"])),
        Cell::from(&message["direction"]),
        Cell::from(&message["peer"]),
        Cell::from(kind),
        Cell::toned(code, tone),
        Cell::from(&message["mid"]),
        Cell::from(&message["token"]),
        Cell::from(details(message)),
    ]
}

/// Returns the name of the code, the options, the values and the verdict of a message.
fn details(message: &Value) -> String {
    let mut parts = vec![text_of(&message["name"])];
    for option in message["options"].as_array().into_iter().flatten() {
        parts.push(format!("{}={}", text_of(&option["name"]), text_of(&option["value"])));
    }
    for entry in message["payload"]["entries"].as_array().into_iter().flatten() {
        parts.push(format!("{}={}{}", text_of(&entry["path"]), text_of(&entry["value"]), text_of(&entry["units"])));
    }
    if message["payload"]["entries"].is_null() && !message["payload"]["bytes"].is_null() {
        parts.push(format!("{} bytes", text_of(&message["payload"]["bytes"])));
    }
    if message["again"] == true {
        parts.push("(again)".to_owned());
    }
    parts.extend(message["verdict"].as_str().map(|verdict| format!("({verdict})")));
    parts.extend(message["reason"].as_str().map(str::to_owned));
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

/// A pcap file that grows with the trace.
struct PcapFile {
    output: Box<dyn Write>,
    follower: PcapFollower,
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
        Ok(Self { output, follower: PcapFollower::default() })
    }

    /// Adds messages whenever the stream tells of one. The header comes at once, so that Wireshark can begin.
    async fn follow(&mut self, client: &Client, id: &str, stream: &mut EventStream) -> Result<(), RemoteError> {
        self.fetch(client, id).await?;
        while stream.next().await?.is_some() {
            sleep(COLLECTED).await;
            self.fetch(client, id).await?;
        }
        Ok(())
    }

    /// Gets the messages that the gateway keeps, and adds those that are new.
    async fn fetch(&mut self, client: &Client, id: &str) -> Result<(), RemoteError> {
        let whole = client.download(ApiPath::new(&["traces", &format!("{id}.pcap")])).await?;
        let new = self.follower.new_part(&whole).ok_or_else(|| client.unexpected("no pcap file"))?;
        self.output.write_all(&new)?;
        Ok(self.output.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_have_options_values_and_the_verdict() {
        let message = json!({ "name": "Content", "options": [{ "number": 6, "name": "Observe", "value": "12" }],
            "payload": { "bytes": 12, "entries": [{ "path": "/3303/0/5700", "value": 21.5, "units": "Cel" }] },
            "verdict": "notification", "again": true });
        assert_eq!(details(&message), "Content Observe=12 /3303/0/5700=21.5Cel (again) (notification)");
        assert_eq!(details(&json!({ "name": "Empty", "payload": null })), "Empty");
        assert_eq!(details(&json!({ "name": "PUT", "payload": { "bytes": 3, "hex": "010203" } })), "PUT 3 bytes");
    }
}
