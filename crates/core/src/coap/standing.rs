//! What the endpoint keeps of a message, by who sent it.

/// Who sends, in the eyes of the layer above: what strangers send never takes the room of those that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its messages are remembered to tell a duplicate, and its bodies put together.
    Known,
    /// The same within the share of strangers.
    Stranger,
    /// A stranger whose request may be acted on twice without harm: nothing of it is remembered.
    Fleeting,
}
