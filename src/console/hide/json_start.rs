//! The beginning of a JSON text as valid JSON: everything that is complete, with the open brackets closed.

/// Returns the complete part of a JSON text that was cut off; `None` if nothing is complete.
pub(super) fn closed(start: &[u8]) -> Option<String> {
    let whole = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(start.get(..error.valid_up_to())?).ok()?,
    };
    let mut end = None;
    scan(whole, |at, byte, _| match byte {
        // The comma itself promises more.
        b',' => end = Some(at),
        b'{' | b'[' | b'}' | b']' => end = Some(at + 1),
        _ => {}
    });
    let complete = whole.get(..end?)?;
    let mut open = Vec::new();
    scan(complete, |_, _, brackets| open = brackets.to_vec());
    let closing = open.iter().rev().map(|bracket| if *bracket == b'{' { '}' } else { ']' });
    Some(complete.chars().chain(closing).collect())
}

/// Calls `visit` with the position of each byte outside of strings, the byte, and the brackets that are open after it.
fn scan(text: &str, mut visit: impl FnMut(usize, u8, &[u8])) {
    let (mut open, mut in_string, mut escaped) = (Vec::new(), false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => open.push(byte),
            b'}' | b']' => drop(open.pop()),
            _ => {}
        }
        if !in_string {
            visit(at, byte, &open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complete_part_of_a_text_is_closed() {
        for (start, expected) in [
            (r#"{"a":1,"b":[1,2"#, r#"{"a":1,"b":[1]}"#),
            (r#"{"a":1,"b":"#, r#"{"a":1}"#),
            (r#"{"a":{"b":"x}"},"c"#, r#"{"a":{"b":"x}"}}"#),
            (r#"{"a":"quote \" and { ,"#, "{}"),
            (r#"{"a":[{"b":1},{"c":[]"#, r#"{"a":[{"b":1},{"c":[]}]}"#),
            (r#"{"a":1}"#, r#"{"a":1}"#),
            ("[", "[]"),
        ] {
            assert_eq!(closed(start.as_bytes()).as_deref(), Some(expected), "{start}");
        }
        assert_eq!(closed(b"12"), None);
        assert_eq!(closed(b""), None);
    }

    #[test]
    fn a_cut_anywhere_gives_json_or_nothing() {
        let text = r#"{"a":[1,{"ü":"\"\\"},null,[[],{}]],"b":-1.5e3,"c":"é,{"}"#;
        for end in 0..=text.len() {
            if let Some(closed) = closed(&text.as_bytes()[..end]) {
                assert!(serde_json::from_str::<serde_json::Value>(&closed).is_ok(), "{closed}");
            }
        }
    }
}
