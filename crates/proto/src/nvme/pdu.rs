//! PDUs as bytes: the checks of a received common header, and an encoder for what is sent.
//!
//! A PDU is `header [header digest] [padding up to PDO] [data [data digest]]`. PLEN counts all of it.

use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use super::spec::command::{Cqe, Sqe};
use super::spec::pdu::{
    CapsuleCmd, CapsuleResp, CommonHeader, DIGEST_BYTES, DataPdu, IcReq, IcResp, R2t, TERM_REQ_BYTES_MAX, TermReq, fes,
    flags, kind,
};
use crate::connection::Termination;
use crate::crc32c::crc32c;

/// Bytes of the common header: the first that is read of every PDU.
pub const COMMON_BYTES: usize = size_of::<CommonHeader>();
/// Data within a command capsule: what IOCCSZ says for I/O queues, and what the transport fixes for the admin queue
/// (NVMe/TCP 1.0c section 3.3.1.1).
pub const IN_CAPSULE_BYTES_MAX: usize = 8192;
/// MAXH2CDATA: the data that a host may put into one H2CData PDU.
pub const H2C_DATA_BYTES_MAX: usize = 128 * 1024;
/// HPDA and CPDA go up to 31: data aligned to 128 bytes.
pub const PDA_MAX: u8 = 31;

/// Which digests a connection uses; settled by ICReq and ICResp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// After each PDU's header.
    pub header: bool,
    /// After each PDU's data.
    pub data: bool,
}

impl Digests {
    /// From the DGST field.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self { header: bits & 1 != 0, data: bits & 2 != 0 }
    }

    /// As the DGST field.
    #[must_use]
    pub const fn to_bits(self) -> u8 {
        self.header as u8 | (self.data as u8) << 1
    }

    /// Bytes of a header digest, if one is used.
    #[must_use]
    pub const fn header_bytes(self) -> usize {
        if self.header { DIGEST_BYTES } else { 0 }
    }

    /// Bytes of a data digest, if one is used.
    #[must_use]
    pub const fn data_bytes(self) -> usize {
        if self.data { DIGEST_BYTES } else { 0 }
    }
}

/// What a peer did so wrong that the connection ends: what a termination request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Fatal error status.
    pub fes: u16,
    /// Fatal error information.
    pub fei: u32,
    /// For the log.
    pub termination: Termination,
}

impl Fault {
    /// A header field at `offset` of the PDU is wrong.
    #[must_use]
    pub const fn field(offset: u32, reason: &'static str, value: u64) -> Self {
        Self { fes: fes::INVALID_HEADER_FIELD, fei: offset, termination: Termination { reason, value } }
    }

    /// Another kind of error.
    #[must_use]
    pub const fn new(fes: u16, fei: u32, reason: &'static str, value: u64) -> Self {
        Self { fes, fei, termination: Termination { reason, value } }
    }

    /// A PDU that may not come now.
    #[must_use]
    pub const fn sequence(reason: &'static str, value: u64) -> Self {
        Self::new(fes::SEQUENCE_ERROR, 0, reason, value)
    }
}

/// Where the parts of a received PDU lie, once its common header was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Bytes between the common header and the data (or the end): rest of the header, digest, padding.
    pub rest_bytes: usize,
    /// Bytes of data.
    pub data_bytes: usize,
}

/// Checks a common header against its type's fixed `hlen`, the `digests` in use and the most `data_bytes_max` that its
/// data may have; says where its parts lie.
///
/// # Errors
/// The fault that a termination request answers, naming the field.
pub fn check(header: &CommonHeader, hlen: usize, digests: Digests, data_bytes_max: usize) -> Result<Parts, Fault> {
    if usize::from(header.hlen) != hlen {
        return Err(Fault::field(2, "HLEN is not that of the PDU's type", u64::from(header.hlen)));
    }
    let plen = header.plen.get() as usize;
    let header_end = hlen + digests.header_bytes();
    if (header.flags & flags::HDGST != 0) != digests.header {
        return Err(Fault::field(1, "FLAGS.HDGSTF is not as negotiated", u64::from(header.flags)));
    }
    if plen == header_end {
        return Ok(Parts { rest_bytes: header_end - COMMON_BYTES, data_bytes: 0 });
    }
    if plen < header_end {
        return Err(Fault::field(4, "PLEN is below the header's size", plen as u64));
    }
    if (header.flags & flags::DDGST != 0) != digests.data {
        return Err(Fault::field(1, "FLAGS.DDGSTF is not as negotiated", u64::from(header.flags)));
    }
    let pdo = usize::from(header.pdo);
    if pdo < header_end || pdo % 4 != 0 {
        return Err(Fault::field(3, "PDO lies in the header or is no multiple of 4", pdo as u64));
    }
    match plen.checked_sub(pdo + digests.data_bytes()) {
        None | Some(0) => Err(Fault::field(4, "PLEN leaves no room for data", plen as u64)),
        Some(bytes) if bytes > data_bytes_max => {
            Err(Fault::field(4, "PLEN is above what this PDU may carry", plen as u64))
        }
        Some(data_bytes) => Ok(Parts { rest_bytes: pdo - COMMON_BYTES, data_bytes }),
    }
}

/// Checks the digest of a header that came as `common` and, with the digest and padding behind it, `rest`.
///
/// # Errors
/// The fault "header digest error" with the digest that came.
pub fn check_header_digest(common: &[u8; COMMON_BYTES], rest: &[u8], hlen: usize) -> Result<(), Fault> {
    let (header, tail) = rest.split_at(hlen - COMMON_BYTES);
    let mut digest = crate::crc32c::Crc32c::default();
    digest.update(common);
    digest.update(header);
    let came = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    if digest.finish() == came {
        return Ok(());
    }
    Err(Fault::new(fes::HEADER_DIGEST_ERROR, came, "HDGST does not hold", u64::from(came)))
}

/// How much an [`Encoder`] gathers before it is sent.
const ENCODER_BYTES: usize = 1024;
/// The most that one PDU without its data takes there: PDO 128, or a command capsule with its digest.
const ENCODED_BYTES_MAX: usize = 128;

/// Gathers the PDUs that are to be sent, headers only: payloads are sent from where they lie.
pub struct Encoder {
    bytes: [u8; ENCODER_BYTES],
    len: usize,
    /// The digests in use.
    pub digests: Digests,
    /// Data is aligned to this many bytes from its PDU's start.
    pub align_bytes: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { bytes: [0; ENCODER_BYTES], len: 0, digests: Digests::default(), align_bytes: 4 }
    }
}

impl core::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Encoder({} bytes)", self.len)
    }
}

impl Encoder {
    /// Forgets what was gathered.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Nothing was gathered.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One more PDU fits.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.len + ENCODED_BYTES_MAX <= ENCODER_BYTES
    }

    /// What was gathered.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// The header of a PDU without data: its digest flag and PLEN are put in here.
    fn push_header(&mut self, header: &mut [u8]) {
        let plen = header.len() + self.digests.header_bytes();
        self.finish_header(header, 0, plen);
    }

    /// The header of a PDU with `data_bytes` of data, with padding up to where the data starts.
    fn push_data_header(&mut self, header: &mut [u8], data_bytes: usize) {
        let start = self.len;
        let pdo = (header.len() + self.digests.header_bytes()).next_multiple_of(self.align_bytes);
        if self.digests.data {
            header[1] |= flags::DDGST;
        }
        self.finish_header(header, pdo as u8, pdo + data_bytes + self.digests.data_bytes());
        self.bytes[self.len..start + pdo].fill(0);
        self.len = start + pdo;
    }

    fn finish_header(&mut self, header: &mut [u8], pdo: u8, plen: usize) {
        header[2] = header.len() as u8;
        header[3] = pdo;
        header[4..8].copy_from_slice(&(plen as u32).to_le_bytes());
        if self.digests.header {
            header[1] |= flags::HDGST;
        }
        self.push(header);
        if self.digests.header {
            self.push(&crc32c(header).to_le_bytes());
        }
    }

    /// A response capsule.
    pub fn capsule_resp(&mut self, cqe: &Cqe) {
        let mut pdu = CapsuleResp { header: common(kind::CAPSULE_RESP, 0), cqe: *cqe };
        self.push_header(pdu.as_mut_bytes());
    }

    /// Asks for `bytes` from `offset` of the data of the command `cccid`.
    pub fn r2t(&mut self, cccid: u16, ttag: u16, offset: u32, bytes: u32) {
        let mut pdu = R2t {
            header: common(kind::R2T, 0),
            cccid: cccid.into(),
            ttag: ttag.into(),
            r2to: offset.into(),
            r2tl: bytes.into(),
            reserved20: 0.into(),
        };
        self.push_header(pdu.as_mut_bytes());
    }

    /// The header of a C2HData PDU; `flags`: LAST_PDU, SUCCESS.
    pub fn c2h_data(&mut self, cccid: u16, offset: u32, bytes: u32, flags: u8) {
        self.data(kind::C2H_DATA, cccid, 0, offset, bytes, flags);
    }

    /// The header of an H2CData PDU; `flags`: LAST_PDU.
    pub fn h2c_data(&mut self, cccid: u16, ttag: u16, offset: u32, bytes: u32, flags: u8) {
        self.data(kind::H2C_DATA, cccid, ttag, offset, bytes, flags);
    }

    fn data(&mut self, kind: u8, cccid: u16, ttag: u16, offset: u32, bytes: u32, flags: u8) {
        let mut pdu = DataPdu {
            header: common(kind, flags),
            cccid: cccid.into(),
            ttag: ttag.into(),
            datao: offset.into(),
            datal: bytes.into(),
            reserved20: 0.into(),
        };
        self.push_data_header(pdu.as_mut_bytes(), bytes as usize);
    }

    /// A command capsule, or its header if `data_bytes` of data are to follow.
    pub fn capsule_cmd(&mut self, sqe: &Sqe, data_bytes: usize) {
        let mut pdu = CapsuleCmd { header: common(kind::CAPSULE_CMD, 0), sqe: *sqe };
        if data_bytes == 0 {
            self.push_header(pdu.as_mut_bytes());
        } else {
            self.push_data_header(pdu.as_mut_bytes(), data_bytes);
        }
    }
}

const fn common(kind: u8, flags: u8) -> CommonHeader {
    CommonHeader { kind, flags, hlen: 0, pdo: 0, plen: zerocopy::little_endian::U32::ZERO }
}

fn fixed(kind: u8, plen: usize, hlen: usize) -> CommonHeader {
    CommonHeader { kind, flags: 0, hlen: hlen as u8, pdo: 0, plen: (plen as u32).into() }
}

/// A whole C2HData PDU with its data, for the admin queue.
#[must_use]
pub fn c2h_data(encoder: &mut Encoder, cccid: u16, data: &[u8]) -> Vec<u8> {
    encoder.clear();
    encoder.c2h_data(cccid, 0, data.len() as u32, flags::LAST_PDU);
    let mut pdu = Vec::with_capacity(encoder.len + data.len() + DIGEST_BYTES);
    pdu.extend_from_slice(encoder.bytes());
    pdu.extend_from_slice(data);
    if encoder.digests.data {
        pdu.extend_from_slice(&crc32c(data).to_le_bytes());
    }
    encoder.clear();
    pdu
}

/// An ICReq PDU.
#[must_use]
pub fn ic_req(hpda: u8, digests: Digests, maxr2t: u32) -> Vec<u8> {
    let pdu = IcReq {
        header: fixed(kind::IC_REQ, 128, 128),
        pfv: 0.into(),
        hpda,
        digests: digests.to_bits(),
        maxr2t: maxr2t.into(),
        reserved16: [0; 112],
    };
    pdu.as_bytes().to_vec()
}

/// An ICResp PDU; CPDA is 0.
#[must_use]
pub fn ic_resp(digests: Digests) -> Vec<u8> {
    let pdu = IcResp {
        header: fixed(kind::IC_RESP, 128, 128),
        pfv: 0.into(),
        cpda: 0,
        digests: digests.to_bits(),
        maxh2cdata: (H2C_DATA_BYTES_MAX as u32).into(),
        reserved16: [0; 112],
    };
    pdu.as_bytes().to_vec()
}

/// A termination request of `kind`, with as much of the faulty PDU's header as came and fits.
#[must_use]
pub fn term_req(kind: u8, fault: &Fault, header: &[u8]) -> Vec<u8> {
    let header = &header[..header.len().min(TERM_REQ_BYTES_MAX - size_of::<TermReq>())];
    let pdu = TermReq {
        header: fixed(kind, size_of::<TermReq>() + header.len(), size_of::<TermReq>()),
        fes: fault.fes.into(),
        fei: fault.fei.into(),
        reserved14: [0; 10],
    };
    let mut bytes = pdu.as_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes
}

/// What an ICReq asks, checked.
///
/// # Errors
/// A format version or an alignment that is not offered.
pub fn parse_ic_req(common: &[u8; COMMON_BYTES], rest: &[u8]) -> Result<(u8, Digests, u32), Fault> {
    let mut bytes = [0; size_of::<IcReq>()];
    bytes[..COMMON_BYTES].copy_from_slice(common);
    bytes[COMMON_BYTES..].copy_from_slice(rest);
    let Ok(pdu) = IcReq::ref_from_bytes(&bytes) else { unreachable!("IcReq has no alignment and this size") };
    if pdu.pfv.get() != 0 {
        return Err(Fault::new(fes::UNSUPPORTED_PARAMETER, 8, "PFV is not 0", u64::from(pdu.pfv.get())));
    }
    if pdu.hpda > PDA_MAX {
        return Err(Fault::field(10, "HPDA is above 31", u64::from(pdu.hpda)));
    }
    Ok((pdu.hpda, Digests::from_bits(pdu.digests), pdu.maxr2t.get()))
}
