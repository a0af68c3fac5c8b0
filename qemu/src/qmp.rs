//! QEMU's machine protocol (QMP): JSON lines over a socket, answers to commands and events in between.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::error::Error;

/// How long QEMU may take to answer: it does so between two slices of the guest.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An event names itself; a machine has a few dozen in its life, and one that floods forgets its oldest.
const MAX_EVENTS: usize = 1000;

/// Answers that nobody waits for any longer, at most.
const MAX_ANSWERS: usize = 16;

/// A connection that is ready for commands.
#[derive(Debug)]
pub(crate) struct Qmp {
    commands: OwnedWriteHalf,
    /// One for each command, with its number as `id`.
    answers: mpsc::Receiver<Value>,
    /// The number of the last command.
    last: u64,
    events: watch::Receiver<Vec<Event>>,
}

/// Something that happened to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`, `RESET`, `POWERDOWN`, `WATCHDOG` or `GUEST_PANICKED`.
    pub name: String,
    /// Why, where QEMU says so, such as `guest-shutdown`, `guest-reset` or `host-qmp-system-reset`.
    pub reason: Option<String>,
}

// === impl Qmp ===

impl Qmp {
    /// Waits for QEMU to connect and leaves the protocol's negotiation mode. `tasks` gets the task that reads.
    pub(crate) async fn accept(listener: UnixListener, tasks: &mut JoinSet<()>) -> Result<Self, Error> {
        let (stream, _) = listener.accept().await.map_err(Error::host("accept QEMU's control connection"))?;
        let (reader, commands) = stream.into_split();
        let (answered, answers) = mpsc::channel(MAX_ANSWERS);
        let (happened, events) = watch::channel(Vec::new());
        tasks.spawn(read(BufReader::new(reader).lines(), answered, happened));
        let mut qmp = Self { commands, answers, last: 0, events };
        qmp.execute("qmp_capabilities", None).await?;
        Ok(qmp)
    }

    /// Runs a command and gives back what it returns.
    pub(crate) async fn execute(
        &mut self,
        command: &'static str,
        arguments: Option<Value>,
    ) -> Result<Value, Error> {
        self.last += 1;
        let mut request = json!({ "execute": command, "id": self.last });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        self.commands
            .write_all(format!("{request}\n").as_bytes())
            .await
            .map_err(Error::host(format!("send '{command}' to QEMU")))?;
        let refused = |answer: String| Error::Refused { command, answer };
        let mut answer = match timeout(ANSWER_LIMIT, self.answer()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(refused("it hung up".to_owned())),
            Err(_) => return Err(refused("no answer".to_owned())),
        };
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => Err(refused(answer["error"].to_string())),
        }
    }

    /// The answer to the last command; one to an earlier command came too late.
    async fn answer(&mut self) -> Option<Value> {
        loop {
            let answer = self.answers.recv().await?;
            if answer["id"] == self.last {
                return Some(answer);
            }
        }
    }

    /// What has happened so far, oldest first.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.borrow().clone()
    }

    /// To wait for events with.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<Event>> {
        self.events.clone()
    }
}

/// Sorts what QEMU says into answers and events until it hangs up.
async fn read(
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    answered: mpsc::Sender<Value>,
    happened: watch::Sender<Vec<Event>>,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        // What is not JSON is not for us.
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(event) = Event::from_json(&value) {
            happened.send_modify(|events| {
                if events.len() == MAX_EVENTS {
                    events.remove(0);
                }
                events.push(event);
            });
        } else if value.get("return").is_some() || value.get("error").is_some() {
            // Full only of answers that came too late.
            let _ = answered.try_send(value);
        }
    }
}

impl Event {
    fn from_json(value: &Value) -> Option<Self> {
        let name = value.get("event")?.as_str()?.to_owned();
        let reason = value.pointer("/data/reason").and_then(Value::as_str).map(str::to_owned);
        Some(Self { name, reason })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn events_between_a_command_and_its_answer_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let mut tasks = JoinSet::new();
        let qemu = tokio::spawn(async move {
            let mut stream = UnixStream::connect(path).await.unwrap();
            stream.write_all(b"{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n").await.unwrap();
            let mut request = [0; 256];
            let mut heard = String::new();
            while !heard.contains("query-status") {
                let length = stream.read(&mut request).await.unwrap();
                heard.push_str(&String::from_utf8_lossy(&request[..length]));
            }
            let event = r#"{"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}"#;
            stream
                .write_all(
                    format!("{event}\n{{\"return\": {{\"status\": \"running\"}}, \"id\": 2}}\n").as_bytes(),
                )
                .await
                .unwrap();
            stream
        });
        let mut qmp = Qmp::accept(listener, &mut tasks).await.unwrap();
        let status = qmp.execute("query-status", None).await.unwrap();
        assert_eq!(status["status"], "running");
        assert_eq!(qmp.events(), [Event { name: "RESET".into(), reason: Some("guest-reset".into()) }]);
        drop(qemu.await.unwrap());
        let error = qmp.execute("quit", None).await.unwrap_err();
        assert!(error.to_string().contains("quit"), "{error}");
    }
}
