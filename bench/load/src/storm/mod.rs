//! A host over both protocols that knows, after each kill of the node, what each sector may hold.
//!
//! | module | what it holds |
//! |---|---|
//! | [`model`] | the simulator's oracle on the machine's clock |
//! | [`wire`] | [`Wire`](wire::Wire): what a volume is asked; the way over NVMe/TCP |
//! | [`iscsi`] | the way over iSCSI: a small initiator |
//! | [`load`] | connections that write at random; reading everything back |

pub mod model;
pub mod wire;
pub mod iscsi;
pub mod load;
