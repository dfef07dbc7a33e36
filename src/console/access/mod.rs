//! Who may use the console: the check of each request, the tokens, and the audit log of what was changed.

pub(super) mod audit;
pub(super) mod guard;
pub(super) mod session;
pub(super) mod token_uses;
pub(crate) mod tokens;
