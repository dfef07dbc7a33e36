//! The specification of a job: the package, and how the device gets it.

use lwm2m_base::secret::Secret;
use serde::{Deserialize, Serialize};

use crate::command::firmware::{JobLabel, MethodChoice};

use crate::gateway::firmware::image::{Image, ImageName};
use crate::gateway::firmware::pulls::uri::PullKey;

/// The request of an application, which the gateway keeps over a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::gateway) struct JobSpec {
    pub label: JobLabel,
    /// The secret in the URI of a pull.
    pub key: PullKey,
    /// The instance of the Firmware Update object.
    pub instance: u16,
    pub package: Package,
    pub method: MethodChoice,
    pub activate: bool,
    pub version: Option<String>,
    /// Bytes of a block of a push; `None` for `coap.block_size`.
    pub block_size: Option<u16>,
    pub attempts: u32,
}

/// The package of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::gateway) enum Package {
    Image {
        name: ImageName,
        image: Image,
    },
    /// A URI that is not of this gateway. It may contain a password.
    Uri(#[serde(with = "secret")] Secret),
}

impl JobSpec {
    /// Returns the image of this gateway that the job is about.
    pub(crate) fn image(&self) -> Option<&Image> {
        match &self.package {
            Package::Image { image, .. } => Some(image),
            Package::Uri(_) => None,
        }
    }
}

/// Serializes a secret for the store, which is for the program alone.
mod secret {
    use lwm2m_base::secret::Secret;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        secret.reveal().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}
