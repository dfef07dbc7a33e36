//! The command `events`.

use serde_json::json;

use super::client::{ApiClient, ApiPath};
use super::error::{RemoteError, RemoteExit};
use super::event_stream::ServerSentEvent;
use super::interrupt::Interrupt;
use super::output::{Cell, CommandOutput, Table, text_of, time_of_day};

/// The members of a registration that are shown; `show` has the others.
const OF_REGISTRATION: [&str; 5] = ["address", "transport", "identity", "lwm2m", "lifetime"];

/// Prints the events of a device, or of all, until Ctrl-C or the end of the stream.
pub(super) async fn print(
    client: &ApiClient,
    endpoint: Option<&str>,
    output: &mut CommandOutput,
) -> Result<RemoteExit, RemoteError> {
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
pub(crate) fn write_json(event: &ServerSentEvent, output: &CommandOutput) -> Result<(), RemoteError> {
    let ServerSentEvent { id, name, data } = event;
    Ok(output.line(&json!({ "event": name, "id": id, "data": data }).to_string())?)
}

fn write(
    event: &ServerSentEvent,
    endpoint: Option<&str>,
    table: &mut Table,
    output: &CommandOutput,
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
    use serde_json::Value;

    use super::*;

    fn event(id: Option<&str>, name: &str, data: Value) -> ServerSentEvent {
        ServerSentEvent { id: id.map(str::to_owned), name: name.to_owned(), data }
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
