//! Implements `man`, which writes the manual pages of the command line, one for each command, for packages.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::generate_to;

use super::Arguments;

/// Writes `lwm2m-gateway.1` and a page `lwm2m-gateway-COMMAND.1` for each command to a folder, which must exist.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    generate_to(Arguments::command(), folder)
        .with_context(|| format!("{}: cannot write the manual pages", folder.display()))
}
