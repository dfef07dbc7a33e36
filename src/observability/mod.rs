//! What people see of the running program: the log, and the counters.

pub mod log;
pub mod logging;
pub mod metrics;
