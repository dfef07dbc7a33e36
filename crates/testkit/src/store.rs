//! A store in memory, which passes the records of one process of the core to the next one.

use std::collections::BTreeMap;
use std::time::Instant;

use lwm2m_core::gateway::Gateway;
use lwm2m_core::gateway::persistence::record::{
    AwaitedBootstrapRecord, CampaignRecord, Change, DeviceRecord, FirmwareJobRecord, GeneratedKeyRecord, ProfileRecord,
    RetainedCommandsRecord,
};

/// Holds the newest records. Those of devices go through JSON, as in a file.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// The records of the devices, by endpoint name.
    pub devices: BTreeMap<String, DeviceRecord>,
    /// The remembered retained commands, by endpoint name.
    pub retained_commands: BTreeMap<String, RetainedCommandsRecord>,
    /// The object lists of profiles, by key.
    pub profiles: BTreeMap<String, ProfileRecord>,
    /// The keys that the bootstrap server generated, by identity.
    pub generated_keys: BTreeMap<String, GeneratedKeyRecord>,
    /// The `bootstrap` commands that await a session, by endpoint name, as JSON.
    pub awaited_bootstraps: BTreeMap<String, String>,
    /// The firmware updates, by endpoint name, as JSON.
    pub firmware_jobs: BTreeMap<String, String>,
    /// The firmware campaigns and their devices, by name and endpoint name.
    pub campaigns: BTreeMap<(String, Option<String>), CampaignRecord>,
}

impl MemoryStore {
    /// Writes what has changed.
    pub fn keep(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(record) => {
                    self.devices.insert(record.registration.endpoint.clone(), through_json(&record));
                }
                Change::Remove { endpoint, .. } => {
                    self.devices.remove(&endpoint);
                }
                Change::RetainedCommands(record) if record.commands.is_empty() => {
                    self.retained_commands.remove(&record.endpoint);
                }
                Change::RetainedCommands(record) => {
                    self.retained_commands.insert(record.endpoint.clone(), record);
                }
                Change::Profile(record) if record.objects.is_none() => {
                    self.profiles.remove(&record.key);
                }
                Change::Profile(record) => {
                    self.profiles.insert(record.key.clone(), record);
                }
                Change::GeneratedKey(record) if record.keys.is_none() => {
                    self.generated_keys.remove(record.identity.as_str());
                }
                Change::GeneratedKey(record) => {
                    self.generated_keys.insert(record.identity.as_str().to_owned(), record);
                }
                Change::AwaitedBootstrap(AwaitedBootstrapRecord { endpoint, awaited: None }) => {
                    self.awaited_bootstraps.remove(&endpoint);
                }
                Change::AwaitedBootstrap(AwaitedBootstrapRecord { endpoint, awaited: Some(awaited) }) => {
                    let json = serde_json::to_string(&awaited).expect("a record is JSON");
                    self.awaited_bootstraps.insert(endpoint, json);
                }
                Change::FirmwareJob(FirmwareJobRecord { endpoint, job: None }) => {
                    self.firmware_jobs.remove(&endpoint);
                }
                Change::FirmwareJob(FirmwareJobRecord { endpoint, job: Some(job) }) => {
                    self.firmware_jobs.insert(endpoint, serde_json::to_string(&job).expect("a record is JSON"));
                }
                Change::Campaign(record) => self.keep_campaign(record),
                Change::Association(change) => panic!("nobody speaks DTLS here, {change:?}"),
            }
        }
    }

    fn keep_campaign(&mut self, record: CampaignRecord) {
        let key = (record.campaign.clone(), record.endpoint.clone());
        match record {
            CampaignRecord { campaign, endpoint: None, json: None } => {
                self.campaigns.retain(|(name, _), _| *name != campaign);
            }
            CampaignRecord { json: None, .. } => drop(self.campaigns.remove(&key)),
            CampaignRecord { json: Some(_), .. } => drop(self.campaigns.insert(key, record)),
        }
    }

    /// Gives all records to a gateway that has just begun.
    pub fn restore(&self, gateway: &mut Gateway, now: Instant) {
        gateway.restore(now, self.devices.values().cloned().collect());
        gateway.restore_retained_commands(self.retained_commands.values().cloned().collect());
        gateway.restore_profiles(self.profiles.values().cloned().collect());
        gateway.restore_generated_keys(self.generated_keys.values().cloned().collect());
        let read = |(endpoint, json): (&String, &String)| AwaitedBootstrapRecord {
            endpoint: endpoint.clone(),
            awaited: Some(serde_json::from_str(json).expect("it can be read back")),
        };
        gateway.restore_awaited_bootstraps(now, self.awaited_bootstraps.iter().map(read).collect());
        let read = |(endpoint, json): (&String, &String)| FirmwareJobRecord {
            endpoint: endpoint.clone(),
            job: Some(serde_json::from_str(json).expect("it can be read back")),
        };
        gateway.restore_firmware_jobs(now, self.firmware_jobs.iter().map(read).collect());
        gateway.restore_campaigns(now, self.campaigns.values().cloned().collect());
    }
}

/// Returns the record as it comes out of a file, where the commands and answers are kept apart.
pub fn through_json(record: &DeviceRecord) -> DeviceRecord {
    let json = serde_json::to_string(record).expect("a record is JSON");
    let mut read: DeviceRecord = serde_json::from_str(&json).expect("it can be read back");
    for (read, written) in read.commands.iter_mut().zip(&record.commands) {
        read.command = written.command.to_json().try_into().expect("a command is JSON");
    }
    for (read, written) in read.answers.iter_mut().zip(&record.answers) {
        read.payload = written.payload.clone();
    }
    read
}
