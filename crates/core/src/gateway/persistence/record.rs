//! Records of devices for the store, as plain values. Times are those of the wall clock, since 1970, because a
//! monotonic clock does not outlive the machine.
//!
//! A record omits what follows from the registration and the configuration: topics, the client ID, the awake window.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bootstrap::secret::SecretBytes;
use crate::coap::{MessageId, RequestIds, Token};
use crate::command::{Echo, Origin, ResponseTopic};
use crate::lwm2m::formats::Formats;
use crate::lwm2m::path::Path;
use crate::lwm2m::register::{ObjectList, Registration};
use crate::registry::{CommandDigest, Grouping, Location};
use lwm2m_base::identity::{Identity, PskIdentity};
use lwm2m_base::secret::Secret;
use lwm2m_base::{Peer, Shard};
use lwm2m_dtls::AssociationChange;

pub use crate::gateway::bootstrap::awaited_bootstraps::{AwaitedBootstrapRecord, AwaitedCommandRecord};
pub use crate::gateway::firmware::campaign::record::CampaignRecord;
pub use crate::gateway::firmware::jobs::record::FirmwareJobRecord;

/// A change of one device, one association or one profile, for the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Replaces the record of this endpoint.
    Put(Box<DeviceRecord>),
    /// Removes the record of this endpoint in this shard.
    Remove { shard: Shard, endpoint: String },
    /// Replaces the retained commands of this endpoint; an empty list removes the record.
    RetainedCommands(RetainedCommandsRecord),
    /// Replaces the object list of a profile ID.
    Profile(ProfileRecord),
    /// Replaces or removes the generated key of an identity.
    GeneratedKey(GeneratedKeyRecord),
    /// Replaces or removes the `bootstrap` command of an endpoint, which awaits a session.
    AwaitedBootstrap(AwaitedBootstrapRecord),
    /// Replaces or removes the firmware update of an endpoint.
    FirmwareJob(FirmwareJobRecord),
    /// Replaces or removes the record of a firmware campaign, or of a device in one.
    Campaign(CampaignRecord),
    /// Changes or removes the record of a DTLS association.
    Association(AssociationChange),
}

/// The retained commands that an endpoint was sent, the oldest first, each by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedCommandsRecord {
    pub endpoint: String,
    pub commands: Vec<CommandDigest>,
}

/// The pre-shared key that the bootstrap server generated for an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedKeyRecord {
    pub identity: PskIdentity,
    /// `None`: the key is removed.
    pub keys: Option<KeyPairRecord>,
}

/// A generated key, and the one that takes its place once the device has registered with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairRecord {
    pub key: SecretBytes,
    pub next: Option<SecretBytes>,
}

/// The object list that devices of one profile ID have.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileRecord {
    /// The profile ID, behind `dtls:` or `udp:` for the protocol that the list came over.
    pub key: String,
    /// `None`: the list is not kept any more.
    pub objects: Option<ObjectList>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    pub registration: Registration,
    /// The broker asks for it when the device is connected again. Serialized as it is: the file is for the program
    /// alone.
    #[serde(with = "password")]
    pub password: Option<Secret>,
    pub location: String,
    pub peer: Peer,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityRecord>,
    #[serde(with = "milliseconds")]
    pub last_heard: Duration,
    pub observations: Vec<ObservationRecord>,
    /// The commands: the one in flight first, then the pending ones in their order.
    pub commands: Vec<CommandRecord>,
    /// The final answers that the broker may not have yet, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<AnswerRecord>,
    /// Paths that `auto_observe` has not observed yet.
    pub to_observe: Vec<Path>,
    /// The grouping of `auto_observe` requests. Records of older versions have none, which means single requests.
    #[serde(default, skip_serializing_if = "Grouping::is_single")]
    pub grouping: Grouping,
}

impl DeviceRecord {
    /// Returns the shard that the record belongs to: that of the association, which the datagrams of the device name,
    /// or over plain UDP that of the location.
    pub fn shard(&self) -> Shard {
        Location::shard_of_device(&self.location, self.peer)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObservationRecord {
    #[serde(with = "token")]
    pub token: Token,
    /// The observe command, of which each notification repeats the [`Echo`].
    pub command: Echo,
    /// The formats of its request, which a request to cancel the observation repeats. Older records have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formats: Option<Formats>,
    /// The Observe number of the newest notification, and when it came.
    pub number: u32,
    #[serde(with = "milliseconds")]
    pub at: Duration,
    /// Older records do not tell it: an application.
    #[serde(default, skip_serializing_if = "Origin::is_application")]
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandRecord {
    /// Never given to another command. A command does not change: what is kept under a serial need not be written
    /// again.
    pub serial: u64,
    #[serde(with = "milliseconds")]
    pub expires: Duration,
    /// Serialized apart from the rest of the record: it may be as large as a firmware image.
    #[serde(skip)]
    pub command: Echo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Box<ResponseTopic>>,
    /// The digest of a retained command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained: Option<CommandDigest>,
    #[serde(default, skip_serializing_if = "Origin::is_application")]
    pub origin: Origin,
    /// Set while the command is in flight: the next process sends the same message once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_as: Option<SentRequestRecord>,
}

/// A final answer that the broker may not have yet. The next process publishes it once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// Never given to another answer or command. An answer does not change: what is kept under a serial need not be
    /// written again.
    pub serial: u64,
    pub topic: String,
    pub qos: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Vec<u8>>,
    /// The JSON that is published. Serialized apart from the rest of the record: it may be large.
    #[serde(skip)]
    pub payload: String,
}

/// The names of a request that the device may have: one that it gets a second time it answers from its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentRequestRecord {
    #[serde(with = "token")]
    pub token: Token,
    pub message_id: u16,
}

impl From<RequestIds> for SentRequestRecord {
    fn from(RequestIds { token, message_id }: RequestIds) -> Self {
        Self { token, message_id: message_id.0 }
    }
}

impl From<SentRequestRecord> for RequestIds {
    fn from(SentRequestRecord { token, message_id }: SentRequestRecord) -> Self {
        Self { token, message_id: MessageId(message_id) }
    }
}

/// The authenticated identity of a device. It stays bound to the registration when its association is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityRecord {
    Psk(String),
    Certificate { common_name: Option<String>, alternative_names: Vec<String> },
    RawPublicKey { name: String },
    Unknown,
}

impl From<&Identity> for IdentityRecord {
    fn from(identity: &Identity) -> Self {
        match identity.clone() {
            Identity::Psk(identity) => Self::Psk(identity.as_str().to_owned()),
            Identity::Certificate { common_name, alternative_names } => {
                Self::Certificate { common_name, alternative_names }
            }
            Identity::RawPublicKey { name } => Self::RawPublicKey { name },
            Identity::Unknown => Self::Unknown,
        }
    }
}

impl IdentityRecord {
    pub fn into_identity(self) -> Identity {
        match self {
            // An invalid identity is bound to no device.
            Self::Psk(identity) => PskIdentity::new(identity.as_bytes()).map_or(Identity::Unknown, Identity::Psk),
            Self::Certificate { common_name, alternative_names } => {
                Identity::Certificate { common_name, alternative_names }
            }
            Self::RawPublicKey { name } => Identity::RawPublicKey { name },
            Self::Unknown => Identity::Unknown,
        }
    }
}

mod password {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(password: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
        password.as_ref().map(Secret::reveal).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
    }
}

pub(in crate::gateway) mod milliseconds {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Serializes a token as hexadecimal digits.
mod token {
    use super::*;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(token: &Token, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{token:?}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Token, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).and_then(|digit| digit.try_into().ok())).collect();
        let bytes = |digits: Vec<u8>| {
            digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
        };
        let bytes: Option<Vec<u8>> = digits.filter(|digits| digits.len() % 2 == 0).map(bytes);
        match bytes {
            Some(bytes) if bytes.len() <= Token::MAX_LENGTH => Ok(Token::new(&bytes)),
            Some(_) | None => Err(D::Error::custom(format!("{text:?} is no token"))),
        }
    }
}
