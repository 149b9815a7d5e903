//! An initiator's end of an iSCSI connection: any bytes in any portions, before or after a login.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sds_fuzz::shell::{BLOCK_BYTES, Shell, geometry};
use sds_fuzz::words::{Words, portions};
use sds_proto::iscsi::{
    Event, LoginAccept, LoginAnswer, LoginRefusal, Reset, SessionKind, Settings, TargetConnection, TargetListing,
};
use sds_proto::scsi::opcodes::OPCODES;
use sds_proto::scsi::unit::UnitFacts;
use sds_proto::{Connection, Unit};

const TARGET: &str = "iqn.2026-11.io.sds:pool.volume";
/// The CmdSN of the first request after login.
const FIRST_CMD_SN: u32 = 0xffff_fff8;
const BHS_BYTES: usize = 48;
const IMMEDIATE: u8 = 0x40;
/// A framed PDU has up to so many data bytes.
const FRAMED_BYTES_MASK: u16 = 0x1fff;

fn facts(blocks: u64) -> UnitFacts {
    let mut geometry = geometry();
    geometry.blocks.0 = blocks;
    UnitFacts {
        unit: Unit(0),
        geometry,
        vendor: "SDS".to_owned(),
        product: "VOLUME".to_owned(),
        revision: "1".to_owned(),
        serial: "S1".to_owned(),
    }
}

/// The glue, which answers at once.
fn decide(machine: &mut TargetConnection, now: Duration, event: Event) {
    match event {
        Event::Login(request) => {
            let answer = match request.kind {
                SessionKind::Discovery => LoginAnswer::Accept(LoginAccept { tsih: 9, portal_group: 1, unit: None }),
                SessionKind::Normal { target } if target == TARGET => {
                    LoginAnswer::Accept(LoginAccept { tsih: 9, portal_group: 1, unit: Some(facts(4096)) })
                }
                SessionKind::Normal { .. } => LoginAnswer::Refuse(LoginRefusal::TargetNotFound),
            };
            machine.answer_login(now, answer);
        }
        Event::SessionStarted(_) => {}
        Event::SendTargets(_) => {
            let listing = TargetListing { name: TARGET.to_owned(), addresses: vec!["192.0.2.1:3260,1".to_owned()] };
            machine.answer_send_targets(now, &[listing]);
        }
        Event::Reset(_) => machine.answer_reset(now),
    }
}

/// A login request: straight to the full feature phase.
fn login(keys: &[u8]) -> Vec<u8> {
    let mut pdu = vec![0; BHS_BYTES];
    (pdu[0], pdu[1]) = (0x43, 0x87);
    pdu[5..8].copy_from_slice(&(keys.len() as u32).to_be_bytes()[1..]);
    pdu[24..28].copy_from_slice(&FIRST_CMD_SN.to_be_bytes());
    pdu.extend_from_slice(keys);
    pdu.resize(pdu.len().next_multiple_of(4), 0);
    pdu
}

/// A request that is right but for what the input spoils: F and direction, ITT, CDB, expected bytes, immediate data.
fn command(words: &mut Words<'_>) -> Vec<u8> {
    let opcode = &OPCODES[usize::from(words.u8()) % OPCODES.len()];
    let (choice, itt, lba, blocks) = (words.u8(), words.u8() & 0x0f, words.u8(), words.u8() & 0x1f);
    let mut cdb = [0; 16];
    cdb[0] = opcode.code;
    cdb[1] = opcode.service_action.unwrap_or(opcode.usage[1] & words.u8());
    // Where CDBs of each length have the low bytes of address and length.
    let (lba_at, blocks_at) = match opcode.usage.len() {
        6 => (3, 4),
        10 => (5, 8),
        12 => (5, 9),
        _ => (9, 13),
    };
    (cdb[lba_at], cdb[blocks_at]) = (lba, blocks);
    let range_bytes = u32::from(blocks) * BLOCK_BYTES as u32;
    let expected = match choice & 7 {
        0 | 1 => range_bytes,
        2 => 2 * range_bytes,
        3 => BLOCK_BYTES as u32,
        4 => 24,
        5 => u32::from(blocks),
        _ => u32::from(words.u16()),
    };
    let data_bytes = [0, expected.min(4096), expected.min(1024), 100][usize::from(choice >> 3 & 3)] as u16;
    let mut pdu = vec![0; BHS_BYTES];
    // F, R or W; without F, Data-Out follow unasked.
    (pdu[0], pdu[1], pdu[19]) = (0x01, [0x80, 0xa0, 0xc0, 0xa0, 0xa0, 0x20, 0xc0, 0xe0][usize::from(choice >> 5)], itt);
    pdu[6..8].copy_from_slice(&data_bytes.to_be_bytes());
    pdu[20..24].copy_from_slice(&expected.to_be_bytes());
    pdu[32..].copy_from_slice(&cdb);
    pdu
}

/// Data-Out: for an R2T (ITT, TTT, offset and length as it says), or unsolicited.
fn data_out(words: &mut Words<'_>, r2ts: &mut Vec<[u8; BHS_BYTES]>) -> Vec<u8> {
    let choice = words.u8();
    let mut pdu = vec![0; BHS_BYTES];
    (pdu[0], pdu[1]) = (0x05, choice & 0x80);
    if choice & 1 == 0 || r2ts.is_empty() {
        pdu[19] = choice >> 1 & 0x0f;
        pdu[20..24].fill(0xff);
        (pdu[6], pdu[39], pdu[42]) = (words.u8() & 0x0f, words.u8() & 3, words.u8() & 0x0f);
    } else {
        let r2t = r2ts.swap_remove(usize::from(choice >> 1) % r2ts.len());
        pdu[16..24].copy_from_slice(&r2t[16..24]);
        pdu[40..44].copy_from_slice(&r2t[40..44]);
        // The bursts of this session are below 64 KiB.
        pdu[6..8].copy_from_slice(&r2t[46..48]);
    }
    pdu
}

/// The R2Ts in what the target has sent.
fn r2ts(mut sent: &[u8]) -> Vec<[u8; BHS_BYTES]> {
    let mut found = Vec::new();
    while let Some(bhs) = sent.first_chunk::<BHS_BYTES>() {
        if bhs[0] == 0x31 {
            found.push(*bhs);
        }
        let data_bytes = u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]]) as usize;
        sent = sent.get(BHS_BYTES + data_bytes.next_multiple_of(4)..).expect("whole PDUs are sent");
    }
    found
}

/// The next PDU with data as long as it says, and the next CmdSN.
fn framed(words: &mut Words<'_>, cmd_sn: &mut u32, r2ts: &mut Vec<[u8; BHS_BYTES]>) -> Vec<u8> {
    let selector = words.u8();
    let mut pdu = match selector & 3 {
        0 => command(words),
        1 => data_out(words, r2ts),
        2 => {
            // Ping, task management, text, logout; bytes 16 to 39 have tags, functions and numbers.
            let mut pdu = vec![0; BHS_BYTES];
            (pdu[0], pdu[1]) = ([0x00, 0x02, 0x04, 0x06][usize::from(selector >> 2 & 3)], words.u8());
            (pdu[7], pdu[19], pdu[35]) = (words.u8() & 0x3f, words.u8() & 0x0f, words.u8() & 0x0f);
            pdu[20..24].fill(0xff);
            pdu
        }
        _ => words.array::<BHS_BYTES>().to_vec(),
    };
    if selector & 0x40 != 0 {
        let (place, value) = (words.u8(), words.u8());
        pdu[usize::from(place) % BHS_BYTES] = value;
    }
    pdu[0] |= selector & 0x80 >> 1;
    let data_bytes = u16::from_be_bytes([pdu[6], pdu[7]]) & FRAMED_BYTES_MASK;
    pdu[4..6].fill(0);
    pdu[6..8].copy_from_slice(&data_bytes.to_be_bytes());
    if pdu[0] & 0x3f != 0x05 {
        pdu[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
        if pdu[0] & IMMEDIATE == 0 {
            *cmd_sn = cmd_sn.wrapping_add(1);
        }
    }
    let data = if data_bytes == 0 { [0; 16] } else { words.array() };
    pdu.extend(data.iter().cycle().take(usize::from(data_bytes).next_multiple_of(4)));
    pdu
}

fuzz_target!(|input: &[u8]| {
    let mut words = Words(input);
    let (options, lengths, ms, held) = (words.u8(), words.array(), words.u8(), words.u8());
    let settings = Settings {
        commands_max: 8,
        bytes_in_flight_max: if options & 1 == 0 { 8192 } else { 1 << 20 },
        initial_r2t: options & 2 != 0,
        immediate_data: options & 4 == 0,
        first_burst_bytes: 4096,
        max_burst_bytes: 8192,
        ..Settings::default()
    };
    let mut target = Shell::new(TargetConnection::new(settings, Duration::ZERO), Duration::ZERO);
    let session: &[u8] = match options >> 3 & 3 {
        0 => b"",
        1 => b"InitiatorName=iqn.a:b\0SessionType=Discovery\0MaxRecvDataSegmentLength=512\0",
        _ => {
            b"InitiatorName=iqn.a:b\0TargetName=iqn.2026-11.io.sds:pool.volume\0MaxBurstLength=8192\0\
FirstBurstLength=4096\0InitialR2T=No\0MaxRecvDataSegmentLength=1024\0"
        }
    };
    if !session.is_empty() {
        target.feed(&login(session), 0, decide);
        assert!(target.machine.termination().is_none(), "{:?}", target.machine.termination());
        target.sent.clear();
    }
    target.held_max = usize::from(held & 7);
    let (mut cmd_sn, mut asked) = (FIRST_CMD_SN, Vec::new());
    if options & 0x20 == 0 {
        portions(words.rest(), lengths).for_each(|portion| target.feed(portion, ms & 0x1f, decide));
    } else {
        while !words.is_empty() {
            let pdu = framed(&mut words, &mut cmd_sn, &mut asked);
            portions(&pdu, lengths).for_each(|portion| target.feed(portion, ms & 0x1f, decide));
            asked.extend(r2ts(&std::mem::take(&mut target.sent)));
            // What happens around a session meanwhile.
            match (options >> 6, words.0.len() % 3) {
                (1, 0) => target.machine.set_unit(Some(facts(4096 + words.0.len() as u64))),
                (2, 0) => target.machine.reset_by_other(target.now, Reset::ClearTaskSet),
                (2, 1) => target.machine.reset_by_other(target.now, Reset::LogicalUnit),
                (3, 0) => target.machine.set_unit(None),
                _ => {}
            }
        }
    }
    target.finish(decide);
});
