//! A load for an LwM2M gateway: simulated devices on one side, an application on the other, and an account of what came
//! through.
//!
//! A [`Fleet`] is many simulated devices, each with a UDP socket of its own. An [`Application`] is an MQTT client that
//! sends commands and receives answers and notifications. The [`Journal`] compares the two sides: each notification
//! carries a number, so that it knows the latency of each, what was lost, what came twice and what came out of order.
//!
//! The gateway is seen only from outside. Any program works that has the topics and the JSON of EMQX's LwM2M gateway:
//! `lwm2m/ENDPOINT/dn`, `lwm2m/ENDPOINT/up/resp` and `lwm2m/ENDPOINT/up/notify`.
//!
//! # What this crate guarantees
//!
//! - A notification that the journal does not call lost was received by the application, with the value that was sent.
//! - A late timer is made up for: the mean rate is the one asked for, unless the machine cannot hold it.
//!
//! # What it does not know
//!
//! How much processor time the gateway needs: the load generator may run on another machine. All devices and the
//! application share one thread; when that thread is the bound, more processes with prefixes of their own can run.
#![expect(clippy::disallowed_methods, reason = "a load generator reads the clock")]

mod application;
mod device;
mod fleet;
mod fleet_config;
mod fleet_counts;
mod journal;
mod report;
mod run;

pub use application::{Application, ApplicationConfig, CommandAnswer};
pub use fleet::Fleet;
pub use fleet_config::{FleetConfig, NOTIFIED_PATH, sleeps};
pub use fleet_counts::FleetCounts;
pub use journal::{Journal, JournalTotals, Latencies};
pub use report::{DownloadReport, LatencyReport, NotificationReport, ReadReport, RegistrationReport, RunReport};
pub use run::{RunConfig, run};

#[cfg(test)]
mod tests;
