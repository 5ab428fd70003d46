//! Answers, right ones and wrong ones.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// An answer to a request, exact to the byte.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Option<u64>,
    claims_length: bool,
    ending: Ending,
}

/// What follows the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The next request.
    Open,
    /// The end of the connection.
    Closed,
    /// Nothing, for ever.
    Stalled,
}

impl Answer {
    /// Starts an empty answer.
    pub fn new(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: None,
            claims_length: true,
            ending: Ending::Open,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl ToString) -> Answer {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Answer {
        self.body = body.as_ref().to_vec();
        self
    }

    /// Claims another length than the body has.
    pub fn length(mut self, length: u64) -> Answer {
        self.length = Some(length);
        self
    }

    /// Claims no length, so that the body ends where the connection does.
    pub fn without_length(mut self) -> Answer {
        (self.claims_length, self.ending) = (false, Ending::Closed);
        self
    }

    /// Says what follows.
    pub fn ending(mut self, ending: Ending) -> Answer {
        self.ending = ending;
        self
    }

    /// An error in the registries' own words.
    pub fn error(status: u16, code: &str) -> Answer {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"the {code} message"}}]}}"#);
        Answer::new(status).header("Content-Type", "application/json").body(body)
    }

    /// Writes the answer and returns whether the connection goes on.
    pub(super) fn send(
        &self,
        stream: &mut TcpStream,
        method: &str,
        stalled: &AtomicUsize,
    ) -> io::Result<bool> {
        let mut head = format!("HTTP/1.1 {} x\r\n", self.status);
        let has_length = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.claims_length && !has_length && self.status != 204 {
            let length = self.length.unwrap_or(self.body.len() as u64);
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if method != "HEAD" {
            stream.write_all(&self.body)?;
        }
        stream.flush()?;
        if self.ending == Ending::Stalled {
            stalled.fetch_add(1, Ordering::SeqCst);
            // Until the other side has had enough.
            let _ = stream.read(&mut [0]);
        }
        Ok(self.ending == Ending::Open)
    }
}
