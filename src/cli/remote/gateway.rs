//! `overview`, `top`, `failures` and `remove-key`.

use std::time::Duration;

use serde_json::Value;
use tokio::time::interval;

use super::client::{ApiClient, ApiPath};
use super::document::Document;
use super::error::{RemoteError, RemoteExit};
use super::interrupt::Interrupt;
use super::output::{Cell, CommandOutput, Table, Tone, short, text_of, time_since};

/// Interval of `top`.
const INTERVAL: Duration = Duration::from_secs(2);

/// Shows the state of the gateway.
pub(super) async fn overview(client: &ApiClient, output: &mut CommandOutput) -> Result<RemoteExit, RemoteError> {
    let document = client.get(ApiPath::new(&["overview"])).await?;
    write_overview(&document, output)?;
    Ok(RemoteExit::Done)
}

/// Shows the state of the gateway again and again, until Ctrl-C.
pub(super) async fn top(client: &ApiClient, output: &mut CommandOutput) -> Result<RemoteExit, RemoteError> {
    let mut interrupt = Interrupt::new()?;
    let mut due = interval(INTERVAL);
    let mut is_first = true;
    loop {
        tokio::select! {
            _ = due.tick() => {
                let document = client.get(ApiPath::new(&["overview"])).await?;
                output.next_page(is_first)?;
                write_overview(&document, output)?;
                is_first = false;
            }
            () = interrupt.received() => return Ok(RemoteExit::Done),
        }
    }
}

/// Lists what failed lately.
pub(super) async fn failures(client: &ApiClient, output: &mut CommandOutput) -> Result<RemoteExit, RemoteError> {
    let document = client.get(ApiPath::new(&["failures"])).await?;
    if output.json {
        output.document(&document)?;
        return Ok(RemoteExit::Done);
    }
    let list = document.value["failures"].as_array().ok_or_else(|| client.unexpected("no list of failures"))?;
    let header = ["AGO", "COUNT", "KIND", "ENDPOINT", "ADDRESS", "IDENTITY", "CODE", "PATH", "REASON"];
    Table::new(&header).write(output, &list.iter().map(failure_row).collect::<Vec<_>>())?;
    Ok(RemoteExit::Done)
}

/// Removes the generated key of an identity.
pub(super) async fn remove_key(
    client: &ApiClient,
    identity: &str,
    output: &CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    client.delete(ApiPath::new(&["generated-keys", identity])).await?;
    output.notice(&format!("the generated key of {identity} is removed"));
    Ok(RemoteExit::Done)
}

fn failure_row(failure: &Value) -> Vec<Cell> {
    let mut row = vec![
        Cell::from(time_since(&failure["at"])),
        Cell::from(&failure["count"]),
        Cell::toned(text_of(&failure["kind"]), Tone::Bad),
    ];
    row.extend(["endpoint", "address", "identity", "code", "path", "reason"].map(|name| Cell::from(&failure[name])));
    row
}

fn write_overview(document: &Document, output: &CommandOutput) -> Result<(), RemoteError> {
    if output.json {
        return Ok(output.document(document)?);
    }
    let overview = &document.value;
    Table::new(&["FACT", "VALUE"]).write(output, &facts(overview))?;
    let nodes: Vec<_> = overview["upstream"]["nodes"].as_array().into_iter().flatten().map(node_row).collect();
    if !nodes.is_empty() {
        output.line("")?;
        Table::new(&["NODE", "STATE", "DEVICES", "DETAIL"]).write(output, &nodes)?;
    }
    let conditions = overview["conditions"].as_object().into_iter().flatten();
    let conditions: Vec<_> = conditions.map(|(name, condition)| condition_row(name, condition)).collect();
    if !conditions.is_empty() {
        output.line("")?;
        Table::new(&["CONDITION", "STATE", "DETAIL"]).write(output, &conditions)?;
    }
    let bounds: Vec<_> = overview["bounds"].as_array().into_iter().flatten().map(bound_row).collect();
    if !bounds.is_empty() {
        output.line("")?;
        Table::new(&["USED", "LIMIT", "UNIT", "BOUND"]).write(output, &bounds)?;
    }
    let mistakes: Vec<_> = overview["reload"]["mistakes"].as_array().into_iter().flatten().map(mistake_row).collect();
    if !mistakes.is_empty() {
        output.line("")?;
        Table::new(&["MISTAKE"]).write(output, &mistakes)?;
    }
    Ok(())
}

fn facts(overview: &Value) -> Vec<Vec<Cell>> {
    let (devices, upstream) = (&overview["devices"], &overview["upstream"]);
    let uptime = overview["uptime"].as_u64().map(|seconds| short(Duration::from_secs(seconds)));
    let mut facts = vec![
        vec![Cell::from("version"), Cell::from(&overview["version"])],
        vec![Cell::from("uptime"), Cell::from(uptime.unwrap_or_default())],
        vec![Cell::from("devices"), Cell::from(&devices["total"])],
        vec![Cell::from("devices awake"), Cell::from(&devices["awake"])],
        vec![Cell::from("devices asleep"), Cell::from(&devices["asleep"])],
        vec![Cell::from("devices registering"), Cell::from(&devices["joining"])],
        vec![Cell::from("broker"), Cell::from(&upstream["kind"])],
        vec![Cell::from("broker nodes up"), Cell::from(&upstream["nodesUp"])],
        vec![Cell::from("broker nodes down"), nodes_down(&upstream["nodesDown"])],
        vec![Cell::from("publications waiting"), Cell::from(&upstream["waiting"])],
        vec![Cell::from("object definitions"), Cell::from(&overview["definitions"]["total"])],
    ];
    for (name, values) in overview["history"]["series"].as_object().into_iter().flatten() {
        let newest = values.as_array().and_then(|values| values.last());
        facts.extend(
            newest.filter(|_| name.ends_with("PerSecond")).map(|rate| vec![Cell::from(words(name)), rate.into()]),
        );
    }
    facts
}

/// Divides a name into its words: `registersPerSecond` is `registers per second`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(character.to_ascii_lowercase());
    }
    words
}

fn nodes_down(count: &Value) -> Cell {
    let tone = if count.as_u64().is_some_and(|count| count > 0) { Tone::Bad } else { Tone::Neutral };
    Cell::toned(text_of(count), tone)
}

fn node_row(node: &Value) -> Vec<Cell> {
    let state = if node["up"] == true { Cell::toned("up", Tone::Good) } else { Cell::toned("down", Tone::Bad) };
    vec![Cell::from(&node["name"]), state, Cell::from(&node["devices"]), Cell::from(&node["detail"])]
}

fn mistake_row(mistake: &Value) -> Vec<Cell> {
    vec![Cell::toned(text_of(mistake), Tone::Bad)]
}

fn condition_row(name: &str, condition: &Value) -> Vec<Cell> {
    let state = text_of(&condition["state"]);
    let tone = match state.as_str() {
        "up" => Tone::Good,
        "off" => Tone::Faint,
        _ => Tone::Bad,
    };
    vec![Cell::from(name), Cell::toned(state, tone), Cell::from(&condition["detail"])]
}

fn bound_row(bound: &Value) -> Vec<Cell> {
    ["used", "limit", "unit", "name"].map(|member| Cell::from(&bound[member])).to_vec()
}
