//! NVMe over TCP: NVMe Base 2.0c, NVM command set 1.0c, NVMe/TCP transport 1.0c. Target and initiator.
//!
//! | module | what it holds |
//! |---|---|
//! | [`event`] | what a queue asks of the glue around it, and how the glue answers |

pub mod event;
