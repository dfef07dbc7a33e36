//! The reasons why a request of ours, or the body of a notification, failed although the device answered.

use thiserror::Error;

use super::{BlockError, Code, MessageDecodeError};

/// The reason why the answer of a device cannot be used. The text is for the application that waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ExchangeError {
    #[error(transparent)]
    Transfer(#[from] BlockError),
    /// The whole body was fetched, because some devices take no other request before, and nothing of it was kept.
    #[error(
        "the body is larger than the limit: it has {size} bytes, coap.received_body_size is {limit}; it was fetched \
         to its end and discarded"
    )]
    Discarded { size: usize, limit: usize },
    /// The header and the token name the answered request; the rest cannot be read.
    #[error("the answer of the device is not a well-formed CoAP message: {0}")]
    Malformed(MessageDecodeError),
    /// RFC 7252 section 5.4.1: such a response has to be rejected.
    #[error("the answer of the device has the critical option {0}, which the gateway does not support")]
    CriticalOption(u16),
    /// An acknowledgement with the code of a request, or a reset with any code (RFC 7252 section 4.2).
    #[error("the answer of the device has the code {0}, which is not the code of a response")]
    NotAResponse(Code),
}

impl ExchangeError {
    /// Returns the error of the block-wise transfer, if a transfer is what failed.
    pub fn transfer(self) -> Option<BlockError> {
        match self {
            Self::Transfer(error) => Some(error),
            Self::Discarded { .. } => Some(BlockError::TooLarge),
            Self::Malformed(_) | Self::CriticalOption(_) | Self::NotAResponse(_) => None,
        }
    }
}
