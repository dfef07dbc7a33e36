//! Formats errors of the system and of libraries for people: without repetitions and error numbers.

use std::error::Error;
use std::io;

/// Prefixes of library errors that carry no information.
const EMPTY_WORDS: [&str; 3] = ["transport error", "tcp connect error", "client error (Connect)"];

/// Returns the text of a system error without its number: `connection refused`.
pub(crate) fn plain(error: &io::Error) -> String {
    plain_text(&error.to_string())
}

/// Returns a text and the causes behind it. Libraries repeat their causes: each part appears once.
pub(crate) fn with_causes(text: &str, cause: Option<&(dyn Error + 'static)>) -> String {
    let mut said = Vec::new();
    add_parts(text, &mut said);
    let mut next = cause;
    while let Some(error) = next {
        add_parts(&error.to_string(), &mut said);
        next = error.source();
    }
    if said.is_empty() { text.to_owned() } else { said.join(": ") }
}

/// Returns a text on one line: OpenSSL and lists of mistakes have several.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn add_parts(text: &str, said: &mut Vec<String>) {
    for part in text.split(": ").map(plain_text) {
        if !part.is_empty() && !EMPTY_WORDS.contains(&part.as_str()) && !said.contains(&part) {
            said.push(part);
        }
    }
}

fn plain_text(text: &str) -> String {
    let text = text.split_once(" (os error ").map_or(text, |(text, _)| text).trim();
    let mut characters = text.chars();
    match (characters.next(), characters.clone().next()) {
        // "TLS" stays as it is.
        (Some(first), Some(second)) if first.is_ascii_uppercase() && second.is_ascii_lowercase() => {
            first.to_ascii_lowercase().to_string() + characters.as_str()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn a_system_error_has_no_number_and_begins_in_lower_case() {
        assert_eq!(plain(&io::Error::from_raw_os_error(111)), "connection refused");
        assert_eq!(plain(&io::Error::other("TLS is off")), "TLS is off");
    }

    #[test]
    fn what_libraries_repeat_is_said_once() {
        let refused = Layer { text: "Connection refused (os error 111)", source: None };
        let connect =
            Layer { text: "tcp connect error: Connection refused (os error 111)", source: Some(Box::new(refused)) };
        let transport = Layer { text: "transport error", source: Some(Box::new(connect)) };
        assert_eq!(with_causes("tcp connect error", Some(&transport)), "connection refused");
        assert_eq!(with_causes("transport error", None), "transport error");
    }

    #[test]
    fn several_lines_become_one() {
        assert_eq!(one_line("2 mistakes\n  a\n  b"), "2 mistakes a b");
    }
}
