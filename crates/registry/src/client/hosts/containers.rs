//! `registries.conf` of podman, skopeo and their kin, second version.
//!
//! <https://github.com/containers/image/blob/main/docs/containers-registries.conf.5.md>

use std::path::Path;

use serde::Deserialize;

use super::Purpose;
use super::unusable;
use crate::Error;
use crate::Result;

/// What holds for the names that start with a prefix.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    /// A host, or a part of one as `*.example.org`, or the beginning of a repository's name.
    pub(super) prefix: String,
    /// What stands in its place.
    pub(super) location: String,
    pub(super) insecure: bool,
    pub(super) blocked: bool,
    pub(super) mirrors: Vec<Mirror>,
}

/// Another place with the same content.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Mirror {
    pub(super) location: String,
    #[serde(default)]
    pub(super) insecure: bool,
    #[serde(default)]
    pull_from_mirror: PullFromMirror,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    #[default]
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

impl Mirror {
    pub(super) fn serves(&self, purpose: Purpose) -> bool {
        match (purpose, self.pull_from_mirror) {
            (Purpose::Push, _) => false,
            (Purpose::Pull, pull) => !matches!(pull, PullFromMirror::TagOnly),
            (Purpose::Resolve, pull) => !matches!(pull, PullFromMirror::DigestOnly),
        }
    }
}

impl Registry {
    /// Returns the name with the prefix replaced.
    pub(super) fn rewrite(&self, name: &str, location: &str) -> String {
        match name.strip_prefix(&self.prefix) {
            Some(rest) => format!("{location}{rest}"),
            // The prefix is a pattern, for which the whole host is replaced.
            None if location.is_empty() => name.to_owned(),
            None => format!("{location}{}", name.find('/').map_or("", |slash| &name[slash..])),
        }
    }

    fn covers(&self, name: &str) -> bool {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = name.split('/').next().unwrap_or_default();
            return host.split(':').next().unwrap_or_default().ends_with(domain);
        }
        let rest = name.strip_prefix(&self.prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
    }
}

/// Returns the entry of the longest prefix that covers `name`.
pub(super) fn find<'a>(registries: &'a [Registry], name: &str) -> Option<&'a Registry> {
    registries.iter().filter(|registry| registry.covers(name)).max_by_key(|registry| registry.prefix.len())
}

/// Lets the entries of a later file replace those of the same prefix.
pub(super) fn merge(registries: &mut Vec<Registry>, later: Vec<Registry>) {
    registries.retain(|old| later.iter().all(|new| new.prefix != old.prefix));
    registries.extend(later);
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Entry>,
    registries: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Registry>> {
    let file: File = toml::from_str(text).map_err(|error| unusable(path, error.message()))?;
    if file.registries.is_some() {
        return Err(unusable(path, "it is of version 1, which is no longer in use"));
    }
    file.registry.into_iter().map(|entry| entry.check(path)).collect()
}

impl Entry {
    fn check(self, path: &Path) -> Result<Registry, Error> {
        let trim = |text: String| text.trim_end_matches('/').to_owned();
        let location = self.location.map(trim);
        let prefix = self.prefix.map(trim).filter(|prefix| !prefix.is_empty()).or_else(|| location.clone());
        let Some(prefix) = prefix else {
            return Err(unusable(path, "a registry has neither prefix nor location"));
        };
        let location = location.unwrap_or_else(|| match prefix.starts_with('*') {
            true => String::new(),
            false => prefix.clone(),
        });
        let mirrors = self.mirror.into_iter().map(|mirror| Mirror {
            location: trim(mirror.location),
            insecure: mirror.insecure,
            pull_from_mirror: match self.mirror_by_digest_only {
                true => PullFromMirror::DigestOnly,
                false => mirror.pull_from_mirror,
            },
        });
        Ok(Registry {
            prefix,
            location,
            insecure: self.insecure,
            blocked: self.blocked,
            mirrors: mirrors.collect(),
        })
    }
}
