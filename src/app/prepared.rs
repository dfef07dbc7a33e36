//! The first step of the start, before the program listens anywhere: credentials, object definitions, accounts, and the
//! limit of open files.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::bootstrap::LoadedAccounts;
use crate::conditions::{Condition, ConditionState, Conditions};
use crate::config::Config;
use crate::definitions::{self, Definitions};
use crate::file_snapshot::FileSnapshot;
use crate::observability::metrics::{Metrics, ReloadPart};
use crate::process::descriptors::{Descriptors, DeviceCapacity};
use crate::reload;
use crate::reload::status::ReloadStatus;
use crate::transport::{Security, UdpListener};
use lwm2m_core::lwm2m::model::{BrokenFile, Model};

use super::dtls::DtlsSetup;

/// The results of all checks before the program opens a listener.
pub(crate) struct Prepared {
    /// The state of the files that the configuration names, from before they were read.
    pub read_at: FileSnapshot,
    pub conditions: Conditions,
    /// The metrics of each driver thread.
    pub metrics: Vec<Arc<Metrics>>,
    pub secured: Option<DtlsSetup>,
    pub room: DeviceCapacity,
    pub reloads: ReloadStatus,
    pub announced: watch::Sender<Arc<Model>>,
    /// The accounts of the bootstrap server; `None` if it is off.
    pub accounts: Option<PreparedAccounts>,
}

impl Prepared {
    /// Returns the metrics of the first thread, in which all parts count that belong to no thread.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics[0]
    }
}

/// The accounts of the bootstrap server with its condition; `None` instead of accounts that cannot be loaded.
pub(crate) struct PreparedAccounts {
    pub loaded: Option<LoadedAccounts>,
    pub condition: Condition,
}

/// Reads the credentials and the object definitions, and makes room for the devices.
pub(super) fn prepare(config: &Config, embedded: bool) -> anyhow::Result<Prepared> {
    let read_at = FileSnapshot::at(reload::files_of(config));
    let (conditions, threads) = (Conditions::default(), Metrics::of_threads(usize::from(config.threads.get())));
    let metrics = &threads[0];
    let secured = DtlsSetup::prepare(config, &conditions, metrics)?;
    log_start(config, secured.as_ref());
    let room = raise_descriptor_limit(config, embedded, &conditions);
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    let (model, broken) = load_definitions(config, metrics)?;
    let accounts = config.bootstrap.is_enabled.then(|| prepare_accounts(config, &model, &conditions, metrics));
    let (announced, _) = watch::channel(Arc::new(model));
    let reloads = ReloadStatus::default();
    reloads.set_broken(broken);
    Ok(Prepared { read_at, conditions, metrics: threads, secured, room, reloads, announced, accounts })
}

/// Loads the accounts of the bootstrap server. Without valid ones it rejects all devices until the file is valid.
fn prepare_accounts(config: &Config, model: &Model, conditions: &Conditions, metrics: &Metrics) -> PreparedAccounts {
    let condition = conditions.add("bootstrap");
    let loaded = match config.bootstrap.load_accounts(model) {
        Ok(loaded) => {
            condition.set(ConditionState::Up, "accounts are served");
            Some(loaded)
        }
        Err(problem) => {
            let problem = problem.to_string();
            metrics.reload.failed(ReloadPart::Accounts);
            error!(problem, "bootstrap rejects all devices: its accounts are missing or invalid");
            condition.set(ConditionState::Off, problem);
            None
        }
    };
    PreparedAccounts { loaded, condition }
}

/// Reads the object definitions, and logs the files that were rejected.
fn load_definitions(config: &Config, metrics: &Metrics) -> anyhow::Result<(Model, Vec<BrokenFile>)> {
    let Definitions { model, broken, warnings, .. } = definitions::read(&config.xml_dir)
        .with_context(|| format!("xml_dir: cannot read the folder {}", config.xml_dir.display()))?;
    for BrokenFile { file, reason } in &broken {
        warn!(file, reason, "object definition rejected");
    }
    warnings.iter().for_each(|warning| warn!("{warning}"));
    metrics.reload.definitions.set(model.objects().count() as i64);
    Ok((model, broken))
}

/// Raises the limit of open files and returns how many devices it allows: each device needs one connection to the
/// broker.
fn raise_descriptor_limit(config: &Config, embedded: bool, conditions: &Conditions) -> DeviceCapacity {
    let descriptors = Descriptors::raise().unwrap_or_else(|error| {
        warn!(%error, "the limit of open files could not be raised");
        Descriptors::of_process()
    });
    // The upstream of benchmarks has no connections.
    #[cfg(feature = "swallow")]
    let descriptors = Descriptors { limit: descriptors.limit.max(u64::from(u32::MAX)) };
    let room = DeviceCapacity { descriptors, embedded };
    let (limit, devices, configured) = (descriptors.limit, room.devices(), config.gateway.limits.devices);
    if devices < configured {
        warn!(
            open_files = limit,
            devices,
            limits.devices = configured,
            "the limit of open files allows fewer devices than limits.devices: raise it (LimitNOFILE, ulimit -n)"
        );
    } else {
        info!(open_files = limit, devices = configured, "room for all devices");
    }
    let detail = format!("{limit} open files are allowed: room for {devices} devices");
    conditions.add("descriptors").set(ConditionState::Up, detail);
    room
}

/// Logs the version, the configuration file and the listeners.
fn log_start(config: &Config, secured: Option<&DtlsSetup>) {
    let version = env!("CARGO_PKG_VERSION");
    let file = config.file.as_ref().map_or("none, all defaults".into(), |file| file.display().to_string());
    let off = secured.and_then(DtlsSetup::problem).map_or("", |_| " (off)");
    let listener = |listener: &UdpListener| match listener.security {
        Security::None => format!("udp {}", listener.bind),
        Security::Dtls => format!("dtls {}{off}", listener.bind),
    };
    let listeners: Vec<String> = config.listeners.iter().map(listener).collect();
    info!(version, configuration = file, listeners = listeners.join(", "), "lwm2m-gateway starts");
    if let Some(secured) = secured {
        secured.tell();
    }
}
