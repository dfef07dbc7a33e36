//! Parses the arguments, calls the library, and maps the error to an exit code: 0 fine, 1 failed, 2 wrong usage.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use lwm2m_gateway::app;
use lwm2m_gateway::cli::{self, Arguments, Subcommand};
use lwm2m_gateway::config::Config;
#[cfg(feature = "embedded")]
use lwm2m_gateway::demo;
use lwm2m_gateway::observability::logging;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return wrong_usage(&error),
    };
    match execute(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads the list has seen enough: `objects | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lwm2m-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Subcommand) -> anyhow::Result<()> {
    match command {
        #[cfg(feature = "embedded")]
        Subcommand::Run { config, embedded: true } => serve(config.load()?, |config| app::run(config, true)),
        Subcommand::Run { config, .. } => serve(config.load()?, |config| app::run(config, false)),
        #[cfg(feature = "embedded")]
        Subcommand::Demo { config, once } => {
            serve(demo::with_quiet_log(config.load()?), |config| demo::run(config, once))
        }
        Subcommand::Check { config, connect } => cli::check(&config, connect, &mut io::stdout().lock()),
        Subcommand::EmqxConfig { config } => cli::emqx_config(&config, &mut io::stdout().lock()),
        Subcommand::Objects { query, config } => cli::objects(&query, &config, &mut io::stdout().lock()),
    }
}

/// Prints the error, or the help that was asked for, and ends the program.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    match cli::suggestion(error) {
        None => error.exit(),
        Some(meant) => {
            eprint!("{error}\n  tip: did you mean 'lwm2m-gateway {meant}'?\n");
            ExitCode::from(2)
        }
    }
}

/// Starts the log and the runtime, and stays until the work is done.
fn serve<F>(config: Config, work: impl FnOnce(Config) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    logging::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(work(config))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
