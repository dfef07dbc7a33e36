//! Generates `docs/configuration.md` from the two places that know the keys: `deploy/lwm2m-gateway.toml` has their
//! defaults and descriptions, the reader knows their types.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::{env, fs};

use toml::Table;

use super::reader::ConfigReader;
use super::sections;
use super::tests::{DOCUMENTED, with_examples};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

const INTRODUCTION: &str = "# Configuration

<!-- Generated from deploy/lwm2m-gateway.toml and the program: UPDATE_DOCS=1 cargo test --lib config::reference -->

The configuration is a TOML file: `lwm2m-gateway run --config FILE`. Without a file all defaults apply. A file needs
only the keys that differ. [`deploy/lwm2m-gateway.toml`](../deploy/lwm2m-gateway.toml) is this page as a file. Unknown
keys are rejected, and `lwm2m-gateway check` reports all mistakes at once.

Environment variables override the file: `LWM2M_GATEWAY__SECTION__KEY=value`, with two underscores for each dot, such as
`LWM2M_GATEWAY__COAP__ACK_TIMEOUT=3s`. The value is TOML, or else a string. Durations are strings (`\"90s\"`,
`\"1h 30m\"`) or whole seconds.

A key of a section is written `section.key`: `coap.ack_timeout` is `ack_timeout` in `[coap]`. Keys with a star take
effect while the program runs (on `SIGHUP`, or when the file has changed); the others at the next start.
";

/// The description of a duration in an error; the introduction explains it once.
const DURATION: &str = "duration (\"90s\", \"1h 30m\") or whole seconds, ";

const TABLE: &str = "| Key | Type | Default | Description |\n|---|---|---|---|\n";

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
fn each_key_is_a_row_with_its_comment() {
    let documented = "
# --- CoAP ---

# The message layer.
[coap]
# The first | wait,
# in seconds.
ack_timeout = \"2s\"

# Messages that are remembered.
deduplication_entries = 200_000
";
    let expected = "
## CoAP

### `[coap]`

The message layer.

| Key | Type | Default | Description |
|---|---|---|---|
| `coap.ack_timeout` | duration from 1ms to 1h | `\"2s\"` | The first \\| wait, in seconds. |
| `coap.deduplication_entries` | whole number from 1 to 10000000 | `200_000` | Messages that are remembered. |
";
    assert_eq!(reference(documented), INTRODUCTION.to_owned() + expected);
}

fn reference(documented: &str) -> String {
    let mut page = ReferencePage { allowed: allowed(), text: INTRODUCTION.to_owned(), ..ReferencePage::default() };
    // The introduction says what the head of the file says.
    documented.lines().skip_while(|line| !line.starts_with("# ---")).for_each(|line| page.add(line));
    page.end_paragraph();
    page.text
}

/// Returns the accepted values of each key. The keys of a listener are read only if there is a listener.
fn allowed() -> BTreeMap<String, String> {
    let mut allowed = BTreeMap::new();
    for table in [with_examples(DOCUMENTED), Table::new()] {
        let mut reader = ConfigReader::new(table);
        sections::config(&mut reader);
        allowed.extend(reader.allowed().clone());
    }
    allowed
}

#[derive(Default)]
struct ReferencePage {
    allowed: BTreeMap<String, String>,
    text: String,
    section: String,
    /// The lines of comment since the last key.
    comment: Vec<String>,
    in_table: bool,
}

impl ReferencePage {
    fn add(&mut self, line: &str) {
        let key = line.strip_prefix('#').unwrap_or(line).split_once(" = ").filter(|(key, _)| is_key(key));
        match (line, key) {
            (_, Some((key, value))) => self.add_key(key, value, line.starts_with('#')),
            (line, None) if line.starts_with("# ---") => {
                self.end_paragraph();
                self.section.clear();
                let title = line.trim_matches(['#', '-', ' ']);
                self.add_heading(&format!("## {title}"));
            }
            (line, None) if line.starts_with("#[") => self.begin_section(&line[1..]),
            (line, None) if line.starts_with('#') => {
                self.comment.push(line.trim_start_matches('#').trim_start().to_owned());
            }
            (line, None) if line.starts_with('[') => self.begin_section(line),
            (line, None) if line.trim().is_empty() => self.end_paragraph(),
            // A value continues.
            (_, None) => {}
        }
    }

    fn begin_section(&mut self, line: &str) {
        self.section = format!("{}.", line.trim_matches(['[', ']']));
        self.add_heading(&format!("### `{line}`"));
        self.end_paragraph();
    }

    fn add_heading(&mut self, heading: &str) {
        self.in_table = false;
        writeln!(self.text, "\n{heading}").unwrap();
    }

    fn add_key(&mut self, key: &str, value: &str, example: bool) {
        if !self.in_table {
            self.in_table = true;
            write!(self.text, "\n{TABLE}").unwrap();
        }
        let key = format!("{}{key}", self.section);
        let kind = self.allowed.get(&key).unwrap_or_else(|| panic!("the program has no key {key}"));
        let kind = kind.strip_prefix("expected ").unwrap_or(kind);
        let kind = cell(&kind.strip_prefix("a ").unwrap_or(kind).replace(DURATION, "duration "));
        let star = if super::takes_effect_at_once(&key) { " \\*" } else { "" };
        let default = if example { format!("none; example: `{value}`") } else { format!("`{value}`") };
        let description = cell(&std::mem::take(&mut self.comment).join(" "));
        assert!(!description.is_empty(), "{key} has no comment");
        writeln!(self.text, "| `{key}`{star} | {kind} | {default} | {description} |").unwrap();
    }

    /// Adds a comment that belongs to no key as a paragraph.
    fn end_paragraph(&mut self) {
        if !self.comment.is_empty() {
            self.in_table = false;
            write!(self.text, "\n{}\n", std::mem::take(&mut self.comment).join("\n")).unwrap();
        }
    }
}

/// Returns the text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
