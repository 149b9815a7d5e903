//! Bodies in the envelopes of `sds_volume::layout`, with the right length and CRC.

use sds_volume::layout::codec::{Envelope, crc32c};

/// `body` as the input says: as it stands, or (most of the time) as the body of an `envelope`.
#[must_use]
pub fn bytes_of(input: &[u8], envelope: &Envelope, seed: &[u8], padded_bytes: usize) -> Vec<u8> {
    match input.split_first() {
        None | Some((0, _)) => input.get(1..).unwrap_or_default().to_vec(),
        Some((_, body)) => {
            let mut out = envelope.begin();
            out.bytes(body);
            if out.0.len() < padded_bytes {
                out.0.resize(padded_bytes, 0);
            }
            envelope.seal(out, seed)
        }
    }
}

/// `body` (LSN, count, deltas) as a group of deltas.
#[must_use]
pub fn group(body: &[u8]) -> Vec<u8> {
    let mut head = vec![0x47, 1];
    head.extend((10 + body.len() as u32).to_le_bytes());
    let crc = crc32c(&[&head, body]);
    head.extend(crc.to_le_bytes());
    head.extend(body);
    head
}
