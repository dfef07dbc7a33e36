//! Gives commands to the driver: within their rates, after their entry in the audit log, and with a record that gets
//! the answer.

use std::sync::Arc;

use rand::TryRng;
use rand::rngs::SysRng;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::clock::monotonic_now;
use crate::driver::control::DriverSilent;
use lwm2m_core::command::{ConsoleOrigin, MSG_TYPES};
use lwm2m_core::gateway::operators::console_commands::{CommandRefusal, CommandState, ConsoleAnswer, ConsoleCommand};
use lwm2m_core::lwm2m::path::Path;

use super::super::ConsoleServer;
use super::command_id::CommandId;
use super::records::{CommandEnd, GivenCommand};
use crate::console::access::audit::{AuditedCommand, Author};
use crate::console::devices::endpoints::absent;
use crate::console::http::problem::{Problem, ProblemKind, silent};

/// Maximum number of paths of a composite command in the audit log.
const AUDITED_PATHS: usize = 8;

/// A command for a device.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub endpoint: String,
    /// The JSON of an application's command.
    pub payload: Vec<u8>,
    /// Whether it may replace or end observations of others.
    pub force: bool,
    /// Whether an observation ends with the event streams of its author.
    pub while_stream: bool,
}

/// Gives a command. The author has the role of an operator, and may see the device. The command is given even if the
/// client does not wait for that.
pub(crate) async fn give(
    server: &Arc<ConsoleServer>,
    author: Author,
    order: Order,
) -> Result<(Arc<GivenCommand>, CommandState), Problem> {
    let metrics = &server.sources.admin.metrics.console;
    if let Err(problem) = server.command_rates.take(monotonic_now(), &author.access.name) {
        metrics.commands_rate_limited.inc();
        return Err(problem);
    }
    let server = Arc::clone(server);
    let working = tokio::spawn(async move { admit(&server, &author, order).await });
    working.await.map_err(|error| ProblemKind::Internal.because(error.to_string()))?
}

async fn admit(
    server: &Arc<ConsoleServer>,
    author: &Author,
    order: Order,
) -> Result<(Arc<GivenCommand>, CommandState), Problem> {
    let Order { endpoint, payload, force, while_stream } = order;
    let mut random = [0; 16];
    SysRng.try_fill_bytes(&mut random).map_err(|error| ProblemKind::Internal.because(error.to_string()))?;
    let id = CommandId::new(random);
    let command = AuditedCommand { id: Some(id), ..audited(&payload, force) };
    server.audit.record_command(author, &endpoint, &command, "given");
    let origin = ConsoleOrigin { user: author.access.name.clone(), force, while_stream };
    let given = ConsoleCommand { endpoint: endpoint.clone(), payload, origin };
    let metrics = &server.sources.admin.metrics.console;
    let refused = |problem: Problem| {
        metrics.commands_refused.inc();
        server.audit.record_command(author, &endpoint, &command, problem.kind.name());
        problem
    };
    let (admitted, answer) = match server.sources.admin.control.command(given).await {
        Ok(answered) => answered,
        Err(DriverSilent) => return Err(refused(silent(DriverSilent))),
    };
    let state = match admitted {
        Ok(state) => state,
        Err(refusal) => return Err(refused(problem_of(server, refusal, &endpoint).await)),
    };
    if state.place == 0 { &metrics.commands_sent } else { &metrics.commands_pending }.inc();
    let record = GivenCommand::new(id, endpoint, state.number);
    server.commands.add(monotonic_now(), Arc::clone(&record));
    let task = tokio::spawn(await_answer(Arc::clone(server), Arc::clone(&record), answer));
    record.awaited_by(task.abort_handle());
    Ok((record, state))
}

/// Notes the answer of a command when it comes.
async fn await_answer(server: Arc<ConsoleServer>, record: Arc<GivenCommand>, answer: oneshot::Receiver<ConsoleAnswer>) {
    // Without the driver there is no answer, and the console ends as well.
    let Ok(ConsoleAnswer { outcome, took, payload, .. }) = answer.await else { return };
    let answer = server.hidden.message(&payload);
    server.commands.finish(&record, CommandEnd { outcome, took, answer, at: monotonic_now() });
}

async fn problem_of(server: &ConsoleServer, refusal: CommandRefusal, endpoint: &str) -> Problem {
    match refusal {
        CommandRefusal::NotRegistered => absent(server, endpoint).await,
        CommandRefusal::Ending => ProblemKind::Ending.because("the gateway shuts down"),
        CommandRefusal::TooLarge(reason) => ProblemKind::BodyTooLarge.because(reason),
        CommandRefusal::Invalid(reason) => ProblemKind::CommandInvalid.because(reason),
        CommandRefusal::ObservedAlready(reason) => ProblemKind::ObservedAlready.because(reason),
        CommandRefusal::QueueFull(reason) => ProblemKind::QueueFull.because(reason),
        CommandRefusal::DeviceAsleep(reason) => ProblemKind::DeviceAsleep.because(reason),
    }
}

/// The members of a command that the audit log has. Values are not among them.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuditedMembers<'a> {
    msg_type: Value,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuditedData {
    path: Value,
    base_path: Value,
    paths: Value,
}

/// Returns the facts about a command for the audit log: only what is known to be a type and a path, so that no value is
/// logged by mistake.
fn audited(payload: &[u8], force: bool) -> AuditedCommand {
    let members: AuditedMembers<'_> = serde_json::from_slice(payload).unwrap_or_default();
    let data = members.data.and_then(|data| serde_json::from_str::<AuditedData>(data.get()).ok()).unwrap_or_default();
    let msg_type = MSG_TYPES.into_iter().find(|known| members.msg_type == *known);
    let paths = [data.path, data.base_path].into_iter().chain(match data.paths {
        Value::Array(paths) => paths,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Vec::new(),
    });
    let paths = paths.filter_map(|path| {
        let text = path.as_str()?;
        text.split('?').next()?.parse::<Path>().ok()
    });
    let paths: Vec<String> = paths.take(AUDITED_PATHS).map(|path| path.to_string()).collect();
    let path = (!paths.is_empty()).then(|| paths.join(" "));
    AuditedCommand { id: None, msg_type, path, bytes: payload.len(), force }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_log_has_the_type_and_the_path_and_never_a_value() {
        let told = |payload: &str| {
            let AuditedCommand { msg_type, path, .. } = audited(payload.as_bytes(), false);
            (msg_type, path)
        };
        let path = |text: &str| Some(text.to_owned());
        let write = r#"{"msgType":"write","data":{"path":"/0/0/5?x=secret","type":"Opaque","value":"secret"}}"#;
        assert_eq!(told(write), (Some("write"), path("/0/0/5")));
        let content = r#"{"msgType":"write","data":{"basePath":"/3303/0","content":[{"path":"1","value":"secret"}]}}"#;
        assert_eq!(told(content), (Some("write"), path("/3303/0")));
        let composite = r#"{"msgType":"read-composite","data":{"paths":["/3/0","secret",7,"/1"]}}"#;
        assert_eq!(told(composite), (Some("read-composite"), path("/3/0 /1")));
        for wrong in ["", "secret", "[]", r#"{"msgType":"secret","data":"secret"}"#, r#"{"data":{"path":"secret"}}"#] {
            assert_eq!(told(wrong), (None, None), "{wrong}");
        }
    }
}
