//! Reads the link format (RFC 6690) of object lists and of answers to Discover.
//!
//! Devices deviate from the format. This reader accepts unquoted values with blanks, blanks around `=`, empty values
//! and links, superfluous commas and semicolons, and a NUL at the end. It skips what it cannot read and counts it: an
//! unreadable attribute does not affect its link, and an unreadable link does not affect the others.

use std::borrow::Cow;
use std::fmt;

use smallvec::SmallVec;
use thiserror::Error;

/// Limits the links of one list. A longer list is rejected.
const MAX_LINKS: usize = 4096;
const MAX_ATTRIBUTES: usize = 64;

/// Holds the readable links of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links<'a> {
    pub links: Vec<Link<'a>>,
    /// `None` if the whole list was readable.
    pub left_out: Option<LeftOut>,
}

/// Counts the unreadable links and attributes of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The number of unreadable parts, at least 1.
    pub count: usize,
    pub first: LinkError,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// Holds the text between `<` and `>`.
    pub target: &'a str,
    pub attributes: SmallVec<[Attribute<'a>; 2]>,
    /// Holds the link as it is written, without its unreadable attributes.
    pub text: Cow<'a, str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub name: &'a str,
    /// Holds the value without quotation marks and escapes. An attribute may have no value.
    pub value: Option<Cow<'a, str>>,
}

/// Tells why a link or an attribute cannot be read. Positions count bytes from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    #[error("the text that begins at byte {0} is not UTF-8")]
    NotText(usize),
    #[error("a link begins with '<', byte {0} does not")]
    NoTarget(usize),
    #[error("the target that begins at byte {0} has no end")]
    OpenTarget(usize),
    #[error("an attribute without a name at byte {0}")]
    NoName(usize),
    #[error("the quoted text that begins at byte {0} has no end")]
    OpenQuote(usize),
    #[error("neither ',' nor ';' behind a link or an attribute at byte {0}")]
    NoSeparator(usize),
    #[error("more than {MAX_ATTRIBUTES} attributes of the link at byte {0}")]
    TooManyAttributes(usize),
    #[error("more than {MAX_LINKS} links")]
    TooManyLinks,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "left out of the links: {}", self.first)?;
        if self.count > 1 { write!(f, ", and {} more", self.count - 1) } else { Ok(()) }
    }
}

impl<'a> Link<'a> {
    /// Returns the value of the first attribute with this name that has a value which is not empty. The case of names
    /// does not matter.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let named = self.attributes.iter().filter(|attribute| attribute.name.eq_ignore_ascii_case(name));
        named.filter_map(|attribute| attribute.value.as_deref()).find(|value| !value.is_empty())
    }
}

/// Reads a list of links. A text without links is an empty list. A list without any readable link is an error.
pub fn parse(payload: &[u8]) -> Result<Links<'_>, LinkError> {
    let mut reader = Reader { bytes: payload, at: 0, left_out: None };
    let mut links = Vec::new();
    while reader.skip_to_something() {
        match reader.link() {
            Ok(_) if links.len() == MAX_LINKS => return Err(LinkError::TooManyLinks),
            Ok(link) => links.push(link),
            Err(error) => {
                reader.leave_out(error);
                reader.until(|byte| matches!(byte, b',' | b'<'));
            }
        }
    }
    match reader.left_out {
        Some(LeftOut { first, .. }) if links.is_empty() => Err(first),
        left_out => Ok(Links { links, left_out }),
    }
}

/// Walks over the bytes from one significant ASCII character to the next.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    left_out: Option<LeftOut>,
}

impl<'a> Reader<'a> {
    /// Skips blanks and commas, and returns `false` at the end.
    fn skip_to_something(&mut self) -> bool {
        self.until(|byte| byte != b',' && !is_blank(byte));
        self.peek().is_some()
    }

    /// Reads one link with its attributes.
    fn link(&mut self) -> Result<Link<'a>, LinkError> {
        let begin = self.at;
        let target = self.target()?;
        let mut written =
            WrittenLink { bytes: self.bytes, spans: smallvec::smallvec![(begin, self.at)], complete: true };
        let mut attributes = SmallVec::new();
        while self.has_attribute(&mut written) {
            let begin = self.at;
            match self.attribute() {
                Ok(None) => {}
                Ok(Some(attribute)) if attributes.len() < MAX_ATTRIBUTES => {
                    attributes.push(attribute);
                    written.spans.push((begin, self.at));
                }
                Ok(Some(_)) => self.leave_attribute_out(LinkError::TooManyAttributes(begin), &mut written),
                Err(error) => self.leave_attribute_out(error, &mut written),
            }
        }
        Ok(Link { target, attributes, text: written.text()? })
    }

    fn target(&mut self) -> Result<&'a str, LinkError> {
        let begin = self.at;
        if !self.take(b'<') {
            return Err(LinkError::NoTarget(begin));
        }
        // No URI holds a '<': there another link begins.
        let target = self.until(|byte| matches!(byte, b'>' | b'<'));
        if self.take(b'>') { text(target, begin) } else { Err(LinkError::OpenTarget(begin)) }
    }

    /// Moves to the next attribute of a link and skips what is no attribute. Returns `false` at the end of the link, or
    /// where another link begins without a comma.
    fn has_attribute(&mut self, written: &mut WrittenLink<'a>) -> bool {
        loop {
            self.skip_blanks();
            match self.peek() {
                Some(b';') => {
                    self.at += 1;
                    self.skip_blanks();
                    return true;
                }
                Some(b',' | b'<') | None => return false,
                Some(_) => {
                    self.leave_attribute_out(LinkError::NoSeparator(self.at), written);
                    self.until(|byte| matches!(byte, b';' | b',' | b'<'));
                }
            }
        }
    }

    /// Reads an attribute. Returns `None` for an empty one, as behind a superfluous semicolon.
    fn attribute(&mut self) -> Result<Option<Attribute<'a>>, LinkError> {
        let begin = self.at;
        let name = self.until(|byte| matches!(byte, b'=' | b';' | b',' | b'<' | b'"') || is_blank(byte));
        let end = self.at;
        self.skip_blanks();
        let value = if self.take(b'=') { Some(self.value()?) } else { None };
        match (name, value) {
            (b"", None) if self.peek() != Some(b'"') => Ok(None),
            (b"", None | Some(_)) => Err(LinkError::NoName(begin)),
            (name, Some(value)) => Ok(Some(Attribute { name: text(name, begin)?, value: Some(value) })),
            (name, None) => {
                // The blanks behind it are not the attribute's.
                self.at = end;
                Ok(Some(Attribute { name: text(name, begin)?, value: None }))
            }
        }
    }

    fn value(&mut self) -> Result<Cow<'a, str>, LinkError> {
        let behind_equals = self.at;
        self.skip_blanks();
        let begin = self.at;
        match self.peek() {
            Some(b'"') => self.quoted().inspect_err(|_| {
                // Only the part up to the next separator is lost by a quotation mark that stands alone.
                self.at = begin + 1;
                self.until(|byte| matches!(byte, b';' | b','));
            }),
            Some(b'<') if begin > behind_equals => Ok(Cow::Borrowed("")),
            Some(_) | None => self.unquoted().map(Cow::Borrowed),
        }
    }

    /// Reads an unquoted value. It may have blanks in it, as in `ct=60 110`. A '<' behind a blank begins another link.
    fn unquoted(&mut self) -> Result<&'a str, LinkError> {
        let begin = self.at;
        let rest = &self.bytes[begin..];
        let ends = |(at, byte): (usize, &u8)| match byte {
            b';' | b',' => true,
            b'<' => at > 0 && is_blank(rest[at - 1]),
            _ => false,
        };
        let length = rest.iter().enumerate().position(ends).unwrap_or(rest.len());
        let value = without_blanks_behind(&rest[..length]);
        self.at = begin + value.len();
        text(value, begin)
    }

    /// Reads a quoted value. A backslash quotes the character behind it (RFC 2616 section 2.2).
    fn quoted(&mut self) -> Result<Cow<'a, str>, LinkError> {
        let begin = self.at;
        self.take(b'"');
        let mut value = Cow::Borrowed(text(self.until(|byte| matches!(byte, b'"' | b'\\')), begin)?);
        while self.take(b'\\') {
            let escaped = self.at;
            self.at = (self.at + 1).min(self.bytes.len());
            self.until(|byte| matches!(byte, b'"' | b'\\'));
            value.to_mut().push_str(text(&self.bytes[escaped..self.at], begin)?);
        }
        if !self.take(b'"') {
            return Err(LinkError::OpenQuote(begin));
        }
        // Behind a text that really ends here something else begins.
        let end = self.at;
        self.skip_blanks();
        let ends = matches!(self.peek(), Some(b';' | b',' | b'<') | None);
        self.at = end;
        if ends { Ok(value) } else { Err(LinkError::NoSeparator(end)) }
    }

    fn leave_attribute_out(&mut self, error: LinkError, written: &mut WrittenLink<'a>) {
        written.complete = false;
        self.leave_out(error);
    }

    fn leave_out(&mut self, error: LinkError) {
        self.left_out.get_or_insert(LeftOut { count: 0, first: error }).count += 1;
    }

    fn skip_blanks(&mut self) {
        self.until(|byte| !is_blank(byte));
    }

    /// Returns the bytes up to the first that satisfies the condition, or up to the end.
    fn until(&mut self, ends: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| ends(*byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}

/// Collects the positions of the target and the readable attributes of a link, which make its text.
struct WrittenLink<'a> {
    bytes: &'a [u8],
    spans: SmallVec<[(usize, usize); 4]>,
    /// Tells that nothing between them was skipped.
    complete: bool,
}

impl<'a> WrittenLink<'a> {
    fn text(&self) -> Result<Cow<'a, str>, LinkError> {
        let (begin, end) = (self.spans[0].0, self.spans[self.spans.len() - 1].1);
        if self.complete {
            return text(&self.bytes[begin..end], begin).map(Cow::Borrowed);
        }
        let parts: Vec<&[u8]> = self.spans.iter().map(|(begin, end)| &self.bytes[*begin..*end]).collect();
        Ok(Cow::Owned(text(&parts.join(&b';'), begin)?.to_owned()))
    }
}

/// Returns whether the byte is a blank. A NUL counts as one, because programs in C send the end of their strings along.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'\0')
}

fn without_blanks_behind(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |last| last + 1);
    &bytes[..length]
}

fn text(bytes: &[u8], begin: usize) -> Result<&str, LinkError> {
    std::str::from_utf8(bytes).map_err(|_| LinkError::NotText(begin))
}

#[cfg(test)]
mod tests;
