//! What was read anew while the program ran.

use std::time::Duration;

use crate::observability::vitals::Level;

use super::{Counter, Gauge, Sample, sample};

/// What is read anew by itself, whatever becomes of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Settings,
    Definitions,
    Keys,
    Certificates,
}

#[derive(Debug, Default)]
pub struct ReloadMetrics {
    settings: Counts,
    definitions_read: Counts,
    keys: Counts,
    certificates: Counts,
    /// Object definitions in force.
    pub definitions: Gauge,
}

#[derive(Debug, Default)]
struct Counts {
    ok: Counter,
    failed: Counter,
    /// The last attempt.
    failing: Gauge,
    /// Seconds since 1970; 0 for never.
    last_success: Gauge,
}

impl ReloadMetrics {
    pub fn succeeded(&self, part: Part, unix_time: Duration) {
        let counts = self.of(part);
        counts.ok.increment();
        counts.failing.set(0);
        counts.last_success.set(unix_time.as_secs());
    }

    pub fn failed(&self, part: Part) {
        self.of(part).failed.increment();
        self.of(part).failing.set(1);
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        let meaning = "Attempts to read anew what may change while the program runs.";
        let of = |part: Part| {
            let (name, counts) = (part.name(), self.of(part));
            [("ok", &counts.ok), ("failed", &counts.failed)].map(|(result, counter)| {
                sample("lwm2m_reloads_total", meaning, format!("part=\"{name}\",result=\"{result}\""), counter)
            })
        };
        Part::ALL.into_iter().flat_map(of).collect()
    }

    pub(super) fn levels(&self) -> Vec<Level> {
        let failing = |part: Part| Level {
            name: "lwm2m_reload_failing",
            meaning: "Whether the last attempt to read this anew failed: what was in force before still is.",
            labels: part.label(),
            value: self.of(part).failing.value(),
        };
        let last = |part: Part| Level {
            name: "lwm2m_reload_last_success_timestamp_seconds",
            meaning: "When this was last read anew, in seconds since 1970; 0 for not since the start.",
            labels: part.label(),
            value: self.of(part).last_success.value(),
        };
        let definitions = Level {
            name: "lwm2m_object_definitions",
            meaning: "Object definitions in force.",
            labels: "",
            value: self.definitions.value(),
        };
        Part::ALL.map(failing).into_iter().chain(Part::ALL.map(last)).chain([definitions]).collect()
    }

    fn of(&self, part: Part) -> &Counts {
        match part {
            Part::Settings => &self.settings,
            Part::Definitions => &self.definitions_read,
            Part::Keys => &self.keys,
            Part::Certificates => &self.certificates,
        }
    }
}

impl Part {
    const ALL: [Self; 4] = [Self::Settings, Self::Definitions, Self::Keys, Self::Certificates];

    pub fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Definitions => "definitions",
            Self::Keys => "keys",
            Self::Certificates => "certificates",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Settings => r#"part="settings""#,
            Self::Definitions => r#"part="definitions""#,
            Self::Keys => r#"part="keys""#,
            Self::Certificates => r#"part="certificates""#,
        }
    }
}
