//! A client of registries: what the distribution specification lets one ask, politely.
//!
//! A [`Client`] may be called from any number of threads; each call blocks until its answer is there. Beneath,
//! requests run on a runtime of the client's own.
//!
//! It spends no request that it does not need: nothing is asked for twice in a run (contents up to 4 MiB, of which
//! at most 256 MiB stay in memory, and what tags mean are kept, one request at a time is under way for each), no request
//! asks for leave first, and a host's answers to be patient hold for everybody. Every content that is returned has the digest it was
//! asked for by.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md>

mod auth;
mod budget;
mod cache;
mod clock;
mod credentials;
mod download;
mod evidence;
mod hosts;
mod http;
mod lists;
mod manifests;
mod payload;
mod seen;
mod stats;
mod tls;
mod upload;

#[cfg(feature = "fuzz")]
pub mod fuzz;

use std::collections::HashMap;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use restow_oci::Limits;
use tokio::runtime::Handle;
use tokio::runtime::Runtime;

pub use self::clock::Clock;
pub use self::clock::SystemClock;
pub use self::clock::Wait;
pub use self::credentials::Credentials;
pub use self::hosts::Hosts;
pub use self::hosts::Proxies;
pub use self::manifests::Content;
pub use self::stats::RequestKind;
pub use self::upload::Pushed;

pub(crate) use self::cache::OBJECT_SIZE;
pub(crate) use self::download::Download;
pub(crate) use self::evidence::Looks;
pub(crate) use self::hosts::Endpoint;
pub(crate) use self::manifests::lacks_parts;
pub(crate) use self::manifests::referrers_tag;
pub(crate) use self::upload::Look;
pub(crate) use self::upload::WORTH_A_HEAD;

use self::cache::Cache;
use self::evidence::Evidence;
use self::hosts::Purpose;
use self::http::Http;
use self::seen::Seen;
use crate::Error;
use crate::Repository;
use crate::Result;

/// How registries are reached, and with how much patience.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What we call ourselves.
    pub user_agent: String,
    /// Whether no registry is reached by TLS. Without it, only those on this machine are not.
    pub plain_http: bool,
    /// Files with the certificates of further authorities.
    pub authorities: Vec<PathBuf>,
    /// Logins.
    pub credentials: Credentials,
    /// Mirrors, and what else is said of single hosts.
    pub hosts: Hosts,
    /// Proxies.
    pub proxies: Proxies,
    /// How many requests a host is sent in a minute, and at once; without it, Docker Hub's own limit holds for
    /// Docker Hub, and none elsewhere.
    pub requests_per_minute: Option<u32>,
    /// How often a request is tried when connections break or servers fail.
    pub attempts: u32,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a peer may be silent.
    pub idle_timeout: Duration,
    /// The size of the pieces in which blobs are uploaded; whole, if there is none.
    pub chunk_size: Option<u64>,
    /// A directory in which manifests are kept for later runs: of registries that count who fetches one, and not who
    /// looks whether it is the same, as Docker Hub does.
    pub manifests: Option<PathBuf>,
    /// How much is accepted.
    pub limits: Limits,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            user_agent: concat!("restow/", env!("CARGO_PKG_VERSION")).to_owned(),
            plain_http: false,
            authorities: Vec::new(),
            credentials: Credentials::default(),
            hosts: Hosts::default(),
            proxies: Proxies::default(),
            requests_per_minute: None,
            attempts: 5,
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            chunk_size: None,
            manifests: None,
            limits: Limits::default(),
            clock: Arc::new(SystemClock::default()),
        }
    }
}

/// A client of registries. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    runtime: Arc<Runtime>,
    core: Arc<Core>,
}

/// What requests need, without the runtime they run on.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) http: Http,
    pub(crate) cache: Cache,
    seen: Seen,
    endpoints: Mutex<KnownEndpoints>,
    pub(crate) evidence: Evidence,
    /// Pairs of repositories, of which the first cannot take blobs from the second.
    unmountable: Mutex<HashSet<(Repository, Repository)>>,
    /// Whether a repository's registry lists referrers, as far as it has been found out.
    lists_referrers: Mutex<HashMap<Repository, bool>>,
}

/// The servers to ask, as far as they were looked up.
type KnownEndpoints = HashMap<(Repository, Purpose), Arc<[Endpoint]>>;

impl Client {
    /// Makes a client. Nothing is sent yet.
    pub fn new(settings: Settings) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_all()
            .build()
            .map_err(|source| restow_content::Error::Io {
                action: "start threads for",
                path: "registries".into(),
                source,
            })?;
        let seen = Seen::new(settings.manifests.clone(), settings.limits.manifest_size);
        let core = Core {
            seen,
            http: Http::new(settings),
            cache: Cache::default(),
            endpoints: Mutex::default(),
            evidence: Evidence::default(),
            unmountable: Mutex::default(),
            lists_referrers: Mutex::default(),
        };
        Ok(Client { runtime: Arc::new(runtime), core: Arc::new(core) })
    }

    /// Returns how many requests of each kind each host was sent so far.
    pub fn requests(&self) -> Vec<(String, RequestKind, u64)> {
        self.core.http.stats.all()
    }

    /// Returns how the client was set up.
    pub fn settings(&self) -> &Settings {
        &self.core.http.settings
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

impl Core {
    /// Takes note that no blob can be taken from `other`.
    fn give_up_mounting(&self, repository: &Repository, other: &Repository) {
        let pair = (repository.clone(), other.clone());
        self.unmountable.lock().unwrap_or_else(PoisonError::into_inner).insert(pair);
    }

    fn unmountable(&self, repository: &Repository, other: &Repository) -> bool {
        let pair = (repository.clone(), other.clone());
        self.unmountable.lock().unwrap_or_else(PoisonError::into_inner).contains(&pair)
    }

    fn settings(&self) -> &Settings {
        &self.http.settings
    }

    /// Returns the servers to ask, the best first, and never none.
    fn endpoints(&self, repository: &Repository, purpose: Purpose) -> Result<Arc<[Endpoint]>> {
        let key = (repository.clone(), purpose);
        let known = |core: &Core| {
            let endpoints = core.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            endpoints.get(&key).cloned()
        };
        let found = match known(self) {
            Some(endpoints) => endpoints,
            None => {
                let found = self.settings().hosts.endpoints(repository, purpose, self.settings())?;
                let found: Arc<[Endpoint]> = found.into();
                self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).insert(key, found.clone());
                found
            }
        };
        let is_awake = |endpoint: &&Endpoint| !endpoint.spare || !self.http.rests(endpoint);
        Ok(found.iter().filter(is_awake).cloned().collect())
    }

    /// Returns the server that is written to.
    fn upstream(&self, repository: &Repository) -> Result<Endpoint> {
        let endpoints = self.endpoints(repository, Purpose::Push)?;
        endpoints.last().cloned().ok_or_else(|| Error::NotInRegistry { name: repository.to_string() })
    }
}

/// Returns an error and its sources as one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
