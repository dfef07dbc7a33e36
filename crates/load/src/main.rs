//! `lwm2m-load`: simulated devices against a gateway, and an account of what an application got.
//!
//! `cargo run --release -p lwm2m-load -- --gateway HOST:PORT --mqtt HOST:PORT --devices N --rate R`

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use lwm2m_load::{ApplicationConfig, FleetConfig, RunConfig};
use lwm2m_simulator::SimulatedVersion;
use rumqttc::QoS;
use tokio::task::LocalSet;

/// File descriptors beside those of the devices.
const OTHER_DESCRIPTORS: u64 = 64;

/// Puts a load on an LwM2M gateway: simulated devices register and notify, an MQTT application observes and reads them.
/// Progress is on the standard error, the result on the standard output.
#[derive(Debug, Parser)]
#[command(version)]
struct LoadArguments {
    /// The gateway's address for devices
    #[arg(long, value_name = "HOST:PORT")]
    gateway: String,
    /// The broker's address for MQTT applications
    #[arg(long, value_name = "HOST:PORT")]
    mqtt: String,
    /// Simulated devices, each with a UDP socket of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    devices: u32,
    /// Notifications a second, of all devices together
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND", value_parser = rate)]
    rate: f64,
    /// Reads a second, spread over all devices
    #[arg(long, default_value_t = 0.0, value_name = "PER_SECOND", value_parser = rate)]
    reads: f64,
    /// Updates a second, of all devices together
    #[arg(long, default_value_t = 0.0, value_name = "PER_SECOND", value_parser = rate)]
    updates: f64,
    /// The firmware image of the gateway that every device fetches
    #[arg(long, value_name = "IMAGE")]
    pull: Option<String>,
    /// Duration of the load once all devices are registered and observed
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// The lifetime of a registration; a device sends an Update before it ends
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    lifetime: Duration,
    /// The version of LwM2M with which the devices register
    #[arg(long, value_enum, default_value_t = DeviceVersion::V1_0)]
    lwm2m: DeviceVersion,
    /// Notifications are confirmable messages
    #[arg(long)]
    confirmable: bool,
    /// Devices that register at once
    #[arg(long, default_value_t = 200, value_name = "DEVICES")]
    registering: usize,
    /// The gateway observes /3303/0/5700 by itself, so that no observe command is sent
    #[arg(long)]
    auto_observed: bool,
    /// The part of an endpoint name before the number of the device
    #[arg(long, default_value = "load-", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    prefix: String,
    /// The part of a topic before the endpoint name
    #[arg(long, default_value = "lwm2m/", value_name = "PREFIX")]
    topics: String,
    /// The quality of service of the application's subscription and commands
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// The application's user name at the broker
    #[arg(long, requires = "mqtt_password_file")]
    mqtt_username: Option<String>,
    /// A file with the application's password
    #[arg(long, value_name = "FILE", requires = "mqtt_username")]
    mqtt_password_file: Option<PathBuf>,
    /// A file with the pre-shared key of all devices in hexadecimal digits; each device's identity is its endpoint name
    #[cfg(feature = "dtls")]
    #[arg(long, value_name = "FILE")]
    psk_file: Option<PathBuf>,
    /// Leave the devices registered at the end
    #[arg(long)]
    stay: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// Print no progress
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DeviceVersion {
    #[value(name = "1.0")]
    V1_0,
    #[value(name = "1.1")]
    V1_1,
    #[value(name = "1.2")]
    V1_2,
}

fn main() -> ExitCode {
    let arguments = LoadArguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match LocalSet::new().block_on(&runtime, play(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lwm2m-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn play(arguments: &LoadArguments) -> anyhow::Result<()> {
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).context("the limit of open files")?;
    let needed = u64::from(arguments.devices) + OTHER_DESCRIPTORS;
    ensure!(descriptors >= needed, "{needed} open files are needed, and the limit is {descriptors}: see `ulimit -n`");
    let progress = |line: &str| {
        if !arguments.quiet {
            eprintln!("{line}");
        }
    };
    let report = lwm2m_load::run(arguments.run(), arguments.fleet()?, arguments.application()?, progress).await?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

impl LoadArguments {
    fn run(&self) -> RunConfig {
        let Self { rate, reads, updates, time, auto_observed, stay, .. } = *self;
        RunConfig { rate, reads, updates, image: self.pull.clone(), time, auto_observed, stay }
    }

    fn fleet(&self) -> anyhow::Result<FleetConfig> {
        Ok(FleetConfig {
            prefix: self.prefix.clone(),
            lifetime: self.lifetime,
            version: match self.lwm2m {
                DeviceVersion::V1_0 => SimulatedVersion::V1_0,
                DeviceVersion::V1_1 => SimulatedVersion::V1_1,
                DeviceVersion::V1_2 => SimulatedVersion::V1_2,
            },
            confirmable: self.confirmable,
            registering_at_once: self.registering.max(1),
            #[cfg(feature = "dtls")]
            psk: self.psk_file.as_deref().map(key_of).transpose()?,
            ..FleetConfig::new(address(&self.gateway)?, self.devices)
        })
    }

    fn application(&self) -> anyhow::Result<ApplicationConfig> {
        let credentials = match (&self.mqtt_username, &self.mqtt_password_file) {
            (Some(username), Some(file)) => Some((username.clone(), secret_of(file)?)),
            (Some(_), None) | (None, _) => None,
        };
        Ok(ApplicationConfig {
            client_id: format!("lwm2m-load-{}", std::process::id()),
            credentials,
            qos: if self.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce },
            topics: self.topics.clone(),
            prefix: self.prefix.clone(),
            ..ApplicationConfig::new(address(&self.mqtt)?)
        })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if rate.is_finite() && (0.0..=10_000_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("from 0 to 10000000".to_owned())
    }
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    let mut addresses = text.to_socket_addrs().with_context(|| format!("{text} is not HOST:PORT of a known host"))?;
    addresses.next().with_context(|| format!("{text} has no address"))
}

/// Returns the first line of a file.
fn secret_of(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(feature = "dtls")]
fn key_of(file: &Path) -> anyhow::Result<Vec<u8>> {
    let text = secret_of(file)?;
    let digits = text.trim();
    let bytes = (0..digits.len())
        .step_by(2)
        .map(|place| digits.get(place..place + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()));
    let key: Option<Vec<u8>> = bytes.collect();
    key.filter(|key| !key.is_empty()).with_context(|| format!("{} has no key in hexadecimal digits", file.display()))
}
