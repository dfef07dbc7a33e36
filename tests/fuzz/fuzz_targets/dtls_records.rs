#![no_main]

use libfuzzer_sys::fuzz_target;
use lwm2m_dtls::record::records;

fuzz_target!(|datagram: &[u8]| {
    for cid_length in [0, 8] {
        let split: Vec<_> = records(datagram, cid_length).collect();
        assert!(split.iter().map(|record| record.bytes.len()).sum::<usize>() <= datagram.len());
        for record in split {
            assert_eq!(record.bytes.len(), 13 + record.cid.len() + record.fragment.len());
            // A record is the same one alone.
            assert_eq!(records(record.bytes, cid_length).collect::<Vec<_>>(), [record]);
        }
    }
});
