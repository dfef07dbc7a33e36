//! Reads accounts as they are written in TOML (`[[account]]`) or JSON, and checks that devices can use them.
//!
//! What is checked is what clients check at Bootstrap-Finish: each server has an account of the object 0 and of the
//! object 1 with the same short server ID, a lifetime, a binding, and a URI whose scheme fits both the security and the
//! binding. No error shows a secret.

mod check;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

use crate::lwm2m::codec::Assignment;
use crate::lwm2m::content_format::{ContentFormat, UnknownFormat};
use crate::lwm2m::model::{Model, ObjectVersion, Version};
use crate::lwm2m::path::{Path, PathError};
use crate::lwm2m::value::{ResourceType, Value, ValueError};
use crate::mqtt::downlink::read_value;

use super::EndpointPattern;
use super::account::{
    Account, AccountSecret, ENDPOINT_NAME, IdentityTemplate, KeyPair, ObjectInstance, PatternAccount, ServerAccount,
    ServerSecurity,
};
use super::secret::SecretBytes;

use check::check;
use written::{AccountText, BytesText, Period, ServerText};

/// Reads a file that an account names; its error is a text without the contents.
pub(crate) type ReadFile<'a> = &'a dyn Fn(&FilePath) -> Result<Vec<u8>, String>;

/// The context in which accounts are read.
#[derive(Clone, Copy)]
pub struct AccountReading<'a> {
    /// The definitions of further objects.
    pub model: &'a Model,
    /// Reads the file of a secret; `None` where an account may name no files.
    pub read_file: Option<ReadFile<'a>>,
}

/// A TOML file of accounts, read but not checked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountFile {
    #[serde(default)]
    account: Vec<AccountText>,
}

/// An account of one endpoint name, as an application writes it in JSON, read but not checked.
#[derive(Debug, Deserialize)]
pub(crate) struct EndpointAccount(AccountText);

/// The reason why an account cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}: {problem}")]
pub struct AccountError {
    /// The account and the member: `account 2 (lab-*), server 1, uri`.
    pub place: String,
    pub problem: AccountProblem,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AccountProblem {
    #[error("is missing")]
    Missing,
    #[error("is only for {0}")]
    OnlyFor(&'static str),
    #[error("expected {0}")]
    Expected(&'static str),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Format(#[from] UnknownFormat),
    #[error("bootstrap writes TLV, SenML JSON, SenML CBOR or LwM2M CBOR, not {0}")]
    OtherFormat(ContentFormat),
    #[error("cannot be deleted; a device keeps it")]
    Undeletable,
    #[error("is the {0} of another server of this account")]
    Twice(&'static str),
    #[error("the scheme {scheme:?} does not fit security {security:?}")]
    Scheme { scheme: String, security: &'static str },
    #[error("{binding:?} does not name the transport of the URI ({transport})")]
    Binding { binding: String, transport: char },
    #[error("expected a URI such as \"coaps://gateway.example.com:5684\"")]
    Uri,
    #[error(
        "a generated key needs an identity with {ENDPOINT_NAME} in it, or else all devices that match have one identity"
    )]
    SharedIdentity,
    #[error("{0}")]
    File(String),
    #[error("an application may name no files of the gateway")]
    NoFiles,
    #[error("{0} has no definition")]
    Undefined(Path),
    #[error("{0} has no value that can be written")]
    NoValue(Path),
    #[error("{path}: {error}")]
    Value { path: Path, error: ValueError },
    #[error("more than {0}")]
    TooMany(usize),
}

impl AccountFile {
    /// Checks the accounts and returns them in their order.
    pub fn read(self, reading: AccountReading<'_>) -> Result<Vec<PatternAccount>, AccountError> {
        let accounts = self.account.into_iter().zip(1..);
        accounts.map(|(account, number)| pattern_account(account, number, reading)).collect()
    }
}

impl EndpointAccount {
    /// Checks the account.
    pub(crate) fn read(self, endpoint: &str, reading: AccountReading<'_>) -> Result<Account, AccountError> {
        let place = AccountPlace::of("account".to_owned());
        if self.0.pattern.is_some() {
            return Err(place.member("match").error(AccountProblem::OnlyFor("the file of accounts")));
        }
        account(self.0, &place, &EndpointPattern::new(endpoint), reading)
    }
}

fn pattern_account(
    mut text: AccountText,
    number: usize,
    reading: AccountReading<'_>,
) -> Result<PatternAccount, AccountError> {
    let place = AccountPlace::of(format!("account {number}"));
    let pattern = text.pattern.take().filter(|pattern| !pattern.is_empty());
    let pattern = pattern.ok_or_else(|| place.member("match").error(AccountProblem::Missing))?;
    let place = AccountPlace::of(format!("account {number} ({pattern})"));
    let pattern = EndpointPattern::new(pattern);
    let account = account(text, &place, &pattern, reading)?;
    Ok(PatternAccount { pattern, account: Arc::new(account) })
}

/// A place in the accounts, for messages about mistakes.
#[derive(Clone, Debug)]
struct AccountPlace(String);

impl AccountPlace {
    fn of(text: String) -> Self {
        Self(text)
    }

    fn member(&self, name: &str) -> Self {
        Self(format!("{}, {name}", self.0))
    }

    fn error(&self, problem: impl Into<AccountProblem>) -> AccountError {
        AccountError { place: self.0.clone(), problem: problem.into() }
    }
}

/// The maximum number of servers, of objects, and of resources of an object.
const MAX_COUNT: usize = 64;

fn account(
    text: AccountText,
    place: &AccountPlace,
    pattern: &EndpointPattern,
    reading: AccountReading<'_>,
) -> Result<Account, AccountError> {
    for (name, count) in [("server", text.server.len()), ("object", text.object.len()), ("delete", text.delete.len())] {
        if count > MAX_COUNT {
            return Err(place.member(name).error(AccountProblem::TooMany(MAX_COUNT)));
        }
    }
    let servers = text.server.into_iter().zip(1..);
    let servers = servers.map(|(text, number)| server(text, &place.member(&format!("server {number}")), reading));
    let objects = text.object.into_iter().map(|object| {
        let place = place.member(&format!("object {}", object.path));
        instance(&object.path, &object.resources, &place, reading)
    });
    let delete = text.delete.iter().map(|path| deleted(path, &place.member("delete")));
    let format = text.format.as_deref().map(|name| format(name, &place.member("format"))).transpose()?;
    let account = Account {
        discover: text.discover,
        delete: delete.collect::<Result<_, _>>()?,
        verify: text.verify,
        format,
        rotate: text.rotate,
        allow_plaintext: text.allow_plaintext,
        servers: servers.collect::<Result<_, _>>()?,
        objects: objects.collect::<Result<_, _>>()?,
    };
    check(&account, place, pattern)?;
    Ok(account)
}

fn format(name: &str, place: &AccountPlace) -> Result<ContentFormat, AccountError> {
    let format = ContentFormat::from_name(name).map_err(|error| place.error(error))?;
    if is_writable(format) { Ok(format) } else { Err(place.error(AccountProblem::OtherFormat(format))) }
}

/// Returns whether a bootstrap server writes in this format (`pct` of OMA LwM2M Core 1.2 section 6.1.7).
pub(crate) fn is_writable(format: ContentFormat) -> bool {
    matches!(
        format,
        ContentFormat::Tlv | ContentFormat::SenmlJson | ContentFormat::SenmlCbor | ContentFormat::Lwm2mCbor
    )
}

fn deleted(text: &str, place: &AccountPlace) -> Result<Path, AccountError> {
    let path: Path = text.parse().map_err(|error: PathError| place.error(error))?;
    if path.len() > 2 {
        return Err(place.error(AccountProblem::Expected("the root, objects and object instances")));
    }
    // OMA LwM2M Core 1.1 section 6.1.6.4: the Device object stays.
    if path.object() == Some(3) { Err(place.error(AccountProblem::Undeletable)) } else { Ok(path) }
}

fn server(text: ServerText, place: &AccountPlace, reading: AccountReading<'_>) -> Result<ServerAccount, AccountError> {
    let missing = |name: &str| place.member(name).error(AccountProblem::Missing);
    let security = security(&text, place, reading)?;
    let since_1_1 = text.since_1_1();
    let period = |period: Option<Period>| period.map(|Period(time)| time);
    Ok(ServerAccount {
        short_server_id: text.short_server_id.ok_or_else(|| missing("short_server_id"))?,
        uri: text.uri.ok_or_else(|| missing("uri"))?,
        security,
        security_instance: text.security_instance,
        hold_off: period(text.hold_off),
        account_timeout: period(text.account_timeout),
        lifetime: period(text.lifetime).unwrap_or(Duration::from_secs(86_400)),
        binding: text.binding.unwrap_or_else(|| "U".to_owned()),
        min_period: period(text.pmin),
        max_period: period(text.pmax),
        disable_timeout: period(text.disable_timeout),
        store_notifications: text.store_notifications,
        since_1_1,
    })
}

fn security(
    text: &ServerText,
    place: &AccountPlace,
    reading: AccountReading<'_>,
) -> Result<ServerSecurity, AccountError> {
    let kind = text.security.as_deref().unwrap_or("none");
    let used: &[&str] = match kind {
        "none" => &[],
        "psk" => &["identity", "secret"],
        "rpk" | "x509" => &["certificate", "server_certificate", "secret"],
        _ => {
            let problem = AccountProblem::Expected("\"none\", \"psk\", \"rpk\" or \"x509\"");
            return Err(place.member("security").error(problem));
        }
    };
    for (name, is_written) in text.credentials() {
        if is_written && !used.contains(&name) {
            let problem = AccountProblem::OnlyFor(if name == "identity" { "\"psk\"" } else { "another security" });
            return Err(place.member(name).error(problem));
        }
    }
    let bytes = |name: &'static str, text: &Option<BytesText>| {
        let place = place.member(name);
        let text = text.as_ref().ok_or_else(|| place.error(AccountProblem::Missing))?;
        read_bytes(text, &place, reading)
    };
    Ok(match kind {
        "psk" => ServerSecurity::Psk {
            identity: identity(text, place)?,
            secret: match &text.secret {
                Some(secret) if secret.is_generated() => AccountSecret::Generated,
                secret => AccountSecret::Given(SecretBytes::new(bytes("secret", secret)?)),
            },
        },
        "rpk" | "x509" => {
            let pair = KeyPair {
                own: bytes("certificate", &text.certificate)?,
                server: bytes("server_certificate", &text.server_certificate)?,
                private_key: SecretBytes::new(bytes("secret", &text.secret)?),
            };
            if kind == "rpk" { ServerSecurity::RawPublicKey(pair) } else { ServerSecurity::X509(pair) }
        }
        _ => ServerSecurity::None,
    })
}

fn identity(text: &ServerText, place: &AccountPlace) -> Result<IdentityTemplate, AccountError> {
    let place = place.member("identity");
    let text = text.identity.as_ref().ok_or_else(|| place.error(AccountProblem::Missing))?;
    let problem = AccountProblem::Expected("a text with no other placeholder than ${endpoint_name}");
    IdentityTemplate::new(text).filter(|_| !text.is_empty()).ok_or_else(|| place.error(problem))
}

/// Reads `hex:…` or `file:…`. A file in PEM stands for the bytes in it.
fn read_bytes(text: &BytesText, place: &AccountPlace, reading: AccountReading<'_>) -> Result<Vec<u8>, AccountError> {
    let written = text.0.reveal();
    let bytes = if let Some(digits) = written.strip_prefix("hex:") {
        hex(digits).ok_or_else(|| place.error(AccountProblem::Expected("hexadecimal digits behind \"hex:\"")))?
    } else if let Some(file) = written.strip_prefix("file:") {
        let read = reading.read_file.ok_or_else(|| place.error(AccountProblem::NoFiles))?;
        let bytes = read(FilePath::new(file)).map_err(|problem| place.error(AccountProblem::File(problem)))?;
        match of_pem(&bytes) {
            Some((label, _)) if OTHER_KEY_FORMATS.contains(&label) => {
                return Err(place.error(AccountProblem::Expected(PKCS_8)));
            }
            Some((_, decoded)) => decoded,
            None => without_line_break(&bytes).to_vec(),
        }
    } else {
        return Err(place.error(AccountProblem::Expected("\"generate\", \"hex:...\" or \"file:...\"")));
    };
    if bytes.is_empty() { Err(place.error(AccountProblem::Expected("at least one byte"))) } else { Ok(bytes) }
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, odd) = digits.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some((digit(*high)? << 4) | digit(*low)?)).collect();
    bytes.filter(|_| odd.is_empty())
}

/// The PEM labels of private keys in other formats than PKCS #8, and of what may precede one of them in its file.
const OTHER_KEY_FORMATS: [&str; 4] = ["EC PRIVATE KEY", "EC PARAMETERS", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];

const PKCS_8: &str = "a private key in PKCS #8 without password (openssl pkcs8 -topk8 -nocrypt)";

/// Returns the label and the bytes of the first part of a PEM file (RFC 7468).
fn of_pem(bytes: &[u8]) -> Option<(&str, Vec<u8>)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (label, body) = text.split_once("-----BEGIN ")?.1.split_once("-----")?;
    let (body, _) = body.split_once("-----END ")?;
    let body: String = body.chars().filter(|character| !character.is_ascii_whitespace()).collect();
    Some((label, STANDARD.decode(body).ok()?))
}

/// Removes the line break at the end of a text file, which is not part of the key.
fn without_line_break(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// Reads an instance of an object other than 0 and 1. Its values are written like those of a write command.
fn instance(
    path: &str,
    resources: &BTreeMap<String, serde_json::Value>,
    place: &AccountPlace,
    reading: AccountReading<'_>,
) -> Result<ObjectInstance, AccountError> {
    let path: Path = path.parse().map_err(|error: PathError| place.error(error))?;
    if path.len() != 2 || matches!(path.object(), Some(0 | 1)) {
        let problem = AccountProblem::Expected("the path of an instance of another object than 0 and 1");
        return Err(place.error(problem));
    }
    if resources.len() > MAX_COUNT {
        return Err(place.error(AccountProblem::TooMany(MAX_COUNT)));
    }
    let mut values = Vec::new();
    for (id, written) in numbered(resources, place)? {
        let resource = path.child(id).ok_or_else(|| place.error(AccountProblem::NoValue(path)))?;
        let kind = resource_type(resource, place, reading.model)?;
        match written {
            serde_json::Value::Object(instances) => {
                let instances: BTreeMap<String, serde_json::Value> = instances.clone().into_iter().collect();
                for (id, written) in numbered(&instances, place)? {
                    let path = resource.child(id).ok_or_else(|| place.error(AccountProblem::NoValue(resource)))?;
                    values.push(assignment(path, kind, written, place)?);
                }
            }
            single => values.push(assignment(resource, kind, single, place)?),
        }
    }
    Ok(ObjectInstance { path, values })
}

fn numbered<'v>(
    members: &'v BTreeMap<String, serde_json::Value>,
    place: &AccountPlace,
) -> Result<BTreeMap<u16, &'v serde_json::Value>, AccountError> {
    let numbered = members.iter().map(|(id, value)| {
        let id = id.parse().map_err(|_| place.error(AccountProblem::Expected("a number from 0 to 65535 as key")))?;
        Ok((id, value))
    });
    numbered.collect()
}

fn resource_type(path: Path, place: &AccountPlace, model: &Model) -> Result<ResourceType, AccountError> {
    let undefined = || place.error(AccountProblem::Undefined(path));
    let (object, resource) = (path.object().ok_or_else(undefined)?, path.resource().ok_or_else(undefined)?);
    let version = ObjectVersion::of(object, None, Version::LWM2M_1_2);
    let definition = model.resource(object, version, resource).ok_or_else(undefined)?;
    definition.resource_type.ok_or_else(|| place.error(AccountProblem::NoValue(path)))
}

fn assignment(
    path: Path,
    kind: ResourceType,
    written: &serde_json::Value,
    place: &AccountPlace,
) -> Result<Assignment, AccountError> {
    let value: Result<Value, ValueError> = read_value(kind, written);
    // The error would show a value, which may be a key.
    let shown = |error| match error {
        ValueError::Type { expected, .. } => ValueError::Type { expected, value: "the value".to_owned() },
        other => other,
    };
    let value = value.map_err(|error| place.error(AccountProblem::Value { path, error: shown(error) }))?;
    Ok(Assignment { path, value })
}

/// Returns whether a value occurs twice.
fn first_twice<T: Ord>(values: impl IntoIterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    !values.into_iter().all(|value| seen.insert(value))
}

#[cfg(test)]
mod tests;
