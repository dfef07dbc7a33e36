//! Reads the tables of the file.

use lwm2m_base::AssociationId;
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::bootstrap::secret::SecretBytes;
use lwm2m_core::gateway::persistence::record::{
    AwaitedBootstrapRecord, CampaignRecord, DeviceRecord, FirmwareJobRecord, GeneratedKeyRecord, KeyPairRecord,
    ProfileRecord, RetainedCommandsRecord,
};
use lwm2m_core::registry::CommandDigest;
use lwm2m_dtls::SavedAssociation;
use redb::{ReadableDatabase, ReadableTable};
use tracing::error;
use zeroize::Zeroizing;

use super::{
    ASSOCIATIONS, AWAITED_BOOTSTRAPS, CAMPAIGNS, COMMANDS, DEVICES, Database, FIRMWARE_JOBS, GENERATED_KEYS, PROFILES,
    RETAINED_COMMANDS,
};

impl Database {
    pub(in crate::store::file) fn read(&self) -> Result<Vec<DeviceRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let devices = transaction.open_table(DEVICES)?;
        let commands = transaction.open_table(COMMANDS)?;
        let mut records = Vec::new();
        for entry in devices.iter()? {
            let (key, value) = entry?;
            let (shard, endpoint) = key.value();
            let mut record = match serde_json::from_slice(value.value()) {
                Ok(read) => self.listeners.place(read),
                // Its pages are whole, so that the others can be trusted.
                Err(error) => {
                    error!(endpoint, %error, "stored registration unreadable; the device must register again");
                    continue;
                }
            };
            let mut complete = Vec::new();
            for mut command in record.commands {
                let json = commands.get((shard, endpoint, command.serial))?;
                let json = json.map(|json| json.value().to_owned());
                let Some(Ok(echo)) = json.map(TryInto::try_into) else {
                    error!(endpoint, serial = command.serial, "stored command unreadable; it is lost");
                    continue;
                };
                command.command = echo;
                complete.push(command);
            }
            record.commands = complete;
            let mut complete = Vec::new();
            for mut answer in record.answers {
                let Some(json) = commands.get((shard, endpoint, answer.serial))? else {
                    error!(endpoint, serial = answer.serial, "stored answer missing; it is lost");
                    continue;
                };
                answer.payload = json.value().to_owned();
                complete.push(answer);
            }
            record.answers = complete;
            records.push(record);
        }
        Ok(records)
    }

    pub(in crate::store::file) fn read_retained_commands(&self) -> Result<Vec<RetainedCommandsRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(RETAINED_COMMANDS)?.iter()? {
            let (endpoint, commands) = entry?;
            let (digests, _) = commands.value().as_chunks();
            let commands = digests.iter().map(|digest| CommandDigest(u64::from_be_bytes(*digest))).collect();
            records.push(RetainedCommandsRecord { endpoint: endpoint.value().to_owned(), commands });
        }
        Ok(records)
    }

    pub(in crate::store::file) fn read_profiles(&self) -> Result<Vec<ProfileRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(PROFILES)?.iter()? {
            let (key, objects) = entry?;
            let objects = serde_json::from_slice(objects.value());
            if let Err(error) = &objects {
                error!(profile = key.value(), %error, "stored object list of a profile unreadable; it is removed");
            }
            records.push(ProfileRecord { key: key.value().to_owned(), objects: objects.ok() });
        }
        Ok(records)
    }

    pub(in crate::store::file) fn read_generated_keys(&self) -> Result<Vec<GeneratedKeyRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(GENERATED_KEYS)?.iter()? {
            let (identity, keys) = entry?;
            let (key, next) = keys.value();
            let Some(identity) = PskIdentity::new(identity.value().as_bytes()) else { continue };
            let next = (!next.is_empty()).then(|| SecretBytes::new(next));
            records
                .push(GeneratedKeyRecord { identity, keys: Some(KeyPairRecord { key: SecretBytes::new(key), next }) });
        }
        Ok(records)
    }

    pub(in crate::store::file) fn read_awaited_bootstraps(&self) -> Result<Vec<AwaitedBootstrapRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(AWAITED_BOOTSTRAPS)?.iter()? {
            let (endpoint, awaited) = entry?;
            let endpoint = endpoint.value().to_owned();
            match serde_json::from_slice(awaited.value()) {
                Ok(awaited) => records.push(AwaitedBootstrapRecord { endpoint, awaited: Some(awaited) }),
                Err(error) => error!(endpoint, %error, "stored bootstrap command unreadable; its answer is lost"),
            }
        }
        Ok(records)
    }

    pub(in crate::store::file) fn read_firmware_jobs(&self) -> Result<Vec<FirmwareJobRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(FIRMWARE_JOBS)?.iter()? {
            let (endpoint, job) = entry?;
            match serde_json::from_slice(job.value()) {
                Ok(job) => records.push(FirmwareJobRecord { endpoint: endpoint.value().to_owned(), job: Some(job) }),
                Err(error) => {
                    error!(endpoint = endpoint.value(), %error, "stored firmware update unreadable; it is lost");
                }
            }
        }
        Ok(records)
    }

    pub(in crate::store::file) fn read_campaigns(&self) -> Result<Vec<CampaignRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(CAMPAIGNS)?.iter()? {
            let (key, json) = entry?;
            let (campaign, endpoint) = key.value();
            let endpoint = (!endpoint.is_empty()).then(|| endpoint.to_owned());
            let json = Some(json.value().to_owned());
            records.push(CampaignRecord { campaign: campaign.to_owned(), endpoint, json });
        }
        Ok(records)
    }

    pub(in crate::store::file) fn read_associations(&self) -> Result<Vec<SavedAssociation>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let associations = transaction.open_table(ASSOCIATIONS)?;
        let mut saved = Vec::new();
        for entry in associations.iter()? {
            let (id, value) = entry?;
            let (made_at, reached_by, bytes) = value.value();
            let [made_at, reached_by] = [made_at, reached_by].map(|listener| self.listeners.secured_socket(listener));
            let bytes = Zeroizing::new(bytes.to_vec());
            saved.push(SavedAssociation { id: AssociationId(id.value()), made_at, reached_by, bytes });
        }
        Ok(saved)
    }
}
