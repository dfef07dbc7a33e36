//! The Firmware Update object (LwM2M Core 1.1 appendix E.6, object 5): its settings, its faults and its state.
//!
//! 1. Idle (0): the server writes the package (0), block by block, or a URI (1) from which the device fetches it.
//! 2. Downloading (1): until the whole package is there and its digest is the expected one.
//! 3. Downloaded (2): until the server executes Update (2), or takes the package back.
//! 4. Updating (3): after the configured time the device restarts, registers anew, and has the result (5).
//!
//! A package is any bytes. If it begins with a line `version: X`, the device reports that version after the update.

use std::collections::BTreeMap;
use std::time::Duration;

use lwm2m_core::coap::Token;
use lwm2m_core::lwm2m::path::Path;
use sha2::{Digest, Sha256};

use super::objects::{Objects, ResourceAccess, SimulatedResource};
use super::value::SimulatedValue;

pub(super) const OBJECT: u16 = 5;
pub(super) const PACKAGE: u16 = 0;
pub(super) const PACKAGE_URI: u16 = 1;
pub(super) const UPDATE: u16 = 2;
pub(super) const STATE: u16 = 3;
pub(super) const RESULT: u16 = 5;
pub(super) const PACKAGE_VERSION: u16 = 7;
pub(super) const CANCEL: u16 = 10;

/// Values of State.
pub(super) const IDLE: i64 = 0;
pub(super) const DOWNLOADING: i64 = 1;
pub(super) const DOWNLOADED: i64 = 2;
pub(super) const UPDATING: i64 = 3;

/// Values of Update Result.
pub(super) const NO_RESULT: i64 = 0;
pub(super) const UPDATED: i64 = 1;
pub(super) const CONNECTION_LOST: i64 = 4;
pub(super) const INTEGRITY_FAILED: i64 = 5;
pub(super) const INVALID_URI: i64 = 7;
pub(super) const UNSUPPORTED_PROTOCOL: i64 = 9;
pub(super) const CANCELLED: i64 = 10;
pub(super) const DEFERRED: i64 = 11;

/// The version that the device object has.
pub(super) const FIRMWARE_VERSION: &str = "/3/0/3";

/// The bytes of a package that are looked at for its version.
const HEAD: usize = 64;

/// The firmware update of a simulated device.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedFirmwareConfig {
    /// Number of instances of the object. The first one is that of the device itself.
    pub instances: u16,
    /// Whether the object is of version 1.1, in which the server can cancel an update.
    pub can_cancel: bool,
    /// Values of Firmware Update Protocol Support (resource 8), such as 0 for CoAP and 1 for CoAPS.
    pub protocols: Vec<i64>,
    /// Firmware Update Delivery Method (resource 9): 0 pull, 1 push, 2 both.
    pub delivery: i64,
    /// The version that the device runs.
    pub version: String,
    /// Bytes of the blocks that the device asks for.
    pub block_size: u16,
    /// Time between a block and the request for the next one.
    pub block_interval: Duration,
    /// Time from Update to the restart.
    pub update_time: Duration,
    /// SHA-256 of the only package that the device takes; with `None` it takes every package, and computes no digest.
    pub accepted_sha256: Option<[u8; 32]>,
    pub faults: Vec<FirmwareFault>,
}

/// A fault that a test or a demonstration asks for. Bytes count from the beginning of the package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareFault {
    /// The download stops at this byte: a pull asks for nothing more, and the blocks of a push are not answered.
    StallsAt(u64),
    /// No datagram leaves or arrives for a while when this byte is reached. It happens once.
    LosesLinkAt { byte: u64, lasts: Duration },
    /// The download fails with this Update Result when this byte is reached.
    FailsAt { byte: u64, result: i64 },
    /// A URI is refused with this Update Result.
    RefusesUri { result: i64 },
    /// Update fails with this Update Result, and the device does not restart.
    FailsUpdate { result: i64 },
    /// Update is put off (Update Result 11).
    Defers,
    /// The device sends nothing any more after Update.
    NeverReturns,
    /// The device reports success, and runs its former version.
    KeepsVersion,
    /// State has always this value.
    ClaimsState(i64),
    /// Observations of the object are answered 4.05.
    RefusesObserve,
}

impl Default for SimulatedFirmwareConfig {
    fn default() -> Self {
        Self {
            instances: 1,
            can_cancel: true,
            protocols: vec![0],
            delivery: 2,
            version: "2.4.1".to_owned(),
            block_size: 1024,
            block_interval: Duration::ZERO,
            update_time: Duration::from_secs(5),
            accepted_sha256: None,
            faults: Vec::new(),
        }
    }
}

/// The state of all instances.
#[derive(Debug)]
pub(super) struct Firmware {
    pub config: SimulatedFirmwareConfig,
    pub instances: BTreeMap<u16, FirmwareInstance>,
    /// Resources whose value has changed since the last notifications.
    pub changed: Vec<Path>,
}

#[derive(Debug, Default)]
pub(super) struct FirmwareInstance {
    pub phase: FirmwarePhase,
    pub package: ReceivedPackage,
}

#[derive(Debug, Default)]
pub(super) enum FirmwarePhase {
    #[default]
    Idle,
    /// The server sends the package. Its first block begins with a header of so many bytes that is none of the
    /// package's.
    Pushed {
        header: u64,
    },
    Pulling(ImageDownload),
    Downloaded,
    Updating,
}

/// A download from a URI.
#[derive(Clone, Debug)]
pub(super) struct ImageDownload {
    /// The segments of the path.
    pub path: Vec<String>,
    /// The ETag of the first block: others are of the same image.
    pub etag: Option<Vec<u8>>,
    /// The request that is not answered.
    pub token: Option<Token>,
    /// Requests in a row that were not answered.
    pub unanswered: u32,
}

/// The received bytes of a package: their number and digest.
#[derive(Debug, Default)]
pub(super) struct ReceivedPackage {
    pub length: u64,
    head: Vec<u8>,
    sha256: Sha256,
}

/// A URI that the device does not fetch from, with its Update Result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefusedUri(pub i64);

impl Firmware {
    /// Adds the object to the others.
    pub(crate) fn new(config: SimulatedFirmwareConfig, objects: &mut Objects) -> Self {
        use ResourceAccess::{Read, ReadWrite, Write};
        for instance in 0..config.instances {
            let mut add = |resource, content| objects.insert(OBJECT, instance, resource, content);
            let integer = |value| SimulatedResource::Single(Read, SimulatedValue::Integer(value));
            add(PACKAGE, SimulatedResource::Single(Write, SimulatedValue::Opaque(Vec::new())));
            add(PACKAGE_URI, SimulatedResource::Single(ReadWrite, "".into()));
            add(UPDATE, SimulatedResource::Executable { runs: 0 });
            add(STATE, integer(IDLE));
            add(RESULT, integer(NO_RESULT));
            add(PACKAGE_VERSION, SimulatedResource::Single(Read, config.version.as_str().into()));
            let protocols = (0..).zip(config.protocols.iter().copied().map(SimulatedValue::Integer)).collect();
            add(8, SimulatedResource::Multiple(Read, protocols));
            add(9, integer(config.delivery));
            if config.can_cancel {
                add(CANCEL, SimulatedResource::Executable { runs: 0 });
            }
        }
        if config.instances > 0 {
            objects.set(FIRMWARE_VERSION.parse().expect("a path"), config.version.as_str().into());
        }
        let instances = (0..config.instances).map(|instance| (instance, FirmwareInstance::default())).collect();
        Self { config, instances, changed: Vec::new() }
    }

    /// Returns the first fault that the function takes.
    pub(crate) fn fault<T>(&self, takes: impl Fn(FirmwareFault) -> Option<T>) -> Option<T> {
        self.config.faults.iter().copied().find_map(takes)
    }

    pub(crate) fn has(&self, fault: FirmwareFault) -> bool {
        self.config.faults.contains(&fault)
    }

    /// Returns the Update Result with which the download fails now.
    pub(crate) fn failure_at(&self, length: u64) -> Option<i64> {
        self.fault(|fault| match fault {
            FirmwareFault::FailsAt { byte, result } if length >= byte => Some(result),
            _ => None,
        })
    }

    pub(crate) fn stalls_at(&self, length: u64) -> bool {
        let stalls = |fault| matches!(fault, FirmwareFault::StallsAt(byte) if length >= byte).then_some(());
        self.fault(stalls).is_some()
    }

    /// Returns how long the link is lost from now on, once.
    pub(crate) fn take_link_loss(&mut self, length: u64) -> Option<Duration> {
        let loss = |fault: &FirmwareFault| match *fault {
            FirmwareFault::LosesLinkAt { byte, lasts } if length >= byte => Some(lasts),
            _ => None,
        };
        let index = self.config.faults.iter().position(|fault| loss(fault).is_some())?;
        loss(&self.config.faults.remove(index))
    }

    /// Returns the path of a URI that the device can fetch from.
    pub(crate) fn path_of(&self, uri: &str) -> Result<Vec<String>, RefusedUri> {
        let refusal = |fault| match fault {
            FirmwareFault::RefusesUri { result } => Some(result),
            _ => None,
        };
        if let Some(result) = self.fault(refusal) {
            return Err(RefusedUri(result));
        }
        let (scheme, rest) = uri.split_once("://").ok_or(RefusedUri(INVALID_URI))?;
        let protocol = match scheme {
            "coap" => 0,
            "coaps" => 1,
            _ => return Err(RefusedUri(UNSUPPORTED_PROTOCOL)),
        };
        if !self.config.protocols.contains(&protocol) {
            return Err(RefusedUri(UNSUPPORTED_PROTOCOL));
        }
        let (authority, path) = rest.split_once('/').ok_or(RefusedUri(INVALID_URI))?;
        if authority.is_empty() || path.is_empty() {
            return Err(RefusedUri(INVALID_URI));
        }
        Ok(path.split('/').map(str::to_owned).collect())
    }

    /// Returns the instance that waits for the response with this token.
    pub(crate) fn pulling_with(&self, token: Token) -> Option<u16> {
        let mut instances = self.instances.iter();
        let waits = |instance: &FirmwareInstance| instance.pull().is_some_and(|pull| pull.token == Some(token));
        instances.find(|(_, instance)| waits(instance)).map(|(id, _)| *id)
    }
}

impl FirmwareInstance {
    pub(crate) fn pull(&self) -> Option<&ImageDownload> {
        match &self.phase {
            FirmwarePhase::Pulling(pull) => Some(pull),
            FirmwarePhase::Idle
            | FirmwarePhase::Pushed { .. }
            | FirmwarePhase::Downloaded
            | FirmwarePhase::Updating => None,
        }
    }

    pub(crate) fn pull_mut(&mut self) -> Option<&mut ImageDownload> {
        match &mut self.phase {
            FirmwarePhase::Pulling(pull) => Some(pull),
            FirmwarePhase::Idle
            | FirmwarePhase::Pushed { .. }
            | FirmwarePhase::Downloaded
            | FirmwarePhase::Updating => None,
        }
    }
}

impl ReceivedPackage {
    /// Appends bytes; their digest is computed only if somebody will ask for it.
    pub(crate) fn append(&mut self, bytes: &[u8], with_digest: bool) {
        self.length += bytes.len() as u64;
        let room = HEAD.saturating_sub(self.head.len());
        self.head.extend(bytes.iter().take(room));
        if with_digest {
            self.sha256.update(bytes);
        }
    }

    /// Returns the digest of all bytes.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.sha256.clone().finalize().into()
    }

    /// Returns the version in the first line.
    pub(crate) fn version(&self) -> Option<String> {
        let line = self.head.split(|byte| *byte == b'\n').next()?;
        std::str::from_utf8(line).ok()?.strip_prefix("version: ").map(|version| version.trim().to_owned())
    }
}
