//! The reason codes of the broker (MQTT 5.0 section 2.4), and what they mean for a device: the table of
//! `docs/upstream.md`.

use std::fmt;

use lwm2m_core::gateway::broker::CloseReason;

/// A reason code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u8);

/// Says what becomes of a device whose CONNECT was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Accepted,
    /// The broker refuses this client: 4.03.
    Refused,
    /// The broker speaks only the older version.
    OtherVersion,
    /// The device has to use another server, if one is named.
    Elsewhere,
    /// The broker cannot take it now: 5.03.
    Unavailable,
}

/// Says what becomes of a device whose SUBSCRIBE was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    Accepted,
    /// The device may not subscribe its command topic: 4.03.
    Refused,
    /// The broker cannot take it now: 5.03.
    Unavailable,
}

/// Says what becomes of a publication that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishResult {
    Done,
    /// The device may not publish there.
    Refused,
    /// The broker considers it invalid, and would do so again.
    Rejected,
}

/// Says what becomes of a device that was disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The broker meant it: the registration ends.
    Closed(CloseReason),
    /// The device has to use another server, if one is named.
    Elsewhere,
    /// The broker rejects what the gateway sent: perhaps the first publication that it has not acknowledged.
    OurFault,
    /// The connection was lost: the device reconnects.
    Lost,
}

impl Reason {
    pub const SUCCESS: Self = Self(0x00);
    pub(crate) const UNSPECIFIED_ERROR: Self = Self(0x80);
    pub(crate) const UNSUPPORTED_PROTOCOL_VERSION: Self = Self(0x84);
    pub(crate) const CLIENT_IDENTIFIER_NOT_VALID: Self = Self(0x85);
    pub(crate) const BAD_USER_NAME_OR_PASSWORD: Self = Self(0x86);
    pub(crate) const NOT_AUTHORIZED: Self = Self(0x87);
    pub(crate) const SERVER_UNAVAILABLE: Self = Self(0x88);
    pub(crate) const BANNED: Self = Self(0x8a);
    pub(crate) const QUOTA_EXCEEDED: Self = Self(0x97);

    /// Reads a reason code of SUBACK.
    pub fn subscription(self) -> Subscription {
        match self {
            Self(..0x80) => Subscription::Accepted,
            Self::QUOTA_EXCEEDED => Subscription::Unavailable,
            Self(0x80..) => Subscription::Refused,
        }
    }

    /// Reads a reason code of CONNACK.
    pub fn admission(self) -> Admission {
        match self.0 {
            0x00 => Admission::Accepted,
            0x84 => Admission::OtherVersion,
            // Client Identifier not valid, Bad User Name or Password, Not authorized, Banned, Bad authentication
            // method.
            0x85 | 0x86 | 0x87 | 0x8a | 0x8c => Admission::Refused,
            0x9c | 0x9d => Admission::Elsewhere,
            _ => Admission::Unavailable,
        }
    }

    /// Reads a reason code of PUBACK.
    pub fn publishing(self) -> PublishResult {
        match self.0 {
            // Success, and No matching subscribers.
            0x00..=0x7f => PublishResult::Done,
            0x87 => PublishResult::Refused,
            _ => PublishResult::Rejected,
        }
    }

    /// Reads a reason code of DISCONNECT.
    pub fn ending(self) -> Ending {
        match self.0 {
            0x87 => Ending::Closed(CloseReason::Refused),
            0x8e => Ending::Closed(CloseReason::Discarded),
            0x98 => Ending::Closed(CloseReason::Kicked),
            // Maximum connect time.
            0xa0 => Ending::Closed(CloseReason::Expired),
            0x9c | 0x9d => Ending::Elsewhere,
            // Malformed Packet, Protocol Error, Topic Name invalid, Receive Maximum exceeded, Packet too large, Payload
            // format invalid, Retain not supported, QoS not supported.
            0x81 | 0x82 | 0x90 | 0x93 | 0x95 | 0x99 | 0x9a | 0x9b => Ending::OurFault,
            _ => Ending::Lost,
        }
    }

    fn name(self) -> &'static str {
        match self.0 {
            0x00 => "success",
            0x10 => "no matching subscribers",
            0x80 => "unspecified error",
            0x81 => "malformed packet",
            0x82 => "protocol error",
            0x83 => "implementation specific error",
            0x84 => "unsupported protocol version",
            0x85 => "client identifier not valid",
            0x86 => "bad user name or password",
            0x87 => "not authorized",
            0x88 => "server unavailable",
            0x89 => "server busy",
            0x8a => "banned",
            0x8b => "server shutting down",
            0x8c => "bad authentication method",
            0x8d => "keep alive timeout",
            0x8e => "session taken over",
            0x8f => "topic filter invalid",
            0x90 => "topic name invalid",
            0x91 => "packet identifier in use",
            0x93 => "receive maximum exceeded",
            0x95 => "packet too large",
            0x96 => "message rate too high",
            0x97 => "quota exceeded",
            0x98 => "administrative action",
            0x99 => "payload format invalid",
            0x9a => "retain not supported",
            0x9b => "QoS not supported",
            0x9c => "use another server",
            0x9d => "server moved",
            0x9f => "connection rate exceeded",
            0xa0 => "maximum connect time",
            _ => "reason",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02x})", self.name(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `docs/upstream.md`, read from there: every row is checked, and every row has a code.
    #[test]
    fn the_documented_table_is_what_happens() {
        let text = include_str!("../../../docs/upstream.md");
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `0x"));
        let mut checked = 0;
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let code = u8::from_str_radix(&cells[0][..2], 16).expect("a code");
            let reason = Reason(code);
            assert_eq!(cells[1], reason.name(), "{row}");
            for (cell, happens) in [
                (cells[2], admission(reason.admission())),
                (cells[3], publishing(reason.publishing())),
                (cells[4], ending(reason.ending())),
            ] {
                assert!(cell == "-" || cell == happens, "{row}: {cell:?} is {happens:?}");
            }
            checked += 1;
        }
        assert_eq!(checked, 30, "rows of the table");
    }

    fn admission(admission: Admission) -> &'static str {
        match admission {
            Admission::Accepted => "accepted",
            Admission::Refused => "4.03",
            Admission::OtherVersion => "retries with 3.1.1",
            Admission::Elsewhere => "connects to the named server, or 5.03",
            Admission::Unavailable => "5.03",
        }
    }

    fn publishing(publishing: PublishResult) -> &'static str {
        match publishing {
            PublishResult::Done => "published",
            PublishResult::Refused => "refused, logged once",
            PublishResult::Rejected => "dropped",
        }
    }

    fn ending(ending: Ending) -> &'static str {
        match ending {
            Ending::Closed(CloseReason::Kicked) => "the registration ends: kicked",
            Ending::Closed(CloseReason::Discarded) => "the registration ends: discarded",
            Ending::Closed(CloseReason::Expired) => "the registration ends: expired",
            Ending::Closed(CloseReason::Refused) => "the registration ends: refused",
            Ending::Elsewhere => "connects to the named server",
            Ending::OurFault => "reconnects; the first unanswered publication is dropped after three attempts",
            Ending::Lost => "reconnects",
        }
    }
}
