//! What the fuzz targets share.
//!
//! | module | what it holds |
//! |---|---|
//! | [`shell`] | the shell's part of the contract with a protocol machine, checked at every step; a small device |
//! | [`words`] | a fuzzer's bytes as numbers and parts |
//! | [`sealed`] | bodies in the envelopes of `sds_volume::layout`, with the right CRC: a fuzzer never guesses one |
#![forbid(unsafe_code)]

pub mod shell;
pub mod words;
pub mod sealed;
