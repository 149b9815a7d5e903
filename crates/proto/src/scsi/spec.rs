//! The layouts of SPC-4 (r37) and SBC-3 (r36) that this target reads and writes. Nothing but layouts: all numbers are
//! big-endian, and every size is asserted on the line after its type.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! layout {
    ($(#[$about:meta])* $name:ident, $bytes:literal { $($(#[$field_about:meta])* $field:ident: $kind:ty,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$field_about])* pub $field: $kind,)+ }
        const _: () = assert!(size_of::<$name>() == $bytes);
    };
}

layout! {
    /// A 6-byte CDB with a 21-bit address: READ(6), WRITE(6) (SBC-3 5.8, 5.32).
    Cdb6, 6 {
        /// 00h.
        operation: u8,
        /// The address's bits 20 to 16, in the low five bits.
        lba_high: u8,
        /// The address's bits 15 to 0.
        lba_low: U16,
        /// In blocks; 0 means 256.
        length: u8,
        /// CONTROL.
        control: u8,
    }
}

layout! {
    /// A 10-byte CDB with an address: READ(10), WRITE(10), VERIFY(10), ... (SBC-3 5.9, 5.33).
    Cdb10, 10 {
        /// 00h.
        operation: u8,
        /// PROTECT 7-5, DPO 4, FUA 3; BYTCHK 2-1 of VERIFY.
        flags: u8,
        /// LOGICAL BLOCK ADDRESS.
        lba: U32,
        /// GROUP NUMBER.
        group: u8,
        /// In blocks.
        length: U16,
        /// CONTROL.
        control: u8,
    }
}

layout! {
    /// A 12-byte CDB with an address: READ(12), WRITE(12), VERIFY(12) (SBC-3 5.10, 5.34).
    Cdb12, 12 {
        /// 00h.
        operation: u8,
        /// As in [`Cdb10`].
        flags: u8,
        /// LOGICAL BLOCK ADDRESS.
        lba: U32,
        /// In blocks.
        length: U32,
        /// GROUP NUMBER.
        group: u8,
        /// CONTROL.
        control: u8,
    }
}

layout! {
    /// A 16-byte CDB with an address: READ(16), WRITE(16), VERIFY(16), WRITE SAME(16), ... (SBC-3 5.11, 5.35).
    Cdb16, 16 {
        /// 00h.
        operation: u8,
        /// As in [`Cdb10`]; the service action in the low five bits of 9Eh.
        flags: u8,
        /// LOGICAL BLOCK ADDRESS.
        lba: U64,
        /// In blocks, or the allocation length in bytes.
        length: U32,
        /// GROUP NUMBER. COMPARE AND WRITE has its NUMBER OF LOGICAL BLOCKS in the length's last byte (SBC-3 5.2).
        group: u8,
        /// CONTROL.
        control: u8,
    }
}

layout! {
    /// Standard INQUIRY data (SPC-4 6.6.2), with version descriptors and without vendor-specific bytes.
    InquiryStandard, 74 {
        /// PERIPHERAL QUALIFIER 7-5, PERIPHERAL DEVICE TYPE 4-0.
        peripheral: u8,
        /// RMB in bit 7.
        removable: u8,
        /// 06h: SPC-4.
        version: u8,
        /// HISUP in bit 4; RESPONSE DATA FORMAT 2 in 3-0.
        format: u8,
        /// How many bytes follow this one.
        additional_length: u8,
        /// SCCS, TPGS, 3PC, PROTECT.
        flags_5: u8,
        /// ENCSERV, MULTIP.
        flags_6: u8,
        /// CMDQUE in bit 1.
        flags_7: u8,
        /// T10 VENDOR IDENTIFICATION, ASCII, spaces at the end.
        vendor: [u8; 8],
        /// PRODUCT IDENTIFICATION.
        product: [u8; 16],
        /// PRODUCT REVISION LEVEL.
        revision: [u8; 4],
        /// Vendor specific, and two reserved bytes.
        unused: [u8; 22],
        /// VERSION DESCRIPTORs; a product of eight.
        versions: [U16; 8],
    }
}

layout! {
    /// The header of a VPD page (SPC-4 7.8.1).
    VpdHeader, 4 {
        /// As in [`InquiryStandard`].
        peripheral: u8,
        /// PAGE CODE.
        page: u8,
        /// PAGE LENGTH: how many bytes follow.
        length: U16,
    }
}

layout! {
    /// The header of a designation descriptor (SPC-4 7.8.6.1).
    DesignatorHeader, 4 {
        /// PROTOCOL IDENTIFIER 7-4, CODE SET 3-0.
        code_set: u8,
        /// PIV 7, ASSOCIATION 5-4, DESIGNATOR TYPE 3-0.
        kind: u8,
        /// Reserved.
        reserved: u8,
        /// How many bytes follow.
        length: u8,
    }
}

layout! {
    /// Block Limits VPD page, after its header (SBC-3 6.6.4).
    BlockLimits, 60 {
        /// WSNZ in bit 0: WRITE SAME of 0 blocks is refused.
        flags: u8,
        /// MAXIMUM COMPARE AND WRITE LENGTH, blocks.
        compare_and_write_blocks_max: u8,
        /// OPTIMAL TRANSFER LENGTH GRANULARITY, blocks.
        transfer_granularity_blocks: U16,
        /// MAXIMUM TRANSFER LENGTH, blocks.
        transfer_blocks_max: U32,
        /// OPTIMAL TRANSFER LENGTH, blocks.
        transfer_blocks_optimal: U32,
        /// MAXIMUM PREFETCH LENGTH, blocks.
        prefetch_blocks_max: U32,
        /// MAXIMUM UNMAP LBA COUNT, of a whole UNMAP command.
        unmap_blocks_max: U32,
        /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
        unmap_descriptors_max: U32,
        /// OPTIMAL UNMAP GRANULARITY, blocks.
        unmap_granularity_blocks: U32,
        /// UGAVALID 31, UNMAP GRANULARITY ALIGNMENT 30-0.
        unmap_alignment: U32,
        /// MAXIMUM WRITE SAME LENGTH, blocks.
        write_same_blocks_max: U64,
        /// Atomic writes (SBC-4): none.
        atomic: [U32; 5],
    }
}

layout! {
    /// Block Device Characteristics VPD page, after its header (SBC-3 6.6.3).
    BlockCharacteristics, 60 {
        /// MEDIUM ROTATION RATE: 0001h does not rotate.
        rotation_rate: U16,
        /// PRODUCT TYPE.
        product_type: u8,
        /// WABEREQ, WACEREQ, NOMINAL FORM FACTOR.
        form_factor: u8,
        /// FUAB, VBULS.
        flags: u8,
        /// Reserved.
        reserved: [u8; 23],
        /// Reserved.
        reserved_end: [u8; 32],
    }
}

layout! {
    /// Logical Block Provisioning VPD page, after its header (SBC-3 6.6.6).
    LogicalBlockProvisioning, 4 {
        /// THRESHOLD EXPONENT: 0, no thresholds.
        threshold_exponent: u8,
        /// LBPU 7, LBPWS 6, LBPWS10 5, LBPRZ 4-2, ANC_SUP 1, DP 0.
        flags: u8,
        /// PROVISIONING TYPE 2-0: 2 is thin.
        provisioning_type: u8,
        /// Reserved.
        reserved: u8,
    }
}

layout! {
    /// READ CAPACITY(10) data (SBC-3 5.15.2).
    ReadCapacity10, 8 {
        /// The last block's address, or FFFFFFFFh: ask READ CAPACITY(16).
        last_lba: U32,
        /// LOGICAL BLOCK LENGTH IN BYTES.
        block_bytes: U32,
    }
}

layout! {
    /// READ CAPACITY(16) data (SBC-3 5.16.2).
    ReadCapacity16, 32 {
        /// The last block's address.
        last_lba: U64,
        /// LOGICAL BLOCK LENGTH IN BYTES.
        block_bytes: U32,
        /// P_TYPE, PROT_EN.
        protection: u8,
        /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT in 3-0.
        exponent: u8,
        /// LBPME 15, LBPRZ 14, LOWEST ALIGNED LOGICAL BLOCK ADDRESS 13-0.
        provisioning: U16,
        /// Reserved.
        reserved: [u8; 16],
    }
}

layout! {
    /// The header of an UNMAP parameter list (SBC-3 5.28.2).
    UnmapHeader, 8 {
        /// UNMAP DATA LENGTH: how many bytes follow this field.
        data_length: U16,
        /// UNMAP BLOCK DESCRIPTOR DATA LENGTH.
        descriptors_length: U16,
        /// Reserved.
        reserved: U32,
    }
}

layout! {
    /// One UNMAP block descriptor (SBC-3 5.28.2).
    UnmapDescriptor, 16 {
        /// The first block.
        lba: U64,
        /// How many.
        blocks: U32,
        /// Reserved.
        reserved: U32,
    }
}

layout! {
    /// GET LBA STATUS data with one descriptor (SBC-3 5.5.2).
    LbaStatus, 24 {
        /// PARAMETER DATA LENGTH: how many bytes follow this field.
        data_length: U32,
        /// Reserved.
        reserved: U32,
        /// The first block.
        lba: U64,
        /// How many.
        blocks: U32,
        /// PROVISIONING STATUS in 3-0: 0 is mapped or unknown.
        status: u8,
        /// Reserved.
        reserved_end: [u8; 3],
    }
}

layout! {
    /// Mode parameter header of MODE SENSE(6) and SELECT(6) (SPC-4 7.5.5).
    ModeHeader6, 4 {
        /// MODE DATA LENGTH: how many bytes follow this field.
        data_length: u8,
        /// MEDIUM TYPE.
        medium_type: u8,
        /// WP 7, DPOFUA 4 (SBC-3 6.5.1).
        device_specific: u8,
        /// BLOCK DESCRIPTOR LENGTH.
        descriptor_length: u8,
    }
}

layout! {
    /// Mode parameter header of MODE SENSE(10) and SELECT(10) (SPC-4 7.5.5).
    ModeHeader10, 8 {
        /// MODE DATA LENGTH: how many bytes follow this field.
        data_length: U16,
        /// MEDIUM TYPE.
        medium_type: u8,
        /// WP 7, DPOFUA 4.
        device_specific: u8,
        /// LONGLBA in bit 0.
        long_lba: u8,
        /// Reserved.
        reserved: u8,
        /// BLOCK DESCRIPTOR LENGTH.
        descriptor_length: U16,
    }
}

layout! {
    /// Fixed-format sense data (SPC-4 4.5.3).
    FixedSense, 18 {
        /// VALID 7, RESPONSE CODE 70h.
        response: u8,
        /// Obsolete.
        obsolete: u8,
        /// FILEMARK, EOM, ILI, SENSE KEY 3-0.
        key: u8,
        /// INFORMATION, if VALID.
        information: U32,
        /// How many bytes follow: 10.
        additional_length: u8,
        /// COMMAND-SPECIFIC INFORMATION.
        command_specific: U32,
        /// ADDITIONAL SENSE CODE.
        asc: u8,
        /// ADDITIONAL SENSE CODE QUALIFIER.
        ascq: u8,
        /// FIELD REPLACEABLE UNIT CODE.
        unit_code: u8,
        /// SKSV 7, C/D 6, BPV 3, BIT POINTER 2-0 (SPC-4 4.5.2.4.2).
        key_specific: u8,
        /// FIELD POINTER.
        field: U16,
    }
}
