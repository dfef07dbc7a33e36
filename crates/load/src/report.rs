//! The result of a run, for people and as JSON. Times in JSON are seconds.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::journal::{JournalTotals, Latencies};

/// The account of a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    pub devices: u32,
    pub registration: RegistrationReport,
    pub notifications: NotificationReport,
    pub reads: ReadReport,
    pub updates: u64,
    /// Latencies of the Updates that the run asked for.
    pub update_latency: LatencyReport,
    /// Firmware images that the devices fetched, if they were to fetch one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downloads: Option<DownloadReport>,
    /// Datagrams that the devices' system did not take.
    pub unsent_datagrams: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationReport {
    pub registered: u64,
    pub seconds: f64,
    /// Registers and Updates that were refused, by their response code.
    pub refused: BTreeMap<String, u64>,
    pub latency: LatencyReport,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationReport {
    pub wanted_per_second: f64,
    pub seconds: f64,
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub twice: u64,
    pub out_of_order: u64,
    /// Confirmable notifications that were due while the one before them was not acknowledged; they were not sent.
    pub delayed: u64,
    pub latency: LatencyReport,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadReport {
    pub sent: u64,
    /// The answers, by their response code.
    pub answers: BTreeMap<String, u64>,
    pub unanswered: u64,
    pub latency: LatencyReport,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DownloadReport {
    pub completed: u64,
    pub failed: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyReport {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub longest: f64,
    #[serde(skip)]
    text: String,
}

impl NotificationReport {
    /// `seconds` is how long the devices notified.
    pub(crate) fn new(
        wanted_per_second: f64,
        seconds: f64,
        totals: JournalTotals,
        delayed: u64,
        latencies: &Latencies,
    ) -> Self {
        Self {
            wanted_per_second,
            seconds,
            sent: totals.sent,
            received: totals.received,
            lost: totals.missing(),
            twice: totals.twice,
            out_of_order: totals.out_of_order,
            delayed,
            latency: LatencyReport::from(latencies),
        }
    }
}

impl From<&Latencies> for LatencyReport {
    fn from(latencies: &Latencies) -> Self {
        let at = |percent| latencies.percentile(percent).as_secs_f64();
        Self {
            count: latencies.count(),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            longest: latencies.longest().as_secs_f64(),
            text: latencies.to_string(),
        }
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = |count: u64, seconds: f64| count as f64 / seconds.max(f64::EPSILON);
        let Self { devices, registration, notifications, reads, .. } = self;
        writeln!(
            f,
            "registered     {} of {devices} in {:.2} s, {:.0}/s",
            registration.registered,
            registration.seconds,
            per_second(registration.registered, registration.seconds),
        )?;
        write_codes(f, "  refused", &registration.refused)?;
        writeln!(f, "  latency      {}", registration.latency.text)?;
        writeln!(
            f,
            "notifications  {} sent ({:.0}/s, wanted {:.0}/s), {} received ({:.0}/s)",
            notifications.sent,
            per_second(notifications.sent, notifications.seconds),
            notifications.wanted_per_second,
            notifications.received,
            per_second(notifications.received, notifications.seconds),
        )?;
        let share = 100.0 * notifications.lost as f64 / (notifications.sent.max(1)) as f64;
        writeln!(
            f,
            "  lost         {} ({share:.2} %), {} twice, {} out of order, {} delayed",
            notifications.lost, notifications.twice, notifications.out_of_order, notifications.delayed,
        )?;
        writeln!(f, "  latency      {}", notifications.latency.text)?;
        if reads.sent > 0 {
            writeln!(f, "reads          {} sent, {} without an answer", reads.sent, reads.unanswered)?;
            write_codes(f, "  answers", &reads.answers)?;
            writeln!(f, "  latency      {}", reads.latency.text)?;
        }
        writeln!(f, "updates        {}", self.updates)?;
        if self.update_latency.count > 0 {
            writeln!(f, "  latency      {}", self.update_latency.text)?;
        }
        if let Some(DownloadReport { completed, failed }) = &self.downloads {
            writeln!(f, "images         {completed} of {devices} fetched, {failed} failed")?;
        }
        if self.unsent_datagrams > 0 {
            writeln!(f, "The system of the devices did not take {} datagrams.", self.unsent_datagrams)?;
        }
        Ok(())
    }
}

fn write_codes(f: &mut fmt::Formatter<'_>, title: &str, codes: &BTreeMap<String, u64>) -> fmt::Result {
    if codes.is_empty() {
        return Ok(());
    }
    let codes: Vec<String> = codes.iter().map(|(code, count)| format!("{code}: {count}")).collect();
    writeln!(f, "{title:<15}{}", codes.join(", "))
}
