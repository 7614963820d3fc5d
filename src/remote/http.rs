//! Ranges of files by HTTP.

use std::io::Read;
use std::ops::Range;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use crate::base::error::{Error, ErrorKind, Result};

/// A request that fails on the way is made again so often.
const MAX_TRIES: u32 = 4;

/// How long an answer may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer may take from its begin to its end.
const MAX_BODY_TIME: Duration = Duration::from_secs(900);

/// Where a file is, and what may be asked with.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The address that is asked. It may hold a signature, and is not told of.
    pub(super) url: String,
    /// What is told of it.
    pub(super) shown: String,
    /// A token for the server of that address alone: redirects do not take it along.
    pub(super) token: Option<String>,
}

impl Place {
    /// What may be otherwise when it is tried again.
    pub(super) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Io, format!("{}: {message}", self.shown))
    }

    /// What stays as it is.
    pub(super) fn refusal(&self, message: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Malformed, format!("{}: {message}", self.shown))
    }
}

/// What tells that a file is still the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) len: u64,
    tag: Option<String>,
}

impl Version {
    /// Of a file that was listed, of which the server gave no tag yet.
    pub(super) fn of_len(len: u64) -> Version {
        Version { len, tag: None }
    }

    /// Refuses a file that is `now` another one.
    pub(super) fn check(&self, now: &Version, place: &Place) -> Result<()> {
        match self.difference(now) {
            Some(what) => Err(place.refusal(format!(
                "changed while it was read: {what}; try again when nothing writes to it"
            ))),
            None => Ok(()),
        }
    }

    /// What happened to a file that is `now` this.
    fn difference(&self, now: &Version) -> Option<String> {
        if self.len != now.len {
            return Some(format!("it had {} bytes and has {} now", self.len, now.len));
        }
        let (before, now) = (self.tag.as_ref()?, now.tag.as_ref()?);
        (before != now).then(|| "the server has another version of it now".to_owned())
    }

    /// Takes the tag of an answer, where there was none.
    pub(super) fn adopt(&mut self, now: &Version) {
        if self.tag.is_none() {
            self.tag.clone_from(&now.tag);
        }
    }
}

/// An answer: the bytes from `start` on.
pub(super) struct Answer {
    pub(super) start: u64,
    /// How many bytes it says that it has.
    pub(super) n_bytes: u64,
    pub(super) version: Version,
    body: Body,
}

pub(super) struct Client {
    /// For addresses of `https`, which is not left by a redirect.
    secure: Agent,
    plain: Agent,
}

impl Client {
    pub(super) fn new() -> Client {
        Client { secure: Client::agent(true), plain: Client::agent(false) }
    }

    fn agent(https_only: bool) -> Agent {
        let config = Agent::config_builder()
            .https_only(https_only)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_recv_body(Some(MAX_BODY_TIME))
            .max_redirects(5)
            .http_status_as_error(false)
            .user_agent(concat!("llmstd/", env!("CARGO_PKG_VERSION")));
        config.build().into()
    }

    fn get(&self, place: &Place) -> Request {
        match place.url.starts_with("https://") {
            true => self.secure.get(&place.url),
            false => self.plain.get(&place.url),
        }
    }

    /// Asks for a range of a file; `None` if there is no such file. A server that knows no ranges
    /// answers with the whole file.
    pub(super) fn range(&self, place: &Place, bytes: &Range<u64>) -> Result<Option<Answer>> {
        let last = bytes.end.saturating_sub(1);
        let request = self.get(place);
        let request = request.header(header::RANGE, format!("bytes={}-{last}", bytes.start));
        // A packed answer has other bytes.
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        let Some(response) = send(request, place)? else { return Ok(None) };
        let (status, headers) = (response.status(), response.headers());
        if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(place.refusal("the server packs its answer, and was asked not to"));
        }
        let text = |name| {
            headers.get(name).and_then(|value: &ureq::http::HeaderValue| value.to_str().ok())
        };
        let tag = text(header::ETAG).or_else(|| text(header::LAST_MODIFIED)).map(str::to_owned);
        let stated = text(header::CONTENT_LENGTH).and_then(|len| len.parse::<u64>().ok());
        let (start, n_bytes, len) = match status {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(header::CONTENT_RANGE).unwrap_or_default();
                let Some((start, end, len)) = content_range(range) else {
                    let what =
                        format!("answers with a part of a file that it does not name: {range:?}");
                    return Err(place.refusal(what));
                };
                if start != bytes.start || last < end {
                    let what = format!(
                        "was asked for bytes {}-{last}, and answers with {start}-{end}",
                        bytes.start
                    );
                    return Err(place.refusal(what));
                }
                (start, end - start + 1, len)
            }
            StatusCode::OK => match stated {
                Some(len) => (0, len, len),
                None => return Err(place.refusal("the server says no length")),
            },
            // A file without bytes has no range.
            StatusCode::RANGE_NOT_SATISFIABLE
                if text(header::CONTENT_RANGE) == Some("bytes */0") =>
            {
                (0, 0, 0)
            }
            status => return Err(refused(place, status)),
        };
        let version = Version { len, tag };
        Ok(Some(Answer { start, n_bytes, version, body: response.into_body() }))
    }

    /// All of a document of at most `max` bytes.
    pub(super) fn document(&self, place: &Place, max: u64) -> Result<Option<Vec<u8>>> {
        let Some(response) = send(self.get(place), place)? else { return Ok(None) };
        if response.status() != StatusCode::OK {
            return Err(refused(place, response.status()));
        }
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        let read = body.as_reader().take(max.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|_| place.error("the answer breaks off"))?;
        if max < bytes.len() as u64 {
            return Err(place.refusal(format!("answers with more than {max} bytes")));
        }
        Ok(Some(bytes))
    }
}

impl Answer {
    /// Gives the bytes before `end` to `sink`, with the place of each. How far it came: less than that, if
    /// the connection broke.
    pub(super) fn read(
        mut self,
        end: u64,
        mut sink: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<u64> {
        let mut reader = self.body.as_reader();
        let mut buffer = vec![0; 1 << 16];
        let (mut at, end) = (self.start, end.min(self.start.saturating_add(self.n_bytes)));
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            match reader.read(&mut buffer[..want]) {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    sink(at, &buffer[..n])?;
                    at = at.saturating_add(n as u64);
                }
            }
        }
        Ok(at)
    }
}

type Request = ureq::RequestBuilder<ureq::typestate::WithoutBody>;

/// Sends a request, and once more if nothing comes; `None` if there is no such file.
fn send(request: Request, place: &Place) -> Result<Option<Response<Body>>> {
    let request = match &place.token {
        Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    };
    match request.call() {
        Ok(response) if response.status() == StatusCode::NOT_FOUND => Ok(None),
        Ok(response) => Ok(Some(response)),
        Err(err) => Err(place.error(failure(&err))),
    }
}

/// Does something again that fails on the way, a little later each time.
pub(super) fn patiently<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tries = 1;
    loop {
        match work() {
            Err(err) if tries < MAX_TRIES && err.kind() == ErrorKind::Io => {
                std::thread::sleep(Duration::from_millis(50 << (2 * tries)));
                tries += 1;
            }
            done => return done,
        }
    }
}

/// What went wrong, without the address that was asked in the end: it may hold a signature.
fn failure(err: &ureq::Error) -> String {
    match err {
        ureq::Error::HostNotFound => "no machine has this name".to_owned(),
        ureq::Error::ConnectionFailed => "no connection to the server".to_owned(),
        ureq::Error::Timeout(_) => "the server takes too long to answer".to_owned(),
        ureq::Error::TooManyRedirects => "the server sends from one address to another".to_owned(),
        ureq::Error::Io(err) => format!("no answer: {}", err.kind()),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
            "no secure connection to the server".to_owned()
        }
        _ => "the request fails".to_owned(),
    }
}

/// What an answer that is none means.
fn refused(place: &Place, status: StatusCode) -> Error {
    let what = match status.as_u16() {
        401 | 403 => ": it takes a token or a key, or another one (HF_TOKEN, AWS_ACCESS_KEY_ID)",
        429 => ": too many requests, try again later",
        500.. => ": the server fails, try again later",
        _ => "",
    };
    let message = format!("the server answers {}{what}", status.as_u16());
    match status.as_u16() {
        429 | 500.. => place.error(message),
        // What some servers answer for what is not there.
        401 | 403 => Error::new(ErrorKind::Unsupported, format!("{}: {message}", place.shown)),
        _ => place.refusal(message),
    }
}

/// `bytes 0-15/64`: the first, the last, and how many there are in all.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, len) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end, len) = (start.parse().ok()?, end.parse().ok()?, len.parse().ok()?);
    (start <= end && end < len).then_some((start, end, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        for (text, expected) in [
            ("bytes 0-15/64", Some((0, 15, 64))),
            ("bytes 16-63/64", Some((16, 63, 64))),
            ("bytes 16-64/64", None),
            ("bytes 5-4/64", None),
            ("bytes 0-15/*", None),
            ("items 0-15/64", None),
            ("", None),
        ] {
            assert_eq!(content_range(text), expected, "{text}");
        }
    }
}
