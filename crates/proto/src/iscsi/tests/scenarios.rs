//! Sessions from login to their end.

use sds_block::LbaRange;

use super::*;

/// F, W.
const WRITES: u8 = 0xa0;
/// F, R.
const READS: u8 = 0xc0;

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[test]
fn libiscsi_discovers() {
    let mut world = World::new(Settings::default());
    let text = b"InitiatorName=iqn.2010-11.libiscsi:ls\0InitiatorAlias=ls\0SessionType=Discovery\0AuthMethod=None\0";
    assert_eq!(world.send(&login_pdu(0x81, text, 1))[0].data, b"AuthMethod=None\0");
    let text = b"HeaderDigest=None,CRC32C\0MaxRecvDataSegmentLength=262144\0DefaultTime2Wait=2\0ErrorRecoveryLevel=0\0";
    let got = world.send(&login_pdu(0x87, text, 1));
    assert_eq!(got[0].bhs[1], 0x87);
    let got = world.send(&request_pdu(0x04, 0x80, 5, 0xffff_ffff, 1, b"SendTargets=All\0"));
    let expected = [b"TargetName=", TARGET.as_bytes(), b"\0TargetAddress=192.0.2.1:3260,1\0"].concat();
    assert_eq!(got[0].data, expected);
    // No SCSI commands here.
    let got = world.send(&command_pdu(6, &[0; 6], 0, 0x80, &[], 2));
    assert_eq!((got[0].opcode(), got[0].bhs[2]), (0x3f, 0x04));
}

#[test]
fn a_target_list_longer_than_a_segment_comes_in_parts() {
    let mut world = World::new(Settings::default());
    world.send(&login_pdu(0x81, b"InitiatorName=iqn.a:b\0SessionType=Discovery\0AuthMethod=None\0", 1));
    world.send(&login_pdu(0x87, b"MaxRecvDataSegmentLength=512\0", 1));
    let name = |i: u32| [TARGET, &i.to_string()].concat();
    world.machine.poll_event();
    let pdu = world.frame(&request_pdu(0x04, 0x80, 5, 0xffff_ffff, 1, b"SendTargets=All\0"));
    world.machine.handle_control(world.now, &pdu[..48]);
    world.machine.handle_control(world.now, &pdu[48..]);
    assert_eq!(world.machine.poll_event(), Some(Event::SendTargets(Targets::All)));
    let all: Vec<_> = (0..30).map(|i| TargetListing { name: name(i), addresses: vec![] }).collect();
    world.machine.answer_send_targets(world.now, &all);
    let mut got = world.sent();
    let mut text = Vec::new();
    for sn in 2.. {
        let part = got.remove(0);
        assert!(part.data.len() <= 512);
        text.extend_from_slice(&part.data);
        if part.bhs[1] == 0x80 {
            break;
        }
        assert_eq!((part.bhs[1], part.u32(20)), (0x40, 2));
        got = world.send(&request_pdu(0x04, 0x80, 5, part.u32(20), sn, &[]));
    }
    let expected: Vec<u8> = (0..30).flat_map(|i| [b"TargetName=", name(i).as_bytes(), b"\0"].concat()).collect();
    assert_eq!(text, expected);
}

#[test]
fn logins_that_are_refused_say_why() {
    let status = |text: &[u8]| {
        let mut world = World::new(Settings::default());
        let got = world.send(&login_pdu(0x81, text, 1));
        assert!(world.machine.is_closed() && world.machine.termination().is_some());
        u16::from_be_bytes([got[0].bhs[36], got[0].bhs[37]])
    };
    assert_eq!(status(b"TargetName=iqn.a:b\0"), 0x0207);
    assert_eq!(status(b"InitiatorName=iqn.a:b\0"), 0x0207);
    assert_eq!(status(b"InitiatorName=no name\0TargetName=iqn.a:b\0"), 0x0200);
    assert_eq!(status(b"InitiatorName=iqn.a:b\0TargetName=iqn.none:x\0"), 0x0203);
    assert_eq!(status(b"InitiatorName=iqn.a:b\0SessionType=Odd\0"), 0x0209);
    assert_eq!(status(b"InitiatorName=iqn.a:b\0SessionType=Discovery\0AuthMethod=CHAP\0"), 0x0201);
    assert_eq!(status(b"InitiatorName=iqn.a:b\0SessionType=Discovery\0DataDigest=None\0DataDigest=None\0"), 0x0200);
    assert_eq!(status(b"garbage"), 0x0200);
}

#[test]
fn writes_with_immediate_unsolicited_and_solicited_data_land_whole() {
    for (initial_r2t, immediate) in [(false, true), (false, false), (true, true), (true, false)] {
        let settings =
            Settings { initial_r2t, immediate_data: immediate, max_burst_bytes: 8192, ..Settings::default() };
        let mut world = World::logged_in(settings, OPEN_ISCSI);
        let data = pattern(64 * 512, 3);
        let itt = world.cmd_sn;
        let (mut at, mut sn) = (if immediate { 1024 } else { 0 }, 0);
        let flags = if initial_r2t { WRITES } else { 0x20 };
        let mut got = world.command_with(&write_10(100, 64), 64 * 512, flags, &data[..at]);
        // Unsolicited: up to FirstBurstLength, which MaxBurstLength cuts to 8,192.
        while !initial_r2t && at < 8192 {
            assert!(got.is_empty());
            let end = at + 1024;
            got = world.send(&data_out_pdu(itt, 0xffff_ffff, sn, at as u32, end == 8192, &data[at..end]));
            (at, sn) = (end, sn + 1);
        }
        let mut r2ts = 0;
        while got[0].opcode() == 0x31 {
            let (ttt, offset, wanted) = (got[0].u32(20), got[0].u32(40), got[0].u32(44));
            assert_eq!((got[0].u32(36), offset as usize), (r2ts, at));
            assert!(wanted <= 8192);
            (r2ts, at) = (r2ts + 1, at + wanted as usize);
            let half = wanted as usize / 2;
            let part = &data[offset as usize..at];
            assert!(world.send(&data_out_pdu(itt, ttt, 0, offset, false, &part[..half])).is_empty());
            got = world.send(&data_out_pdu(itt, ttt, 1, offset + half as u32, true, &part[half..]));
        }
        assert_eq!((got[0].opcode(), got[0].bhs[1], got[0].bhs[3]), (0x21, 0x80, 0));
        assert_eq!(world.disk[100 * 512..164 * 512], data);
    }
}

#[test]
fn long_reads_come_in_segments_and_bursts() {
    let keys = b"MaxRecvDataSegmentLength=3000\0MaxBurstLength=8192\0InitialR2T=No\0";
    let mut world = World::logged_in(Settings::default(), keys);
    world.disk = pattern(world.disk.len(), 9);
    let got = world.command(&read_10(5, 40), 40 * 512, READS);
    let mut at = 0;
    for (sn, part) in got.iter().enumerate() {
        assert_eq!((part.u32(36) as usize, part.u32(40) as usize), (sn, at));
        assert!(part.data.len() <= 3000);
        assert_eq!(part.data, world.disk[5 * 512 + at..5 * 512 + at + part.data.len()]);
        at += part.data.len();
        let expected = if at == 40 * 512 {
            0x81
        } else if at % 8192 == 0 {
            0x80
        } else {
            0
        };
        assert_eq!(part.bhs[1], expected);
    }
    assert_eq!(at, 40 * 512);
}

#[test]
fn residuals_are_counted_both_ways() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    let flags = |got: &Got| (got.bhs[1] & 0x06, got.u32(44));
    // Reads: nothing, a part of a block, one block of two, more than there is.
    let got = world.command(&read_10(0, 1), 0, READS);
    assert_eq!((got[0].opcode(), flags(&got[0])), (0x21, (0x04, 512)));
    let got = world.command(&read_10(0, 1), 201, READS);
    assert_eq!((got[0].data.len(), flags(&got[0])), (201, (0x04, 311)));
    let got = world.command(&read_10(0, 2), 512, READS);
    assert_eq!((got[0].data.len(), flags(&got[0])), (512, (0x04, 512)));
    let got = world.command(&read_10(0, 1), 10_000, READS);
    assert_eq!((got[0].data.len(), flags(&got[0])), (512, (0x02, 9488)));
    // Writes: only whole blocks that came are written.
    let got = world.command_with(&write_10(0, 2), 512, WRITES, &[7; 512]);
    assert_eq!(flags(&got[0]), (0x04, 512));
    assert_eq!((world.disk[511], world.disk[512]), (7, 0));
    let got = world.command_with(&write_10(4, 1), 1024, WRITES, &[8; 1024]);
    assert_eq!((got[0].opcode(), flags(&got[0])), (0x21, (0x02, 512)));
    assert_eq!((world.disk[5 * 512 - 1], world.disk[5 * 512]), (8, 0));
}

#[test]
fn digests_are_checked_and_sent() {
    let keys = b"HeaderDigest=CRC32C,None\0DataDigest=CRC32C\0InitialR2T=No\0";
    let mut world = World::logged_in(Settings::default(), keys);
    assert_eq!(world.digests, (true, true));
    let got = world.command_with(&write_10(1, 1), 512, WRITES, &pattern(512, 1));
    assert_eq!(got[0].bhs[3], 0);
    assert_eq!(world.command(&read_10(1, 1), 512, READS)[0].data, pattern(512, 1));
    // A data digest that is wrong: the PDU is rejected, its task is ended, nothing is written.
    let pdu = command_pdu(900, &write_10(1, 1), 512, WRITES, &[9; 512], world.cmd_sn);
    world.cmd_sn += 1;
    let mut bytes = world.frame(&pdu);
    *bytes.last_mut().unwrap() ^= 1;
    let got = world.raw(&bytes);
    assert_eq!((got[0].opcode(), got[0].bhs[2]), (0x3f, 0x02));
    assert_eq!((got[1].opcode(), got[1].sense()), (0x21, (0xb, 0x47, 0x05)));
    assert_eq!(world.disk[512..1024], pattern(512, 1));
    // A header digest that is wrong ends the connection.
    let mut bytes = world.frame(&command_pdu(901, &[0; 6], 0, 0x80, &[], world.cmd_sn));
    bytes[50] ^= 1;
    assert!(world.raw(&bytes).is_empty());
    assert!(world.machine.is_closed());
    assert_eq!(world.machine.termination().unwrap().reason, "header digest is wrong");
}

#[test]
fn commands_outside_the_window_are_dropped_and_a_gap_ends_the_connection() {
    let mut world = World::logged_in(Settings { commands_max: 4, ..Settings::default() }, OPEN_ISCSI);
    let sn = world.cmd_sn;
    assert!(world.send(&command_pdu(50, &[0; 6], 0, 0x80, &[], sn + 4)).is_empty());
    assert!(world.send(&command_pdu(51, &[0; 6], 0, 0x80, &[], sn - 1)).is_empty());
    assert_eq!(world.command(&[0; 6], 0, 0x80)[0].bhs[3], 0);
    world.hold = true;
    for _ in 0..4 {
        assert!(world.command(&read_10(0, 1), 512, READS).is_empty());
    }
    // The window is closed: one more is dropped; an immediate one is served.
    assert!(world.command(&read_10(0, 1), 512, READS).is_empty());
    let mut immediate = command_pdu(60, &[0; 6], 0, 0x80, &[], world.cmd_sn);
    immediate[0] |= 0x40;
    assert_eq!(world.send(&immediate)[0].u32(16), 60);
    for (tag, command) in core::mem::take(&mut world.held) {
        world.run(tag, command);
    }
    assert_eq!(world.sent().len(), 4);
    world.send(&command_pdu(70, &[0; 6], 0, 0x80, &[], world.cmd_sn + 1));
    assert!(world.machine.is_closed());
}

#[test]
fn an_abort_is_answered_when_the_device_is_done() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    world.hold = true;
    let itt = world.cmd_sn;
    world.command(&read_10(0, 1), 512, READS);
    assert!(world.send(&request_pdu(0x42, 0x81, 500, itt, world.cmd_sn, &[])).is_empty());
    let (tag, command) = world.held.remove(0);
    world.run(tag, command);
    let got = world.sent();
    assert_eq!((got.len(), got[0].opcode(), got[0].bhs[2], got[0].u32(16)), (1, 0x22, 0, 500));
    assert!(world.answers.is_empty(), "what was read is let go");
    // A write that waits for its R2T's data; the data that still comes is dropped.
    let itt = world.cmd_sn;
    let r2t = world.command(&write_10(0, 4), 2048, WRITES);
    let got = world.send(&request_pdu(0x42, 0x81, 501, itt, world.cmd_sn, &[]));
    assert_eq!((got[0].opcode(), got[0].bhs[2]), (0x22, 0));
    assert!(world.send(&data_out_pdu(itt, r2t[0].u32(20), 0, 0, true, &[1; 2048])).is_empty());
    assert_eq!(got[0].u32(32) - got[0].u32(28), 127, "the whole window is open again");
}

#[test]
fn a_reset_waits_for_the_glue_and_both_sessions_hear_of_it() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    world.answer_resets = false;
    assert!(world.send(&request_pdu(0x42, 0x85, 500, 0xffff_ffff, world.cmd_sn, &[])).is_empty());
    assert_eq!(world.events.last(), Some(&Event::Reset(Reset::LogicalUnit)));
    world.machine.answer_reset(world.now);
    assert_eq!(world.sent()[0].opcode(), 0x22);
    assert_eq!(world.command(&[0; 6], 0, 0x80)[0].sense(), (6, 0x29, 0x03));
    assert_eq!(world.command(&[0; 6], 0, 0x80)[0].bhs[3], 0);
    world.machine.reset_by_other(world.now, Reset::TargetWarm);
    assert_eq!(world.command(&[0; 6], 0, 0x80)[0].sense(), (6, 0x29, 0x03));
    // Functions and units that are not there.
    assert_eq!(world.send(&request_pdu(0x42, 0x88, 501, 0, world.cmd_sn, &[]))[0].bhs[2], 4);
    assert_eq!(world.send(&request_pdu(0x42, 0x83, 502, 0, world.cmd_sn, &[]))[0].bhs[2], 5);
    let mut other = request_pdu(0x42, 0x85, 503, 0, world.cmd_sn, &[]);
    other[9] = 1;
    assert_eq!(world.send(&other)[0].bhs[2], 2);
}

#[test]
fn a_resize_is_heard_of_once_and_inquiry_does_not_hide_it() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    world.machine.set_unit(Some(facts(BLOCKS * 2)));
    assert_eq!(world.command(&[0x12, 0, 0, 0, 36, 0], 36, READS)[0].opcode(), 0x25);
    assert_eq!(world.command(&read_10(0, 1), 512, READS)[0].sense(), (6, 0x2a, 0x09));
    assert_eq!(world.command(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, READS)[0].data[2..4], [0x1f, 0xff]);
    world.machine.set_unit(None);
    assert_eq!(world.command(&[0; 6], 0, 0x80)[0].sense(), (5, 0x25, 0));
    assert_eq!(world.command(&[0x12, 0, 0, 0, 36, 0], 36, READS)[0].data[0], 0x7f);
}

#[test]
fn a_full_pool_and_a_range_past_the_end_are_told_apart() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    world.fail = Some(ErrorKind::NoSpace);
    assert_eq!(world.command_with(&write_10(0, 1), 512, WRITES, &[1; 512])[0].sense(), (7, 0x27, 0x07));
    world.fail = None;
    let got = world.command_with(&write_10(BLOCKS as u32 - 1, 2), 1024, WRITES, &[1; 1024]);
    assert_eq!((got[0].sense(), &got[0].data[5..9]), ((5, 0x21, 0), &[0, 0, 0x10, 0][..]));
    // Over the stated transfer length: the field is named (byte 7 of the CDB).
    let got = world.command(&read_10(0, 2049), 2049 * 512, READS);
    assert_eq!((got[0].sense(), &got[0].data[17..20]), ((5, 0x24, 0), &[0xc0, 0, 7][..]));
}

#[test]
fn unmap_write_same_verify_and_compare_and_write_reach_the_device() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    world.disk.fill(1);
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 0]);
    let got = world.command_with(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 24, WRITES, &list);
    assert_eq!((got[0].bhs[3], world.disk[8 * 512 - 1], world.disk[8 * 512], world.disk[10 * 512]), (0, 1, 0, 1));
    // WRITE SAME(10) of zeros, then of another pattern.
    let same = [0x41, 0, 0, 0, 0, 20, 0, 0, 3, 0];
    assert_eq!(world.command_with(&same, 512, WRITES, &[0; 512])[0].bhs[3], 0);
    assert!(world.disk[20 * 512..23 * 512].iter().all(|&byte| byte == 0));
    assert_eq!(world.command_with(&same, 512, WRITES, &[5; 512])[0].bhs[3], 0);
    assert_eq!(world.disk[20 * 512 - 1], 1);
    assert!(world.disk[20 * 512..23 * 512].iter().all(|&byte| byte == 5));
    assert_eq!(world.disk[23 * 512], 1);
    // VERIFY reads, a transfer at a time; with BYTCHK it compares.
    let mut verify = read_10(0, 4096);
    verify[0] = 0x2f;
    assert_eq!(world.command(&verify, 0, 0x80)[0].bhs[3], 0);
    assert!(world.answers.is_empty());
    let mut verify = read_10(30, 1);
    (verify[0], verify[1]) = (0x2f, 0x02);
    assert_eq!(world.command_with(&verify, 512, WRITES, &[1; 512])[0].bhs[3], 0);
    let mut differs = [1; 512];
    differs[300] = 2;
    let got = world.command_with(&verify, 512, WRITES, &differs);
    assert_eq!((got[0].sense(), &got[0].data[5..9]), ((0xe, 0x1d, 0), &[0, 0, 1, 44][..]));
    let swap = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0];
    assert_eq!(world.command_with(&swap, 1024, WRITES, &[[1; 512], [6; 512]].concat())[0].bhs[3], 0);
    assert_eq!(world.disk[40 * 512], 6);
    assert_eq!(world.command_with(&swap, 1024, WRITES, &[[1; 512], [7; 512]].concat())[0].sense(), (0xe, 0x1d, 0));
}

#[test]
fn a_pattern_longer_than_a_transfer_is_written_in_parts_and_an_abort_ends_it() {
    let settings = Settings { transfer_bytes_max: 4096, ..Settings::default() };
    let mut world = World::logged_in(settings, OPEN_ISCSI);
    let same = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 20, 0, 0];
    let block: Vec<u8> = (0..512_u32).map(|at| (at % 251) as u8).collect();
    world.hold = true;
    assert!(world.command_with(&same, 512, WRITES, &block).is_empty());
    let mut parts = Vec::new();
    while let Some((tag, command)) = world.held.pop() {
        world.run(tag, command.clone());
        parts.push(command);
        world.pump();
    }
    let write = |start, count| Command::Write { range: LbaRange::new(start, count), fua: false };
    assert_eq!(parts, [write(2, 8), write(10, 8), write(18, 4)]);
    assert_eq!(world.sent()[0].bhs[3], 0);
    assert!(world.disk[2 * 512..22 * 512] == block.repeat(20) && world.disk[22 * 512] == 0);

    let itt = world.cmd_sn;
    world.command_with(&same, 512, WRITES, &[9; 512]);
    let mut abort = request_pdu(0x42, 0x81, 77, itt, world.cmd_sn, &[]);
    abort[32..36].copy_from_slice(&itt.to_be_bytes());
    assert!(world.send(&abort).is_empty());
    let (tag, command) = world.held.remove(0);
    world.run(tag, command);
    let got = world.sent();
    assert_eq!((got.len(), got[0].opcode(), got[0].bhs[2]), (1, 0x22, 0));
    assert!(world.held.is_empty() && world.disk[9 * 512] == 9 && world.disk[10 * 512] == block[0]);
}

#[test]
fn data_out_of_order_fails_its_task_only() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    for (sn, offset, bytes) in [(1, 0, 1024), (0, 512, 1024), (0, 0, 512), (0, 0, 2048)] {
        let itt = world.cmd_sn;
        let r2t = world.command(&write_10(0, 2), 1024, WRITES);
        let got = world.send(&data_out_pdu(itt, r2t[0].u32(20), sn, offset, true, &vec![1; bytes]));
        assert_eq!(got[0].sense(), (0xb, 0x0c, 0x0d), "{sn} {offset} {bytes}");
    }
    assert_eq!(world.disk[0], 0);
    assert_eq!(world.command(&[0; 6], 0, 0x80)[0].bhs[3], 0);
}

#[test]
fn bytes_in_flight_are_bounded_and_all_are_served() {
    let settings = Settings { bytes_in_flight_max: 4096, ..Settings::default() };
    let mut world = World::logged_in(settings, OPEN_ISCSI);
    world.hold = true;
    for _ in 0..6 {
        world.command(&read_10(0, 4), 2048, READS);
    }
    let mut served = 0;
    while !world.held.is_empty() {
        assert!(world.held.len() <= 2);
        let (tag, command) = world.held.remove(0);
        world.run(tag, command);
        served += world.sent().len();
    }
    assert_eq!(served, 6);
}

#[test]
fn unasked_data_finds_the_task_set_full_while_the_node_is_short() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    world.machine.set_bytes_in_flight_max(0);
    world.hold = true;
    // The first is let in, whatever it takes; of the others neither immediate data nor Data-Out is kept.
    assert!(world.command_with(&write_10(0, 4), 2048, WRITES, &[1; 2048]).is_empty());
    let in_flight = world.machine.bytes_in_flight();
    assert_eq!(in_flight, 2048);
    let full = world.command_with(&write_10(4, 4), 2048, WRITES, &[2; 2048]);
    assert_eq!((full[0].opcode(), full[0].bhs[3], full[0].data.len()), (0x21, 0x28, 0));
    let itt = world.cmd_sn;
    assert!(world.command_with(&write_10(8, 4), 2048, WRITES & 0x7f, &[3; 512]).is_empty(), "its data goes on");
    let full = world.send(&data_out_pdu(itt, 0xffff_ffff, 0, 512, true, &[3; 1536]));
    assert_eq!((full[0].opcode(), full[0].bhs[3]), (0x21, 0x28));
    assert_eq!(world.machine.bytes_in_flight(), in_flight);
    let (tag, command) = world.held.remove(0);
    world.run(tag, command);
    assert_eq!(world.sent()[0].bhs[3], 0);
    assert!(world.held.is_empty() && world.disk[0] == 1 && world.disk[4 * 512] == 0 && world.disk[8 * 512] == 0);
    world.machine.set_bytes_in_flight_max(1 << 20);
    world.hold = false;
    assert_eq!(world.command_with(&write_10(4, 4), 2048, WRITES, &[2; 2048])[0].bhs[3], 0);
    assert_eq!(world.disk[4 * 512], 2);
}

#[test]
fn silent_peers_are_pinged_and_then_cut_off() {
    let mut world = World::new(Settings::default());
    assert_eq!(world.machine.poll_timeout(), Some(Duration::from_secs(15)));
    world.machine.handle_timeout(Duration::from_secs(15));
    assert_eq!(world.machine.termination().unwrap().reason, "login takes too long");

    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    world.now = Duration::from_secs(15);
    world.machine.handle_timeout(world.now);
    let ping = world.sent().remove(0);
    assert_eq!((ping.opcode(), ping.u32(16), ping.u32(20)), (0x20, 0xffff_ffff, 1));
    assert!(world.send(&request_pdu(0x40, 0x80, 0xffff_ffff, 1, world.cmd_sn, &[])).is_empty());
    assert_eq!(world.machine.poll_timeout(), Some(Duration::from_secs(30)));
    world.machine.handle_timeout(Duration::from_secs(30));
    world.machine.handle_timeout(Duration::from_secs(45));
    assert_eq!(world.machine.termination().unwrap().reason, "no answer to a ping");
}

#[test]
fn a_peer_that_does_not_read_its_answers_is_cut_off() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    let ping = request_pdu(0x40, 0x80, 7, 0xffff_ffff, world.cmd_sn, &[]);
    for _ in 0..=64 {
        world.machine.handle_control(world.now, &ping);
    }
    assert_eq!(world.machine.termination().unwrap().reason, "answers pile up unread");
}
