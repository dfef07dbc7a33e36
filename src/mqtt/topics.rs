//! Topics and client texts with placeholders, parsed once.

use std::net::IpAddr;

use thiserror::Error;

/// A text with placeholders: `lwm2m/${endpoint_name}/`; `%e` and `%a` are `${endpoint_name}` and `${peerhost}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("unknown placeholder {0:?}")]
    Unknown(String),
}

/// What the placeholders stand for. What is missing is empty.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    pub endpoint_name: &'a str,
    pub clientid: &'a str,
    pub username: &'a str,
    pub imei: Option<&'a str>,
    pub peerhost: IpAddr,
    pub psk_identity: Option<&'a str>,
    pub cert_cn: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translator {
    pub topic: Template,
    pub qos: u8,
}

/// The topics of all devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translators {
    pub mountpoint: Template,
    pub command: Translator,
    pub response: Translator,
    pub notify: Translator,
    pub register: Translator,
    pub update: Translator,
}

/// A topic of one device, and its quality of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub qos: u8,
}

/// The topics of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    pub command: Topic,
    pub response: Topic,
    pub notify: Topic,
    pub register: Topic,
    pub update: Topic,
}

/// What a device may not put into a topic: `+`, `#`, `/`, NUL, or too much.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TopicError(pub String);

impl Template {
    /// Takes the placeholders of topics: `${endpoint_name}`, `${clientid}`, `${username}`, `${imei}`, `${peerhost}`, `%e`, `%a`.
    pub fn for_topic(text: &str) -> Result<Self, TemplateError> {
        todo!()
    }

    /// Takes those, and `${psk_identity}`, `${cert_cn}`.
    pub fn for_client(text: &str) -> Result<Self, TemplateError> {
        todo!()
    }

    pub fn render(&self, names: Names<'_>) -> String {
        todo!()
    }
}

impl Translators {
    /// The topics of the device with these names.
    pub fn topics(&self, names: Names<'_>) -> Result<Topics, TopicError> {
        todo!()
    }
}
