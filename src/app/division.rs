//! Divides what the store has among the driver threads. The number of threads may be another one than at the last run.

use std::collections::HashMap;
use std::num::NonZero;

use crate::store::StoreContents;
use lwm2m_base::{Shard, ThreadShards};
use lwm2m_core::gateway::moves::newest_records;
use lwm2m_core::gateway::record::DeviceRecord;

/// Returns the part of each thread: the devices and associations of its shards, and what belongs to these devices. What
/// belongs to no device is of the first thread, and what all threads need is of all.
pub fn divided(contents: StoreContents, threads: NonZero<u8>) -> Vec<StoreContents> {
    if threads == NonZero::<u8>::MIN {
        return vec![contents];
    }
    let thread_of = |shard: Shard| usize::from(ThreadShards::thread_of(shard, threads));
    let mut parts: Vec<StoreContents> = (0..threads.get())
        .map(|_| StoreContents {
            term: contents.term,
            store_clock: contents.store_clock,
            profiles: contents.profiles.clone(),
            generated_keys: contents.generated_keys.clone(),
            ..StoreContents::default()
        })
        .collect();
    // Of several records of one endpoint, the thread that restores the newest one removes the others.
    let (newest, older) = newest_records(contents.devices);
    let owner = |record: &DeviceRecord| (record.registration.endpoint.clone(), thread_of(record.shard()));
    let owners: HashMap<String, usize> = newest.iter().map(owner).collect();
    let owner_of = |endpoint: &str| owners.get(endpoint).copied().unwrap_or_default();
    for record in newest.into_iter().chain(older) {
        parts[owner_of(&record.registration.endpoint)].devices.push(record);
    }
    for association in contents.associations {
        parts[thread_of(association.id.shard())].associations.push(association);
    }
    for record in contents.retained_commands {
        parts[owner_of(&record.endpoint)].retained_commands.push(record);
    }
    for record in contents.awaited_bootstraps {
        parts[owner_of(&record.endpoint)].awaited_bootstraps.push(record);
    }
    for record in contents.firmware_jobs {
        parts[owner_of(&record.endpoint)].firmware_jobs.push(record);
    }
    parts[0].campaigns = contents.campaigns;
    parts
}
