//! QEMU's machine protocol (QMP): JSON lines over a socket.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::error::Error;

/// A connection that is ready for commands.
#[derive(Debug)]
pub(crate) struct Qmp {
    answers: Lines<BufReader<OwnedReadHalf>>,
    commands: OwnedWriteHalf,
}

impl Qmp {
    /// Waits for QEMU to connect and leaves the protocol's negotiation mode.
    pub(crate) async fn accept(listener: UnixListener) -> Result<Self, Error> {
        let (stream, _) = listener.accept().await.map_err(Error::host("accept QEMU's control connection"))?;
        let (answers, commands) = stream.into_split();
        let mut qmp = Self { answers: BufReader::new(answers).lines(), commands };
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// Runs a command without arguments. Events that come before its answer are dropped.
    pub(crate) async fn execute(&mut self, command: &'static str) -> Result<(), Error> {
        let request = format!("{}\n", json!({ "execute": command }));
        self.commands
            .write_all(request.as_bytes())
            .await
            .map_err(Error::host(format!("send '{command}' to QEMU")))?;
        loop {
            let line = self.answers.next_line().await.map_err(Error::host("read QEMU's answer"))?;
            let line = line.ok_or_else(|| Error::Refused { command, answer: "it hung up".into() })?;
            let answer: Value = serde_json::from_str(&line)
                .map_err(|error| Error::Refused { command, answer: format!("not JSON: {error}") })?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                return Err(Error::Refused { command, answer: error.to_string() });
            }
        }
    }
}
