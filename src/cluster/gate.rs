//! The gate of the driver: whether the node may serve its shards now.

use std::time::Instant;

use tokio::sync::watch;

/// Opens and closes the gate, for the member task.
#[derive(Debug)]
pub struct GateKeeper(watch::Sender<Option<Instant>>);

/// Shows the driver whether the gate is open.
#[derive(Clone, Debug)]
pub struct ServiceGate(watch::Receiver<Option<Instant>>);

/// Makes a gate, which is closed.
pub fn gate() -> (GateKeeper, ServiceGate) {
    let (keeper, gate) = watch::channel(None);
    (GateKeeper(keeper), ServiceGate(gate))
}

impl GateKeeper {
    /// Opens the gate until this time, or closes it.
    pub fn open_until(&self, until: Option<Instant>) {
        self.0.send_if_modified(|before| {
            let is_news = *before != until;
            *before = until;
            is_news
        });
    }
}

impl ServiceGate {
    /// Returns whether the node may serve its shards at this time.
    pub fn is_open(&self, now: Instant) -> bool {
        self.0.borrow().is_some_and(|until| now < until)
    }

    /// Waits until the gate is opened, closed or opened for longer. Without a member task it never changes.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_gate_closes_by_itself() {
        let (keeper, mut gate) = gate();
        let now = Instant::now();
        assert!(!gate.is_open(now));
        keeper.open_until(Some(now + Duration::from_secs(1)));
        gate.changed().await;
        assert!(gate.is_open(now) && !gate.is_open(now + Duration::from_secs(1)));
        keeper.open_until(None);
        gate.changed().await;
        assert!(!gate.is_open(now));
    }
}
