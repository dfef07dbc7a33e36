//! Implements `completion`, which prints a completion script for a shell.

use std::io::Write;

use clap::{CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};

use super::Arguments;

/// A shell that has completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub(super) fn write(shell: CompletionShell, output: &mut impl Write) -> anyhow::Result<()> {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "lwm2m-gateway", &mut script);
    Ok(output.write_all(&script)?)
}
