//! Platforms: how they are written, and containerd's normal form of them.

use std::fmt;
use std::str::FromStr;

use serde_json::Map;
use serde_json::Value;

use crate::Error;
use crate::Result;
use crate::error::excerpt;
use crate::json;
use crate::json::Object;

/// What an image runs on, as its index or its config says, or as a person asks for it.
///
/// Two spellings of one platform differ here until they are [normalized](Platform::normalized).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// The operating system by its Go name, for instance `linux`.
    pub os: String,
    /// The architecture by its Go name, for instance `amd64`.
    pub architecture: String,
    /// The architecture's variant, for instance `v8`.
    pub variant: Option<String>,
    /// The operating system's version, of use on Windows only.
    pub os_version: Option<String>,
    /// What the image needs of the operating system, for instance `win32k`.
    pub os_features: Vec<String>,
}

/// Go's names of operating systems.
const SYSTEMS: [&str; 17] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

/// Go's names of architectures.
const ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl Platform {
    /// Returns a platform of no variant.
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Platform {
        Platform { os: os.into(), architecture: architecture.into(), ..Platform::default() }
    }

    /// Returns the platform this program was built for.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "loongarch64" => "loong64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            other => other,
        };
        Platform::new(std::env::consts::OS, architecture).normalized()
    }

    /// Parses `OS`, `ARCHITECTURE`, `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`, where `OS` may be followed
    /// by `(VERSION+FEATURE…)`. The part left out is the host's.
    pub fn parse(text: &str) -> Result<Platform> {
        parse(text).map_err(|expected| Error::Platform { platform: excerpt(text), expected })
    }

    /// Returns the one spelling of the platform that containerd compares: lower case, Go's names, and no
    /// variant where it is what the architecture means without one (`arm` means `v7`, and says so).
    pub fn normalized(&self) -> Platform {
        let os = match self.os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.as_deref().unwrap_or_default().to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i686", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        Platform {
            os,
            architecture: architecture.to_owned(),
            variant: (!variant.is_empty()).then(|| variant.to_owned()),
            os_version: self.os_version.clone().filter(|version| !version.is_empty()),
            os_features,
        }
    }

    /// Returns whether this is `unknown/unknown`, under which BuildKit lists attestations.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// The keys of a platform, both in an index and at the top of a config.
    pub(crate) const KEYS: [&str; 5] = ["architecture", "os", "os.version", "os.features", "variant"];

    pub(crate) fn read(object: &Object<'_>) -> Result<Platform> {
        let text = |key| Ok(object.string(key)?.map(str::to_owned));
        Ok(Platform {
            os: text("os")?.unwrap_or_default(),
            architecture: text("architecture")?.unwrap_or_default(),
            variant: text("variant")?,
            os_version: text("os.version")?,
            os_features: object.strings("os.features")?,
        })
    }

    /// Returns the JSON of a platform that is new to its document.
    pub(crate) fn to_map(&self) -> Map<String, Value> {
        let mut map = Map::new();
        json::set(&mut map, "architecture", Some(self.architecture.as_str().into()));
        json::set(&mut map, "os", Some(self.os.as_str().into()));
        self.patch(&Platform::new(self.os.as_str(), self.architecture.as_str()), &mut map);
        map
    }

    /// Makes `map`, which was read as `from`, say what `self` says.
    pub(crate) fn patch(&self, from: &Platform, map: &mut Map<String, Value>) {
        let required = |text: &String| Some(Value::from(text.as_str()));
        let optional = |text: &Option<String>| text.as_deref().map(Value::from);
        let listed = |list: &Vec<String>| (!list.is_empty()).then(|| Value::from(list.as_slice()));
        json::patch(map, "architecture", &from.architecture, &self.architecture, required);
        json::patch(map, "os", &from.os, &self.os, required);
        json::patch(map, "os.version", &from.os_version, &self.os_version, optional);
        json::patch(map, "os.features", &from.os_features, &self.os_features, listed);
        json::patch(map, "variant", &from.variant, &self.variant, optional);
    }
}

fn parse(text: &str) -> std::result::Result<Platform, &'static str> {
    let parts: Vec<&str> = text.splitn(4, '/').collect();
    let (os, architecture, variant) = match *parts.as_slice() {
        [os] => (os, None, None),
        [os, architecture] => (os, Some(architecture), None),
        [os, architecture, variant] => (os, Some(architecture), Some(variant)),
        _ => return Err("at most an operating system, an architecture and a variant"),
    };
    let (os, options) = match os.split_once('(') {
        None => (os, ""),
        Some((os, options)) => (os, options.strip_suffix(')').ok_or("a closing parenthesis")?),
    };
    let (version, features) = options.split_once('+').map_or((options, None), |(v, f)| (v, Some(f)));
    let features: Vec<&str> = features.into_iter().flat_map(|features| features.split('+')).collect();
    let words = [Some(os), architecture, variant].into_iter().flatten().chain(features.iter().copied());
    if !words.into_iter().all(|word| !word.is_empty() && is_word(word)) || !is_word(version) {
        return Err("words of letters, digits, dots, dashes and underscores");
    }

    let platform = Platform {
        os: os.to_owned(),
        architecture: architecture.unwrap_or_default().to_owned(),
        variant: variant.map(str::to_owned),
        os_version: (!version.is_empty()).then(|| version.to_owned()),
        os_features: features.into_iter().map(str::to_owned).collect(),
    }
    .normalized();
    if architecture.is_some() {
        return Ok(platform);
    }
    if SYSTEMS.contains(&platform.os.as_str()) {
        let host = Platform::host();
        return Ok(Platform { architecture: host.architecture, variant: host.variant, ..platform });
    }
    let alone = Platform::new(Platform::host().os, os).normalized();
    match ARCHITECTURES.contains(&alone.architecture.as_str()) && options.is_empty() {
        true => Ok(alone),
        false => Err("a known operating system or architecture, or both with a slash between them"),
    }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl serde::Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Platform> {
        Platform::parse(text)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.os.is_empty() { "unknown" } else { &self.os })?;
        if self.os_version.is_some() || !self.os_features.is_empty() {
            write!(formatter, "({}", self.os_version.as_deref().unwrap_or_default())?;
            self.os_features.iter().try_for_each(|feature| write!(formatter, "+{feature}"))?;
            formatter.write_str(")")?;
        }
        if !self.architecture.is_empty() {
            write!(formatter, "/{}", self.architecture)?;
        }
        self.variant.iter().try_for_each(|variant| write!(formatter, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(os: &str, architecture: &str, variant: &str) -> Platform {
        let variant = (!variant.is_empty()).then(|| variant.to_owned());
        Platform { variant, ..Platform::new(os, architecture) }
    }

    #[test]
    fn every_spelling_of_a_platform_has_one_normal_form() {
        let table = [
            (("linux", "amd64", ""), ("linux", "amd64", "")),
            (("Linux", "X86_64", "V1"), ("linux", "amd64", "")),
            (("linux", "x86-64", "v2"), ("linux", "amd64", "v2")),
            (("linux", "amd64", "v1"), ("linux", "amd64", "")),
            (("macos", "aarch64", ""), ("darwin", "arm64", "")),
            (("linux", "arm64", "8"), ("linux", "arm64", "")),
            (("linux", "arm64", "v8"), ("linux", "arm64", "")),
            (("linux", "aarch64", "v8.0"), ("linux", "arm64", "")),
            (("linux", "arm64", "v8.2"), ("linux", "arm64", "v8.2")),
            (("linux", "arm64", "9"), ("linux", "arm64", "v9")),
            (("linux", "arm64", "v9.0"), ("linux", "arm64", "v9")),
            (("linux", "arm", ""), ("linux", "arm", "v7")),
            (("linux", "arm", "7"), ("linux", "arm", "v7")),
            (("linux", "arm", "5"), ("linux", "arm", "v5")),
            (("linux", "arm", "6"), ("linux", "arm", "v6")),
            (("linux", "arm", "8"), ("linux", "arm", "v8")),
            (("linux", "arm", "v8"), ("linux", "arm", "v8")),
            (("linux", "armhf", ""), ("linux", "arm", "v7")),
            (("linux", "armel", "v5"), ("linux", "arm", "v6")),
            (("linux", "i386", ""), ("linux", "386", "")),
            (("linux", "i686", "x"), ("linux", "386", "")),
            (("linux", "riscv64", "rva23u64"), ("linux", "riscv64", "rva23u64")),
            (("", "", ""), ("", "", "")),
        ];
        for ((os, architecture, variant), (normal_os, normal_architecture, normal_variant)) in table {
            let normal = platform(normal_os, normal_architecture, normal_variant);
            assert_eq!(
                platform(os, architecture, variant).normalized(),
                normal,
                "{os}/{architecture}/{variant}"
            );
            assert_eq!(normal.normalized(), normal, "a normal form is its own");
        }
    }

    #[test]
    fn features_are_a_set_and_an_empty_version_is_none() {
        let spelled = Platform {
            os_features: ["b", "a", "b"].map(str::to_owned).into(),
            os_version: Some(String::new()),
            ..Platform::new("windows", "amd64")
        };
        let normal = Platform {
            os_features: ["a", "b"].map(str::to_owned).into(),
            ..Platform::new("windows", "amd64")
        };
        assert_eq!(spelled.normalized(), normal);
    }

    #[test]
    fn specifiers_are_parsed_and_written_in_normal_form() {
        let host = Platform::host();
        let host_os = |architecture: &str| format!("{}/{architecture}", host.os);
        let on_host = |os: &str| Platform { os: os.to_owned(), ..host.clone() }.to_string();
        let table = [
            ("linux/amd64", "linux/amd64".to_owned()),
            ("linux/arm64/v8", "linux/arm64".to_owned()),
            ("linux/arm", "linux/arm/v7".to_owned()),
            ("Linux/AARCH64", "linux/arm64".to_owned()),
            ("foo/bar/baz", "foo/bar/baz".to_owned()),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64".to_owned()),
            ("windows(10.0.17763+win32k+a)/amd64", "windows(10.0.17763+a+win32k)/amd64".to_owned()),
            ("windows(+win32k)/amd64", "windows(+win32k)/amd64".to_owned()),
            ("windows()/amd64", "windows/amd64".to_owned()),
            ("unknown/unknown", "unknown/unknown".to_owned()),
            ("linux", on_host("linux")),
            ("macos", on_host("darwin")),
            ("windows(10.0.17763)", on_host("windows(10.0.17763)")),
            ("arm64", host_os("arm64")),
            ("x86_64", host_os("amd64")),
            ("armel", host_os("arm/v6")),
            ("s390x", host_os("s390x")),
        ];
        for (text, expected) in table {
            let platform: Platform = text.parse().unwrap();
            assert_eq!(platform.to_string(), expected, "{text}");
            assert_eq!(Platform::parse(&expected).unwrap(), platform, "{expected}");
        }
    }

    #[test]
    fn what_is_not_a_specifier_is_refused() {
        let table = [
            "",
            "/",
            "linux/",
            "/amd64",
            "linux/amd64/",
            "linux/amd64/v2/x",
            "linux//v2",
            "*",
            "linux/*",
            "foo",
            "linux amd64",
            "linux,amd64",
            "windows(10.0/amd64",
            "windows)/amd64",
            "windows(1+)/amd64",
            "windows(1++a)/amd64",
            "windows(1 2)/amd64",
            "amd64(1)",
            "lin\u{131}x",
            "linux/amd64\n",
        ];
        for text in table {
            let result = Platform::parse(text);
            assert!(matches!(result, Err(Error::Platform { .. })), "{text:?}: {result:?}");
        }
    }

    #[test]
    fn the_host_is_a_normal_platform() {
        let host = Platform::host();
        assert_eq!(host, host.normalized());
        assert!(
            ARCHITECTURES.contains(&host.architecture.as_str()) && SYSTEMS.contains(&host.os.as_str()),
            "{host}"
        );
    }

    #[test]
    fn a_platform_of_nothing_can_still_be_shown() {
        assert_eq!(Platform::default().to_string(), "unknown");
        assert!(!Platform::default().is_unknown());
        assert!(Platform::new("unknown", "unknown").is_unknown());
        assert!(!Platform::new("linux", "unknown").is_unknown());
    }
}
