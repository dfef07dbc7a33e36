//! Reports the resources of this process by the metric names that are common to all dashboards.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

/// Adds the metrics of the process; omits them if the system does not report them.
#[cfg(target_os = "linux")]
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    match linux::Process::read() {
        Ok(process) => process.encode(encoder),
        Err(error) => {
            tracing::debug!(%error, "the system does not provide the figures of this process");
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub fn encode(_: &mut DescriptorEncoder<'_>) -> fmt::Result {
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fmt;

    use procfs::ProcResult;
    use procfs::process::LimitValue;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
    use prometheus_client::metrics::MetricType;
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;

    pub(crate) struct Process {
        cpu_seconds: f64,
        resident_bytes: u64,
        virtual_bytes: u64,
        threads: i64,
        open_descriptors: u64,
        most_descriptors: u64,
        /// Start of the process in seconds since 1970.
        started: f64,
    }

    impl Process {
        pub(super) fn read() -> ProcResult<Self> {
            let process = procfs::process::Process::myself()?;
            let stat = process.stat()?;
            let ticks = procfs::ticks_per_second() as f64;
            let most_descriptors = match process.limits()?.max_open_files.soft_limit {
                LimitValue::Value(most) => most,
                LimitValue::Unlimited => u64::MAX,
            };
            Ok(Self {
                cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
                resident_bytes: stat.rss * procfs::page_size(),
                virtual_bytes: stat.vsize,
                threads: stat.num_threads,
                open_descriptors: process.fd_count()? as u64,
                most_descriptors,
                started: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
            })
        }

        pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
            let meaning = "Processor time, of the program and of the system for it.";
            let cpu = encoder.encode_descriptor("process_cpu_seconds", meaning, None, MetricType::Counter)?;
            ConstCounter::new(self.cpu_seconds).encode(cpu)?;
            gauge(encoder, "process_resident_memory_bytes", "Memory in use.", self.resident_bytes)?;
            gauge(encoder, "process_virtual_memory_bytes", "Addresses in use.", self.virtual_bytes)?;
            gauge(encoder, "process_threads", "Threads.", self.threads)?;
            gauge(encoder, "process_open_fds", "File descriptors in use.", self.open_descriptors)?;
            gauge(encoder, "process_max_fds", "File descriptors that may be in use.", self.most_descriptors)?;
            gauge(encoder, "process_start_time_seconds", "When the program began, in seconds since 1970.", self.started)
        }
    }

    fn gauge<N>(encoder: &mut DescriptorEncoder<'_>, name: &str, meaning: &str, value: N) -> fmt::Result
    where
        N: EncodeGaugeValue + Copy,
        ConstGauge<N>: EncodeMetric,
    {
        ConstGauge::new(value).encode(encoder.encode_descriptor(name, meaning, None, MetricType::Gauge)?)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn this_process_is_known() {
            let process = Process::read().unwrap();
            assert!(process.resident_bytes > 100_000 && process.open_descriptors > 2, "{}", process.resident_bytes);
            assert!(process.started > 1_600_000_000.0 && process.threads > 0, "{}", process.started);
        }
    }
}
