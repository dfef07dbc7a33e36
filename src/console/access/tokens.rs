//! Tokens of the API. The file has a line `NAME ROLE SHA256 [PREFIX]` for each token, with the SHA-256 of the token in
//! hexadecimal digits. A hash without a salt is sufficient: a token has 256 random bits, and nobody can guess it.

use std::fmt::{self, Write};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;
use utoipa::ToSchema;

use lwm2m_base::secret::Secret;

/// Every token begins so, so that tools that search for leaked secrets find it.
const TOKEN_PREFIX: &str = "lgw_";
/// Maximum length of the name of a token, in bytes.
const LONGEST_NAME: usize = 64;
/// Maximum number of tokens: each request is compared with all of them.
const MOST_TOKENS: usize = 1_000;

type TokenHash = [u8; 32];

/// The beginning of the hash of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Fingerprint([u8; 8]);

/// The permissions of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Reads everything that the console shows.
    Viewer,
    /// Sends commands to devices as well.
    Operator,
}

/// The identity and the permissions of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    /// Name of the token, or `uid:NUMBER` of a process that uses the socket.
    pub name: String,
    pub role: Role,
    /// The beginning of the endpoint names that are visible; `None` for all.
    pub prefix: Option<String>,
    /// Distinguishes tokens of the same name.
    fingerprint: Option<Fingerprint>,
}

/// The tokens of the file.
#[derive(Default)]
pub(crate) struct ApiTokens(Vec<(TokenHash, Access)>);

/// A new token with its line for the file.
pub(crate) struct NewToken {
    pub token: Secret,
    pub line: String,
}

/// Reasons why a tokens file cannot be used. They never show its contents.
#[derive(Debug, Error)]
pub(crate) enum TokensError {
    #[error("{}: {error}", .file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}, line {line}: {problem}", .file.display())]
    BadLine { file: PathBuf, line: usize, problem: TokenProblem },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TokenProblem {
    #[error("expected NAME ROLE SHA256 [PREFIX], as `lwm2m-gateway token NAME` prints it")]
    Fields,
    #[error("a name has 1 to {LONGEST_NAME} letters, digits, and the characters . _ -")]
    Name,
    #[error("a role is viewer or operator")]
    Role,
    #[error("expected the SHA-256 of a token in 64 hexadecimal digits")]
    Hash,
    #[error("another line has this name or this token")]
    Twice,
    #[error("a prefix has no blanks")]
    Prefix,
    #[error("a file has at most {MOST_TOKENS} tokens")]
    TooMany,
}

impl ApiTokens {
    /// Reads the file.
    pub(crate) fn read(file: &Path) -> Result<Self, TokensError> {
        let text = fs::read_to_string(file);
        let text = text.map_err(|error| TokensError::Unreadable { file: file.to_owned(), error })?;
        Self::parse(&text).map_err(|(line, problem)| TokensError::BadLine { file: file.to_owned(), line, problem })
    }

    /// Parses the lines of a file. Empty lines and those that begin with `#` are ignored. An error carries the number
    /// of its line, from 1.
    fn parse(text: &str) -> Result<Self, (usize, TokenProblem)> {
        let mut tokens = Self::default();
        for (line, number) in text.lines().zip(1..) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (hash, access) = parse_line(line).map_err(|problem| (number, problem))?;
            if tokens.0.iter().any(|(other, known)| *other == hash || known.name == access.name) {
                return Err((number, TokenProblem::Twice));
            }
            if tokens.0.len() >= MOST_TOKENS {
                return Err((number, TokenProblem::TooMany));
            }
            tokens.0.push((hash, access));
        }
        Ok(tokens)
    }

    /// Adds a token that is in no file.
    pub(crate) fn with(mut self, token: &Secret, access: Access) -> Self {
        self.0.push((hash(token.reveal()), access));
        self
    }

    /// Returns whether this access, which was given before, is still that of a token. A process needs no token.
    pub(crate) fn grants(&self, access: &Access) -> bool {
        access.fingerprint.is_none() || self.all().any(|known| known == access)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the access of each token, in the order of the file.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Access> {
        self.0.iter().map(|(_, access)| access)
    }

    /// Returns the access of a token. The time that it takes tells nothing about the tokens: all are compared, in
    /// constant time.
    pub(crate) fn access(&self, token: &str) -> Option<Access> {
        let presented = hash(token);
        let mut found = None;
        for (hash, access) in &self.0 {
            let equal: Choice = hash.as_slice().ct_eq(presented.as_slice());
            if bool::from(equal) {
                found = Some(access);
            }
        }
        found.cloned()
    }
}

impl NewToken {
    /// Makes a token of these random bits.
    pub(crate) fn new(random: [u8; 32], name: &str, role: Role, prefix: Option<&str>) -> Result<Self, TokenProblem> {
        if !is_name(name) {
            return Err(TokenProblem::Name);
        }
        if prefix.is_some_and(|prefix| prefix.is_empty() || prefix.contains(char::is_whitespace)) {
            return Err(TokenProblem::Prefix);
        }
        let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let mut line = format!("{name} {role} ");
        hash(&token).iter().try_for_each(|byte| write!(line, "{byte:02x}")).expect("a string takes everything");
        if let Some(prefix) = prefix {
            line += &format!(" {prefix}");
        }
        Ok(Self { token: Secret::new(token), line })
    }
}

impl Access {
    /// Returns the access of the user who tries the gateway with the embedded broker: an operator.
    pub(crate) fn of_trial() -> Self {
        Self { name: "trial".to_owned(), role: Role::Operator, prefix: None, fingerprint: None }
    }

    /// Returns the operator that a process of this machine is, by its user ID.
    pub(crate) fn of_process(uid: u32) -> Self {
        Self { name: format!("uid:{uid}"), role: Role::Operator, prefix: None, fingerprint: None }
    }
}

/// Shows nothing of the token.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        })
    }
}

fn parse_line(line: &str) -> Result<(TokenHash, Access), TokenProblem> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (name, role, digits, prefix) = match fields[..] {
        [name, role, digits] => (name, role, digits, None),
        [name, role, digits, prefix] => (name, role, digits, Some(prefix.to_owned())),
        _ => return Err(TokenProblem::Fields),
    };
    if !is_name(name) {
        return Err(TokenProblem::Name);
    }
    let role = match role {
        "viewer" => Role::Viewer,
        "operator" => Role::Operator,
        _ => return Err(TokenProblem::Role),
    };
    let hash = parse_hash(digits).ok_or(TokenProblem::Hash)?;
    let fingerprint = hash.first_chunk().copied().map(Fingerprint);
    Ok((hash, Access { name: name.to_owned(), role, prefix, fingerprint }))
}

fn parse_hash(digits: &str) -> Option<TokenHash> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    if rest.is_empty() { bytes?.try_into().ok() } else { None }
}

fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, role: Role, prefix: Option<&str>) -> NewToken {
        NewToken::new([7; 32], name, role, prefix).ok().unwrap()
    }

    #[test]
    fn a_new_token_has_256_bits_and_its_line_gives_the_role_and_the_prefix() {
        let NewToken { token, line } = new("alice", Role::Operator, Some("urn:imei:"));
        assert_eq!(token.reveal().len(), "lgw_".len() + 43);
        assert!(!line.contains(token.reveal()));

        let tokens = ApiTokens::parse(&format!("# people\n\n{line}\r\n")).ok().unwrap();

        let prefix = Some("urn:imei:".to_owned());
        let access = tokens.access(token.reveal()).unwrap();
        let Access { name, role, prefix: shown, .. } = access.clone();
        assert_eq!((name.as_str(), role, shown), ("alice", Role::Operator, prefix));
        assert!(tokens.grants(&access));
        for wrong in ["", "lgw_", &token.reveal()[..46], &line] {
            assert_eq!(tokens.access(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_access_ends_with_its_token_and_with_its_role() {
        let line_of = |random, role| NewToken::new(random, "alice", role, None).ok().unwrap();
        let NewToken { token, line } = line_of([7; 32], Role::Viewer);
        let access = ApiTokens::parse(&line).ok().unwrap().access(token.reveal()).unwrap();
        for (random, role, granted) in
            [([7; 32], Role::Viewer, true), ([7; 32], Role::Operator, false), ([8; 32], Role::Viewer, false)]
        {
            let tokens = ApiTokens::parse(&line_of(random, role).line).ok().unwrap();
            assert_eq!(tokens.grants(&access), granted, "{role}");
        }
        assert!(!ApiTokens::default().grants(&access));
        assert!(ApiTokens::default().grants(&Access::of_process(7)));
        assert!(!format!("{access:?}").contains(&line[line.len() - 16..]));
    }

    #[test]
    fn a_line_is_rejected_with_its_number_and_nothing_of_it_is_shown() {
        let line = new("alice", Role::Viewer, None).line;
        let digits = line.rsplit(' ').next().unwrap();
        for (text, line, problem) in [
            (format!("{line}\nalice viewer"), 2, TokenProblem::Fields),
            (format!("al/ice viewer {digits}"), 1, TokenProblem::Name),
            (format!("alice root {digits}"), 1, TokenProblem::Role),
            (format!("alice viewer {}", &digits[1..]), 1, TokenProblem::Hash),
            (format!("alice viewer {}", digits.replace('0', "g")), 1, TokenProblem::Hash),
            (format!("{line}\n# the same\nbob viewer {digits}"), 3, TokenProblem::Twice),
            (format!("alice viewer {digits} a b"), 1, TokenProblem::Fields),
        ] {
            let error = ApiTokens::parse(&text).err().unwrap();
            assert_eq!(error, (line, problem), "{text}");
            assert!(!problem.to_string().contains(digits));
        }
    }

    #[test]
    fn a_name_or_a_prefix_that_no_line_can_have_makes_no_token() {
        let refused = |name, prefix| NewToken::new([7; 32], name, Role::Viewer, prefix).err();
        assert_eq!(refused("al ice", None), Some(TokenProblem::Name));
        assert_eq!(refused("", None), Some(TokenProblem::Name));
        assert_eq!(refused("alice", Some("a b")), Some(TokenProblem::Prefix));
    }
}
