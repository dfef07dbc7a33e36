#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_gateway::upstream::mqtt::codec::{Frames, Incoming, Malformed, ProtocolVersion};

const MAX_PACKET_SIZE: usize = 4_096;

// What a broker says, in one piece and cut into pieces of this size.
fuzz_target!(|input: (bool, u8, &[u8])| {
    let (modern, piece, stream) = input;
    let version = if modern { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
    let whole = hear(version, [stream]);
    assert_eq!(hear(version, stream.chunks(usize::from(piece).max(1))), whole);
});

fn hear<'a>(version: ProtocolVersion, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Incoming>, Malformed> {
    let mut frames = Frames::new(version, MAX_PACKET_SIZE);
    let heard = pieces.into_iter().map(|piece| frames.push(piece)).collect::<Result<Vec<_>, _>>()?;
    Ok(heard.concat())
}
