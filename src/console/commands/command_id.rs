//! The ID of a command in the API.

use serde::{Serialize, Serializer};

/// The name of a command in the API: 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommandId(pub(super) u128);

impl CommandId {
    pub(super) fn new(random: [u8; 16]) -> Self {
        Self(u128::from_ne_bytes(random))
    }

    /// Reads an ID of a path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits { u128::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl std::fmt::Display for CommandId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for CommandId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_hexadecimal_digits_both_ways() {
        let id = CommandId::new([7; 16]);
        assert_eq!(id.to_string(), "07".repeat(16));
        assert!(CommandId::parse(&id.to_string()) == Some(id));
        for wrong in ["", "7", &"07".repeat(17), &format!("+{}", "0".repeat(31)), &"g".repeat(32)] {
            assert!(CommandId::parse(wrong).is_none(), "{wrong}");
        }
    }
}
