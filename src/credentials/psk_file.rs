//! Pre-shared keys in a file, in the format of EMQX's `psk_authentication.init_file`: one `identity:secret` on a line.
//! What is added to it here: lines that are empty or begin with `#` say nothing, and a secret may be written as digits.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use zeroize::Zeroizing;

use lwm2m_base::identity::PskIdentity;
use lwm2m_dtls::credentials::PskKey;

/// The location and format of a PSK file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PskFileConfig {
    pub file: PathBuf,
    /// The separator of identity and secret: its first occurrence in a line counts.
    pub separator: String,
    pub encoding: Encoding,
}

/// Encoding of the secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The bytes of the text are the key, as EMQX takes them.
    Text,
    Hex,
    Base64,
}

/// Reasons why a PSK file cannot be read. They never show the file's contents.
#[derive(Debug, Error)]
pub enum PskFileError {
    #[error("{}: {error}", .file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}, line {line}: {problem}", .file.display())]
    BadLine { file: PathBuf, line: usize, problem: LineProblem },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineProblem {
    #[error("there is no separator between an identity and a secret")]
    NoSeparator,
    #[error("an identity has 1 to {} bytes of UTF-8", PskIdentity::MAX)]
    Identity,
    #[error("a secret has 1 to {} bytes", PskKey::MAX)]
    Length,
    #[error("the secret is not in hexadecimal digits")]
    Hex,
    #[error("the secret is not in base64")]
    Base64,
}

/// The keys by identity. If an identity occurs twice the last line counts.
pub(crate) type PskTable = HashMap<PskIdentity, PskKey>;

/// The contents of a PSK file.
#[derive(Default)]
pub(crate) struct PskFileContents {
    pub keys: PskTable,
    /// Warnings about valid but suspicious lines, without secrets.
    pub warnings: Vec<String>,
}

/// Reads the file.
///
/// # Errors
/// If it cannot be read, or one of its lines is no identity with its secret.
pub(super) fn read(config: &PskFileConfig) -> Result<PskFileContents, PskFileError> {
    let PskFileConfig { file, separator, encoding } = config;
    let bytes = fs::read(file).map_err(|error| PskFileError::Unreadable { file: file.clone(), error })?;
    let lines = parse(&Zeroizing::new(bytes), separator, *encoding)
        .map_err(|(line, problem)| PskFileError::BadLine { file: Path::to_owned(file), line, problem })?;
    Ok(PskFileContents { warnings: lines.warnings(file, separator), keys: lines.keys })
}

/// The keys, and the numbers of suspicious lines, from 1.
#[derive(Default)]
struct ParsedLines {
    keys: PskTable,
    /// Lines whose identity is the beginning of a URN.
    cut_urns: Vec<usize>,
    /// Their identity stands on an earlier line too.
    again: Vec<usize>,
}

impl ParsedLines {
    fn warnings(&self, file: &Path, separator: &str) -> Vec<String> {
        let at = |lines: &[usize]| {
            let first = lines.first()?;
            let others = lines.len() - 1;
            let more = if others > 0 { format!(" and {others} more") } else { String::new() };
            Some(format!("dtls.psk_file = {}, line {first}{more}", file.display()))
        };
        let cut_urns = at(&self.cut_urns).map(|at| {
            format!(
                "{at}: the identity is \"urn\", for the first {separator:?} of a line ends it; identities such as \
                 urn:imei:1 need another dtls.psk_separator, such as \"=\""
            )
        });
        // Shortened identities are all the same.
        let again = at(&self.again).filter(|_| self.cut_urns.is_empty());
        let again = again.map(|at| format!("{at}: this identity stands in the file already; the last line counts"));
        cut_urns.into_iter().chain(again).collect()
    }
}

/// Parses the lines of a file. An error carries the number of its line, from 1.
fn parse(bytes: &[u8], separator: &str, encoding: Encoding) -> Result<ParsedLines, (usize, LineProblem)> {
    let mut lines = ParsedLines::default();
    for (line, number) in bytes.split(|byte| *byte == b'\n').zip(1..) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let (identity, key) = entry(line, separator.as_bytes(), encoding).map_err(|problem| (number, problem))?;
        if identity.as_str().eq_ignore_ascii_case("urn") {
            lines.cut_urns.push(number);
        }
        if lines.keys.insert(identity, key).is_some() {
            lines.again.push(number);
        }
    }
    Ok(lines)
}

fn entry(line: &[u8], separator: &[u8], encoding: Encoding) -> Result<(PskIdentity, PskKey), LineProblem> {
    let at = line.windows(separator.len()).position(|window| window == separator).ok_or(LineProblem::NoSeparator)?;
    let (identity, secret) = (&line[..at], &line[at + separator.len()..]);
    let identity = PskIdentity::new(identity).ok_or(LineProblem::Identity)?;
    let secret = decode(secret, encoding)?;
    Ok((identity, PskKey::new(secret).ok_or(LineProblem::Length)?))
}

/// Decodes a secret of a file or of the key service.
pub(super) fn decode(secret: &[u8], encoding: Encoding) -> Result<Vec<u8>, LineProblem> {
    match encoding {
        Encoding::Text => Ok(secret.to_vec()),
        Encoding::Hex => from_hex(secret).ok_or(LineProblem::Hex),
        Encoding::Base64 => STANDARD.decode(secret).map_err(|_| LineProblem::Base64),
    }
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parsed = Vec<(String, Vec<u8>)>;

    fn parsed(text: &str, separator: &str, encoding: Encoding) -> Result<Parsed, (usize, LineProblem)> {
        let keys = parse(text.as_bytes(), separator, encoding)?.keys;
        let mut keys: Vec<_> =
            keys.iter().map(|(identity, key)| (identity.to_string(), key.reveal().to_vec())).collect();
        keys.sort();
        Ok(keys)
    }

    fn key(identity: &str, key: &[u8]) -> (String, Vec<u8>) {
        (identity.to_owned(), key.to_vec())
    }

    #[test]
    fn the_format_of_emqx_is_read_as_emqx_reads_it() {
        let text = "myclient1:8c701116e9\nmyclient2:d1e617:d3\r\nno end:x";
        let expected = [key("myclient1", b"8c701116e9"), key("myclient2", b"d1e617:d3"), key("no end", b"x")];
        assert_eq!(parsed(text, ":", Encoding::Text).unwrap(), expected);
    }

    #[test]
    fn an_identity_with_a_colon_needs_another_separator() {
        assert_eq!(parsed("urn:imei:1,abc", ",", Encoding::Text).unwrap(), [key("urn:imei:1", b"abc")]);
        assert_eq!(parsed("urn:imei:1 = abc", " = ", Encoding::Text).unwrap(), [key("urn:imei:1", b"abc")]);
    }

    #[test]
    fn an_identity_that_is_cut_at_its_colon_or_stands_there_twice_is_a_warning() {
        let warnings = |text: &str, separator: &str| {
            let lines = parse(text.as_bytes(), separator, Encoding::Text).ok().unwrap();
            lines.warnings(Path::new("keys.psk"), separator)
        };
        let cut = "dtls.psk_file = keys.psk, line 1 and 1 more: the identity is \"urn\", for the first \":\" of a line \
                   ends it; identities such as urn:imei:1 need another dtls.psk_separator, such as \"=\"";
        assert_eq!(warnings("urn:imei:1:hunter2\nurn:imei:2:hunter3", ":"), [cut]);
        assert_eq!(warnings("urn:imei:1=hunter2\nurn:imei:2=hunter3", "="), [""; 0]);
        let again = "dtls.psk_file = keys.psk, line 3: this identity stands in the file already; the last line counts";
        assert_eq!(warnings("a:1\nb:1\na:2", ":"), [again]);
    }

    #[test]
    fn a_secret_may_be_written_in_digits() {
        assert_eq!(parsed("a:00fF10", ":", Encoding::Hex).unwrap(), [key("a", &[0, 0xff, 0x10])]);
        assert_eq!(parsed("a:AP8Q", ":", Encoding::Base64).unwrap(), [key("a", &[0, 0xff, 0x10])]);
        for (wrong, problem) in [("a:0", LineProblem::Hex), ("a:0g", LineProblem::Hex), ("a:", LineProblem::Length)] {
            assert_eq!(parsed(wrong, ":", Encoding::Hex), Err((1, problem)), "{wrong}");
        }
        assert_eq!(parsed("a:%", ":", Encoding::Base64), Err((1, LineProblem::Base64)));
    }

    #[test]
    fn empty_lines_and_comments_say_nothing_and_the_last_one_of_an_identity_counts() {
        assert_eq!(parsed("# keys\n\na:1\n\r\na:2\n", ":", Encoding::Text).unwrap(), [key("a", b"2")]);
        assert_eq!(parsed("", ":", Encoding::Text).unwrap(), []);
    }

    #[test]
    fn a_bad_line_is_told_by_its_number_and_nothing_of_it_is_told() {
        let long = format!("{}:s", "x".repeat(256));
        for (text, line, problem) in [
            ("a:b\nhunter2\n", 2, LineProblem::NoSeparator),
            ("# a\n:hunter2", 2, LineProblem::Identity),
            (long.as_str(), 1, LineProblem::Identity),
            ("a:", 1, LineProblem::Length),
        ] {
            assert_eq!(parsed(text, ":", Encoding::Text), Err((line, problem)));
        }
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("keys.psk");
        fs::write(&file, "a:b\nhunter2\n").unwrap();
        let config = PskFileConfig { file, separator: ":".to_owned(), encoding: Encoding::Text };
        let error = read(&config).err().unwrap();
        let said = format!("{error} {error:?}");
        assert!(said.contains("keys.psk, line 2: there is no separator") && !said.contains("hunter2"), "{said}");
    }
}
