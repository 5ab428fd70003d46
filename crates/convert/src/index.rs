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
use restow_oci::annotations::SOCI_INDEX_DIGEST;
use restow_oci::annotations::SOCI_MANIFEST_DIGEST;

use crate::MediaTypes;
use crate::Readers;
use crate::mentions::Renamed;
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

/// An entry that is no image but stands beside the one that it is about, which it names in an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Companion<'a> {
    /// An attestation manifest, which may not say what it is about.
    Attestation(&'a str),
    /// A SOCI index, of no use to any layers but those that it was made of.
    Soci(&'a str),
}

impl Companion<'_> {
    /// Returns what it is about.
    pub(crate) fn subject(self) -> Option<Digest> {
        let (Self::Attestation(subject) | Self::Soci(subject)) = self;
        Digest::parse(subject).ok()
    }
}

/// Tells whether an entry is a companion of an image.
pub(crate) fn companion(entry: &Descriptor) -> Option<Companion<'_>> {
    let annotation = |key| entry.annotations.get(key).map(String::as_str);
    if annotation(DOCKER_REFERENCE_TYPE) == Some(ATTESTATION) {
        return Some(Companion::Attestation(annotation(DOCKER_REFERENCE_DIGEST).unwrap_or_default()));
    }
    annotation(SOCI_MANIFEST_DIGEST).map(Companion::Soci)
}

/// Points an entry to what its target has become, and forgets what held for the old bytes only.
pub(crate) fn retarget(entry: &Descriptor, target: &Descriptor) -> Descriptor {
    let mut entry = entry.clone();
    entry.media_type = target.media_type.clone();
    if entry.digest != target.digest {
        entry.digest = target.digest.clone();
        entry.data = None;
        entry.urls.clear();
        entry.annotations.remove(SOCI_INDEX_DIGEST);
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
        let is_image = entry.media_type.kind() == Kind::Manifest && companion(entry).is_none();
        sources.push(platform.filter(|_| is_image).and_then(|platform| {
            let key = (platform.normalized(), entry.annotations.get(REF_NAME));
            let first = *first.entry(key).or_insert(position);
            (is_marked(entry) && entries[first].digest != entry.digest).then_some(first)
        }));
    }
    sources
}

/// Edits the entries of an index by their fates; those without one are kept. Returns what is to be warned of: companions
/// and other forms of converted images that are left out because they are that no more, and annotations that still name
/// what is `renamed`.
///
/// Attestations share the fate of the image they are about. One about something that is not under the root stays.
pub(crate) fn edit(
    index: &mut Index,
    fates: &BTreeMap<Digest, Fate>,
    renamed: &Renamed,
    media_types: MediaTypes,
) -> Result<Vec<String>, restow_oci::Error> {
    let old = index.manifests().to_vec();
    let sources = sources(&old);
    let mut added = added(&old, &sources, fates);
    let mut warnings = Vec::new();
    let mut entries = Vec::new();
    for (entry, source) in old.iter().zip(&sources) {
        entries.push(match source.map(|source| (source, fates.get(&old[source].digest))) {
            None => {
                let followed = follow(entry, fates);
                if followed.is_none() && !is_dropped(entry, fates) {
                    warnings.push(format!(
                        "SOCI index {} is left out: it is about the layers before",
                        entry.digest
                    ));
                }
                followed
            }
            Some((_, None | Some(Fate::Kept | Fate::Edited(_)))) => Some(entry.clone()),
            Some((_, Some(Fate::Dropped))) => None,
            Some((source, Some(Fate::Converted(_)))) => {
                let before = added.len();
                added.retain(|new| new.source != source || new.entry.digest != entry.digest);
                let stays = added.len() < before;
                if !stays {
                    warnings.push(format!(
                        "manifest {} is left out: it was another form of an image that is converted",
                        entry.digest
                    ));
                }
                stays.then(|| entry.clone())
            }
        });
    }
    for (position, entry) in entries.iter_mut().enumerate() {
        if let Some(entry) = entry {
            let owner = format!("the entry of {}", old[position].digest);
            renamed.follow_all(&mut entry.annotations, &owner, &mut warnings);
            index.set_manifest(position, entry)?;
        }
    }
    index.retain(|position, _| entries[position].is_some());
    renamed.follow_all(&mut index.annotations().clone(), &"the index", &mut warnings);
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
    Ok(warnings)
}

/// Tells whether an entry, or the image that it is about, is among those that were not chosen.
fn is_dropped(entry: &Descriptor, fates: &BTreeMap<Digest, Fate>) -> bool {
    let subject = companion(entry).and_then(Companion::subject);
    matches!(fates.get(subject.as_ref().unwrap_or(&entry.digest)), Some(Fate::Dropped))
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
        if let (Some(Fate::Converted(forms)), None) = (fates.get(&entry.digest), companion(entry)) {
            let forms = forms.added().iter().map(|form| forms.entry(entry, form)).enumerate();
            added.extend(forms.map(|(form, entry)| (form, Added { source, entry })));
        }
    }
    added.sort_by_key(|(form, added)| (*form, added.source));
    added.into_iter().map(|(_, added)| added).collect()
}

fn follow(entry: &Descriptor, fates: &BTreeMap<Digest, Fate>) -> Option<Descriptor> {
    let companion = companion(entry);
    let fate = match companion {
        Some(companion) => companion.subject().and_then(|subject| fates.get(&subject)),
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
    match companion {
        None => Some(target),
        Some(Companion::Soci(_)) => None,
        Some(Companion::Attestation(_)) => {
            let mut entry = match fates.get(&entry.digest) {
                Some(Fate::Edited(statement)) => retarget(entry, statement),
                _ => entry.clone(),
            };
            entry.annotations.insert(DOCKER_REFERENCE_DIGEST.to_owned(), target.digest.to_string());
            Some(entry)
        }
    }
}
