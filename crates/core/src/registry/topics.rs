//! The topics of a device. [`crate::mqtt::topics`] makes them from templates.

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
    /// `None` if Send is disabled.
    pub send: Option<Topic>,
    pub register: Topic,
    pub update: Topic,
    pub status: Option<Topic>,
}
