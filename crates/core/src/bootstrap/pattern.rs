//! Patterns of endpoint names.

use std::fmt;

/// A pattern of endpoint names: `*` stands for any characters, `?` for one character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPattern(String);

impl EndpointPattern {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether more than one endpoint name can match.
    pub fn has_wildcards(&self) -> bool {
        self.0.contains(['*', '?'])
    }

    /// Returns whether this endpoint name matches. The time grows with the product of both lengths at most.
    pub fn matches(&self, endpoint: &str) -> bool {
        let mut pattern = self.0.chars();
        let mut name = endpoint.chars();
        // The place behind the last star, and the place in the name where its search continues.
        let mut star = None;
        loop {
            let (mut next_pattern, mut next_name) = (pattern.clone(), name.clone());
            match (next_pattern.next(), next_name.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    star = Some((next_pattern.clone(), name.clone()));
                    pattern = next_pattern;
                }
                (Some(expected), Some(found)) if expected == '?' || expected == found => {
                    (pattern, name) = (next_pattern, next_name);
                }
                _ => {
                    // The star takes one character more.
                    let Some((behind, mut from)) = star.take() else { return false };
                    if from.next().is_none() {
                        return false;
                    }
                    (pattern, name) = (behind.clone(), from.clone());
                    star = Some((behind, from));
                }
            }
        }
    }
}

impl fmt::Display for EndpointPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_a_question_mark_for_one() {
        for (pattern, name, matches) in [
            ("*", "", true),
            ("*", "lab-7", true),
            ("lab-*", "lab-7", true),
            ("lab-*", "lab-", true),
            ("lab-*", "lib-7", false),
            ("lab-?", "lab-7", true),
            ("lab-?", "lab-77", false),
            ("lab-?", "lab-", false),
            ("*-7", "a-7-7", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("lab-7", "lab-7", true),
            ("lab-7", "Lab-7", false),
            ("", "", true),
            ("", "x", false),
            ("gerät-?", "gerät-ü", true),
        ] {
            assert_eq!(EndpointPattern::new(pattern).matches(name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        let pattern = EndpointPattern::new("*a".repeat(60) + "b");
        assert!(!pattern.matches(&"a".repeat(500)));
    }
}
