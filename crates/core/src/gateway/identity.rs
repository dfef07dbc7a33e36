//! The rule that ties endpoint names to DTLS identities (`dtls.identity`).

use std::str::FromStr;

use thiserror::Error;

use lwm2m_base::identity::{Identity, PskIdentity};

const PLACEHOLDER: &str = "${endpoint_name}";

/// Says which identity an endpoint name requires. For a certificate it is enough that one of its names matches: the CN,
/// or an alternative name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdentityRule {
    /// Any identity may use any endpoint name.
    None,
    /// The identity has to be equal to the endpoint name.
    #[default]
    Equals,
    /// The identity has to be the pattern with the endpoint name in it.
    Pattern(Pattern),
}

/// A text around an endpoint name, such as `device-${endpoint_name}.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    before: String,
    after: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the text has to have ${{endpoint_name}} in it once, and no other placeholder")]
pub struct PatternError;

impl IdentityRule {
    /// Returns the endpoint names that this identity stands for: none under [`IdentityRule::None`].
    pub(crate) fn endpoints_of<'i>(&self, identity: &'i Identity) -> impl Iterator<Item = &'i str> {
        names(identity).filter_map(|name| self.endpoint_of(name))
    }

    /// Returns the endpoint name that this identity stands for: the first, if it stands for several.
    pub(crate) fn endpoint_named_by<'i>(&self, identity: Option<&'i Identity>) -> Option<&'i str> {
        self.endpoints_of(identity?).next()
    }

    /// Returns whether this identity may use this endpoint name.
    pub fn allows(&self, identity: &Identity, endpoint: &str) -> bool {
        match self {
            Self::None => true,
            Self::Equals | Self::Pattern(_) => self.endpoints_of(identity).any(|named| named == endpoint),
        }
    }

    /// Returns the pre-shared key identity that stands for this endpoint name; `None` under [`IdentityRule::None`].
    pub fn identity_of(&self, endpoint: &str) -> Option<PskIdentity> {
        match self {
            Self::None => None,
            Self::Equals => PskIdentity::new(endpoint.as_bytes()),
            Self::Pattern(Pattern { before, after }) => PskIdentity::new([before, endpoint, after].concat().as_bytes()),
        }
    }

    fn endpoint_of<'i>(&self, name: &'i str) -> Option<&'i str> {
        match self {
            Self::None => None,
            Self::Equals => Some(name),
            Self::Pattern(Pattern { before, after }) => {
                name.strip_prefix(before.as_str())?.strip_suffix(after.as_str())
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (before, after) = text.split_once(PLACEHOLDER).ok_or(PatternError)?;
        if before.contains("${") || after.contains("${") {
            return Err(PatternError);
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }
}

/// Returns all names of an identity, the most specific one first.
pub(super) fn names(identity: &Identity) -> impl Iterator<Item = &str> {
    let (name, others) = match identity {
        Identity::Psk(identity) => (Some(identity.as_str()), &[] as &[String]),
        Identity::Certificate { common_name, alternative_names } => {
            (common_name.as_deref(), alternative_names.as_slice())
        }
        Identity::RawPublicKey { name } => (Some(name.as_str()), &[] as &[String]),
        Identity::Unknown => (None, &[] as &[String]),
    };
    name.into_iter().chain(others.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn psk(name: &str) -> Identity {
        Identity::Psk(PskIdentity::new(name.as_bytes()).unwrap())
    }

    fn certificate(common_name: Option<&str>, others: &[&str]) -> Identity {
        Identity::Certificate {
            common_name: common_name.map(str::to_owned),
            alternative_names: others.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn pattern(text: &str) -> IdentityRule {
        IdentityRule::Pattern(text.parse().unwrap())
    }

    #[test]
    fn an_identity_that_has_to_equal_the_endpoint_name_names_it() {
        let rule = IdentityRule::Equals;
        assert!(rule.allows(&psk("dev-7"), "dev-7"));
        assert!(!rule.allows(&psk("dev-7"), "dev-70") && !rule.allows(&psk("dev-7"), "Dev-7"));
        assert_eq!(rule.endpoints_of(&psk("dev-7")).collect::<Vec<_>>(), ["dev-7"]);
    }

    #[test]
    fn a_pattern_stands_around_the_endpoint_name() {
        let rule = pattern("lwm2m-${endpoint_name}.example");
        assert!(rule.allows(&psk("lwm2m-dev-7.example"), "dev-7"));
        for wrong in ["dev-7", "lwm2m-dev-7", "lwm2m-dev-8.example", "lwm2m.example"] {
            assert!(!rule.allows(&psk(wrong), "dev-7"), "{wrong}");
        }
        // What stands before and behind may not overlap.
        assert_eq!(pattern("aba${endpoint_name}ba").endpoints_of(&psk("aba")).count(), 0);
        assert!("fixed".parse::<Pattern>().is_err());
        assert!("${endpoint_name}${endpoint_name}".parse::<Pattern>().is_err());
        assert!("${imei}${endpoint_name}".parse::<Pattern>().is_err());
    }

    #[test]
    fn an_endpoint_name_tells_the_identity_that_stands_for_it() {
        let of = |rule: IdentityRule, endpoint: &str| rule.identity_of(endpoint).map(|own| own.as_str().to_owned());
        assert_eq!(of(IdentityRule::Equals, "dev-7").as_deref(), Some("dev-7"));
        assert_eq!(of(pattern("lwm2m-${endpoint_name}.example"), "dev-7").as_deref(), Some("lwm2m-dev-7.example"));
        assert_eq!(of(IdentityRule::None, "dev-7"), None);
        assert_eq!(of(IdentityRule::Equals, ""), None);
    }

    #[test]
    fn a_certificate_may_use_each_of_its_names() {
        let identity = certificate(Some("dev-7"), &["urn:imei:7", "seven.example"]);
        for name in ["dev-7", "urn:imei:7", "seven.example"] {
            assert!(IdentityRule::Equals.allows(&identity, name), "{name}");
        }
        assert!(!IdentityRule::Equals.allows(&identity, "dev-8"));
        let nameless = certificate(None, &["urn:imei:7"]);
        assert_eq!(IdentityRule::Equals.endpoints_of(&nameless).collect::<Vec<_>>(), ["urn:imei:7"]);
    }

    #[test]
    fn who_proved_nothing_has_a_name_only_where_names_are_free() {
        assert!(!IdentityRule::Equals.allows(&Identity::Unknown, "dev-7"));
        assert!(IdentityRule::None.allows(&Identity::Unknown, "dev-7"));
        assert_eq!(IdentityRule::None.endpoints_of(&psk("dev-7")).count(), 0);
    }
}
