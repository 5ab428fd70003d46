//! Edits an index so that it leads to what its images have become.

use std::collections::BTreeMap;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_oci::annotations::DOCKER_REFERENCE_DIGEST;
use restow_oci::annotations::DOCKER_REFERENCE_TYPE;
use restow_oci::annotations::REF_NAME;

use crate::MediaTypes;
use crate::Readers;
use crate::readers::Reader;
use crate::readers::is_marked;
use crate::readers::mark;
use crate::readers::spell;

/// BuildKit's provenance and SBOMs: manifests beside the image they are about.
const ATTESTATION: &str = "attestation-manifest";

/// What becomes of the entries of an index that point to a digest.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    Kept,
    Dropped,
    /// An index that leads to something else from now on.
    Edited(Box<Descriptor>),
    /// An image that was converted.
    Converted(Forms),
}

/// The manifests of a converted image, in the order in which they stand in an index.
#[derive(Clone, Debug)]
pub(crate) struct Forms {
    pub(crate) readers: Readers,
    /// Whether the source keeps its place, and all forms are added; otherwise the first takes it.
    pub(crate) source_stays: bool,
    /// What the config says the image runs on, for entries that do not say.
    pub(crate) platform: Option<Platform>,
    pub(crate) manifests: Vec<Form>,
}

/// A manifest of an image for one kind of reader.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(crate) descriptor: Descriptor,
    /// Whom the annotations of its layers are for; none where no layer is zstd, and so all annotations are one kind's.
    pub(crate) reader: Option<Reader>,
}

impl Forms {
    /// Returns the form that takes the source's place.
    pub(crate) fn successor(&self) -> Option<&Form> {
        self.manifests.first().filter(|_| !self.source_stays)
    }

    /// Returns the forms that stand beside it.
    fn added(&self) -> &[Form] {
        if self.source_stays { &self.manifests } else { self.manifests.get(1..).unwrap_or_default() }
    }

    /// Makes the entry of a form out of the source's.
    fn entry(&self, source: &Descriptor, form: &Form) -> Descriptor {
        let mut entry = retarget(source, &form.descriptor);
        if self.manifests.len() > 1 || self.source_stays {
            entry.platform = entry.platform.or_else(|| self.platform.clone());
        }
        match form.reader {
            Some(reader) if !self.source_stays => spell(&mut entry, reader, self.readers),
            reader => mark(&mut entry, reader.is_some()),
        }
        entry
    }
}

/// Returns what an attestation manifest is about: `None` for another entry, `Some("")` where it does not say.
pub(crate) fn attested(entry: &Descriptor) -> Option<&str> {
    let about = || entry.annotations.get(DOCKER_REFERENCE_DIGEST).map_or("", String::as_str);
    (entry.annotations.get(DOCKER_REFERENCE_TYPE)? == ATTESTATION).then(about)
}

/// Points an entry to what its target has become, and forgets what held for the old bytes only.
pub(crate) fn retarget(entry: &Descriptor, target: &Descriptor) -> Descriptor {
    let mut entry = entry.clone();
    entry.media_type = target.media_type.clone();
    if entry.digest != target.digest {
        entry.digest = target.digest.clone();
        entry.data = None;
        entry.urls.clear();
    }
    entry.size = target.size;
    entry
}

/// Returns for each entry the position of the one it is another form of: an earlier one of the same name for the same
/// platform, while it is marked as zstd, which is how clients that know the mark choose between the two.
pub(crate) fn sources(entries: &[Descriptor]) -> Vec<Option<usize>> {
    let mut first = BTreeMap::new();
    let mut sources = Vec::new();
    for (position, entry) in entries.iter().enumerate() {
        let platform = entry.platform.as_ref().filter(|platform| !platform.is_unknown());
        let is_image = entry.media_type.kind() == Kind::Manifest && attested(entry).is_none();
        sources.push(platform.filter(|_| is_image).and_then(|platform| {
            let key = (platform.normalized(), entry.annotations.get(REF_NAME));
            let first = *first.entry(key).or_insert(position);
            (is_marked(entry) && entries[first].digest != entry.digest).then_some(first)
        }));
    }
    sources
}

/// Edits the entries of an index by their fates; those without one are kept. Returns the forms of converted images that
/// were left out because they are forms no more.
///
/// Attestations share the fate of the image they are about. One about something that is not under the root stays.
pub(crate) fn edit(
    index: &mut Index,
    fates: &BTreeMap<Digest, Fate>,
    media_types: MediaTypes,
) -> Result<Vec<Digest>, restow_oci::Error> {
    let old = index.manifests().to_vec();
    let sources = sources(&old);
    let mut added = added(&old, &sources, fates);
    let mut left_out = Vec::new();
    let mut entries = Vec::new();
    for (entry, source) in old.iter().zip(&sources) {
        entries.push(match source.map(|source| (source, fates.get(&old[source].digest))) {
            None => follow(entry, fates),
            Some((_, None | Some(Fate::Kept | Fate::Edited(_)))) => Some(entry.clone()),
            Some((_, Some(Fate::Dropped))) => None,
            Some((source, Some(Fate::Converted(_)))) => {
                let before = added.len();
                added.retain(|new| new.source != source || new.entry.digest != entry.digest);
                let stays = added.len() < before;
                if !stays {
                    left_out.push(entry.digest.clone());
                }
                stays.then(|| entry.clone())
            }
        });
    }
    for (position, entry) in entries.iter().enumerate() {
        if let Some(entry) = entry {
            index.set_manifest(position, entry)?;
        }
    }
    index.retain(|position, _| entries[position].is_some());
    added.iter().for_each(|new| index.push(&new.entry));
    // A Docker list must not lead to what has become OCI; attestations always are.
    let foreign = index.manifests().iter().any(|entry| !entry.media_type.is_docker());
    match media_types {
        MediaTypes::Docker if !foreign => {
            index.set_media_type(&index.media_type().to_docker().unwrap_or(MediaType::DOCKER_MANIFEST_LIST));
        }
        MediaTypes::Oci => index.set_media_type(&index.media_type().to_oci()),
        _ if index.is_changed() && foreign => index.set_media_type(&index.media_type().to_oci()),
        _ => {}
    }
    Ok(left_out)
}

/// An entry that joins an index, and the position of the one it is a form of.
struct Added {
    source: usize,
    entry: Descriptor,
}

/// Returns the entries that join an index: the same form of all images before the next.
fn added(entries: &[Descriptor], sources: &[Option<usize>], fates: &BTreeMap<Digest, Fate>) -> Vec<Added> {
    let mut added = Vec::new();
    for (source, entry) in entries.iter().enumerate().filter(|(position, _)| sources[*position].is_none()) {
        if let (Some(Fate::Converted(forms)), None) = (fates.get(&entry.digest), attested(entry)) {
            let forms = forms.added().iter().map(|form| forms.entry(entry, form)).enumerate();
            added.extend(forms.map(|(form, entry)| (form, Added { source, entry })));
        }
    }
    added.sort_by_key(|(form, added)| (*form, added.source));
    added.into_iter().map(|(_, added)| added).collect()
}

fn follow(entry: &Descriptor, fates: &BTreeMap<Digest, Fate>) -> Option<Descriptor> {
    let about = attested(entry).map(|subject| Digest::parse(subject).ok());
    let fate = match &about {
        Some(subject) => subject.as_ref().and_then(|subject| fates.get(subject)),
        None => fates.get(&entry.digest),
    };
    let target = match fate {
        None | Some(Fate::Kept) => return Some(entry.clone()),
        Some(Fate::Dropped) => return None,
        Some(Fate::Edited(target)) => retarget(entry, target),
        Some(Fate::Converted(forms)) => match forms.successor() {
            None => return Some(entry.clone()),
            Some(form) => forms.entry(entry, form),
        },
    };
    if about.is_none() {
        return Some(target);
    }
    let mut entry = entry.clone();
    entry.annotations.insert(DOCKER_REFERENCE_DIGEST.to_owned(), target.digest.to_string());
    Some(entry)
}
