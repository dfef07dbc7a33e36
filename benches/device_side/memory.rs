//! Measures the memory of a device over UDP or DTLS.

use std::time::Duration;

use anyhow::ensure;

use crate::crowd::{Crowd, resident_bytes};
use crate::devices::{BenchDevice, SUITE};
use crate::gateway::SECURED;

/// Between two steps of a handshake.
const PAUSE: Duration = Duration::from_millis(1);
/// Devices that register before the measurement, so that what a gateway keeps in any case is not counted.
const BEFORE: u32 = 500;

/// Registers devices, and prints the resident memory that each adds. Nothing of the devices themselves is kept.
pub(crate) fn measure(devices: u32, over_dtls: bool) -> anyhow::Result<()> {
    let mut crowd = Crowd::new()?;
    let mut register = |number| match over_dtls {
        true => registered_over_dtls(&mut crowd, number),
        false => crowd.registered(number).map(drop),
    };
    (0..BEFORE).try_for_each(&mut register)?;
    let before = resident_bytes()?;
    (BEFORE..BEFORE + devices).try_for_each(&mut register)?;
    let each = (resident_bytes()? - before) / f64::from(devices);
    let kind = if over_dtls { SUITE } else { "UDP" };
    println!("{devices} devices with one observation each, {kind}: {each:.0} bytes each");
    Ok(())
}

/// Lets a device shake hands, register and be observed.
fn registered_over_dtls(crowd: &mut Crowd, number: u32) -> anyhow::Result<()> {
    let mut device = BenchDevice::new(number);
    let mut client = device.dtls_client(crowd.now);
    let mut has_registered = false;
    while !device.is_observed() {
        crowd.now += PAUSE;
        if client.is_established() && !has_registered {
            client.send(&device.register());
            has_registered = true;
        }
        let records = client.transmits();
        ensure!(!records.is_empty(), "device {number} has nothing to say, and is not observed");
        for record in records {
            let (_, answers) = crowd.exchange_at(SECURED, number, &record);
            for answer in answers {
                client.handle_datagram(crowd.now, &answer.datagram);
            }
        }
        while let Some(plaintext) = client.poll_plaintext() {
            if let Some(answer) = device.handle_datagram(&plaintext) {
                client.send(&answer);
            }
        }
    }
    // The answer to the observation, which the device has given but not sent.
    for record in client.transmits() {
        crowd.exchange_at(SECURED, number, &record);
    }
    Ok(())
}
