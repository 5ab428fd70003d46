//! `hosts.toml` of containerd's `certs.d`.
//!
//! <https://github.com/containerd/containerd/blob/v2.1.0/docs/hosts.md>

use std::path::Path;
use std::path::PathBuf;

use reqwest::Url;
use reqwest::header::HeaderName;
use reqwest::header::HeaderValue;
use toml::Value;

use super::Endpoint;
use super::Purpose;
use super::Trust;
use super::unusable;
use crate::Result;
use crate::client::http::authority;

/// The servers of one host, in the order in which they are to be asked.
#[derive(Clone, Debug)]
pub(super) struct HostsToml {
    hosts: Vec<Server>,
    /// The host itself, where the file says something of it.
    upstream: Option<Server>,
}

#[derive(Clone, Debug)]
struct Server {
    base: Url,
    capabilities: Vec<String>,
    trust: Trust,
    /// Whether the file says anything about certificates.
    certified: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl HostsToml {
    /// Returns the servers for a repository of the host that is reached at `own` without this file.
    ///
    /// A table of the host itself tells how that is reached; all others are mirrors.
    pub(super) fn endpoints(&self, own: &Endpoint, purpose: Purpose) -> Vec<Endpoint> {
        let capability = match purpose {
            Purpose::Pull => "pull",
            Purpose::Resolve => "resolve",
            Purpose::Push => "push",
        };
        let able = |server: &&Server| {
            server.capabilities.is_empty() || server.capabilities.iter().any(|found| found == capability)
        };
        let is_own = |server: &Server| authority(&server.base) == authority(&own.base);
        let asked =
            self.hosts.iter().filter(able).filter(|server| purpose != Purpose::Push || is_own(server));
        let mut endpoints: Vec<_> =
            asked.clone().map(|server| server.endpoint(own, !is_own(server))).collect();
        // Without a server of its own, the host is where its table says.
        match &self.upstream {
            Some(server) => endpoints.push(server.endpoint(own, false)),
            None if asked.clone().any(is_own) => {}
            None => endpoints.push(own.clone()),
        }
        endpoints
    }
}

impl Server {
    fn endpoint(&self, own: &Endpoint, mirror: bool) -> Endpoint {
        let host = authority(&self.base);
        // The server of a host has that host's credentials; a mirror is a host of its own.
        let host = if mirror { host } else { own.host.clone() };
        let inherited = Trust { plain: self.base.scheme() == "http", ..own.trust.clone() };
        Endpoint {
            base: self.base.clone(),
            mirrored: mirror.then(|| own.host.clone()),
            host,
            path: own.path.clone(),
            trust: if self.certified { self.trust.clone() } else { inherited },
            insecure: false,
            headers: self.headers.clone(),
            spare: false,
        }
    }
}

pub(super) fn parse(path: &Path, text: &str) -> Result<HostsToml> {
    // The order of the hosts counts, which a map of serde's would lose.
    let document: toml::Table =
        text.parse().map_err(|error: toml::de::Error| unusable(path, error.message()))?;
    let mut servers = Vec::new();
    if let Some(hosts) = document.get("host").and_then(Value::as_table) {
        for (url, table) in hosts {
            let table = table.as_table().ok_or_else(|| unusable(path, format!("host {url} is no table")))?;
            let place = text.find(&format!("\"{url}\"")).or_else(|| text.find(&format!("'{url}'")));
            servers.push((place, server(path, url, table)?));
        }
    }
    servers.sort_by_key(|(place, _)| *place);
    let upstream = match document.get("server") {
        Some(Value::String(url)) => Some(server(path, url, &document)?),
        Some(_) => return Err(unusable(path, "server is no text")),
        None => None,
    };
    Ok(HostsToml { hosts: servers.into_iter().map(|(_, server)| server).collect(), upstream })
}

fn server(path: &Path, url: &str, table: &toml::Table) -> Result<Server> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let mut base = Url::parse(&whole).map_err(|error| unusable(path, format!("{url}: {error}")))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(unusable(path, format!("{url} is not the URL of a server")));
    }
    if table.get("override_path").and_then(Value::as_bool) != Some(true) {
        let prefix = base.path().trim_end_matches('/').trim_end_matches("/v2").to_owned();
        base.set_path(&format!("{prefix}/v2"));
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let files = |key: &str| -> Vec<PathBuf> {
        texts(table.get(key)).iter().map(|file| directory.join(file)).collect()
    };
    // One file with both, or pairs of which the first is taken.
    let identity = match table.get("client") {
        Some(Value::Array(pairs)) if pairs.iter().any(Value::is_array) => {
            let pair = texts(pairs.first());
            pair.first().map(|certificate| {
                let key = pair.get(1).unwrap_or(certificate);
                (directory.join(certificate), directory.join(key))
            })
        }
        other => texts(other).first().map(|file| (directory.join(file), directory.join(file))),
    };
    let trust = Trust {
        plain: base.scheme() == "http",
        unverified: table.get("skip_verify").and_then(Value::as_bool) == Some(true),
        authorities: files("ca"),
        identity,
    };
    let certified = ["skip_verify", "ca", "client"].iter().any(|key| table.contains_key(*key));
    let mut headers = Vec::new();
    if let Some(Value::Table(table)) = table.get("header") {
        for (name, values) in table {
            for value in texts(Some(values)) {
                let bad = |_| unusable(path, format!("header {name:?} cannot be sent"));
                let value = HeaderValue::from_str(&value).map_err(|_| bad(()))?;
                headers.push((HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(()))?, value));
            }
        }
    }
    let capabilities = texts(table.get("capabilities"));
    Ok(Server { base, capabilities, trust, certified, headers })
}

/// Returns the texts of a value that is one text or several.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
