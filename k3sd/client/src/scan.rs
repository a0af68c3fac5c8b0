//! Finding where values lie in a JSON text, without decoding them.
//!
//! A watch event is `{"type":…,"object":{…}}` and a list is `{…,"items":[{…},…]}`. The cache keeps the objects as the
//! bytes they came in, so it needs their places, not their contents. The text is trusted only as far as brackets and
//! strings go; each object is parsed afterwards, which is where malformed ones are found.

use std::ops::Range;

/// The text ended early or has a delimiter where none may be; the offset is where that was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON at byte {0}")]
pub(crate) struct Malformed(pub usize);

/// The value of the first member of the object in `text` that is called `name`; `None` when it has none.
pub(crate) fn member(text: &[u8], name: &str) -> Result<Option<Range<usize>>, Malformed> {
    let mut at = open(text, 0, b'{')?;
    while let Some(start) = next(text, &mut at, b'}')? {
        let key_end = skip_string(text, start)?;
        let colon = skip_space(text, key_end);
        if text.get(colon) != Some(&b':') {
            return Err(Malformed(colon));
        }
        let value = skip_space(text, colon + 1);
        at = skip_value(text, value)?;
        if &text[start + 1..key_end - 1] == name.as_bytes() {
            return Ok(Some(value..at));
        }
    }
    Ok(None)
}

/// The elements of the array in `text`, as ranges of `text`.
pub(crate) fn elements(text: &[u8], array: Range<usize>) -> Result<Vec<Range<usize>>, Malformed> {
    let mut found = Vec::new();
    if text[array.clone()] == *b"null" {
        return Ok(found);
    }
    let mut at = open(text, array.start, b'[')?;
    while let Some(start) = next(text, &mut at, b']')? {
        at = skip_value(text, start)?;
        found.push(start..at);
    }
    Ok(found)
}

fn open(text: &[u8], from: usize, bracket: u8) -> Result<usize, Malformed> {
    let at = skip_space(text, from);
    if text.get(at) == Some(&bracket) { Ok(at + 1) } else { Err(Malformed(at)) }
}

/// Steps over a comma if there is one; the start of the next entry, or `None` at the closing bracket.
fn next(text: &[u8], at: &mut usize, close: u8) -> Result<Option<usize>, Malformed> {
    let mut start = skip_space(text, *at);
    if text.get(start) == Some(&b',') {
        start = skip_space(text, start + 1);
    }
    match text.get(start) {
        None => Err(Malformed(start)),
        Some(byte) if *byte == close => Ok(None),
        Some(_) => Ok(Some(start)),
    }
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The offset after the value that starts at `at`.
fn skip_value(text: &[u8], mut at: usize) -> Result<usize, Malformed> {
    let mut depth = 0usize;
    loop {
        match *text.get(at).ok_or(Malformed(at))? {
            b'"' => at = skip_string(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1).ok_or(Malformed(at))?;
                at += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth > 0 => {
                at += 1;
                continue;
            }
            b',' | b':' => return Err(Malformed(at)),
            _ => at = skip_scalar(text, at),
        }
        if depth == 0 {
            return Ok(at);
        }
    }
}

fn skip_scalar(text: &[u8], mut at: usize) -> usize {
    while !matches!(text.get(at), None | Some(b',' | b':' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The offset after the string whose opening quote is at `at`.
fn skip_string(text: &[u8], at: usize) -> Result<usize, Malformed> {
    if text.get(at) != Some(&b'"') {
        return Err(Malformed(at));
    }
    let mut at = at + 1;
    loop {
        match text.get(at).ok_or(Malformed(at))? {
            b'"' => return Ok(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_elements_are_found_whatever_strings_hold() {
        let text = br#" {"a":"}\"]","items": [ {"x":[1,{"y":"]"}]} ,2, "s"],"object":{"k":null} }"#;
        let items = member(text, "items").unwrap().unwrap();
        let parts: Vec<&[u8]> = elements(text, items).unwrap().into_iter().map(|r| &text[r]).collect();
        assert_eq!(parts, [br#"{"x":[1,{"y":"]"}]}"#.as_slice(), b"2", br#""s""#]);
        assert_eq!(&text[member(text, "object").unwrap().unwrap()], br#"{"k":null}"#);
        assert_eq!(&text[member(text, "a").unwrap().unwrap()], br#""}\"]""#);
        assert_eq!(member(text, "none").unwrap(), None);
        assert!(elements(b"[]", 0..2).unwrap().is_empty());
        assert!(elements(b"null", 0..4).unwrap().is_empty());
    }

    #[test]
    fn a_text_cut_anywhere_is_malformed_and_never_panics() {
        let text = br#"{"type":"ADDED","object":{"a":["b",{"c":1}]}}"#;
        for end in 0..text.len() - 1 {
            assert!(member(&text[..end], "zzz").is_err(), "cut at {end}");
        }
        assert_eq!(member(text, "zzz").unwrap(), None);
        assert!(member(b"[1]", "a").is_err());
        assert!(member(br#"{"a" 1}"#, "a").is_err());
    }
}
