//! One request and its answer: attempts, budgets, redirects, authorization, patience.

use std::collections::HashMap;
use std::collections::HashSet;
use std::error::Error as StdError;
use std::future::Future;
use std::future::poll_fn;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::io::Read as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header;
use reqwest::header::HeaderMap;
use reqwest::header::HeaderName;
use reqwest::header::HeaderValue;

use super::Clock;
use super::Endpoint;
use super::RequestKind;
use super::Settings;
use super::auth;
use super::auth::Auth;
use super::budget::Budget;
use super::clock::Wait;
use super::hosts::Trust;
use super::payload::Payload;
use super::stats::Stats;
use super::tls;
use crate::Error;
use crate::Result;

/// How often a request is sent on.
const REDIRECTS: usize = 10;
/// How often a host that asks for patience is asked again.
const POSTPONED: u32 = 8;
/// The longest pause that a host may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// The most of an error's body that is looked at.
const ERROR_SIZE: usize = 64 << 10;

/// A request to a registry.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) kind: RequestKind,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) payload: Payload,
    /// The scopes that a token for it needs.
    pub(crate) scopes: &'a [String],
    pub(crate) tries: Tries,
}

/// How often a request is sent where connections break or the server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tries {
    /// As often as is usual.
    Usual,
    /// The same, but where the answer is 500: some say so to a question that they do not know, so two are enough.
    Doubtful,
    /// Once: it may be done though nothing was heard of it.
    Once,
}

impl<'a> Call<'a> {
    pub(crate) fn new(kind: RequestKind, method: Method, url: Url, scopes: &'a [String]) -> Call<'a> {
        Call { kind, method, url, headers: Vec::new(), payload: Payload::None, scopes, tries: Tries::Usual }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Call<'a> {
        // Digests, media types, tags and numbers are printable.
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((name, value));
        }
        self
    }

    pub(crate) fn payload(mut self, payload: Payload) -> Call<'a> {
        self.payload = payload;
        self
    }

    pub(crate) fn once(self) -> Call<'a> {
        Call { tries: Tries::Once, ..self }
    }

    pub(crate) fn doubtful(self) -> Call<'a> {
        Call { tries: Tries::Doubtful, ..self }
    }
}

/// Sends requests.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) settings: Settings,
    pub(crate) stats: Stats,
    auth: Auth,
    clients: Mutex<HashMap<Trust, reqwest::Client>>,
    budgets: Mutex<HashMap<String, Arc<Budget>>>,
    /// The hosts that are called insecure and have turned out not to speak TLS.
    plain: Mutex<HashSet<String>>,
    /// The servers that are passed over, as there are others, and until when: they could not be reached, or want to be
    /// left alone.
    resting: Mutex<HashMap<String, Duration>>,
    jitter: RandomState,
}

/// The answer to a request, its body still to be read.
#[derive(Debug)]
pub(crate) struct Response {
    inner: reqwest::Response,
    request: String,
    clock: Arc<dyn Clock>,
    idle: Duration,
    refusal: Option<Refusal>,
}

/// Who a request went to in the end.
struct Asked {
    /// The registry there, if it is one.
    of: Option<Endpoint>,
    scopes: Vec<String>,
    /// What was sent along.
    sent: Option<HeaderValue>,
}

/// What a look for something brought.
#[derive(Debug)]
pub(crate) enum Lookup<T> {
    There(T),
    Absent,
    /// The registry does not answer the question, so nothing is known.
    Refused,
}

/// Returns whether a registry, or what stands before it, has declined to answer a question that it need not know.
pub(crate) fn is_refused(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::FORBIDDEN
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::NOT_IMPLEMENTED
    )
}

/// Whom a registry has refused.
#[derive(Debug)]
struct Refusal {
    host: String,
    /// By which login, or where none was found.
    login: String,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("nothing came for {} s", .0.as_secs())]
    Silent(Duration),
    #[error(transparent)]
    Connection(reqwest::Error),
}

impl Http {
    pub(crate) fn new(settings: Settings) -> Http {
        // Where another part of the program chose a provider before, it is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Http {
            settings,
            stats: Stats::default(),
            auth: Auth::default(),
            clients: Mutex::default(),
            budgets: Mutex::default(),
            plain: Mutex::default(),
            resting: Mutex::default(),
            jitter: RandomState::new(),
        }
    }

    /// Sends a request, with a token if the registry wants one, along redirects. Any final answer is returned,
    /// also an error's.
    pub(crate) async fn send(&self, endpoint: &Endpoint, mut call: Call<'_>) -> Result<Response> {
        if !endpoint.insecure || endpoint.trust.plain {
            return self.ask(endpoint, &call).await;
        }
        // Whoever calls a registry insecure may mean that it has a bad certificate, or none at all.
        let (host, plain) = (authority(&endpoint.base), endpoint.without_tls());
        if !lock(&self.plain).contains(&host) {
            match self.ask(endpoint, &call).await {
                Err(Error::NoTls { .. }) => drop(lock(&self.plain).insert(host)),
                result => return result,
            }
        }
        if same_host(&call.url, &endpoint.base) {
            let _ = call.url.set_scheme("http");
        }
        self.ask(&plain, &call).await
    }

    async fn ask(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Response> {
        let mut url = call.url.clone();
        let mut refused = 0;
        loop {
            let (response, asked) = self.follow(endpoint, call, &url).await?;
            let Asked { of, scopes, sent } = asked;
            let Some(of) = of else { return Ok(response) };
            if response.status() == StatusCode::UNAUTHORIZED && refused < 2 {
                refused += 1;
                if self.auth.challenged(&of, &response, &scopes, sent.as_ref())? {
                    // The same would be refused again.
                    if self.auth.header(self, &of, &scopes).await? != sent {
                        url = response.url().clone();
                        continue;
                    }
                }
            }
            return Ok(self.explained(response, &of).await);
        }
    }

    /// Adds to a refusal by which login that was.
    async fn explained(&self, mut response: Response, of: &Endpoint) -> Response {
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let login = self.auth.explain(self, of).await;
            response.refusal = Some(Refusal { host: of.host.clone(), login });
        }
        response
    }

    /// Sends a request to `url` and follows redirects, which never take what identifies us to another host. A registry to
    /// which they lead is one of its own, with its own tokens and logins.
    async fn follow(&self, endpoint: &Endpoint, call: &Call<'_>, url: &Url) -> Result<(Response, Asked)> {
        let mut url = url.clone();
        let mut kind = call.kind;
        for _ in 0..=REDIRECTS {
            let home = same_host(&url, &endpoint.base);
            let mut headers: HeaderMap = call.headers.iter().cloned().collect();
            if home {
                headers.extend(endpoint.headers.iter().cloned());
            }
            let asked = self.asked(endpoint, call, &url).await?;
            headers.extend(asked.sent.clone().map(|sent| (header::AUTHORIZATION, sent)));
            let budget = self.budget(&url, endpoint);
            let trust = endpoint.trust_at(&url);
            let attempt = Attempt {
                kind,
                method: &call.method,
                url: &url,
                headers,
                payload: &call.payload,
                tries: call.tries,
                spare: endpoint.spare.then_some(&endpoint.base),
                trust: &trust,
                budget: &budget,
            };
            let response = self.attempts(attempt).await?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok((response, asked));
            }
            (url, kind) = (redirected(&response, call, &url, &endpoint.base)?, RequestKind::Redirect);
        }
        Err(Error::Protocol {
            request: describe(&call.method, &call.url),
            problem: format!("more than {REDIRECTS} redirects"),
        })
    }

    /// Returns who is asked at `url`, and what is sent along.
    async fn asked(&self, endpoint: &Endpoint, call: &Call<'_>, url: &Url) -> Result<Asked> {
        let reads = matches!(call.method, Method::GET | Method::HEAD);
        let (of, scopes) = match same_host(url, &endpoint.base) {
            true => (Some(endpoint.clone()), call.scopes.to_vec()),
            // Whoever else an upload leads to has no say in where our login goes.
            false => {
                let there = endpoint.elsewhere(url).filter(|_| reads);
                let scopes = there.iter().map(auth::pull).collect();
                (there, scopes)
            }
        };
        let sent = match &of {
            Some(of) => self.auth.header(self, of, &scopes).await?,
            None => None,
        };
        Ok(Asked { of, scopes, sent })
    }

    /// Sends a request as often as it takes and is allowed.
    pub(crate) async fn attempts(&self, attempt: Attempt<'_>) -> Result<Response> {
        let clock = &*self.settings.clock;
        let request = describe(attempt.method, attempt.url);
        let (mut broken, mut postponed) = (0, 0);
        loop {
            attempt.budget.take(clock).await;
            match self.attempt(&attempt, &request).await {
                Ok(response) if is_impatient(response.status()) => {
                    if !self.postpones(&attempt, &response, postponed) {
                        return Ok(response);
                    }
                    postponed += 1;
                    continue;
                }
                Ok(response) => {
                    let most = attempt.most(self.settings.attempts, response.status());
                    if !has_failed(response.status()) || broken + 1 >= most {
                        return Ok(response);
                    }
                }
                Err(lost) => {
                    if broken + 1 >= attempt.most_lost(self.settings.attempts, &lost) {
                        // One that does not speak TLS is reached without, or told of.
                        let no_tls = matches!(lost, Lost::For(Error::NoTls { .. }));
                        if let Some(base) = attempt.spare.filter(|_| !no_tls) {
                            self.rest(base, Duration::MAX);
                        }
                        return Err(lost.into_error(request, broken + 1));
                    }
                }
            }
            broken += 1;
            clock.sleep(self.backoff(&request, broken)).await;
        }
    }

    /// Sends a request once.
    async fn attempt(&self, attempt: &Attempt<'_>, request: &str) -> Result<Response, Lost> {
        let client = self.client(attempt.trust).map_err(Lost::For)?;
        let host = authority(attempt.url);
        self.stats.count(&host, attempt.kind);
        let (body, progress) = attempt.payload.body();
        let mut builder =
            client.request(attempt.method.clone(), attempt.url.clone()).headers(attempt.headers.clone());
        if let Some(body) = body {
            builder = builder.body(body);
        }
        let idle = self.settings.idle_timeout;
        // A registry may take its time to put a large blob away once it has all of it.
        let patience = if matches!(attempt.payload, Payload::Part(_)) { idle * 10 } else { idle };
        let moved = || progress.as_ref().map_or(0, |progress| progress.sent());
        let error = match patient(builder.send(), &*self.settings.clock, patience, moved).await {
            Some(Ok(inner)) => {
                let (request, clock) = (request.to_owned(), self.settings.clock.clone());
                return Ok(Response { inner, request, clock, idle, refusal: None });
            }
            Some(Err(error)) => error,
            None => return Err(Lost::Unreached(Box::new(Broken::Silent(patience)))),
        };
        // What went wrong with the bytes to send says more than what became of the request.
        if let Some(failure) = progress.as_ref().and_then(|progress| progress.failure()) {
            return Err(Lost::For(failure));
        }
        if let Some(failure) = tls::failure(&error, &host) {
            return Err(Lost::For(failure));
        }
        Err(match error.is_connect() {
            true => Lost::Unreached(Box::new(error.without_url())),
            false => Lost::Broken(Box::new(error.without_url())),
        })
    }

    /// Closes the budget of a host that asks for patience, and returns whether it is worth while to wait.
    fn postpones(&self, attempt: &Attempt<'_>, response: &Response, postponed: u32) -> bool {
        let asked = response.retry_after();
        let pause = asked.unwrap_or_else(|| self.backoff(&response.request, postponed));
        if let Some(base) = attempt.spare {
            self.rest(base, pause);
            return false;
        }
        if asked.is_some_and(|asked| asked > LONGEST_PAUSE) {
            return false;
        }
        attempt.budget.close(self.settings.clock.now(), pause);
        // A host that says when to come back has done nothing with the request.
        let refused = response.status() == StatusCode::TOO_MANY_REQUESTS || asked.is_some();
        postponed < POSTPONED && (attempt.tries != Tries::Once || refused)
    }

    /// Takes note that a server is not to be asked for a while, as there are others.
    fn rest(&self, url: &Url, pause: Duration) {
        let until = self.settings.clock.now().saturating_add(pause);
        let origin = url.origin().ascii_serialization();
        let mut resting = lock(&self.resting);
        let known = resting.entry(origin).or_default();
        *known = until.max(*known);
    }

    /// Returns whether a server is to be passed over.
    pub(crate) fn rests(&self, endpoint: &Endpoint) -> bool {
        let origin = endpoint.base.origin().ascii_serialization();
        lock(&self.resting).get(&origin).is_some_and(|until| *until > self.settings.clock.now())
    }

    /// Returns how long to wait after the `count`th failure: twice as long each time, and not in step with
    /// others that failed at the same moment.
    pub(crate) fn backoff(&self, request: &str, count: u32) -> Duration {
        let ceiling = 500u64 << count.min(6);
        Duration::from_millis(ceiling / 2 + self.jitter.hash_one((request, count)) % (ceiling / 2))
    }

    pub(crate) fn budget(&self, url: &Url, endpoint: &Endpoint) -> Arc<Budget> {
        let host = authority(url);
        let rate = if same_host(url, &endpoint.base) { self.rate(&endpoint.host) } else { None };
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.entry(host).or_insert_with(|| Arc::new(Budget::new(rate))).clone()
    }

    fn rate(&self, host: &str) -> Option<u32> {
        // What Docker Hub lets pass from one address.
        const DOCKER_HUB_RATE: u32 = 300;
        let own = self.settings.requests_per_minute;
        own.or((host == crate::name::DOCKER_HUB).then_some(DOCKER_HUB_RATE))
    }

    fn client(&self, trust: &Trust) -> Result<reqwest::Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(trust) {
            return Ok(client.clone());
        }
        let client = trust.client(&self.settings)?;
        clients.insert(trust.clone(), client.clone());
        Ok(client)
    }
}

/// What does not change from attempt to attempt.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) kind: RequestKind,
    pub(crate) method: &'a Method,
    pub(crate) url: &'a Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: &'a Payload,
    pub(crate) tries: Tries,
    /// The server that is passed over from now on if this fails, where there are others to ask.
    pub(crate) spare: Option<&'a Url>,
    pub(crate) trust: &'a Trust,
    pub(crate) budget: &'a Budget,
}

impl Attempt<'_> {
    /// Returns how often it is sent where such a failure is the answer.
    fn most(&self, usual: u32, status: StatusCode) -> u32 {
        match (self.tries, status) {
            _ if self.spare.is_some() => 1,
            (Tries::Once, _) => 1,
            (Tries::Doubtful, StatusCode::INTERNAL_SERVER_ERROR) => usual.min(2),
            _ => usual,
        }
    }

    /// Returns how often it is sent where nothing comes back.
    fn most_lost(&self, usual: u32, lost: &Lost) -> u32 {
        match (lost, self.tries) {
            (Lost::For(_), _) | (_, Tries::Once) => 1,
            (Lost::Unreached(_), _) if self.spare.is_some() => 1,
            // A connection that was kept open may have been closed meanwhile.
            (Lost::Broken(_), _) if self.spare.is_some() => usual.min(2),
            _ => usual,
        }
    }
}

/// Why there is no answer.
enum Lost {
    /// Another try changes nothing.
    For(Error),
    /// There is nobody, or nobody says anything.
    Unreached(Box<dyn StdError + Send + Sync>),
    /// The connection broke.
    Broken(Box<dyn StdError + Send + Sync>),
}

impl Lost {
    fn into_error(self, request: String, attempts: u32) -> Error {
        match self {
            Lost::For(error) => error,
            Lost::Unreached(source) | Lost::Broken(source) => Error::Connection { request, attempts, source },
        }
    }
}

/// Returns whether a server asks to be left alone for a while.
fn is_impatient(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// Returns whether a server has failed in a way that may pass.
fn has_failed(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
    )
}

impl Response {
    pub(crate) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    pub(crate) fn text_header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns method and URL, for messages.
    pub(crate) fn request(&self) -> &str {
        &self.request
    }

    /// Returns the URL that answered.
    pub(crate) fn url(&self) -> &Url {
        self.inner.url()
    }

    /// Returns the next piece of the body.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        match race(self.inner.chunk(), self.clock.patience(self.idle)).await {
            Some(result) => result.map_err(|error| Broken::Connection(error.without_url())),
            None => Err(Broken::Silent(self.idle)),
        }
    }

    /// Reads a document of at most `limit` bytes. Some come compressed though nobody asked for that.
    pub(crate) async fn bytes(mut self, limit: u64) -> Result<Result<Vec<u8>, Broken>> {
        let mut bytes = Vec::new();
        loop {
            match self.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => return self.decoded(bytes, limit).map(Ok),
                Err(broken) => return Ok(Err(broken)),
            }
            if bytes.len() as u64 > limit {
                return Err(self.protocol(format!("the answer has more than {limit} bytes")));
            }
        }
    }

    fn decoded(&self, bytes: Vec<u8>, limit: u64) -> Result<Vec<u8>> {
        let encoding = self.text_header(header::CONTENT_ENCODING).unwrap_or_default().trim();
        // What carries the name and is none after all is what it is.
        if !matches!(encoding, "gzip" | "x-gzip") || !bytes.starts_with(&[0x1f, 0x8b]) {
            return Ok(bytes);
        }
        let mut decoded = Vec::new();
        let read =
            MultiGzDecoder::new(bytes.as_slice()).take(limit.saturating_add(1)).read_to_end(&mut decoded);
        if read.is_err() {
            return Err(self.protocol("the answer is damaged: it is called gzip"));
        }
        if decoded.len() as u64 > limit {
            return Err(self.protocol(format!("the answer has more than {limit} bytes")));
        }
        Ok(decoded)
    }

    /// Makes an error of an answer, with what the registry says in it.
    pub(crate) async fn into_error(mut self) -> Error {
        let mut body = Vec::new();
        while body.len() < ERROR_SIZE {
            match self.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                _ => break,
            }
        }
        let status = self.status().as_u16();
        let body = self.decoded(body, ERROR_SIZE as u64).unwrap_or_default();
        let (codes, message) = error_message(&body);
        match self.refusal {
            Some(Refusal { host, login }) => {
                let said = if message.is_empty() { message } else { format!(", {message}") };
                Error::Unauthorized { host, what: self.request, problem: format!("{status}{said}; {login}") }
            }
            None => Error::Status { request: self.request, status, codes, message },
        }
    }

    /// Makes an error of an answer that no registry should give.
    pub(crate) fn protocol(&self, problem: impl Into<String>) -> Error {
        Error::Protocol { request: self.request.clone(), problem: problem.into() }
    }

    /// Returns how long the host wants to be left alone: it says so in seconds, or by a moment of its own clock, which
    /// `Date` shows.
    ///
    /// <https://www.rfc-editor.org/rfc/rfc9110#name-retry-after>
    fn retry_after(&self) -> Option<Duration> {
        let text = self.text_header(header::RETRY_AFTER)?.trim();
        let seconds = text.parse().ok().or_else(|| {
            let (then, now) = (date(text)?, date(self.text_header(header::DATE)?.trim())?);
            Some(then.saturating_sub(now))
        })?;
        Some(Duration::from_secs(seconds))
    }
}

/// Parses a date such as `Sun, 06 Nov 1994 08:49:37 GMT` into seconds since the year 0.
///
/// <https://www.rfc-editor.org/rfc/rfc9110#name-date-time-formats>
pub(crate) fn date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<_> = text.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let number = |text: &str, limit: u64| text.parse().ok().filter(|number| *number <= limit);
    let (day, year) = (number(day, 31)?, number(year, 9999)?);
    let month = MONTHS.iter().position(|name| name == month)? as u64;
    let parts: Vec<u64> = time.split(':').map(|part| number(part, 60)).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = *parts.as_slice() else { return None };
    // Years that begin with March have their odd day at the end.
    let (year, month) = if month >= 2 { (year, month - 2) } else { (year.checked_sub(1)?, month + 10) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some(days * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

/// Returns what a registry says in the body of an error: its codes and messages, printable and short. Proxies and
/// servers that are none send a line of text.
///
/// <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes>
pub(crate) fn error_message(body: &[u8]) -> (Vec<String>, String) {
    const LINE: usize = 200;
    let document: serde_json::Value = match serde_json::from_slice(body) {
        Ok(document) => document,
        Err(_) => {
            let text = str::from_utf8(body).unwrap_or_default().trim();
            let is_line =
                text.len() <= LINE && !text.contains(['<', '\n']) && !text.contains(char::is_control);
            return (Vec::new(), if is_line { text.to_owned() } else { String::new() });
        }
    };
    let errors = document["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |error: &serde_json::Value| {
        let part = |key: &str| error[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        [part("code"), part("message")].into_iter().flatten().collect::<Vec<_>>().join(": ")
    };
    let message = errors.iter().take(3).map(text).collect::<Vec<_>>().join("; ");
    let message = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    (errors.iter().filter_map(|error| error["code"].as_str()).map(str::to_owned).collect(), message)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `work` as long as `moved` shows that it moves.
async fn patient<T>(
    work: impl Future<Output = T>,
    clock: &dyn Clock,
    idle: Duration,
    moved: impl Fn() -> u64,
) -> Option<T> {
    let mut work = pin!(work);
    let mut before = moved();
    loop {
        if let Some(done) = race(work.as_mut(), clock.patience(idle)).await {
            return Some(done);
        }
        let now = moved();
        if now == before {
            return None;
        }
        before = now;
    }
}

/// Waits for `work`, or returns nothing once `wait` is over.
async fn race<T>(work: impl Future<Output = T>, mut wait: Wait) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => wait.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// Returns where a redirect leads, if that is safe to follow.
fn redirected(response: &Response, call: &Call<'_>, from: &Url, base: &Url) -> Result<Url> {
    let location = response.text_header(header::LOCATION);
    let Some(mut next) = location.and_then(|location| from.join(location).ok()) else {
        return Err(response.protocol("a redirect to nowhere"));
    };
    if !matches!(next.scheme(), "http" | "https") {
        return Err(response.protocol(format!("a redirect to {}:", next.scheme())));
    }
    if from.scheme() == "https" && next.scheme() != "https" {
        if !same_host(from, base) || next.host() != base.host() {
            return Err(response.protocol(format!("a redirect from https to {}", shown(&next))));
        }
        next = at_home(next, base);
    }
    if call.method != Method::GET && call.method != Method::HEAD && !same_host(from, &next) {
        return Err(response.protocol(format!("an upload was sent on to {}", shown(&next))));
    }
    Ok(next)
}

/// Returns a URL of the same host by the scheme and port of `base`: a registry behind a proxy may not know them.
pub(crate) fn at_home(mut url: Url, base: &Url) -> Url {
    // Both are of the web, so neither can fail.
    let _ = url.set_scheme(base.scheme());
    let _ = url.set_port(base.port());
    url
}

pub(crate) fn same_host(one: &Url, other: &Url) -> bool {
    (one.scheme(), one.host(), one.port_or_known_default())
        == (other.scheme(), other.host(), other.port_or_known_default())
}

/// Returns the host of a URL, with its port where it is not the usual one.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Returns a request for messages. A query may hold a signature, so it is left out.
pub(crate) fn describe(method: &Method, url: &Url) -> String {
    format!("{method} {}", shown(url))
}

fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), authority(url), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_far_apart_as_they_should_be() {
        let apart = |one: &str, other: &str| {
            Some(date(&format!("Sun, {other} GMT"))? - date(&format!("Sun, {one} GMT"))?)
        };
        for (one, other, expected) in [
            ("06 Nov 1994 08:49:37", "06 Nov 1994 08:49:37", Some(0)),
            ("06 Nov 1994 08:49:37", "06 Nov 1994 09:50:38", Some(3661)),
            ("31 Dec 2025 23:59:59", "01 Jan 2026 00:00:00", Some(1)),
            ("28 Feb 2024 00:00:00", "01 Mar 2024 00:00:00", Some(2 * 86_400)),
            ("28 Feb 2100 00:00:00", "01 Mar 2100 00:00:00", Some(86_400)),
            ("01 Jan 2026 00:00:00", "01 Jan 2027 00:00:00", Some(365 * 86_400)),
            ("01 Foo 2026 00:00:00", "01 Jan 2027 00:00:00", None),
            ("01 Jan 2026 00:00", "01 Jan 2027 00:00:00", None),
            ("01 Jan 99999999999 00:00:00", "01 Jan 2027 00:00:00", None),
        ] {
            assert_eq!(apart(one, other), expected, "{one} {other}");
        }
        assert_eq!((date(""), date("Sunday, 06-Nov-94 08:49:37 GMT")), (None, None));
    }
}
