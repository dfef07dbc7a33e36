//! Implements `man`, which writes the manual pages of the command line, one for each command, for packages.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::generate_to;

use super::Arguments;

/// Writes `lwm2m-gateway.1` and a page `lwm2m-gateway-COMMAND.1` for each command to a folder, which must exist.
pub(super) fn write(folder: &Path) -> anyhow::Result<()> {
    let problem = || format!("{}: cannot write the manual pages", folder.display());
    generate_to(Arguments::command(), folder).with_context(problem)?;
    let main = folder.join("lwm2m-gateway.1");
    let text = fs::read_to_string(&main).with_context(problem)?;
    fs::write(main, with_lines_kept(&text)).with_context(problem)
}

/// Marks the examples and variables after the options as text whose lines stay as they are.
fn with_lines_kept(page: &str) -> String {
    page.replace(".SH EXTRA\n", ".SH EXAMPLES AND ENVIRONMENT\n.nf\n").replace(".SH VERSION\n", ".fi\n.SH VERSION\n")
}
