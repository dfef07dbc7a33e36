//! Implements `import`, which moves the records of a store in a file to a cluster.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::config::Config;
use crate::store::redis::{ImportMode, ImportReport};
use crate::store::{self, StoreContents};

use super::ConfigFile;

/// Maximum number of endpoint names that are printed.
const NAMES: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The store of a gateway that has been stopped; it is not changed
    #[arg(long, value_name = "FILE.redb")]
    from: PathBuf,
    /// Tell what would be imported, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace devices that are registered in the cluster already
    #[arg(long)]
    replace: bool,
}

/// Moves the records, and prints what was done.
pub(super) fn import(arguments: &ImportArguments, output: &mut impl Write) -> anyhow::Result<()> {
    let ImportArguments { config, from, dry_run, replace } = arguments;
    let config: Config = config.load()?;
    ensure!(config.cluster.is_some(), "the configuration is not that of a node of a cluster (cluster.enable)");
    let contents = store::file::read_copy(from, &config.listeners);
    let contents = contents.with_context(|| format!("--from {}", from.display()))?;
    write_contents(&contents, output)?;
    let mode = ImportMode { is_trial: *dry_run, replaces: *replace };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(store::redis::import(&config.store, &config.listeners, contents, mode))?;
    write_report(&report, mode, output)
}

fn write_contents(contents: &StoreContents, output: &mut impl Write) -> anyhow::Result<()> {
    let commands: usize = contents.devices.iter().map(|record| record.commands.len()).sum();
    let StoreContents { devices, associations, .. } = contents;
    writeln!(
        output,
        "in the file: {} devices, {commands} pending commands, {} DTLS sessions",
        devices.len(),
        associations.len()
    )?;
    Ok(())
}

fn write_report(report: &ImportReport, mode: ImportMode, output: &mut impl Write) -> anyhow::Result<()> {
    let ImportReport { devices, shards, commands, associations, profiles, existing, .. } = report;
    let done = if mode.is_trial { "would be imported" } else { "imported" };
    writeln!(
        output,
        "{done}: {devices} devices to {shards} shards, {commands} pending commands, {associations} DTLS sessions, \
         {profiles} object lists"
    )?;
    if !existing.is_empty() {
        let names = existing.iter().take(NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if existing.len() > NAMES { ", ..." } else { "" };
        writeln!(
            output,
            "left: {} devices that are registered in the cluster already (--replace replaces them): {names}{more}",
            existing.len()
        )?;
    }
    if report.existing_associations > 0 {
        writeln!(output, "left: {} DTLS sessions that are in the store already", report.existing_associations)?;
    }
    if report.without_device > 0 {
        writeln!(output, "left: {} records of devices that are not registered", report.without_device)?;
    }
    let [keys, bootstraps, campaigns] = report.left;
    for (count, what) in [
        (keys, "generated keys of bootstrap: add them to dtls.psk_file, or these devices need another bootstrap"),
        (bootstraps, "bootstrap commands"),
        (campaigns, "records of firmware campaigns"),
    ] {
        if count > 0 {
            writeln!(output, "left, since a cluster does not have them: {count} {what}")?;
        }
    }
    Ok(())
}
