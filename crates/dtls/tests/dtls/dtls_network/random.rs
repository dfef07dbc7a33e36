//! Random histories. The scene looks at every record that leaves: no sequence number of epoch 1 leaves twice with
//! different bytes, whatever is lost, repeated, moved, saved and restarted.

use std::collections::HashSet;
use std::time::Duration;

use lwm2m_dtls::DtlsConfig;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::dtls_network::scene::*;
use lwm2m_dtls::test_client::ClientState;

#[derive(Clone, Debug)]
enum RandomStep {
    DeviceSends(usize),
    ServerSends(usize),
    /// The device sends the last flight of its handshake again.
    DeviceRepeats(usize),
    /// The device has another address.
    Moves(usize),
    Reboots(usize),
    /// Two devices have each other's address.
    Swap,
    /// The store takes so many changes.
    Saves(usize),
    /// kill -9.
    Restarts,
    /// Somebody sends a datagram again that he saw, from an address of his own or that of the device.
    Replays {
        which: prop::sample::Index,
        from_there: bool,
    },
    Passes(u64),
}

fn happening() -> impl Strategy<Value = RandomStep> {
    prop_oneof![
        6 => (0..3usize).prop_map(RandomStep::DeviceSends),
        6 => (0..3usize).prop_map(RandomStep::ServerSends),
        2 => (0..3usize).prop_map(RandomStep::DeviceRepeats),
        1 => (0..3usize).prop_map(RandomStep::Moves),
        1 => (0..3usize).prop_map(RandomStep::Reboots),
        1 => Just(RandomStep::Swap),
        2 => (1..4usize).prop_map(RandomStep::Saves),
        1 => Just(RandomStep::Restarts),
        2 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(which, from_there)| RandomStep::Replays { which, from_there }),
        5 => (1..2_000u64).prop_map(RandomStep::Passes),
    ]
}

fn badly(seed: u64, loss: f64) -> impl FnMut(Direction, &[u8]) -> Vec<(Duration, Vec<u8>)> {
    let mut rng = StdRng::seed_from_u64(seed);
    move |_, datagram| {
        let copies = if rng.random_bool(0.1) { 2 } else { 1 };
        let mut arrivals = Vec::new();
        for _ in 0..copies {
            if !rng.random_bool(loss) {
                arrivals.push((Duration::from_millis(rng.random_range(1..400)), datagram.to_vec()));
            }
        }
        arrivals
    }
}

fn happens(scene: &mut DtlsNetwork, seen: &mut Vec<(std::net::SocketAddr, Vec<u8>)>, happening: RandomStep) {
    match happening {
        RandomStep::DeviceSends(device) => {
            if scene.devices[device].client.is_established() {
                let datagram = scene.device_makes(device, b"up");
                seen.push((scene.devices[device].address, datagram.clone()));
                scene.put_on_its_way(device, datagram);
            }
        }
        RandomStep::ServerSends(at) => {
            if let Some((peer, _)) = scene.established.iter().rev().nth(at).cloned() {
                // Something else each time: the same bytes would be the same record.
                let number = scene.transmitted.len();
                scene.server_sends(peer, &number.to_be_bytes());
            }
        }
        RandomStep::DeviceRepeats(device) => scene.devices[device].client.retransmit(),
        RandomStep::Moves(device) => drop(scene.rebind(device)),
        RandomStep::Reboots(device) => scene.reboot(device),
        RandomStep::Swap => {
            let address = scene.devices[0].address;
            scene.devices[0].address = scene.devices[1].address;
            scene.devices[1].address = address;
        }
        RandomStep::Saves(most) => {
            for change in scene.server.take_changes(most) {
                scene.keep(change);
            }
        }
        RandomStep::Restarts => scene.restart(),
        RandomStep::Replays { which, from_there } => {
            if !seen.is_empty() {
                let (from, datagram) = which.get(seen).clone();
                let from = if from_there { from } else { "203.0.113.77:7".parse().unwrap() };
                scene.give_server(from, &datagram);
            }
        }
        RandomStep::Passes(milliseconds) => scene.run_for(Duration::from_millis(milliseconds)),
    }
    scene.run_for(Duration::from_millis(1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_number_leaves_twice_and_every_device_can_be_reached_in_the_end(
        happenings in proptest::collection::vec(happening(), 1..120),
        seed in any::<u64>(),
        loss in prop_oneof![Just(0.0), Just(0.1), Just(0.25)],
    ) {
        let mut scene = DtlsNetwork::with(DtlsConfig { associations: 6, ..DtlsConfig::default() });
        scene.set_network(badly(seed, loss));
        let third = lwm2m_dtls::test_client::DtlsClientConfig::psk("urn:imei:3", KEY).with_cid(b"dev");
        for client in [psk(), other_psk().with_cid(&[]), third] {
            scene.add(client);
        }
        let mut seen = Vec::new();
        for happening in happenings {
            happens(&mut scene, &mut seen, happening);
        }
        scene.set_quiet_network();
        scene.run_for(Duration::from_secs(90));
        for device in 0..3 {
            // Whatever became of it, a reboot is enough. A flight of the handshake before may still be on its way to
            // the device: it takes the older ServerHello for the answer to its new hello (nothing of a handshake is
            // authentic before Finished), and needs another one.
            for _ in 0..2 {
                scene.reboot(device);
                scene.run_for(Duration::from_secs(5));
                if scene.devices[device].client.is_established() {
                    break;
                }
            }
            prop_assert_eq!(scene.devices[device].client.state(), ClientState::Established);
            let peer = scene.peer();
            scene.assert_data_flows(device, peer);
        }
        scene.run_for(Duration::from_secs(61));
        prop_assert_eq!(scene.server.table_sizes().handshakes, 0);
        let ids: HashSet<_> = scene.established.iter().map(|(peer, _)| peer.association).collect();
        prop_assert_eq!(ids.len(), scene.established.len(), "an id is given once");
    }
}
