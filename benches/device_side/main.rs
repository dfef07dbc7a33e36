//! What devices cost without a broker: the core and the sockets, with an upstream that swallows all publications.
//!
//! `cargo bench --bench device_side` compares datagrams: a bare echo by `recvmmsg` and `sendmmsg`, confirmable
//! notifications and Updates over plain UDP, and notifications over DTLS. Devices send in bursts, one datagram each;
//! only the processor time of the server's part is counted, kernel included.
//!
//! `cargo bench --bench device_side -- --crowd 200000` compares few devices with many, without sockets: the memory of a
//! device with one observation, and the time of a notification, an Update and a read.
//!
//! `cargo bench --bench device_side -- --memory 30000`, also with `--dtls`, measures the memory of a device alone, over
//! UDP or DTLS, without sockets.
//!
//! `cargo bench --bench device_side -- --start 100000` starts with stored devices.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod bare;
mod crowd;
mod datagrams;
mod devices;
mod gateway;
mod memory;
mod start;

use std::time::Duration;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

/// The allocator of the program.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Arguments {
    /// Compare 1,000 devices with so many, in the place of the datagrams
    #[arg(long, value_name = "DEVICES", value_parser = clap::value_parser!(u32).range(2_000..=1_000_000))]
    crowd: Option<u32>,
    /// Start with so many stored devices, in the place of all else
    #[arg(long, value_name = "DEVICES", conflicts_with = "crowd")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    start: Option<u32>,
    /// Measure the memory of so many devices, in the place of all else
    #[arg(long, value_name = "DEVICES", conflicts_with_all = ["crowd", "start"])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    memory: Option<u32>,
    /// With `--memory`: the devices use DTLS
    #[arg(long, requires = "memory")]
    dtls: bool,
    /// Rounds of each measurement; the median counts
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Cargo passes this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let Arguments { crowd, start, memory, dtls, rounds, .. } = Arguments::parse();
    match (crowd, start, memory) {
        (Some(devices), ..) => crowd::compare(devices, rounds),
        (None, Some(devices), _) => start::measure(devices),
        (None, None, Some(devices)) => memory::measure(devices, dtls),
        (None, None, None) => datagrams::compare(rounds),
    }
}

/// Returns the processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
