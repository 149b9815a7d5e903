//! Hosts that send what they like: PDUs laid out by hand, on a plain socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The status field of an NVMe completion, without the retry bits.
pub const CONNECT_BUSY: u16 = 0x181;
/// MAXH2CDATA of the target.
const H2C_DATA_BYTES_MAX: usize = 128 * 1024;

/// A blocking socket to `address`.
pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// True if the target closes, with or without a word, before the socket's time limit.
pub fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// One NVMe/TCP queue.
pub struct NvmeQueue {
    pub stream: TcpStream,
}

/// What the target asks a host for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyToTransfer {
    pub cid: u16,
    pub ttag: u16,
    pub bytes: u32,
}

/// What the target says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// CID and status.
    Completion(u16, u16),
    ReadyToTransfer(ReadyToTransfer),
}

/// ICReq (NVMe/TCP 1.0c figure 26): no digests.
pub fn ic_req() -> Vec<u8> {
    let mut pdu = vec![0; 128];
    (pdu[2], pdu[4]) = (128, 128);
    pdu
}

/// A command capsule (figure 30) around `sqe`, with `data` in it.
pub fn capsule(sqe: &[u8; 64], data: &[u8]) -> Vec<u8> {
    let mut pdu = vec![4, 0, 72, if data.is_empty() { 0 } else { 72 }];
    pdu.extend_from_slice(&(72 + data.len() as u32).to_le_bytes());
    pdu.extend_from_slice(sqe);
    pdu.extend_from_slice(data);
    pdu
}

fn fabrics(cid: u16, fctype: u8) -> [u8; 64] {
    let mut sqe = [0; 64];
    (sqe[0], sqe[1], sqe[4]) = (0x7f, 0x40, fctype);
    sqe[2..4].copy_from_slice(&cid.to_le_bytes());
    sqe
}

/// A write of `bytes` at block 0 of namespace 1; its data comes in the capsule, or is asked for.
pub fn write(cid: u16, bytes: u32, in_capsule: bool) -> [u8; 64] {
    let mut sqe = [0; 64];
    (sqe[0], sqe[1], sqe[4]) = (1, 0x40, 1);
    sqe[2..4].copy_from_slice(&cid.to_le_bytes());
    sqe[32..36].copy_from_slice(&bytes.to_le_bytes());
    sqe[39] = if in_capsule { 0x01 } else { 0x5a };
    sqe[48..50].copy_from_slice(&((bytes / 512 - 1) as u16).to_le_bytes());
    sqe
}

/// The header of an H2CData PDU (figure 32) with `bytes` from `offset` of what was asked for.
pub fn h2c_header(asked: ReadyToTransfer, offset: usize, bytes: usize) -> Vec<u8> {
    let last = offset + bytes == asked.bytes as usize;
    let mut pdu = vec![6, if last { 4 } else { 0 }, 24, 24];
    pdu.extend_from_slice(&(24 + bytes as u32).to_le_bytes());
    pdu.extend_from_slice(&asked.cid.to_le_bytes());
    pdu.extend_from_slice(&asked.ttag.to_le_bytes());
    pdu.extend_from_slice(&(offset as u32).to_le_bytes());
    pdu.extend_from_slice(&(bytes as u32).to_le_bytes());
    pdu.extend_from_slice(&[0; 4]);
    pdu
}

impl NvmeQueue {
    /// Sends ICReq and Connect; the status, if the target answers.
    pub fn connect(
        address: SocketAddr,
        host: &str,
        nqn: &str,
        queue: u16,
        controller: u16,
    ) -> Option<(Self, u16, u16)> {
        let mut this = Self { stream: dial(address) };
        let mut connect = fabrics(0, 1);
        connect[32..36].copy_from_slice(&1024_u32.to_le_bytes());
        connect[39] = 0x01;
        connect[42..44].copy_from_slice(&queue.to_le_bytes());
        connect[44..46].copy_from_slice(&31_u16.to_le_bytes());
        let mut data = [0; 1024];
        data[..16].fill(0x77);
        data[16..18].copy_from_slice(&controller.to_le_bytes());
        data[256..256 + nqn.len()].copy_from_slice(nqn.as_bytes());
        data[512..512 + host.len()].copy_from_slice(host.as_bytes());
        // The target may have closed already.
        let _ = this.stream.write_all(&[ic_req(), capsule(&connect, &data)].concat());
        let mut ic_resp = [0; 128];
        this.stream.read_exact(&mut ic_resp).ok()?;
        let mut answer = [0; 24];
        this.stream.read_exact(&mut answer).ok()?;
        let half = |at: usize| u16::from_le_bytes([answer[at], answer[at + 1]]);
        Some((this, half(8), half(22) >> 1 & 0x7ff))
    }

    /// An admin queue, enabled, and an I/O queue.
    pub fn pair(address: SocketAddr, host: &str, nqn: &str) -> [Self; 2] {
        let (mut admin, controller, status) = Self::connect(address, host, nqn, 0, 0xffff).expect("an answer");
        assert_eq!(status, 0, "the admin queue is accepted");
        let mut enable = fabrics(1, 0);
        enable[44] = 0x14;
        enable[48..52].copy_from_slice(&0x0046_0001_u32.to_le_bytes());
        admin.send(&capsule(&enable, &[]));
        assert_eq!(admin.hear(), Said::Completion(1, 0));
        let (queue, _, status) = Self::connect(address, host, nqn, 1, controller).expect("an answer");
        assert_eq!(status, 0, "the I/O queue is accepted");
        [admin, queue]
    }

    /// Sends `bytes`.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sends");
    }

    /// The target's next PDU.
    pub fn hear(&mut self) -> Said {
        let mut pdu = [0; 24];
        self.stream.read_exact(&mut pdu).expect("a PDU");
        let half = |at: usize| u16::from_le_bytes([pdu[at], pdu[at + 1]]);
        match pdu[0] {
            5 => Said::Completion(half(20), half(22) >> 1 & 0x7ff),
            9 => Said::ReadyToTransfer(ReadyToTransfer {
                cid: half(8),
                ttag: half(10),
                bytes: u32::from_le_bytes([pdu[16], pdu[17], pdu[18], pdu[19]]),
            }),
            other => panic!("a PDU of type {other}"),
        }
    }

    /// Sends all that was asked for.
    pub fn send_asked(&mut self, asked: ReadyToTransfer) {
        let data = vec![0xa5; H2C_DATA_BYTES_MAX];
        for offset in (0..asked.bytes as usize).step_by(data.len()) {
            let bytes = data.len().min(asked.bytes as usize - offset);
            self.send(&h2c_header(asked, offset, bytes));
            self.send(&data[..bytes]);
        }
    }

    /// Writes `count` times `bytes`, all open at once, and waits for the ends.
    pub fn write_many(&mut self, count: u16, bytes: u32) {
        for cid in 0..count {
            self.send(&capsule(&write(cid, bytes, false), &[]));
        }
        let mut ended = 0;
        while ended < count {
            match self.hear() {
                Said::ReadyToTransfer(asked) => self.send_asked(asked),
                Said::Completion(cid, status) => {
                    assert_eq!(status, 0, "write {cid}");
                    ended += 1;
                }
            }
        }
    }
}

/// A login request (RFC 7143 section 11.12) straight to the full feature phase.
pub fn iscsi_login(initiator: &str, target: &str, isid: u8) -> Vec<u8> {
    let mut text = format!("InitiatorName={initiator}\0TargetName={target}\0SessionType=Normal\0").into_bytes();
    let bytes = text.len();
    text.resize(bytes.next_multiple_of(4), 0);
    let mut pdu = vec![0; 48];
    (pdu[0], pdu[1], pdu[7]) = (0x43, 0x87, bytes as u8);
    (pdu[8], pdu[13], pdu[19]) = (0x80, isid, 1);
    pdu.extend_from_slice(&text);
    pdu
}

/// Logs in; status class and detail.
pub fn iscsi_session(address: SocketAddr, initiator: &str, target: &str, isid: u8) -> (TcpStream, [u8; 2]) {
    let mut stream = dial(address);
    stream.write_all(&iscsi_login(initiator, target, isid)).expect("sends");
    let mut header = [0; 48];
    stream.read_exact(&mut header).expect("a login response");
    assert_eq!(header[0], 0x23, "a login response");
    let data = usize::from(header[6]) << 8 | usize::from(header[7]);
    stream.read_exact(&mut vec![0; data.next_multiple_of(4)]).expect("its text");
    (stream, [header[36], header[37]])
}

/// WRITE(10) of 8 blocks at block 0; all its data is asked for.
pub fn iscsi_write() -> [u8; 48] {
    let mut pdu = [0; 48];
    (pdu[0], pdu[1], pdu[19]) = (0x01, 0xa0, 7);
    pdu[20..24].copy_from_slice(&4096_u32.to_be_bytes());
    (pdu[32], pdu[40]) = (0x2a, 8);
    pdu
}

/// The header of the Data-Out that `r2t` asks for, with all its data to follow.
pub fn iscsi_data_out(r2t: &[u8; 48]) -> [u8; 48] {
    let mut pdu = [0; 48];
    (pdu[0], pdu[1]) = (0x05, 0x80);
    pdu[5..8].copy_from_slice(&r2t[45..48]);
    pdu[16..24].copy_from_slice(&r2t[16..24]);
    pdu
}
