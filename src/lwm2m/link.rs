//! The link format (RFC 6690): object lists of registrations, and answers to discover.

use std::borrow::Cow;

use smallvec::SmallVec;
use thiserror::Error;

/// More links than any device has; a longer list is refused.
const MAX_LINKS: usize = 4096;
const MAX_ATTRIBUTES: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// What stands between `<` and `>`.
    pub target: &'a str,
    pub attributes: SmallVec<[Attribute<'a>; 2]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub name: &'a str,
    /// Without quotation marks and escapes; an attribute may have none.
    pub value: Option<Cow<'a, str>>,
}

/// Why a text is no list of links. Positions count bytes from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    #[error("the link list is not UTF-8")]
    NotText,
    #[error("a link begins with '<', byte {0} does not")]
    NoTarget(usize),
    #[error("the target that begins at byte {0} has no end")]
    OpenTarget(usize),
    #[error("an attribute without a name at byte {0}")]
    NoName(usize),
    #[error("an attribute value is missing at byte {0}")]
    NoValue(usize),
    #[error("the quoted text that begins at byte {0} has no end")]
    OpenQuote(usize),
    #[error("neither ',' nor ';' behind a link at byte {0}")]
    NoSeparator(usize),
    #[error("more than {MAX_LINKS} links or {MAX_ATTRIBUTES} attributes of one")]
    TooMany,
}

impl<'a> Link<'a> {
    /// The value of the first attribute of this name; names are the same in any case.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(name))?.value.as_deref()
    }
}

/// Reads a list of links. An empty text is the empty list.
pub fn parse(payload: &[u8]) -> Result<Vec<Link<'_>>, LinkError> {
    Ok(read(payload)?.into_iter().map(|(link, _)| link).collect())
}

/// The links as they are written, without the commas between them.
pub fn split(payload: &[u8]) -> Result<Vec<&str>, LinkError> {
    Ok(read(payload)?.into_iter().map(|(_, text)| text).collect())
}

/// Each link with its own text.
fn read(payload: &[u8]) -> Result<Vec<(Link<'_>, &str)>, LinkError> {
    let text = std::str::from_utf8(payload).map_err(|_| LinkError::NotText)?;
    let mut cursor = Cursor { text, at: 0 };
    let mut links = Vec::new();
    cursor.skip_blanks();
    if cursor.is_at_end() {
        return Ok(links);
    }
    loop {
        cursor.skip_blanks();
        let begin = cursor.at;
        let (link, end) = cursor.link()?;
        if links.len() == MAX_LINKS {
            return Err(LinkError::TooMany);
        }
        links.push((link, &text[begin..end]));
        if cursor.is_at_end() {
            return Ok(links);
        }
        if !cursor.take(b',') {
            return Err(LinkError::NoSeparator(cursor.at));
        }
    }
}

/// Walks over the text. `at` is always at the boundary of a character: all that it stops at or steps over is ASCII, or a
/// whole character.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// One link with its attributes, and where its own text ends.
    fn link(&mut self) -> Result<(Link<'a>, usize), LinkError> {
        let target = self.target()?;
        let mut attributes = SmallVec::new();
        let mut end = self.at;
        self.skip_blanks();
        while self.take(b';') {
            self.skip_blanks();
            if attributes.len() == MAX_ATTRIBUTES {
                return Err(LinkError::TooMany);
            }
            attributes.push(self.attribute()?);
            end = self.at;
            self.skip_blanks();
        }
        Ok((Link { target, attributes }, end))
    }

    fn target(&mut self) -> Result<&'a str, LinkError> {
        let begin = self.at;
        if !self.take(b'<') {
            return Err(LinkError::NoTarget(begin));
        }
        let target = self.until(|byte| byte == b'>');
        if self.take(b'>') { Ok(target) } else { Err(LinkError::OpenTarget(begin)) }
    }

    fn attribute(&mut self) -> Result<Attribute<'a>, LinkError> {
        let name = self.until(|byte| matches!(byte, b'=' | b';' | b',' | b' ' | b'\t' | b'\r' | b'\n' | b'"'));
        if name.is_empty() {
            return Err(LinkError::NoName(self.at));
        }
        let value = if self.take(b'=') { Some(self.value()?) } else { None };
        Ok(Attribute { name, value })
    }

    fn value(&mut self) -> Result<Cow<'a, str>, LinkError> {
        if self.peek() == Some(b'"') {
            return self.quoted();
        }
        let value = self.until(|byte| matches!(byte, b';' | b',' | b' ' | b'\t' | b'\r' | b'\n' | b'"'));
        if value.is_empty() { Err(LinkError::NoValue(self.at)) } else { Ok(Cow::Borrowed(value)) }
    }

    /// RFC 2616 section 2.2: a backslash takes the character behind it as it is.
    fn quoted(&mut self) -> Result<Cow<'a, str>, LinkError> {
        let begin = self.at;
        self.take(b'"');
        let mut value = Cow::Borrowed(self.until(|byte| matches!(byte, b'"' | b'\\')));
        while self.take(b'\\') {
            let Some(escaped) = self.text[self.at..].chars().next() else { break };
            self.at += escaped.len_utf8();
            value.to_mut().push(escaped);
            value.to_mut().push_str(self.until(|byte| matches!(byte, b'"' | b'\\')));
        }
        if self.take(b'"') { Ok(value) } else { Err(LinkError::OpenQuote(begin)) }
    }

    fn skip_blanks(&mut self) {
        self.until(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
    }

    /// The text up to an ASCII byte that ends it, or to the end.
    fn until(&mut self, ends: impl Fn(u8) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let length = rest.bytes().position(ends).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn targets(text: &str) -> Result<Vec<String>, LinkError> {
        Ok(parse(text.as_bytes())?.into_iter().map(|link| link.target.to_owned()).collect())
    }

    #[test]
    fn links_stand_between_commas_with_or_without_blanks() {
        assert_eq!(targets("</1/0>, </3/0>,</5>"), Ok(vec!["/1/0".into(), "/3/0".into(), "/5".into()]));
        assert_eq!(targets(""), Ok(vec![]));
        assert_eq!(targets(" "), Ok(vec![]));
    }

    #[test]
    fn a_quoted_text_may_hold_commas_semicolons_and_escapes() {
        let text = r#"</>;rt="oma.lwm2m";title="a,b;c \"d\\ é";obs,</1>;ver=1.1"#;
        let links = parse(text.as_bytes()).unwrap();
        assert_eq!(links.len(), 2);
        assert_eq!(links[0].attribute("RT"), Some("oma.lwm2m"));
        assert_eq!(links[0].attribute("title"), Some(r#"a,b;c "d\ é"#));
        assert_eq!(links[0].attribute("obs"), None);
        assert_eq!(links[0].attributes.len(), 3);
        assert_eq!(links[1].attribute("ver"), Some("1.1"));
    }

    #[test]
    fn links_are_split_as_they_are_written() {
        let text = r#"</3/0/9>;pmin=5;pmax=90 ,</3/0/10> , </3/0/11>;dim=1;title="a,b""#;
        assert_eq!(
            split(text.as_bytes()),
            Ok(vec!["</3/0/9>;pmin=5;pmax=90", "</3/0/10>", r#"</3/0/11>;dim=1;title="a,b""#])
        );
    }

    #[test]
    fn what_is_no_link_list_is_refused_with_the_place() {
        for (text, error) in [
            ("x", LinkError::NoTarget(0)),
            ("</1", LinkError::OpenTarget(0)),
            ("</1>,", LinkError::NoTarget(5)),
            ("</1>,,</2>", LinkError::NoTarget(5)),
            ("</1></2>", LinkError::NoSeparator(4)),
            ("</1>;", LinkError::NoName(5)),
            ("</1>;=1", LinkError::NoName(5)),
            ("</1>;ver=", LinkError::NoValue(9)),
            ("</1>;ver=\"1", LinkError::OpenQuote(9)),
            ("</1>;ver=\"1\\", LinkError::OpenQuote(9)),
            ("</1>;ver=\"1\"x", LinkError::NoSeparator(12)),
        ] {
            assert_eq!(targets(text), Err(error), "{text}");
        }
        assert_eq!(parse(b"</\xff>"), Err(LinkError::NotText));
    }

    #[test]
    fn a_list_has_an_end() {
        let many = vec!["</1>"; MAX_LINKS + 1].join(",");
        assert_eq!(targets(&many), Err(LinkError::TooMany));
        assert_eq!(targets(&format!("</1>{}", ";a".repeat(MAX_ATTRIBUTES + 1))), Err(LinkError::TooMany));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(parse(&bytes).is_ok(), split(&bytes).is_ok());
        }

        #[test]
        fn what_was_split_is_the_same_list_when_joined(text in r#"(<[/a-zé0-9]{0,6}>(;[a-zé]{1,4}(=("[a-zé,;]{0,5}"|[0-9]{1,3}))?){0,3}, ?){0,5}<>"#) {
            let parts = split(text.as_bytes()).unwrap();
            let joined = parts.join(",");
            prop_assert_eq!(parse(joined.as_bytes()), parse(text.as_bytes()));
        }
    }
}
