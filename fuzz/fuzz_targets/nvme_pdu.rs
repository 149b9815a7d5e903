//! NVMe/TCP headers, commands and Connect data, each by itself: what is let through is within its limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sds_fuzz::words::Words;
use sds_proto::nvme::fabrics::{CONNECT_BYTES, parse_connect, property_cmd};
use sds_proto::nvme::io::{DSM_RANGES_MAX, Direction, Op, Source, TRANSFER_BYTES_MAX, check_sgl, dsm_ranges, parse};
use sds_proto::nvme::pdu::{Digests, check, check_header_digest, ic_req, parse_ic_req};
use sds_proto::nvme::spec::command::Sqe;
use sds_proto::nvme::spec::pdu::CommonHeader;
use zerocopy::FromBytes;

const COMMON_BYTES: usize = 8;
const DEPTH_MAX: u16 = 1024;
const DATA_BYTES_MAX: usize = 8192;

fn try_header(words: &mut Words<'_>) {
    let (options, common, rest) = (words.u8(), words.array::<COMMON_BYTES>(), words.array::<120>());
    let digests = Digests { header: options & 1 != 0, data: options & 2 != 0 };
    let header = CommonHeader::read_from_bytes(&common).expect("eight bytes");
    let hlen = [16, 24, 72, 128][usize::from(options >> 2 & 3)];
    if let Ok(parts) = check(&header, hlen, digests, DATA_BYTES_MAX) {
        let whole = COMMON_BYTES + parts.rest_bytes + parts.data_bytes;
        assert!(parts.data_bytes <= DATA_BYTES_MAX && whole <= header.plen.get() as usize, "{parts:?} of {header:?}");
        assert!(parts.rest_bytes + COMMON_BYTES >= hlen && parts.rest_bytes <= 255, "{parts:?} of {header:?}");
    }
    let _ = check_header_digest(&common, &rest, hlen.min(72));
    if let Ok((hpda, digests, maxr2t)) = parse_ic_req(&common, &rest) {
        let again = ic_req(hpda, digests, maxr2t);
        let (common, rest) = again.split_first_chunk().expect("a whole PDU");
        assert_eq!(parse_ic_req(common, rest), Ok((hpda, digests, maxr2t)));
    }
}

fn try_command(words: &mut Words<'_>) {
    let (options, sqe) = (words.u8(), words.array::<64>());
    let sqe = Sqe::read_from_bytes(&sqe).expect("64 bytes");
    let data = words.rest();
    let _ = property_cmd(&sqe);
    if let Ok(io) = parse(&sqe, if options & 1 == 0 { 512 } else { 4096 }) {
        assert!(io.data_bytes <= TRANSFER_BYTES_MAX, "{io:?}");
        let in_capsule = if options & 2 == 0 { io.data_bytes as usize } else { data.len() };
        if let Ok(Source::Capsule) = check_sgl(&sqe, io.op.direction(), io.data_bytes, in_capsule) {
            assert!(io.op.direction() == Direction::FromHost && in_capsule == io.data_bytes as usize, "{io:?}");
        }
        let ranges = match io.op {
            Op::Discard { .. } => dsm_ranges(data, io.range.count.0 as usize),
            _ => Vec::new(),
        };
        assert!(ranges.len() <= DSM_RANGES_MAX, "{} ranges", ranges.len());
        let _ = io.op.command(io.range, ranges);
    }
    let mut connect = data.to_vec();
    connect.resize(CONNECT_BYTES, 0);
    if let Ok(request) = parse_connect(&sqe, &connect, DEPTH_MAX) {
        assert!((2..=DEPTH_MAX).contains(&request.queue_depth), "{request:?}");
        for name in [&request.host_nqn, &request.subsystem_nqn] {
            assert!(name.starts_with("nqn.") && name.len() <= 223, "{name:?}");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut words = Words(input);
    if words.u8() & 1 == 0 { try_header(&mut words) } else { try_command(&mut words) }
});
