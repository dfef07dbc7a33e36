//! Compares the gateway with a client that does nothing but publish to the same broker, in one run. The rate of each
//! rises by steps until less arrives than is offered, twice; the best rate that arrived is compared.

use std::time::Duration;

use lwm2m_load::{Application, Fleet};

use crate::bare::{self, BareLoad};
use crate::server::BenchServer;
use crate::site::{BenchSite, Upstream};
use crate::stage::Stage;
use crate::{Arguments, notify};

/// The first rate of the first search.
const FIRST: f64 = 2_000.0;
/// From one rate to the next.
const STEP: f64 = 1.25;
/// A later search begins with this share of the best rate of the first one.
const BEGIN: f64 = 0.6;

/// The best rate of a search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Best(pub f64);

/// Searches for the best rate of the bare client.
pub(crate) async fn bare(
    arguments: &Arguments,
    before: Option<Best>,
    site: &BenchSite,
    application: &Application,
) -> anyhow::Result<Best> {
    search("bare client", before, async |rate| {
        let (devices, qos, duration) = (arguments.devices, arguments.qos, Duration::from_secs(arguments.seconds));
        bare::measure(arguments.upstream, BareLoad { devices, qos, duration, rate }, site, application).await
    })
    .await
}

/// Searches for the best rate of the gateway.
pub(crate) async fn gateway(
    arguments: &Arguments,
    bare: Best,
    sides: (&BenchServer, &BenchSite),
    application: &Application,
    fleet: &Fleet,
) -> anyhow::Result<Best> {
    search("gateway", Some(bare), async |rate| notify(arguments, rate, sides, application, fleet).await).await
}

/// Prints the comparison.
pub(crate) fn compare(upstream: Upstream, [before, after]: [Best; 2], gateway: Best) {
    let mean = f64::midpoint(before.0, after.0);
    println!(
        "best over {upstream}: bare client {:.0}/s before and {:.0}/s after, gateway {:.0}/s: {:.0} % of the bare \
         client",
        before.0,
        after.0,
        gateway.0,
        gateway.0 / mean * 100.0
    );
}

async fn search(
    name: &str,
    before: Option<Best>,
    measure: impl AsyncFn(u32) -> anyhow::Result<Stage>,
) -> anyhow::Result<Best> {
    let mut rate = before.map_or(FIRST, |before| before.0 * BEGIN);
    let (mut best, mut failures): (f64, u32) = (0.0, 0);
    loop {
        let stage = measure(rate as u32).await?;
        stage.print(name);
        if stage.has_arrived() {
            best = best.max(stage.received);
        }
        failures = if stage.is_sustained() { 0 } else { failures + 1 };
        match failures {
            0 => rate *= STEP,
            // Other programs may have disturbed it.
            1 => {}
            2.. => return Ok(Best(best)),
        }
    }
}
