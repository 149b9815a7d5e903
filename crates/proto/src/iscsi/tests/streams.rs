//! Streams that are cut anywhere, damaged anywhere, or nothing but noise. proptest prints the seed of what fails.

use proptest::prelude::*;

use super::*;

/// A session's bytes: login, a write with immediate and unsolicited data, a read, a ping, a text, an unmap. Nothing
/// that aborts: what is aborted depends on how far it got.
fn session(world: &World) -> Vec<u8> {
    let text = [b"InitiatorName=iqn.a:b\0TargetName=", TARGET.as_bytes(), b"\0AuthMethod=None\0"].concat();
    let mut unmap = vec![0, 22, 0, 16, 0, 0, 0, 0];
    unmap.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 0]);
    let data: Vec<u8> = (0..3072_u32).map(|i| (i % 251) as u8).collect();
    [
        login_pdu(0x81, &text, 100),
        login_pdu(0x87, OPEN_ISCSI, 100),
        command_pdu(1, &[0; 6], 0, 0x80, &[], 100),
        command_pdu(2, &write_10(8, 6), 3072, 0x20, &data[..1024], 101),
        data_out_pdu(2, 0xffff_ffff, 0, 1024, false, &data[1024..2048]),
        data_out_pdu(2, 0xffff_ffff, 1, 2048, true, &data[2048..]),
        command_pdu(3, &read_10(8, 6), 3072, 0xc0, &[], 102),
        request_pdu(0x40, 0x80, 4, 0xffff_ffff, 103, b"hello"),
        request_pdu(0x04, 0x80, 5, 0xffff_ffff, 103, b"SendTargets=\0"),
        command_pdu(6, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 24, 0xa0, &unmap, 104),
        command_pdu(7, &[0x12, 1, 0x83, 0, 255, 0], 255, 0xc0, &[], 105),
    ]
    .iter()
    .flat_map(|pdu| world.frame(pdu))
    .collect()
}

#[test]
fn where_the_stream_is_cut_makes_no_difference() {
    let run = |portions: usize| {
        let mut world = World::new(Settings::default());
        world.portions = portions;
        let bytes = session(&world);
        let mut got = world.raw(&bytes);
        // Answers to different commands may overtake each other, and StatSN and the window with them.
        got.sort_by_key(|got| (got.bhs[0] & 0x3f == 0x23, got.u32(16), got.bhs[1]));
        let content: Vec<_> = got.iter().map(|got| (got.opcode(), got.bhs[1], got.u32(16), got.data.clone())).collect();
        let ended = world.send(&request_pdu(0x46, 0x80, 9, 0, 106, &[]));
        assert_eq!(ended.len(), 1);
        assert!(world.machine.is_closed() && world.machine.termination().is_none());
        (content, world.disk)
    };
    let whole = run(usize::MAX);
    assert_eq!(whole.0.len(), 9);
    for portions in [1, 2, 3, 5, 7, 13, 47, 48, 49, 100, 511, 1000] {
        assert!(run(portions) == whole, "portions of {portions}");
    }
}

#[test]
fn with_digests_every_changed_byte_is_told_and_none_is_written() {
    let data: Vec<u8> = (0..1536_u32).map(|i| (i % 251) as u8 | 1).collect();
    let pdus = [
        command_pdu(2, &write_10(8, 3), 1536, 0x20, &data[..510], 101),
        data_out_pdu(2, 0xffff_ffff, 0, 510, true, &data[510..]),
        command_pdu(3, &read_10(8, 3), 1536, 0xc0, &[], 102),
        request_pdu(0x40, 0x80, 4, 0xffff_ffff, 103, b"hello"),
        request_pdu(0x04, 0x80, 5, 0xffff_ffff, 103, b"SendTargets=\0"),
        command_pdu(7, &[0x12, 1, 0x83, 0, 255, 0], 255, 0xc0, &[], 104),
    ];
    let keys = [b"HeaderDigest=CRC32C\0DataDigest=CRC32C\0", &OPEN_ISCSI[35..]].concat();
    let sizes: Vec<usize> = pdus.iter().map(|pdu| pdu.len() + if pdu.len() > 48 { 8 } else { 4 }).collect();
    for (place, size) in sizes.iter().enumerate() {
        for at in 0..*size {
            let mut world = World::logged_in(Settings::default(), &keys);
            assert_eq!(world.digests, (true, true));
            let mut frames: Vec<_> = pdus.iter().map(|pdu| world.frame(pdu)).collect();
            frames[place][at] ^= 1 << (at % 8);
            let got = world.raw(&frames.concat());
            // A header that grew leaves a PDU without its end.
            world.machine.handle_timeout(Duration::from_secs(100));
            let ended = world.machine.termination().map(|end| end.reason);
            if at < 52 {
                assert!(matches!(ended, Some("header digest is wrong" | "a PDU stalls")), "{place} {at}: {ended:?}");
            } else {
                let rejected = got.iter().filter(|got| got.opcode() == 0x3f && got.bhs[2] == 0x02);
                assert_eq!(rejected.count(), 1, "{place} {at}");
            }
            // A connection that ends may take a request with it that no device has yet.
            let written = &world.disk[8 * 512..11 * 512];
            assert!(written == [0; 1536] || (place >= 2 && written == data), "{place} {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_ends_in_a_rejection_or_an_end_and_never_in_a_panic(
        hits in prop::collection::vec((0_usize..8192, any::<u8>()), 1..8),
        portions in 1_usize..600,
    ) {
        let mut world = World::new(Settings::default());
        world.portions = portions;
        let mut bytes = session(&world);
        for (at, byte) in hits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        world.raw(&bytes);
        world.machine.handle_timeout(Duration::from_secs(1000));
        world.sent();
    }

    #[test]
    fn any_header_after_login_is_survived(
        headers in prop::collection::vec(prop::array::uniform32(any::<u8>()), 1..12),
        opcodes in prop::collection::vec(0_u8..0x50, 12),
        cdbs in prop::collection::vec(prop::array::uniform16(any::<u8>()), 12),
    ) {
        let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
        for ((header, opcode), cdb) in headers.iter().zip(opcodes).zip(cdbs) {
            let mut bytes = header.to_vec();
            bytes.extend_from_slice(&cdb);
            bytes[0] = opcode | 0x40;
            // No additional headers, little data, LUN 0: so that most get further than the first check.
            bytes[4..7].fill(0);
            bytes[8..16].fill(0);
            let data = usize::from(bytes[7]).next_multiple_of(4);
            bytes.resize(48 + data, 0xa5);
            world.raw(&bytes);
        }
    }

    #[test]
    fn any_cdb_is_answered(code in any::<u8>(), rest in prop::array::uniform15(any::<u8>()), small in any::<bool>()) {
        let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
        let mut cdb = [0; 16];
        cdb[0] = code;
        cdb[1..].copy_from_slice(&rest);
        if small {
            // Low addresses and lengths, so that ranges lie on the unit.
            cdb[2..5].fill(0);
            cdb[6..9].fill(0);
        }
        let got = world.command(&cdb, 4096, 0xc0);
        prop_assert_eq!(got.last().map(|got| got.opcode()).is_some(), true);
        prop_assert!(world.machine.termination().is_none());
    }

    #[test]
    fn noise_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..4000), portions in 1_usize..500) {
        let mut world = World::new(Settings::default());
        world.portions = portions;
        world.raw(&bytes);
    }

    #[test]
    fn text_of_any_form_is_bounded(text in prop::collection::vec(any::<u8>(), 0..9000), flags in any::<u8>()) {
        let mut world = World::new(Settings::default());
        for _ in 0..20 {
            let got = world.send(&login_pdu(flags, &text, 1));
            prop_assert!(got.iter().all(|got| got.data.len() <= 8192));
        }
        prop_assert!(world.machine.is_closed());
    }
}
