//! From the configuration to the running program.

use crate::config::Config;

/// Serves until the program is told to end.
pub async fn run(config: Config, embedded: bool) -> anyhow::Result<()> {
    todo!()
}
