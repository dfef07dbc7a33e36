//! Implements `token`, which makes a token of the console. The program keeps none: it prints the token once.

use std::io::Write;

use anyhow::Context;
use rand::TryRng;
use rand::rngs::SysRng;

use crate::console::tokens::{NewToken, Role};

#[derive(Debug, clap::Args)]
pub struct TokenArguments {
    /// Name of the person or program, for the audit log
    name: String,
    /// A viewer sees everything, an operator commands devices
    #[arg(long, value_enum, default_value_t = Role::Viewer)]
    role: Role,
    /// Limit the token to devices whose endpoint name begins so
    #[arg(long)]
    prefix: Option<String>,
}

/// Prints a new token and its line for the tokens file.
pub fn token(arguments: &TokenArguments, output: &mut impl Write) -> anyhow::Result<()> {
    let mut random = [0; 32];
    SysRng.try_fill_bytes(&mut random).context("the system's randomness")?;
    let TokenArguments { name, role, prefix } = arguments;
    let NewToken { token, line } = NewToken::new(random, name, *role, prefix.as_deref())?;
    writeln!(output, "token, which is shown only now:\n  {}", token.reveal())?;
    writeln!(output, "line for the file console.tokens:\n  {line}")?;
    Ok(())
}
