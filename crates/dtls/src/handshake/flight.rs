//! Our flights: what we sent last, to be sent again (RFC 6347 section 4.2.4).

use crate::record::{DtlsRecord, records};

/// The records of a flight, as OpenSSL wrote them and as they are protected on the wire.
#[derive(Default)]
pub(super) struct Flight {
    records: Vec<Vec<u8>>,
    /// The sequence number of the next record of epoch 0. A message that is sent again is in a new record (section
    /// 4.2.4): a client that could not use a record yet would drop the same one as a replay. A record of epoch 1 is
    /// sent again unchanged: the same bytes under the same number.
    next_sequence: u64,
}

impl Flight {
    /// Creates a flight whose first record has this number: that of the hello that it answers, which is above all that
    /// were sent before.
    pub(crate) fn starting_at(sequence: u64) -> Self {
        Self { records: Vec::new(), next_sequence: sequence }
    }

    /// Begins a new flight.
    pub(super) fn begin(&mut self) {
        self.records.clear();
    }

    pub(super) fn push(&mut self, record: Vec<u8>) {
        self.records.push(record);
    }

    pub(super) fn extend(&mut self, records: impl IntoIterator<Item = Vec<u8>>) {
        self.records.extend(records);
    }

    /// Renumbers the records and packs them into datagrams of at most this size; a larger record has a datagram of its
    /// own.
    pub(super) fn datagrams(&mut self, mtu: usize) -> Vec<Vec<u8>> {
        for record in &mut self.records {
            number(record, &mut self.next_sequence);
        }
        self.sent(mtu)
    }

    /// Returns the datagrams that were sent last.
    pub(super) fn sent(&self, mtu: usize) -> Vec<Vec<u8>> {
        pack(&self.records, mtu)
    }
}

/// Returns the records that OpenSSL wrote; none of them has a connection id.
pub(super) fn written_records(datagram: &[u8]) -> impl Iterator<Item = DtlsRecord<'_>> {
    records(datagram, 0)
}

fn number(record: &mut [u8], next_sequence: &mut u64) {
    // Type, version, epoch, sequence number (RFC 6347 section 4.1).
    let Some([0, 0, sequence @ ..]) = record.get_mut(3..11) else { return };
    let [_, _, number @ ..] = next_sequence.to_be_bytes();
    sequence.copy_from_slice(&number);
    *next_sequence += 1;
}

fn pack(records: &[Vec<u8>], mtu: usize) -> Vec<Vec<u8>> {
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    for record in records {
        match datagrams.last_mut().filter(|datagram| datagram.len() + record.len() <= mtu) {
            Some(datagram) => datagram.extend(record),
            None => datagrams.push(record.clone()),
        }
    }
    datagrams
}
