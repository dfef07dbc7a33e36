//! Parses topics and client texts with placeholders, once.

use std::net::IpAddr;

use thiserror::Error;

use crate::registry::{Topic, TopicEnds, Topics};

/// Limits the bytes of a topic, because the length of an MQTT text is a number of two bytes (MQTT 5 section 1.5.4).
const MAX_TOPIC: usize = 65_535;

/// Holds a text with placeholders such as `lwm2m/${endpoint_name}/`. `%e` and `%a` stand for `${endpoint_name}` and
/// `${peerhost}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(Placeholder),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    EndpointName,
    ClientId,
    Username,
    Imei,
    PeerHost,
    PskIdentity,
    CertCn,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("unknown placeholder {placeholder:?}; expected one of {allowed}")]
    Unknown { placeholder: String, allowed: String },
    #[error("the placeholder {0:?} has no end")]
    Open(String),
}

/// Holds the values of the placeholders. A missing value is replaced by an empty text.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    pub endpoint_name: &'a str,
    pub clientid: &'a str,
    pub username: &'a str,
    pub imei: Option<&'a str>,
    pub peerhost: IpAddr,
    pub psk_identity: Option<&'a str>,
    pub cert_cn: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translator {
    pub topic: Template,
    pub qos: u8,
}

/// Holds the topic templates that all devices share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translators {
    pub mountpoint: Template,
    /// A topic filter, so that its own text may contain wildcards.
    pub command: Translator,
    pub response: Translator,
    pub notify: Translator,
    /// `None` if Send is disabled.
    pub send: Option<Translator>,
    pub register: Translator,
    pub update: Translator,
    /// The events of firmware updates.
    pub firmware: Translator,
    /// `None` if the presence of devices is not published.
    pub status: Option<Translator>,
}

/// The default topic of Sends, if they are enabled.
pub const SEND_TOPIC: &str = "up/send";
/// The default topic of presence messages, if they are enabled.
pub const STATUS_TOPIC: &str = "up/status";

impl Default for Translators {
    fn default() -> Self {
        let template = |text| Template::for_topic(text).expect("a default is a template");
        let translator = |topic| Translator { topic: template(topic), qos: 0 };
        Self {
            mountpoint: template("lwm2m/${endpoint_name}/"),
            command: translator("dn/#"),
            response: translator("up/resp"),
            notify: translator("up/notify"),
            send: Some(translator(SEND_TOPIC)),
            register: translator("up/resp"),
            update: translator("up/resp"),
            firmware: translator("up/firmware"),
            status: None,
        }
    }
}

/// Explains why the names of a device cannot be put into its topics: they contain `+`, `#`, `/`, a `$` at the
/// beginning, too many bytes, or a character that no MQTT text may contain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TopicError(pub String);

impl Template {
    /// Parses a template with the placeholders of topics: `${endpoint_name}`, `${clientid}`, `${username}`, `${imei}`,
    /// `${peerhost}`, `%e`, `%a`.
    pub fn for_topic(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text, Placeholder::OF_TOPICS)
    }

    /// Parses a template with those placeholders and `${psk_identity}`, `${cert_cn}`.
    pub fn for_client(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text, Placeholder::ALL)
    }

    pub fn render(&self, names: Names<'_>) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(own) => text.push_str(own),
                Part::Placeholder(placeholder) => text.push_str(&placeholder.value(names)),
            }
        }
        text
    }

    /// Returns whether the text beside the placeholders contains `+` or `#`, which a filter may have and a topic to
    /// publish to may not.
    pub fn has_wildcard(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Text(text) if text.contains(['+', '#'])))
    }

    fn parse(text: &str, allowed: &[Placeholder]) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['$', '%']) {
            let (before, here) = rest.split_at(at);
            push_text(&mut parts, before);
            let length = written_length(here)?;
            let (written, behind) = here.split_at(length);
            if length == 1 {
                push_text(&mut parts, written);
            } else {
                let found = allowed.iter().find(|placeholder| placeholder.is_written(written));
                parts.push(Part::Placeholder(*found.ok_or_else(|| unknown(written, allowed))?));
            }
            rest = behind;
        }
        push_text(&mut parts, rest);
        Ok(Self { parts })
    }

    /// Returns the first level of the topic if no placeholder is part of it.
    fn fixed_first_level(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => text.split('/').next(),
            [Part::Text(text), ..] => text.split_once('/').map(|(first, _)| first),
            [Part::Placeholder(_), ..] | [] => None,
        }
    }

    /// Returns this template followed by another one.
    fn followed_by(&self, next: &Self) -> Self {
        let mut parts = self.parts.clone();
        for part in &next.parts {
            match part {
                Part::Text(text) => push_text(&mut parts, text),
                Part::Placeholder(_) => parts.push(part.clone()),
            }
        }
        Self { parts }
    }

    /// Fills in the names. They must not change the levels of the topic.
    fn check_values(&self, names: Names<'_>) -> Result<(), TopicError> {
        for part in &self.parts {
            let Part::Placeholder(placeholder) = part else { continue };
            if placeholder.value(names).contains(['+', '#', '/']) {
                return Err(TopicError(format!("{} holds '+', '#' or '/'", placeholder.name())));
            }
        }
        Ok(())
    }
}

impl Translators {
    /// Returns the topics of the device with these names.
    pub fn topics(&self, names: Names<'_>) -> Result<Topics, TopicError> {
        self.mountpoint.check_values(names)?;
        let mountpoint = self.mountpoint.render(names);
        let end = |translator: &Translator| {
            translator.topic.check_values(names)?;
            let end = translator.topic.render(names);
            let name = [mountpoint.as_str(), &end].concat();
            self.check_beginning(translator, &name)?;
            if name.is_empty() || name.len() > MAX_TOPIC {
                return Err(TopicError(format!("a topic of {} bytes; 1 to {MAX_TOPIC} are allowed", name.len())));
            }
            check_text("a topic", &name)?;
            Ok(Topic { name: end, qos: translator.qos })
        };
        let ends = TopicEnds {
            command: end(&self.command)?,
            response: end(&self.response)?,
            notify: end(&self.notify)?,
            send: self.send.as_ref().map(end).transpose()?,
            register: end(&self.register)?,
            update: end(&self.update)?,
            firmware: end(&self.firmware)?,
            status: self.status.as_ref().map(end).transpose()?,
        };
        Ok(Topics::new(mountpoint, ends))
    }

    /// Rejects a topic that begins with `$` by the device's names. Such a topic means something else to the broker:
    /// `$share/GROUP/FILTER` subscribes the topics of other devices (MQTT 5 section 4.8.2), `$SYS` belongs to the
    /// broker (section 4.7.2). A template may have such a first level of its own.
    fn check_beginning(&self, translator: &Translator, topic: &str) -> Result<(), TopicError> {
        let own = || self.mountpoint.followed_by(&translator.topic).fixed_first_level().is_some();
        if topic.starts_with('$') && !own() {
            return Err(TopicError("a topic would begin with '$'".to_owned()));
        }
        Ok(())
    }
}

/// Rejects a text that a broker may not accept. The broker would close the connection instead of rejecting the text.
pub(crate) fn check_text(what: &str, text: &str) -> Result<(), TopicError> {
    if is_allowed(text) {
        return Ok(());
    }
    Err(TopicError(format!("{what} holds a control character, or another one that MQTT does not allow")))
}

/// Returns whether every broker accepts the text by its length and its characters. Control characters and
/// non-characters are not accepted (MQTT 5 section 1.5.4).
pub(crate) fn is_allowed(text: &str) -> bool {
    let is_noncharacter = |code: u32| code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code);
    text.len() <= MAX_TOPIC
        && !text.chars().any(|character| character.is_control() || is_noncharacter(character.into()))
}

impl Placeholder {
    const ALL: &[Placeholder] = &[
        Self::EndpointName,
        Self::ClientId,
        Self::Username,
        Self::Imei,
        Self::PeerHost,
        Self::PskIdentity,
        Self::CertCn,
    ];
    const OF_TOPICS: &[Placeholder] = &[Self::EndpointName, Self::ClientId, Self::Username, Self::Imei, Self::PeerHost];

    const fn name(self) -> &'static str {
        match self {
            Self::EndpointName => "${endpoint_name}",
            Self::ClientId => "${clientid}",
            Self::Username => "${username}",
            Self::Imei => "${imei}",
            Self::PeerHost => "${peerhost}",
            Self::PskIdentity => "${psk_identity}",
            Self::CertCn => "${cert_cn}",
        }
    }

    /// Returns the placeholder that EMQX's first LwM2M gateway had.
    const fn short_name(self) -> Option<&'static str> {
        match self {
            Self::EndpointName => Some("%e"),
            Self::PeerHost => Some("%a"),
            Self::ClientId | Self::Username | Self::Imei | Self::PskIdentity | Self::CertCn => None,
        }
    }

    fn is_written(self, text: &str) -> bool {
        self.name() == text || self.short_name() == Some(text)
    }

    fn value(self, names: Names<'_>) -> std::borrow::Cow<'_, str> {
        match self {
            Self::EndpointName => names.endpoint_name.into(),
            Self::ClientId => names.clientid.into(),
            Self::Username => names.username.into(),
            Self::Imei => names.imei.unwrap_or_default().into(),
            Self::PeerHost => names.peerhost.to_string().into(),
            Self::PskIdentity => names.psk_identity.unwrap_or_default().into(),
            Self::CertCn => names.cert_cn.unwrap_or_default().into(),
        }
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        Some(Part::Placeholder(_)) | None => parts.push(Part::Text(text.to_owned())),
    }
}

/// Returns the length in bytes of the placeholder at the beginning, or 1 for a `$` or `%` that stands for itself.
fn written_length(text: &str) -> Result<usize, TemplateError> {
    if text.starts_with("${") {
        return text.find('}').map(|end| end + 1).ok_or_else(|| TemplateError::Open(text.to_owned()));
    }
    let letter = text.as_bytes().get(1).is_some_and(u8::is_ascii_alphabetic);
    Ok(if text.starts_with('%') && letter { 2 } else { 1 })
}

fn unknown(placeholder: &str, allowed: &[Placeholder]) -> TemplateError {
    let names = allowed.iter().map(|placeholder| placeholder.name());
    let short = allowed.iter().filter_map(|placeholder| placeholder.short_name());
    let allowed: Vec<_> = names.chain(short).collect();
    TemplateError::Unknown { placeholder: placeholder.to_owned(), allowed: allowed.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'static> = Names {
        endpoint_name: "dev-7",
        clientid: "c7",
        username: "u7",
        imei: Some("990000862471854"),
        peerhost: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
        psk_identity: Some("psk-7"),
        cert_cn: None,
    };

    fn translators(mountpoint: &str, command: &str, response: &str) -> Translators {
        let translator = |topic| Translator { topic: Template::for_topic(topic).unwrap(), qos: 0 };
        Translators {
            mountpoint: Template::for_topic(mountpoint).unwrap(),
            command: Translator { qos: 1, ..translator(command) },
            response: translator(response),
            notify: translator("up/notify"),
            send: None,
            register: translator("up/resp"),
            update: translator("up/resp"),
            firmware: translator("up/firmware"),
            status: None,
        }
    }

    #[test]
    fn a_topic_is_the_mountpoint_and_the_translator_joined_as_text() {
        let topics = translators("lwm2m/${endpoint_name}/", "dn/#", "up/resp").topics(NAMES).unwrap();
        assert_eq!(topics.command(), Topic { name: "lwm2m/dev-7/dn/#".into(), qos: 1 });
        assert_eq!(topics.response(), Topic { name: "lwm2m/dev-7/up/resp".into(), qos: 0 });
        assert_eq!(topics.notify().name, "lwm2m/dev-7/up/notify");
    }

    #[test]
    fn every_placeholder_has_its_value_in_both_spellings() {
        let text = "%e ${endpoint_name} ${clientid} ${username} ${imei} %a ${peerhost}";
        let rendered = Template::for_topic(text).unwrap().render(NAMES);
        assert_eq!(rendered, "dev-7 dev-7 c7 u7 990000862471854 192.0.2.7 192.0.2.7");
        assert_eq!(Template::for_client("${psk_identity}|${cert_cn}").unwrap().render(NAMES), "psk-7|");
    }

    #[test]
    fn a_sign_that_begins_no_placeholder_stands_for_itself() {
        assert_eq!(Template::for_topic("$a/50%/$").unwrap().render(NAMES), "$a/50%/$");
    }

    #[test]
    fn an_unknown_placeholder_is_named_with_those_that_are_allowed() {
        for (text, unknown) in [("a/${zone}/b", "${zone}"), ("%u", "%u"), ("${psk_identity}", "${psk_identity}")] {
            let error = Template::for_topic(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{unknown:?}")), "{error}");
            assert!(
                error.contains("${endpoint_name}, ${clientid}, ${username}, ${imei}, ${peerhost}, %e, %a"),
                "{error}"
            );
        }
        assert_eq!(Template::for_topic("a/${imei"), Err(TemplateError::Open("${imei".into())));
    }

    #[test]
    fn a_device_cannot_change_the_levels_of_its_topics() {
        let translators = translators("lwm2m/%e/", "dn/#", "up/resp");
        for name in ["a/b", "a+", "#", "a\0"] {
            assert!(translators.topics(Names { endpoint_name: name, ..NAMES }).is_err(), "{name:?}");
        }
        assert!(translators.topics(Names { clientid: "a/b", ..NAMES }).is_ok());
        assert!(translators.topics(Names { endpoint_name: &"x".repeat(65_530), ..NAMES }).is_err());
    }

    /// MQTT 5 section 1.5.4: a broker may close the connection for them.
    #[test]
    fn a_device_cannot_put_into_a_topic_what_a_broker_may_not_take() {
        let translators = translators("lwm2m/%e/", "dn/#", "up/resp");
        for code in [0, 1, 0x0a, 0x1f, 0x7f, 0x80, 0x9f, 0xfdd0, 0xfdef, 0xfffe, 0xffff, 0x1_fffe, 0x10_ffff] {
            let name = format!("a{}", char::from_u32(code).unwrap());
            assert!(translators.topics(Names { endpoint_name: &name, ..NAMES }).is_err(), "{name:?}");
            assert!(!is_allowed(&name) && check_text("the clientid", &name).is_err(), "{name:?}");
        }
        for name in ["a b", "é\u{a0}", "\u{fdcf}\u{fdf0}\u{fffd}", "\u{1f600}", "\u{feff}"] {
            assert!(translators.topics(Names { endpoint_name: name, ..NAMES }).is_ok(), "{name:?}");
        }
        assert!(is_allowed(&"x".repeat(65_535)) && !is_allowed(&"x".repeat(65_536)));
    }

    #[test]
    fn a_device_cannot_make_a_topic_that_begins_with_a_dollar_sign() {
        let refused = |mountpoint: &str, command: &str, name: &str| {
            translators(mountpoint, command, "up/resp").topics(Names { endpoint_name: name, ..NAMES }).is_err()
        };
        for name in ["$share", "$SYS", "$queue", "$"] {
            assert!(refused("${endpoint_name}/", "dn/#", name), "{name}");
            assert!(!refused("${imei}${endpoint_name}/", "dn/#", name), "an IMEI stands in front of {name}");
            assert!(refused("", "${endpoint_name}/dn", name), "{name}");
            assert!(!refused("lwm2m/${endpoint_name}/", "dn/#", name), "{name} is not at the beginning");
        }
        assert!(refused("$${endpoint_name}/", "g/dn/#", "share"));
        assert!(refused("$sh${endpoint_name}/", "g/dn/#", "are"));
    }

    #[test]
    fn a_device_without_an_imei_cannot_begin_a_topic_with_a_dollar_sign() {
        let names = Names { imei: None, endpoint_name: "$share", ..NAMES };
        assert!(translators("${imei}${endpoint_name}/", "dn/#", "up/resp").topics(names).is_err());
        // The text behind a placeholder is not the beginning of the template.
        assert!(translators("${imei}", "$share/g/dn", "up/resp").topics(Names { imei: None, ..NAMES }).is_err());
    }

    #[test]
    fn a_template_may_begin_with_a_level_of_its_own_that_has_a_dollar_sign() {
        let topics = translators("$lwm2m/${endpoint_name}/", "dn/#", "up/resp").topics(NAMES).unwrap();
        assert_eq!(topics.command().name, "$lwm2m/dev-7/dn/#");
        let split = translators("$lwm2m", "/${endpoint_name}/dn", "/up").topics(NAMES).unwrap();
        assert_eq!((split.command().name.as_str(), split.response().name.as_str()), ("$lwm2m/dev-7/dn", "$lwm2m/up"));
    }

    #[test]
    fn a_wildcard_of_the_template_is_seen() {
        assert!(Template::for_topic("dn/#").unwrap().has_wildcard());
        assert!(!Template::for_topic("up/%e").unwrap().has_wildcard());
    }
}
