//! key=value text of login and text PDUs (RFC 7143 6.1), with limits.

use alloc::vec::Vec;

/// A key's name (6.1).
pub const KEY_BYTES_MAX: usize = 63;
/// A value that is not a list of names may have 255 bytes (6.1); lists of methods are longer, and this is ample.
pub const VALUE_BYTES_MAX: usize = 1024;
/// Pairs in one negotiation: the standard's own keys are 24; each unknown one costs an answer.
pub const PAIRS_MAX: usize = 64;
/// The text of one negotiation step, over all PDUs that it is spread over.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Why text was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextError {
    /// A pair has no '='.
    NoEquals,
    /// A key is empty, too long, or has a character that keys don't have.
    Key,
    /// A value is too long or not UTF-8.
    Value,
    /// Too many pairs.
    TooMany,
}

/// Splits text into its pairs. Each ends with a NUL; a missing last one is forgiven, as initiators differ there.
///
/// # Errors
/// The first [`TextError`].
pub fn parse(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    let mut pairs = Vec::new();
    for pair in text.split(|&byte| byte == 0).filter(|pair| !pair.is_empty()) {
        if pairs.len() == PAIRS_MAX {
            return Err(TextError::TooMany);
        }
        let equals = pair.iter().position(|&byte| byte == b'=').ok_or(TextError::NoEquals)?;
        let (key, value) = (&pair[..equals], &pair[equals + 1..]);
        let is_key = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+@_/#".contains(byte);
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.iter().all(is_key) {
            return Err(TextError::Key);
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(TextError::Value);
        }
        let key = core::str::from_utf8(key).map_err(|_| TextError::Key)?;
        pairs.push((key, core::str::from_utf8(value).map_err(|_| TextError::Value)?));
    }
    Ok(pairs)
}

/// Adds a pair with its NUL.
pub fn put(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// A number, decimal or hexadecimal with 0x (6.1).
#[must_use]
pub fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => u32::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None if value.bytes().all(|byte| byte.is_ascii_digit()) => value.parse().ok(),
        None => None,
    }
}

/// Yes or No.
#[must_use]
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// Whether `name` has the form of an iSCSI name (4.2.7): iqn., eui. or naa., at most 223 bytes, no spaces or controls.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let form = ["iqn.", "eui.", "naa."].iter().any(|prefix| {
        name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) && name.len() > prefix.len()
    });
    form && name.len() <= 223 && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '=' || c == ',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;

    #[test]
    fn pairs_end_with_nul_and_the_last_may_lack_it() {
        assert_eq!(parse(b"A=1\0B=\0C=x=y"), Ok(vec![("A", "1"), ("B", ""), ("C", "x=y")]));
        assert_eq!(parse(b"\0\0"), Ok(vec![]));
    }

    #[test]
    fn what_is_malformed_or_huge_is_refused() {
        assert_eq!(parse(b"A\0"), Err(TextError::NoEquals));
        assert_eq!(parse(b"=1\0"), Err(TextError::Key));
        assert_eq!(parse(b"A B=1\0"), Err(TextError::Key));
        assert_eq!(parse(format!("{}=1\0", "k".repeat(64)).as_bytes()), Err(TextError::Key));
        assert!(parse(format!("{}=1\0", "k".repeat(63)).as_bytes()).is_ok());
        assert_eq!(parse(format!("A={}\0", "v".repeat(1025)).as_bytes()), Err(TextError::Value));
        assert_eq!(parse(b"A=\xff\0"), Err(TextError::Value));
        assert_eq!(parse("A=1\0".repeat(65).as_bytes()), Err(TextError::TooMany));
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!((number("262144"), number("0x40000")), (Some(262_144), Some(262_144)));
        assert_eq!((number("4294967296"), number("-1"), number("+1"), number("")), (None, None, None, None));
        assert_eq!((number("0x+1"), number("0x")), (None, None));
    }

    #[test]
    fn names_have_their_form() {
        assert!(is_name("iqn.1993-08.org.debian:01:abc") && is_name("IQN.2026-11.io.sds:p.v"));
        assert!(!is_name("iqn.") && !is_name("pqn.2026") && !is_name("iqn.a b") && !is_name(""));
        assert!(!is_name(&format!("iqn.{}", "x".repeat(220))));
    }
}
