//! Implements `rekey`, which seals the records at a Redis server with another key.

use std::io::Write;

use anyhow::ensure;

use crate::store::StoreKind;
use crate::store::redis::{RekeyReport, rekey};

use super::ConfigFile;

/// Seals all records with `store.redis.seal_keyfile`, and prints what was done.
pub(super) fn run(config: &ConfigFile, output: &mut impl Write) -> anyhow::Result<()> {
    let config = config.load()?;
    ensure!(config.store.kind == StoreKind::Redis, "the records are not at a Redis server (store.kind = \"redis\")");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let RekeyReport { replaced, new, unreadable, behind } = runtime.block_on(rekey(&config.store.redis))?;
    writeln!(output, "{replaced} records are sealed anew; {new} had the new key already")?;
    if unreadable > 0 {
        writeln!(output, "{unreadable} records can be read with neither key, and were left as they are")?;
    }
    if !behind.is_empty() {
        let names = behind.join(", ");
        writeln!(
            output,
            "{names}: not running, and had another key when it did: configure the new key before its start"
        )?;
    }
    writeln!(output, "no record needs the old key: remove store.redis.other_seal_keyfile from all gateways")?;
    Ok(())
}
