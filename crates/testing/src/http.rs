//! A small HTTP/1.1 client and a server whose answers a test makes up.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// `GET`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in the case that they had on the wire.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Call {
    /// A request with neither headers nor body.
    pub fn new(method: &str, path: &str) -> Call {
        Call {
            method: method.into(),
            path: path.into(),
            ..Call::default()
        }
    }

    /// The value of the header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers; `Content-Length` is added by the server.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The server closes the connection after so many bytes of the body.
    pub break_after: Option<usize>,
}

impl Answer {
    /// An answer with a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status,
            body: body.into(),
            ..Answer::default()
        }
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Broken off after `bytes` of the body.
    pub fn broken_after(mut self, bytes: usize) -> Answer {
        self.break_after = Some(bytes);
        self
    }

    /// The value of the header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.as_str())
}

/// Sends `call` to `host` and reads the answer.
pub fn send(host: &str, call: Call) -> Result<Answer> {
    let mut stream = TcpStream::connect(host).with_context(|| format!("connect to {host}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", call.method, call.path);
    head += &format!(
        "Content-Length: {}\r\nConnection: close\r\n",
        call.body.len()
    );
    for (name, value) in &call.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&call.body)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .context("no status")?;
    let headers = read_headers(&mut reader)?;
    let body = if call.method == "HEAD" {
        Vec::new()
    } else {
        read_body(&mut reader, &headers)?
    };
    Ok(Answer {
        status,
        headers,
        body,
        break_after: None,
    })
}

fn read_headers(reader: &mut impl BufRead) -> Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else {
            return Ok(headers);
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn read_body(reader: &mut impl BufRead, headers: &[(String, String)]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if find(headers, "transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).context("chunk size")?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    if let Some(size) = find(headers, "content-length") {
        body.resize(size.parse()?, 0);
        reader.read_exact(&mut body)?;
    }
    Ok(body)
}

type Handler = dyn Fn(&Call) -> Answer + Send + Sync;

/// A server on a free port of the loopback interface; stops taking calls when dropped.
pub struct Server {
    host: String,
    stop: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Server {
    /// Starts a server that answers every request with what `handler` gives.
    pub fn start(handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = listener.local_addr()?.to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        let (stopped, seen) = (stop.clone(), calls.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (handler, seen) = (handler.clone(), seen.clone());
                thread::spawn(move || serve(stream, &*handler, &seen));
            }
        });
        Ok(Server { host, stop, calls })
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `http://127.0.0.1:<port><path>`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    /// The requests so far, without their bodies.
    pub fn calls(&self) -> Vec<Call> {
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts, so that it sees the flag.
        let _ = TcpStream::connect(&self.host);
    }
}

fn serve(stream: TcpStream, handler: &Handler, seen: &Mutex<Vec<Call>>) {
    let Ok(writer) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(stream);
    while let Ok(Some(call)) = read_call(&mut reader) {
        let answer = handler(&call);
        let is_head = call.method == "HEAD";
        let call = Call {
            body: Vec::new(),
            ..call
        };
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call);
        if write_answer(&writer, &answer, is_head).is_err() || answer.break_after.is_some() {
            let _ = writer.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_call(reader: &mut impl BufRead) -> Result<Option<Call>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let (method, path) = (method.to_owned(), path.to_owned());
    let headers = read_headers(reader)?;
    let body = read_body(reader, &headers)?;
    Ok(Some(Call {
        method,
        path,
        headers,
        body,
    }))
}

fn write_answer(mut writer: impl Write, answer: &Answer, is_head: bool) -> Result<()> {
    let mut head = format!("HTTP/1.1 {} Made Up\r\n", answer.status);
    if answer.status != 304 && answer.header("content-length").is_none() {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    writer.write_all(format!("{head}\r\n").as_bytes())?;
    if !is_head && answer.status != 304 {
        let end = answer
            .break_after
            .unwrap_or(answer.body.len())
            .min(answer.body.len());
        writer.write_all(&answer.body[..end])?;
    }
    writer.flush()?;
    Ok(())
}
