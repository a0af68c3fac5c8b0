//! `init log COMMAND`: the other end of the log socket, for a debug shell or a privileged pod that has the host's files.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use super::server::SOCKET;

/// The word that selects this role.
pub(crate) const ROLE: &str = "log";

/// Asks the socket (or another one, after `--socket`) and prints the answer.
pub(crate) fn ask_role(arguments: &[String]) -> ExitCode {
    let (socket, words) = match arguments {
        [option, socket, words @ ..] if option == "--socket" => (socket.as_str(), words),
        words => (SOCKET, words),
    };
    match ask(Path::new(socket), &words.join(" "), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: failed to ask {socket}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(socket: &Path, command: &str, out: &mut impl Write) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    writeln!(stream, "{command}")?;
    io::copy(&mut stream, out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_command_goes_out_as_one_line_and_the_answer_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            write!(stream, "you said {line}").unwrap();
        });
        let mut answer = Vec::new();
        ask(&path, "show lines=1", &mut answer).unwrap();
        server.join().unwrap();
        assert_eq!(answer, b"you said show lines=1\n");
    }
}
