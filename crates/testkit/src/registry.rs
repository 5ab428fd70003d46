//! A registry on this machine that counts what it is asked and misbehaves when told to.

mod answer;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use restow_oci::Digest;

use crate::Image;

pub use self::answer::Answer;
pub use self::answer::Ending;
use self::state::State;

/// A registry that speaks HTTP on a port of the loopback interface, from a thread of its own until it is dropped.
///
/// It checks, as a real one does, that a manifest's parts are there when the manifest is put.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `PUT`…
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// What follows the question mark, undecoded.
    pub query: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What was sent along.
    pub body: Vec<u8>,
}

type Hook = Box<dyn Fn(&Request) -> Option<Answer> + Send>;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    requests: Mutex<Vec<Request>>,
    /// Told of each request that comes, and of the end.
    arrived: Condvar,
    /// Pairs of a request that waits and one it waits for, by the beginnings of their lines.
    holds: Mutex<Vec<(String, String)>>,
    hook: Mutex<Option<Hook>>,
    /// How many answers were left hanging so far.
    stalled: AtomicUsize,
    closing: AtomicUsize,
    connections: Mutex<Vec<TcpStream>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Request {
    /// Returns a line such as `GET /v2/a/manifests/v1`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Returns a value of the query, with `%3A` and `%2F` decoded.
    pub fn value(&self, key: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let mut values = pairs.filter(|(name, _)| *name == key).map(|(_, value)| value);
        values.next().map(|value| value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::start()
    }
}

impl Registry {
    /// Starts an empty registry.
    ///
    /// # Panics
    ///
    /// If no port of the loopback interface can be had.
    pub fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on the loopback interface");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.closing.load(Ordering::SeqCst) > 0 {
                    break;
                }
                let shared = accepting.clone();
                if let Ok(clone) = stream.try_clone() {
                    lock(&shared.connections).push(clone);
                }
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Registry { address, shared }
    }

    /// Returns the host and port, as names of images spell them.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the host by another name, which clients take for another host.
    pub fn other_host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Returns the name of an image here.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host())
    }

    /// Stores an image with all its blobs, and a tag for its root.
    pub fn put(&self, repository: &str, tag: &str, image: &Image) {
        let mut state = lock(&self.shared.state);
        for (digest, bytes) in &image.blobs {
            let media_type = state::manifest_type(bytes);
            match (media_type, *digest == image.root.digest) {
                (_, true) => {
                    let media_type = image.root.media_type.to_string();
                    state.put_manifest(repository, Some(tag), &media_type, bytes.clone());
                }
                (Some(media_type), false) => {
                    state.put_manifest(repository, None, &media_type, bytes.clone());
                }
                (None, false) => state.put_blob(repository, digest.as_str(), bytes.clone()),
            }
        }
    }

    /// Stores a blob.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        lock(&self.shared.state).put_blob(repository, digest.as_str(), bytes.to_vec());
        digest
    }

    /// Stores a manifest, without a look at its parts.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> Digest {
        lock(&self.shared.state).put_manifest(repository, tag, media_type, bytes.to_vec());
        Digest::sha256(bytes)
    }

    /// Removes a manifest or an index, and the tags that mean it.
    pub fn remove_manifest(&self, repository: &str, digest: &Digest) {
        lock(&self.shared.state).remove_manifest(repository, digest.as_str());
    }

    /// Removes a blob.
    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        lock(&self.shared.state).remove_blob(repository, digest.as_str());
    }

    /// Returns the manifest of a tag or digest, if there is one.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        lock(&self.shared.state).manifest(repository, reference).map(|(_, _, bytes)| bytes)
    }

    /// Returns a blob, if it is there.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        lock(&self.shared.state).blob(repository, digest.as_str())
    }

    /// Requires a token for everything, which it issues to this user with this password, or to anyone without.
    pub fn require_token(&self, login: Option<(&str, &str)>) {
        lock(&self.shared.state).require_token(login, &self.host());
    }

    /// Requires a password for everything.
    pub fn require_password(&self, user: &str, password: &str) {
        lock(&self.shared.state).require_password(user, password);
    }

    /// Keeps lists of referrers, as registries of the specification's version 1.1 do.
    pub fn list_referrers(&self) {
        lock(&self.shared.state).referrers = true;
    }

    /// Takes manifests and indexes whose parts are missing, as the specification allows.
    pub fn look_for_no_parts(&self) {
        let mut state = lock(&self.shared.state);
        (state.takes_any_manifest, state.takes_any_index) = (true, true);
    }

    /// Takes indexes whose manifests are missing. Of manifests, the blobs have to be there.
    pub fn look_for_no_manifests(&self) {
        lock(&self.shared.state).takes_any_index = true;
    }

    /// Refuses what lacks parts with this status and code, instead of the specification's.
    pub fn refuse_in_other_words(&self, status: u16, code: &'static str) {
        lock(&self.shared.state).refusal = Some((status, code));
    }

    /// Returns the digests that a tag or digest leads to without their being there: blobs, manifests and indexes. What is
    /// there to be had elsewhere is not among them.
    pub fn missing(&self, repository: &str, reference: &str) -> Vec<String> {
        lock(&self.shared.state).missing(repository, reference)
    }

    /// Lets `hook` answer requests before the registry does; those for which it has nothing go on.
    pub fn intercept(&self, hook: impl Fn(&Request) -> Option<Answer> + Send + 'static) {
        *lock(&self.shared.hook) = Some(Box::new(hook));
    }

    /// Answers requests whose lines begin with `line` only once there has been one whose line begins with `until`.
    pub fn hold(&self, line: &str, until: &str) {
        lock(&self.shared.holds).push((line.to_owned(), until.to_owned()));
    }

    /// Opens an upload of that name, which the registry did not answer a request with itself.
    pub fn open_upload(&self, id: &str) {
        lock(&self.shared.state).open_upload(id);
    }

    /// Returns all requests so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Returns the lines of all requests so far, and forgets them.
    pub fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.shared.requests)).iter().map(Request::line).collect()
    }

    /// Returns how many answers have been left hanging so far.
    pub fn stalled(&self) -> usize {
        self.shared.stalled.load(Ordering::SeqCst)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.closing.fetch_add(1, Ordering::SeqCst);
        drop(lock(&self.shared.requests));
        self.shared.arrived.notify_all();
        // The listener waits for a connection; this is one.
        drop(TcpStream::connect(self.address));
        for stream in lock(&self.shared.connections).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    /// Answers the requests of a connection, one after another.
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        loop {
            // The beginning of TLS, to which servers that do not speak it answer so.
            let waiting = reader.fill_buf()?;
            if waiting.first() == Some(&0x16) {
                let count = waiting.len();
                reader.consume(count);
                return io::Write::write_all(&mut writer, b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
            let Some(request) = read_request(&mut reader, &mut writer)? else { return Ok(()) };
            lock(&self.requests).push(request.clone());
            self.arrived.notify_all();
            self.wait_for_another(&request);
            let hooked = lock(&self.hook).as_ref().and_then(|hook| hook(&request));
            let answer = hooked.unwrap_or_else(|| lock(&self.state).answer(&request));
            if !answer.send(&mut writer, &request.method, &self.stalled)? {
                let _ = writer.shutdown(Shutdown::Both);
                return Ok(());
            }
        }
    }
}

impl Shared {
    /// Holds a request as long as it was asked to.
    fn wait_for_another(&self, request: &Request) {
        let line = request.line();
        let holds = lock(&self.holds).clone();
        let Some((_, until)) = holds.into_iter().find(|(held, _)| line.starts_with(held)) else { return };
        let waits = |requests: &mut Vec<Request>| {
            let has_come = requests.iter().any(|request| request.line().starts_with(&until));
            !has_come && self.closing.load(Ordering::SeqCst) == 0
        };
        drop(self.arrived.wait_while(lock(&self.requests), waits));
    }
}

fn read_request(reader: &mut BufReader<TcpStream>, writer: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    if headers.get("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
        io::Write::write_all(writer, b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length").and_then(|length| length.parse().ok()) {
        reader.take(length).read_to_end(&mut body)?;
        if body.len() as u64 != length {
            return Ok(None);
        }
    } else if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Ok(length) = u64::from_str_radix(line.trim(), 16) else { return Ok(None) };
            reader.take(length).read_to_end(&mut body)?;
            reader.read_line(&mut String::new())?;
            if length == 0 {
                break;
            }
        }
    }
    let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
    Ok(Some(Request { method, path: path.replace("%3A", ":"), query, headers, body }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
