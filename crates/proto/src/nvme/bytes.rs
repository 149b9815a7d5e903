//! PDUs and commands as literal bytes, field by field. The digests were computed bit by bit by another program.

use alloc::vec::Vec;

use super::initiator::{Config, Initiator};
use super::pair::{Pair, TargetEnd, World, association, config};
use super::pdu::Digests;
use super::spec::pdu::fes;
use crate::connection::{Connection, Piece};

const BOTH: Digests = Digests { header: true, data: true };
const NONE: Digests = Digests { header: false, data: false };

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let nibble = |digit: u8| (digit as char).to_digit(16).expect("a hex digit") as u8;
    digits.chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn feed(end: &mut TargetEnd, world: &mut World, bytes: &[u8]) -> Vec<u8> {
    end.incoming.extend(bytes);
    end.turn(world)
}

fn connected(digests: Digests, disable_flow_control: bool) -> (World, Pair) {
    let mut world = World::new();
    let (_, io) = association(&mut world, digests, disable_flow_control);
    (world, io)
}

/// ICReq: type 0, HLEN 128, PLEN 128; PFV 0, HPDA, DGST, MAXR2T 0.
fn ic_req(hpda: u8, digests: u8) -> Vec<u8> {
    let mut pdu = hex("00 00 80 00 80000000  0000");
    pdu.extend_from_slice(&[hpda, digests, 0, 0, 0, 0]);
    pdu.resize(128, 0);
    pdu
}

#[test]
fn ic_req_and_ic_resp() {
    let mut world = World::new();
    let mut end = TargetEnd::new(&world);
    let answer = feed(&mut end, &mut world, &ic_req(0, 3));
    // Type 1, flags 0, HLEN 128, PDO 0, PLEN 128; PFV 0, CPDA 0, DGST 3, MAXH2CDATA 131072.
    let mut expected = hex("01 00 80 00 80000000  0000 00 03 00000200");
    expected.resize(128, 0);
    assert_eq!(answer, expected);
    let mut host = Initiator::new(Config { digests: BOTH, ..config(0, 0xffff) });
    let Some(Piece::Control(bytes)) = host.poll_transmit() else { panic!("ICReq first") };
    assert_eq!(bytes, ic_req(0, 3));
}

#[test]
fn connect_and_its_answer() {
    let mut world = World::new();
    let mut host = Initiator::new(config(0, 0xffff));
    let mut end = TargetEnd::new(&world);
    let Some(Piece::Control(bytes)) = host.poll_transmit() else { panic!("ICReq first") };
    let answer = feed(&mut end, &mut world, bytes);
    host.handle_control(&answer);
    let Some(Piece::Control(bytes)) = host.poll_transmit() else { panic!("then Connect") };
    let header = hex("04 00 48 48 48040000    7f 40 0000  01 000000 00000000 00000000 0000000000000000
         0000000000000000 00040000 000000 01  0000 0000 1f00 04 00 88130000 000000000000000000000000");
    // Type 4, HLEN 72, PDO 72, PLEN 1096; opcode 0x7f, PSDT 1, CID 0, FCTYPE 1; SGL: offset 0, 1024 bytes, type 0x01;
    // RECFMT 0, QID 0, SQSIZE 31, CATTR bit 2, KATO 5000.
    assert_eq!(bytes[..72], header);
    // HOSTID; CNTLID; SUBNQN at 256; HOSTNQN at 512.
    assert_eq!(bytes[72..72 + 18], [&[0x5a; 16][..], &[0xff, 0xff]].concat());
    assert_eq!(&bytes[72 + 256..72 + 256 + 30], b"nqn.2026-11.io.sds:archive.pac");
    assert_eq!((&bytes[72 + 512..72 + 516], bytes.len()), (&b"nqn."[..], 72 + 1024));
    let answer = feed(&mut end, &mut world, bytes);
    // Type 5, HLEN 24, PLEN 24; result: CNTLID 1; SQHD 0xffff: no flow control; CID 0; status 0.
    assert_eq!(answer, hex("05 00 18 00 18000000  01000000 00000000 ffff 0000 0000 0000"));
}

/// A read of one block at LBA 5 of namespace 1, CID 0x1235, without its common header.
fn read_sqe() -> Vec<u8> {
    // Opcode 2, PSDT 1, CID; NSID 1; CDW2, CDW3, MPTR; SGL: address 0, 512 bytes, transport data block; SLBA 5, NLB 0.
    hex("02 40 3512 01000000 00000000 00000000 0000000000000000
         0000000000000000 00020000 000000 5a  0500000000000000 00000000 00000000 00000000 00000000")
}

#[test]
fn a_read_without_flow_control_has_no_response() {
    let (mut world, mut io) = connected(NONE, true);
    world.disk.bytes[5 * 512..6 * 512].fill(0xab);
    let answer = feed(&mut io.target, &mut world, &join(&[&hex("04 00 48 00 48000000"), &read_sqe()]));
    // Type 7, flags LAST_PDU and SUCCESS, HLEN 24, PDO 24, PLEN 536; CCCID 0x1235, DATAO 0, DATAL 512.
    let header = hex("07 0c 18 18 18020000  3512 0000 00000000 00020000 00000000");
    assert_eq!(answer, join(&[&header, &[0xab; 512]]));
}

#[test]
fn a_read_with_flow_control_has_a_response_with_the_head() {
    let (mut world, mut io) = connected(NONE, false);
    let answer = feed(&mut io.target, &mut world, &join(&[&hex("04 00 48 00 48000000"), &read_sqe()]));
    assert_eq!(answer[..24], hex("07 04 18 18 18020000  3512 0000 00000000 00020000 00000000"));
    // SQHD 2: Connect was the first entry.
    assert_eq!(answer[24 + 512..], hex("05 00 18 00 18000000  0000000000000000 0200 0000 3512 0000"));
}

#[test]
fn a_read_with_digests() {
    let (mut world, mut io) = connected(BOTH, true);
    world.disk.bytes[5 * 512..6 * 512].fill(0xab);
    // FLAGS.HDGSTF, PLEN 76; the header's digest behind it.
    let capsule = join(&[&hex("04 01 48 00 4c000000"), &read_sqe(), &hex("7ad85522")]);
    let answer = feed(&mut io.target, &mut world, &capsule);
    // All four flags, PDO 28, PLEN 544, digest; data, digest.
    let header = hex("07 0f 18 1c 20020000  3512 0000 00000000 00020000 00000000  2f2d8703");
    assert_eq!(answer, join(&[&header, &[0xab; 512], &hex("2fe4fdb2")]));
}

#[test]
fn data_for_a_host_is_aligned_as_it_asks() {
    let mut world = World::new();
    let (_admin, _io) = association(&mut world, NONE, true);
    let mut end = TargetEnd::new(&world);
    // HPDA 7: 32 bytes.
    feed(&mut end, &mut world, &ic_req(7, 0));
    let mut pair = Pair::new(&world, config(2, 1));
    pair.host.turn();
    let mut connect = join(&[&hex("04 00 48 48 48040000"), &[0; 64 + 1024]]);
    connect[8..16].copy_from_slice(&hex("7f 40 0000 01 000000"));
    connect[8 + 32..8 + 40].copy_from_slice(&hex("00040000 000000 01"));
    connect[8 + 42..8 + 47].copy_from_slice(&hex("0200 1f00 04"));
    connect[72..88].fill(0x5a);
    connect[88..90].copy_from_slice(&hex("0100"));
    connect[72 + 256..][..super::pair::SUBSYSTEM.len()].copy_from_slice(super::pair::SUBSYSTEM.as_bytes());
    connect[72 + 512..][..super::pair::HOST.len()].copy_from_slice(super::pair::HOST.as_bytes());
    let answer = feed(&mut end, &mut world, &connect);
    assert_eq!(answer[22..24], [0, 0], "connected");
    let answer = feed(&mut end, &mut world, &join(&[&hex("04 00 48 00 48000000"), &read_sqe()]));
    // PDO 32, PLEN 544: eight bytes of padding.
    assert_eq!(answer[..8], hex("07 0c 18 20 20020000"));
    assert_eq!((answer[24..32].to_vec(), answer.len()), (alloc::vec![0; 8], 32 + 512));
}

/// A write of one block of 0xab at LBA 5 in its capsule, CID 0x1234, with both digests.
fn write_capsule() -> Vec<u8> {
    // Type 4, both digests, HLEN 72, PDO 76, PLEN 592; opcode 1; SGL: offset 0, 512 bytes, type 0x01; SLBA 5, NLB 0.
    let header = hex("04 03 48 4c 50020000  01 40 3412 01000000 00000000 00000000 0000000000000000
         0000000000000000 00020000 000000 01  0500000000000000 00000000 00000000 00000000 00000000  072f6a5d");
    join(&[&header, &[0xab; 512], &hex("2fe4fdb2")])
}

#[test]
fn a_write_in_its_capsule_with_digests() {
    let (mut world, mut io) = connected(BOTH, true);
    let answer = feed(&mut io.target, &mut world, &write_capsule());
    // Type 5, HDGSTF, HLEN 24, PLEN 28; result 0, SQHD 0xffff, CID, status 0; digest.
    assert_eq!(answer, hex("05 01 18 00 1c000000  0000000000000000 ffff 0000 3412 0000  b3a4a991"));
    assert_eq!(world.disk.bytes[5 * 512..6 * 512], [0xab; 512]);
}

#[test]
fn damaged_data_is_answered_and_damaged_headers_end_the_connection() {
    let (mut world, mut io) = connected(BOTH, true);
    let mut damaged = write_capsule();
    damaged[76 + 100] ^= 1;
    let answer = feed(&mut io.target, &mut world, &damaged);
    // Status: Transient Transport Error, 0x22 << 1.
    assert_eq!(answer[22..24], hex("4400"));
    assert_eq!(world.disk.asked, []);
    assert_eq!(feed(&mut io.target, &mut world, &write_capsule())[22..24], hex("0000"));
    let mut damaged = write_capsule();
    damaged[72] ^= 1;
    let answer = feed(&mut io.target, &mut world, &damaged);
    // Type 3, HLEN 24, PLEN 24 + 76; FES 3, FEI: the digest that came; then the header that was at fault.
    assert_eq!(answer[..24], hex("03 00 18 00 64000000  0300 062f6a5d 00000000000000000000"));
    assert_eq!(answer[24..], damaged[..76]);
    assert!(io.target.queue.is_closed());
}

#[test]
fn a_write_by_r2t_with_digests() {
    let (mut world, mut io) = connected(BOTH, true);
    // CID 0x1236; SGL: transport, 16384 bytes; SLBA 8, NLB 31.
    let capsule = hex("04 01 48 00 4c000000  01 40 3612 01000000 00000000 00000000 0000000000000000
         0000000000000000 00400000 000000 5a  0800000000000000 1f000000 00000000 00000000 00000000  e3aeb9cc");
    let answer = feed(&mut io.target, &mut world, &capsule);
    // Type 9, HDGSTF, HLEN 24, PLEN 28; CCCID 0x1236, TTAG 0, R2TO 0, R2TL 16384.
    assert_eq!(answer, hex("09 01 18 00 1c000000  3612 0000 00000000 00400000 00000000  6def7167"));
    // Type 6, both digests and LAST_PDU, HLEN 24, PDO 28, PLEN 16416; CCCID, TTAG, DATAO 0, DATAL 16384.
    let header = hex("06 07 18 1c 20400000  3612 0000 00000000 00400000 00000000  1a42e717");
    let answer = feed(&mut io.target, &mut world, &join(&[&header, &[0xcd; 16384], &hex("2b8518f1")]));
    assert_eq!(answer, hex("05 01 18 00 1c000000  0000000000000000 ffff 0000 3612 0000  3287ce2e"));
    assert_eq!(world.disk.bytes[8 * 512..40 * 512], [0xcd; 16384]);
}

/// What a host sends wrongly, and the FES and FEI that answer it.
struct Wrong {
    what: &'static str,
    bytes: Vec<u8>,
    fes: u16,
    fei: u32,
}

fn wrong(what: &'static str, bytes: Vec<u8>, fes: u16, fei: u32) -> Wrong {
    Wrong { what, bytes, fes, fei }
}

fn expect_term(end: &mut TargetEnd, world: &mut World, case: &Wrong) {
    let answer = feed(end, world, &case.bytes);
    assert_eq!(answer[..4], hex("03 00 18 00"), "{}: C2HTermReq", case.what);
    let (fes, fei) = (u16::from_le_bytes([answer[8], answer[9]]), &answer[10..14]);
    assert_eq!((fes, fei), (case.fes, &case.fei.to_le_bytes()[..]), "{}", case.what);
    assert_eq!(u32::from_le_bytes([answer[4], answer[5], answer[6], answer[7]]) as usize, answer.len());
    assert!(case.bytes.starts_with(&answer[24..]) && answer.len() <= 152, "{}", case.what);
    assert!(end.queue.is_closed() && end.queue.termination().is_some(), "{}", case.what);
    assert!(feed(end, world, &[0; 4096]).is_empty());
}

fn changed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

#[test]
fn a_wrong_first_pdu_is_answered_with_its_fault() {
    for case in [
        wrong("type", hex("0a 00 80 00 80000000"), fes::INVALID_HEADER_FIELD, 0),
        wrong("HLEN", changed(ic_req(0, 0), 2, 24)[..8].to_vec(), fes::INVALID_HEADER_FIELD, 2),
        wrong("PLEN", changed(ic_req(0, 0), 4, 24)[..8].to_vec(), fes::INVALID_HEADER_FIELD, 4),
        wrong("PFV", changed(ic_req(0, 0), 8, 1), fes::UNSUPPORTED_PARAMETER, 8),
        wrong("HPDA", ic_req(32, 0), fes::INVALID_HEADER_FIELD, 10),
        wrong("a command first", hex("04 00 48 00 48000000"), fes::SEQUENCE_ERROR, 0),
    ] {
        let mut world = World::new();
        let mut end = TargetEnd::new(&world);
        expect_term(&mut end, &mut world, &case);
    }
}

#[test]
fn a_wrong_pdu_on_a_queue_is_answered_with_its_fault() {
    let capsule = || join(&[&hex("04 00 48 00 48000000"), &read_sqe()]);
    let header = |bytes: Vec<u8>| bytes[..8].to_vec();
    for case in [
        wrong("a second ICReq", header(ic_req(0, 0)), fes::SEQUENCE_ERROR, 0),
        wrong("a type that only targets send", hex("05 00 18 00 18000000"), fes::INVALID_HEADER_FIELD, 0),
        wrong("HDGSTF", header(changed(capsule(), 1, 1)), fes::INVALID_HEADER_FIELD, 1),
        wrong("HLEN", header(changed(capsule(), 2, 64)), fes::INVALID_HEADER_FIELD, 2),
        wrong("PLEN below HLEN", header(changed(capsule(), 4, 71)), fes::INVALID_HEADER_FIELD, 4),
        wrong("PLEN above the capsule", hex("04 00 48 48 4d200000"), fes::INVALID_HEADER_FIELD, 4),
        wrong("PDO in the header", hex("04 00 48 44 48020000"), fes::INVALID_HEADER_FIELD, 3),
        wrong("PDO not aligned", hex("04 00 48 4a 48020000"), fes::INVALID_HEADER_FIELD, 3),
        wrong("DDGSTF", hex("04 02 48 48 48020000"), fes::INVALID_HEADER_FIELD, 1),
        wrong("PDO at the end", hex("04 00 48 4c 4c000000"), fes::INVALID_HEADER_FIELD, 4),
        wrong("H2CData without data", hex("06 00 18 18 18000000"), fes::INVALID_HEADER_FIELD, 4),
        wrong("H2CData above MAXH2CDATA", hex("06 00 18 18 19000200"), fes::DATA_LIMIT_EXCEEDED, 0),
        wrong(
            "H2CData that no R2T asked for",
            hex("06 04 18 18 18020000  3512 0000 00000000 00020000 00000000"),
            fes::INVALID_HEADER_FIELD,
            10,
        ),
    ] {
        let (mut world, mut io) = connected(NONE, true);
        expect_term(&mut io.target, &mut world, &case);
    }
}

#[test]
fn wrong_data_for_an_r2t_is_answered_with_its_fault() {
    // An R2T of 16384 bytes for CID 0x1236 is open, TTAG 0.
    let capsule = hex("04 00 48 00 48000000  01 40 3612 01000000 00000000 00000000 0000000000000000
         0000000000000000 00400000 000000 5a  0800000000000000 1f000000 00000000 00000000 00000000");
    let data = || hex("06 04 18 18 18400000  3612 0000 00000000 00400000 00000000");
    for case in [
        wrong("CCCID", changed(data(), 8, 0x35), fes::INVALID_HEADER_FIELD, 8),
        wrong("TTAG", changed(data(), 10, 1), fes::INVALID_HEADER_FIELD, 10),
        wrong("DATAO", changed(data(), 13, 2), fes::DATA_OUT_OF_RANGE, 0),
        wrong("DATAL and PLEN differ", changed(data(), 17, 0x20), fes::INVALID_HEADER_FIELD, 16),
        wrong("more than R2TL", changed(changed(data(), 5, 0x42), 17, 0x42), fes::DATA_OUT_OF_RANGE, 0),
        wrong("LAST_PDU too early", changed(changed(data(), 5, 0x20), 17, 0x20), fes::INVALID_HEADER_FIELD, 1),
        wrong("no LAST_PDU", changed(data(), 1, 0), fes::INVALID_HEADER_FIELD, 1),
        wrong("the CID of an open command", capsule.clone(), fes::INVALID_HEADER_FIELD, 10),
    ] {
        let (mut world, mut io) = connected(NONE, true);
        // PLEN counts the header, 24 bytes, too.
        let mut case = case;
        if case.bytes[0] == 6 && case.bytes[5] != 0x40 {
            case.bytes[4] = 0x18;
        }
        assert_eq!(feed(&mut io.target, &mut world, &capsule).len(), 24);
        expect_term(&mut io.target, &mut world, &case);
    }
}

#[test]
fn more_commands_than_the_queue_has_entries_end_the_connection() {
    let (mut world, mut io) = connected(NONE, true);
    io.target.hold = true;
    let capsule = |cid: u8| changed(join(&[&hex("04 00 48 00 48000000"), &read_sqe()]), 10, cid);
    for cid in 0..32 {
        assert!(feed(&mut io.target, &mut world, &capsule(cid)).is_empty());
    }
    expect_term(&mut io.target, &mut world, &wrong("33 of 32", capsule(32), fes::SEQUENCE_ERROR, 0));
}

#[test]
fn a_termination_request_of_the_host_ends_the_connection_without_an_answer() {
    let (mut world, mut io) = connected(NONE, true);
    // Type 2, HLEN 24, PLEN 24; FES 5.
    let answer = feed(&mut io.target, &mut world, &hex("02 00 18 00 18000000 0500 00000000 00000000000000000000"));
    assert!(answer.is_empty() && io.target.queue.is_closed());
    assert_eq!(io.target.queue.termination().map(|end| end.value), Some(5));
}

#[test]
fn a_command_in_place_of_connect_is_refused_and_connect_may_follow() {
    let mut world = World::new();
    let mut end = TargetEnd::new(&world);
    feed(&mut end, &mut world, &ic_req(0, 0));
    let answer = feed(&mut end, &mut world, &join(&[&hex("04 00 48 00 48000000"), &read_sqe()]));
    // Command Sequence Error 0x0c << 1, DNR.
    assert_eq!(answer[20..24], hex("3512 1880"));
    assert!(end.queue.termination().is_none());
}

/// A host of one queue whose Connect, CID 0, was accepted; the next command has CID 0, too.
fn connected_host() -> Initiator {
    let mut host = Initiator::new(Config { digests: NONE, ..config(1, 1) });
    // Type 1, HLEN 128, PLEN 128; PFV 0, CPDA 0, DGST 0, MAXH2CDATA 131072.
    let mut ic_resp = hex("01 00 80 00 80000000  0000 00 00 00000200");
    ic_resp.resize(128, 0);
    while host.poll_transmit().is_some() {}
    host.handle_control(&ic_resp);
    while host.poll_transmit().is_some() {}
    answer_first(&mut host);
    assert_eq!(host.room(), usize::from(config(1, 1).queue_depth));
    host
}

/// A response: type 5, HLEN 24, PLEN 24; result 1, SQHD 0, SQID 0, CID 0, success.
fn answer_first(host: &mut Initiator) {
    host.handle_control(&hex("05 00 18 00 18000000"));
    host.handle_control(&hex("0100000000000000  0000 0000 0000 0000"));
}

#[test]
fn a_response_to_a_command_that_is_still_being_sent_ends_the_connection() {
    for pieces in 0..=2 {
        let mut host = connected_host();
        let tag = host.write(1, 0, 40, 20_480, false).expect("room");
        if pieces > 0 {
            assert!(matches!(host.poll_transmit(), Some(Piece::Control(_))), "the command");
            // An R2T: type 9, HLEN 24, PLEN 24; CCCID 0, TTAG 0, R2TO 0, R2TL 20480.
            host.handle_control(&hex("09 00 18 00 18000000"));
            host.handle_control(&hex("0000 0000 00000000 00500000 00000000"));
        }
        if pieces > 1 {
            assert!(matches!(host.poll_transmit(), Some(Piece::Control(_))), "the header of the data");
        }
        answer_first(&mut host);
        let why = host.termination().expect("an end").reason;
        assert_eq!(why, "a response to a command before all of it was sent", "after {pieces} pieces");
        assert!(host.poll_completion().is_none(), "the tag stays the command's, as its buffer does");
        if let Some(Piece::Payload { tag: sent, .. }) = host.poll_transmit() {
            assert_eq!((sent, pieces), (tag, 2), "only what was begun is sent");
        }
    }
}
