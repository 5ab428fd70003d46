//! The index of a layout or an archive: which images it holds, and by which names.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use restow_content::Provider;
use restow_content::read;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::annotations::PODMAN_COMPRESSION_ZSTD;
use restow_oci::annotations::REF_NAME;

use crate::Error;
use crate::Result;
use crate::Selector;
use crate::client::referrers_tag;
use crate::error::unusable;
use crate::graph::attested;

/// containerd: the full name of an image, of which [`REF_NAME`] then is the tag.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What the `index.json` of a place says.
#[derive(Clone, Debug)]
pub(crate) struct Catalogue {
    place: PathBuf,
    index: Index,
}

impl Catalogue {
    pub(crate) fn new(place: &Path, index: Index) -> Catalogue {
        Catalogue { place: place.to_owned(), index }
    }

    pub(crate) fn parse(place: &Path, bytes: Vec<u8>, limits: &Limits) -> Result<Catalogue> {
        let index =
            Index::parse(bytes, limits).map_err(unusable(format!("index.json of {}", place.display())))?;
        Ok(Catalogue::new(place, index))
    }

    /// Returns the catalogue of a place that holds nothing yet.
    pub(crate) fn empty(place: &Path) -> Catalogue {
        Catalogue { place: place.to_owned(), index: Index::new(Vec::new()) }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.index.into_bytes()
    }

    /// Returns the images, in the order of the index.
    pub(crate) fn entries(&self) -> &[Descriptor] {
        self.index.manifests()
    }

    /// Returns the names in their order, each once.
    pub(crate) fn tags(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let names = self.index.manifests().iter().filter_map(name);
        names.filter(|name| seen.insert(*name)).map(str::to_owned).collect()
    }

    /// Returns the names by which images are told apart, in their order, each once: where there are two, the full one.
    pub(crate) fn full_names(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let names = self.index.manifests().iter().filter_map(full_name);
        names.filter(|name| seen.insert(*name)).map(str::to_owned).collect()
    }

    /// Returns the entries without a name, each image once.
    pub(crate) fn unnamed(&self) -> Vec<Descriptor> {
        let unnamed = self.index.manifests().iter().filter(|entry| full_name(entry).is_none());
        distinct(unnamed).into_iter().cloned().collect()
    }

    /// Returns the image that `selector` means. The blobs of nested indexes are read where a digest is not
    /// found above.
    pub(crate) fn resolve(
        &self,
        selector: &Selector,
        provider: &dyn Provider,
        limits: &Limits,
    ) -> Result<Descriptor> {
        match selector {
            Selector::Only => self.only(),
            Selector::Tag(tag) => self.tagged(tag),
            Selector::Digest(digest) => self.nested(digest, provider, limits),
        }
    }

    /// Returns the index that entries are, if they are the forms of one image for several platforms, and all have its
    /// name or none: some tools write the index of an image in the place of `index.json`. It has the bytes that
    /// `index.json` has, but for entries of other images, and its descriptor carries them.
    fn joined(&self, entries: &[&Descriptor]) -> Option<Descriptor> {
        let mut platforms = BTreeSet::new();
        let mut is_form = |entry: &Descriptor| match &entry.platform {
            _ if entry.media_type.kind() != Kind::Manifest => false,
            _ if attested(entry).is_some() => true,
            Some(platform) if platform.is_unknown() => true,
            // The forms of one platform are told apart by this mark; other images of one platform are different ones.
            Some(platform) => {
                platforms.insert(platform.normalized())
                    || entry.annotations.contains_key(PODMAN_COMPRESSION_ZSTD)
            }
            None => false,
        };
        let (first, others) = entries.split_first()?;
        let are_forms =
            is_form(first) && others.iter().all(|entry| is_form(entry) && names(entry).eq(names(first)));
        if !are_forms || platforms.is_empty() {
            return None;
        }
        let mut index = self.index.clone();
        let digests: BTreeSet<_> = entries.iter().map(|entry| &entry.digest).collect();
        index.retain(|_, entry| digests.contains(&entry.digest) && names(entry).eq(names(first)));
        let media_type = index.media_type().clone();
        let bytes = index.into_bytes();
        let mut root = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        root.data = Some(bytes);
        let named = |key: &str| Some((key.to_owned(), first.annotations.get(key)?.clone()));
        root.annotations = [REF_NAME, CONTAINERD_NAME].into_iter().filter_map(named).collect();
        Some(root)
    }

    /// Returns the image that several entries of one name, or of none, are together, if it has that digest.
    fn joined_as(&self, digest: &Digest) -> Option<Descriptor> {
        let mut groups: BTreeMap<Vec<&str>, Vec<&Descriptor>> = BTreeMap::new();
        for entry in self.index.manifests() {
            groups.entry(names(entry).collect()).or_default().push(entry);
        }
        let mut joined =
            groups.values().filter(|group| group.len() > 1).filter_map(|group| self.joined(group));
        joined.find(|root| root.digest == *digest)
    }

    fn only(&self) -> Result<Descriptor> {
        let images = distinct(self.index.manifests().iter());
        match images.as_slice() {
            [] => Err(Error::Empty { place: self.place.clone() }),
            [image] => Ok((*image).clone()),
            images => self.joined(images).ok_or_else(|| {
                let tags = images.iter().map(|image| match name(image) {
                    Some(name) => name.to_owned(),
                    None => format!("@{}", image.digest),
                });
                Error::Ambiguous { place: self.place.clone(), tags: tags.collect() }
            }),
        }
    }

    /// A whole name comes before the tag at the end of one. Several entries of one name are no error as long
    /// as they mean one image, or its forms for several platforms: the specification allows them and says nothing about their order.
    fn tagged(&self, tag: &str) -> Result<Descriptor> {
        let matches: [fn(&Descriptor, &str) -> bool; 3] = [
            |image, tag| image.annotations.get(REF_NAME).is_some_and(|name| name == tag),
            |image, tag| image.annotations.get(CONTAINERD_NAME).is_some_and(|name| name == tag),
            |image, tag| names(image).any(|name| name.rsplit_once(':').is_some_and(|(_, last)| last == tag)),
        ];
        for matches in matches {
            let images = distinct(self.index.manifests().iter().filter(|image| matches(image, tag)));
            match images.as_slice() {
                [] => {}
                [image] => return Ok((*image).clone()),
                images => {
                    return self.joined(images).ok_or_else(|| {
                        let digests = images.iter().map(|image| image.digest.clone()).collect();
                        Error::DuplicateTag { place: self.place.clone(), tag: tag.to_owned(), digests }
                    });
                }
            }
        }
        Err(Error::UnknownTag { place: self.place.clone(), tag: tag.to_owned(), tags: self.tags() })
    }

    fn nested(&self, digest: &Digest, provider: &dyn Provider, limits: &Limits) -> Result<Descriptor> {
        let mut seen = BTreeSet::new();
        let mut level = self.index.manifests().to_vec();
        let mut damaged = None;
        for _ in 0..=limits.index_depth {
            if let Some(image) = level.iter().find(|image| image.digest == *digest) {
                return Ok(image.clone());
            }
            let mut next = Vec::new();
            for index in level.iter().filter(|entry| entry.media_type.kind() == Kind::Index) {
                if !seen.insert(index.digest.clone()) {
                    continue;
                }
                match read_index(provider, index, limits) {
                    Ok(document) => next.extend_from_slice(document.manifests()),
                    // An index that is not there holds nothing; another one may hold the image.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => drop(damaged.get_or_insert(error)),
                }
                if next.len() > limits.nodes {
                    let what = self.place.display().to_string();
                    return Err(Error::TooMany { what, limit: limits.nodes });
                }
            }
            level = next;
        }
        let unknown = || Error::UnknownDigest { place: self.place.clone(), digest: digest.clone() };
        self.joined_as(digest).ok_or_else(|| damaged.unwrap_or_else(unknown))
    }

    /// Returns the entries whose subject is `digest`, and those of an index that lies, as in registries that keep
    /// no lists, under the tag that stands for `digest`.
    pub(crate) fn referrers(
        &self,
        digest: &Digest,
        provider: &dyn Provider,
        limits: &Limits,
    ) -> Result<Vec<Descriptor>> {
        let tag = referrers_tag(digest);
        let mut found: Vec<Descriptor> = Vec::new();
        for entry in distinct(self.index.manifests().iter()) {
            let kind = entry.media_type.kind();
            if !matches!(kind, Kind::Index | Kind::Manifest) {
                continue;
            }
            let bytes = match read(provider, entry, limits.manifest_size) {
                Err(error) if error.is_not_found() => continue,
                bytes => bytes?,
            };
            let unusable = unusable(format!("manifest {}", entry.digest));
            if kind == Kind::Index {
                let index = Index::parse_as(bytes, &entry.media_type, limits).map_err(unusable)?;
                if is_about(index.subject(), digest) {
                    found.push(entry.clone());
                } else if name(entry) == Some(&tag) {
                    found.extend_from_slice(index.manifests());
                }
            } else {
                let manifest = Manifest::parse_as(bytes, &entry.media_type, limits).map_err(unusable)?;
                if is_about(manifest.subject(), digest) {
                    found.push(entry.clone());
                }
            }
        }
        Ok(distinct(found.iter()).into_iter().cloned().collect())
    }

    /// Lets `tag` name `root`, and `root` alone: its first entry is replaced where it stands, others of its
    /// name go. Without a tag, `root` is added unless it is there.
    pub(crate) fn set(&mut self, root: &Descriptor, tag: Option<&str>) -> Result<()> {
        let mut entry = root.clone();
        entry.data = None;
        // The names under which the image was found elsewhere.
        entry.annotations.remove(REF_NAME);
        entry.annotations.remove(CONTAINERD_NAME);
        let Some(tag) = tag else {
            if !self.index.manifests().iter().any(|image| image.digest == root.digest) {
                self.index.push(&entry);
            }
            return Ok(());
        };
        entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        let named = |image: &Descriptor| image.annotations.get(REF_NAME).is_some_and(|name| name == tag);
        match self.index.manifests().iter().position(named) {
            Some(first) => {
                self.index.retain(|position, image| position <= first || !named(image));
                self.index
                    .set_manifest(first, &entry)
                    .map_err(unusable(format!("index.json of {}", self.place.display())))
            }
            None => {
                self.index.push(&entry);
                Ok(())
            }
        }
    }

    /// Says what containerd is to call the image of this tag, which is there.
    pub(crate) fn set_containerd_name(&mut self, tag: &str, name: &str) -> Result<()> {
        let named = |image: &Descriptor| image.annotations.get(REF_NAME).is_some_and(|name| name == tag);
        let Some(position) = self.index.manifests().iter().position(named) else { return Ok(()) };
        let mut entry = self.index.manifests()[position].clone();
        entry.annotations.insert(CONTAINERD_NAME.to_owned(), name.to_owned());
        let changed = self.index.set_manifest(position, &entry);
        changed.map_err(unusable(format!("index.json of {}", self.place.display())))
    }

    /// Returns the document, if it changed since it was read.
    pub(crate) fn changed(self) -> Option<Vec<u8>> {
        self.index.is_changed().then(|| self.index.into_bytes())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.index.manifests().is_empty()
    }
}

fn is_about(subject: Option<&Descriptor>, digest: &Digest) -> bool {
    subject.is_some_and(|subject| subject.digest == *digest)
}

/// Returns the names of an image: the one that the specification knows first.
fn names(image: &Descriptor) -> impl Iterator<Item = &str> {
    [REF_NAME, CONTAINERD_NAME].into_iter().filter_map(|key| image.annotations.get(key)).map(String::as_str)
}

fn name(image: &Descriptor) -> Option<&str> {
    names(image).next()
}

/// Returns the name of an image by which it is told from others, where the other one may be a tag.
pub(crate) fn full_name(image: &Descriptor) -> Option<&str> {
    names(image).last()
}

fn read_index(provider: &dyn Provider, index: &Descriptor, limits: &Limits) -> Result<Index> {
    let bytes = read(provider, index, limits.manifest_size)?;
    Index::parse_as(bytes, &index.media_type, limits).map_err(unusable(format!("index {}", index.digest)))
}

/// Returns the first entry of each image, in their order.
fn distinct<'a>(entries: impl Iterator<Item = &'a Descriptor>) -> Vec<&'a Descriptor> {
    let mut seen = BTreeMap::new();
    entries.filter(|entry| seen.insert(&entry.digest, ()).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use restow_content::MemoryStore;
    use restow_oci::MediaType;
    use restow_oci::annotations::DOCKER_REFERENCE_DIGEST;
    use restow_oci::annotations::DOCKER_REFERENCE_TYPE;

    fn digest(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    fn image(name: &str) -> Descriptor {
        Descriptor::new(MediaType::OCI_MANIFEST, digest(name), 7)
    }

    /// Makes the entry of an image, with fields that this program does not know.
    fn entry(image: &str, annotations: &str) -> String {
        let digest = digest(image);
        let media_type = MediaType::OCI_MANIFEST;
        format!(
            r#"{{"x-unknown":[1],"size":7,"digest":"{digest}","mediaType":"{media_type}","annotations":{{{annotations}}}}}"#
        )
    }

    fn named(image: &str, name: &str) -> String {
        entry(image, &format!(r#""x":"y","{REF_NAME}":"{name}""#))
    }

    fn catalogue(entries: &[String]) -> Catalogue {
        let text = format!(r#"{{"x-first":true,"manifests":[{}],"schemaVersion":2}}"#, entries.join(","));
        Catalogue::parse(Path::new("place"), text.into_bytes(), &Limits::default()).unwrap()
    }

    fn resolve(catalogue: &Catalogue, selector: Selector) -> Result<Digest> {
        Ok(catalogue.resolve(&selector, &MemoryStore::new(), &Limits::default())?.digest)
    }

    fn tag(tag: &str) -> Selector {
        Selector::Tag(tag.into())
    }

    #[test]
    fn the_only_image_needs_no_name() {
        assert_eq!(resolve(&catalogue(&[named("a", "v1")]), Selector::Only).unwrap(), digest("a"));
        let twice = catalogue(&[named("a", "v1"), named("a", "v2")]);
        assert_eq!(resolve(&twice, Selector::Only).unwrap(), digest("a"));
        assert!(matches!(resolve(&catalogue(&[]), Selector::Only), Err(Error::Empty { .. })));

        let error = resolve(&catalogue(&[named("a", "v1"), entry("b", "")]), Selector::Only).unwrap_err();
        assert_eq!(error.to_string(), format!("place holds several images, v1, @{}; name one", digest("b")));
    }

    #[test]
    fn a_tag_is_a_name_or_the_end_of_one() {
        let of_containerd = format!(r#""{CONTAINERD_NAME}":"docker.io/library/a:v2""#);
        let catalogue = catalogue(&[
            named("z", "example.org/z:v1"),
            named("a", "v1"),
            entry("b", &of_containerd),
            named("c", "example.org:5000/c:v3"),
        ]);
        for (name, image) in [
            ("v1", "a"),
            ("example.org/z:v1", "z"),
            ("v2", "b"),
            ("docker.io/library/a:v2", "b"),
            ("v3", "c"),
        ] {
            assert_eq!(resolve(&catalogue, tag(name)).unwrap(), digest(image), "{name}");
        }
        let error = resolve(&catalogue, tag("v4")).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"place holds no image "v4", only example.org/z:v1, v1, docker.io/library/a:v2, example.org:5000/c:v3"#
        );
    }

    #[test]
    fn a_tag_of_several_images_is_refused() {
        let catalogue = catalogue(&[named("a", "v1"), named("b", "v1"), named("c", "v2"), named("c", "v2")]);
        let error = resolve(&catalogue, tag("v1")).unwrap_err();
        assert!(
            matches!(&error, Error::DuplicateTag { digests, .. } if *digests == [digest("a"), digest("b")])
        );
        assert_eq!(resolve(&catalogue, tag("v2")).unwrap(), digest("c"));
        assert_eq!(catalogue.tags(), ["v1", "v2"]);
    }

    /// Makes the entry of an image for a platform.
    fn form(image: &str, platform: &str, annotations: &str) -> String {
        let (os, architecture) = platform.split_once('/').unwrap();
        let platform = format!(r#""platform":{{"os":"{os}","architecture":"{architecture}"}}"#);
        entry(image, annotations).replacen(r#""size""#, &format!(r#"{platform},"size""#), 1)
    }

    #[test]
    fn the_forms_of_one_image_are_an_index_of_the_bytes_that_are_there() {
        let attestation = format!(
            r#""{DOCKER_REFERENCE_TYPE}":"attestation-manifest","{DOCKER_REFERENCE_DIGEST}":"{}""#,
            digest("a")
        );
        let name = |name: &str| format!(r#""{REF_NAME}":"{name}""#);
        let zstd = format!(r#""{PODMAN_COMPRESSION_ZSTD}":"true""#);
        let (amd, arm) = ("linux/amd64", "linux/arm64");
        let unknown = "unknown/unknown";
        for entries in [
            vec![form("a", amd, ""), form("b", arm, "")],
            vec![form("a", amd, &name("v1")), form("b", arm, &name("v1"))],
            vec![form("a", amd, ""), form("c", unknown, &attestation)],
            vec![form("a", amd, ""), form("b", arm, ""), form("z", amd, &zstd)],
        ] {
            let catalogue = catalogue(&entries);
            let bytes = catalogue.index.to_bytes();
            let provider = MemoryStore::new();
            let selectors = [Selector::Only, Selector::Digest(Digest::sha256(&bytes))];
            for selector in selectors.into_iter().chain(catalogue.tags().into_iter().map(Selector::Tag)) {
                let root = catalogue.resolve(&selector, &provider, &Limits::default()).unwrap();
                assert_eq!(root.media_type, MediaType::OCI_INDEX);
                assert_eq!(read(&provider, &root, u64::MAX).unwrap(), bytes, "{selector:?}");
            }
        }
        // Of another name's entries nothing is taken, not even where they lead to the same image.
        let of_two = catalogue(&[
            form("a", amd, &name("v1")),
            form("b", arm, &name("v1")),
            form("a", amd, &name("v2")),
        ]);
        let root = of_two.resolve(&tag("v1"), &MemoryStore::new(), &Limits::default()).unwrap();
        assert_eq!(full_name(&root), Some("v1"));
        let bytes = read(&MemoryStore::new(), &root, u64::MAX).unwrap();
        assert_eq!(Index::parse(bytes, &Limits::default()).unwrap().manifests().len(), 2);
        assert_eq!(resolve(&of_two, tag("v2")).unwrap(), digest("a"));

        for entries in [
            vec![form("a", amd, ""), form("b", amd, "")],
            vec![form("a", amd, ""), entry("b", "")],
            vec![form("a", amd, &name("v1")), form("b", arm, "")],
            vec![form("a", amd, &name("v1")), form("b", arm, &name("v2"))],
            vec![form("a", unknown, ""), form("b", unknown, "")],
        ] {
            let error = resolve(&catalogue(&entries), Selector::Only).unwrap_err();
            assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
        }
        // One tag of two images, as Docker saves them.
        let saved = |image: &str, platform: &str| {
            let full =
                format!(r#"{},"{CONTAINERD_NAME}":"docker.io/library/{image}:latest""#, name("latest"));
            form(image, platform, &full)
        };
        let saved = catalogue(&[saved("a", amd), saved("b", arm)]);
        let error = resolve(&saved, tag("latest")).unwrap_err();
        assert!(matches!(error, Error::DuplicateTag { .. }), "{error}");
        assert_eq!(saved.full_names(), ["docker.io/library/a:latest", "docker.io/library/b:latest"]);
        assert_eq!(resolve(&saved, tag("docker.io/library/b:latest")).unwrap(), digest("b"));
    }

    #[test]
    fn a_damaged_index_does_not_hide_what_another_one_holds() {
        let store = MemoryStore::new();
        let damaged = restow_content::write(&store, MediaType::OCI_INDEX, b"{}").unwrap();
        let bytes = Index::new(vec![image("inner")]).into_bytes();
        let sound = restow_content::write(&store, MediaType::OCI_INDEX, &bytes).unwrap();
        let mut catalogue = catalogue(&[]);
        for index in [&damaged, &sound] {
            catalogue.set(index, None).unwrap();
        }
        let find =
            |name: &str| catalogue.resolve(&Selector::Digest(digest(name)), &store, &Limits::default());
        assert_eq!(find("inner").unwrap(), image("inner"));
        let error = find("other").unwrap_err().to_string();
        assert!(error.contains(damaged.digest.as_str()), "{error}");
    }

    #[test]
    fn a_digest_is_found_in_nested_indexes() {
        let store = MemoryStore::new();
        let mut inner = image("inner");
        inner.annotations.insert("key".into(), "value".into());
        let mut outer = inner.clone();
        for _ in 0..3 {
            let absent = Descriptor::new(MediaType::OCI_INDEX, digest("absent"), 3);
            let bytes = Index::new(vec![absent, outer]).into_bytes();
            outer = restow_content::write(&store, MediaType::OCI_INDEX, &bytes).unwrap();
        }
        let mut catalogue = catalogue(&[]);
        catalogue.set(&outer, Some("v1")).unwrap();
        let find = |digest: &Digest, limits: &Limits| {
            catalogue.resolve(&Selector::Digest(digest.clone()), &store, limits)
        };
        assert_eq!(find(&inner.digest, &Limits::default()).unwrap(), inner);
        assert_eq!(find(&outer.digest, &Limits::default()).unwrap().digest, outer.digest);
        assert!(matches!(find(&digest("other"), &Limits::default()), Err(Error::UnknownDigest { .. })));
        let shallow = Limits { index_depth: 2, ..Limits::default() };
        assert!(matches!(find(&inner.digest, &shallow), Err(Error::UnknownDigest { .. })));
    }

    #[test]
    fn referrers_are_found_by_their_subject_or_in_a_list_under_a_tag() {
        let store = MemoryStore::new();
        let write = |document: serde_json::Value| {
            let bytes = document.to_string().into_bytes();
            let is_index = document.get("manifests").is_some();
            let media_type = if is_index { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
            restow_content::write(&store, media_type, &bytes).unwrap()
        };
        let plain = |one: &Descriptor| serde_json::json!({"mediaType": one.media_type.as_str(), "digest": one.digest.as_str(), "size": one.size});
        let subject = image("subject");
        let about = |note: &str, subject: &Descriptor| {
            write(serde_json::json!({
                "schemaVersion": 2, "config": plain(&image("config")), "layers": [],
                "annotations": {"note": note}, "subject": plain(subject),
            }))
        };
        let (signature, listed) = (about("signature", &subject), about("listed", &subject));
        let of_another = about("other", &image("other"));
        let index =
            write(serde_json::json!({"schemaVersion": 2, "manifests": [], "subject": plain(&subject)}));
        let list = [plain(&listed), plain(&signature)];
        let list = write(serde_json::json!({"schemaVersion": 2, "manifests": list}));
        let mut catalogue = catalogue(&[]);
        for (entry, tag) in [(&signature, None), (&of_another, None), (&index, Some("v1")), (&subject, None)]
        {
            catalogue.set(entry, tag).unwrap();
        }
        catalogue.set(&list, Some(&referrers_tag(&subject.digest))).unwrap();
        let found = catalogue.referrers(&subject.digest, &store, &Limits::default()).unwrap();
        let digests: Vec<_> = found.iter().map(|one| &one.digest).collect();
        assert_eq!(digests, [&signature.digest, &index.digest, &listed.digest]);
        assert!(catalogue.referrers(&listed.digest, &store, &Limits::default()).unwrap().is_empty());
    }

    #[test]
    fn a_tag_is_replaced_where_it_stands_and_all_else_stays() {
        let entries = [named("a", "v1"), named("b", "v2"), named("c", "v3")];
        let mut before = catalogue(&entries);
        before.set(&image("new"), Some("v2")).unwrap();
        let after = String::from_utf8(before.changed().unwrap()).unwrap();
        let start = format!(r#"{{"x-first":true,"manifests":[{},"#, entries[0]);
        let end = format!(r#",{}],"schemaVersion":2}}"#, entries[2]);
        assert!(after.starts_with(&start) && after.ends_with(&end), "{after}");
        let middle = &after[start.len()..after.len() - end.len()];
        assert!(middle.contains(digest("new").as_str()) && middle.contains(r#"ref.name":"v2""#), "{middle}");
        assert!(!middle.contains(r#""x":"y""#), "what was said of the old image: {middle}");
    }

    #[test]
    fn a_new_tag_goes_to_the_end_without_other_names_of_the_image() {
        let mut catalogue = catalogue(&[named("a", "v1")]);
        let mut root = image("new");
        root.annotations.insert(REF_NAME.into(), "source".into());
        root.annotations.insert(CONTAINERD_NAME.into(), "docker.io/library/source:source".into());
        root.annotations.insert("kept".into(), "yes".into());
        catalogue.set(&root, Some("v2")).unwrap();
        assert_eq!(catalogue.tags(), ["v1", "v2"]);
        let entry = &catalogue.index.manifests()[1];
        let expected =
            [("kept", "yes"), (REF_NAME, "v2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(entry.annotations, BTreeMap::from(expected));
    }

    #[test]
    fn a_published_tag_is_unambiguous() {
        let mut catalogue =
            catalogue(&[named("a", "v1"), named("b", "v2"), named("c", "v1"), named("d", "v1")]);
        catalogue.set(&image("new"), Some("v1")).unwrap();
        assert_eq!(resolve(&catalogue, tag("v1")).unwrap(), digest("new"));
        assert_eq!(catalogue.index.manifests().len(), 2);
        assert_eq!(catalogue.tags(), ["v1", "v2"]);
    }

    #[test]
    fn what_is_published_already_changes_nothing() {
        let mut once = catalogue(&[]);
        once.set(&image("a"), Some("v1")).unwrap();
        once.set(&image("b"), None).unwrap();
        let bytes = once.changed().unwrap();
        let mut again = Catalogue::parse(Path::new("place"), bytes, &Limits::default()).unwrap();
        again.set(&image("a"), Some("v1")).unwrap();
        again.set(&image("a"), None).unwrap();
        again.set(&image("b"), None).unwrap();
        assert!(again.changed().is_none());
    }
}
