//! How images are reached: the flags about registries, and what the environment and the machine's files say.

use std::env;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use restow::Session;
use restow_registry::Settings;
use restow_registry::client::Credentials;
use restow_registry::client::Hosts;
use restow_registry::client::Proxies;

use crate::args::parse_size;
use crate::directories;
use crate::output;

/// How registries are reached; the same for all commands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registries")]
pub(crate) struct RegistryArguments {
    /// Reach every registry without TLS; those on this machine are reached so anyway
    #[arg(long, global = true, hide_short_help = true)]
    plain_http: bool,
    /// Trust the certificates in this file, too; may be given several times
    ///
    /// With it, registries on this machine are reached by TLS as well.
    #[arg(long, global = true, hide_short_help = true, value_name = "FILE")]
    ca_file: Vec<PathBuf>,
    /// Take logins from this file first [default: $DOCKER_AUTH_CONFIG, podman's auth.json and docker's config.json]
    #[arg(long, global = true, hide_short_help = true, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Take mirrors from this file [default: $CONTAINERS_REGISTRIES_CONF, or registries.conf of the user or of the machine]
    #[arg(long, global = true, hide_short_help = true, value_name = "FILE")]
    registries_conf: Option<PathBuf>,
    /// Take mirrors and certificates from this directory [default: podman's, containerd's and docker's certs.d]
    #[arg(long, global = true, hide_short_help = true, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// Send each registry at most so many requests a minute, and at once [default: 300 for Docker Hub]
    #[arg(long, global = true, hide_short_help = true, value_name = "N")]
    requests_per_minute: Option<NonZeroU32>,
    /// Give up a registry, or a credential helper, that is silent for so many seconds
    #[arg(long, global = true, hide_short_help = true, value_name = "SECONDS", default_value = "60")]
    idle_timeout: NonZeroU32,
    /// Upload blobs in pieces of this size [default: whole]
    #[arg(long, global = true, hide_short_help = true, value_name = "SIZE", value_parser = parse_chunk)]
    upload_chunk_size: Option<u64>,
    /// Read zstd layers that ask for a window of up to this size, and for as much memory [default: 128MiB]
    #[arg(long, global = true, hide_short_help = true, value_name = "SIZE", value_parser = parse_window)]
    max_zstd_window: Option<u32>,
    /// Print at the end how many requests of each kind each registry was sent
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) registry_stats: bool,
}

/// The variable in which docker takes the text of a `config.json`.
const DOCKER_AUTH_CONFIG: &str = "DOCKER_AUTH_CONFIG";

/// Tells how many requests were sent.
pub(crate) fn tell_requests(session: &Session) {
    let requests = session.access().used_client().map(restow_registry::Client::requests).unwrap_or_default();
    let total: u64 = requests.iter().map(|(_, _, count)| count).sum();
    for (host, kind, count) in requests {
        output::tell(&format!("{host}  {kind}  {count}"));
    }
    let requests = output::count(usize::try_from(total).unwrap_or(usize::MAX), "request");
    output::tell(&format!("{requests} to registries"));
}

/// Returns the base-2 logarithm of the smallest window that is as large.
fn parse_window(text: &str) -> Result<u32, String> {
    match parse_size(text)?.checked_next_power_of_two().map(u64::trailing_zeros) {
        Some(log @ 10..=31) => Ok(log),
        _ => Err("expected a size from 1KiB to 2GiB".into()),
    }
}

fn parse_chunk(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if size >= 64 << 10 { Ok(size) } else { Err("expected at least 64KiB".into()) }
}

impl RegistryArguments {
    /// Writes into the settings how registries are reached. Files are read when the first one is.
    pub(crate) fn apply(&self, settings: &mut restow::Settings) {
        let own = self.clone();
        settings.registries = Arc::new(move || own.settings());
        settings.scratch = scratch();
        settings.limits.zstd_window_log = self.max_zstd_window.unwrap_or(settings.limits.zstd_window_log);
    }

    fn settings(&self) -> restow_registry::Result<Settings> {
        let home = variable("HOME").map(PathBuf::from);
        let path = |name: &str| variable(name).map(PathBuf::from);
        let config = path("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = path("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));

        let named = self.authfile.clone().or_else(|| path("REGISTRY_AUTH_FILE"));
        if let Some(path) = named.as_ref().filter(|path| !path.exists()) {
            return Err(restow_registry::Error::NoSuchPath { path: path.clone() });
        }
        let first = Credentials::load(named.as_slice())?;
        let first = match text(DOCKER_AUTH_CONFIG) {
            Some(logins) => first.followed_by(Credentials::parse(DOCKER_AUTH_CONFIG, &logins)?),
            None => first,
        };
        let logins = [
            path("XDG_RUNTIME_DIR").map(|path| path.join("containers/auth.json")),
            config.as_ref().map(|path| path.join("containers/auth.json")),
            docker.map(|path| path.join("config.json")),
        ];
        let named = self.registries_conf.clone().or_else(|| path("CONTAINERS_REGISTRIES_CONF"));
        let registries = match named {
            Some(path) => vec![path],
            None => config
                .as_ref()
                .map(|path| path.join("containers/registries.conf"))
                .into_iter()
                .chain(["/etc/containers/registries.conf".into()])
                .collect(),
        };
        let hosts = match &self.hosts_dir {
            Some(path) => vec![path.clone()],
            None => {
                let own = config.as_ref().map(|path| path.join("containers/certs.d"));
                let machine =
                    ["containerd", "docker", "containers"].map(|of| format!("/etc/{of}/certs.d").into());
                own.into_iter().chain(machine).collect()
            }
        };
        let idle_timeout = Duration::from_secs(self.idle_timeout.get().into());
        let proxy = |name: &str| text(&name.to_lowercase()).or_else(|| text(&name.to_uppercase()));
        Ok(Settings {
            plain_http: self.plain_http,
            authorities: self.ca_file.clone(),
            credentials: first
                .followed_by(Credentials::load(&logins.into_iter().flatten().collect::<Vec<_>>())?)
                .patience(idle_timeout),
            hosts: Hosts::load(&registries, &hosts)?,
            proxies: Proxies {
                // Not the upper-case one: a server sets it from a client's header.
                http: text("http_proxy").or_else(|| proxy("all_proxy")),
                https: proxy("https_proxy").or_else(|| proxy("all_proxy")),
                none: proxy("no_proxy"),
            },
            requests_per_minute: self.requests_per_minute.map(NonZeroU32::get),
            idle_timeout,
            chunk_size: self.upload_chunk_size,
            manifests: directories::cache().map(|caches| caches.join("manifests")),
            ..Settings::default()
        })
    }
}

/// Returns where files go that lie beside no destination: not `/tmp`, which may be in memory.
fn scratch() -> PathBuf {
    variable("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Option<String> {
    variable(name).and_then(|value| value.into_string().ok())
}
