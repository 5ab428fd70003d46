//! Which platforms do for the ones asked for, and which does best.

use crate::Platform;

/// Decides which platforms of an index are wanted, by containerd's rules.
///
/// Spellings do not matter. An image's os features must be among those asked for, and on Windows its version
/// must be of the same build, unless either side names none. `unknown/unknown` is never wanted.
#[derive(Clone, Debug)]
pub struct PlatformMatcher {
    /// What is acceptable, the best first, normalized.
    rungs: Vec<Platform>,
}

impl PlatformMatcher {
    /// Returns a matcher of exactly these platforms, the first being the best.
    pub fn strict<'a>(platforms: impl IntoIterator<Item = &'a Platform>) -> PlatformMatcher {
        PlatformMatcher { rungs: platforms.into_iter().map(Platform::normalized).collect() }
    }

    /// Returns a matcher of these platforms and of what else runs on each of them: older variants of the
    /// architecture, and its 32-bit predecessor.
    pub fn only<'a>(platforms: impl IntoIterator<Item = &'a Platform>) -> PlatformMatcher {
        PlatformMatcher {
            rungs: platforms.into_iter().flat_map(|platform| ladder(platform.normalized())).collect(),
        }
    }

    /// Returns whether `platform` is wanted.
    pub fn matches(&self, platform: &Platform) -> bool {
        self.rank(platform).is_some()
    }

    /// Returns how good a match `platform` is, 0 being the best, or nothing where it is not wanted.
    ///
    /// Of equals in an index, the first is to be taken.
    pub fn rank(&self, platform: &Platform) -> Option<usize> {
        let platform = platform.normalized();
        if platform.is_unknown() {
            return None;
        }
        let rung = self.rungs.iter().position(|wanted| accepts(wanted, &platform))?;
        // On one rung, the image that uses more of the features asked for is the better one.
        let features = self.rungs.iter().map(|wanted| wanted.os_features.len()).max().unwrap_or(0);
        Some(rung * (features + 1) + features.saturating_sub(platform.os_features.len()))
    }
}

/// Returns whether an image of `platform` does where `wanted` is asked for; both are normalized.
fn accepts(wanted: &Platform, platform: &Platform) -> bool {
    let windows = wanted.os == "windows";
    // Windows images name this feature where nobody asks for it.
    let ignored = |feature: &str| windows && feature == "win32k";
    wanted.os == platform.os
        && wanted.architecture == platform.architecture
        && wanted.variant == platform.variant
        && platform.os_features.iter().all(|feature| wanted.os_features.contains(feature) || ignored(feature))
        && (!windows || same_build(wanted.os_version.as_deref(), platform.os_version.as_deref()))
}

/// Returns whether two Windows versions agree up to the build, the third number of `10.0.17763.1234`.
fn same_build(wanted: Option<&str>, version: Option<&str>) -> bool {
    let (Some(wanted), Some(version)) = (wanted, version) else { return true };
    let mut numbers = version.split('.');
    wanted.split('.').take(3).all(|number| numbers.next() == Some(number))
}

/// Returns what runs on `platform`, which is normalized, the best first.
fn ladder(platform: Platform) -> Vec<Platform> {
    let variant = platform.variant.as_deref().unwrap_or_default();
    let rungs: Vec<(&str, String)> = match platform.architecture.as_str() {
        "amd64" => {
            let below = (1..version(variant).unwrap_or(1).min(9)).rev();
            below.map(|number| ("amd64", format!("v{number}"))).chain([("386", String::new())]).collect()
        }
        "arm" => arm(version(variant).unwrap_or(0)).collect(),
        "arm64" => arm64(variant),
        _ => Vec::new(),
    };
    let rungs: Vec<Platform> = rungs
        .into_iter()
        .map(|(architecture, variant)| {
            Platform { architecture: architecture.to_owned(), variant: Some(variant), ..platform.clone() }
                .normalized()
        })
        .collect();
    [platform].into_iter().chain(rungs).collect()
}

fn version(variant: &str) -> Option<u8> {
    variant.strip_prefix('v')?.parse().ok()
}

/// Returns the 32-bit variants below `number`.
fn arm(number: u8) -> impl Iterator<Item = (&'static str, String)> {
    (5..number.min(9)).rev().map(|number| ("arm", format!("v{number}")))
}

/// Returns what runs on the 64-bit `variant` beside itself: lower minor versions, of version 9 also those of
/// version 8 it builds on (9.0 on 8.5, and so forth), and the 32-bit variants.
fn arm64(variant: &str) -> Vec<(&'static str, String)> {
    let variant = if variant.is_empty() { "v8" } else { variant };
    let (major, minor) = variant.split_once('.').unwrap_or((variant, "0"));
    let (major, minor) = match (major, minor.parse::<u8>()) {
        ("v8" | "v9", Ok(minor)) if minor <= 9 => (major, minor),
        _ => return Vec::new(),
    };
    let minors = |major, below: u8| (0..below).rev().map(move |minor| ("arm64", format!("v{major}.{minor}")));
    let eighth = if major == "v9" { (minor + 5).min(9) + 1 } else { minor };
    let ninth = if major == "v9" { minor } else { 0 };
    minors(9, ninth).chain(minors(8, eighth)).chain(arm(9)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    /// Returns those of `candidates` that the matcher wants, the best first.
    fn ranked<'a>(matcher: &PlatformMatcher, candidates: &[&'a str]) -> Vec<&'a str> {
        let mut wanted: Vec<_> =
            candidates.iter().filter_map(|text| Some((matcher.rank(&parse(text))?, *text))).collect();
        wanted.sort_by_key(|(rank, _)| *rank);
        wanted.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn older_variants_do_where_no_better_one_is() {
        let all = [
            "linux/386",
            "linux/amd64",
            "linux/amd64/v2",
            "linux/amd64/v3",
            "linux/amd64/v4",
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm/v8",
            "linux/arm64",
            "linux/arm64/v8.1",
            "linux/arm64/v8.2",
            "linux/arm64/v8.5",
            "linux/arm64/v8.6",
            "linux/arm64/v9",
            "linux/arm64/v9.1",
            "linux/riscv64",
            "windows/amd64",
            "unknown/unknown",
        ];
        let arm = ["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"];
        let arm64 = |variants: &[&'static str]| [variants, &arm].concat();
        let table = [
            ("linux/amd64", vec!["linux/amd64", "linux/386"]),
            ("linux/amd64/v3", vec!["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
            ("linux/386", vec!["linux/386"]),
            ("linux/arm", arm[1..].to_vec()),
            ("linux/arm/v8", arm.to_vec()),
            ("linux/arm/v6", arm[2..].to_vec()),
            ("linux/arm/v5", arm[3..].to_vec()),
            ("linux/arm64", arm64(&["linux/arm64"])),
            ("linux/arm64/v8", arm64(&["linux/arm64"])),
            ("linux/arm64/v8.2", arm64(&["linux/arm64/v8.2", "linux/arm64/v8.1", "linux/arm64"])),
            (
                "linux/arm64/v9",
                arm64(&[
                    "linux/arm64/v9",
                    "linux/arm64/v8.5",
                    "linux/arm64/v8.2",
                    "linux/arm64/v8.1",
                    "linux/arm64",
                ]),
            ),
            (
                "linux/arm64/v9.1",
                arm64(&[
                    "linux/arm64/v9.1",
                    "linux/arm64/v9",
                    "linux/arm64/v8.6",
                    "linux/arm64/v8.5",
                    "linux/arm64/v8.2",
                    "linux/arm64/v8.1",
                    "linux/arm64",
                ]),
            ),
            ("linux/riscv64", vec!["linux/riscv64"]),
            ("windows/amd64", vec!["windows/amd64"]),
            ("unknown/unknown", vec![]),
        ];
        for (wanted, expected) in table {
            assert_eq!(ranked(&PlatformMatcher::only(&[parse(wanted)]), &all), expected, "{wanted}");
            let best = expected.first().copied();
            assert_eq!(
                Vec::from_iter(best),
                ranked(&PlatformMatcher::strict(&[parse(wanted)]), &all),
                "{wanted}"
            );
        }
    }

    #[test]
    fn no_variant_makes_a_ladder_without_end() {
        for text in [
            "linux/arm/v255",
            "linux/arm64/v9.255",
            "linux/arm64/v8.99",
            "linux/amd64/v255",
            "linux/amd64/v99999999999",
        ] {
            let matcher = PlatformMatcher::only(&[parse(text)]);
            assert!(matcher.rungs.len() <= 10, "{text}: {}", matcher.rungs.len());
            assert_eq!(matcher.rank(&parse(text)), Some(0), "{text}");
        }
    }

    #[test]
    fn spellings_do_not_matter_on_either_side() {
        let spelled = |os: &str, architecture: &str, variant: &str| Platform {
            variant: Some(variant.to_owned()),
            ..Platform::new(os, architecture)
        };
        let matcher =
            PlatformMatcher::strict(&[spelled("Linux", "aarch64", "v8"), spelled("linux", "x86_64", "v1")]);
        for platform in [parse("linux/arm64"), spelled("linux", "ARM64", ""), spelled("linux", "amd64", "v1")]
        {
            assert!(matcher.matches(&platform), "{platform}");
        }
        assert!(!matcher.matches(&spelled("linux", "amd64", "v2")));
        assert!(!matcher.matches(&Platform::default()));
    }

    #[test]
    fn platforms_rank_in_the_order_they_are_asked_for() {
        let candidates = ["linux/amd64", "linux/arm64", "linux/s390x"];
        let wanted = [parse("linux/s390x"), parse("linux/amd64")];
        assert_eq!(ranked(&PlatformMatcher::strict(&wanted), &candidates), ["linux/s390x", "linux/amd64"]);
        assert!(ranked(&PlatformMatcher::strict(&[]), &candidates).is_empty());
    }

    #[test]
    fn windows_versions_agree_up_to_the_build() {
        let table = [
            ("windows(10.0.17763)/amd64", "windows(10.0.17763.1234)/amd64", true),
            ("windows(10.0.17763.1)/amd64", "windows(10.0.17763.2)/amd64", true),
            ("windows(10.0.17763)/amd64", "windows(10.0.177630)/amd64", false),
            ("windows(10.0.17763)/amd64", "windows(10.0.20348.1)/amd64", false),
            ("windows(10.0.17763)/amd64", "windows(10.0)/amd64", false),
            ("windows(10.0.17763)/amd64", "windows/amd64", true),
            ("windows/amd64", "windows(10.0.17763)/amd64", true),
            ("windows/amd64", "windows(10.0.17763+win32k)/amd64", true),
            ("windows/amd64", "windows(+other)/amd64", false),
            ("linux(1)/amd64", "linux(2)/amd64", true),
            ("linux/amd64", "linux(+win32k)/amd64", false),
        ];
        for (wanted, candidate, expected) in table {
            for matcher in
                [PlatformMatcher::strict(&[parse(wanted)]), PlatformMatcher::only(&[parse(wanted)])]
            {
                assert_eq!(matcher.matches(&parse(candidate)), expected, "{wanted} and {candidate}");
            }
        }
    }

    #[test]
    fn an_image_that_uses_more_of_the_features_asked_for_is_better() {
        let matcher = PlatformMatcher::only(&[parse("linux(+a+b)/amd64")]);
        let candidates =
            ["linux(+c)/amd64", "linux(+a+b)/386", "linux/amd64", "linux(+b)/amd64", "linux(+a+b)/amd64"];
        let expected = ["linux(+a+b)/amd64", "linux(+b)/amd64", "linux/amd64", "linux(+a+b)/386"];
        assert_eq!(ranked(&matcher, &candidates), expected);
    }
}
