//! Jobs whose result would depend on which of them is done first.

use std::collections::BTreeMap;

use restow_registry::Place;
use restow_registry::Reference;
use restow_registry::Selector;

use super::Job;
use super::archive;
use restow::place_key;

/// Finds a job in whose way another one is: what comes of the two would depend on which is first.
pub(super) fn find<'a>(jobs: &'a [Job<'a>]) -> Option<(&'a Job<'a>, String)> {
    let mut by_place: BTreeMap<String, Vec<&Job<'_>>> = BTreeMap::new();
    let mut by_name: BTreeMap<(String, String), &Job<'_>> = BTreeMap::new();
    for job in jobs {
        let destination = job.work.destination();
        let place = place_key(&destination.place);
        let others = by_place.entry(place.clone()).or_default();
        if let (Some(_), Some(other)) = (archive(&destination.place), others.first()) {
            return Some((job, format!("{} writes this archive, too", other.place())));
        }
        others.push(job);
        for name in job.work.names() {
            if let Some(other) = by_name.insert((place.clone(), name.clone()), job) {
                return Some((job, format!("{} writes {name} in this place, too", other.place())));
            }
        }
    }
    jobs.iter().find_map(|job| {
        let Reference { place, selector } = job.work.source();
        let of_name = |name: &str| by_name.get(&(place_key(place), name.to_owned())).copied();
        let other = match (place, selector) {
            (Place::Archive(_) | Place::DockerArchive(_), _) | (_, Selector::Only)
                if !matches!(place, Place::Registry(_)) =>
            {
                let writers = by_place.get(&place_key(place)).into_iter().flatten();
                writers.copied().find(|writer| writer.number != job.number)
            }
            (_, Selector::Tag(tag)) => of_name(tag),
            (_, Selector::Only) => of_name("latest"),
            (_, Selector::Digest(_)) => None,
        };
        let other = other.filter(|other| other.number != job.number)?;
        let problem =
            format!("{} writes what is read here; do one in a batch after the other", other.place());
        Some((job, problem))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::At;
    use crate::jobs::Draft;
    use crate::jobs::Work;
    use restow_library::Only;

    /// Returns the line in whose way another one is, and the problem.
    fn found(lines: &[&str]) -> Option<(usize, String)> {
        let drafts: Vec<_> = lines
            .iter()
            .zip(1..)
            .map(|(text, line)| {
                let at = At { file: "jobs".into(), line, column: None };
                let words = text.split_whitespace().map(str::to_owned).collect();
                Draft::parse(at, words, Only::Changed).unwrap()
            })
            .collect();
        let session = restow::Session::new(restow::Settings::default()).unwrap();
        let job = |(draft, number)| Job { number, draft, work: Work::check(&draft.job, &session).unwrap() };
        let jobs: Vec<_> = drafts.iter().zip(1..).map(job).collect();
        find(&jobs).map(|(job, problem)| (job.draft.at.line, problem))
    }

    #[test]
    fn jobs_that_get_in_each_others_way_are_found() {
        let (first, second) = ("copy oci:a:1 oci:b:1", "line 1 writes 1 in this place, too");
        let reads = "line 1 writes what is read here; do one in a batch after the other";
        for (line, problem) in [
            ("copy oci:c:1 oci:b:1", Some(second)),
            ("copy oci:c:1 ./b:2 --tag 1", Some(second)),
            ("copy oci:c:1 oci:b:2", None),
            ("copy oci:c:1 docker://localhost/b:1", None),
            ("copy oci:b:1 oci:c:1", Some(reads)),
            ("copy oci:./b oci:c:1", Some(reads)),
            ("copy oci:b:2 oci:c:1", None),
            ("copy oci:a:1 oci:a:2", None),
        ] {
            assert_eq!(found(&[first, line]), problem.map(|problem| (2, problem.to_owned())), "{line}");
        }
        // The one that reads may stand before.
        assert_eq!(found(&["copy oci:b:1 oci:c:1", first]).map(|(line, _)| line), Some(1));
        let archives = ["copy oci:a:1 oci-archive:x.tar:1", "copy oci:a:2 docker-archive:x.tar:y"];
        assert_eq!(found(&archives), Some((2, "line 1 writes this archive, too".into())));
        assert_eq!(found(&["copy a:1 docker://h/x", "copy docker://h/x b:1"]), Some((2, reads.into())));
        let tables = ["convert a:1 b:1 --estargz --estargz-external-toc", "copy a:2 b:1-esgztoc"];
        assert_eq!(found(&tables), Some((2, "line 1 writes 1-esgztoc in this place, too".into())));
        assert_eq!(found(&["copy oci:a:1 oci:a:2", "copy oci:a:1 oci:b:2"]), None);
    }
}
