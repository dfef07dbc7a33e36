//! Implements `token`, which makes a token of the console. The program does not store the token: it prints it once.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::TryRng;
use rand::rngs::SysRng;

use crate::console::access::tokens::{NewToken, Role};

#[derive(Debug, clap::Args)]
pub(crate) struct TokenArguments {
    /// Name of the person or program, for the audit log
    name: String,
    /// A viewer sees everything, an operator commands devices
    #[arg(long, value_enum, default_value_t = Role::Viewer)]
    role: Role,
    /// Limit the token to devices whose endpoint name begins with this text
    #[arg(long)]
    prefix: Option<String>,
    /// Store the line in this file; it replaces the line with the same name, whose token is no longer valid. A missing
    /// file is created
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Prints a new token. Its line for the tokens file is printed, too, or stored in a file.
pub(super) fn token(arguments: &TokenArguments, output: &mut impl Write) -> anyhow::Result<()> {
    let mut random = [0; 32];
    SysRng.try_fill_bytes(&mut random).context("the system's randomness")?;
    let TokenArguments { name, role, prefix, file } = arguments;
    let NewToken { token, line } = NewToken::new(random, name, *role, prefix.as_deref())?;
    if let Some(file) = file {
        store(file, name, &line).with_context(|| format!("{}: cannot store the line of the token", file.display()))?;
    }
    writeln!(output, "token, which is shown only now:\n  {}", token.reveal())?;
    if file.is_none() {
        writeln!(output, "line for the file console.tokens:\n  {line}")?;
    }
    Ok(())
}

/// Replaces the line of this name, or adds the line at the end. A gateway that reads the file at the same time finds
/// either the old content or the new one. A file that was there keeps its owner and its permissions.
fn store(file: &Path, name: &str, line: &str) -> io::Result<()> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let others = text.lines().filter(|other| other.split_whitespace().next() != Some(name));
    let content: String = others.chain([line]).flat_map(|line| [line, "\n"]).collect();
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let mut writer = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    if let Ok(old) = fs::metadata(file) {
        fchown(&writer, Some(old.uid()), Some(old.gid()))?;
        writer.set_permissions(old.permissions())?;
    }
    writer.write_all(content.as_bytes())?;
    writer.sync_all()?;
    fs::rename(new, file)
}
