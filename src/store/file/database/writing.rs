//! Writes changes into the tables of the file.

use std::collections::HashSet;

use lwm2m_core::bootstrap::secret::SecretBytes;
use lwm2m_core::gateway::persistence::record::{
    AwaitedBootstrapRecord, CampaignRecord, Change, DeviceRecord, FirmwareJobRecord, GeneratedKeyRecord, KeyPairRecord,
    ProfileRecord, RetainedCommandsRecord,
};
use lwm2m_dtls::AssociationChange;
use redb::{ReadableTable, StorageError, Table};

use super::{
    ASSOCIATIONS, AWAITED_BOOTSTRAPS, CAMPAIGNS, COMMANDS, CommandTable, DEVICES, Database, FIRMWARE_JOBS,
    GENERATED_KEYS, PROFILES, RETAINED_COMMANDS,
};

impl Database {
    /// Writes all changes or none, and waits until they are on the disk.
    pub(in crate::store::file) fn write<'c>(
        &self,
        changes: impl IntoIterator<Item = &'c Change>,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut devices = transaction.open_table(DEVICES)?;
            let mut commands = transaction.open_table(COMMANDS)?;
            let mut associations = transaction.open_table(ASSOCIATIONS)?;
            let mut retained_commands = transaction.open_table(RETAINED_COMMANDS)?;
            let mut profiles = transaction.open_table(PROFILES)?;
            let mut generated_keys = transaction.open_table(GENERATED_KEYS)?;
            let mut awaited_bootstraps = transaction.open_table(AWAITED_BOOTSTRAPS)?;
            let mut firmware_jobs = transaction.open_table(FIRMWARE_JOBS)?;
            let mut campaigns = transaction.open_table(CAMPAIGNS)?;
            for change in changes {
                match change {
                    Change::Put(record) => {
                        let key = (record.shard().number(), record.registration.endpoint.as_str());
                        devices.insert(key, self.listeners.encode(record).as_slice())?;
                        write_commands(&mut commands, record)?;
                    }
                    Change::Remove { shard, endpoint } => {
                        let key = (shard.number(), endpoint.as_str());
                        devices.remove(key)?;
                        keep_commands(&mut commands, key, &HashSet::new())?;
                    }
                    Change::RetainedCommands(record) => write_retained_commands(&mut retained_commands, record)?,
                    Change::Profile(record) => write_profile(&mut profiles, record)?,
                    Change::GeneratedKey(record) => write_generated_key(&mut generated_keys, record)?,
                    Change::AwaitedBootstrap(record) => write_awaited_bootstrap(&mut awaited_bootstraps, record)?,
                    Change::FirmwareJob(record) => write_firmware_job(&mut firmware_jobs, record)?,
                    Change::Campaign(record) => write_campaign(&mut campaigns, record)?,
                    Change::Association(AssociationChange::Put(saved)) => {
                        let [made_at, reached_by] =
                            [saved.made_at, saved.reached_by].map(|socket| self.listeners.name(socket));
                        associations.insert(saved.id.0, (made_at, reached_by, saved.bytes.as_slice()))?;
                    }
                    Change::Association(AssociationChange::Remove(id)) => {
                        associations.remove(id.0)?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn write_retained_commands(
    table: &mut Table<'_, &str, &[u8]>,
    record: &RetainedCommandsRecord,
) -> Result<(), StorageError> {
    if record.commands.is_empty() {
        table.remove(record.endpoint.as_str())?;
    } else {
        let digests: Vec<u8> = record.commands.iter().flat_map(|command| command.0.to_be_bytes()).collect();
        table.insert(record.endpoint.as_str(), digests.as_slice())?;
    }
    Ok(())
}

fn write_profile(table: &mut Table<'_, &str, &[u8]>, record: &ProfileRecord) -> Result<(), StorageError> {
    match &record.objects {
        Some(objects) => {
            let json = serde_json::to_vec(objects).expect("keys are texts or numbers");
            table.insert(record.key.as_str(), json.as_slice())?;
        }
        None => drop(table.remove(record.key.as_str())?),
    }
    Ok(())
}

fn write_generated_key(
    table: &mut Table<'_, &str, (&[u8], &[u8])>,
    record: &GeneratedKeyRecord,
) -> Result<(), StorageError> {
    let identity = record.identity.as_str();
    match &record.keys {
        Some(KeyPairRecord { key, next }) => {
            let next = next.as_ref().map(SecretBytes::reveal).unwrap_or_default();
            table.insert(identity, (key.reveal(), next))?;
        }
        None => drop(table.remove(identity)?),
    }
    Ok(())
}

fn write_awaited_bootstrap(
    table: &mut Table<'_, &str, &[u8]>,
    record: &AwaitedBootstrapRecord,
) -> Result<(), StorageError> {
    match &record.awaited {
        Some(awaited) => {
            let json = serde_json::to_vec(awaited).expect("keys are texts, and numbers are whole");
            table.insert(record.endpoint.as_str(), json.as_slice())?;
        }
        None => drop(table.remove(record.endpoint.as_str())?),
    }
    Ok(())
}

fn write_firmware_job(table: &mut Table<'_, &str, &[u8]>, record: &FirmwareJobRecord) -> Result<(), StorageError> {
    match &record.job {
        Some(job) => {
            let json = serde_json::to_vec(job).expect("keys are texts, and numbers are whole");
            table.insert(record.endpoint.as_str(), json.as_slice())?;
        }
        None => drop(table.remove(record.endpoint.as_str())?),
    }
    Ok(())
}

fn write_campaign(table: &mut Table<'_, (&str, &str), &str>, record: &CampaignRecord) -> Result<(), StorageError> {
    let CampaignRecord { campaign, endpoint, json } = record;
    let (name, endpoint) = (campaign.as_str(), endpoint.as_deref().unwrap_or_default());
    match json {
        Some(json) => drop(table.insert((name, endpoint), json.as_str())?),
        None if endpoint.is_empty() => {
            // Nothing lies between a name and the same name with a zero byte: these are the records of this campaign
            // only.
            let end = format!("{name}\0");
            table.retain_in((name, "")..(end.as_str(), ""), |_, _| false)?;
        }
        None => drop(table.remove((name, endpoint))?),
    }
    Ok(())
}

fn write_commands(table: &mut CommandTable<'_>, record: &DeviceRecord) -> Result<(), StorageError> {
    let key @ (shard, endpoint) = (record.shard().number(), record.registration.endpoint.as_str());
    let commands = record.commands.iter().map(|command| command.serial);
    let current: HashSet<u64> = commands.chain(record.answers.iter().map(|answer| answer.serial)).collect();
    let written = keep_commands(table, key, &current)?;
    for answer in record.answers.iter().filter(|answer| !written.contains(&answer.serial)) {
        table.insert((shard, endpoint, answer.serial), answer.payload.as_str())?;
    }
    for command in record.commands.iter().filter(|command| !written.contains(&command.serial)) {
        table.insert((shard, endpoint, command.serial), command.command.to_json().as_str())?;
    }
    Ok(())
}

/// Removes all commands and answers of an endpoint except these, and returns those that were stored.
fn keep_commands(
    table: &mut CommandTable<'_>,
    (shard, endpoint): (u8, &str),
    current: &HashSet<u64>,
) -> Result<HashSet<u64>, StorageError> {
    let mut written = HashSet::new();
    for entry in table.range((shard, endpoint, 0)..=(shard, endpoint, u64::MAX))? {
        written.insert(entry?.0.value().2);
    }
    for serial in written.difference(current) {
        table.remove((shard, endpoint, *serial))?;
    }
    Ok(written)
}
