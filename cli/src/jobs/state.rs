//! Whether a job need be done: what its source and destination are, and what they were when it was done last.

use std::path::Path;

use restow::Session;
use restow::report::VersionReport;
use restow_analyze as analyze;
use restow_content::Notes;
use restow_library::Only;
use restow_oci::Digest;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::jobs::Work;
use crate::jobs::archive;
use crate::jobs::results::Done;

/// Bytes of notes that are kept.
const NOTES: u64 = 256 << 20;
/// What notes of jobs lie below.
const SUBJECT: &str = "jobs";
/// The most bytes of a file that an option names of which the content is part of what is noted.
const NAMED_FILE: u64 = 64 << 20;

/// What is to be done about a job.
#[derive(Debug)]
pub(super) enum State {
    /// Its destination does not exist.
    Missing,
    /// Its source has changed since then, or is not known to be the same.
    Changed(Option<String>),
    /// Source, options and destination are what they were. The destination has this digest.
    Unchanged(Digest),
    /// It is done in any case.
    Asked,
}

/// What is known of a job that was done.
#[derive(Serialize, Deserialize)]
struct Note {
    source: String,
    destination: String,
}

/// Who knows the state of jobs.
pub(super) struct States<'a> {
    session: &'a Session,
    notes: Option<Notes>,
}

impl<'a> States<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        let path = session.settings().cache.as_ref().map(|cache| cache.join("notes.db"));
        Self { session, notes: path.and_then(|path| Notes::open(&path, NOTES)) }
    }

    /// Finds out whether a job need be done: a registry is sent at most a HEAD for the source and one for each name.
    pub(super) fn of(&self, work: &Work<'_>, words: &[String], only: Only) -> restow_registry::Result<State> {
        if only == Only::Always {
            return Ok(State::Asked);
        }
        let note = self.noted(work, words);
        if only == Only::Changed && note.is_none() {
            return Ok(State::Changed(None));
        }
        let Some(there) = self.destination(work)? else { return Ok(State::Missing) };
        if only == Only::Missing {
            return Ok(State::Unchanged(there));
        }
        let source = self.session.access().digest(work.source())?;
        Ok(match note {
            Some(note)
                if source.is_some_and(|source| source.as_str() == note.source)
                    && note.destination == there.as_str() =>
            {
                State::Unchanged(there)
            }
            note => State::Changed(note.map(|note| note.source)),
        })
    }

    /// As [`of`](States::of), and tells a destination that does not exist from one of which nothing is known.
    pub(super) fn explain(
        &self,
        work: &Work<'_>,
        words: &[String],
        only: Only,
    ) -> restow_registry::Result<State> {
        match self.of(work, words, only)? {
            State::Changed(None) if self.destination(work)?.is_none() => Ok(State::Missing),
            state => Ok(state),
        }
    }

    /// Returns the digest of the source, if it can be told.
    pub(super) fn source(&self, work: &Work<'_>) -> Option<Digest> {
        self.session.access().digest(work.source()).ok().flatten()
    }

    /// Returns the digest that all names of the destination have, if they have one.
    fn destination(&self, work: &Work<'_>) -> restow_registry::Result<Option<Digest>> {
        let mut found = None;
        for reference in work.destination().references() {
            let digest = self.session.access().digest(&reference)?;
            match (&found, digest) {
                (_, None) => return Ok(None),
                (Some(found), Some(digest)) if *found != digest => return Ok(None),
                (_, digest) => found = digest,
            }
        }
        Ok(found)
    }

    /// Tells whether what was said of a job that was done still holds.
    pub(super) fn is_there(&self, work: &Work<'_>, done: &Done) -> bool {
        let said = |key: &str| done.line.get(key).and_then(Value::as_str);
        let same =
            |digest: Option<Digest>, key| digest.is_some_and(|digest| Some(digest.as_str()) == said(key));
        let source = !done.of_this_source || same(self.source(work), "sourceDigest");
        source && self.destination(work).is_ok_and(|digest| same(digest, "digest"))
    }

    fn noted(&self, work: &Work<'_>, words: &[String]) -> Option<Note> {
        let bytes = self.notes.as_ref()?.recall(SUBJECT, &key(work, words)?)?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Notes that a job was done.
    pub(super) fn note(&self, work: &Work<'_>, words: &[String], source: &Digest, done: &Map<String, Value>) {
        let digest = done.get("digest").and_then(Value::as_str);
        let (Some(notes), Some(destination), Some(key)) = (&self.notes, digest, key(work, words)) else {
            return;
        };
        let note = Note { source: source.to_string(), destination: destination.to_owned() };
        if let Ok(bytes) = serde_json::to_vec(&note) {
            notes.remember(SUBJECT, &key, &bytes);
        }
    }
}

impl State {
    /// Returns what would be done, and why.
    pub(super) fn document(&self) -> Map<String, Value> {
        let (action, reason, since) = match self {
            State::Missing => ("run", "missing", None),
            State::Changed(since) => ("run", "changed", since.as_ref()),
            State::Asked => ("run", "always", None),
            State::Unchanged(_) => ("skip", "unchanged", None),
        };
        let mut fields = Map::new();
        fields.insert("action".into(), action.into());
        fields.insert("reason".into(), reason.into());
        fields.extend(since.map(|digest| ("changedSince".to_owned(), json!(digest))));
        fields
    }
}

/// Returns what a job is known by: the version of the formats, its words, and the content of the files that they name.
/// Nothing is noted of a job whose result depends on more than that.
fn key(work: &Work<'_>, words: &[String]) -> Option<String> {
    // What refers to an image may change while the image does not.
    if words.iter().any(|word| ["--copy-referrers", "--referrers", "--repair"].contains(&word.as_str())) {
        return None;
    }
    let mut key = json!([
        VersionReport::new().formats,
        analyze::predict::VERSION,
        words,
        work.source().to_string(),
        work.destination().names()
    ]);
    for value in words.iter().map(|word| word.split_once('=').map_or(word.as_str(), |(_, value)| value)) {
        let path = Path::new(value);
        let Ok(found) = path.metadata() else { continue };
        if found.is_file() && archive(&work.source().place) != Some(path) {
            let bytes = (found.len() <= NAMED_FILE).then(|| std::fs::read(path).ok()).flatten()?;
            key.as_array_mut()?.push(Digest::sha256(&bytes).as_str().into());
        }
    }
    Some(key.to_string())
}
