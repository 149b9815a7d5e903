//! Text of iSCSI logins: any pairs in any requests. What is agreed lies within what each side said, and answers fit an
//! initiator that has not said how much it takes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sds_fuzz::words::Words;
use sds_proto::iscsi::login::{Login, Step};
use sds_proto::iscsi::pdu::{self, BHS_BYTES};
use sds_proto::iscsi::text::{PAIRS_MAX, boolean, is_name, number, parse, put};
use sds_proto::iscsi::{LoginAccept, LoginRefusal, SessionKind, Settings};

/// MaxRecvDataSegmentLength before it is declared (RFC 7143 13.12).
const ANSWER_BYTES_MAX: usize = 8192;
/// More than any login may take.
const REQUESTS_MAX: usize = 40;

fn try_pairs(text: &[u8]) {
    let Ok(pairs) = parse(text) else { return };
    assert!(pairs.len() <= PAIRS_MAX, "{} pairs", pairs.len());
    let mut again = Vec::new();
    for (key, value) in &pairs {
        put(&mut again, key, value);
        let _ = (number(value), boolean(value), is_name(value));
    }
    assert_eq!(parse(&again), Ok(pairs));
}

fn try_login(words: &mut Words<'_>) {
    let options = words.u8();
    let settings = Settings {
        max_burst_bytes: if options & 1 == 0 { 1 << 20 } else { 8192 },
        initial_r2t: options & 2 != 0,
        immediate_data: options & 4 == 0,
        ..Settings::default()
    };
    let mut login = Login::default();
    for _ in 0..REQUESTS_MAX {
        let (flags, spoilt, bytes) = (words.u8(), words.u8(), words.u16() & 0x3ff);
        let mut bhs = [0; BHS_BYTES];
        (bhs[0], bhs[1]) = (0x43, flags);
        if spoilt & 0xc0 == 0xc0 {
            bhs[usize::from(spoilt & 0x3f) % BHS_BYTES] ^= 1;
        }
        let text = words.part(bytes.into());
        let mut step = login.handle(pdu::view(&bhs), text, &settings);
        if let Step::Ask(request) = &step {
            assert!(is_name(&request.initiator), "{request:?}");
            assert!(!matches!(&request.kind, SessionKind::Normal { target } if !is_name(target)), "{request:?}");
            step = Step::Answer(if options & 8 == 0 {
                login.accept(&LoginAccept { tsih: 9, portal_group: 1, unit: None }, &settings)
            } else {
                login.refuse(LoginRefusal::TargetNotFound)
            });
        }
        let Step::Answer(answer) = step else { unreachable!("every question was answered") };
        assert!(answer.data.len() <= ANSWER_BYTES_MAX, "{} bytes of answer", answer.data.len());
        let agreed = &login.parameters;
        if answer.complete {
            assert!(answer.refused.is_none());
            assert!((512..1 << 24).contains(&agreed.send_segment_bytes), "{agreed:?}");
            assert!((512..=1 << 20).contains(&agreed.max_burst_bytes), "{agreed:?}");
            assert!(agreed.first_burst_bytes <= agreed.max_burst_bytes.min(64 << 10), "{agreed:?}");
        }
        if answer.complete || answer.refused.is_some() {
            return;
        }
    }
    panic!("a login without end");
}

fuzz_target!(|input: &[u8]| {
    try_pairs(input);
    try_login(&mut Words(input));
});
