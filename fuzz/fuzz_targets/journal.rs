//! Journal headers, frames and groups of deltas: what is read can be written again, and says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sds_fuzz::sealed;
use sds_volume::layout::delta::{decode_group, encode_group, group_head};
use sds_volume::layout::frame::{
    self, JournalHeader, Salt, decode_frame, encode_frame, frame_bytes_hint, split_groups,
};

const SALT: Salt = Salt { journal: 0x99, lap: 7 };

fn try_group(bytes: &[u8]) {
    let head = group_head(bytes);
    if let Ok((lsn, deltas, length)) = decode_group(bytes) {
        assert_eq!(head, Ok((lsn, deltas.len(), length)));
        let (again_lsn, again, _) = decode_group(&encode_group(lsn, &deltas)).expect("what was written is read");
        assert_eq!((again_lsn, again), (lsn, deltas));
    }
}

fn try_frame(bytes: &[u8]) {
    let _ = frame_bytes_hint(bytes);
    let Ok(frame) = decode_frame(bytes, SALT, false) else { return };
    let Ok(groups) = split_groups(frame.groups) else { return };
    groups.iter().for_each(|(_, _, group)| try_group(group));
    let parts: Vec<&[u8]> = groups.iter().map(|(_, _, group)| *group).collect();
    let (again, crc) = encode_frame(&frame.head, &parts, SALT);
    let again = decode_frame(&again, SALT, false).expect("what was written is read");
    assert_eq!((again.head, again.groups, again.crc), (frame.head, frame.groups, crc));
}

fuzz_target!(|input: &[u8]| {
    try_group(input);
    try_group(&sealed::group(input));
    let seed = [SALT.journal.to_le_bytes(), SALT.lap.to_le_bytes()].concat();
    try_frame(&sealed::bytes_of(input, &frame::FRAME, &seed, 0));
    // A frame with an intact group, which the bytes alone seldom have.
    if let Some((head, group)) = input.split_at_checked(48) {
        let frame = [&[1], head, &sealed::group(group)].concat();
        try_frame(&sealed::bytes_of(&frame, &frame::FRAME, &seed, 0));
    }
    if let Ok(header) = JournalHeader::decode(&sealed::bytes_of(input, &frame::HEADER, &[], 4096)) {
        assert_eq!(JournalHeader::decode(&header.encode()), Ok(header));
    }
});
