//! Two endpoints and a line between them that loses datagrams.

use super::*;

/// When a datagram arrives, its number, the end that it goes to, and its bytes.
type UnderWay = (Instant, u64, usize, Vec<u8>);

/// Two endpoints and the line between them; what is under way is in the order of its arrival.
struct Line {
    ends: [Endpoint; 2],
    now: Instant,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    rng: StdRng,
    loss: f64,
    sent: u64,
}

impl Line {
    fn new(seed: u64, loss: f64, sizes: [usize; 2]) -> Self {
        let parameters = |block_size| Parameters { block_size, received_body_size: 1 << 21, ..Parameters::default() };
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        Self {
            ends: [Endpoint::new(parameters(sizes[0]), [1; 32]), Endpoint::new(parameters(sizes[1]), [2; 32])],
            now,
            under_way: BinaryHeap::new(),
            rng: StdRng::seed_from_u64(seed),
            loss,
            sent: 0,
        }
    }

    /// Carries what an end has to say: lost, doubled or late by chance.
    fn carry(&mut self, from: usize) {
        while let Some(output) = self.ends[from].poll_output() {
            let CoapOutput::Transmit(Transmit { datagram, .. }) = output else { continue };
            let copies = if self.rng.random_bool(self.loss / 2.0) { 2 } else { 1 };
            for _ in 0..copies {
                if !self.rng.random_bool(self.loss) {
                    self.sent += 1;
                    let late = Duration::from_millis(self.rng.random_range(10..300));
                    self.under_way.push(Reverse((self.now + late, self.sent, 1 - from, datagram.clone())));
                }
            }
        }
    }

    /// To the next moment at which something happens. False when nothing ever will.
    fn step(&mut self) -> bool {
        self.carry(0);
        self.carry(1);
        let arrival = self.under_way.peek().map(|next| next.0.0);
        let deadlines = [self.ends[0].next_deadline(), self.ends[1].next_deadline()];
        let Some(next) = deadlines.into_iter().chain([arrival]).flatten().min() else { return false };
        self.now = next;
        if arrival == Some(next) {
            let Reverse((_, _, to, datagram)) = self.under_way.pop().expect("it was seen");
            self.ends[to].handle_datagram(next, peer(1 - to as u8), &datagram);
        } else {
            self.ends.iter_mut().for_each(|end| end.handle_timeout(next));
        }
        true
    }
}

/// Sends a body, which is compared where it arrives, and gives what came of it.
fn send_over(line: &mut Line, length: usize) -> Option<EndpointEvent> {
    let exchange = line.ends[0].send_request(line.now, peer(1), put(length));
    while line.step() {
        if let Some(EndpointEvent::Request { id, request, .. }) = line.ends[1].poll_event() {
            assert!(request.payload == body(length), "byte for byte");
            line.ends[1].respond(line.now, id, Response::new(Code::CHANGED));
        }
        match line.ends[0].poll_event() {
            Some(EndpointEvent::Acknowledged { .. }) | None => {}
            Some(event) => {
                assert!(
                    matches!(
                        &event,
                        EndpointEvent::Response { exchange: id, .. } | EndpointEvent::TimedOut { exchange: id }
                            if *id == exchange
                    ),
                    "{event:?}"
                );
                return Some(event);
            }
        }
    }
    None
}

#[test]
fn a_firmware_image_of_a_mebibyte_arrives_whole_over_a_line_that_loses_a_tenth() {
    for seed in 0..4 {
        let mut line = Line::new(seed, 0.1, [1024, 1024]);
        let told = send_over(&mut line, 1 << 20);
        let changed = matches!(&told, Some(EndpointEvent::Response { response, .. }) if response.code == Code::CHANGED);
        assert!(changed, "seed {seed}: {told:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_body_goes_up_whole_over_any_line_or_times_out(
        seed: u64,
        length in 0usize..6000,
        loss in 0.0..0.3f64,
        sizes in prop::array::uniform2(prop::sample::select(vec![16usize, 64, 256, 1024])),
    ) {
        let mut line = Line::new(seed, loss, sizes);
        let told = send_over(&mut line, length);
        let changed = matches!(&told, Some(EndpointEvent::Response { response, .. }) if response.code == Code::CHANGED);
        prop_assert!(changed || (loss > 0.0 && matches!(told, Some(EndpointEvent::TimedOut { .. }))), "{:?}", told);
    }
}
