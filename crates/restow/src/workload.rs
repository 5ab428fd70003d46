//! How an image is run to see what it reads.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use restow_analyze::sandbox::Allowance;
use restow_analyze::sandbox::Mount;

/// How long a workload is watched unless told otherwise.
pub const DEFAULT_PERIOD: Duration = Duration::from_secs(10);
/// The server that is asked for names if none is named, as in ctr-remote.
const DEFAULT_NAMESERVER: &str = "8.8.8.8";
/// The hosts that a container knows, as in ctr-remote and Docker.
const HOSTS: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Makes a question to be asked again and again: whether the watching is over. It is asked until it goes.
pub type Until = Arc<dyn Fn() -> Box<dyn Fn() -> bool + Sync> + Send + Sync>;

/// How the containers of an image are run.
#[derive(Clone)]
#[non_exhaustive]
pub struct Container {
    /// The workloads, run one after the other. What the first one reads comes first.
    pub workloads: Vec<Workload>,
    /// Whether the container gets the terminal at this program's standard input.
    pub terminal: bool,
    /// Whether the container may read this program's standard input.
    pub input: bool,
    /// What ends the watching instead of a workload's period or line.
    pub until: Option<Until>,
    /// Whether a program may fail before the watching ends. Otherwise that is an error, and there is no record.
    pub allow_failure: bool,
    /// Which servers answer for names, and how.
    pub resolver: Resolver,
    /// Further hosts, by name and address.
    pub hosts: Vec<(String, String)>,
    /// What else is mounted.
    pub mounts: Vec<Mount>,
    /// What the container sees of the network.
    pub network: Network,
    /// Names of devices (Container Device Interface) that the container gets.
    pub devices: Vec<String>,
    /// What a container may take.
    pub allowance: Allowance,
    /// The program that runs containers.
    pub runtime: PathBuf,
}

impl Default for Container {
    /// Runs the image's own command by `runc`, for [`DEFAULT_PERIOD`], with nothing of the host.
    fn default() -> Self {
        Self {
            workloads: vec![Workload::default()],
            terminal: false,
            input: false,
            until: None,
            allow_failure: false,
            resolver: Resolver::default(),
            hosts: Vec::new(),
            mounts: Vec::new(),
            network: Network::None,
            devices: Vec::new(),
            allowance: Allowance::default(),
            runtime: "runc".into(),
        }
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("workloads", &self.workloads).finish_non_exhaustive()
    }
}

/// What differs from the image's config when it is run.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What to call it.
    pub name: String,
    /// The arguments, if not the image's.
    pub args: Option<Vec<String>>,
    /// The entrypoint, if not the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Further environment variables; a name alone takes the image's away.
    pub env: Vec<String>,
    /// The working directory, if not the image's.
    pub directory: Option<String>,
    /// The user, a name or a number with or without `:GROUP`, if not the image's.
    pub user: Option<String>,
    /// How long it is watched.
    pub period: Duration,
    /// A part of the line of its standard output after which it is not watched any more.
    pub line: Option<String>,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            name: "workload".into(),
            args: None,
            entrypoint: None,
            env: Vec::new(),
            directory: None,
            user: None,
            period: DEFAULT_PERIOD,
            line: None,
        }
    }
}

/// What a container sees of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Nothing.
    #[default]
    None,
    /// What the host sees.
    Host,
    /// The first of the networks that CNI is configured for.
    Cni {
        /// The directory of the configurations.
        configurations: PathBuf,
        /// The directory of the plugins.
        plugins: PathBuf,
    },
}

/// How a container finds the addresses of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// The servers.
    pub servers: Vec<String>,
    /// The domains that names are searched in.
    pub search: Vec<String>,
    /// Options, as resolv.conf has them.
    pub options: Vec<String>,
}

impl Container {
    /// Returns the content of resolv.conf; `of_host` is the host's.
    pub fn resolver(&self, of_host: &str) -> String {
        if self.network == Network::Host && self.resolver == Resolver::default() {
            return of_host.to_owned();
        }
        let Resolver { servers, search, options } = &self.resolver;
        let default = [DEFAULT_NAMESERVER.to_owned()];
        let servers = if servers.is_empty() { &default[..] } else { servers };
        let mut text: String = servers.iter().map(|address| format!("nameserver {address}\n")).collect();
        for (word, values) in [("search", search), ("options", options)] {
            if !values.is_empty() {
                text.push_str(&format!("{word} {}\n", values.join(" ")));
            }
        }
        text
    }

    /// Returns the content of the file of hosts; `of_host` is the host's.
    pub fn hosts(&self, of_host: &str) -> String {
        let mut text = if self.network == Network::Host { of_host } else { HOSTS }.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        for (host, address) in &self.hosts {
            text.push_str(&format!("{address}\t{host}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_as_asked_or_as_the_host_does() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (network, servers, search, options, expected) in [
            (Network::None, "", "", "", "nameserver 8.8.8.8\n"),
            (Network::Host, "", "", "", "nameserver 10.0.0.1"),
            (Network::Host, "", "", "debug", "nameserver 8.8.8.8\noptions debug\n"),
            (
                Network::None,
                "1.1.1.1 ::1",
                "a.test b.test",
                "ndots:2 rotate",
                "nameserver 1.1.1.1\nnameserver ::1\nsearch a.test b.test\noptions ndots:2 rotate\n",
            ),
        ] {
            let resolver =
                Resolver { servers: words(servers), search: words(search), options: words(options) };
            let container = Container { network, resolver, ..Container::default() };
            assert_eq!(container.resolver("nameserver 10.0.0.1"), expected);
        }
    }

    #[test]
    fn hosts_are_the_usual_ones_or_the_hosts_own_and_those_that_are_added() {
        let added = vec![("db".to_owned(), "10.0.0.2".to_owned())];
        for (network, hosts, expected) in [
            (Network::None, Vec::new(), HOSTS.to_owned()),
            (Network::None, added.clone(), format!("{HOSTS}10.0.0.2\tdb\n")),
            (Network::Host, Vec::new(), "127.0.0.1 me\n".into()),
            (Network::Host, added, "127.0.0.1 me\n10.0.0.2\tdb\n".into()),
        ] {
            let container = Container { network, hosts, ..Container::default() };
            assert_eq!(container.hosts("127.0.0.1 me"), expected);
        }
    }
}
