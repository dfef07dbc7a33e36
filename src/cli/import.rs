//! Implements `import`, which moves the records of a store in a file to a cluster.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::config::Config;
use crate::store::redis::{ImportMode, ImportReport};
use crate::store::{self, StoreContents};
use crate::transport::Security;

use super::ConfigFile;

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
    /// Replace devices that are in the cluster already
    #[arg(long)]
    replace: bool,
}

/// Moves the records, and prints what was done.
pub(super) fn import(arguments: &ImportArguments, output: &mut impl Write) -> anyhow::Result<()> {
    let ImportArguments { config, from, dry_run, replace } = arguments;
    let config: Config = config.load()?;
    ensure!(config.cluster.is_some(), "the configuration is not that of a node of a cluster (cluster.enable)");
    let read = store::file::read_copy(from, &config.listeners);
    let (contents, _locked) = read.with_context(|| format!("--from {}", from.display()))?;
    let is_secured = config.listeners.iter().any(|listener| listener.security == Security::Dtls);
    ensure!(
        is_secured || contents.associations.is_empty(),
        "the file has {} DTLS sessions, and the configuration has no listener for DTLS (listeners.dtls)",
        contents.associations.len()
    );
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
    let ImportReport { devices, shards, commands, sessions, profiles, .. } = report;
    let done = if mode.is_trial { "would be imported" } else { "imported" };
    writeln!(
        output,
        "{done}: {devices} devices (in {shards} of 256 shards), {commands} pending commands, {sessions} DTLS sessions, \
         {profiles} object lists"
    )?;
    for line in what_was_left(report) {
        writeln!(output, "{line}")?;
    }
    Ok(())
}

/// Returns a line for each kind of records that was not imported.
fn what_was_left(report: &ImportReport) -> Vec<String> {
    let ImportReport { existing, existing_names, existing_sessions, without_session, without_device, .. } = report;
    let mut lines = Vec::new();
    if *existing > 0 {
        let more = if existing_names.len() < *existing { ", ..." } else { "" };
        lines.push(format!(
            "left: {existing} devices that are in the cluster already (--replace replaces them): {}{more}",
            existing_names.join(", ")
        ));
    }
    if *existing_sessions > 0 {
        lines.push(format!("left: {existing_sessions} DTLS sessions that are in the cluster already"));
    }
    if *without_session > 0 {
        lines.push(format!(
            "{without_session} of the imported devices have to make a new DTLS handshake: their session cannot be imported"
        ));
    }
    if report.sessions_before_terms > 0 {
        lines.push(format!(
            "left: {} DTLS sessions of an older version. To keep them, start a gateway of this version with the file once, \
             stop it, and import again with --replace",
            report.sessions_before_terms
        ));
    }
    if *without_device > 0 {
        lines.push(format!("left: {without_device} records of devices that are not registered"));
    }
    let [keys, bootstraps, campaigns] = report.left;
    for (count, what) in [
        (keys, "generated keys of bootstrap: add them to dtls.psk_file, or these devices need another bootstrap"),
        (bootstraps, "bootstrap commands"),
        (campaigns, "records of firmware campaigns"),
    ] {
        if count > 0 {
            lines.push(format!("left, since a cluster does not have them: {count} {what}"));
        }
    }
    lines
}
