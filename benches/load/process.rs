//! Reads the CPU time and the memory of a process.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// USER_HZ: Linux shows processor time in hundredths of a second on every architecture that has a Rust toolchain.
const TICK: Duration = Duration::from_millis(10);

/// So far.
pub(crate) fn processor_time(process: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // proc(5): the name stands in parentheses and may hold anything; utime and stime are the 12th and 13th behind it.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    Ok(TICK * ticks.sum::<Result<u32, _>>()?)
}

/// Bytes in memory.
pub(crate) fn resident(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in status")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}

/// Returns the load average of the last minute.
pub(crate) fn load() -> anyhow::Result<String> {
    let averages = fs::read_to_string("/proc/loadavg")?;
    averages.split_whitespace().next().map(str::to_owned).context("no average in loadavg")
}
