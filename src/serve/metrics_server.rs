//! The metrics over HTTP, for who collects them: GET and HEAD of /metrics, one request a connection.
//!
//! Anybody on this host may connect. What somebody slow or hostile can do is bounded: a few connections
//! at a time, a few kilobytes and seconds for each; whoever comes on top is turned away.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::metrics::CONTENT_TYPE;
use crate::error::{Context as _, Error, Result};

/// Connections at a time.
const CONNECTIONS: usize = 8;

/// How long one may take in all.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest request.
const REQUEST_MAX: usize = 8 << 10;

/// Makes the text, at the time of the request.
pub(super) type Render = Arc<dyn Fn() -> Result<String> + Send + Sync>;

/// The listener and its thread, until it is dropped.
pub(super) struct MetricsServer {
    /// An eventfd: readable when it is to end.
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Listens at an address.
    ///
    /// # Errors
    /// Somebody else listens there; the system has no threads left.
    pub(super) fn start(address: SocketAddr, render: Render) -> Result<Self> {
        let about = || format!("metrics: {address}");
        let listener = TcpListener::bind(address).about(about())?;
        listener.set_nonblocking(true).about(about())?;
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).about("an eventfd")?);
        let ending = end.clone();
        let thread = std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || serve(&listener, &ending, &render))
            .about(about())?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        if let Err(error) = rustix::io::write(&self.end, &1_u64.to_ne_bytes()) {
            log::error!("metrics: an eventfd: {error}");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("{}", Error::failed("the thread for metrics", "it panicked"));
        }
    }
}

/// One of the connections that there are, as long as it lives.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(taken.clone());
        let before = taken.fetch_add(1, Ordering::SeqCst);
        (before < CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve(listener: &TcpListener, end: &OwnedFd, render: &Render) {
    let taken = Arc::new(AtomicUsize::new(0));
    loop {
        let mut ready = [
            PollFd::new(end, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        if poll(&mut ready, None).is_ok() && !ready[0].revents().is_empty() {
            return;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Descriptors or memory are short, which passes; or the peer is gone already.
                if error.kind() != ErrorKind::WouldBlock {
                    log::debug!("metrics: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                }
                continue;
            }
        };
        let Some(place) = Place::take(&taken) else {
            continue;
        };
        let render = render.clone();
        let answer = move || {
            if let Err(error) = answer(&stream, &render) {
                log::debug!("metrics: {error}");
            }
            drop(place);
        };
        let thread = std::thread::Builder::new().name("metrics".into());
        if let Err(error) = thread.spawn(answer) {
            log::warn!("metrics: a thread: {error}");
        }
    }
}

/// A connection with its last moment.
struct Limited<'a> {
    stream: &'a TcpStream,
    end: Instant,
}

impl Limited<'_> {
    fn left(&self) -> std::io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(self.left()?))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => bytes = &bytes[length..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn answer(stream: &TcpStream, render: &Render) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut limited = Limited {
        stream,
        end: Instant::now() + PATIENCE,
    };
    let mut request = Vec::new();
    let response = loop {
        let mut piece = [0; 1024];
        let length = limited.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(&piece[..length]);
        if is_whole(&request) {
            break response(&request, render);
        }
        if request.len() > REQUEST_MAX {
            break plain(
                "431 Request Header Fields Too Large",
                "the request is too long\n",
            );
        }
    };
    limited.write_all(&response)?;
    stream.shutdown(Shutdown::Write)?;
    // To close while something is unread would take the answer back.
    let mut unread = REQUEST_MAX;
    let mut piece = [0; 1024];
    while unread > 0 {
        match limited.read(&mut piece)? {
            0 => break,
            length => unread = unread.saturating_sub(length),
        }
    }
    Ok(())
}

fn is_whole(request: &[u8]) -> bool {
    let ends = |end: &[u8]| request.windows(end.len()).any(|window| window == end);
    ends(b"\r\n\r\n") || ends(b"\n\n")
}

fn response(request: &[u8], render: &Render) -> Vec<u8> {
    let line = request.split(|&byte| byte == b'\n').next();
    let line = line.unwrap_or_default().trim_ascii_end();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next())
    else {
        return plain("400 Bad Request", "this is no HTTP request\n");
    };
    if !version.starts_with(b"HTTP/1.") {
        return plain("400 Bad Request", "HTTP/1.0 and HTTP/1.1 are spoken here\n");
    }
    let path = target.split(|&byte| byte == b'?').next();
    if path != Some(b"/metrics") {
        return plain("404 Not Found", "the metrics are at /metrics\n");
    }
    if method != b"GET" && method != b"HEAD" {
        return plain(
            "405 Method Not Allowed\r\nAllow: GET, HEAD",
            "GET and HEAD only\n",
        );
    }
    match render() {
        Ok(text) => {
            let mut response = head("200 OK", CONTENT_TYPE, text.len());
            if method == b"GET" {
                response.extend_from_slice(text.as_bytes());
            }
            response
        }
        Err(error) => {
            log::warn!("{error}");
            plain("500 Internal Server Error", "see the daemon's log\n")
        }
    }
}

fn head(status: &str, content_type: &str, length: usize) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )
    .into_bytes()
}

fn plain(status: &str, text: &str) -> Vec<u8> {
    let mut response = head(status, "text/plain; charset=utf-8", text.len());
    response.extend_from_slice(text.as_bytes());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> (MetricsServer, SocketAddr) {
        // Free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let render: Render = Arc::new(|| Ok("text\n# EOF\n".into()));
        (MetricsServer::start(address, render).unwrap(), address)
    }

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        // It may answer before it has read all.
        let _sent = stream.write_all(request);
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn it_answers_what_it_is_asked() {
        let (server, address) = server();
        let got = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
        assert!(
            got.contains("application/openmetrics-text; version=1.0.0"),
            "{got}"
        );
        assert!(
            got.ends_with("Content-Length: 11\r\nConnection: close\r\n\r\ntext\n# EOF\n"),
            "{got}"
        );
        let got = ask(address, b"HEAD /metrics?x=y HTTP/1.0\r\n\r\n");
        assert!(
            got.contains("Content-Length: 11\r\n") && got.ends_with("\r\n\r\n"),
            "{got}"
        );
        for (request, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
            (b"GET /metrics/../etc HTTP/1.1\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"GET /metrics HTTP/2\r\n\r\n", "400"),
            (b"GET  /metrics HTTP/1.1\r\n\r\n", "400"),
            (b"\xff\0\n\n", "400"),
            (&[b'x'; 2 * REQUEST_MAX], "431"),
        ] {
            let got = ask(address, request);
            let expected = format!("HTTP/1.1 {status} ");
            assert!(
                got.starts_with(&expected),
                "{}: {got}",
                request.escape_ascii()
            );
        }
        drop(server);
        TcpStream::connect(address).unwrap_err();
    }

    #[test]
    fn who_is_slow_does_not_keep_others_out_for_long() {
        let (server, address) = server();
        let slow: Vec<_> = (0..3 * CONNECTIONS)
            .map(|_| {
                let mut stream = TcpStream::connect(address).unwrap();
                let _sent = stream.write_all(b"GET /metrics HTTP/1.1\r\n");
                stream
            })
            .collect();
        let begun = Instant::now();
        loop {
            let got = ask(address, b"GET /metrics HTTP/1.1\r\n\r\n");
            if got.starts_with("HTTP/1.1 200 OK") {
                break;
            }
            assert!(
                begun.elapsed() < 10 * PATIENCE,
                "it lets nobody in any more"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        drop((slow, server));
    }
}
