//! Where the repositories of a host are reached: itself, its mirrors, and what proves that they are who they
//! should be.

mod containers;
mod hosts_toml;

use std::path::Path;
use std::path::PathBuf;

use reqwest::Certificate;
use reqwest::Identity;
use reqwest::Proxy;
use reqwest::Url;
use reqwest::header::HeaderName;
use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;

use super::Settings;
use super::http::authority;
use super::http::same_host;
use crate::Error;
use crate::Repository;
use crate::Result;
use crate::name::DOCKER_HUB;

/// Where Docker Hub's registry is.
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";

/// What a repository is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// To read a blob or a manifest by its digest.
    Pull,
    /// To learn what a tag means.
    Resolve,
    /// To write, and to look at what is there before that. Only the registry itself is asked, whatever a mirror
    /// could do.
    Push,
}

/// A server that holds a repository.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The root of the API, without a slash at its end.
    pub(crate) base: Url,
    /// The registry whose credentials and budget count.
    pub(crate) host: String,
    /// The repository's name there.
    pub(crate) path: String,
    /// The registry that it mirrors, which it is told.
    pub(crate) mirrored: Option<String>,
    pub(crate) trust: Trust,
    /// Whether it may turn out to be a server that does not speak TLS.
    pub(crate) insecure: bool,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether another server is asked where this one does not answer.
    pub(crate) spare: bool,
}

impl Endpoint {
    /// Returns the registry that holds `url`, to which this one has led, if it looks like one.
    pub(crate) fn elsewhere(&self, url: &Url) -> Option<Endpoint> {
        let path = url.path().strip_prefix("/v2/")?;
        let (path, _) = ["/manifests/", "/blobs/"].iter().find_map(|kind| path.rsplit_once(kind))?;
        let mut base = url.clone();
        base.set_path("/v2");
        base.set_query(None);
        base.set_fragment(None);
        Some(Endpoint {
            base,
            host: authority(url),
            path: path.to_owned(),
            mirrored: None,
            trust: self.trust_at(url),
            insecure: false,
            headers: Vec::new(),
            spare: self.spare,
        })
    }

    /// Returns whether the registry counts who fetches a manifest, and not who asks for its head.
    ///
    /// <https://docs.docker.com/docker-hub/usage/pulls/>
    pub(crate) fn counts_fetches(&self) -> bool {
        self.host == DOCKER_HUB && self.mirrored.is_none()
    }

    /// Adds certificates. Where there are any, TLS has been set up.
    fn certified(mut self, found: Trust, settings: &Settings) -> Endpoint {
        self.trust.authorities.extend(found.authorities);
        self.trust.identity = found.identity;
        if !settings.plain_http && self.base.set_scheme("https").is_ok() {
            self.trust.plain = false;
        }
        self
    }

    /// Returns the same without TLS.
    pub(crate) fn without_tls(&self) -> Endpoint {
        let mut plain = self.clone();
        // From one of the two schemes to the other, it cannot fail.
        let _ = plain.base.set_scheme("http");
        plain.trust.plain = true;
        plain
    }

    /// Returns what holds for a request to `url` that this endpoint led to: elsewhere, we show no certificate and
    /// want to see a good one.
    pub(crate) fn trust_at(&self, url: &Url) -> Trust {
        let home = same_host(url, &self.base);
        Trust {
            plain: url.scheme() == "http",
            unverified: self.trust.unverified && home,
            authorities: self.trust.authorities.clone(),
            identity: self.trust.identity.clone().filter(|_| home),
        }
    }

    /// Returns the URL of something of the repository.
    pub(crate) fn url(&self, rest: &str) -> Url {
        self.root(&format!("{}/{rest}", self.path))
    }

    /// Returns the URL of something below the root of the API.
    pub(crate) fn root(&self, rest: &str) -> Url {
        let mut url = self.base.clone();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url.set_query((!query.is_empty()).then_some(query));
        if let Some(mirrored) = &self.mirrored {
            url.query_pairs_mut().append_pair("ns", mirrored);
        }
        url
    }
}

/// What a server's certificate is held against, and what we show in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Trust {
    /// No TLS at all.
    pub(crate) plain: bool,
    /// Any certificate will do.
    pub(crate) unverified: bool,
    /// Files of further authorities.
    pub(crate) authorities: Vec<PathBuf>,
    /// Files with our certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl Trust {
    pub(crate) fn client(&self, settings: &Settings) -> Result<reqwest::Client> {
        let failed = |error: reqwest::Error| Error::Configuration {
            path: self.authorities.first().cloned().unwrap_or_else(|| "the system's certificates".into()),
            problem: super::chain(&error),
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(&settings.user_agent)
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(settings.connect_timeout)
            .pool_max_idle_per_host(16)
            .no_proxy();
        for proxy in settings.proxies.proxies()? {
            builder = builder.proxy(proxy);
        }
        if self.plain {
            // Without TLS nobody needs the system's certificates, which take time to load and may be missing.
            return builder.tls_certs_only([]).build().map_err(failed);
        }
        let mut certificates = Vec::new();
        for path in &self.authorities {
            let bundle = Certificate::from_pem_bundle(&read(path)?);
            certificates.extend(bundle.map_err(|error| unusable(path, super::chain(&error)))?);
        }
        if !certificates.is_empty() {
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some((certificate, key)) = &self.identity {
            let mut pem = read(certificate)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            let identity = Identity::from_pem(&pem);
            builder =
                builder.identity(identity.map_err(|error| unusable(certificate, super::chain(&error)))?);
        }
        builder.tls_danger_accept_invalid_certs(self.unverified).build().map_err(failed)
    }
}

/// The proxies to use, as the usual variables of the environment spell them.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// For `http:`.
    pub http: Option<String>,
    /// For `https:`.
    pub https: Option<String>,
    /// The hosts that are reached without; this machine always is.
    pub none: Option<String>,
}

impl Proxies {
    fn proxies(&self) -> Result<Vec<Proxy>> {
        // A proxy elsewhere cannot reach this machine by such names.
        let none = [self.none.as_deref().unwrap_or_default(), "localhost,127.0.0.0/8,::1"].join(",");
        let none = reqwest::NoProxy::from_string(&none);
        let make = |url: &Option<String>,
                    make: fn(&str) -> reqwest::Result<Proxy>|
         -> Result<Option<Proxy>> {
            let Some(url) = url.as_deref().filter(|url| !url.is_empty()) else { return Ok(None) };
            let proxy = make(url).map_err(|error| unusable(Path::new("the proxy"), super::chain(&error)))?;
            Ok(Some(proxy.no_proxy(none.clone())))
        };
        let proxies =
            [make(&self.http, |url| Proxy::http(url))?, make(&self.https, |url| Proxy::https(url))?];
        Ok(proxies.into_iter().flatten().collect())
    }
}

/// What the machine's files say of registries.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    registries: Vec<containers::Registry>,
    directories: Vec<PathBuf>,
}

impl Hosts {
    /// Reads the first of the `registries.conf` files that exists, and the `*.conf` in the directories
    /// `registries.conf.d` beside all of them, there or not, of which the first counts most. The directories hold, for each
    /// host, a directory with a `hosts.toml` or with certificates alone, as docker has them (`*.crt` of authorities,
    /// `*.cert` and `*.key` of our own); of two with the same host the first counts. They are read when a host is first met.
    pub fn load(registries_conf: &[PathBuf], directories: &[PathBuf]) -> Result<Hosts> {
        let mut registries = Vec::new();
        if let Some(path) = registries_conf.iter().find(|path| path.exists()) {
            registries = containers::parse(path, &text(path)?)?;
        }
        for path in registries_conf.iter().rev() {
            for path in files(&path.with_extension("conf.d"), "conf")? {
                containers::merge(&mut registries, containers::parse(&path, &text(&path)?)?);
            }
        }
        Ok(Hosts { registries, directories: directories.to_vec() })
    }

    /// Returns the servers to ask, the best first.
    pub(crate) fn endpoints(
        &self,
        repository: &Repository,
        purpose: Purpose,
        settings: &Settings,
    ) -> Result<Vec<Endpoint>> {
        let full = repository.to_string();
        let mut endpoints = Vec::new();
        let mut location = full.clone();
        let mut insecure = false;
        if let Some(registry) = containers::find(&self.registries, &full) {
            if registry.blocked {
                return Err(Error::Unauthorized {
                    host: repository.host().to_owned(),
                    what: full.clone(),
                    problem: format!("{} is blocked by registries.conf", registry.prefix),
                });
            }
            for mirror in registry.mirrors.iter().filter(|mirror| mirror.serves(purpose)) {
                let there = registry.rewrite(&full, &mirror.location);
                endpoints.push(endpoint(&there, mirror.insecure, settings)?);
            }
            location = registry.rewrite(&full, &registry.location);
            insecure = registry.insecure;
        }
        let own = endpoint(&location, insecure, settings)?;
        match self.found(&own.host)? {
            Some(Found::File(file)) => endpoints.extend(file.endpoints(&own, purpose)),
            Some(Found::Certificates(trust)) => endpoints.push(own.certified(trust, settings)),
            None => endpoints.push(own),
        }
        if let Some((_, spare)) = endpoints.split_last_mut() {
            spare.iter_mut().for_each(|endpoint| endpoint.spare = true);
        }
        Ok(endpoints)
    }

    fn found(&self, host: &str) -> Result<Option<Found>> {
        // As containerd has it, which cannot have colons in names everywhere.
        let escaped = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
        for directory in &self.directories {
            // A host name holds no slash and is not made of dots, so the path stays below the directory.
            for name in escaped.as_deref().into_iter().chain([host, "_default"]) {
                let directory = directory.join(name);
                let path = directory.join("hosts.toml");
                if path.exists() {
                    return Ok(Some(Found::File(hosts_toml::parse(&path, &text(&path)?)?)));
                }
                let identity = files(&directory, "cert")?.into_iter().next();
                let identity = identity.map(|certificate| {
                    let key = certificate.with_extension("key");
                    (certificate, key)
                });
                let authorities = files(&directory, "crt")?;
                if identity.is_some() || !authorities.is_empty() {
                    return Ok(Some(Found::Certificates(Trust {
                        authorities,
                        identity,
                        ..Trust::default()
                    })));
                }
            }
        }
        Ok(None)
    }
}

/// What a directory says of a host.
enum Found {
    File(hosts_toml::HostsToml),
    Certificates(Trust),
}

/// Returns the server of `HOST/PATH`.
fn endpoint(location: &str, insecure: bool, settings: &Settings) -> Result<Endpoint> {
    let (host, path) = location.split_once('/').unwrap_or((location, ""));
    let server = if host == DOCKER_HUB { DOCKER_HUB_SERVER } else { host };
    let trust = Trust { unverified: insecure, authorities: settings.authorities.clone(), ..Trust::default() };
    // Nobody listens in on the way to this very machine. Who names an authority has set TLS up there, too.
    let plain = settings.plain_http || (is_loopback(server) && settings.authorities.is_empty());
    let plain = plain || (insecure && is_loopback(server));
    let scheme = if plain { "http" } else { "https" };
    let base = Url::parse(&format!("{scheme}://{server}/v2"))
        .map_err(|error| unusable(Path::new(location), error.to_string()))?;
    Ok(Endpoint {
        base,
        host: host.to_owned(),
        path: path.to_owned(),
        mirrored: None,
        trust: Trust { plain, ..trust },
        insecure,
        headers: Vec::new(),
        spare: false,
    })
}

/// Returns whether `host`, which may have a port, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| unusable(directory, error.to_string()))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unusable(directory, error.to_string()))?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    const LIMIT: u64 = 4 << 20;
    Ok(restow_content::file::read(path, LIMIT)?)
}

fn text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|error| unusable(path, error.to_string()))
}

fn unusable(path: &Path, problem: impl Into<String>) -> Error {
    Error::Configuration { path: path.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests;
