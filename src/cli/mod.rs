//! The command line: parses the arguments, runs the command and maps the result to an exit code. The commands that do
//! not serve devices are here: `check`, `emqx-config`, `objects`, `import`, `rekey`, `token`, `openapi`, `completion`
//! and `man`. Those that ask a running gateway are in `remote`.

mod check;
mod check_bootstrap;
#[cfg(feature = "console")]
mod completion;
mod connect;
mod import;
#[cfg(feature = "console")]
mod manual;
mod objects;
mod rekey;
#[cfg(feature = "console")]
mod remote;
mod suggestions;
#[cfg(feature = "console")]
mod token;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser};

use crate::app;
#[cfg(feature = "embedded")]
use crate::app::Trial;
use crate::config::Config;
#[cfg(feature = "console")]
use crate::console;
use crate::definitions::{self, Definitions};
#[cfg(feature = "embedded")]
use crate::demo;
use crate::observability::logging::{self, LogFormat};
use crate::process::parent;
use crate::upstream::UpstreamConfig;
use crate::upstream::exproto::emqx::EmqxConfig;

use check::check;
use objects::objects;
use suggestions::suggestion;

const HELP: &str = "Examples:
  lwm2m-gateway demo                            see the whole loop, without a device and without EMQX
  lwm2m-gateway run --embedded --simulate 5     try it, with a console, an MQTT broker and simulated devices
  lwm2m-gateway check -c gateway.toml --connect check configuration, ports, store and broker
  lwm2m-gateway emqx-config -c gateway.toml     print the configuration of EMQX that matches
  lwm2m-gateway run -c gateway.toml             serve devices
  lwm2m-gateway devices                         list the devices of a running gateway, by its console
  lwm2m-gateway read ep1 /3/0                   read from a device

Environment:
  LWM2M_GATEWAY__SECTION__KEY  overrides a key of the configuration: LWM2M_GATEWAY__UPSTREAM__KIND=mqtt
  LWM2M_GATEWAY_LOG            the log level: off, error, warn, info, debug, trace, or directives such as info,h2=debug
  LWM2M_GATEWAY_AT             the console of a running gateway: http://HOST:PORT, https://HOST:PORT or unix:PATH
  LWM2M_GATEWAY_TOKEN          a token of that console
  NO_COLOR                     no colours

Exit codes: 0 success, 1 failure, 2 wrong usage. Commands for a device also: 3 the device answered 4.xx or 5.xx, 4 no
answer, or the command was rejected or expired, 5 the command still waits, 6 the device is not registered, 7 the token
does not allow it, 8 another node of the cluster has the device.

The example configuration, lwm2m-gateway.toml, has every key with its default.";

/// Maximum number of simulated devices.
#[cfg(feature = "embedded")]
const SIMULATED_DEVICES: i64 = 1_000;

/// Connects LwM2M devices to an MQTT broker, primarily EMQX
#[derive(Debug, Parser)]
#[command(name = "lwm2m-gateway", version, after_help = HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommand,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Serve devices until Ctrl-C or SIGTERM
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// For a parent process: stop when the standard input ends or has the line `stop`; reload at the line `reload`;
        /// print JSON lines only
        #[arg(long)]
        exit_with_parent: bool,
        /// Start a small MQTT broker in this process and use it in place of EMQX, with a console; the broker stores
        /// nothing, and accepts every client
        #[cfg(feature = "embedded")]
        #[arg(long, conflicts_with = "exit_with_parent")]
        embedded: bool,
        /// Add this number of simulated devices: thermometers, meters that sleep, and one that is faulty
        #[cfg(feature = "embedded")]
        #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "embedded",
              value_parser = clap::value_parser!(u16).range(..=SIMULATED_DEVICES))]
        simulate: u16,
    },
    /// Show the whole loop: gateway, embedded broker, simulated devices, an application
    #[cfg(feature = "embedded")]
    Demo {
        #[command(flatten)]
        config: ConfigFile,
        /// End after the conversation; without it the demonstration continues until Ctrl-C at a terminal
        #[arg(long)]
        once: bool,
        /// Bootstrap the first device: the bootstrap server gives it its server and its key
        #[arg(long)]
        bootstrap: bool,
    },
    /// Check the configuration, the object definitions and the credentials; exit with 1 when something is wrong
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Try the ports, the store, the key service and the broker too: a test device connects to the broker and
        /// publishes one small message
        #[arg(long)]
        connect: bool,
    },
    /// Print EMQX's side of the configuration, for `emqx ctl conf load --merge`
    EmqxConfig {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Move the devices of a store in a file to a cluster whose nodes are stopped; no device has to register again
    Import(import::ImportArguments),
    /// Seal the records at a Redis server with store.redis.seal_keyfile in place of store.redis.other_seal_keyfile
    Rekey {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// List all defined objects, those whose name matches, or the resources of one
    Objects {
        /// The id of an object, or a part of its name
        #[arg(value_name = "ID or NAME")]
        query: Vec<String>,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Make a token for the console, and print it with its line for the file console.tokens
    #[cfg(feature = "console")]
    Token(token::TokenArguments),
    /// Print the OpenAPI document of the console
    #[cfg(feature = "console")]
    Openapi,
    /// Print a script that completes commands and options in a shell
    #[cfg(feature = "console")]
    Completion { shell: completion::CompletionShell },
    /// Write the manual pages of all commands to a folder
    #[cfg(feature = "console")]
    #[command(hide = true)]
    Man { folder: PathBuf },
    #[cfg(feature = "console")]
    #[command(flatten)]
    Remote(remote::RemoteCommand),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration, a TOML file; without it all defaults are in force
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ConfigFile {
    /// Returns the file with the environment over it.
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.file.as_deref(), env::vars_os())?)
    }
}

/// Runs the program with the arguments of the process. The exit code is 0 for success, 1 for failure, 2 for wrong
/// usage; commands that ask a running gateway have further ones.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return wrong_usage(&error),
    };
    match execute(arguments.command) {
        Ok(exit) => exit,
        // The reader of a list has closed it early: `objects | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lwm2m-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Subcommand) -> anyhow::Result<ExitCode> {
    let done = match command {
        #[cfg(feature = "embedded")]
        Subcommand::Run { config, embedded: true, simulate: simulated, .. } => {
            serve(config.load()?, |config| app::run(config, Some(Trial { simulated }), None))
        }
        Subcommand::Run { config, exit_with_parent: true, .. } => run_with_parent(config.load()?),
        Subcommand::Run { config, .. } => serve(config.load()?, |config| app::run(config, None, None)),
        #[cfg(feature = "embedded")]
        Subcommand::Demo { config, once, bootstrap } => {
            serve(demo::with_quiet_log(config.load()?), |config| demo::run(config, once, bootstrap))
        }
        Subcommand::Check { config, connect } => check(&config, connect, &mut io::stdout().lock()),
        Subcommand::EmqxConfig { config } => emqx_config(&config, &mut io::stdout().lock()),
        #[cfg(feature = "console")]
        Subcommand::Token(arguments) => token::token(&arguments, &mut io::stdout().lock()),
        #[cfg(feature = "console")]
        Subcommand::Openapi => Ok(write!(io::stdout().lock(), "{}", console::document())?),
        #[cfg(feature = "console")]
        Subcommand::Completion { shell } => completion::write(shell, &mut io::stdout().lock()),
        #[cfg(feature = "console")]
        Subcommand::Man { folder } => manual::write(&folder),
        #[cfg(feature = "console")]
        Subcommand::Remote(command) => return Ok(remote::run(command)?),
        Subcommand::Import(arguments) => import::import(&arguments, &mut io::stdout().lock()),
        Subcommand::Rekey { config } => rekey::run(&config, &mut io::stdout().lock()),
        Subcommand::Objects { query, config } => objects(&query, &config, &mut io::stdout().lock()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Serves as the child of a process that reads JSON lines.
fn run_with_parent(mut config: Config) -> anyhow::Result<()> {
    config.log.format = LogFormat::Json;
    serve(config, |config| async {
        parent::log_panics();
        let stopped = parent::follow(config.shutdown_timeout).context("the thread that follows the parent process")?;
        app::run(config, None, Some(stopped)).await
    })
}

/// Starts the log and the asynchronous runtime, and runs the work to its end.
fn serve<F>(config: Config, work: impl FnOnce(Config) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    logging::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(work(config))
}

/// Prints the error, or the help or version that was asked for, and returns or ends with its exit code.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    match suggestion(error) {
        None => error.exit(),
        Some(meant) => {
            eprint!("{error}\n  tip: did you mean 'lwm2m-gateway {meant}'?\n");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints EMQX's side of the link.
fn emqx_config(config: &ConfigFile, output: &mut impl Write) -> anyhow::Result<()> {
    let config = config.load()?;
    let UpstreamConfig::ExProto(exproto) = &config.upstream else {
        bail!("with upstream.kind = \"mqtt\" the devices use EMQX's MQTT listener: it needs nothing else for them");
    };
    write!(output, "{}", EmqxConfig { config: exproto, limits: &config.gateway.limits })?;
    Ok(())
}

fn read_definitions(folder: &Path) -> anyhow::Result<Definitions> {
    definitions::read(folder).with_context(|| format!("xml_dir: cannot read the folder {}", absolute(folder).display()))
}

/// Returns a path as it is found, wherever the program was started.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
