//! `observe --follow`: an observation with its notifications.

use serde_json::Value;

use super::arguments::{TargetArguments, WaitArguments};
use super::client::{ApiClient, ApiPath};
use super::commands::{self, OperationBody};
use super::document::Document;
use super::error::{RemoteError, RemoteExit};
use super::event_stream::{EventReader, ServerSentEvent};
use super::events::write_json;
use super::interrupt::Interrupt;
use super::output::{Cell, CommandOutput, Table, time_of_day};

/// Observes a path and prints its notifications until Ctrl-C.
///
/// 1. The stream of events is opened first, so that no notification is missed.
/// 2. The path is observed, unless an application observes it already: its notifications are the same.
/// 3. At the end the observation is cancelled if this command has begun it.
pub(super) async fn follow(
    client: &ApiClient,
    target: &TargetArguments,
    waiting: &WaitArguments,
    output: &mut CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    let mut interrupt = Interrupt::new()?;
    let mut stream = client.events(ApiPath::new(&["devices", &target.endpoint, "events"])).await?;
    let mut followed = FollowedPath::new(&target.path);
    let begun = tokio::select! {
        begun = begin(client, target, waiting) => begun,
        // What is begun now ends without this command: its stream of events ends.
        () = interrupt.received() => return Ok(RemoteExit::Done),
    };
    let is_ours = match begun {
        Ok(document) => {
            let exit = commands::exit_of(&document.value, waiting.wait);
            if exit != RemoteExit::Done {
                output.notice("the observation has not begun");
                return Ok(exit);
            }
            followed.write_answer(&document, output)?;
            true
        }
        Err(RemoteError::Problem(problem)) if problem.kind == "observed-already" => {
            output.notice("an application observes this path already: its notifications follow");
            false
        }
        Err(error) => return Err(error),
    };
    let ended = tokio::select! {
        ended = followed.print(&mut stream, output) => ended,
        () = interrupt.received() => Ok(RemoteExit::Done),
    };
    if is_ours {
        let cancel = OperationBody::plain("cancel-observe", &target.path);
        commands::ask(client, &target.endpoint, &cancel, waiting).await?;
        output.notice("the observation is cancelled");
    }
    ended
}

async fn begin(client: &ApiClient, target: &TargetArguments, waiting: &WaitArguments) -> Result<Document, RemoteError> {
    let observe = OperationBody::plain("observe", &target.path).for_stream();
    commands::ask(client, &target.endpoint, &observe, waiting).await
}

/// The notifications of one path.
struct FollowedPath<'a> {
    path: &'a str,
    table: Table,
}

impl<'a> FollowedPath<'a> {
    fn new(path: &'a str) -> Self {
        Self { path, table: Table::new(&["UTC", "PATH", "VALUE"]).with_widths(&[12]) }
    }

    /// Writes the first values, which the answer to the observe request has.
    fn write_answer(&mut self, document: &Document, output: &CommandOutput) -> Result<(), RemoteError> {
        match output.json {
            true => Ok(output.document(document)?),
            false => self.write_values(&Value::Null, &document.value["answer"], output),
        }
    }

    async fn print(&mut self, stream: &mut EventReader, output: &CommandOutput) -> Result<RemoteExit, RemoteError> {
        while let Some(event) = stream.next().await? {
            match event.name.as_str() {
                "lost" => output.notice("notifications may be missing: there were too many events"),
                "left" => output.notice("the registration of the device has ended, and with it the observation"),
                _ => {}
            }
            let Some(notification) = self.notification(&event) else { continue };
            match output.json {
                true => write_json(&event, output)?,
                false => self.write_values(&event.data["at"], &notification, output)?,
            }
        }
        output.notice("the gateway has ended the stream");
        Ok(RemoteExit::Failed)
    }

    /// Returns the message of a notification of the path.
    fn notification(&self, event: &ServerSentEvent) -> Option<Value> {
        if event.name != "message" {
            return None;
        }
        let payload = match &event.data["payload"] {
            Value::String(text) => serde_json::from_str(text).ok()?,
            other => other.clone(),
        };
        let is_of_path = payload["msgType"] == "notify" && payload["data"]["reqPath"] == self.path;
        is_of_path.then_some(payload)
    }

    fn write_values(&mut self, at: &Value, message: &Value, output: &CommandOutput) -> Result<(), RemoteError> {
        let content = message["data"]["content"].as_array().into_iter().flatten();
        let rows: Vec<Vec<Cell>> = content
            .map(|entry| {
                let mut row = vec![Cell::from(time_of_day(at))];
                row.extend(commands::value_row(entry));
                row
            })
            .collect();
        Ok(self.table.write(output, &rows)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn notifications_of_the_path_are_found_among_the_events() {
        let event = |name: &str, data: Value| ServerSentEvent { id: None, name: name.to_owned(), data };
        let notify = json!({ "msgType": "notify", "data": { "reqPath": "/3303/0/5700", "content": [] } });
        let followed = FollowedPath::new("/3303/0/5700");
        let found = |event: &ServerSentEvent| followed.notification(event);
        assert_eq!(found(&event("message", json!({ "payload": notify }))), Some(notify.clone()));
        assert_eq!(found(&event("message", json!({ "payload": notify.to_string() }))), Some(notify.clone()));
        assert_eq!(found(&event("updated", json!({ "payload": notify }))), None);
        let other = json!({ "msgType": "notify", "data": { "reqPath": "/3303/1/5700" } });
        assert_eq!(found(&event("message", json!({ "payload": other }))), None);
        let answer = json!({ "msgType": "observe", "data": { "reqPath": "/3303/0/5700" } });
        assert_eq!(found(&event("message", json!({ "payload": answer }))), None);
    }
}
