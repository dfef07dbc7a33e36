//! The documents that the API answers with.

use serde_json::Value;

/// A JSON answer: its text, and what it says.
pub(crate) struct Document {
    pub text: String,
    pub value: Value,
}
