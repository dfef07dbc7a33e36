//! The commands that ask a running gateway, over the HTTP API of its console.
//!
//! 1. `arguments` has the options, `place` finds the console and the token, `client` sends the requests.
//! 2. A module for each group of resources: `devices`, `gateway`, `commands`, `observe`, `events`, `traces`,
//!    `firmware`, `cluster`.
//! 3. `output` writes: data to the standard output, as a table or as the JSON of the API, everything else to the
//!    standard error output.
//! 4. `error` maps every result to an exit code.
//!
//! These commands know the API only, nothing of the gateway's inside. Members that an older or newer gateway does not
//! have are left out.

mod arguments;
mod client;
mod cluster;
mod commands;
mod devices;
mod document;
mod error;
mod event_stream;
mod events;
mod firmware;
mod gateway;
mod interrupt;
mod observe;
mod output;
mod place;
mod traces;

use std::io;
use std::process::ExitCode;

use arguments::{ConnectionArguments, OperationArguments, SearchArguments, TraceArguments, ValueArguments};
use client::ApiClient;
use commands::{Confirmation, OperationBody};
use error::{RemoteError, RemoteExit};
use output::CommandOutput;

/// The commands. A device is named by its endpoint name, a path is that of LwM2M: `/3303/0/5700`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RemoteCommand {
    #[command(flatten)]
    Look(LookCommand),
    #[command(flatten)]
    Operation(OperationCommand),
    /// Print the events of a device, or of all devices, until Ctrl-C
    Events {
        /// Endpoint name; without it registrations, address changes and failures of all devices
        #[arg(value_name = "EP")]
        endpoint: Option<String>,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Print the CoAP messages of a device after decryption, until Ctrl-C
    Trace {
        #[command(flatten)]
        traced: TraceArguments,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Update the firmware of many devices
    Firmware {
        #[command(subcommand)]
        command: firmware::FirmwareSubcommand,
    },
    /// List the nodes of a cluster, or drain one
    Cluster {
        #[command(subcommand)]
        command: cluster::ClusterSubcommand,
    },
    /// End the registration of a device: its next Update is answered 4.04, so that it registers again
    Kick {
        /// Endpoint name
        #[arg(value_name = "EP")]
        endpoint: String,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Remove the key that the bootstrap server generated for an identity: its DTLS sessions end, and the device needs
    /// another bootstrap
    RemoveKey {
        /// Identity of the pre-shared key; with identity = "${endpoint_name}" it is the endpoint name
        #[arg(value_name = "IDENTITY")]
        identity: String,
        #[command(flatten)]
        confirmation: Confirmation,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
}

/// The commands that only look.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum LookCommand {
    /// List the registered devices of a running gateway
    Devices {
        #[command(flatten)]
        search: SearchArguments,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Show a device: registration, objects, DTLS, pending commands, observations
    Show {
        /// Endpoint name
        #[arg(value_name = "EP")]
        endpoint: String,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// List the pending commands of a device, in the order in which they are sent
    Queue {
        /// Endpoint name
        #[arg(value_name = "EP")]
        endpoint: String,
        /// Withdraw the pending command with this number; its sender gets 4.00
        #[arg(long, value_name = "NUMBER")]
        withdraw: Option<u64>,
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// List recent failures: registrations, handshakes, commands, publications
    Failures {
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Show the state of the gateway: devices, broker, conditions, limits
    Overview {
        #[command(flatten)]
        connection: ConnectionArguments,
    },
    /// Show the state of the gateway every two seconds, until Ctrl-C
    Top {
        #[command(flatten)]
        connection: ConnectionArguments,
    },
}

/// The operations on a device.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum OperationCommand {
    /// Read a resource, an instance or an object; several paths are read in one composite request
    Read {
        #[command(flatten)]
        operation: OperationArguments,
        /// More paths
        #[arg(value_name = "PATH")]
        more: Vec<String>,
    },
    /// Write a resource
    Write {
        #[command(flatten)]
        operation: OperationArguments,
        #[command(flatten)]
        value: ValueArguments,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Execute a resource
    Exec {
        #[command(flatten)]
        operation: OperationArguments,
        /// Arguments of the operation, such as 0='now'
        #[arg(value_name = "ARGS")]
        arguments: Option<String>,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Create an instance of an object; the device chooses the ID if the path has none
    Create {
        #[command(flatten)]
        operation: OperationArguments,
        /// Resources of the instance, such as 0=48.1
        #[arg(value_name = "RESOURCE=VALUE", required = true, value_parser = arguments::assignment)]
        resources: Vec<(String, String)>,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Delete an instance
    Delete {
        #[command(flatten)]
        operation: OperationArguments,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// List what is below a path of a device, with its attributes
    Discover(OperationArguments),
    /// Write attributes of notifications, such as pmin=10 pmax=60
    WriteAttr {
        #[command(flatten)]
        operation: OperationArguments,
        /// Attributes: pmin, pmax, gt, lt, st and others
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = arguments::assignment)]
        attributes: Vec<(String, String)>,
    },
    /// Observe a path
    Observe {
        #[command(flatten)]
        operation: OperationArguments,
        /// Print the notifications until Ctrl-C, and end the observation then if this command has begun it
        #[arg(long)]
        follow: bool,
    },
    /// End the observation of a path
    Cancel(OperationArguments),
}

/// Runs a command. The error is that of the standard output only: every other one is written, and is an exit code.
pub(super) fn run(command: RemoteCommand) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(execute(command)) {
        Ok(exit) => Ok(exit.into()),
        Err(RemoteError::CommandOutput(error)) => Err(error),
        Err(error) => {
            eprintln!("lwm2m-gateway: {}", output::printable(&error.to_string()));
            Ok(error.exit().into())
        }
    }
}

async fn execute(command: RemoteCommand) -> Result<RemoteExit, RemoteError> {
    match command {
        RemoteCommand::Look(command) => look(command).await,
        RemoteCommand::Operation(command) => operate(command).await,
        RemoteCommand::Events { endpoint, connection } => {
            let (client, mut output) = connect(&connection)?;
            events::print(&client, endpoint.as_deref(), &mut output).await
        }
        RemoteCommand::Trace { traced, connection } => {
            let (client, mut output) = connect(&connection)?;
            traces::trace(&client, &traced, &mut output).await
        }
        RemoteCommand::Firmware { command } => firmware::run(command).await,
        RemoteCommand::Cluster { command } => cluster::run(command).await,
        RemoteCommand::Kick { endpoint, connection } => {
            let (client, output) = connect(&connection)?;
            devices::kick(&client, &endpoint, &output).await
        }
        RemoteCommand::RemoveKey { identity, confirmation, connection } => {
            confirmation.ask_for_key(&identity)?;
            let (client, output) = connect(&connection)?;
            gateway::remove_key(&client, &identity, &output).await
        }
    }
}

async fn look(command: LookCommand) -> Result<RemoteExit, RemoteError> {
    match command {
        LookCommand::Devices { search, connection } => {
            let (client, mut output) = connect(&connection)?;
            devices::list(&client, &search, &mut output).await
        }
        LookCommand::Show { endpoint, connection } => {
            let (client, mut output) = connect(&connection)?;
            devices::show(&client, &endpoint, &mut output).await
        }
        LookCommand::Queue { endpoint, withdraw, connection } => {
            let (client, mut output) = connect(&connection)?;
            match withdraw {
                None => devices::queue(&client, &endpoint, &mut output).await,
                Some(number) => devices::withdraw(&client, &endpoint, number, &output).await,
            }
        }
        LookCommand::Failures { connection } => {
            let (client, mut output) = connect(&connection)?;
            gateway::failures(&client, &mut output).await
        }
        LookCommand::Overview { connection } => {
            let (client, mut output) = connect(&connection)?;
            gateway::overview(&client, &mut output).await
        }
        LookCommand::Top { connection } => {
            let (client, mut output) = connect(&connection)?;
            gateway::top(&client, &mut output).await
        }
    }
}

async fn operate(command: OperationCommand) -> Result<RemoteExit, RemoteError> {
    match command {
        OperationCommand::Read { operation, more } => {
            give(OperationBody::read(&operation.target.path, more), &operation).await
        }
        OperationCommand::Write { operation, value, confirmation } => {
            let body = OperationBody::write(&operation.target.path, &value)?;
            confirmation.ask_for_write(&operation.target)?;
            give(body, &operation).await
        }
        OperationCommand::Exec { operation, arguments, confirmation } => {
            confirmation.ask("execute", &operation.target)?;
            give(OperationBody::execute(&operation.target.path, arguments), &operation).await
        }
        OperationCommand::Create { operation, resources, confirmation } => {
            let body = OperationBody::create(&operation.target.path, &resources)?;
            confirmation.ask("create", &operation.target)?;
            give(body, &operation).await
        }
        OperationCommand::Delete { operation, confirmation } => {
            confirmation.ask("delete", &operation.target)?;
            give_plain("delete", &operation).await
        }
        OperationCommand::Discover(operation) => give_plain("discover", &operation).await,
        OperationCommand::WriteAttr { operation, attributes } => {
            give(OperationBody::write_attributes(&operation.target.path, &attributes), &operation).await
        }
        OperationCommand::Observe { operation, follow: false } => give_plain("observe", &operation).await,
        OperationCommand::Observe { operation, follow: true } => {
            let OperationArguments { target, waiting, connection } = operation;
            let (client, mut output) = connect(&connection)?;
            observe::follow(&client, &target, &waiting, &mut output).await
        }
        OperationCommand::Cancel(operation) => give_plain("cancel-observe", &operation).await,
    }
}

/// Gives a command that has nothing but a path.
async fn give_plain(msg_type: &'static str, operation: &OperationArguments) -> Result<RemoteExit, RemoteError> {
    give(OperationBody::plain(msg_type, &operation.target.path), operation).await
}

async fn give(body: OperationBody, operation: &OperationArguments) -> Result<RemoteExit, RemoteError> {
    let OperationArguments { target, waiting, connection } = operation;
    let (client, mut output) = connect(connection)?;
    commands::send(&client, &target.endpoint, &body, waiting, &mut output).await
}

fn connect(connection: &ConnectionArguments) -> Result<(ApiClient, CommandOutput), RemoteError> {
    let place = connection.place()?;
    Ok((ApiClient::new(place, connection.token()?)?, CommandOutput::new(connection.json)))
}
