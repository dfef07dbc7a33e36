//! What the keeper reads of devices: the records of a shard that the node has acquired, and those of one device that it
//! takes from the shard of another node.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use ::redis::Pipeline;
use tracing::info;
use zeroize::Zeroizing;

use crate::clock::monotonic_now;
use crate::store::StoreContents;
use lwm2m_base::{AssociationId, Shard};
use lwm2m_core::gateway::moves::claims::MovedDevice;
use lwm2m_core::gateway::moves::shards::ShardContents;
use lwm2m_core::gateway::persistence::record::{Change, RetainedCommandsRecord};

use super::super::super::batch::{WriteInProgress, nonces};
use super::super::super::layout::{RecordHash, RestoredContents};
use super::super::names::{NameAnswer, NameAsk, Taking, is_by_endpoint, is_taken, superseded};
use super::super::{EngineAnswer, EngineAsk};
use super::{SharedAttemptError, SharedKeeper, SharedParts};

/// Maximum time for the records of a shard.
const LOAD_PATIENCE: Duration = Duration::from_secs(10);

/// The values of a hash by their fields.
type Fields = BTreeMap<Vec<u8>, Vec<u8>>;

impl SharedKeeper {
    /// Reads the records of the shard that was asked for first, and gives them to the member task.
    pub(super) async fn load(&mut self) -> Result<(), SharedAttemptError> {
        let Some(&EngineAsk::Load { shard, term }) = self.queue.front() else { return Ok(()) };
        let (hashes, commands): (Vec<_>, Vec<_>) = self.parts.identity.load(shard).into_iter().unzip();
        let mut pipeline = Pipeline::new();
        for command in commands {
            pipeline.add_command(command);
        }
        let answers: Vec<Fields> = self.ask_all(&pipeline, LOAD_PATIENCE).await?;
        let hashes: Vec<_> = hashes.into_iter().zip(answers).collect();
        let superseded = self.superseded(shard, &hashes).await?;
        self.queue.pop_front();
        self.held.insert(shard, term);
        let SharedParts { identity, layout, keys, .. } = &mut self.parts;
        let mut restored = RestoredContents::default();
        for (hash, fields) in hashes {
            let hash_key = hash.key(&identity.prefix);
            for (field, value) in fields {
                if is_by_endpoint(&hash) && superseded.contains(&field) {
                    continue;
                }
                let opened = keys.open(&hash_key, &field, &value).unwrap_or_default();
                layout.restore(&mut restored, &hash, &field, &opened);
            }
        }
        self.remove_superseded(shard, superseded);
        let contents = restored.contents;
        let contents = ShardContents {
            devices: contents.devices,
            associations: contents.associations,
            retained_commands: contents.retained_commands,
            firmware_jobs: contents.firmware_jobs,
        };
        self.tell_member(EngineAnswer::Loaded { shard, contents: Box::new(contents) });
        Ok(())
    }

    /// Takes a device from the shard of another node.
    pub(super) async fn take_device(&mut self) -> Result<(), SharedAttemptError> {
        // A removal of the device that was written late would remove what is written here.
        self.write().await?;
        let Some(EngineAsk::Name(NameAsk::Take(mut taking))) = self.queue.pop_front() else { return Ok(()) };
        let taken = self.try_to_take(&mut taking).await;
        match taken {
            Ok(is_taken) => {
                if let Some(to) = taking.peer.association.map(AssociationId::shard)
                    && !is_taken
                {
                    self.parts.layout.forget_device(to, &taking.endpoint);
                }
                self.answer(NameAnswer::Taken { taking, is_taken });
                Ok(())
            }
            Err(error) => {
                self.queue.push_front(EngineAsk::Name(NameAsk::Take(taking)));
                Err(error)
            }
        }
    }

    async fn try_to_take(&mut self, taking: &mut Taking) -> Result<bool, SharedAttemptError> {
        if taking.device.is_none() {
            taking.device = self.read_device(taking.from, &taking.endpoint).await?;
        }
        let to = taking.peer.association.map(AssociationId::shard);
        let held = to.and_then(|to| Some((to, *self.held.get(&to)?)));
        let (Some(device), Some((to, term))) = (&mut taking.device, held) else { return Ok(false) };
        device.record.peer = taking.peer;
        let changes = device.clone().into_changes();
        let SharedParts { identity, layout, seal, .. } = &mut self.parts;
        // An earlier attempt has written nothing, or all of this.
        layout.forget_device(to, &taking.endpoint);
        layout.note_homes(&changes);
        let steps: Vec<_> = changes.iter().flat_map(|change| layout.steps(monotonic_now(), change)).collect();
        let Some(request) = identity.take(taking, &steps, (seal, term), nonces(steps.len())?)? else {
            return Ok(false);
        };
        Ok(is_taken(self.ask(&request).await?)?)
    }

    /// Reads the stored record of a device in the shard of another node, with all that belongs to it.
    async fn read_device(&mut self, shard: Shard, endpoint: &str) -> Result<Option<MovedDevice>, SharedAttemptError> {
        let patience = self.patience();
        let (hashes, requests): (Vec<_>, Vec<_>) = self.parts.identity.read_device(shard, endpoint).into_iter().unzip();
        let mut pipeline = Pipeline::new();
        for request in requests {
            pipeline.add_command(request);
        }
        let values: Vec<Option<Vec<u8>>> = self.ask_all(&pipeline, patience).await?;
        let of_device: Vec<_> =
            hashes.into_iter().zip(values).filter_map(|(hash, value)| Some((hash, value?))).collect();
        let opened: Vec<_> =
            of_device.iter().map(|(hash, value)| (hash, self.open(hash, endpoint.as_bytes(), value))).collect();
        let device = opened.iter().find(|(hash, _)| matches!(hash, RecordHash::Devices(_)));
        let fields = device.map(|(_, value)| self.parts.layout.command_fields(value)).unwrap_or_default();
        let commands = RecordHash::Commands(shard);
        let values: Vec<Option<Vec<u8>>> = match fields.is_empty() {
            true => Vec::new(),
            false => {
                let request = self.parts.identity.read_fields(&commands, &fields);
                self.ask(&request).await?
            }
        };
        let mut restored = RestoredContents::default();
        for (field, value) in fields.iter().zip(values) {
            let value = value.map(|value| self.open(&commands, field, &value)).unwrap_or_default();
            self.parts.layout.restore(&mut restored, &commands, field, &value);
        }
        for (hash, value) in opened {
            self.parts.layout.restore(&mut restored, hash, endpoint.as_bytes(), &value);
        }
        self.parts.layout.forget_device(shard, endpoint);
        let StoreContents { mut devices, mut retained_commands, mut firmware_jobs, .. } = restored.contents;
        Ok(devices.pop().map(|record| MovedDevice {
            record,
            retained: retained_commands
                .pop()
                .unwrap_or(RetainedCommandsRecord { endpoint: endpoint.to_owned(), commands: Vec::new() }),
            job: firmware_jobs.pop(),
        }))
    }

    fn open(&self, hash: &RecordHash, field: &[u8], value: &[u8]) -> Zeroizing<Vec<u8>> {
        let SharedParts { identity, keys, .. } = &self.parts;
        keys.open(&hash.key(&identity.prefix), field, value).unwrap_or_default()
    }

    /// Returns the endpoints of a shard that another shard has by now: it was written while nobody served this one.
    async fn superseded(
        &mut self,
        shard: Shard,
        hashes: &[(RecordHash, Fields)],
    ) -> Result<HashSet<Vec<u8>>, SharedAttemptError> {
        let devices = hashes.iter().filter(|(hash, _)| matches!(hash, RecordHash::Devices(_)));
        let endpoints: Vec<Vec<u8>> = devices.flat_map(|(_, fields)| fields.keys().cloned()).collect();
        if endpoints.is_empty() {
            return Ok(HashSet::new());
        }
        let requests = self.parts.identity.check(shard, &endpoints);
        let answers: Vec<Vec<String>> = self.ask_all(&requests, LOAD_PATIENCE).await?;
        Ok(superseded(&endpoints, answers)?)
    }

    /// Removes superseded records of a shard.
    fn remove_superseded(&mut self, shard: Shard, endpoints: HashSet<Vec<u8>>) {
        let mut steps = Vec::new();
        for endpoint in endpoints.into_iter().filter_map(|endpoint| String::from_utf8(endpoint).ok()) {
            info!(endpoint, %shard, "a stored record was dropped: the device is in another shard");
            steps.extend(self.parts.layout.steps(monotonic_now(), &Change::Remove { shard, endpoint }));
        }
        WriteInProgress::remove_before(&mut self.current, steps);
    }
}
