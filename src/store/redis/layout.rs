//! The keys and values in Redis, and the steps that a change takes there, without IO.
//!
//! All keys begin with the prefix of the settings, here `lwm2m`. `{7}` is a shard, so that its keys are in one slot.
//!
//! | Key | Type | Contents |
//! |---|---|---|
//! | `lwm2m:about` | hash | `format`; `created`, a random number of the database; `seal`, the fingerprints of the keys; `rekeying` |
//! | | | in a cluster also `run`, the run of the server, and `since`, the time at which a node first met it |
//! | `lwm2m:lease` | hash | `owner`, `term`, `until`, `run`, `seq`, `keys`: of the lease ([`super::scripts`]) |
//! | `lwm2m:{7}:d` | hash | by endpoint, the record of the device as JSON |
//! | `lwm2m:{7}:c` | hash | by endpoint, a zero byte and the serial, the JSON of a command or of an answer |
//! | `lwm2m:{7}:a` | hash | by id, the names of two listeners and the bytes that DTLS saved |
//! | `lwm2m:{7}:r`, `lwm2m:{7}:f` | hashes | in a cluster, by endpoint: retained commands, firmware updates |
//! | `lwm2m:{7}:lease`, `lwm2m:nodes`, `lwm2m:drains`, `lwm2m:ep:ENDPOINT` | | in a cluster ([`super::shared`]) |
//! | `lwm2m:retained`, `:profiles`, `:keys`, `:bootstraps`, `:firmware` | hashes | see [`crate::store::file`] |
//! | `lwm2m:campaigns`, `lwm2m:campaign:NAME` | hashes | by name, the campaign; by endpoint, its part in the campaign |
//!
//! All values below `about` and `lease` are sealed.

mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use lwm2m_base::expiring_map::ExpiringMap;
use lwm2m_base::identity::PskIdentity;
use lwm2m_base::{AssociationId, Shard};
use lwm2m_core::gateway::persistence::record::{
    AwaitedBootstrapRecord, CampaignRecord, Change, DeviceRecord, FirmwareJobRecord, GeneratedKeyRecord, ProfileRecord,
    RetainedCommandsRecord,
};
use lwm2m_dtls::{AssociationChange, SavedAssociation};
use tracing::error;
use zeroize::Zeroizing;

use crate::store::StoreContents;
use crate::store::listeners::ListenerNames;

use values::{
    association, association_parts, command_digests, command_field, command_field_parts, json, key_pair, key_pair_parts,
};

/// The number of the format. It counts up with each change that an older version could not read.
pub(super) const FORMAT: &str = "1";

/// The time for which removals are remembered, so that they can be repeated after a failover that lost them.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Maximum number of removals that are remembered.
const MOST_REMEMBERED: usize = 20_000;

/// A hash with records.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RecordHash {
    Devices(Shard),
    Commands(Shard),
    Associations(Shard),
    /// In a cluster, the retained commands of the devices of a shard.
    RetainedOf(Shard),
    /// In a cluster, the firmware updates of the devices of a shard.
    FirmwareJobsOf(Shard),
    Retained,
    Profiles,
    GeneratedKeys,
    Bootstraps,
    FirmwareJobs,
    Campaigns,
    /// The devices of a campaign.
    Campaign(String),
}

/// A step of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BatchStep {
    Put {
        hash: RecordHash,
        field: Vec<u8>,
        value: Zeroizing<Vec<u8>>,
    },
    Remove {
        hash: RecordHash,
        field: Vec<u8>,
    },
    /// Removes the hash.
    Clear {
        hash: RecordHash,
    },
}

impl RecordHash {
    /// Returns the key of the hash.
    pub(super) fn key(&self, prefix: &str) -> String {
        match self {
            Self::Devices(shard) => format!("{prefix}:{{{}}}:d", shard.number()),
            Self::Commands(shard) => format!("{prefix}:{{{}}}:c", shard.number()),
            Self::Associations(shard) => format!("{prefix}:{{{}}}:a", shard.number()),
            Self::RetainedOf(shard) => format!("{prefix}:{{{}}}:r", shard.number()),
            Self::FirmwareJobsOf(shard) => format!("{prefix}:{{{}}}:f", shard.number()),
            Self::Retained => format!("{prefix}:retained"),
            Self::Profiles => format!("{prefix}:profiles"),
            Self::GeneratedKeys => format!("{prefix}:keys"),
            Self::Bootstraps => format!("{prefix}:bootstraps"),
            Self::FirmwareJobs => format!("{prefix}:firmware"),
            Self::Campaigns => format!("{prefix}:campaigns"),
            Self::Campaign(name) => format!("{prefix}:campaign:{name}"),
        }
    }

    /// Returns the shard of a hash; `None` for one of the whole store.
    pub(crate) fn shard(&self) -> Option<Shard> {
        match self {
            Self::Devices(shard)
            | Self::Commands(shard)
            | Self::Associations(shard)
            | Self::RetainedOf(shard)
            | Self::FirmwareJobsOf(shard) => Some(*shard),
            Self::Retained
            | Self::Profiles
            | Self::GeneratedKeys
            | Self::Bootstraps
            | Self::FirmwareJobs
            | Self::Campaigns
            | Self::Campaign(_) => None,
        }
    }

    /// Returns the hashes of a shard in a cluster. Its commands come before its devices.
    pub(crate) fn of_shard(shard: Shard) -> [Self; 5] {
        [
            Self::Commands(shard),
            Self::Devices(shard),
            Self::Associations(shard),
            Self::RetainedOf(shard),
            Self::FirmwareJobsOf(shard),
        ]
    }

    /// Returns all hashes but those of the devices of campaigns. The commands of a shard come before its devices.
    pub(super) fn all() -> Vec<Self> {
        let shards =
            Shard::all().flat_map(|shard| [Self::Commands(shard), Self::Devices(shard), Self::Associations(shard)]);
        let others = [
            Self::Retained,
            Self::Profiles,
            Self::GeneratedKeys,
            Self::Bootstraps,
            Self::FirmwareJobs,
            Self::Campaigns,
        ];
        shards.chain(others).collect()
    }
}

impl BatchStep {
    /// Returns the hash that the step changes.
    pub(crate) fn hash(&self) -> &RecordHash {
        match self {
            Self::Put { hash, .. } | Self::Remove { hash, .. } | Self::Clear { hash } => hash,
        }
    }
}

/// Turns changes into steps. It knows which commands are stored, since a command is written once, and which records
/// were removed lately.
pub(crate) struct Layout {
    listeners: ListenerNames,
    /// The serials of the stored commands of an endpoint, each with the generation in which it was written.
    commands: HashMap<(Shard, String), BTreeMap<u64, u64>>,
    /// Counts how often the store has lost records.
    generation: u64,
    removed: ExpiringMap<(RecordHash, Vec<u8>), ()>,
    /// In a cluster, the shard of each device of the node: what belongs to the device is stored there.
    homes: Option<HashMap<String, Shard>>,
}

impl Layout {
    pub(super) fn new(listeners: ListenerNames) -> Self {
        let removed = ExpiringMap::new(MOST_REMEMBERED);
        Self { listeners, commands: HashMap::new(), generation: 0, removed, homes: None }
    }

    /// Creates the layout of a store that the nodes of a cluster share.
    pub(super) fn shared(listeners: ListenerNames) -> Self {
        Self { homes: Some(HashMap::new()), ..Self::new(listeners) }
    }

    /// Notes the shards of the devices of a batch, before its steps are made.
    pub(super) fn note_homes<'c>(&mut self, changes: impl IntoIterator<Item = &'c Change>) {
        let Some(homes) = &mut self.homes else { return };
        for change in changes {
            if let Change::Put(record) = change {
                homes.insert(record.registration.endpoint.clone(), record.shard());
            }
        }
    }

    /// Forgets the stored commands of a shard that the node does not have any more.
    pub(super) fn forget_shard(&mut self, shard: Shard) {
        self.commands.retain(|(home, _), _| *home != shard);
        self.homes.iter_mut().for_each(|homes| homes.retain(|_, home| *home != shard));
    }

    /// Returns the steps of a change.
    pub(super) fn steps(&mut self, now: Instant, change: &Change) -> Vec<BatchStep> {
        let mut steps = Vec::new();
        match change {
            Change::Put(record) => self.put_device(record, &mut steps),
            Change::Remove { shard, endpoint } => {
                self.keep_commands(*shard, endpoint, &BTreeSet::new(), &mut steps);
                steps.push(remove(RecordHash::Devices(*shard), endpoint.as_str()));
                if let Some(homes) = &mut self.homes {
                    for hash in [RecordHash::RetainedOf(*shard), RecordHash::FirmwareJobsOf(*shard)] {
                        steps.push(remove(hash, endpoint.as_str()));
                    }
                    if homes.get(endpoint) == Some(shard) {
                        homes.remove(endpoint);
                    }
                }
            }
            Change::RetainedCommands(RetainedCommandsRecord { endpoint, commands }) => {
                let digests: Vec<u8> = commands.iter().flat_map(|command| command.0.to_be_bytes()).collect();
                let digests = Some(digests).filter(|digests| !digests.is_empty());
                let hash = self.companion(endpoint, RecordHash::Retained, RecordHash::RetainedOf);
                steps.extend(hash.map(|hash| put_or_remove(hash, endpoint.as_str(), digests)));
            }
            Change::Profile(ProfileRecord { key, objects }) => {
                steps.push(put_or_remove(RecordHash::Profiles, key.as_str(), objects.as_ref().map(json)));
            }
            Change::GeneratedKey(GeneratedKeyRecord { identity, keys }) => {
                steps.push(put_or_remove(RecordHash::GeneratedKeys, identity.as_str(), keys.as_ref().map(key_pair)));
            }
            Change::AwaitedBootstrap(AwaitedBootstrapRecord { endpoint, awaited }) => {
                steps.push(put_or_remove(RecordHash::Bootstraps, endpoint.as_str(), awaited.as_ref().map(json)));
            }
            Change::FirmwareJob(FirmwareJobRecord { endpoint, job }) => {
                let hash = self.companion(endpoint, RecordHash::FirmwareJobs, RecordHash::FirmwareJobsOf);
                steps.extend(hash.map(|hash| put_or_remove(hash, endpoint.as_str(), job.as_ref().map(json))));
            }
            Change::Campaign(record) => campaign_steps(record, &mut steps),
            Change::Association(AssociationChange::Put(saved)) => {
                let [made_at, reached_by] = [saved.made_at, saved.reached_by].map(|socket| self.listeners.name(socket));
                let value = association(made_at, reached_by, &saved.bytes);
                steps.push(put(RecordHash::Associations(saved.id.shard()), saved.id.0.to_be_bytes(), value));
            }
            Change::Association(AssociationChange::Remove(id)) => {
                steps.push(remove(RecordHash::Associations(id.shard()), id.0.to_be_bytes()));
            }
        }
        steps.iter().for_each(|step| self.note_removal(now, step));
        steps
    }

    /// Returns the hash of what belongs to a device: one of the whole store, or in a cluster that of the shard of the
    /// device, if it is registered here.
    fn companion(&self, endpoint: &str, whole: RecordHash, of: fn(Shard) -> RecordHash) -> Option<RecordHash> {
        match &self.homes {
            None => Some(whole),
            Some(homes) => homes.get(endpoint).copied().map(of),
        }
    }

    /// Adds the steps for a device and those of its commands and answers that are not stored yet.
    fn put_device(&mut self, record: &DeviceRecord, steps: &mut Vec<BatchStep>) {
        let (shard, endpoint) = (record.shard(), record.registration.endpoint.as_str());
        let current = record.commands.iter().map(|command| (command.serial, command.command.to_json()));
        let answers = record.answers.iter().map(|answer| (answer.serial, answer.payload.clone()));
        let current: BTreeMap<u64, String> = current.chain(answers).collect();
        self.keep_commands(shard, endpoint, &current.keys().copied().collect(), steps);
        for (serial, json) in current {
            let stored = self.commands.entry((shard, endpoint.to_owned())).or_default();
            if stored.insert(serial, self.generation) != Some(self.generation) {
                let field = command_field(endpoint, serial);
                steps.push(put(RecordHash::Commands(shard), field, json.as_bytes().to_vec()));
            }
        }
        steps.push(put(RecordHash::Devices(shard), endpoint, self.listeners.encode(record)));
    }

    /// Notes that the store has lost records, which will be written again. Returns the removals that it may have lost,
    /// too.
    pub(crate) fn contents_lost(&mut self, now: Instant) -> Vec<BatchStep> {
        self.generation += 1;
        self.removed.remove_expired(now);
        self.removed.keys().cloned().map(|(hash, field)| BatchStep::Remove { hash, field }).collect()
    }

    /// Returns the fields of the commands and answers of a stored device.
    pub(crate) fn command_fields(&self, device: &[u8]) -> Vec<Vec<u8>> {
        let Ok(record) = serde_json::from_slice(device) else { return Vec::new() };
        let DeviceRecord { registration, commands, answers, .. } = self.listeners.place(record);
        let serials = commands.iter().map(|command| command.serial).chain(answers.iter().map(|answer| answer.serial));
        serials.map(|serial| command_field(&registration.endpoint, serial)).collect()
    }

    /// Forgets the stored commands of a device that is not in this shard.
    pub(crate) fn forget_device(&mut self, shard: Shard, endpoint: &str) {
        self.commands.remove(&(shard, endpoint.to_owned()));
        if let Some(homes) = &mut self.homes
            && homes.get(endpoint) == Some(&shard)
        {
            homes.remove(endpoint);
        }
    }

    /// Adds an opened value to the contents.
    pub(super) fn restore(&mut self, contents: &mut RestoredContents, hash: &RecordHash, field: &[u8], value: &[u8]) {
        if self.try_to_restore(contents, hash, field, value).is_none() {
            error!(?hash, field = %field.escape_ascii(), "stored record unreadable; it is lost");
        }
    }

    fn try_to_restore(
        &mut self,
        restored: &mut RestoredContents,
        hash: &RecordHash,
        field: &[u8],
        value: &[u8],
    ) -> Option<()> {
        let RestoredContents { contents, commands } = restored;
        let name = || String::from_utf8(field.to_vec()).ok();
        let text = || String::from_utf8(value.to_vec()).ok();
        match hash {
            RecordHash::Commands(shard) => {
                let (endpoint, serial) = command_field_parts(field)?;
                self.commands.entry((*shard, endpoint.clone())).or_default().insert(serial, self.generation);
                commands.insert((*shard, endpoint, serial), text()?);
            }
            RecordHash::Devices(shard) => {
                let record = self.device(*shard, value)?;
                contents.devices.push(with_commands(record, *shard, commands));
            }
            RecordHash::Associations(_) => contents.associations.push(self.saved_association(field, value)?),
            RecordHash::Retained | RecordHash::RetainedOf(_) => {
                let record = RetainedCommandsRecord { endpoint: name()?, commands: command_digests(value) };
                contents.retained_commands.push(record);
            }
            RecordHash::Profiles => {
                contents.profiles.push(ProfileRecord { key: name()?, objects: serde_json::from_slice(value).ok() });
            }
            RecordHash::GeneratedKeys => {
                let (identity, keys) = (PskIdentity::new(field)?, Some(key_pair_parts(value)?));
                contents.generated_keys.push(GeneratedKeyRecord { identity, keys });
            }
            RecordHash::Bootstraps => {
                let awaited = Some(serde_json::from_slice(value).ok()?);
                contents.awaited_bootstraps.push(AwaitedBootstrapRecord { endpoint: name()?, awaited });
            }
            RecordHash::FirmwareJobs | RecordHash::FirmwareJobsOf(_) => {
                let job = Some(serde_json::from_slice(value).ok()?);
                contents.firmware_jobs.push(FirmwareJobRecord { endpoint: name()?, job });
            }
            RecordHash::Campaigns => {
                contents.campaigns.push(CampaignRecord { campaign: name()?, endpoint: None, json: Some(text()?) });
            }
            RecordHash::Campaign(campaign) => {
                let (campaign, endpoint) = (campaign.clone(), Some(name()?));
                contents.campaigns.push(CampaignRecord { campaign, endpoint, json: Some(text()?) });
            }
        }
        Some(())
    }

    fn device(&mut self, shard: Shard, value: &[u8]) -> Option<DeviceRecord> {
        let record = self.listeners.place(serde_json::from_slice(value).ok()?);
        if let Some(homes) = &mut self.homes {
            homes.insert(record.registration.endpoint.clone(), shard);
        }
        Some(record)
    }

    fn saved_association(&self, field: &[u8], value: &[u8]) -> Option<SavedAssociation> {
        let id = AssociationId(u64::from_be_bytes(field.try_into().ok()?));
        let (made_at, reached_by, bytes) = association_parts(value)?;
        let [made_at, reached_by] = [made_at, reached_by].map(|name| self.listeners.secured_socket(name));
        Some(SavedAssociation { id, made_at, reached_by, bytes: Zeroizing::new(bytes.to_vec()) })
    }

    /// Removes all commands of an endpoint except these.
    fn keep_commands(&mut self, shard: Shard, endpoint: &str, current: &BTreeSet<u64>, steps: &mut Vec<BatchStep>) {
        let key = (shard, endpoint.to_owned());
        let Some(stored) = self.commands.get_mut(&key) else { return };
        stored.retain(|serial, _| {
            let is_current = current.contains(serial);
            if !is_current {
                steps.push(remove(RecordHash::Commands(shard), command_field(endpoint, *serial)));
            }
            is_current
        });
        if stored.is_empty() {
            self.commands.remove(&key);
        }
    }

    fn note_removal(&mut self, now: Instant, step: &BatchStep) {
        match step {
            BatchStep::Put { hash, field, .. } if !self.removed.is_empty() => {
                self.removed.remove(&(hash.clone(), field.clone()));
            }
            BatchStep::Put { .. } | BatchStep::Clear { .. } => {}
            BatchStep::Remove { hash, field } => {
                // If there are too many, the oldest is forgotten, which the server is least likely to have lost.
                let (None | Some(_)) = self.removed.insert((hash.clone(), field.clone()), now + REMEMBERED, ());
            }
        }
    }
}

/// Holds what has been read so far.
#[derive(Default)]
pub(crate) struct RestoredContents {
    pub contents: StoreContents,
    commands: HashMap<(Shard, String, u64), String>,
}

/// Adds the commands and the answers to the record of their device.
fn with_commands(
    mut record: DeviceRecord,
    shard: Shard,
    stored: &mut HashMap<(Shard, String, u64), String>,
) -> DeviceRecord {
    let endpoint = record.registration.endpoint.clone();
    let mut complete = Vec::new();
    for mut command in record.commands {
        let json = stored.remove(&(shard, endpoint.clone(), command.serial));
        let Some(Ok(echo)) = json.map(TryInto::try_into) else {
            error!(endpoint, serial = command.serial, "stored command unreadable; it is lost");
            continue;
        };
        command.command = echo;
        complete.push(command);
    }
    record.commands = complete;
    record.answers.retain_mut(|answer| {
        let payload = stored.remove(&(shard, endpoint.clone(), answer.serial));
        let is_whole = payload.is_some();
        answer.payload = payload.unwrap_or_default();
        if !is_whole {
            error!(endpoint, serial = answer.serial, "stored answer missing; it is lost");
        }
        is_whole
    });
    record
}

fn campaign_steps(CampaignRecord { campaign, endpoint, json }: &CampaignRecord, steps: &mut Vec<BatchStep>) {
    let json = json.as_ref().map(|json| json.as_bytes().to_vec());
    match endpoint {
        Some(endpoint) => {
            steps.push(put_or_remove(RecordHash::Campaign(campaign.clone()), endpoint.as_str(), json));
        }
        None => {
            if json.is_none() {
                steps.push(BatchStep::Clear { hash: RecordHash::Campaign(campaign.clone()) });
            }
            steps.push(put_or_remove(RecordHash::Campaigns, campaign.as_str(), json));
        }
    }
}

fn put(hash: RecordHash, field: impl AsRef<[u8]>, value: Vec<u8>) -> BatchStep {
    BatchStep::Put { hash, field: field.as_ref().to_vec(), value: Zeroizing::new(value) }
}

fn remove(hash: RecordHash, field: impl AsRef<[u8]>) -> BatchStep {
    BatchStep::Remove { hash, field: field.as_ref().to_vec() }
}

fn put_or_remove(hash: RecordHash, field: impl AsRef<[u8]>, value: Option<Vec<u8>>) -> BatchStep {
    match value {
        Some(value) => put(hash, field, value),
        None => remove(hash, field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_removals_the_newest_are_repeated_for_a_server_that_lost_records() {
        let mut layout = Layout::new(ListenerNames::new(&[]));
        let start = Instant::now();
        let removal = |key: usize| Change::Profile(ProfileRecord { key: key.to_string(), objects: None });
        let beyond = 10;
        for key in 0..MOST_REMEMBERED + beyond {
            layout.steps(start, &removal(key));
        }
        let repeated = layout.contents_lost(start + REMEMBERED / 2);
        assert_eq!(repeated.len(), MOST_REMEMBERED);
        assert_eq!(repeated.first(), Some(&remove(RecordHash::Profiles, beyond.to_string())));
        assert_eq!(layout.contents_lost(start + REMEMBERED), []);
    }
}
