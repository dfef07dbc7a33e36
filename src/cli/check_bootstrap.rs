//! The report of `check` on the bootstrap server: what each account gives to devices, without secrets.

use std::io::{self, Write};

use crate::bootstrap::has_shared_listener;
use crate::config::Config;
use crate::credentials::PskTable;
use crate::errors::one_line;
use lwm2m_core::bootstrap::account::{Account, PatternAccount, ServerAccount};
use lwm2m_core::lwm2m::model::Model;

/// Prints the accounts, and warns of those that are probably mistakes. Returns whether they can be used.
pub(super) fn check_accounts(config: &Config, model: &Model, output: &mut impl Write) -> io::Result<bool> {
    if !config.bootstrap.is_enabled {
        return Ok(true);
    }
    let accounts = match config.bootstrap.load_accounts(model) {
        Ok(loaded) => loaded.accounts,
        Err(problem) => {
            writeln!(output, "{}", one_line(&problem.to_string()))?;
            return Ok(false);
        }
    };
    for account in &accounts {
        write_account(account, output)?;
        write_warnings(config, account, output)?;
    }
    let (keys, bootstrap_keys) = (config.credentials.load_keys(), config.credentials.load_bootstrap_keys());
    // What is wrong with these files is printed with the credentials.
    let (Ok(keys), Ok(bootstrap_keys)) = (keys, bootstrap_keys) else { return Ok(true) };
    for account in &accounts {
        warn_of_fixed_keys(account, &keys.keys, output)?;
    }
    let second_kind = accounts.iter().filter_map(|account| second_kind(config, account, &bootstrap_keys.keys));
    let mut problems = 0;
    for problem in second_kind {
        problems += 1;
        writeln!(output, "{problem}")?;
    }
    if problems == 0 {
        writeln!(output, "bootstrap: {} accounts, {} keys, OK", accounts.len(), bootstrap_keys.keys.len())?;
    }
    Ok(problems == 0)
}

fn write_account(PatternAccount { pattern, account }: &PatternAccount, output: &mut impl Write) -> io::Result<()> {
    let format = account.format.map_or_else(|| "the device's format or TLV".to_owned(), |format| format.to_string());
    let deleted: Vec<String> = account.delete.iter().map(ToString::to_string).collect();
    let deleted = if deleted.is_empty() { "nothing".to_owned() } else { deleted.join(" ") };
    writeln!(output, "bootstrap: {pattern}: deletes {deleted}, writes {format}")?;
    for server in &account.servers {
        writeln!(output, "bootstrap: {pattern}: {}", described(server, account))?;
    }
    for object in &account.objects {
        writeln!(output, "bootstrap: {pattern}: {} with {} values", object.path, object.values.len())?;
    }
    Ok(())
}

fn described(server: &ServerAccount, account: &Account) -> String {
    let lifetime = humantime::format_duration(server.lifetime);
    let ServerAccount { short_server_id, uri, binding, .. } = server;
    let key = match server.key() {
        Some((identity, Some(_))) => format!(", identity {}, a key for all", identity.as_str()),
        Some((identity, None)) if account.rotate => format!(", identity {}, a new key each time", identity.as_str()),
        Some((identity, None)) => format!(", identity {}, a key for each", identity.as_str()),
        None => String::new(),
    };
    let security = server.security.name();
    format!("server {short_server_id} at {uri}, lifetime {lifetime}, binding {binding}, security {security}{key}")
}

fn write_warnings(config: &Config, account: &PatternAccount, output: &mut impl Write) -> io::Result<()> {
    let PatternAccount { pattern, account } = account;
    if account.allow_plaintext && !account.is_public() {
        writeln!(output, "warning: bootstrap: {pattern}: allow_plaintext sends secrets without encryption")?;
    }
    if account.generates_keys() && !config.store.enable.unwrap_or(true) {
        let problem = "generated keys are lost at a restart without a store (store.enable)";
        writeln!(output, "warning: bootstrap: {pattern}: {problem}")?;
    }
    let is_shared = pattern.has_wildcards() && account.servers.iter().any(is_for_all);
    if is_shared {
        writeln!(output, "warning: bootstrap: {pattern}: all devices get the same key")?;
    }
    Ok(())
}

fn is_for_all(server: &ServerAccount) -> bool {
    matches!(server.key(), Some((_, Some(_))))
}

/// A generated key holds, whatever the file says.
fn warn_of_fixed_keys(account: &PatternAccount, keys: &PskTable, output: &mut impl Write) -> io::Result<()> {
    let generates = account.account.generates_keys();
    let Some(identity) = keys.keys().find(|identity| generates && account.gives(identity)) else { return Ok(()) };
    let (pattern, identity) = (&account.pattern, identity.as_str());
    let problem = "has a key in dtls.psk_file, which does not hold once a key was generated";
    writeln!(output, "warning: bootstrap: {pattern}: {identity:?} {problem}")
}

/// Returns the problem of an account that gives devices an identity for bootstrap, at a listener that serves both.
fn second_kind(config: &Config, account: &PatternAccount, keys: &PskTable) -> Option<String> {
    let identity = keys.keys().find(|identity| account.gives(identity))?;
    let (pattern, identity) = (&account.pattern, identity.as_str());
    has_shared_listener(&config.listeners).then(|| {
        format!(
            "bootstrap: {pattern}: {identity:?} is in bootstrap.psk_file and is given to devices, and a listener \
             serves both; a listener with role = \"bootstrap\" and one with role = \"registration\" allow it"
        )
    })
}
