//! The whole loop in a minute: gateway, embedded broker, a simulated device and an application.

use crate::config::Config;

/// Runs the demonstration to its end.
pub async fn run(config: Config) -> anyhow::Result<()> {
    todo!()
}
