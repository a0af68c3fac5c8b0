//! A one-page HTTP client, so that a container without a shell can look at its neighbours.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long a server may stay silent.
const TIMEOUT: Duration = Duration::from_secs(10);

/// No page we are asked to show is larger; a longer one is an error, not a flood on somebody's terminal.
const MAX_RESPONSE_BYTES: u64 = 16 * 1024 * 1024;

/// Gets an `http://host[:port]/path` page and returns its body. A status other than 2xx is an error that names it.
pub(crate) fn get(url: &str) -> Result<String> {
    let target = Target::parse(url)?;
    let mut stream = TcpStream::connect(&target.authority)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the body ends with the connection and is never chunked.
    write!(stream, "GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", target.path, target.authority)?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES + 1).read_to_end(&mut response)?;
    if response.len() as u64 > MAX_RESPONSE_BYTES {
        return Err(invalid(format!("the page is longer than {MAX_RESPONSE_BYTES} bytes")));
    }
    body(&String::from_utf8_lossy(&response))
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").unwrap_or(url);
        if rest.contains("://") {
            return Err(invalid(format!("not an http:// address: '{url}'")));
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        if authority.is_empty() || url.contains(char::is_whitespace) {
            return Err(invalid(format!("not an http:// address: '{url}'")));
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority, path: path.to_owned() })
    }
}

fn body(response: &str) -> Result<String> {
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or_else(|| invalid("the server sent no HTTP response".to_owned()))?;
    let status_line = head.lines().next().unwrap_or_default();
    let status = status_line.split_whitespace().nth(1).unwrap_or_default();
    if status.len() == 3 && status.starts_with('2') {
        Ok(body.to_owned())
    } else {
        Err(invalid(format!("the server answered '{status_line}'")))
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_port_and_path_means_port_80_and_the_root() {
        let target = Target::parse("http://demo.default").unwrap();
        assert_eq!(target, Target { authority: "demo.default:80".into(), path: "/".into() });
        let target = Target::parse("10.42.0.7:8080/healthz").unwrap();
        assert_eq!(target, Target { authority: "10.42.0.7:8080".into(), path: "/healthz".into() });
        Target::parse("https://demo").unwrap_err();
        Target::parse("http:///x").unwrap_err();
    }

    #[test]
    fn a_refused_page_is_an_error_that_names_the_status() {
        assert_eq!(body("HTTP/1.1 200 OK\r\na: b\r\n\r\nhello").unwrap(), "hello");
        let error = body("HTTP/1.1 503 Service Unavailable\r\n\r\nx").unwrap_err();
        assert!(error.to_string().contains("503 Service Unavailable"), "{error}");
    }
}
