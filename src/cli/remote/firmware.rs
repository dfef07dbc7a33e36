//! `firmware`: campaigns that update the firmware of many devices.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::arguments::ConnectionArguments;
use super::client::{ApiClient, ApiPath};
use super::error::{RemoteError, RemoteExit};
use super::output::{Cell, CommandOutput, Table, Tone, text_of};

/// The devices that one request asks for.
const PAGE: &str = "1000";
const STATES: [&str; 9] =
    ["waiting", "updating", "succeeded", "failed", "up_to_date", "filter_mismatch", "cancelled", "deferred", "absent"];

/// The commands about campaigns.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum FirmwareSubcommand {
    /// Begin a campaign: the firmware update of many devices
    Campaign {
        /// The campaign, a TOML file
        #[arg(value_name = "FILE.toml")]
        file: std::path::PathBuf,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// List the campaigns
    List {
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Show a campaign, or its devices
    Show {
        /// Name of the campaign
        name: String,
        /// List the devices
        #[arg(long)]
        devices: bool,
        /// List the devices in this state
        #[arg(long, value_parser = STATES)]
        state: Option<String>,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Pause a campaign: no update begins, and updates in progress continue
    Pause {
        /// Name of the campaign
        name: String,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Resume a campaign that was paused, or that stopped because too many updates failed
    Resume {
        /// Name of the campaign
        name: String,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Cancel a campaign, and the updates that run
    Cancel {
        /// Name of the campaign
        name: String,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
}

/// Runs a command about campaigns.
pub(super) async fn run(command: FirmwareSubcommand) -> Result<RemoteExit, RemoteError> {
    match command {
        FirmwareSubcommand::Campaign { file, connection } => {
            let campaign = read(&file)?;
            let (client, output) = super::connect(&connection)?;
            let (_, begun) = client.post(ApiPath::new(&CAMPAIGNS), &campaign).await?;
            write_campaign(&begun, &output)
        }
        FirmwareSubcommand::List { connection } => {
            let (client, output) = super::connect(&connection)?;
            list(&client, &output).await
        }
        FirmwareSubcommand::Show { name, devices, state, connection } => {
            let (client, output) = super::connect(&connection)?;
            if devices || state.is_some() {
                return show_devices(&client, &name, state.as_deref(), &output).await;
            }
            let [firmware, campaigns] = CAMPAIGNS;
            write_campaign(&client.get(ApiPath::new(&[firmware, campaigns, &name])).await?, &output)
        }
        FirmwareSubcommand::Pause { name, connection } => act(&name, "pause", &connection).await,
        FirmwareSubcommand::Resume { name, connection } => act(&name, "resume", &connection).await,
        FirmwareSubcommand::Cancel { name, connection } => act(&name, "cancel", &connection).await,
    }
}

const CAMPAIGNS: [&str; 2] = ["firmware", "campaigns"];

/// Reads a campaign. The gateway checks its members.
fn read(file: &Path) -> Result<Value, RemoteError> {
    let failed = |error| RemoteError::File { file: file.display().to_string(), error };
    let text = fs::read_to_string(file).map_err(failed)?;
    toml::from_str(&text).map_err(|error| RemoteError::Usage(format!("{}: {error}", file.display())))
}

async fn act(name: &str, action: &str, connection: &ConnectionArguments) -> Result<RemoteExit, RemoteError> {
    let (client, output) = super::connect(connection)?;
    let [firmware, campaigns] = CAMPAIGNS;
    let (_, campaign) = client.post(ApiPath::new(&[firmware, campaigns, name, action]), &json!({})).await?;
    write_campaign(&campaign, &output)
}

async fn list(client: &ApiClient, output: &CommandOutput) -> Result<RemoteExit, RemoteError> {
    let document = client.get(ApiPath::new(&CAMPAIGNS)).await?;
    if output.json {
        output.document(&document)?;
        return Ok(RemoteExit::Done);
    }
    let list = document.value["campaigns"].as_array().ok_or_else(|| client.unexpected("no list of campaigns"))?;
    let header = ["NAME", "STATUS", "DEVICES", "WAITING", "UPDATING", "SUCCEEDED", "FAILED", "VERSION", "IMAGE"];
    let row = |campaign: &Value| {
        let devices = &campaign["devices"];
        let mut row = vec![Cell::from(&campaign["name"]), status_cell(&campaign["status"])];
        row.extend(["total", "waiting", "updating", "succeeded", "failed"].map(|count| Cell::from(&devices[count])));
        row.extend(["version", "image"].map(|member| Cell::from(&campaign[member])));
        row
    };
    Table::new(&header).write(output, &list.iter().map(row).collect::<Vec<_>>())?;
    Ok(RemoteExit::Done)
}

fn write_campaign(document: &super::document::Document, output: &CommandOutput) -> Result<RemoteExit, RemoteError> {
    if output.json {
        output.document(document)?;
        return Ok(RemoteExit::Done);
    }
    let campaign = &document.value;
    let mut facts = vec![
        vec![Cell::from("name"), Cell::from(&campaign["name"])],
        vec![Cell::from("status"), status_cell(&campaign["status"])],
    ];
    facts.extend(["image", "version", "ends"].map(|member| vec![Cell::from(member), Cell::from(&campaign[member])]));
    let counts = campaign["devices"].as_object().into_iter().flatten();
    facts.extend(counts.map(|(state, count)| vec![Cell::from(format!("devices {state}")), Cell::from(count)]));
    Table::new(&["FACT", "VALUE"]).write(output, &facts)?;
    Ok(RemoteExit::Done)
}

/// Lists all devices of a campaign, page by page.
async fn show_devices(
    client: &ApiClient,
    name: &str,
    state: Option<&str>,
    output: &CommandOutput,
) -> Result<RemoteExit, RemoteError> {
    let [firmware, campaigns] = CAMPAIGNS;
    let mut after = None;
    let mut table = Table::new(&["ENDPOINT", "STATE", "ERROR"]);
    loop {
        let path = ApiPath::new(&[firmware, campaigns, name, "devices"]).with("limit", PAGE);
        let path = path.with_some("state", state).with_some("after", after.as_deref());
        let document = client.get(path).await?;
        if output.json {
            output.document(&document)?;
        } else {
            let devices =
                document.value["devices"].as_array().ok_or_else(|| client.unexpected("no list of devices"))?;
            let row =
                |device: &Value| ["endpoint", "state", "error"].map(|member| Cell::from(&device[member])).to_vec();
            table.write(output, &devices.iter().map(row).collect::<Vec<_>>())?;
        }
        after = document.value["next"].as_str().map(str::to_owned);
        if after.is_none() {
            return Ok(RemoteExit::Done);
        }
    }
}

fn status_cell(status: &Value) -> Cell {
    let status = text_of(status);
    let tone = match status.as_str() {
        "running" | "completed" => Tone::Good,
        "stopped" => Tone::Bad,
        _ => Tone::Faint,
    };
    Cell::toned(status, tone)
}
