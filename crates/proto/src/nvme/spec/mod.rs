//! The layouts of NVMe Base 2.0c, the NVM command set 1.0c and the NVMe/TCP transport 1.0c, and their numbers.
//!
//! Nothing here decides anything. All integers are little-endian, no type needs alignment, so a received buffer is
//! looked at where it lies.
//!
//! | module | what it holds |
//! |---|---|
//! | [`pdu`] | the transport's PDUs |
//! | [`command`] | submission and completion entries, Connect and Property commands |
//! | [`identify`] | what Identify returns |
//! | [`log`] | log pages |

pub mod pdu;
pub mod command;
pub mod identify;
pub mod log;

/// Fails the build where a type's size or a field's offset is not what the specification says.
macro_rules! layout {
    ($type:ty, $size:expr $(, $field:ident @ $offset:expr)* $(,)?) => {
        const _: () = assert!(size_of::<$type>() == $size $(&& core::mem::offset_of!($type, $field) == $offset)*);
    };
}
pub(crate) use layout;
