//! Takes values out of a TOML table one by one, and collects everything that is wrong with them.
//!
//! Who reads says the key, the default and the kind of value; [`ConfigReader::finish`] adds the keys that nobody asked
//! for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;

use toml::{Table, Value};

use super::former;
use super::value_parsers::{shown, text_with_content};

/// Environment variables that begin so override a key: `LWM2M_GATEWAY__COAP__ACK_TIMEOUT` is `coap.ack_timeout`.
const PREFIX: &str = "LWM2M_GATEWAY__";

/// Overrides `log.level`, as it is usual for a log.
const LOG_VARIABLE: &str = "LWM2M_GATEWAY_LOG";

/// The console of a running gateway, for the commands that ask it.
pub(crate) const PLACE_VARIABLE: &str = "LWM2M_GATEWAY_AT";

/// A token of that console. Both may be in the environment of `run`, too, as in a container.
pub(crate) const TOKEN_VARIABLE: &str = "LWM2M_GATEWAY_TOKEN";

/// Environment variables that begin so are meant for this program, unless Kubernetes made them of a Service.
const MEANT: &str = "LWM2M_GATEWAY_";

/// Keys of a section that a message lists.
const SHOWN_KEYS: usize = 4;

/// Two keys that differ in so many letters may be the same word mistyped.
const TYPING_ERRORS: usize = 3;

/// A mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub key: String,
    /// The value as TOML; `None` for an unknown key or a secret.
    pub value: Option<String>,
    /// The environment variable that the value came from.
    pub variable: Option<String>,
    /// The problem, or the expected values.
    pub problem: String,
}

/// The values of a file and of the environment.
pub(crate) struct ConfigReader {
    table: Table,
    variables: BTreeMap<String, String>,
    /// Environment variables with the program's prefix that it does not understand.
    unknown_variables: Vec<String>,
    asked: BTreeSet<String>,
    mistakes: Vec<Mistake>,
    /// The description of the values that each key accepts.
    #[cfg(test)]
    allowed: BTreeMap<String, String>,
}

impl ConfigReader {
    pub(super) fn new(table: Table) -> Self {
        Self {
            table,
            variables: BTreeMap::new(),
            unknown_variables: Vec::new(),
            asked: BTreeSet::new(),
            mistakes: Vec::new(),
            #[cfg(test)]
            allowed: BTreeMap::new(),
        }
    }

    /// Puts the values of the environment over those of the file.
    pub(crate) fn override_from(&mut self, environment: impl IntoIterator<Item = (OsString, OsString)>) {
        for (variable, value) in environment {
            let variable = variable.to_string_lossy().into_owned();
            let key = match variable.strip_prefix(PREFIX) {
                Some(rest) => rest.to_lowercase().replace("__", "."),
                None if variable == LOG_VARIABLE => "log.level".to_owned(),
                None if [PLACE_VARIABLE, TOKEN_VARIABLE].contains(&variable.as_str()) => continue,
                None => {
                    if variable.strip_prefix(MEANT).is_some_and(|rest| !is_of_kubernetes(rest)) {
                        self.unknown_variables.push(variable);
                    }
                    continue;
                }
            };
            match value.into_string() {
                Ok(text) => self.override_one(key, variable, &text),
                Err(raw) => self.add(&key, Some(format!("{raw:?}")), Some(variable), "not UTF-8".to_owned()),
            }
        }
    }

    /// Returns the value of a key, or the default if the key is absent or its value is invalid.
    pub(super) fn read<T>(&mut self, key: &str, default: T, kind: impl Fn(&Value) -> Result<T, String>) -> T {
        self.asked.insert(key.to_owned());
        #[cfg(test)]
        self.learn(key, &kind);
        match self.find(key).map(kind) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(problem)) => {
                self.refuse(key, problem);
                default
            }
        }
    }

    /// Returns a string that no message shows.
    pub(crate) fn read_secret(&mut self, key: &str) -> Option<String> {
        self.asked.insert(key.to_owned());
        #[cfg(test)]
        self.learn(key, text_with_content);
        match text_with_content(self.find(key)?) {
            Ok(secret) => Some(secret),
            Err(problem) => {
                let variable = self.variables.get(key).cloned();
                self.add(key, None, variable, problem);
                None
            }
        }
    }

    /// Marks a key or a section as known.
    pub(crate) fn pass_over(&mut self, key: &str) {
        self.asked.insert(key.to_owned());
    }

    /// Returns the names of the tables below a key; `None` if the key is absent.
    pub(crate) fn names_below(&mut self, key: &str) -> Option<Vec<String>> {
        let names = self.find(key)?.as_table()?.keys().cloned().collect();
        Some(names)
    }

    /// Records a mistake in the value of a key.
    pub(super) fn refuse(&mut self, key: &str, problem: impl Into<String>) {
        self.asked.insert(key.to_owned());
        let value = self.find(key).map(shown);
        let variable = self.variables.get(key).cloned();
        self.add(key, value, variable, problem.into());
    }

    /// Records a mistake in the value of a key that may contain a secret: no message shows the value.
    pub(crate) fn refuse_secret(&mut self, key: &str, problem: impl Into<String>) {
        let variable = self.variables.get(key).cloned();
        self.add(key, None, variable, problem.into());
    }

    /// Returns whether the file or the environment sets this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Returns whether these keys have no mistakes so far, so that their values can be compared.
    pub(crate) fn all_valid(&self, keys: &[&str]) -> bool {
        !self.mistakes.iter().any(|mistake| keys.contains(&mistake.key.as_str()))
    }

    /// Returns a warning for each variable with the program's prefix that it does not understand. Call it after all
    /// keys were read.
    pub(crate) fn unknown_variables(&self) -> Vec<String> {
        let warning = |variable: &String| {
            let rest = variable.trim_start_matches(MEANT).to_lowercase().replace("__", "_");
            let meant = self.asked.iter().find(|asked| asked.replace('.', "_") == rest);
            let hint = match meant {
                Some(key) => format!("did you mean {PREFIX}{}?", key.to_uppercase().replace('.', "__")),
                None => format!("variables are {PREFIX}SECTION__KEY, with two underscores for each dot"),
            };
            format!("{variable}: this environment variable has no effect; {hint}")
        };
        self.unknown_variables.iter().map(warning).collect()
    }

    /// Returns the keys that were read.
    #[cfg(all(test, feature = "embedded"))]
    pub(super) fn asked(&self) -> &BTreeSet<String> {
        &self.asked
    }

    /// Returns the description of the values that each key accepts.
    #[cfg(all(test, feature = "embedded"))]
    pub(super) fn allowed(&self) -> &BTreeMap<String, String> {
        &self.allowed
    }

    /// Learns the description of the accepted values from the error for a date, which no key accepts.
    #[cfg(test)]
    fn learn<T>(&mut self, key: &str, kind: impl Fn(&Value) -> Result<T, String>) {
        const DATE: &str = "1970-01-01";
        let date = Value::Datetime(DATE.parse().unwrap());
        let Err(problem) = kind(&date) else { panic!("{key} takes a date") };
        // A list says which of its items is wrong.
        let said = match problem.strip_prefix(&format!("{DATE}: ")) {
            Some(item) => format!("expected a list; each item is {}", item.trim_start_matches("expected ")),
            None => problem,
        };
        self.allowed.insert(key.to_owned(), said);
    }

    /// Returns the values of the keys that were read and are set.
    pub(super) fn written(&self) -> BTreeMap<String, Value> {
        self.asked.iter().filter_map(|key| Some((key.clone(), self.find(key)?.clone()))).collect()
    }

    /// Returns all mistakes, unknown keys included.
    pub(super) fn finish(mut self) -> Vec<Mistake> {
        let mut unknown = Vec::new();
        self.find_unknown("", &self.table, &mut unknown);
        self.mistakes.extend(unknown);
        self.mistakes
    }

    fn override_one(&mut self, key: String, variable: String, text: &str) {
        let value = text.parse().unwrap_or_else(|_| Value::String(text.to_owned()));
        if insert(&mut self.table, &key, value) {
            self.variables.insert(key, variable);
        } else {
            self.add(&key, Some(format!("{text:?}")), Some(variable), "the file has no section there".to_owned());
        }
    }

    fn find(&self, key: &str) -> Option<&Value> {
        let (sections, last) = key.rsplit_once('.').unwrap_or(("", key));
        let table = sections
            .split('.')
            .filter(|section| !section.is_empty())
            .try_fold(&self.table, |table, section| table.get(section)?.as_table())?;
        table.get(last)
    }

    fn add(&mut self, key: &str, value: Option<String>, variable: Option<String>, problem: String) {
        self.mistakes.push(Mistake { key: key.to_owned(), value, variable, problem });
    }

    /// Collects the unknown keys. The TOML parser limits the depth of nested tables.
    fn find_unknown(&self, prefix: &str, table: &Table, unknown: &mut Vec<Mistake>) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            if self.asked.contains(&key) {
                continue;
            }
            match (value.as_table(), self.is_section(&key)) {
                (Some(below), true) => self.find_unknown(&format!("{key}."), below, unknown),
                (None, true) => unknown.push(Mistake {
                    variable: self.variables.get(&key).cloned(),
                    value: Some(shown(value)),
                    problem: self.section_expected(&key),
                    key,
                }),
                (_, false) => unknown.push(Mistake {
                    variable: self.variables.get(&key).cloned(),
                    value: None,
                    problem: self.hint(&key),
                    key,
                }),
            }
        }
    }

    fn is_section(&self, key: &str) -> bool {
        self.asked.iter().any(|asked| asked.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Describes the section and its keys.
    fn section_expected(&self, key: &str) -> String {
        let below: Vec<&str> =
            self.asked.iter().filter_map(|asked| asked.strip_prefix(key)?.strip_prefix('.')).collect();
        let keys: Vec<&str> = below.iter().copied().filter(|rest| !rest.contains('.')).collect();
        match below.first().and_then(|rest| rest.split_once('.')) {
            Some((section, _)) if keys.is_empty() => format!("expected a section, such as [{key}.{section}]"),
            _ => {
                let more = if keys.len() > SHOWN_KEYS { " ..." } else { "" };
                let keys = keys.into_iter().take(SHOWN_KEYS).collect::<Vec<_>>().join(", ");
                format!("expected a section: [{key}] with {keys}{more}")
            }
        }
    }

    fn hint(&self, key: &str) -> String {
        if let Some(successor) = former::successor(key) {
            return format!("unknown key; instead: {successor} (docs/migration.md)");
        }
        match self.nearest(key) {
            Some(nearest) if key.contains('.') && !nearest.contains('.') => {
                format!("unknown key; did you mean {nearest}? It stands above the first [section]")
            }
            Some(nearest) => format!("unknown key; did you mean {nearest}?"),
            None => "unknown key".to_owned(),
        }
    }

    /// Returns the known key that was probably meant: a mistyped one, or one of another section.
    fn nearest(&self, key: &str) -> Option<&str> {
        let known = self.asked.iter().flat_map(|asked| with_sections(asked));
        let (distance, nearest) = known
            .map(|known| (strsim::damerau_levenshtein(key, known), known))
            .min_by_key(|(distance, _)| *distance)?;
        let elsewhere = || self.asked.iter().find(|asked| last_name(asked) == last_name(key)).map(String::as_str);
        if distance <= TYPING_ERRORS.min(key.len() / 2) { Some(nearest) } else { elsewhere() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(variable) = &self.variable {
            write!(f, " (from {variable})")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// Puts a value at a dotted key, with the sections that it needs; `false` when one of them is no table.
fn insert(table: &mut Table, key: &str, value: Value) -> bool {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return true;
    };
    match table.entry(section).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(below) => insert(below, rest, value),
        _ => false,
    }
}

/// Returns the key and the sections that contain it.
fn with_sections(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('.').map(|(at, _)| &key[..at]).chain([key])
}

fn last_name(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// Returns whether Kubernetes made the variable: it tells each container of the Services, by variables that begin with
/// a Service's name, such as `lwm2m-gateway`.
fn is_of_kubernetes(rest: &str) -> bool {
    let parts: Vec<&str> = rest.split('_').collect();
    let has = |pair: [&str; 2]| parts.windows(2).any(|window| window == pair);
    has(["SERVICE", "HOST"])
        || has(["SERVICE", "PORT"])
        || parts.last() == Some(&"PORT")
        || parts.windows(2).any(|window| window[0] == "PORT" && window[1].parse::<u16>().is_ok())
}
