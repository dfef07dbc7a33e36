//! `docs/configuration.md`, made of the two things that know the keys: `deploy/lwm2m-gateway.toml` has their defaults and
//! their meaning (tests hold it against the reader, key by key), the reader knows what each of them takes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::{env, fs};

use toml::Table;

use crate::reload;

use super::reader::Reader;
use super::sections;
use super::tests::{DOCUMENTED, with_examples};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

const INTRODUCTION: &str = "# Configuration

<!-- Made of deploy/lwm2m-gateway.toml and of what the program takes: UPDATE_DOCS=1 cargo test --lib config::reference -->

[`deploy/lwm2m-gateway.toml`](../deploy/lwm2m-gateway.toml) is this page as a configuration. Keys are written with their
section here: `coap.ack_timeout` is `ack_timeout` in `[coap]`. Those with a star take effect while the program runs
(`SIGHUP`, or the file is seen to have changed); the others at the next start.
";

#[test]
fn the_reference_is_that_of_the_keys_there_are() {
    let reference = reference(DOCUMENTED);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(FILE, &reference).unwrap();
    }
    assert!(
        fs::read_to_string(FILE).unwrap_or_default() == reference,
        "docs/configuration.md is stale: UPDATE_DOCS=1 cargo test --lib config::reference writes it anew"
    );
}

#[test]
fn keys_that_share_a_comment_stand_together() {
    let documented = "
# --- CoAP ---

[coap]
# The first wait.
ack_timeout = \"2s\"
# Messages that are remembered,
# and of all.
deduplication_entries_per_peer = 64
deduplication_entries = 200_000
";
    let expected = "
## CoAP

### `[coap]`

- `coap.ack_timeout = \"2s\"` takes a duration (\"90s\", \"1h 30m\") or whole seconds, from 1ms to 1h

  The first wait.

- `coap.deduplication_entries_per_peer = 64` takes a whole number from 1 to 10000000
- `coap.deduplication_entries = 200_000` takes a whole number from 1 to 10000000

  Messages that are remembered,
  and of all.
";
    assert_eq!(reference(documented), INTRODUCTION.to_owned() + expected);
}

fn reference(documented: &str) -> String {
    let mut page = Page { allowed: allowed(), text: INTRODUCTION.to_owned(), ..Page::default() };
    documented.lines().for_each(|line| page.add(line));
    page.end_group();
    page.text
}

/// What each key takes. The keys of a listener are asked for only where there is one.
fn allowed() -> BTreeMap<String, String> {
    let mut allowed = BTreeMap::new();
    for table in [with_examples(DOCUMENTED), Table::new()] {
        let mut reader = Reader::new(table);
        sections::config(&mut reader);
        allowed.extend(reader.allowed().clone());
    }
    allowed
}

#[derive(Default)]
struct Page {
    allowed: BTreeMap<String, String>,
    text: String,
    section: String,
    /// What was said since the last key.
    comment: Vec<String>,
    /// Keys that one comment is about.
    keys: Vec<String>,
}

impl Page {
    fn add(&mut self, line: &str) {
        let key = line.strip_prefix('#').unwrap_or(line).split_once(" = ").filter(|(key, _)| is_key(key));
        match (line, key) {
            (_, Some((key, value))) => self.add_key(key, value, line.starts_with('#')),
            (line, None) if line.starts_with("# ---") => {
                self.end_group();
                let title = line.trim_matches(['#', '-', ' ']);
                writeln!(self.text, "\n## {title}").unwrap();
            }
            (line, None) if line.starts_with("#[") => self.begin_section(&line[1..]),
            (line, None) if line.starts_with('#') => {
                if !self.keys.is_empty() {
                    self.end_group();
                }
                self.comment.push(line.trim_start_matches('#').trim_start().to_owned());
            }
            (line, None) if line.starts_with('[') => self.begin_section(line),
            (line, None) if line.trim().is_empty() => self.end_group(),
            // A value goes on.
            (_, None) => {}
        }
    }

    fn begin_section(&mut self, line: &str) {
        let about = std::mem::take(&mut self.comment);
        self.end_group();
        self.section = format!("{}.", line.trim_matches(['[', ']']));
        writeln!(self.text, "\n### `{line}`").unwrap();
        self.comment = about;
        self.end_group();
    }

    fn add_key(&mut self, key: &str, value: &str, example: bool) {
        let key = format!("{}{key}", self.section);
        let allowed = self.allowed.get(&key).unwrap_or_else(|| panic!("the program has no key {key}"));
        let allowed = allowed.strip_prefix("expected ").unwrap_or(allowed);
        let star = if reload::takes_effect_at_once(&key) { " \\*" } else { "" };
        self.keys.push(match example {
            true => format!("- `{key}`{star} takes {allowed}; it has no default. For example: `{value}`"),
            false => format!("- `{key} = {value}`{star} takes {allowed}"),
        });
    }

    /// The keys, and below them what is said of them; a comment without keys is a paragraph.
    fn end_group(&mut self) {
        let (keys, comment) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.comment));
        if keys.is_empty() && comment.is_empty() {
            return;
        }
        let indent = if keys.is_empty() { "" } else { "  " };
        let comment: Vec<String> = comment.iter().map(|line| format!("{indent}{line}")).collect();
        for block in [keys, comment].into_iter().filter(|block| !block.is_empty()) {
            write!(self.text, "\n{}\n", block.join("\n")).unwrap();
        }
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
