//! Stores a list of texts in two allocations, so that a list of links occupies hardly more than its own bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    /// Concatenates all texts.
    text: String,
    /// Holds the end of each text.
    ends: Vec<u32>,
}

impl Texts {
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(u32::try_from(self.text.len()).expect("a message has less than 4 GiB"));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.text[begin as usize..*end as usize])
    }

    /// Returns the number of bytes that the list occupies.
    pub(super) fn size(&self) -> usize {
        self.text.len() + size_of::<u32>() * self.ends.len()
    }

    /// Releases the spare capacity.
    pub(crate) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut list = Self::default();
        texts.into_iter().for_each(|text| list.push(text.as_ref()));
        list.shrink();
        list
    }
}

/// Serializes as a list of texts.
impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<String>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_out_as_they_went_in() {
        let texts: Texts = ["/1/0", "", "/ä", "a,b"].iter().collect();
        assert_eq!(texts.iter().collect::<Vec<_>>(), ["/1/0", "", "/ä", "a,b"]);
        assert_eq!(texts.size(), 4 + 3 + 3 + 4 * 4);
        let json = serde_json::to_string(&texts).unwrap();
        assert_eq!(json, r#"["/1/0","","/ä","a,b"]"#);
        assert_eq!(serde_json::from_str::<Texts>(&json).unwrap(), texts);
        assert_eq!(Texts::default().iter().count(), 0);
    }
}
