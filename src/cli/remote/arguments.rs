//! The options of the commands that ask a running gateway.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lwm2m_base::secret::Secret;

use super::error::RemoteError;
use super::place::ConsoleAddress;
use crate::config::{PLACE_VARIABLE, TOKEN_VARIABLE};

/// Maximum duration of a trace, in minutes.
const LONGEST_TRACE: i64 = 120;

/// Options for the connection to the console, and for the output.
#[derive(Debug, Args)]
#[command(next_help_heading = "Console")]
pub(crate) struct ConnectionArguments {
    /// Console of the gateway [environment: LWM2M_GATEWAY_AT; default: unix:/run/lwm2m-gateway/console.sock if there is
    /// one, else http://127.0.0.1:8086]
    #[arg(long, value_name = "URL|unix:PATH")]
    at: Option<String>,
    /// File with the token [environment: LWM2M_GATEWAY_TOKEN has the token itself]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the JSON of the API in place of a table
    #[arg(long)]
    pub json: bool,
}

/// The arguments of every operation on a device.
#[derive(Debug, Args)]
pub(crate) struct OperationArguments {
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub waiting: WaitArguments,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// The devices to list.
#[derive(Debug, Args)]
pub(crate) struct SearchArguments {
    /// Devices whose endpoint name begins with this text; this search is fast
    #[arg(long)]
    pub prefix: Option<String>,
    /// Devices whose endpoint name contains this
    #[arg(long, value_name = "PART")]
    pub search: Option<String>,
    /// Devices in this state
    #[arg(long, value_parser = ["awake", "asleep"])]
    pub state: Option<String>,
    /// Devices with this transport
    #[arg(long, value_parser = ["udp", "dtls"])]
    pub transport: Option<String>,
    /// Devices with this object
    #[arg(long, value_name = "ID")]
    pub object: Option<u16>,
    /// Devices at this IP address
    #[arg(long, value_name = "IP")]
    pub address: Option<String>,
    /// Devices that have sent no message for this time, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub silent: Option<Duration>,
    /// Devices with pending commands
    #[arg(long)]
    pub waiting: bool,
    /// Maximum number of devices
    #[arg(long, value_name = "NUMBER", default_value_t = 100, conflicts_with = "all",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// List all devices
    #[arg(long)]
    pub all: bool,
}

/// The device and the path of a command.
#[derive(Debug, Args)]
pub(crate) struct TargetArguments {
    /// Endpoint name
    #[arg(value_name = "EP")]
    pub endpoint: String,
    /// Path, such as /3303/0/5700
    #[arg(value_name = "PATH")]
    pub path: String,
}

/// The value of a write.
#[derive(Debug, Args)]
pub(crate) struct ValueArguments {
    /// Value; Opaque as base64, an object link as 3:0
    #[arg(required_unless_present = "file", allow_hyphen_values = true)]
    pub value: Option<String>,
    /// Type of the value: String, Integer, "Unsigned Integer", Float, Boolean, Time, Opaque, Objlnk or Corelnk; by
    /// default the type of the object definition
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Write the content of this file, - for the standard input: as Opaque, or as text of the type
    #[arg(long, conflicts_with = "value")]
    pub file: Option<PathBuf>,
}

/// The time that a command has.
#[derive(Debug, Args)]
pub(crate) struct WaitArguments {
    /// Wait for the answer this long; 0 returns as soon as the gateway has accepted the command
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
    /// Refuse the command if it cannot be sent within this time; 0 for a device that must be awake
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub ttl: Option<Duration>,
    /// Replace or end an observation that an application has begun
    #[arg(long)]
    pub force: bool,
}

/// The messages to trace.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("traced").required(true))]
pub(crate) struct TraceArguments {
    /// Endpoint name
    #[arg(value_name = "EP", group = "traced")]
    pub endpoint: Option<String>,
    /// Messages of this IP address, registered or not
    #[arg(long, value_name = "IP", group = "traced")]
    pub address: Option<String>,
    /// Messages of this DTLS identity, registered or not
    #[arg(long, group = "traced")]
    pub identity: Option<String>,
    /// End the trace after this many minutes, at most 120
    #[arg(long, value_name = "MINUTES", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=LONGEST_TRACE as u64))]
    pub minutes: u64,
    /// Write the messages to this pcap file, - for the standard output, in place of printing them
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub pcap: Option<PathBuf>,
}

impl ConnectionArguments {
    /// Returns the console to ask.
    pub(crate) fn place(&self) -> Result<ConsoleAddress, RemoteError> {
        let from_environment = || env::var(PLACE_VARIABLE).ok().filter(|place| !place.is_empty());
        match self.at.clone().or_else(from_environment) {
            Some(place) => ConsoleAddress::parse(&place),
            None => Ok(ConsoleAddress::by_default()),
        }
    }

    /// Returns the token; `None` if there is none, as for a socket.
    pub(crate) fn token(&self) -> Result<Option<Secret>, RemoteError> {
        let token = match &self.token_file {
            Some(file) => fs::read_to_string(file)
                .map_err(|error| RemoteError::File { file: file.display().to_string(), error })?,
            None => env::var(TOKEN_VARIABLE).unwrap_or_default(),
        };
        let token = token.trim();
        Ok((!token.is_empty()).then(|| Secret::new(token)))
    }
}

/// Parses a duration such as `1h` or `90s`; a number without a unit is in seconds.
fn duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).map_err(|_| "expected a duration such as 30s or 1h".to_owned()),
    }
}

/// Parses `NAME=VALUE`.
pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    if name.is_empty() {
        return Err("expected a name before =".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_or_is_in_seconds() {
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(duration("soon").is_err());
    }

    #[test]
    fn an_assignment_has_a_name_and_may_have_an_empty_value() {
        assert_eq!(assignment("pmin=10"), Ok(("pmin".to_owned(), "10".to_owned())));
        assert_eq!(assignment("1=a=b"), Ok(("1".to_owned(), "a=b".to_owned())));
        assert_eq!(assignment("0="), Ok(("0".to_owned(), String::new())));
        assert!(assignment("=1").is_err() && assignment("pmin").is_err());
    }
}
