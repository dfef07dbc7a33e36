//! The command line, and the commands that only look: `check`, `emqx-config` and `objects`.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::definitions::{self, Definitions};
use crate::lwm2m::model::{BrokenFile, Model, Object, Resource};
use crate::transport::Security;
use crate::upstream::Settings;
use crate::upstream::exproto::emqx::EmqxConfig;

/// LwM2M devices on one side, the EMQX broker on the other
#[derive(Debug, Parser)]
#[command(name = "lwm2m-gateway", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve devices until Ctrl-C or SIGTERM
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// Start a small MQTT broker in this process and use it in the place of EMQX
        #[cfg(feature = "embedded")]
        #[arg(long)]
        embedded: bool,
    },
    /// Show the whole loop: gateway, embedded broker, a simulated device, an application
    #[cfg(feature = "embedded")]
    Demo {
        #[command(flatten)]
        config: ConfigFile,
        /// End after the conversation, also at a terminal
        #[arg(long)]
        once: bool,
    },
    /// Check the configuration and the object definitions; exit with 1 when something is wrong
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Print what EMQX has to be configured with, so that both sides agree
    EmqxConfig {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// List the objects that are defined, or the resources of one of them
    Objects {
        /// The id of an object
        id: Option<u16>,
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration; without it all defaults hold
    #[arg(long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ConfigFile {
    /// The file with the environment over it.
    pub fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.file.as_deref(), env::vars_os())?)
    }
}

/// Says what is wrong with the configuration and the definitions; an error when anything is.
pub fn check(config: &ConfigFile, output: &mut impl Write) -> anyhow::Result<()> {
    let config = config.load()?;
    writeln!(output, "configuration: no mistakes")?;
    let Definitions { model, broken } = read_definitions(&config.xml_dir)?;
    for BrokenFile { file, reason } in &broken {
        writeln!(output, "{file}: {reason}")?;
    }
    writeln!(output, "{}: {} object definitions", config.xml_dir.display(), model.objects().count())?;
    let secured = check_credentials(&config, output)?;
    ensure!(broken.is_empty(), "{} of the object definitions are broken", broken.len());
    ensure!(secured, "the credentials of DTLS are of no use");
    Ok(())
}

/// Whether they are of use, or not needed.
fn check_credentials(config: &Config, output: &mut impl Write) -> io::Result<bool> {
    if config.listeners.iter().all(|listener| listener.security == Security::None) {
        return Ok(true);
    }
    let service = config.credentials.asker().map_err(Into::into);
    match service.and_then(|_: Option<_>| config.credentials.load()) {
        Ok(credentials) => writeln!(output, "dtls: {} keys, nothing is wrong", credentials.keys.len())?,
        Err(problem) => {
            writeln!(output, "{}", one_line(&problem.to_string()))?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Errors of OpenSSL may have several lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Prints EMQX's side of the link.
pub fn emqx_config(config: &ConfigFile, output: &mut impl Write) -> anyhow::Result<()> {
    let config = config.load()?;
    let Settings::ExProto(settings) = &config.upstream else {
        bail!("with upstream.kind = \"mqtt\" the devices use EMQX's MQTT listener: it needs nothing else for them");
    };
    write!(output, "{}", EmqxConfig { settings, limits: &config.gateway.limits })?;
    Ok(())
}

/// Lists the objects, or the resources of the one with this id.
pub fn objects(id: Option<u16>, config: &ConfigFile, output: &mut impl Write) -> anyhow::Result<()> {
    let config = config.load()?;
    let Definitions { model, broken } = read_definitions(&config.xml_dir)?;
    match id {
        Some(id) => list_resources(&model, id, output)?,
        None => list_objects(&model, output)?,
    }
    for BrokenFile { file, reason } in &broken {
        writeln!(io::stderr(), "{file}: {reason}")?;
    }
    Ok(())
}

fn read_definitions(folder: &Path) -> anyhow::Result<Definitions> {
    definitions::read(folder).with_context(|| format!("xml_dir: cannot read the folder {}", folder.display()))
}

fn list_objects(model: &Model, output: &mut impl Write) -> io::Result<()> {
    let row = |object: &Object| {
        let resources = object.resources().count().to_string();
        [object.id.to_string(), object.version.to_string(), resources, object.name.clone()]
    };
    write_table(["ID", "VERSION", "RESOURCES", "NAME"], model.objects().map(row).collect(), output)
}

fn list_resources(model: &Model, id: u16, output: &mut impl Write) -> anyhow::Result<()> {
    let versions: Vec<&Object> = model.objects().filter(|object| object.id == id).collect();
    if versions.is_empty() {
        bail!("object {id} has no definition");
    }
    for object in versions {
        let instances = if object.multiple { "several instances" } else { "one instance" };
        writeln!(output, "{} {}, version {}, {instances}", object.id, object.name, object.version)?;
        let header = ["ID", "OPERATIONS", "TYPE", "INSTANCES", "RANGE", "UNITS", "NAME"];
        write_table(header, object.resources().map(resource_row).collect(), output)?;
    }
    Ok(())
}

fn resource_row(resource: &Resource) -> [String; 7] {
    [
        resource.id.to_string(),
        resource.operations.to_string(),
        resource.resource_type.map(|kind| kind.to_string()).unwrap_or_default(),
        if resource.multiple { "multiple" } else { "single" }.to_owned(),
        resource.range.map(|range| range.to_string()).unwrap_or_default(),
        resource.units.clone(),
        resource.name.clone(),
    ]
}

/// Columns as wide as their longest entry, but the last one.
fn write_table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>, output: &mut impl Write) -> io::Result<()> {
    let mut widths = header.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in std::iter::once(header.map(str::to_owned)).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(output, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
