//! The reasons why a record cannot be opened.

use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordOpenError {
    /// Nobody who has the keys made the record.
    #[error("the record is not authentic")]
    Forged,
    /// A peer that has the keys made the record, and broke the rules of its format.
    #[error("the record is authentic and malformed")]
    Invalid,
}
