//! What verifying costs: CRCs of 4 KiB and of 128 KiB, in microseconds of a processor.
use std::time::Instant;

use sds_volume::layout::check::block_crc;
use sds_volume::place::{ExtentId, Generation};

fn main() {
    let bytes: Vec<u8> = (0..128 << 10).map(|n: u32| (n * 7) as u8).collect();
    let id = ExtentId::new(131, Generation(1));
    for blocks in [1_u32, 32] {
        let (rounds, began) = (200_000 / blocks, Instant::now());
        let mut sum = 0_u32;
        for _ in 0..rounds {
            for (block, bytes) in (0..).zip(bytes.chunks(4096).take(blocks as usize)) {
                sum ^= block_crc(id, block, bytes);
            }
        }
        let us = began.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
        println!("{} KiB: {us:.2} us ({sum:08x})", blocks * 4);
    }
}
