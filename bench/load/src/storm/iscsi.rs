//! A small iSCSI initiator (RFC 7143): one connection, no digests, immediate data and R2T, several commands at once.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::wire::{Ask, Ended, Place, QUEUE_DEPTH, Wire};

/// Nothing came from the target for so long: the call fails.
const SILENCE_MS: u64 = 30_000;
const HEADER_BYTES: usize = 48;
/// What we take in one PDU.
const SEGMENT_BYTES: u32 = 256 * 1024;
/// TEST UNIT READY after a login: each reports one unit attention.
const ATTENTIONS_MAX: u32 = 8;
const NO_TAG: u32 = 0xffff_ffff;

type Header = [u8; HEADER_BYTES];

struct Open {
    out: Vec<u8>,
    data: Vec<u8>,
}

/// A session over iSCSI.
pub struct Iscsi {
    stream: TcpStream,
    lun: u8,
    block_bytes: u32,
    /// The target's MaxRecvDataSegmentLength.
    send_bytes: usize,
    /// What goes with a command, without being asked for.
    immediate_bytes: usize,
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
    next_tag: u32,
    open: HashMap<u32, Open>,
}

fn word(header: &Header, at: usize) -> u32 {
    u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"))
}

fn put(header: &mut Header, at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Iscsi {
    /// Logs in as the initiator `host`.
    ///
    /// # Errors
    /// The system's; `ConnectionRefused` if the target refused.
    pub fn connect(place: &Place, host: u8) -> io::Result<Self> {
        let stream = TcpStream::connect(place.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(SILENCE_MS)))?;
        stream.set_write_timeout(Some(Duration::from_millis(SILENCE_MS)))?;
        let mut session = Self {
            stream,
            lun: place.unit,
            block_bytes: place.block_bytes,
            send_bytes: 8192,
            immediate_bytes: 0,
            cmd_sn: 1,
            max_cmd_sn: 1,
            exp_stat_sn: 0,
            next_tag: 0,
            open: HashMap::new(),
        };
        session.log_in(&place.target, host)?;
        for _ in 0..ATTENTIONS_MAX {
            let tag = session.command([0; 16], 0, &[])?;
            let ended = session.ended()?;
            if ended.tag == tag && ended.refused.is_none() {
                return Ok(session);
            }
        }
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the unit does not become ready"))
    }

    /// Straight to the full feature phase (section 11.12).
    fn log_in(&mut self, target: &str, host: u8) -> io::Result<()> {
        let text = format!(
            "InitiatorName=iqn.2026-11.io.sds:storm-{host}\0TargetName={target}\0SessionType=Normal\0\
             ImmediateData=Yes\0InitialR2T=Yes\0MaxRecvDataSegmentLength={SEGMENT_BYTES}\0\
             FirstBurstLength=65536\0MaxBurstLength=262144\0"
        );
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1]) = (0x43, 0x87);
        // ISID: a random one (type 10b), made from the host's number.
        (header[8], header[9], header[13]) = (0x80, 1, host);
        put(&mut header, 24, self.cmd_sn);
        self.send(header, text.as_bytes())?;
        let (header, data) = self.receive()?;
        if header[0] != 0x23 || header[36] != 0 || header[1] & 0x80 == 0 {
            let words = format!("login: opcode {:#x}, status {:#06x}", header[0], word(&header, 36) >> 16);
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, words));
        }
        self.exp_stat_sn = word(&header, 24).wrapping_add(1);
        self.max_cmd_sn = word(&header, 32);
        let mut first_burst = 65536;
        for pair in data.split(|byte| *byte == 0) {
            let pair = String::from_utf8_lossy(pair).into_owned();
            let number = |value: &str| value.parse().map_err(|_| broken(format!("login: {pair}")));
            match pair.split_once('=') {
                Some(("MaxRecvDataSegmentLength", value)) => self.send_bytes = number(value)?,
                Some(("FirstBurstLength", value)) => first_burst = number(value)?,
                _ => {}
            }
        }
        self.immediate_bytes = self.send_bytes.min(first_burst);
        Ok(())
    }

    fn send(&mut self, mut header: Header, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u32).to_be_bytes();
        header[5..8].copy_from_slice(&length[1..]);
        put(&mut header, 28, self.exp_stat_sn);
        let mut pdu = header.to_vec();
        pdu.extend_from_slice(data);
        pdu.resize(pdu.len().next_multiple_of(4), 0);
        self.stream.write_all(&pdu)
    }

    fn receive(&mut self) -> io::Result<(Header, Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let bytes = (word(&header, 4) & 0xff_ffff) as usize;
        if bytes > SEGMENT_BYTES as usize || header[4] != 0 {
            return Err(broken(format!("a PDU of opcode {:#x} with {bytes} bytes", header[0])));
        }
        let mut data = vec![0; bytes.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        data.truncate(bytes);
        Ok((header, data))
    }

    /// Sends a command that reads `read_bytes` or writes `out`.
    fn command(&mut self, cdb: [u8; 16], read_bytes: usize, out: &[u8]) -> io::Result<u32> {
        let tag = self.next_tag;
        self.next_tag = (tag + 1) % NO_TAG;
        let immediate = out.len().min(self.immediate_bytes);
        let mut header = [0; HEADER_BYTES];
        let ways = u8::from(read_bytes > 0) << 6 | u8::from(!out.is_empty()) << 5;
        (header[0], header[1], header[9]) = (0x01, 0x81 | ways, self.lun);
        put(&mut header, 16, tag);
        put(&mut header, 20, (read_bytes + out.len()) as u32);
        put(&mut header, 24, self.cmd_sn);
        header[32..].copy_from_slice(&cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.open.insert(tag, Open { out: out.to_vec(), data: vec![0; read_bytes] });
        self.send(header, &out[..immediate])?;
        Ok(tag)
    }

    /// Sends what an R2T asks for (section 11.8).
    fn send_asked(&mut self, asked: &Header) -> io::Result<()> {
        let (start, bytes) = (word(asked, 40) as usize, word(asked, 44) as usize);
        let tag = word(asked, 16);
        let out = self.open.get(&tag).map(|open| open.out.clone()).unwrap_or_default();
        let wanted = out.get(start..start + bytes).ok_or_else(|| broken("an R2T for what the command has not"))?;
        let pieces = bytes.div_ceil(self.send_bytes);
        for (number, piece) in wanted.chunks(self.send_bytes).enumerate() {
            let mut header = [0; HEADER_BYTES];
            (header[0], header[1]) = (0x05, u8::from(number + 1 == pieces) << 7);
            header[8..16].copy_from_slice(&asked[8..16]);
            header[16..24].copy_from_slice(&asked[16..24]);
            put(&mut header, 36, number as u32);
            put(&mut header, 40, (start + number * self.send_bytes) as u32);
            self.send(header, piece)?;
        }
        Ok(())
    }

    fn answer_ping(&mut self, ping: &Header) -> io::Result<()> {
        if word(ping, 20) == NO_TAG {
            return Ok(());
        }
        let mut header = [0; HEADER_BYTES];
        (header[0], header[1]) = (0x40, 0x80);
        header[8..16].copy_from_slice(&ping[8..16]);
        put(&mut header, 16, NO_TAG);
        header[20..24].copy_from_slice(&ping[20..24]);
        put(&mut header, 24, self.cmd_sn);
        self.send(header, &[])
    }

    fn end(&mut self, header: &Header, sense: &[u8]) -> io::Result<Ended> {
        let tag = word(header, 16);
        let open = self.open.remove(&tag).ok_or_else(|| broken(format!("an answer to no command, tag {tag:#x}")))?;
        self.exp_stat_sn = word(header, 24).wrapping_add(1);
        let refused = (header[3] != 0).then(|| format!("SCSI status {:#x}, sense {sense:02x?}", header[3]));
        Ok(Ended { tag, refused, data: open.data })
    }
}

/// A CDB of 16 bytes: operation code, flags, first block, count (SBC-4 tables of READ, WRITE, WRITE SAME (16)).
fn of_blocks(code: u8, flags: u8, first: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (code, flags);
    cdb[2..10].copy_from_slice(&first.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

impl Wire for Iscsi {
    fn has_room(&mut self) -> bool {
        // Serial numbers wrap (RFC 1982).
        self.max_cmd_sn.wrapping_sub(self.cmd_sn) as i32 >= 0 && self.open.len() < usize::from(QUEUE_DEPTH)
    }

    fn submit(&mut self, ask: &Ask) -> io::Result<u32> {
        match ask {
            Ask::Read(first, blocks) => {
                self.command(of_blocks(0x88, 0, *first, *blocks), (blocks * self.block_bytes) as usize, &[])
            }
            Ask::Write(first, data, durable) => {
                let cdb = of_blocks(0x8a, u8::from(*durable) << 3, *first, data.len() as u32 / self.block_bytes);
                self.command(cdb, 0, data)
            }
            Ask::Zero(first, blocks) => {
                self.command(of_blocks(0x93, 0, *first, *blocks), 0, &vec![0; self.block_bytes as usize])
            }
            Ask::Discard(first, blocks) => {
                // UNMAP (SBC-4 section 5.35) of one descriptor.
                let mut cdb = [0; 16];
                (cdb[0], cdb[8]) = (0x42, 24);
                let mut list = [0; 24];
                (list[1], list[3]) = (22, 16);
                list[8..16].copy_from_slice(&first.to_be_bytes());
                list[16..20].copy_from_slice(&blocks.to_be_bytes());
                self.command(cdb, 0, &list)
            }
            Ask::Flush => self.command(of_blocks(0x91, 0, 0, 0), 0, &[]),
        }
    }

    fn ended(&mut self) -> io::Result<Ended> {
        loop {
            let (header, data) = self.receive()?;
            self.max_cmd_sn = word(&header, 32);
            match header[0] & 0x3f {
                0x21 => return self.end(&header, &data),
                0x25 => {
                    let (tag, at) = (word(&header, 16), word(&header, 40) as usize);
                    let open = self.open.get_mut(&tag).ok_or_else(|| broken("data of no command"))?;
                    let room = open.data.get_mut(at..at + data.len()).ok_or_else(|| broken("more data than asked"))?;
                    room.copy_from_slice(&data);
                    if header[1] & 1 != 0 {
                        return self.end(&header, &[]);
                    }
                }
                0x31 => self.send_asked(&header)?,
                0x20 => self.answer_ping(&header)?,
                other => return Err(broken(format!("a PDU of opcode {other:#x}"))),
            }
        }
    }
}
