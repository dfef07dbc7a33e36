//! Writes the results: tables, the JSON of the API, and notices.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use crate::clock::unix_time;

use super::document::Document;

const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";
/// Stands for a cell without text, so that each row has as many words as the header.
const NOTHING: &str = "-";

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The outputs of a command.
pub(crate) struct CommandOutput {
    /// Whether the JSON of the API is written in place of tables.
    pub json: bool,
    is_terminal: bool,
    colours: bool,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

/// The meaning of a cell, which a colour shows at a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Neutral,
    Good,
    Bad,
    Faint,
}

/// A table whose columns are as wide as the longest cell of the rows so far, except the last column.
pub(crate) struct Table {
    header: Vec<&'static str>,
    widths: Vec<usize>,
    has_begun: bool,
}

impl CommandOutput {
    /// Returns an output with colours if it is a terminal and `NO_COLOR` is not set.
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let colours = is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, is_terminal, colours }
    }

    /// Writes the text of a document as the API gave it.
    pub(super) fn document(&self, document: &Document) -> io::Result<()> {
        self.line(document.text.trim_end())
    }

    pub(super) fn line(&self, text: &str) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    /// Writes what is no data to the standard error output.
    pub(crate) fn notice(&self, text: &str) {
        eprintln!("{}", printable(text));
    }

    /// Begins the next page of a display that is repeated: at a terminal in place of the one before.
    pub(crate) fn next_page(&self, is_first: bool) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        match (self.is_terminal, is_first) {
            (true, _) => write!(io::stdout().lock(), "{CLEAR}"),
            (false, true) => Ok(()),
            (false, false) => self.line(""),
        }
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colours && !style.is_empty() { format!("{style}{text}{PLAIN}") } else { text.to_owned() }
    }
}

impl Tone {
    fn style(self) -> &'static str {
        match self {
            Self::Neutral => "",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
            Self::Faint => "\x1b[2m",
        }
    }

    /// Returns the tone of a CoAP code: `2.05` is good.
    pub(crate) fn of_code(code: &str) -> Self {
        if code.starts_with('2') { Self::Good } else { Self::Bad }
    }
}

impl Cell {
    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { tone, ..Self::from(text.as_ref()) }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        let text = if text.is_empty() { NOTHING.to_owned() } else { printable(text) };
        Self { text, tone: Tone::Neutral }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&Value> for Cell {
    fn from(value: &Value) -> Self {
        Self::from(text_of(value))
    }
}

impl Table {
    pub(super) fn new(header: &[&'static str]) -> Self {
        let widths = header.iter().map(|name| name.len()).collect();
        Self { header: header.to_vec(), widths, has_begun: false }
    }

    /// Reserves widths for rows that are not known yet.
    pub(crate) fn with_widths(mut self, widths: &[usize]) -> Self {
        for (width, wanted) in self.widths.iter_mut().zip(widths) {
            *width = (*wanted).max(*width);
        }
        self
    }

    /// Writes rows, and the header before the first ones.
    pub(super) fn write(&mut self, output: &CommandOutput, rows: &[Vec<Cell>]) -> io::Result<()> {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.text.chars().count().max(*width);
            }
        }
        let header = self.header.iter().map(|name| Cell::from(*name)).collect::<Vec<_>>();
        if !std::mem::replace(&mut self.has_begun, true) {
            self.write_row(output, &header, Some(BOLD))?;
        }
        rows.iter().try_for_each(|row| self.write_row(output, row, None))
    }

    fn write_row(&self, output: &CommandOutput, row: &[Cell], style: Option<&str>) -> io::Result<()> {
        let last = row.len().saturating_sub(1);
        let cells = row.iter().zip(&self.widths).enumerate().map(|(index, (cell, width))| {
            let padding = if index == last { 0 } else { width.saturating_sub(cell.text.chars().count()) };
            let text = output.styled(style.unwrap_or_else(|| cell.tone.style()), &cell.text);
            text + &" ".repeat(padding)
        });
        output.line(&cells.collect::<Vec<_>>().join("  "))
    }
}

/// Returns the text of a JSON value: that of a string without quotes, nothing for null.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Replaces control characters, which would change the terminal: a device chooses its name and its values.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            control if control.is_control() => shown.extend(control.escape_unicode()),
            other => shown.push(other),
        }
    }
    shown
}

/// Returns the time since a time of the API: `12m30s`.
pub(crate) fn time_since(time: &Value) -> String {
    unix_time().ok().zip(parsed(time)).map(|(now, time)| short(now.saturating_sub(time))).unwrap_or_default()
}

/// Returns the time until a time of the API.
pub(crate) fn time_until(time: &Value) -> String {
    unix_time().ok().zip(parsed(time)).map(|(now, time)| short(time.saturating_sub(now))).unwrap_or_default()
}

/// Returns the time of the day of a time of the API, in UTC with milliseconds.
pub(super) fn time_of_day(time: &Value) -> String {
    time.as_str().and_then(|text| text.get(11..23)).unwrap_or_default().to_owned()
}

/// Returns a duration in its two largest units, without blanks.
pub(super) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = |first: u64, unit: &str, rest: u64, smaller: &str| match rest {
        0 => format!("{first}{unit}"),
        _ => format!("{first}{unit}{rest}{smaller}"),
    };
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => units(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        HOUR..DAY => units(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        DAY.. => units(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
    }
}

fn parsed(time: &Value) -> Option<Duration> {
    let time = humantime::parse_rfc3339(time.as_str()?).ok()?;
    time.duration_since(UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_duration_has_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (750, "12m30s"),
            (3_600, "1h"),
            (86_399, "23h59m"),
            (90_000, "1d1h"),
            (86_400 * 400, "400d"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}c\nd\u{7f}"), "a\\u{1b}[2Jb\\u{9b}c\\nd\\u{7f}");
        assert_eq!(printable("Zähler 1"), "Zähler 1");
    }

    #[test]
    fn a_cell_without_text_is_a_dash() {
        let texts = [json!(null), json!(""), json!("a"), json!(21.5), json!([1])].map(|value| Cell::from(&value).text);
        assert_eq!(texts, ["-", "-", "a", "21.5", "[1]"]);
    }

    #[test]
    fn a_time_is_shown_as_the_time_of_its_day() {
        assert_eq!(time_of_day(&json!("2026-11-27T20:31:05.120Z")), "20:31:05.120");
        assert_eq!(time_of_day(&json!("soon")), "");
        assert_eq!(time_since(&json!("soon")), "");
    }
}
