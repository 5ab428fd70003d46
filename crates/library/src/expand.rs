//! From rules to jobs.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::Error;
use crate::Only;
use crate::Position;
use crate::Result;
use crate::Rules;
use crate::error::wrong;
use crate::rules::Group;
use crate::source::Origin;
use crate::source::Source;

/// What a place holds.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The place, without a tag: `docker://HOST/REPOSITORY`, `oci:PATH`, `store:`.
    pub place: String,
    /// Its tags, or the only one that the source names.
    pub tags: Vec<String>,
    /// Whether the source names the tag itself, so that no rule about tags applies.
    pub exact: bool,
}

/// Who knows which repositories and tags there are.
pub trait Catalogue {
    /// Why something is not known.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Returns the paths of the repositories of a registry.
    fn repositories(&self, host: &str) -> Result<Vec<String>, Self::Error>;

    /// Returns what the place of a source holds, or nothing where there is no such place.
    fn tags(&self, source: &str) -> Result<Option<Selected>, Self::Error>;

    /// Returns when an image was made, where it says so.
    fn created(&self, image: &str) -> Result<Option<SystemTime>, Self::Error>;
}

/// Something to do with one image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// Where the rules name its source.
    pub at: Position,
    /// What its group is called.
    pub group: Option<String>,
    /// The image to read.
    pub source: String,
    /// Where to write it.
    pub destination: String,
    /// The words of the command: its name, its options, source and destination.
    pub words: Vec<String>,
    /// Whether it is done at all.
    pub only: Only,
}

/// Jobs, and the sources of which there is nothing.
#[derive(Debug, Default)]
pub struct Expanded {
    /// In the order of the rules, of the repositories and of the tags.
    pub jobs: Vec<Job>,
    /// Where sources are named that do not exist or of which no tag is selected, and what they are called.
    pub empty: Vec<(Position, String)>,
}

impl Rules {
    /// Makes a job for each image that the rules select. `now` is what ages are counted from.
    pub fn expand<C: Catalogue>(&self, catalogue: &C, now: SystemTime) -> Result<Expanded> {
        let mut expanded = Expanded::default();
        for group in &self.groups {
            let work = Expansion { group, catalogue, now };
            for (at, source) in &group.sources {
                work.source(*at, source, &mut expanded)?;
            }
        }
        Ok(expanded)
    }
}

struct Expansion<'a, C> {
    group: &'a Group,
    catalogue: &'a C,
    now: SystemTime,
}

impl<C: Catalogue> Expansion<'_, C> {
    fn source(&self, at: Position, source: &Source, expanded: &mut Expanded) -> Result<()> {
        let (name, places) = match source {
            Source::Place(place) => (place.clone(), vec![place.clone()]),
            Source::Repositories { host, pattern } => {
                let listed = self.catalogue.repositories(host).map_err(unlisted(at, host))?;
                let matching = listed.iter().filter(|path| pattern.matches(path));
                let places = matching.map(|path| format!("docker://{host}/{path}")).collect();
                (format!("docker://{host}/{pattern}"), places)
            }
        };
        let before = expanded.jobs.len();
        for place in places {
            if let Some(selected) = self.catalogue.tags(&place).map_err(unlisted(at, &place))? {
                expanded.jobs.extend(self.place(at, &selected)?);
            }
        }
        if expanded.jobs.len() == before {
            expanded.empty.push((at, name));
        }
        Ok(())
    }

    /// Makes the jobs of one place.
    fn place(&self, at: Position, selected: &Selected) -> Result<Vec<Job>> {
        let Selected { place, tags, exact } = selected;
        let named: Vec<(String, String)> =
            tags.iter().map(|tag| Ok((tag.clone(), self.destination(place, tag)?))).collect::<Result<_>>()?;
        // Where source and destination are one place, what the rules have made there is no source of theirs.
        let made: BTreeSet<&String> = named.iter().map(|(_, destination)| destination).collect();
        let own: Vec<String> = tags.iter().filter(|tag| !made.contains(&join(place, tag))).cloned().collect();
        let chosen = match exact {
            true => tags.clone(),
            false => self.recent(at, place, self.group.choice.select(&own))?,
        };
        let job = |(tag, destination): &(String, String)| Job {
            at,
            group: self.group.name.clone(),
            source: join(place, tag),
            destination: destination.clone(),
            words: self.words(&join(place, tag), destination),
            only: self.group.only,
        };
        Ok(named.iter().filter(|(tag, _)| chosen.contains(tag)).map(job).collect())
    }

    fn destination(&self, place: &str, tag: &str) -> Result<String> {
        let (at, template) = &self.group.destination;
        template.fill(&Origin::of(place, tag)).map_err(|field| {
            wrong(*at, format!("{{{field}}} has no value for images of {place}, which lies in no registry"))
        })
    }

    /// Leaves out what is too old.
    fn recent(&self, at: Position, place: &str, tags: Vec<String>) -> Result<Vec<String>> {
        let Some(oldest) = self.group.within.map(|within| self.now.checked_sub(within)) else {
            return Ok(tags);
        };
        let mut recent = Vec::new();
        for tag in tags {
            let image = join(place, &tag);
            let created = self.catalogue.created(&image).map_err(unlisted(at, &image))?;
            if created.is_some_and(|created| oldest.is_none_or(|oldest| created >= oldest)) {
                recent.push(tag);
            }
        }
        Ok(recent)
    }

    fn words(&self, source: &str, destination: &str) -> Vec<String> {
        let mut words = vec![self.group.operation.command().to_owned()];
        words.extend(self.group.options.iter().cloned());
        words.extend([source.to_owned(), destination.to_owned()]);
        words
    }
}

fn unlisted<E: std::error::Error + Send + Sync + 'static>(
    at: Position,
    name: &str,
) -> impl FnOnce(E) -> Error + use<E> {
    let source_name = name.to_owned();
    move |error| Error::Listing { at, source_name, source: error.into() }
}

/// Returns the reference of an image in a place.
fn join(place: &str, tag: &str) -> String {
    if place.ends_with(':') { format!("{place}{tag}") } else { format!("{place}:{tag}") }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use super::*;

    struct Fake;

    impl Catalogue for Fake {
        type Error = Infallible;

        fn repositories(&self, host: &str) -> Result<Vec<String>, Infallible> {
            assert_eq!(host, "h:1");
            Ok(["team/app", "team/old", "other/app"].map(str::to_owned).to_vec())
        }

        fn tags(&self, source: &str) -> Result<Option<Selected>, Infallible> {
            let of = |place: &str, tags: &[&str], exact| Selected {
                place: place.to_owned(),
                tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
                exact,
            };
            Ok(match source {
                "docker://h:1/team/old" => Some(of(source, &[], false)),
                "oci:none" => None,
                "docker://h:1/team/app:v1" => Some(of("docker://h:1/team/app", &["v1"], true)),
                "store:" => Some(of(source, &["a:1"], false)),
                _ => Some(of(source, &["v1", "v2", "v2-zc"], false)),
            })
        }

        fn created(&self, image: &str) -> Result<Option<SystemTime>, Infallible> {
            let days = if image.ends_with("v1") { 1 } else { 9 };
            Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400)))
        }
    }

    fn expand(text: &str) -> (Vec<String>, Vec<String>) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10 * 86_400);
        let expanded = Rules::parse(text).unwrap().expand(&Fake, now).unwrap();
        let jobs = expanded.jobs.iter().map(|job| job.words.join(" ")).collect();
        (jobs, expanded.empty.into_iter().map(|(at, name)| format!("{at} {name}")).collect())
    }

    #[test]
    fn each_image_that_is_selected_is_a_job() {
        let (jobs, empty) = expand(
            "groups:\n\
             - sources: ['docker://h:1/team/*', oci:none, 'docker://h:1/x*']\n  \
               destination: oci:out:{name}-{tag}\n  \
               tags: {include: [v?]}\n  \
               options: {zstdchunked: true}\n",
        );
        assert_eq!(
            jobs,
            [
                "optimize --zstdchunked docker://h:1/team/app:v1 oci:out:app-v1",
                "optimize --zstdchunked docker://h:1/team/app:v2 oci:out:app-v2",
            ]
        );
        assert_eq!(empty, ["2:36 oci:none", "2:46 docker://h:1/x*"]);
    }

    #[test]
    fn a_source_with_a_tag_is_that_image() {
        let text = "groups: [{sources: ['docker://h:1/team/app:v1', 'store:'], tags: {include: [a*]}, \
                    operation: copy, destination: 'oci:out:{tag}'}]";
        assert_eq!(
            expand(text).0,
            ["copy docker://h:1/team/app:v1 oci:out:v1", "copy store:a:1 oci:out:a:1"]
        );
    }

    #[test]
    fn what_the_rules_made_in_the_same_place_is_no_source() {
        let text = "groups: [{sources: [oci:a], destination: 'oci:a:{tag}-zc'}]";
        assert_eq!(expand(text).0, ["optimize oci:a:v1 oci:a:v1-zc", "optimize oci:a:v2 oci:a:v2-zc"]);
    }

    #[test]
    fn images_may_be_too_old() {
        let text = "groups: [{sources: [oci:a], tags: {within: 3d}, destination: 'oci:b:{tag}'}]";
        assert_eq!(expand(text).0, ["optimize oci:a:v2 oci:b:v2", "optimize oci:a:v2-zc oci:b:v2-zc"]);
    }

    #[test]
    fn a_field_without_a_value_is_told_where_it_stands() {
        let text = "groups: [{sources: [oci:a], destination: 'oci:b:{registry}'}]";
        let error = Rules::parse(text).unwrap().expand(&Fake, SystemTime::UNIX_EPOCH).unwrap_err();
        assert_eq!(
            error.to_string(),
            "1:42: {registry} has no value for images of oci:a, which lies in no registry"
        );
    }
}
