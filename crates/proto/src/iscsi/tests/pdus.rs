//! Each PDU that the target sends and each answer to a CDB, against literal bytes.

use super::*;

#[test]
fn the_last_login_response() {
    let mut world = World::new(Settings::default());
    let got = world.log_in(OPEN_ISCSI);
    let mut expected = [0; 48];
    expected[0] = 0x23; // Login Response
    expected[1] = 0x87; // T; CSG 1, NSG 3
    expected[5..8].copy_from_slice(&(got.data.len() as u32).to_be_bytes()[1..]);
    expected[8..14].copy_from_slice(&[0x00, 0x02, 0x3d, 0, 0, 1]); // ISID as it came
    expected[14..16].copy_from_slice(&[0, 9]); // TSIH
    expected[24..28].copy_from_slice(&[0, 0, 0, 1]); // StatSN: the second status
    expected[28..32].copy_from_slice(&[0, 0, 0, 100]); // ExpCmdSN: login does not count
    expected[32..36].copy_from_slice(&[0, 0, 0, 227]); // MaxCmdSN: 128 commands
    assert_eq!(got.bhs, expected);
    let text: &[u8] = b"HeaderDigest=None\0DataDigest=None\0DefaultTime2Wait=2\0DefaultTime2Retain=0\0IFMarker=No\0\
OFMarker=No\0ErrorRecoveryLevel=0\0InitialR2T=No\0ImmediateData=Yes\0MaxBurstLength=1048576\0FirstBurstLength=65536\0\
MaxOutstandingR2T=1\0MaxConnections=1\0DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0MaxRecvDataSegmentLength=262144\0";
    assert_eq!(got.data, text);
}

#[test]
fn a_response_with_sense_data() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    let got = world.command(&[0xc1, 0, 0, 0, 0, 0], 0, 0x80);
    let mut expected = [0; 48];
    expected[0] = 0x21; // SCSI Response
    expected[1] = 0x80; // F
    expected[3] = 0x02; // CHECK CONDITION
    expected[7] = 20; // DataSegmentLength
    expected[16..20].copy_from_slice(&[0, 0, 0, 101]); // ITT
    expected[24..28].copy_from_slice(&[0, 0, 0, 3]); // StatSN
    expected[28..32].copy_from_slice(&[0, 0, 0, 102]); // ExpCmdSN
    expected[32..36].copy_from_slice(&[0, 0, 0, 229]); // MaxCmdSN: its own slot counts as free
    assert_eq!(got[0].bhs, expected);
    // SenseLength; fixed format, ILLEGAL REQUEST, 10 more bytes, INVALID COMMAND OPERATION CODE.
    let sense = [0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0];
    assert_eq!(got[0].data, sense);
}

#[test]
fn an_r2t_and_a_data_in() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    let got = world.command(&write_10(8, 2), 1024, 0xa0);
    let mut expected = [0; 48];
    expected[0] = 0x31; // R2T
    expected[1] = 0x80; // F
    expected[16..20].copy_from_slice(&[0, 0, 0, 101]); // ITT
    expected[20..24].copy_from_slice(&[0, 0, 0, 0]); // TTT: tag 0, its R2T 0
    expected[24..28].copy_from_slice(&[0, 0, 0, 3]); // StatSN: the next, not taken
    expected[28..32].copy_from_slice(&[0, 0, 0, 102]); // ExpCmdSN
    expected[32..36].copy_from_slice(&[0, 0, 0, 228]); // MaxCmdSN
    expected[44..48].copy_from_slice(&[0, 0, 4, 0]); // Desired Data Transfer Length
    assert_eq!(got[0].bhs, expected);

    let done = world.send(&data_out_pdu(101, 0, 0, 0, true, &[0x5a; 1024]));
    assert_eq!((done[0].opcode(), done[0].bhs[3], done[0].u32(24)), (0x21, 0, 3));
    assert_eq!(done[0].u32(36), 1, "ExpDataSN counts the R2T");
    assert!(world.disk[8 * 512..10 * 512].iter().all(|&byte| byte == 0x5a));

    let got = world.command(&read_10(8, 1), 512, 0xc0);
    let mut expected = [0; 48];
    expected[0] = 0x25; // Data-In
    expected[1] = 0x81; // F, S
    expected[5..8].copy_from_slice(&[0, 2, 0]); // DataSegmentLength
    expected[16..20].copy_from_slice(&[0, 0, 0, 102]); // ITT
    expected[20..24].copy_from_slice(&[0xff; 4]); // TTT: none
    expected[24..28].copy_from_slice(&[0, 0, 0, 4]); // StatSN
    expected[28..32].copy_from_slice(&[0, 0, 0, 103]); // ExpCmdSN
    expected[32..36].copy_from_slice(&[0, 0, 0, 230]); // MaxCmdSN
    assert_eq!(got, [Got { bhs: expected, data: vec![0x5a; 512] }]);
}

#[test]
fn nop_in_reject_text_logout_and_task_management() {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    // NOP-Out, immediate, with ping data.
    let got = world.send(&request_pdu(0x40, 0x80, 7, 0xffff_ffff, 101, b"ping!"));
    assert_eq!((got[0].opcode(), got[0].bhs[1], got[0].u32(16), got[0].u32(20)), (0x20, 0x80, 7, 0xffff_ffff));
    assert_eq!((got[0].u32(24), &got[0].data[..]), (3, &b"ping!"[..]));
    // SNACK: rejected, with its own header.
    let snack = request_pdu(0x10, 0x80, 8, 0, 0, &[]);
    let got = world.send(&snack);
    assert_eq!((got[0].opcode(), got[0].bhs[2], got[0].u32(16)), (0x3f, 0x03, 0xffff_ffff));
    assert_eq!((got[0].u32(24), &got[0].data), (4, &snack));
    // Text with an unknown key.
    let got = world.send(&request_pdu(0x44, 0x80, 9, 0xffff_ffff, 101, b"X-what=1\0"));
    assert_eq!((got[0].opcode(), got[0].bhs[1], got[0].u32(20)), (0x24, 0x80, 0xffff_ffff));
    assert_eq!(got[0].data, b"X-what=NotUnderstood\0");
    // ABORT TASK of a task that is not there.
    let got = world.send(&request_pdu(0x42, 0x81, 10, 77, 101, &[]));
    assert_eq!((got[0].opcode(), got[0].bhs[2]), (0x22, 1));
    // Logout.
    let got = world.send(&request_pdu(0x46, 0x80, 11, 0, 101, &[]));
    assert_eq!((got[0].opcode(), got[0].bhs[1], got[0].bhs[2], got[0].u32(16)), (0x26, 0x80, 0, 11));
    assert!(world.machine.is_closed() && world.machine.termination().is_none());
}

fn answer(cdb: &[u8], allocation: u32) -> Vec<u8> {
    let mut world = World::logged_in(Settings::default(), OPEN_ISCSI);
    let mut got = world.command(cdb, allocation, 0xc0);
    assert_eq!((got[0].opcode(), got[0].bhs[3]), (0x25, 0), "{:02x?}", got[0].data);
    got.remove(0).data
}

#[test]
fn capacity() {
    // READ CAPACITY(10): last LBA 4095, 512 bytes.
    assert_eq!(answer(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8), [0, 0, 0x0f, 0xff, 0, 0, 2, 0]);
    let mut expected = [0; 32];
    expected[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0x0f, 0xff, 0, 0, 2, 0]);
    expected[13] = 3; // 8 logical blocks a physical one
    expected[14] = 0xc0; // LBPME, LBPRZ
    assert_eq!(answer(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], 32), expected);
}

#[test]
fn inquiry_and_its_pages() {
    let data = answer(&[0x12, 0, 0, 0, 255, 0], 255);
    // Direct access; SPC-4; HISUP, format 2; 69 more bytes; CMDQUE.
    assert_eq!(data[..8], [0, 0, 6, 0x12, 69, 0, 0, 2]);
    assert_eq!(&data[8..36], b"SDS     VOLUME          1   ");
    // SAM-5, iSCSI, SPC-4, SBC-3.
    assert_eq!(data[58..66], [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
    let page = |page| answer(&[0x12, 1, page, 0, 255, 0], 255);
    assert_eq!(page(0x00), [0, 0, 0, 7, 0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    assert_eq!(page(0x80), [0, 0x80, 0, 2, b'S', b'1']);
    // NAA 3h, 8 bytes, binary, of the logical unit.
    assert_eq!((&page(0x83)[4..8], page(0x83)[8] >> 4), (&[0x01, 0x03, 0, 8][..], 3));
    let limits = page(0xb0);
    let expected: [u8; 40] = [
        0, 0xb0, 0, 60, // page, length
        0x01, 128, 0, 8, // WSNZ, 128 blocks of COMPARE AND WRITE, granularity 8
        0, 0, 8, 0, 0, 0, 8, 0, // 2,048 blocks at most and best
        0, 0, 0, 0, // no prefetch
        0, 0x10, 0, 0, 0, 0, 1, 0, // UNMAP: 1,048,576 blocks, 256 descriptors
        0, 0, 0, 8, 0x80, 0, 0, 0, // its granularity 8, alignment 0
        0, 0, 0, 0, // WRITE SAME: 32,768 blocks
    ];
    assert_eq!((limits.len(), &limits[..40]), (64, &expected[..]));
    assert_eq!(limits[40..44], [0, 0, 0x80, 0]);
    assert_eq!(page(0xb1)[..6], [0, 0xb1, 0, 60, 0, 1]);
    assert_eq!(page(0xb2), [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
}

#[test]
fn mode_pages_luns_and_status() {
    // MODE SENSE(6), caching: 31 bytes follow; DPOFUA; descriptor of 4,096 blocks; WCE, RCD.
    let mut expected = vec![31, 0, 0x10, 8, 0, 0, 0x10, 0, 0, 0, 2, 0, 0x08, 0x12, 0x05];
    expected.resize(32, 0);
    assert_eq!(answer(&[0x1a, 0, 0x08, 0, 255, 0], 255), expected);
    assert_eq!(answer(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256), [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // GET LBA STATUS from 4,090: 20 bytes follow; 6 blocks, mapped or unknown.
    let status = answer(&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0x0f, 0xfa, 0, 0, 0, 24, 0, 0], 24);
    assert_eq!(status, [0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0f, 0xfa, 0, 0, 0, 6, 0, 0, 0, 0]);
}
