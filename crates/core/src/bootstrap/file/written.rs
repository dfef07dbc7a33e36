//! The members of an account as TOML and JSON have them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::lwm2m::value::Value;
use lwm2m_base::secret::Secret;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountText {
    #[serde(rename = "match")]
    pub pattern: Option<String>,
    #[serde(default = "yes")]
    pub discover: bool,
    #[serde(default = "deleted")]
    pub delete: Vec<String>,
    #[serde(default)]
    pub verify: bool,
    pub format: Option<String>,
    #[serde(default)]
    pub rotate: bool,
    #[serde(default)]
    pub allow_plaintext: bool,
    #[serde(default)]
    pub server: Vec<ServerText>,
    #[serde(default)]
    pub object: Vec<AccountObjectText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerText {
    pub short_server_id: Option<u16>,
    pub uri: Option<String>,
    pub security: Option<String>,
    pub identity: Option<String>,
    pub secret: Option<BytesText>,
    /// The device's own certificate or public key.
    #[serde(alias = "public_key")]
    pub certificate: Option<BytesText>,
    /// The certificate or the public key of the server.
    #[serde(alias = "server_public_key")]
    pub server_certificate: Option<BytesText>,
    pub security_instance: Option<u16>,
    pub hold_off: Option<Period>,
    pub account_timeout: Option<Period>,
    pub lifetime: Option<Period>,
    pub binding: Option<String>,
    pub pmin: Option<Period>,
    pub pmax: Option<Period>,
    pub disable_timeout: Option<Period>,
    #[serde(default = "yes")]
    pub store_notifications: bool,
    registration_priority: Option<u32>,
    registration_delay: Option<Period>,
    registration_failure_block: Option<bool>,
    bootstrap_on_registration_failure: Option<bool>,
    retry_count: Option<u32>,
    retry_timer: Option<Period>,
    sequence_delay: Option<Period>,
    sequence_retry_count: Option<u32>,
    mute_send: Option<bool>,
}

/// An instance of another object: its resources by ID. A resource with instances is a table of them by ID. The values
/// may be secrets: `Debug` shows none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountObjectText {
    pub path: String,
    pub resources: BTreeMap<String, serde_json::Value>,
}

/// A duration such as `"1h"`, or whole seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period(pub Duration);

/// `generate`, `hex:…` or `file:…`.
#[derive(Debug)]
pub(super) struct BytesText(pub Secret);

impl fmt::Debug for AccountObjectText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountObjectText({} with {} resources)", self.path, self.resources.len())
    }
}

impl ServerText {
    /// Returns the names of the members for credentials, and whether each is written.
    pub(super) fn credentials(&self) -> [(&'static str, bool); 4] {
        [
            ("identity", self.identity.is_some()),
            ("certificate", self.certificate.is_some()),
            ("server_certificate", self.server_certificate.is_some()),
            ("secret", self.secret.is_some()),
        ]
    }

    /// Returns the resources 13 to 20 and 23 of the object 1 that are written (OMA LwM2M Core 1.1 appendix E.2).
    pub(crate) fn since_1_1(&self) -> Vec<(u16, Value)> {
        let number = |value: Option<u32>| value.map(|value| Value::UnsignedInteger(value.into()));
        let period = |period: Option<Period>| period.map(|Period(time)| Value::UnsignedInteger(time.as_secs()));
        let switch = |value: Option<bool>| value.map(Value::Boolean);
        let resources = [
            (13, number(self.registration_priority)),
            (14, period(self.registration_delay)),
            (15, switch(self.registration_failure_block)),
            (16, switch(self.bootstrap_on_registration_failure)),
            (17, number(self.retry_count)),
            (18, period(self.retry_timer)),
            (19, period(self.sequence_delay)),
            (20, number(self.sequence_retry_count)),
            (23, switch(self.mute_send)),
        ];
        resources.into_iter().filter_map(|(resource, value)| Some((resource, value?))).collect()
    }
}

impl BytesText {
    pub(crate) fn is_generated(&self) -> bool {
        self.0.reveal() == "generate"
    }
}

fn yes() -> bool {
    true
}

fn deleted() -> Vec<String> {
    ["/0", "/1"].map(str::to_owned).to_vec()
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PeriodVisitor)
    }
}

struct PeriodVisitor;

impl Visitor<'_> for PeriodVisitor {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration (\"90s\", \"1h 30m\") or whole seconds, at most 136 years")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Period, E> {
        let fits = u32::try_from(seconds).is_ok();
        if fits { Ok(Period(Duration::from_secs(seconds))) } else { Err(E::custom("more than 32 bits of seconds")) }
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Period, E> {
        self.visit_u64(u64::try_from(seconds).map_err(|_| E::custom("a negative duration"))?)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Period, E> {
        let time =
            humantime::parse_duration(text).map_err(|_| E::custom("no duration such as \"90s\" or \"1h 30m\""))?;
        if time.subsec_nanos() != 0 {
            return Err(E::custom("no number of whole seconds"));
        }
        self.visit_u64(time.as_secs())
    }
}

impl<'de> Deserialize<'de> for BytesText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

/// Reads a text. Its errors show no other value either, because that may be a key.
struct BytesVisitor;

const NO_TEXT: &str = "expected a text: \"generate\", \"hex:...\" or \"file:...\"";

impl Visitor<'_> for BytesVisitor {
    type Value = BytesText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<BytesText, E> {
        Ok(BytesText(Secret::new(text)))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<BytesText, E> {
        Err(E::custom(NO_TEXT))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<BytesText, E> {
        Err(E::custom(NO_TEXT))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<BytesText, E> {
        Err(E::custom(NO_TEXT))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<BytesText, E> {
        Err(E::custom(NO_TEXT))
    }
}
