//! Streams that are split or damaged anywhere.

use alloc::vec::Vec;
use core::time::Duration;

use proptest::prelude::*;

use super::initiator::Data;
use super::pair::{TargetEnd, World, association, config};
use super::pdu::Digests;
use super::spec::command::{Sqe, io};
use crate::connection::Connection;

/// All that a host sends on an I/O queue: Connect, writes of every kind, reads, ranges; and all that comes back.
fn conversation(digests: Digests) -> (Vec<u8>, Vec<u8>) {
    let mut world = World::new();
    let (_admin, io) = association(&mut world, digests, false);
    drop(io);
    world.controllers.get_mut(&1).expect("made").disconnect_io(1);
    let config = super::initiator::Config { digests, disable_flow_control: false, ..config(1, 1) };
    let mut host = super::pair::HostEnd::new(config);
    let mut target = TargetEnd::new(&world);
    let (mut sent, mut answered) = (Vec::new(), Vec::new());
    let mut asked = false;
    loop {
        let to_target = host.turn();
        target.incoming.extend(&to_target);
        let to_host = target.turn(&mut world);
        host.incoming.extend(&to_host);
        sent.extend_from_slice(&to_target);
        answered.extend_from_slice(&to_host);
        if to_target.is_empty() && to_host.is_empty() {
            if asked {
                return (sent, answered);
            }
            asked = true;
            for (at, bytes) in [512_u32, 8192, 12_288].into_iter().enumerate() {
                let tag = host.machine.write(1, at as u64 * 64, bytes / 512, bytes, false).expect("room");
                host.buffers.insert(tag.0, alloc::vec![at as u8 + 1; bytes as usize]);
            }
            let dsm = Sqe { opcode: io::DSM, nsid: 1.into(), cdw11: 4.into(), ..Sqe::default() };
            host.machine.submit(dsm, Data::WriteControl(alloc::vec![0; 16])).expect("room");
            host.machine.read(1, 0, 1, 512).expect("room");
            host.machine.flush(1).expect("room");
        }
    }
}

/// A world in which controller 1 waits for its I/O queue.
fn world(digests: Digests) -> World {
    let mut world = World::new();
    association(&mut world, digests, false);
    world.controllers.get_mut(&1).expect("made").disconnect_io(1);
    world
}

fn replay(digests: Digests, portions: &[&[u8]]) -> (Vec<u8>, TargetEnd) {
    let mut world = world(digests);
    let mut target = TargetEnd::new(&world);
    let mut answered = Vec::new();
    for portion in portions {
        target.incoming.extend(*portion);
        answered.extend(target.turn(&mut world));
    }
    (answered, target)
}

fn digests() -> impl Strategy<Value = Digests> {
    (any::<bool>(), any::<bool>()).prop_map(|(header, data)| Digests { header, data })
}

#[test]
fn a_stream_cut_at_any_byte_gives_the_same_answers() {
    for both in [false, true] {
        let digests = Digests { header: both, data: both };
        let (sent, _) = conversation(digests);
        let (whole, target) = replay(digests, &[&sent]);
        assert!(target.queue.termination().is_none(), "{:?}", target.queue.termination());
        // Payloads are uniform, so every 97th cut and all of the first kilobytes see every field's edge.
        let cuts = (0..sent.len()).filter(|at| *at < 3000 || at % 97 == 0 || sent.len() - at < 700);
        for cut in cuts {
            let (parts, _) = replay(digests, &[&sent[..cut], &sent[cut..]]);
            assert!(parts == whole, "cut at {cut}");
        }
    }
}

#[test]
fn with_digests_no_changed_byte_goes_unnoticed() {
    let digests = Digests { header: true, data: true };
    let (sent, _) = conversation(digests);
    let (whole, _) = replay(digests, &[&sent]);
    // ICReq has no digest. Payloads are uniform, so not each of their bytes need be tried.
    for at in (128..sent.len()).filter(|at| *at < 3000 || at % 61 == 0 || sent.len() - at < 300) {
        let mut changed = sent.clone();
        changed[at] ^= 1 << (at % 8);
        let (answered, mut target) = replay(digests, &[&changed]);
        // A length that grew leaves a PDU without its end.
        target.queue.handle_timeout(Duration::from_secs(10_000));
        assert!(target.queue.termination().is_some() || answered != whole, "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_changed_anywhere_end_the_connection_with_a_word_or_are_answered(
        digests in digests(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        early in any::<bool>(),
    ) {
        let (mut sent, _) = conversation(digests);
        let reach = if early { sent.len().min(1700) } else { sent.len() };
        for (at, value) in changes {
            let at = at.index(reach);
            sent[at] = value;
        }
        let (answered, mut target) = replay(digests, &[&sent]);
        if target.queue.termination().is_some() {
            prop_assert!(target.queue.is_closed());
            prop_assert!(ends_with_term_req(&answered) || host_terminated(&target));
        }
        prop_assert!(target.queue.poll_transmit().is_none());
    }

    #[test]
    fn any_bytes_at_all_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), ic in any::<bool>()) {
        let mut world = world(Digests::default());
        let mut target = TargetEnd::new(&world);
        if ic {
            target.incoming.extend(super::pdu::ic_req(0, Digests::default(), 0));
        }
        target.incoming.extend(&bytes);
        target.turn(&mut world);
    }

    #[test]
    fn a_damaged_answer_never_panics_the_host(
        digests in digests(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let (_, mut answered) = conversation(digests);
        let at = at.index(answered.len());
        answered[at] = value;
        let config = super::initiator::Config { digests, disable_flow_control: false, ..config(1, 1) };
        let mut host = super::pair::HostEnd::new(config);
        host.turn();
        host.incoming.extend(&answered[..128]);
        host.turn();
        let start = answered.len().min(128 + 24 + if digests.header { 4 } else { 0 });
        host.incoming.extend(&answered[128..start]);
        host.turn();
        for at in 0..3_u64 {
            if let Some(tag) = host.machine.write(1, at * 64, 1, 512 << at, false) {
                host.buffers.insert(tag.0, alloc::vec![1; 512 << at]);
            }
        }
        host.incoming.extend(&answered[start..]);
        host.turn();
    }
}

fn ends_with_term_req(answered: &[u8]) -> bool {
    // Its PLEN says where it starts from the end.
    (24..=152)
        .any(|len| answered.len() >= len && answered[answered.len() - len..][..8] == [3, 0, 24, 0, len as u8, 0, 0, 0])
}

fn host_terminated(target: &TargetEnd) -> bool {
    target.queue.termination().is_some_and(|end| end.reason.contains("H2CTermReq"))
}
