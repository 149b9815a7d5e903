//! Conversations between a host and the target, by the features that a host counts on.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;

use sds_block::{Command, ErrorKind, LbaCount, LbaRange};
use zerocopy::{FromBytes, IntoBytes};

use super::event::{DISCOVERY_NQN, DiscoveryEntry, Event, QueueLimits};
use super::initiator::{Config, Data, Progress};
use super::pair::{BLOCKS, Pair, World, admin_queue, association, config, identify, log_page, property_sqe};
use super::pdu::Digests;
use super::spec::command::{DsmRange, Sqe, admin, fctype, io, property};
use super::spec::identify::{IdentifyController, IdentifyNamespace, cns};
use super::spec::log::{DiscoveryHeader, DiscoveryRecord, ErrorEntry, Smart, fid, lid};
use super::status::Status;
use crate::connection::Connection;

const ALL_DIGESTS: [Digests; 4] = [
    Digests { header: false, data: false },
    Digests { header: true, data: false },
    Digests { header: false, data: true },
    Digests { header: true, data: true },
];

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at + seed * 7919).wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

fn feature(opcode: u8, feature: u8, value: u32) -> Sqe {
    Sqe { opcode, cdw10: u32::from(feature).into(), cdw11: value.into(), ..Sqe::default() }
}

#[test]
fn what_is_written_is_read_with_any_digests_and_in_any_size() {
    for digests in ALL_DIGESTS {
        for disable_flow_control in [true, false] {
            let mut world = World::new();
            let (_admin, mut io) = association(&mut world, digests, disable_flow_control);
            (io.target.chunk_bytes, io.host.chunk_bytes) = (1000, 777);
            let peer = io.target.queue.peer().expect("connected").clone();
            assert_eq!((peer.header_digest, peer.data_digest), (digests.header, digests.data));
            assert_eq!((peer.queue_id, peer.queue_depth), (1, 32));
            for (seed, len) in [512, 4096, 8192, 8704, 131_072, 131_584, 1 << 20].into_iter().enumerate() {
                let data = pattern(seed, len);
                assert_eq!(io.write(&mut world, seed as u64, &data), Status::SUCCESS);
                assert!(io.read(&mut world, seed as u64, (len / 512) as u32).unwrap() == data, "{len}");
            }
            assert_eq!(io.target.queue.open_commands(), 0);
        }
    }
}

#[test]
fn many_commands_are_open_at_once_and_each_gets_its_own_answer() {
    let mut world = World::new();
    let (_admin, mut io) = association(&mut world, Digests::default(), true);
    io.target.hold = true;
    for at in 0..31_u64 {
        let tag = io.host.machine.write(1, at * 8, 8, 4096, false).unwrap();
        io.host.buffers.insert(tag.0, pattern(at as usize, 4096));
    }
    assert!(io.host.machine.flush(1).is_none(), "the queue is full");
    io.settle(&mut world);
    assert_eq!(io.target.held(), 31);
    io.target.release(&mut world);
    io.settle(&mut world);
    let ended: Vec<_> = core::iter::from_fn(|| io.host.machine.poll_completion()).collect();
    assert_eq!(ended.len(), 31);
    assert!(ended.iter().all(|completion| completion.status == Status::SUCCESS));
    io.target.hold = false;
    for at in 0..31_u64 {
        assert!(io.read(&mut world, at * 8, 8).unwrap() == pattern(at as usize, 4096));
    }
}

#[test]
fn payloads_wait_for_room_and_all_come_to_an_end() {
    let mut world = World::new();
    world.limits = QueueLimits { bytes_in_flight_max: 1 << 20, ..QueueLimits::default() };
    let (_admin, mut io) = association(&mut world, Digests::default(), false);
    io.target.hold = true;
    for at in 0..4_u64 {
        let tag = io.host.machine.write(1, at * 1024, 1024, 512 << 10, false).unwrap();
        io.host.buffers.insert(tag.0, pattern(at as usize, 512 << 10));
        io.host.machine.read(1, at * 1024, 1024, 512 << 10).unwrap();
    }
    for _ in 0..4 {
        io.settle(&mut world);
        assert_eq!(io.target.held(), 2, "two of 512 KiB fit into 1 MiB");
        io.target.release(&mut world);
    }
    io.settle(&mut world);
    assert_eq!(core::iter::from_fn(|| io.host.machine.poll_completion()).count(), 8);
    assert_eq!(io.target.queue.open_commands(), 0);
}

#[test]
fn io_commands_ask_the_device_for_what_they_say() {
    let mut world = World::new();
    let (_admin, mut pair) = association(&mut world, Digests { header: true, data: true }, true);
    let data = pattern(1, 4096);
    let tag = pair.host.machine.write(1, 16, 8, 4096, true).unwrap();
    pair.host.buffers.insert(tag.0, data.clone());
    assert_eq!(pair.end(&mut world, tag).status, Status::SUCCESS);
    for nsid in [1, u32::MAX] {
        let tag = pair.host.machine.flush(nsid).unwrap();
        assert_eq!(pair.end(&mut world, tag).status, Status::SUCCESS);
    }
    let compare = Sqe { opcode: io::COMPARE, nsid: 1.into(), cdw10: 16.into(), cdw12: 7.into(), ..Sqe::default() };
    assert_eq!(pair.run(&mut world, compare, Data::WriteControl(data.clone())).status, Status::SUCCESS);
    let other = Data::WriteControl(pattern(2, 4096));
    assert_eq!(pair.run(&mut world, compare, other).status, Status::COMPARE_FAILURE);
    // NLB 7, DEAC (bit 25), FUA (bit 30).
    let zeroes = Sqe { opcode: io::WRITE_ZEROES, cdw12: (7 | 1 << 25 | 1 << 30).into(), ..compare };
    assert_eq!(pair.run(&mut world, zeroes, Data::None).status, Status::SUCCESS);
    assert_eq!(pair.read(&mut world, 16, 8).unwrap(), [0; 4096]);
    let range = LbaRange::new(16, 8);
    let asked = core::mem::take(&mut world.disk.asked);
    assert_eq!(asked[..3], [Command::Write { range, fua: true }, Command::Flush, Command::Flush]);
    assert_eq!(asked[3..5], [Command::Compare(range), Command::Compare(range)]);
    assert_eq!(asked[5], Command::WriteZeroes { range, unmap: true, fua: true });
}

#[test]
fn dataset_management_takes_256_ranges_and_ignores_hints() {
    let mut world = World::new();
    let (_admin, mut pair) = association(&mut world, Digests { header: false, data: true }, true);
    let range = |at: u64, blocks: u32| DsmRange { cattr: 0.into(), blocks: blocks.into(), slba: at.into() };
    let ranges: Vec<_> = (0..256).map(|at| range(at * 8, if at == 3 { 0 } else { 8 })).collect();
    // NR 255 is 256 ranges; AD is bit 2.
    let dsm = Sqe { opcode: io::DSM, nsid: 1.into(), cdw10: 255.into(), cdw11: 4.into(), ..Sqe::default() };
    let data = || Data::WriteControl(ranges.as_bytes().to_vec());
    assert_eq!(pair.run(&mut world, dsm, data()).status, Status::SUCCESS);
    let expected: Vec<_> = (0..256).filter(|at| *at != 3).map(|at| LbaRange::new(at * 8, 8)).collect();
    assert_eq!(world.disk.asked, [Command::Discard(expected)]);
    let hint = Sqe { cdw11: 1.into(), ..dsm };
    assert_eq!(pair.run(&mut world, hint, data()).status, Status::SUCCESS);
    assert_eq!(world.disk.asked.len(), 1, "a hint asks the device for nothing");
    // Linux gives 4096 bytes for any number of ranges; NR 0 is one.
    let one = Sqe { cdw10: 0.into(), ..dsm };
    assert_eq!(pair.run(&mut world, one, data()).status, Status::SUCCESS);
    assert_eq!(world.disk.asked[1], Command::Discard(alloc::vec![LbaRange::new(0, 8)]));
    let short = Data::WriteControl(ranges[..255].as_bytes().to_vec());
    assert_eq!(pair.run(&mut world, dsm, short).status, Status::DATA_SGL_LENGTH_INVALID);
    let long = Data::WriteControl(alloc::vec![0; 8192]);
    assert_eq!(pair.run(&mut world, dsm, long).status, Status::DATA_SGL_LENGTH_INVALID);
}

#[test]
fn a_refusal_names_the_field_and_the_error_log_page_keeps_it() {
    let mut world = World::new();
    let (mut admin, mut pair) = association(&mut world, Digests::default(), true);
    let read = |nsid: u32, lba: u64, nlb: u32| Sqe {
        opcode: io::READ,
        nsid: nsid.into(),
        cdw10: (lba as u32).into(),
        cdw12: nlb.into(),
        ..Sqe::default()
    };
    let mut refused = |sqe, data| pair.run(&mut world, sqe, data).status;
    assert_eq!(refused(read(1, BLOCKS, 0), Data::Read(512)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(refused(read(2, 0, 0), Data::Read(512)), Status::INVALID_NAMESPACE);
    assert_eq!(refused(read(1, 0, 2048), Data::Read(2049 * 512)), Status::INVALID_FIELD);
    assert_eq!(refused(read(1, 0, 0), Data::Read(1024)), Status::DATA_SGL_LENGTH_INVALID);
    assert_eq!(refused(read(1, 0, 0), Data::WriteControl(alloc::vec![0; 512])), Status::SGL_TYPE_INVALID);
    assert_eq!(
        refused(Sqe { opcode: io::FLUSH, ..read(1, 0, 0) }, Data::WriteControl(alloc::vec![0; 8])),
        Status::INVALID_FIELD
    );
    assert_eq!(refused(Sqe { opcode: 0x7d, ..read(1, 0, 0) }, Data::None), Status::INVALID_OPCODE);
    // PRINFO of a namespace without protection information.
    assert_eq!(refused(read(1, 0, 1 << 29), Data::Read(512)), Status::INVALID_FIELD);
    assert_eq!(refused(read(1, 0, 0), Data::Read(512)), Status::SUCCESS);
    let bad = admin.run(&mut world, identify(0x77, 0), Data::ReadControl(4096));
    assert_eq!(bad.status, Status::INVALID_FIELD);
    let log = admin.run(&mut world, log_page(lid::ERROR, 4096, true), Data::ReadControl(4096));
    let entries = <[ErrorEntry]>::ref_from_bytes(&log.data).unwrap();
    // CNS is byte 40 of the entry; the newest is first.
    assert_eq!((entries[0].sqid.get(), entries[0].location.get()), (0, 40));
    assert_eq!((entries[0].status.get(), entries[0].trtype), (Status::INVALID_FIELD.to_wire(), 3));
    let locations: Vec<u16> = entries.iter().take(9).map(|entry| entry.location.get()).collect();
    // PRINFO at byte 51 bit 2; opcode; SGL of a command without data; its type; its length; NLB; NSID.
    assert_eq!(locations, [40, 51 | 2 << 8, 0, 24, 39, 32, 48, 4, 0]);
    assert_eq!(entries[8].count.get(), 0);
}

#[test]
fn what_a_device_fails_with_reaches_the_host() {
    let mut world = World::new();
    let (_admin, mut pair) = association(&mut world, Digests::default(), true);
    world.disk.fails = Some(ErrorKind::NoSpace);
    assert_eq!(pair.write(&mut world, 0, &[1; 512]), Status::CAPACITY_EXCEEDED);
    world.disk.fails = Some(ErrorKind::MediaError);
    assert_eq!(pair.write(&mut world, 0, &[1; 512]), Status::WRITE_FAULT);
    assert_eq!(pair.read(&mut world, 0, 1), Err(Status::UNRECOVERED_READ));
}

#[test]
fn identify_tells_the_truth_about_the_volume() {
    let mut world = World::new();
    let mut pair = admin_queue(&mut world, config(0, 0xffff));
    let mut get = |cns, nsid| pair.run(&mut world, identify(cns, nsid), Data::ReadControl(4096));
    let controller = get(cns::CONTROLLER, 0).data;
    let id = IdentifyController::ref_from_bytes(&controller).unwrap();
    assert_eq!(&id.serial, b"0123456789          ");
    assert_eq!(&id.model[..12], b"sds volume  ");
    assert_eq!((id.mdts, id.cntlid.get(), id.cntrltype, id.kas.get()), (8, 1, 1, 1));
    assert_eq!((id.ioccsz.get(), id.iorcsz.get(), id.icdoff.get()), ((64 + 8192) / 16, 1, 0));
    assert_eq!((id.oncs.get(), id.vwc, id.fuses.get(), id.awupf.get()), (0b1101, 0b111, 0, 0));
    assert_eq!((id.sgls.get() & 3, id.nn.get(), id.maxcmd.get()), (1, 1, 1024));
    let namespace = get(cns::NAMESPACE, 1).data;
    let id = IdentifyNamespace::ref_from_bytes(&namespace).unwrap();
    assert_eq!((id.nsze.get(), id.lbaf0_lbads, id.dlfeat), (BLOCKS, 9, 9));
    assert_eq!((id.npwg.get(), id.npdg.get(), id.nows.get()), (7, 127, 2047));
    assert_eq!(&id.nguid, b"0123456789abcdef");
    assert_eq!(get(cns::ACTIVE_LIST, 0).data[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(get(cns::ACTIVE_LIST, 1).data[..4], [0; 4]);
    let descriptors = get(cns::DESCRIPTORS, 1).data;
    assert_eq!(descriptors[..4], [2, 16, 0, 0]);
    assert_eq!(descriptors[20..24], [3, 16, 0, 0]);
    assert_eq!(descriptors[24..40], *b"0123456789abcdef");
    assert_eq!(descriptors[40..46], [4, 1, 0, 0, 0, 0]);
    assert_eq!(get(cns::CSI_CONTROLLER, 0).data[..4], [0, 13, 0, 0]);
    assert_eq!(get(cns::INDEPENDENT_NAMESPACE, 1).data[14], 1);
    assert_eq!(get(cns::NAMESPACE, 2).status, Status::INVALID_NAMESPACE);
    assert_eq!(get(cns::DESCRIPTORS, 7).status, Status::INVALID_NAMESPACE);
}

#[test]
fn the_controller_is_enabled_reset_and_shut_down_by_its_properties() {
    let mut world = World::new();
    let mut pair = Pair::new(&world, config(0, 0xffff));
    pair.settle(&mut world);
    let early = pair.run(&mut world, identify(cns::CONTROLLER, 0), Data::ReadControl(4096));
    assert_eq!(early.status, Status::COMMAND_SEQUENCE_ERROR);
    let mut property =
        |kind, attrib, offset, value| pair.run(&mut world, property_sqe(kind, attrib, offset, value), Data::None);
    let cap = property(fctype::PROPERTY_GET, 1, property::CAP, 0).result;
    // MQES 1023, CQR, TO 1, CSS bit 37, CRWMS bit 59.
    assert_eq!(cap, 1023 | 1 << 16 | 1 << 24 | 1 << 37 | 1 << 59);
    assert_eq!(property(fctype::PROPERTY_GET, 0, property::VS, 0).result, 0x20000);
    assert_eq!(property(fctype::PROPERTY_GET, 0, property::CSTS, 0).result, 0);
    assert_eq!(property(fctype::PROPERTY_GET, 0, 0x30, 0).status, Status::INVALID_FIELD);
    assert_eq!(property(fctype::PROPERTY_SET, 0, property::CAP, 0).status, Status::INVALID_FIELD);
    // An MPS of 8 KiB can't be had: CFS.
    property(fctype::PROPERTY_SET, 0, property::CC, 0x0046_0081);
    assert_eq!(property(fctype::PROPERTY_GET, 0, property::CSTS, 0).result, 2);
    property(fctype::PROPERTY_SET, 0, property::CC, 0);
    property(fctype::PROPERTY_SET, 0, property::CC, 0x0046_0001);
    assert_eq!(property(fctype::PROPERTY_GET, 0, property::CSTS, 0).result, 1);
    property(fctype::PROPERTY_SET, 0, property::CC, 0x0046_4001);
    assert_eq!(property(fctype::PROPERTY_GET, 0, property::CSTS, 0).result, 1 | 2 << 2);
    let deleted = |shutdown| Event::QueuesDeleted { shutdown };
    assert!(world.events.iter().any(|event| *event == deleted(false)));
    assert_eq!(world.events.last(), Some(&deleted(true)));
}

#[test]
fn a_connect_that_does_not_fit_is_refused_by_its_field() {
    const IN_DATA: u32 = 1 << 16;
    let mut world = World::new();
    let refusal = |config: Config, world: &mut World| {
        let mut pair = Pair::new(world, config);
        pair.settle(world);
        pair.host.machine.progress()
    };
    let invalid = |result| Progress::Refused(Status::CONNECT_INVALID_PARAMETERS, result);
    let elsewhere = Config { subsystem_nqn: "nqn.2026-11.io.sds:nothing".to_string(), ..config(0, 0xffff) };
    assert_eq!(refusal(elsewhere, &mut world), invalid(IN_DATA | 256));
    assert_eq!(refusal(config(0, 1), &mut world), invalid(IN_DATA | 16));
    assert_eq!(refusal(config(1, 1), &mut world), invalid(IN_DATA | 16));
    let unnamed = Config { host_nqn: "me".to_string(), ..config(0, 0xffff) };
    assert_eq!(refusal(unnamed, &mut world), invalid(IN_DATA | 512));
    let deep = Config { queue_depth: 1024, ..config(0, 0xffff) };
    assert_eq!(refusal(deep, &mut world), invalid(44));
    let mut admin = Pair::new(&world, config(0, 0xffff));
    admin.settle(&mut world);
    let disabled = Progress::Refused(Status::COMMAND_SEQUENCE_ERROR, 0);
    assert_eq!(refusal(config(1, 1), &mut world), disabled);
    let enable = property_sqe(fctype::PROPERTY_SET, 0, property::CC, 0x0046_0001);
    admin.run(&mut world, enable, Data::None);
    // Three queues of each kind are asked for, 0-based, and granted.
    let queues = feature(admin::SET_FEATURES, fid::QUEUES, 2 | 2 << 16);
    assert_eq!(admin.run(&mut world, queues, Data::None).result, 2 | 2 << 16);
    assert_eq!(refusal(config(4, 1), &mut world), invalid(42));
    let stranger = Config { host_id: [9; 16], ..config(1, 1) };
    assert_eq!(refusal(stranger, &mut world), invalid(IN_DATA | 512));
    assert_eq!(refusal(config(3, 1), &mut world), Progress::Connected(1));
    assert_eq!(refusal(config(3, 1), &mut world), disabled, "QID 3 is in use");
    world.controllers.get_mut(&1).unwrap().disconnect_io(3);
    assert_eq!(refusal(config(3, 1), &mut world), Progress::Connected(1));
}

#[test]
fn a_resize_is_told_once_until_the_host_reads_the_list() {
    let mut world = World::new();
    let mut pair = admin_queue(&mut world, config(0, 0xffff));
    let enable = feature(admin::SET_FEATURES, fid::ASYNC_EVENT, 1 << 8);
    assert_eq!(pair.run(&mut world, enable, Data::None).status, Status::SUCCESS);
    let request = Sqe { opcode: admin::ASYNC_EVENT, ..Sqe::default() };
    for _ in 0..4 {
        assert!(pair.host.machine.submit(request, Data::None).is_some());
    }
    let fifth = pair.host.machine.submit(request, Data::None).unwrap();
    assert_eq!(pair.end(&mut world, fifth).status, Status::EVENT_LIMIT_EXCEEDED);
    let resize = |pair: &mut Pair, world: &mut World, blocks| {
        world.disk.geometry.blocks = LbaCount(blocks);
        world.controllers.get_mut(&1).unwrap().namespace_changed(1);
        world.run_admin(&mut pair.target.queue);
        pair.settle(world);
        pair.host.machine.poll_completion()
    };
    let told = resize(&mut pair, &mut world, 9000).expect("the event");
    // Type 2 (notice), information 0 (namespace attribute changed), log page 4.
    assert_eq!((told.status, told.result), (Status::SUCCESS, 0x0004_0002));
    assert_eq!(resize(&mut pair, &mut world, 9001), None, "masked until the list was read");
    let list = |retain| log_page(lid::CHANGED_NAMESPACES, 4096, retain);
    let read = pair.run(&mut world, list(true), Data::ReadControl(4096));
    assert_eq!(read.data[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(pair.run(&mut world, list(false), Data::ReadControl(4096)).data[0], 1);
    assert_eq!(pair.run(&mut world, list(false), Data::ReadControl(4096)).data[0], 0);
    assert!(resize(&mut pair, &mut world, 9002).is_some());
    let id = pair.run(&mut world, identify(cns::NAMESPACE, 1), Data::ReadControl(4096)).data;
    assert_eq!(IdentifyNamespace::ref_from_bytes(&id).unwrap().nsze.get(), 9002);
}

#[test]
fn abort_ends_an_event_request_and_nothing_else() {
    let mut world = World::new();
    let mut pair = admin_queue(&mut world, config(0, 0xffff));
    let request = Sqe { opcode: admin::ASYNC_EVENT, ..Sqe::default() };
    let open = pair.host.machine.submit(request, Data::None).unwrap();
    pair.settle(&mut world);
    let abort = |cid: u16| Sqe { opcode: admin::ABORT, cdw10: (u32::from(cid) << 16).into(), ..Sqe::default() };
    assert_eq!(pair.run(&mut world, abort(0x1234), Data::None).result, 1, "not aborted");
    let tag = pair.host.machine.submit(abort(open.0), Data::None).unwrap();
    pair.settle(&mut world);
    let ended: Vec<_> = core::iter::from_fn(|| pair.host.machine.poll_completion()).collect();
    let status = |tag| ended.iter().find(|completion| completion.tag == tag).map(|c| (c.status, c.result));
    assert_eq!(status(tag), Some((Status::SUCCESS, 0)));
    assert_eq!(status(open), Some((Status::ABORT_REQUESTED, 0)));
    let elsewhere = Sqe { cdw10: 7.into(), ..abort(1) };
    assert_eq!(pair.run(&mut world, elsewhere, Data::None).status, Status::INVALID_FIELD);
}

#[test]
fn a_host_that_keeps_silent_is_let_go() {
    let mut world = World::new();
    let mut pair = admin_queue(&mut world, config(0, 0xffff));
    assert_eq!(pair.target.queue.poll_timeout(), Some(world.now + Duration::from_millis(5000)));
    world.now += Duration::from_millis(4000);
    let tag = pair.host.machine.keep_alive().unwrap();
    assert_eq!(pair.end(&mut world, tag).status, Status::SUCCESS);
    world.now += Duration::from_millis(4999);
    pair.target.queue.handle_timeout(world.now);
    assert!(!pair.target.queue.is_closed());
    world.now += Duration::from_millis(1);
    pair.target.queue.handle_timeout(world.now);
    assert!(pair.target.queue.is_closed());
    assert_eq!(pair.target.queue.termination().unwrap().value, 5000);
    let mut changed = admin_queue(&mut world, config(0, 0xffff));
    changed.run(&mut world, feature(admin::SET_FEATURES, fid::KEEP_ALIVE, 100), Data::None);
    assert_eq!(changed.target.queue.poll_timeout(), Some(world.now + Duration::from_millis(100)));
}

#[test]
fn a_connection_that_never_connects_or_stalls_in_a_pdu_is_let_go() {
    let mut world = World::new();
    let mut idle = Pair::new(&world, config(0, 0xffff));
    world.now += Duration::from_millis(10_000);
    idle.target.queue.handle_timeout(world.now);
    assert!(idle.target.queue.is_closed());
    let (_admin, mut io) = association(&mut world, Digests::default(), true);
    assert_eq!(io.target.queue.poll_timeout(), None);
    let tag = io.host.machine.write(1, 0, 8, 4096, false).unwrap();
    io.host.buffers.insert(tag.0, pattern(0, 4096));
    let bytes = io.host.turn();
    io.target.incoming.extend(&bytes[..bytes.len() - 1]);
    io.target.turn(&mut world);
    assert_eq!(io.target.queue.poll_timeout(), Some(world.now + Duration::from_millis(30_000)));
    world.now += Duration::from_millis(30_000);
    io.target.queue.handle_timeout(world.now);
    assert!(io.target.queue.is_closed());
}

#[test]
fn discovery_lists_what_the_host_may_see_in_parts_too() {
    let mut world = World::new();
    world.generation = 77;
    let entry = |name: &str, address: &str, ipv6| DiscoveryEntry {
        subsystem_nqn: name.to_string(),
        address: address.to_string(),
        ipv6,
        port: 4420,
        port_id: 1,
        discovery: false,
    };
    world.entries = alloc::vec![entry("nqn.a", "192.0.2.1", false), entry("nqn.b", "2001:db8::1", true)];
    let discovery = Config { subsystem_nqn: DISCOVERY_NQN.to_string(), keep_alive_ms: 0, ..config(0, 0xffff) };
    let mut pair = admin_queue(&mut world, discovery);
    let id = pair.run(&mut world, identify(cns::CONTROLLER, 0), Data::ReadControl(4096)).data;
    let id = IdentifyController::ref_from_bytes(&id).unwrap();
    assert_eq!((id.cntrltype, id.nn.get(), id.oaes.get()), (2, 0, 1 << 31));
    let whole = pair.run(&mut world, log_page(lid::DISCOVERY, 3072, false), Data::ReadControl(3072)).data;
    let (header, records) = DiscoveryHeader::ref_from_prefix(&whole).unwrap();
    assert_eq!((header.genctr.get(), header.numrec.get()), (77, 2));
    let records = <[DiscoveryRecord]>::ref_from_bytes(records).unwrap();
    assert_eq!((records[0].trtype, records[0].adrfam, records[0].subtype), (3, 1, 2));
    assert_eq!((&records[0].subnqn[..6], &records[0].trsvcid[..5]), (&b"nqn.a\0"[..], &b"4420 "[..]));
    assert_eq!((records[1].adrfam, &records[1].traddr[..12]), (2, &b"2001:db8::1 "[..]));
    // The second record alone, by the offset in CDW12.
    let second = Sqe { cdw12: 2048.into(), ..log_page(lid::DISCOVERY, 1024, false) };
    let part = pair.run(&mut world, second, Data::ReadControl(1024)).data;
    assert_eq!(part, whole[2048..]);
    let beyond = Sqe { cdw12: 4096.into(), ..second };
    assert_eq!(pair.run(&mut world, beyond, Data::ReadControl(1024)).status, Status::INVALID_FIELD);
    let smart = log_page(lid::SMART, 512, false);
    assert_eq!(pair.run(&mut world, smart, Data::ReadControl(512)).status, Status::INVALID_LOG_PAGE);
    pair.run(&mut world, feature(admin::SET_FEATURES, fid::ASYNC_EVENT, 1 << 31), Data::None);
    pair.host.machine.submit(Sqe { opcode: admin::ASYNC_EVENT, ..Sqe::default() }, Data::None).unwrap();
    pair.settle(&mut world);
    world.controllers.get_mut(&1).unwrap().discovery_changed();
    world.run_admin(&mut pair.target.queue);
    pair.settle(&mut world);
    assert_eq!(pair.host.machine.poll_completion().unwrap().result, 0x0070_f002);
}

#[test]
fn features_and_log_pages_that_hosts_ask_for_are_there() {
    let mut world = World::new();
    let (mut pair, mut io) = association(&mut world, Digests { header: true, data: true }, false);
    assert_eq!(io.write(&mut world, 0, &[7; 4096]), Status::SUCCESS);
    assert!(io.read(&mut world, 0, 2).is_ok());
    for (name, value) in [(fid::WRITE_CACHE, 1), (fid::QUEUES, 127 | 127 << 16), (fid::KEEP_ALIVE, 5000)] {
        let got = pair.run(&mut world, feature(admin::GET_FEATURES, name, 0), Data::None);
        assert_eq!((got.status, got.result), (Status::SUCCESS, value), "{name:#x}");
    }
    let host_id = pair.run(&mut world, feature(admin::GET_FEATURES, fid::HOST_ID, 1), Data::ReadControl(16));
    assert_eq!(host_id.data, [0x5a; 16]);
    let cache_off = feature(admin::SET_FEATURES, fid::WRITE_CACHE, 0);
    assert_eq!(pair.run(&mut world, cache_off, Data::None).status, Status::FEATURE_NOT_CHANGEABLE);
    let unknown = feature(admin::GET_FEATURES, 0x7f, 0);
    assert_eq!(pair.run(&mut world, unknown, Data::None).status, Status::INVALID_FIELD);
    for (page, bytes) in [(lid::SUPPORTED, 1024), (lid::FIRMWARE, 512), (lid::COMMAND_EFFECTS, 4096)] {
        let got = pair.run(&mut world, log_page(page, bytes, false), Data::ReadControl(bytes));
        assert_eq!((got.status, got.data.len()), (Status::SUCCESS, bytes as usize));
    }
    let effects = pair.run(&mut world, log_page(lid::COMMAND_EFFECTS, 4096, false), Data::ReadControl(4096)).data;
    // I/O commands start at byte 1024: Write (1) is supported and changes data, opcode 3 is not there.
    assert_eq!((effects[1024 + 4], effects[1024 + 12]), (3, 0));
    let smart = pair.run(&mut world, log_page(lid::SMART, 512, false), Data::ReadControl(512)).data;
    let smart = Smart::ref_from_bytes(&smart).unwrap();
    assert_eq!((smart.reads[0], smart.writes[0], smart.units_written[0]), (1, 1, 1));
}
