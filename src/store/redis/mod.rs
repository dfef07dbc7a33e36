//! The store at a server of the Redis protocol (Valkey or Redis 7), which one process uses at a time.
//!
//! 1. At the start the process takes the lease (`scripts`), and reads all records. It waits for the lease of a
//!    process that was killed, at most 5 seconds, and ends if the other one renews it.
//! 2. A task of its own, on a thread of its own, renews the lease each second and writes batches (`keeper`).
//! 3. While the server is away, the gateway serves its devices from memory, and the changes wait as marks in the core.
//!    When it is back, the lease is renewed first. A server that lost records, because it was emptied or another one
//!    took over, is written anew from memory.
//! 4. If another process took the store meanwhile, this one ends: it can write nothing more.
//!
//! `layout`, `lease`, `scripts` and `seal` are without IO.

mod batch;
pub mod config;
mod connection;
mod health;
mod keeper;
mod layout;
mod lease;
mod rekey;
mod scripts;
mod seal;
pub mod shared;
mod trial;
mod users;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ::redis::{Pipeline, cmd};
use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::clock::monotonic_now;
use crate::conditions::Condition;
use crate::observability::metrics::Metrics;
use crate::process::runtime_thread::{Priority, RuntimeThread};
use crate::tls::TlsError;
use crate::transport::UdpListener;
use lwm2m_base::secret::Secret;
use lwm2m_cluster::{Term, WallTime};
use lwm2m_core::gateway::BatchNumber;
use lwm2m_core::gateway::persistence::record::Change;

use super::handle::{HandleParts, PendingWrite, Sleeper, Store, WriterReply};
use super::listeners::ListenerNames;
use super::{StoreConfig, StoreContents, StoreError, StoreEvent};
use config::RedisConfig;
use connection::{ConnectionError, RedisConnection, RedisDialer};
use health::KeeperStart;
use keeper::Keeper;
use layout::{Layout, RecordHash, RestoredContents};
use lease::{AcquireAnswer, AnswerError, LEASE, Lease, ProcessIdentity, RenewAnswer};
use seal::{Seal, SealKey, SealKeys};

pub(crate) use rekey::{RekeyReport, rekey};
pub(crate) use shared::{ImportMode, ImportReport, import};
pub(crate) use trial::{RedisTrial, SealingState, try_out};

/// Maximum number of changes in a batch: with more of them the server takes longer for each.
const BATCH: usize = 64;

/// Limits how long the start waits for a server that does not answer.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two attempts at the start.
const START_PAUSE: Duration = Duration::from_millis(500);
/// Hashes that are read at once.
const READ_AT_ONCE: usize = 48;

/// Reasons why the store cannot be used. None contains a secret.
#[derive(Debug, Error)]
pub enum RedisError {
    #[error("store.redis: {0} (`store.kind = \"file\"` needs no server)")]
    Unreachable(#[from] ConnectionError),
    #[error(
        "store.redis: another gateway uses the store: {owner} renews its lease. Every gateway needs a store of its \
         own: stop the other one, or set another store.redis.prefix"
    )]
    InUse { owner: String },
    #[error("store.redis.ssl: {0}")]
    Tls(#[from] TlsError),
    #[error("{key} = {}: {error}", .file.display())]
    Unreadable { key: &'static str, file: PathBuf, error: io::Error },
    #[error("{key} = {}: expected 64 hexadecimal digits (openssl rand -hex 32)", .file.display())]
    NoSealKey { key: &'static str, file: PathBuf },
    #[error(
        "store.redis.seal_keyfile: the records in the store are sealed with another key. Set it to their key; while the \
         key is changed, set store.redis.other_seal_keyfile to the second key"
    )]
    OtherSealKey,
    #[error(
        "store.redis.seal_keyfile: the node {0} does not know this key. Set store.redis.other_seal_keyfile to it at all \
         nodes first, and restart one after the other (docs/cluster.md)"
    )]
    NewSealKey(String),
    #[error(
        "store.redis: the records have format {stored}, and format {expected} is expected. A newer version or, with \
         cluster.enable, a gateway of the other kind wrote them: set another store.redis.prefix"
    )]
    OtherFormat { stored: String, expected: &'static str },
    #[error("store.redis: {0}")]
    Answer(#[from] AnswerError),
    #[error("store.redis: {0}")]
    Library(#[from] openssl::error::ErrorStack),
    #[error("store.redis: the thread of the store: {0}")]
    Thread(io::Error),
    #[error("store.redis: the system has no random numbers")]
    Random,
}

/// A store whose records have been read. Its lease is renewed already.
pub struct OpenedRedis {
    writes: mpsc::UnboundedSender<PendingWrite>,
    started: oneshot::Sender<KeeperStart>,
    sleeper: Arc<Notify>,
    closing: Arc<AtomicBool>,
    closed: watch::Receiver<()>,
    interval: Duration,
    metrics: Arc<Metrics>,
}

/// Takes the lease and reads the records, on the thread of the store.
pub(super) async fn open(
    config: &StoreConfig,
    listeners: &[UdpListener],
    metrics: Arc<Metrics>,
) -> Result<(OpenedRedis, StoreContents), StoreError> {
    let thread = RuntimeThread::start("store", Priority::Normal).map_err(RedisError::Thread)?;
    let opening = open_there(config.redis.clone(), ListenerNames::new(listeners));
    let opened = thread.runtime().spawn(opening).await;
    let (parts, contents) = opened.expect("the task of the store does not fail")?;
    let (devices, associations) = (contents.devices.len(), contents.associations.len());
    let server = parts.connection.as_ref().map(|connection| connection.server.clone()).unwrap_or_default();
    if parts.connection.as_ref().is_some_and(|connection| !connection.is_persistent) {
        warn!(server, "the server of the store writes no append-only file: its restart loses the registrations");
    }
    info!(server, devices, associations, "store opened");
    let (writes, pending) = mpsc::unbounded_channel();
    let (started, starting) = oneshot::channel();
    let (open, closed) = watch::channel(());
    let (sleeper, closing) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let keeper = Keeper::new(parts, pending, (Arc::clone(&sleeper), Arc::clone(&closing)), Arc::clone(&metrics));
    let runtime = thread.runtime().clone();
    drop(runtime.spawn(async move {
        keeper.run(starting).await;
        drop(open);
        drop(thread);
    }));
    let interval = config.flush_interval;
    Ok((OpenedRedis { writes, started, sleeper, closing, closed, interval, metrics }, contents))
}

/// The state with which the keeper begins.
struct KeeperParts {
    dialer: RedisDialer,
    connection: Option<RedisConnection>,
    identity: ProcessIdentity,
    lease: Lease,
    layout: Layout,
    seal: Seal,
    renewed: Instant,
}

async fn open_there(config: RedisConfig, listeners: ListenerNames) -> Result<(KeeperParts, StoreContents), RedisError> {
    let keys = seal_keys(&config)?;
    let identity = ProcessIdentity { prefix: config.prefix.clone(), owner: owner()?, seal: keys.fingerprints()? };
    let dialer = dialer(&config)?;
    let mut connection = connect_at_start(&dialer).await?;
    let (renewed, now, lease) = acquire(&mut connection, &identity).await?;
    let mut layout = Layout::new(listeners);
    let mut contents = read(&mut connection, &identity, &keys, &mut layout).await?;
    // It may have expired while the records were read. The keeper compares with the lease as it was.
    let answer = connection.ask(&identity.renew(&lease, &random_text()?)).await?;
    if let RenewAnswer::Fenced { owner } = lease.clone().renewed(answer)? {
        return Err(RedisError::InUse { owner });
    }
    contents.term = Term::new(lease.term);
    contents.store_clock = Some(Duration::from_millis(now));
    let seal = Seal::new(keys.sealing, lease.term);
    Ok((KeeperParts { dialer, connection: Some(connection), identity, lease, layout, seal, renewed }, contents))
}

fn dialer(config: &RedisConfig) -> Result<RedisDialer, RedisError> {
    let password = match &config.passwordfile {
        Some(file) => {
            let text = read_file("store.redis.passwordfile", file)?;
            text.lines().next().map(Secret::new)
        }
        None => config.password.clone(),
    };
    Ok(RedisDialer::new(config.clone(), password)?)
}

/// Reads the key that seals the records, and the other one that opens them, if there is one.
fn seal_keys(config: &RedisConfig) -> Result<SealKeys, RedisError> {
    let sealing = config.seal_keyfile.clone().unwrap_or_default();
    let sealing = seal_key("store.redis.seal_keyfile", sealing)?;
    let other = config.other_seal_keyfile.clone().map(|file| seal_key("store.redis.other_seal_keyfile", file));
    Ok(SealKeys { sealing, other: other.transpose()? })
}

fn seal_key(key: &'static str, file: PathBuf) -> Result<SealKey, RedisError> {
    let text = read_file(key, &file)?;
    Seal::parse_key(&text).ok_or(RedisError::NoSealKey { key, file })
}

fn read_file(key: &'static str, file: &PathBuf) -> Result<zeroize::Zeroizing<String>, RedisError> {
    let text = fs::read_to_string(file);
    text.map(zeroize::Zeroizing::new).map_err(|error| RedisError::Unreadable { key, file: file.clone(), error })
}

/// Returns the name of the process at the store.
fn owner() -> Result<String, RedisError> {
    let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(format!("{}:{}", machine.trim(), random_text()?))
}

fn random_text() -> Result<String, RedisError> {
    let mut random = [0; 8];
    SysRng.try_fill_bytes(&mut random).map_err(|_| RedisError::Random)?;
    Ok(format!("{:016x}", u64::from_be_bytes(random)))
}

/// Connects, and retries while the server does not answer.
async fn connect_at_start(dialer: &RedisDialer) -> Result<RedisConnection, RedisError> {
    let end = monotonic_now() + START_PATIENCE;
    let mut warned = false;
    loop {
        match dialer.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if monotonic_now() > end => return Err(error.into()),
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    let message = "the store does not answer; retrying before devices are served";
                    warn!(%error, patience = ?START_PATIENCE, "{message}");
                }
                sleep(START_PAUSE).await;
            }
        }
    }
}

/// Takes the lease. Waits for the lease of a process that has ended, and for the first term.
/// Returns when it asked, the time of the server in milliseconds since 1970, and the lease.
async fn acquire(
    connection: &mut RedisConnection,
    identity: &ProcessIdentity,
) -> Result<(Instant, u64, Lease), RedisError> {
    let new_database = random_text()?;
    let mut floor = 0;
    let mut other: Option<(String, Instant)> = None;
    loop {
        let asked = monotonic_now();
        let answer = connection.ask(&identity.acquire(floor, &new_database)).await?;
        let pause = match AcquireAnswer::parse(answer)? {
            AcquireAnswer::Acquired { now, lease } => return Ok((asked, now, lease)),
            AcquireAnswer::Busy { owner, milliseconds } => {
                let ends = monotonic_now() + Duration::from_millis(milliseconds);
                match &other {
                    // A renewal moves the end by more than the clocks of two answers can differ.
                    Some((known, end)) if *known == owner && ends > *end + LEASE / 10 => {
                        return Err(RedisError::InUse { owner });
                    }
                    Some((known, _)) if *known == owner => {}
                    _ => {
                        info!(owner, "waiting for the lease of the gateway that used the store before");
                        other = Some((owner, ends));
                    }
                }
                START_PAUSE.min(Duration::from_millis(milliseconds.max(1)))
            }
            AcquireAnswer::Unknown { now } => {
                floor = Term::first_of_process(WallTime(now)).number();
                continue;
            }
            AcquireAnswer::Later { milliseconds } => {
                let wait = Duration::from_millis(milliseconds.max(1));
                info!(?wait, "waiting, since the server of the store was replaced: DTLS record numbers may not repeat");
                wait.min(LEASE)
            }
            AcquireAnswer::OtherFormat(stored) => {
                return Err(RedisError::OtherFormat { stored, expected: layout::FORMAT });
            }
            AcquireAnswer::OtherKey => return Err(RedisError::OtherSealKey),
        };
        sleep(pause).await;
    }
}

/// Checks that the records, if there are any, have this format and are sealed with keys of these fingerprints. Returns
/// the fingerprints of the keys with which records are sealed.
async fn check_about(
    connection: &mut RedisConnection,
    (prefix, seal): (&str, &str),
    expected: &'static str,
) -> Result<Option<String>, RedisError> {
    let mut question = cmd("HMGET");
    question.arg(format!("{prefix}:about")).arg("format").arg("seal");
    let (format, keys): (Option<String>, Option<String>) = connection.ask(&question).await?;
    if let Some(stored) = format.filter(|format| format != expected) {
        return Err(RedisError::OtherFormat { stored, expected });
    }
    let mut sealed_with = keys.iter().flat_map(|keys| keys.split(' '));
    if sealed_with.any(|key| seal.split(' ').all(|known| known != key)) {
        return Err(RedisError::OtherSealKey);
    }
    Ok(keys)
}

/// Reads all records.
async fn read(
    connection: &mut RedisConnection,
    identity: &ProcessIdentity,
    keys: &SealKeys,
    layout: &mut Layout,
) -> Result<StoreContents, RedisError> {
    let mut restored = RestoredContents::default();
    for hashes in RecordHash::all().chunks(READ_AT_ONCE) {
        read_hashes(connection, &identity.prefix, (keys, hashes), layout, &mut restored).await?;
    }
    let campaigns = restored.contents.campaigns.iter().map(|record| RecordHash::Campaign(record.campaign.clone()));
    for hash in campaigns.collect::<Vec<_>>() {
        read_hashes(connection, &identity.prefix, (keys, &[hash]), layout, &mut restored).await?;
    }
    Ok(restored.contents)
}

async fn read_hashes(
    connection: &mut RedisConnection,
    prefix: &str,
    (keys, hashes): (&SealKeys, &[RecordHash]),
    layout: &mut Layout,
    restored: &mut RestoredContents,
) -> Result<(), RedisError> {
    let mut commands = Pipeline::new();
    for hash in hashes {
        commands.add_command(cmd("HGETALL").arg(hash.key(prefix)).clone());
    }
    let answers: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = connection.ask_all(&commands).await?;
    for (hash, fields) in hashes.iter().zip(answers) {
        for (field, value) in fields {
            let opened = keys.open(&hash.key(prefix), &field, &value).unwrap_or_default();
            layout.restore(restored, hash, &field, &opened);
        }
    }
    Ok(())
}

impl OpenedRedis {
    /// Hands over the first changes, which no driver waits for.
    pub(super) fn write_first(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let (replies, _) = mpsc::unbounded_channel();
        let write = PendingWrite { version: BatchNumber::default(), changes: changes.to_vec(), replies };
        // Without a keeper the drivers are told that the store is lost.
        let (Ok(()) | Err(_)) = self.writes.send(write);
    }

    /// Returns the ends of so many drivers. The condition shows whether the store can be written.
    pub(super) fn start_for(self, drivers: usize, condition: Condition) -> Vec<Store> {
        let Self { writes, started, sleeper, closing, closed, interval, metrics } = self;
        let sleeper = Sleeper::Task(sleeper);
        let parts = HandleParts { writes, sleeper, closed, closing, interval, batch: BATCH, metrics };
        let stores: Vec<Store> = std::iter::repeat_with(|| Store::new(parts.clone())).take(drivers).collect();
        let ends = stores.iter().map(Store::replies).collect();
        if let Err(KeeperStart { ends, .. }) = started.send(KeeperStart { ends, condition }) {
            // The keeper has ended already, because another process has taken the store.
            for end in ends {
                let (Ok(()) | Err(_)) = end.send(WriterReply::Event(StoreEvent::Fenced));
            }
        }
        stores
    }
}
