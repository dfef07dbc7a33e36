//! Disturbances that are not the fault of one of the broker's nodes: a broker that refuses every device, and a machine
//! that cannot open more connections. Each is logged once per change, and is part of the detail of the condition.

use tracing::{info, warn};

/// Counts refusals in a row, with no device accepted in between and none connected, after which the broker is said to
/// refuse every device.
const EVERYBODY: u32 = 3;

#[derive(Debug, Default)]
pub(crate) struct Disturbances {
    refused_in_a_row: u32,
    /// The reason of the last refusal, while every device is refused.
    refusal: Option<String>,
    /// The reason why connections cannot be opened.
    unopened: Option<String>,
    /// Tells whether something has changed since the details were last asked for.
    changed: bool,
}

impl Disturbances {
    /// Notes that the broker refused a device while this many devices are connected.
    pub(crate) fn refused(&mut self, reason: &str, connected: usize) {
        if connected > 0 {
            self.refused_in_a_row = 0;
            return;
        }
        self.refused_in_a_row = self.refused_in_a_row.saturating_add(1);
        if self.refused_in_a_row < EVERYBODY || self.refusal.is_some() {
            return;
        }
        self.refusal = Some(reason.to_owned());
        self.changed = true;
        warn!(reason, "{}", REFUSES_ALL);
    }

    /// Notes that the broker accepted a device. Returns whether it had refused several before, and so perhaps every
    /// device.
    pub(crate) fn accepted(&mut self) -> bool {
        if self.refusal.take().is_some() {
            self.changed = true;
            info!("the broker accepts devices again");
        }
        std::mem::take(&mut self.refused_in_a_row) >= EVERYBODY
    }

    /// Notes that a connection could not be opened, for a reason of this machine.
    pub(crate) fn not_opened(&mut self, why: &str) {
        if self.unopened.as_deref() != Some(why) {
            self.unopened = Some(why.to_owned());
            self.changed = true;
            warn!("no connection to the broker can be opened: {why}");
        }
    }

    pub(crate) fn opened(&mut self) {
        if self.unopened.take().is_some() {
            self.changed = true;
            info!("connections to the broker can be opened again");
        }
    }

    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Adds what there is to say to the detail of the condition.
    pub(crate) fn add_to(&self, detail: String) -> String {
        let refusal = self.refusal.as_ref().map(|reason| format!("{REFUSES_ALL} ({reason})"));
        let unopened = self.unopened.as_ref().map(|why| format!("no connection to the broker can be opened: {why}"));
        [Some(detail), refusal, unopened].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

const REFUSES_ALL: &str = "the broker refuses every device. It needs an authenticator that accepts what `clientinfo` \
                           makes of a device, and access rules that allow its topics: see docs/emqx.md, \
                           \"Authentication and authorization\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_refuses_everybody_when_none_is_connected_and_three_in_a_row_were_refused() {
        let mut disturbances = Disturbances::default();
        disturbances.refused("not authorized", 0);
        disturbances.refused("not authorized", 0);
        assert!(!disturbances.take_changed());
        disturbances.refused("not authorized", 0);
        assert!(disturbances.take_changed());
        let detail = disturbances.add_to("a".to_owned());
        assert!(detail.starts_with("a; the broker refuses every device") && detail.ends_with("(not authorized)"));
        disturbances.refused("not authorized", 0);
        assert!(!disturbances.take_changed());

        assert!(disturbances.accepted());
        assert!(disturbances.take_changed());
        assert_eq!(disturbances.add_to("a".to_owned()), "a");
        assert!(!disturbances.accepted());
    }

    #[test]
    fn a_broker_that_serves_others_does_not_refuse_everybody() {
        let mut disturbances = Disturbances::default();
        (0..10).for_each(|_| disturbances.refused("banned", 1));
        assert!(!disturbances.take_changed());
        assert_eq!(disturbances.add_to("a".to_owned()), "a");
        for _ in 0..10 {
            disturbances.refused("banned", 0);
            disturbances.refused("banned", 0);
            assert!(!disturbances.accepted());
        }
        assert!(!disturbances.take_changed());
    }

    #[test]
    fn connections_that_cannot_be_opened_are_told_until_one_is() {
        let mut disturbances = Disturbances::default();
        disturbances.not_opened("too many open files");
        assert!(disturbances.take_changed());
        disturbances.not_opened("too many open files");
        assert!(!disturbances.take_changed());
        assert_eq!(
            disturbances.add_to("a".to_owned()),
            "a; no connection to the broker can be opened: too many open files"
        );
        disturbances.opened();
        assert!(disturbances.take_changed());
        disturbances.opened();
        assert!(!disturbances.take_changed());
    }
}
