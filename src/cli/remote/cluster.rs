//! `cluster`: the nodes of a cluster, and which of them gives its devices to the others.

use std::time::Duration;

use serde_json::Value;

use super::arguments::ConnectionArguments;
use super::client::{ApiClient, ApiPath};
use super::document::Document;
use super::error::{RemoteError, RemoteExit};
use super::output::{Cell, CommandOutput, Table, Tone, short, text_of};

/// The commands about the nodes of a cluster. Any node that runs answers for all.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ClusterSubcommand {
    /// List the nodes: version, shards, devices, and whether each reaches the store and the other nodes
    Status {
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Hand the devices of a node over to the other nodes; it takes none until `undrain` or its restart
    Drain {
        /// Name of the node
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Make a drained node take devices again
    Undrain {
        /// Name of the node
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
}

/// Runs a command about the cluster.
pub(super) async fn run(command: ClusterSubcommand) -> Result<RemoteExit, RemoteError> {
    match command {
        ClusterSubcommand::Status { connection } => {
            let (client, output) = super::connect(&connection)?;
            status(&client, &output).await
        }
        ClusterSubcommand::Drain { node, connection } => {
            let (client, output) = super::connect(&connection)?;
            client.put(drain_of(&node)).await?;
            output.notice(&format!(
                "{node} gives its shards to the other nodes; `cluster status` shows how many are left"
            ));
            Ok(RemoteExit::Done)
        }
        ClusterSubcommand::Undrain { node, connection } => {
            let (client, output) = super::connect(&connection)?;
            client.delete(drain_of(&node)).await?;
            output.notice(&format!("{node} takes shards again"));
            Ok(RemoteExit::Done)
        }
    }
}

fn drain_of(node: &str) -> ApiPath {
    ApiPath::new(&["cluster", "nodes", node, "drain"])
}

/// Lists the nodes, and tells what is wrong.
async fn status(client: &ApiClient, output: &CommandOutput) -> Result<RemoteExit, RemoteError> {
    let Document { text, value } = client.get(ApiPath::new(&["cluster"])).await?;
    if output.json {
        output.document(&Document { text, value })?;
        return Ok(RemoteExit::Done);
    }
    let nodes = value["nodes"].as_array().ok_or_else(|| client.unexpected("no list of nodes"))?;
    let header = ["NODE", "STATE", "VERSION", "SHARDS", "DEVICES", "STORE", "PEERS", "SEEN", "CONSOLE"];
    Table::new(&header).write(output, &nodes.iter().map(node_row).collect::<Vec<_>>())?;
    for trouble in troubles(&value, nodes) {
        output.notice(&trouble);
    }
    Ok(RemoteExit::Done)
}

fn node_row(node: &Value) -> Vec<Cell> {
    let state = text_of(&node["state"]);
    let tone = match state.as_str() {
        "up" | "standby" => Tone::Good,
        "silent" => Tone::Bad,
        _ => Tone::Neutral,
    };
    let store = text_of(&node["store"]);
    let store_tone = if store == "sure" { Tone::Good } else { Tone::Bad };
    let (peers, silent) = (count(&node["peers"]), count(&node["silentPeers"]));
    let peers_tone = if silent > 0 { Tone::Bad } else { Tone::Neutral };
    vec![
        Cell::from(&node["name"]),
        Cell::toned(state, tone),
        Cell::from(&node["version"]),
        Cell::from(&node["shards"]),
        Cell::from(&node["devices"]),
        Cell::toned(store, store_tone),
        Cell::toned(format!("{peers}/{}", peers + silent), peers_tone),
        Cell::from(node["seen"].as_f64().map(|seen| short(duration(seen))).unwrap_or_default()),
        Cell::from(&node["console"]),
    ]
}

/// Returns what is wrong, in sentences.
fn troubles(status: &Value, nodes: &[Value]) -> Vec<String> {
    let mut troubles = Vec::new();
    let me = text_of(&status["node"]);
    match status["age"].as_f64() {
        None => troubles.push("the node has no answer of the store yet".to_owned()),
        Some(age) if status["store"] != "sure" => {
            troubles.push(format!("{me} does not reach the store: the list is {} old", short(duration(age))))
        }
        Some(_) => {}
    }
    for node in nodes {
        let name = text_of(&node["name"]);
        if node["state"] == "silent" {
            troubles.push(format!("{name} does not answer"));
        }
        for silent in node["silentPeers"].as_array().into_iter().flatten().filter(|_| node["state"] != "silent") {
            troubles.push(format!("{} does not answer {name}", text_of(silent)));
        }
    }
    if let Some(shards) = status["withoutOwner"].as_u64().filter(|shards| *shards > 0) {
        troubles.push(format!("{shards} of {} shards have no owner", text_of(&status["shards"])));
    }
    troubles
}

fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
