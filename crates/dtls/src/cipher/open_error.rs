//! The reasons why a record cannot be opened.

use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordOpenError {
    /// The record was not made with the keys of the association.
    #[error("the record is not authentic")]
    Forged,
    /// A peer that has the keys made the record, and broke the rules of its format.
    #[error("the record is authentic and malformed")]
    Invalid,
}
