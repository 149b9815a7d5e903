//! Labels: what is read can be written again, and says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sds_fuzz::sealed;
use sds_volume::layout::label::{self, Label};

fuzz_target!(|input: &[u8]| {
    if let Ok(label) = Label::decode(&sealed::bytes_of(input, &label::LABEL, &[], 4096)) {
        let again = Label::decode(&label.encode()).expect("what was written is read");
        assert_eq!(again, label);
    }
});
