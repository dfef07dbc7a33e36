//! `devices`, `show`, `queue` and `kick`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::arguments::SearchArguments;
use super::client::{ApiClient, ApiPath};
use super::error::{RemoteError, RemoteExit};
use super::output::{Cell, CommandOutput, Table, Tone, short, text_of, time_since, time_until};

/// Maximum number of devices in one answer of the API.
const PAGE: u64 = 1_000;

const DEVICE_COLUMNS: [&str; 10] =
    ["ENDPOINT", "STATE", "HEARD", "LEFT", "ADDRESS", "TRANSPORT", "LWM2M", "BINDING", "WAITING", "OBSERVED"];
const QUEUE_COLUMNS: [&str; 7] = ["NUMBER", "STATE", "COMMAND", "PATH", "BYTES", "LEFT", "BY"];

/// Lists devices, page by page.
pub(super) async fn list(
    client: &ApiClient,
    search: &SearchArguments,
    output: &mut CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    let mut remaining = if search.all { u64::MAX } else { search.limit };
    let mut table = Table::new(&DEVICE_COLUMNS);
    let mut cursor = None;
    loop {
        let path = query(search).with("limit", &remaining.min(PAGE).to_string()).with_some("cursor", cursor.as_deref());
        let page = client.get(path).await?;
        let devices = page.value["devices"].as_array().ok_or_else(|| client.unexpected("no list of devices"))?;
        match output.json {
            true => output.document(&page)?,
            false => table.write(output, &devices.iter().map(device_row).collect::<Vec<_>>())?,
        }
        remaining = remaining.saturating_sub(devices.len() as u64);
        cursor = page.value["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(RemoteExit::Done);
        }
        if remaining == 0 {
            output.notice("there may be more: --all");
            return Ok(RemoteExit::Done);
        }
    }
}

/// Shows a device.
pub(super) async fn show(
    client: &ApiClient,
    endpoint: &str,
    output: &mut CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    let document = client.get(ApiPath::new(&["devices", endpoint])).await?;
    if output.json {
        output.document(&document)?;
        return Ok(RemoteExit::Done);
    }
    let device = &document.value;
    Table::new(&["FACT", "VALUE"]).write(output, &facts(device))?;
    let objects: Vec<_> = members(device, "objects").map(object_row).collect();
    if !objects.is_empty() {
        output.line("")?;
        Table::new(&["OBJECT", "VERSION", "INSTANCES", "NAME"]).write(output, &objects)?;
    }
    let observed: Vec<_> = members(device, "observed").map(observed_row).collect();
    if !observed.is_empty() {
        output.line("")?;
        Table::new(&["OBSERVED", "FOR", "BY"]).write(output, &observed)?;
    }
    let queue = queue_rows(device);
    if !queue.is_empty() {
        output.line("")?;
        Table::new(&QUEUE_COLUMNS).write(output, &queue)?;
    }
    Ok(RemoteExit::Done)
}

/// Lists the commands of a device: the one that was sent, and those that wait.
pub(super) async fn queue(
    client: &ApiClient,
    endpoint: &str,
    output: &mut CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    let device = client.get(ApiPath::new(&["devices", endpoint])).await?.value;
    match output.json {
        true => output.line(&json!({ "inFlight": device["inFlight"], "queue": device["queue"] }).to_string())?,
        false => Table::new(&QUEUE_COLUMNS).write(output, &queue_rows(&device))?,
    }
    Ok(RemoteExit::Done)
}

/// Withdraws a pending command.
pub(super) async fn withdraw(
    client: &ApiClient,
    endpoint: &str,
    number: u64,
    output: &CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    client.delete(ApiPath::new(&["devices", endpoint, "queue", &number.to_string()])).await?;
    output.notice(&format!("command {number} is withdrawn"));
    Ok(RemoteExit::Done)
}

/// Ends the registration of a device.
pub(super) async fn kick(
    client: &ApiClient,
    endpoint: &str,
    output: &CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    client.delete(ApiPath::new(&["devices", endpoint])).await?;
    output.notice(&format!("the registration of {endpoint} has ended"));
    Ok(RemoteExit::Done)
}

fn query(search: &SearchArguments) -> ApiPath {
    let SearchArguments { prefix, search: part, state, transport, object, address, silent, waiting, .. } = search;
    ApiPath::new(&["devices"])
        .with_some("prefix", prefix.as_deref())
        .with_some("q", part.as_deref())
        .with_some("state", state.as_deref())
        .with_some("transport", transport.as_deref())
        .with_some("object", object.map(|id| id.to_string()).as_deref())
        .with_some("address", address.as_deref())
        .with_some("silent", silent.map(|time| time.as_secs().to_string()).as_deref())
        .with_some("waiting", waiting.then_some("true"))
}

fn device_row(device: &Value) -> Vec<Cell> {
    vec![
        Cell::from(&device["endpoint"]),
        state(device),
        Cell::from(time_since(&device["lastHeard"])),
        Cell::from(time_until(&device["expires"])),
        Cell::from(&device["address"]),
        Cell::from(&device["transport"]),
        Cell::from(&device["lwm2m"]),
        Cell::from(&device["binding"]),
        Cell::from(&device["waiting"]),
        Cell::from(&device["observations"]),
    ]
}

fn state(device: &Value) -> Cell {
    let tone = if device["state"] == "asleep" { Tone::Faint } else { Tone::Good };
    Cell::toned(text_of(&device["state"]), tone)
}

fn facts(device: &Value) -> Vec<Vec<Cell>> {
    let fact = |name: &str, value: Cell| vec![Cell::from(name), value];
    let plain = |name: &str, member: &str| fact(name, Cell::from(&device[member]));
    let lifetime = device["lifetime"].as_u64().map(|seconds| short(Duration::from_secs(seconds)));
    let mut facts = vec![plain("endpoint", "endpoint"), fact("state", state(device))];
    if !device["awakeUntil"].is_null() && device["state"] == "awake" {
        facts.push(fact("awake for", Cell::from(time_until(&device["awakeUntil"]))));
    }
    facts.extend([
        fact("last heard", Cell::from(time_since(&device["lastHeard"]))),
        fact("registered", Cell::from(&device["registered"])),
        fact("lifetime left", Cell::from(time_until(&device["expires"]))),
        fact("lifetime", Cell::from(lifetime.unwrap_or_default())),
        plain("address", "address"),
        plain("transport", "transport"),
    ]);
    if device["dtls"].is_object() {
        let session = &device["dtls"];
        let id = if session["connectionId"] == true { ", connection ID" } else { "" };
        let session = format!("{}, {}{id}", text_of(&session["kind"]), text_of(&session["suite"]));
        facts.extend([fact("DTLS", Cell::from(session)), plain("identity", "identity")]);
    }
    facts.extend([plain("LwM2M", "lwm2m"), plain("binding", "binding"), plain("client ID", "clientid")]);
    for (group, of) in [("item", &device["items"]), ("topic", &device["topics"])] {
        for (name, value) in of.as_object().into_iter().flatten() {
            facts.push(fact(&format!("{group} {name}"), Cell::from(value)));
        }
    }
    facts
}

fn object_row(object: &Value) -> Vec<Cell> {
    let instances: Vec<_> = members(object, "instances").map(text_of).collect();
    let name = match object["name"].as_str() {
        Some(name) => Cell::from(name),
        None => Cell::toned("no definition", Tone::Faint),
    };
    vec![Cell::from(&object["id"]), Cell::from(&object["version"]), Cell::from(instances.join(",")), name]
}

fn observed_row(observation: &Value) -> Vec<Cell> {
    vec![Cell::from(paths(observation)), Cell::from(time_since(&observation["since"])), Cell::from(&observation["by"])]
}

fn queue_rows(device: &Value) -> Vec<Vec<Cell>> {
    let row = |command: &Value, state: &str, left: String| {
        vec![
            Cell::from(&command["number"]),
            Cell::from(state),
            Cell::from(&command["msgType"]),
            Cell::from(paths(command)),
            Cell::from(&command["bytes"]),
            Cell::from(left),
            Cell::from(&command["by"]),
        ]
    };
    let in_flight = Some(&device["inFlight"]).filter(|command| command.is_object());
    let sent = in_flight.map(|command| row(command, "sent", String::new()));
    let waiting = members(device, "queue").map(|command| row(command, "waits", time_until(&command["expires"])));
    sent.into_iter().chain(waiting).collect()
}

/// Returns the path of a command or an observation; those of a composite one are joined by commas.
fn paths(of: &Value) -> String {
    match of["paths"].as_array() {
        Some(paths) => paths.iter().map(text_of).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(","),
        None => text_of(&of["path"]),
    }
}

fn members<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}
