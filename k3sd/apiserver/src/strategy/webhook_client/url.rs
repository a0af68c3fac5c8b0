//! URLs as Go's `net/url` reads them: upstream refuses what that refuses, in its words, and looks at the parts it finds.
//! Not for reaching anybody: the client that calls webhooks reads URLs by itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use percent_encoding::percent_decode_str;

/// A URL that cannot be taken apart.
#[derive(Debug, thiserror::Error)]
#[error("parse {}: {reason}", quoted(text))]
pub(super) struct Unreadable {
    text: String,
    reason: Reason,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("net/url: invalid control character in URL")]
    ControlCharacter,
    #[error("missing protocol scheme")]
    NoScheme,
    #[error("first path segment in URL cannot contain colon")]
    Colon,
    #[error("net/url: invalid userinfo")]
    User,
    #[error("invalid character {} in host name", quoted(.0))]
    HostCharacter(String),
    #[error("missing ']' in host")]
    Bracket,
    #[error("invalid IP-literal")]
    Literal,
    // There the reader of addresses says more about some of them.
    #[error("invalid host: ParseAddr({}): unable to parse IP", quoted(.0))]
    Address(String),
    #[error("invalid port {} after host", quoted(.0))]
    Port(String),
    #[error("invalid URL escape {}", quoted(.0))]
    Escape(String),
}

/// What a URL consists of, as far as the rules go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) scheme: String,
    pub(super) user: Option<&'a str>,
    pub(super) host: &'a str,
    pub(super) query: &'a str,
    pub(super) fragment: String,
}

/// Where a percent sign stands decides what may be behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Host,
    /// The scope of an IPv6 address.
    Zone,
    Elsewhere,
}

// === impl Url ===

impl<'a> Url<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Unreadable> {
        let refuse = |text: &str, reason| Unreadable { text: text.to_owned(), reason };
        let (front, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = Self::without_fragment(front).map_err(|reason| refuse(front, reason))?;
        check_escapes(fragment, Place::Elsewhere).map_err(|reason| refuse(text, reason))?;
        url.fragment = percent_decode_str(fragment).decode_utf8_lossy().into_owned();
        Ok(url)
    }

    fn without_fragment(text: &'a str) -> Result<Self, Reason> {
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(Reason::ControlCharacter);
        }
        let (scheme, rest) = split_scheme(text)?;
        let scheme = scheme.to_ascii_lowercase();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self { scheme, user: None, host: "", query, fragment: String::new() };
        if !rest.starts_with('/') {
            let first = rest.split('/').next().unwrap_or_default();
            // With a scheme, what does not begin with a slash is opaque.
            return if url.scheme.is_empty() && first.contains(':') {
                Err(Reason::Colon)
            } else if url.scheme.is_empty() {
                check_escapes(rest, Place::Elsewhere).map(|()| url)
            } else {
                Ok(url)
            };
        }
        let authority =
            rest.strip_prefix("//").filter(|after| !url.scheme.is_empty() || !after.starts_with('/'));
        let path = match authority {
            Some(after) => {
                let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
                url.read_authority(authority)?;
                path
            }
            None => rest,
        };
        check_escapes(path, Place::Elsewhere)?;
        Ok(url)
    }

    fn read_authority(&mut self, authority: &'a str) -> Result<(), Reason> {
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        check_host(host, &self.scheme)?;
        if let Some(user) = user {
            if !user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte))
            {
                return Err(Reason::User);
            }
            check_escapes(user, Place::Elsewhere)?;
        }
        (self.user, self.host) = (user, host);
        Ok(())
    }
}

/// The scheme, empty if there is none, and what follows.
fn split_scheme(text: &str) -> Result<(&str, &str), Reason> {
    let Some((scheme, rest)) = text.split_once(':') else { return Ok(("", text)) };
    if scheme.is_empty() {
        return Err(Reason::NoScheme);
    }
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    Ok(if is_scheme { (scheme, rest) } else { ("", text) })
}

/// A host with its port.
fn check_host(host: &str, scheme: &str) -> Result<(), Reason> {
    match host.rfind('[') {
        Some(0) => {
            let (address, port) = host[1..].rsplit_once(']').ok_or(Reason::Bracket)?;
            check_port(port)?;
            check_address(address)
        }
        Some(_) => Err(Reason::Literal),
        None => {
            // Schemes that list several hosts have more than one colon there.
            let is_strict = matches!(scheme, "http" | "https");
            let port = if is_strict { host.find(':') } else { host.rfind(':') };
            check_port(port.map_or("", |at| &host[at..]))?;
            check_escapes(host, Place::Host)
        }
    }
}

/// Nothing, or a colon and digits.
fn check_port(text: &str) -> Result<(), Reason> {
    let digits = if text.is_empty() { Some("") } else { text.strip_prefix(':') };
    match digits {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
        _ => Err(Reason::Port(text.to_owned())),
    }
}

/// What stands in brackets: an IPv6 address, with its zone after an escaped percent sign.
fn check_address(text: &str) -> Result<(), Reason> {
    let (address, zone) = match text.split_once("%25") {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    check_escapes(address, Place::Host)?;
    check_escapes(zone.unwrap_or_default(), Place::Zone)?;
    if address.parse::<Ipv6Addr>().is_ok() && zone != Some("") {
        Ok(())
    } else if zone.is_none() && address.parse::<Ipv4Addr>().is_ok() {
        Err(Reason::Literal)
    } else {
        Err(Reason::Address(percent_decode_str(text).decode_utf8_lossy().into_owned()))
    }
}

/// Every percent sign is followed by two digits; in a host there is nothing that a host cannot have.
fn check_escapes(text: &str, place: Place) -> Result<(), Reason> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let escape = &bytes[at..bytes.len().min(at + 3)];
            if !may_escape(escape, place) {
                return Err(Reason::Escape(String::from_utf8_lossy(escape).into_owned()));
            }
            at += 3;
            continue;
        }
        if place != Place::Elsewhere && byte.is_ascii() && !is_of_host(byte) {
            return Err(Reason::HostCharacter(char::from(byte).to_string()));
        }
        at += 1;
    }
    Ok(())
}

fn may_escape(escape: &[u8], place: Place) -> bool {
    let digit = |at: usize| escape.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    let (Some(high), Some(low)) = (digit(1), digit(2)) else { return false };
    let is_percent_sign = escape == b"%25";
    match place {
        Place::Elsewhere => true,
        // What is ASCII is written as it is (RFC 3986), but for the sign itself (RFC 6874).
        Place::Host => high >= 8 || is_percent_sign,
        Place::Zone => {
            let byte = u8::try_from(high << 4 | low).unwrap_or_default();
            is_percent_sign || byte == b' ' || is_of_host(byte)
        }
    }
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte)
}

/// A text as Go's `%q` has it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(character))),
            _ if character.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        for (text, reason) in [
            ("https://host:abc", "invalid port \":abc\" after host"),
            ("https://host:1:2", "invalid port \":1:2\" after host"),
            ("https://h:٣", "invalid port \":٣\" after host"),
            ("https://[::1", "missing ']' in host"),
            ("https://[::1]x", "invalid port \"x\" after host"),
            ("https://[::1]:x", "invalid port \":x\" after host"),
            ("https://[fe80::1%en0]", "invalid URL escape \"%en\""),
            ("https://[fe80::1%25%0a]", "invalid URL escape \"%0a\""),
            ("https://[1.2.3.4]", "invalid IP-literal"),
            ("https://a[::1]", "invalid IP-literal"),
            ("https://[abc]", "invalid host: ParseAddr(\"abc\"): unable to parse IP"),
            ("https://[]", "invalid host: ParseAddr(\"\"): unable to parse IP"),
            ("https://a b/c", "invalid character \" \" in host name"),
            ("https://a\\b", "invalid character \"\\\\\" in host name"),
            ("https://h%41/x", "invalid URL escape \"%41\""),
            ("https://h/%zz", "invalid URL escape \"%zz\""),
            ("https://h/a%2", "invalid URL escape \"%2\""),
            ("https://h/%", "invalid URL escape \"%\""),
            ("https://h/#%zz", "invalid URL escape \"%zz\""),
            ("a/%zz", "invalid URL escape \"%zz\""),
            ("https://u%zz@h", "invalid URL escape \"%zz\""),
            ("https://u{@h", "net/url: invalid userinfo"),
            ("https://u{@h:x", "invalid port \":x\" after host"),
            ("://h", "missing protocol scheme"),
            ("1ttp://h", "first path segment in URL cannot contain colon"),
            ("https://h\n", "net/url: invalid control character in URL"),
        ] {
            let error = Url::parse(text).expect_err(text).to_string();
            // The fragment is not named but where it is what is wrong.
            assert_eq!(error, format!("parse {}: {reason}", quoted(text)));
        }
        let error = Url::parse("https://h:x#f").expect_err("a port").to_string();
        assert_eq!(error, "parse \"https://h:x\": invalid port \":x\" after host");
        let error = Url::parse("https://h\u{7f}/").expect_err("a control character").to_string();
        assert_eq!(error, "parse \"https://h\\x7f/\": net/url: invalid control character in URL");
    }

    #[test]
    fn what_go_reads_has_its_parts() {
        // (text, scheme, host, user, query, fragment)
        for (text, scheme, host, user, query, fragment) in [
            ("HTTPS://h", "https", "h", None, "", ""),
            ("https://h:", "https", "h:", None, "", ""),
            ("https://[::1]:443/x", "https", "[::1]:443", None, "", ""),
            ("https://[fe80::1%25en0]", "https", "[fe80::1%25en0]", None, "", ""),
            ("https://hé/a b", "https", "hé", None, "", ""),
            ("https://h%C3%A9/x", "https", "h%C3%A9", None, "", ""),
            ("https://h?%zz", "https", "h", None, "%zz", ""),
            ("https://h??", "https", "h", None, "?", ""),
            ("https://u:p@h/#%41", "https", "h", Some("u:p"), "", "A"),
            ("https://u@v@h", "https", "h", Some("u@v"), "", ""),
            ("https:opaque%zz", "https", "", None, "", ""),
            ("https:///x", "https", "", None, "", ""),
            ("//h/x", "", "h", None, "", ""),
            ("///h", "", "", None, "", ""),
            ("h:80/x", "h", "", None, "", ""),
            ("a/b:c", "", "", None, "", ""),
            ("ftp://h:1:2/x", "ftp", "h:1:2", None, "", ""),
            ("https://h/\u{80}", "https", "h", None, "", ""),
        ] {
            let (scheme, fragment) = (scheme.to_owned(), fragment.to_owned());
            assert_eq!(Url::parse(text).expect(text), Url { scheme, user, host, query, fragment }, "{text}");
        }
    }
}
