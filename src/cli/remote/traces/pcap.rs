//! Follows a pcap file of which the gateway keeps the newest messages only.
//!
//! The file has a header of 24 bytes, and before each message one of 16 bytes: seconds, microseconds, length here,
//! length there (draft-ietf-opsawg-pcap).

const FILE_HEADER: usize = 24;
const MESSAGE_HEADER: usize = 16;
const LITTLE_ENDIAN_MAGIC: [[u8; 4]; 2] = [[0xd4, 0xc3, 0xb2, 0xa1], [0x4d, 0x3c, 0xb2, 0xa1]];
const BIG_ENDIAN_MAGIC: [[u8; 4]; 2] = [[0xa1, 0xb2, 0xc3, 0xd4], [0xa1, 0xb2, 0x3c, 0x4d]];

/// Knows which messages were written.
#[derive(Debug, Default)]
pub(crate) struct PcapFollower {
    has_header: bool,
    /// Time of the newest message that was written, and the number of written messages of that time.
    newest: Option<(MessageTime, usize)>,
}

/// Seconds and fraction, as in the file.
type MessageTime = (u32, u32);

impl PcapFollower {
    /// Returns the part of the file that was not returned before; `None` if it is no pcap file.
    pub(crate) fn new_part(&mut self, file: &[u8]) -> Option<Vec<u8>> {
        let (header, mut rest) = file.split_at_checked(FILE_HEADER)?;
        let number = number_reader(header)?;
        let mut new = if self.has_header { Vec::new() } else { header.to_vec() };
        self.has_header = true;
        let mut of_newest = 0;
        while !rest.is_empty() {
            let time = (number(rest, 0)?, number(rest, 4)?);
            let size = MESSAGE_HEADER.checked_add(usize::try_from(number(rest, 8)?).ok()?)?;
            let (message, after) = rest.split_at_checked(size)?;
            rest = after;
            match self.newest {
                Some((newest, _)) if time < newest => continue,
                Some((newest, written)) if time == newest => {
                    of_newest += 1;
                    if of_newest <= written {
                        continue;
                    }
                    self.newest = Some((newest, of_newest));
                }
                Some(_) | None => {
                    of_newest = 1;
                    self.newest = Some((time, 1));
                }
            }
            new.extend_from_slice(message);
        }
        Some(new)
    }
}

/// Returns a reader of numbers in the byte order of the file.
fn number_reader(header: &[u8]) -> Option<impl Fn(&[u8], usize) -> Option<u32>> {
    let magic: [u8; 4] = header.first_chunk().copied()?;
    let is_little_endian = LITTLE_ENDIAN_MAGIC.contains(&magic);
    if !is_little_endian && !BIG_ENDIAN_MAGIC.contains(&magic) {
        return None;
    }
    Some(move |bytes: &[u8], at: usize| {
        let bytes: [u8; 4] = bytes.get(at..)?.first_chunk().copied()?;
        Some(if is_little_endian { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        let mut header = vec![0xd4, 0xc3, 0xb2, 0xa1];
        header.resize(FILE_HEADER, 0);
        header
    }

    fn message(seconds: u32, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let numbers = [seconds, 0, length, length].map(u32::to_le_bytes);
        [numbers.concat(), payload.to_vec()].concat()
    }

    #[test]
    fn each_message_is_written_once_while_old_ones_leave_the_file() {
        let [a, b, c, d] = [message(1, b"a"), message(2, b"b"), message(2, b"c"), message(3, b"d")];
        let file =
            |messages: &[&Vec<u8>]| messages.iter().fold(header(), |file, message| [file, (*message).clone()].concat());
        let mut follower = PcapFollower::default();
        assert_eq!(follower.new_part(&file(&[])), Some(header()));
        assert_eq!(follower.new_part(&file(&[&a, &b])), Some([a.clone(), b.clone()].concat()));
        assert_eq!(follower.new_part(&file(&[&a, &b])), Some(Vec::new()));
        assert_eq!(follower.new_part(&file(&[&b, &c])), Some(c.clone()));
        assert_eq!(follower.new_part(&file(&[&c, &d])), Some(d));
    }

    #[test]
    fn what_is_no_pcap_file_is_refused() {
        for file in
            [&b"{}"[..], &[0; 24], &[header(), vec![1, 2, 3]].concat(), &[header(), message(1, b"a")].concat()[..40]]
        {
            assert_eq!(PcapFollower::default().new_part(file), None, "{file:?}");
        }
    }
}
