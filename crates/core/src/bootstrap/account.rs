//! The accounts that devices are given, by endpoint name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::lwm2m::codec::Assignment;
use crate::lwm2m::content_format::ContentFormat;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;
use lwm2m_base::identity::PskIdentity;

use super::EndpointPattern;
use super::secret::SecretBytes;

/// Stands for the endpoint name in the identity of an account.
pub(crate) const ENDPOINT_NAME: &str = "${endpoint_name}";

/// All accounts: those of single endpoint names, which come first, and those of patterns in their order.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    patterns: Arc<[PatternAccount]>,
    /// The accounts of single endpoint names, which applications published.
    endpoints: HashMap<String, Arc<Account>>,
    /// The identities whose key the accounts of single endpoint names generate, each with the number of such accounts.
    generated: HashMap<PskIdentity, usize>,
}

/// An account with the endpoint names that it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct PatternAccount {
    pub pattern: EndpointPattern,
    pub account: Arc<Account>,
}

/// The servers, keys and objects of a device, and how they are written.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Whether the session begins with Bootstrap-Discover.
    pub discover: bool,
    /// The paths that are deleted before anything is written.
    pub delete: Vec<Path>,
    /// Whether the session reads back the servers that it has written.
    pub verify: bool,
    /// The format of the written objects, if the device names none.
    pub format: Option<ContentFormat>,
    /// Whether each bootstrap generates a new key.
    pub rotate: bool,
    /// Whether secrets may be written without DTLS.
    pub allow_plaintext: bool,
    pub servers: Vec<ServerAccount>,
    pub objects: Vec<ObjectInstance>,
}

/// A server that the device registers with: one instance of the object 0 and one of the object 1.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerAccount {
    pub short_server_id: u16,
    pub uri: String,
    pub security: ServerSecurity,
    /// The instance of the object 0; `None` for the lowest that is free.
    pub security_instance: Option<u16>,
    /// The time that the device waits before it asks for bootstrap.
    pub hold_off: Option<Duration>,
    /// The time after which the device removes its bootstrap account.
    pub account_timeout: Option<Duration>,
    /// Whole seconds.
    pub lifetime: Duration,
    pub binding: String,
    pub min_period: Option<Duration>,
    pub max_period: Option<Duration>,
    pub disable_timeout: Option<Duration>,
    pub store_notifications: bool,
    /// Resources of the object 1 that devices of LwM2M 1.0 do not have.
    pub since_1_1: Vec<(u16, Value)>,
}

/// The security of the device's connection to a server.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerSecurity {
    None,
    Psk {
        identity: IdentityTemplate,
        secret: AccountSecret,
    },
    /// The public keys are SubjectPublicKeyInfo (RFC 7250), the private key is PKCS #8.
    RawPublicKey(KeyPair),
    /// The certificates are X.509 in DER, the private key is PKCS #8.
    X509(KeyPair),
}

/// The device's own public key or certificate, its private key, and the public key or certificate of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPair {
    pub own: Vec<u8>,
    pub server: Vec<u8>,
    pub private_key: SecretBytes,
}

/// A pre-shared key of an account.
#[derive(Clone, Debug, PartialEq)]
pub enum AccountSecret {
    /// Each device gets a random key of its own.
    Generated,
    Given(SecretBytes),
}

/// The identity of a pre-shared key, perhaps with the endpoint name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityTemplate(String);

/// An instance of any other object. Its values may be secrets: `Debug` shows none.
#[derive(Clone, PartialEq)]
pub struct ObjectInstance {
    pub path: Path,
    pub values: Vec<Assignment>,
}

impl Accounts {
    /// Replaces the accounts of patterns.
    pub(crate) fn set_patterns(&mut self, patterns: Vec<PatternAccount>) {
        self.patterns = patterns.into();
    }

    /// Sets or removes the account of one endpoint name.
    pub(crate) fn set_endpoint(&mut self, endpoint: &str, account: Option<Account>) {
        for identity in account.iter().flat_map(|account| account.generated_identities(endpoint)) {
            *self.generated.entry(identity).or_default() += 1;
        }
        let former = match account {
            Some(account) => self.endpoints.insert(endpoint.to_owned(), Arc::new(account)),
            None => self.endpoints.remove(endpoint),
        };
        if let Some(former) = former {
            self.generates_no_longer(endpoint, &former);
        }
    }

    /// Removes the accounts of single endpoint names that are not to be kept. Returns their endpoint names.
    pub(crate) fn retain_endpoints(&mut self, is_kept: impl Fn(&str) -> bool) -> Vec<String> {
        let removed: Vec<_> = self.endpoints.extract_if(|endpoint, _| !is_kept(endpoint)).collect();
        removed.iter().for_each(|(endpoint, account)| self.generates_no_longer(endpoint, account));
        removed.into_iter().map(|(endpoint, _)| endpoint).collect()
    }

    /// Returns whether a device may be given a generated key with this identity.
    pub fn generates(&self, identity: &PskIdentity) -> bool {
        self.generated.contains_key(identity) || self.patterns.iter().any(|account| self.gives(account, identity))
    }

    /// Returns the account of an endpoint name: its own, or else the first whose pattern matches.
    pub fn of(&self, endpoint: &str) -> Option<&Arc<Account>> {
        let first = || self.patterns.iter().find(|account| account.pattern.matches(endpoint));
        self.endpoints.get(endpoint).or_else(|| first().map(|account| &account.account))
    }

    /// Returns whether an endpoint name has an account of its own.
    pub(crate) fn has_endpoint(&self, endpoint: &str) -> bool {
        self.endpoints.contains_key(endpoint)
    }

    /// Returns the number of accounts of single endpoint names.
    pub fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// Returns whether an endpoint name has this account of a pattern, and with it a generated key with this identity.
    fn gives(&self, PatternAccount { account, .. }: &PatternAccount, identity: &PskIdentity) -> bool {
        let has_account = |endpoint: &str| self.of(endpoint).is_some_and(|of| Arc::ptr_eq(of, account));
        let gives = |template: &IdentityTemplate| match template.endpoint_of(identity) {
            Some(endpoint) => !template.has_placeholder() || has_account(endpoint),
            None => false,
        };
        account.servers.iter().filter_map(ServerAccount::generated_identity).any(gives)
    }

    fn generates_no_longer(&mut self, endpoint: &str, account: &Account) {
        for identity in account.generated_identities(endpoint) {
            let Some(count) = self.generated.get_mut(&identity) else { continue };
            *count -= 1;
            if *count == 0 {
                self.generated.remove(&identity);
            }
        }
    }
}

impl Account {
    /// Returns whether nothing in this account is secret, so that it may be written without DTLS.
    pub fn is_public(&self) -> bool {
        self.servers.iter().all(|server| server.security == ServerSecurity::None)
            && self.objects.iter().all(|object| !object.may_be_secret())
    }

    /// Returns the identities of the keys that are generated for this device.
    pub(crate) fn generated_identities(&self, endpoint: &str) -> Vec<PskIdentity> {
        self.servers.iter().filter_map(|server| server.generated_identity()?.of(endpoint)).collect()
    }

    /// Returns whether a key is generated for each device.
    pub fn generates_keys(&self) -> bool {
        self.servers.iter().any(|server| server.generated_identity().is_some())
    }
}

impl ServerAccount {
    /// Returns the identity of a key that is generated for each device.
    pub(crate) fn generated_identity(&self) -> Option<&IdentityTemplate> {
        self.key().filter(|(_, given)| given.is_none()).map(|(identity, _)| identity)
    }

    /// Returns the identity of the pre-shared key of this server, and the key itself unless it is generated.
    pub fn key(&self) -> Option<(&IdentityTemplate, Option<&SecretBytes>)> {
        match &self.security {
            ServerSecurity::Psk { identity, secret: AccountSecret::Given(secret) } => Some((identity, Some(secret))),
            ServerSecurity::Psk { identity, secret: AccountSecret::Generated } => Some((identity, None)),
            ServerSecurity::None | ServerSecurity::RawPublicKey(_) | ServerSecurity::X509(_) => None,
        }
    }

    /// Returns the identity of the pre-shared key of this server.
    pub fn identity(&self) -> Option<&IdentityTemplate> {
        self.key().map(|(identity, _)| identity)
    }
}

impl ServerSecurity {
    /// Returns the name that the configuration has for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Psk { .. } => "psk",
            Self::RawPublicKey(_) => "rpk",
            Self::X509(_) => "x509",
        }
    }
}

impl IdentityTemplate {
    /// Takes a text with at most the placeholder `${endpoint_name}`; `None` for any other placeholder.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let rest = text.replacen(ENDPOINT_NAME, "", 1);
        (!rest.contains("${")).then_some(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn has_placeholder(&self) -> bool {
        self.0.contains(ENDPOINT_NAME)
    }

    /// Returns the identity of a device; `None` if it is too long.
    pub fn of(&self, endpoint: &str) -> Option<PskIdentity> {
        PskIdentity::new(self.0.replacen(ENDPOINT_NAME, endpoint, 1).as_bytes())
    }

    /// Returns the endpoint name that makes this identity of the template; the empty text for a template without
    /// placeholder.
    pub(crate) fn endpoint_of<'i>(&self, identity: &'i PskIdentity) -> Option<&'i str> {
        match self.0.split_once(ENDPOINT_NAME) {
            Some((before, after)) => identity.as_str().strip_prefix(before)?.strip_suffix(after),
            None => (identity.as_str() == self.0).then_some(""),
        }
    }
}

impl PatternAccount {
    /// Returns whether a device with this account may be given this identity.
    pub fn gives(&self, identity: &PskIdentity) -> bool {
        let gives = |template: &IdentityTemplate| match template.endpoint_of(identity) {
            Some(endpoint) => !template.has_placeholder() || self.pattern.matches(endpoint),
            None => false,
        };
        self.account.servers.iter().filter_map(ServerAccount::identity).any(gives)
    }
}

impl ObjectInstance {
    /// Returns whether a resource of the object may be secret. The core objects except Security (0) and Firmware Update
    /// (5, whose URI may have a password), and the sensors of IPSO, have no secrets; other objects may have some.
    fn may_be_secret(&self) -> bool {
        !matches!(self.path.object(), Some(1..=4 | 6 | 7 | 3200..=3350))
    }
}

impl std::fmt::Debug for ObjectInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectInstance({} with {} values)", self.path, self.values.len())
    }
}
