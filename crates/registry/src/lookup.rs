//! Which images a place holds, and which digest a name there has, without reading the images.

use restow_oci::Digest;

use crate::Access;
use crate::DockerArchive;
use crate::Error;
use crate::Layout;
use crate::OciArchive;
use crate::Place;
use crate::Reading;
use crate::Reference;
use crate::Result;
use crate::StoreImages;
use crate::access::named;

impl Access {
    /// Returns the tags of a place, or the names of its images, in its order. An image without a name is not among them.
    /// A place that does not exist is an error of which [`Error::is_not_found`] is true.
    pub fn tags(&self, place: &Place) -> Result<Vec<String>> {
        let limits = self.limits();
        match place {
            Place::Registry(repository) => self.client()?.tags(repository),
            Place::Layout(path) => Layout::open(path, limits)?.tags(),
            Place::Archive(path) => match OciArchive::open(path, limits) {
                Ok(archive) => Ok(archive.tags()),
                Err(Error::DockerArchive { .. }) => DockerArchive::names(path, limits),
                Err(error) => Err(error),
            },
            Place::DockerArchive(path) => DockerArchive::names(path, limits),
            Place::Store(root) => {
                let images = StoreImages::open(root.as_deref().ok_or(Error::NoStore)?, limits)?;
                Ok(images.store().images()?.into_iter().map(|image| image.name).collect())
            }
        }
    }

    /// Returns the digest of the manifest or index that `reference` means, or nothing where there is none. A registry is
    /// asked by one HEAD, and by a GET where its answer has no digest.
    pub fn digest(&self, reference: &Reference) -> Result<Option<Digest>> {
        if let Place::Registry(repository) = &reference.place {
            let (client, name) = (self.client()?, named(repository, &reference.selector)?);
            return match client.said_digest(&name)? {
                Some(Some(digest)) => Ok(Some(digest)),
                Some(None) => Ok(client.manifest(&name)?.map(|content| content.descriptor.digest)),
                None => Ok(None),
            };
        }
        match self.open_source(reference, Reading::Once) {
            Ok(source) => Ok(Some(source.root.digest)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Tells whether an error says that there is no such image, or no such place.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NoSuchPath { .. } | Error::UnknownTag { .. } | Error::Empty { .. })
        || error.is_not_found()
}

#[cfg(test)]
mod tests {
    use restow_oci::Limits;
    use restow_testkit::ImageBuilder;
    use restow_testkit::Layer;
    use restow_testkit::Registry;
    use restow_testkit::TarBuilder;

    use super::*;
    use crate::Settings;

    #[test]
    fn names_and_digests_are_told_without_reading_an_image() {
        let directory = tempfile::tempdir().unwrap();
        let tar = TarBuilder::new().file("a", "1").finish();
        let image = ImageBuilder::new().layer(Layer::gzip(tar)).build();
        let registry = Registry::start();
        registry.put("team/app", "v1", &image);
        registry.put("team/app", "v2", &image);
        let layout = directory.path().join("layout");
        image.write_layout(&layout, "v1").unwrap();

        let access = Access::new(Limits::default(), directory.path(), || Ok(Settings::default()));
        let parse = |text: String| Reference::parse(&text).unwrap();
        let (remote, local) =
            (format!("docker://{}", registry.name("team/app")), format!("oci:{}", layout.display()));
        for (place, tags) in [(&remote, &["v1", "v2"][..]), (&local, &["v1"])] {
            assert_eq!(access.tags(&parse(place.clone()).place).unwrap(), tags, "{place}");
            registry.take_lines();
            let digest = |name: &str| access.digest(&parse(format!("{place}{name}"))).unwrap();
            assert_eq!(digest(":v1"), Some(image.root.digest.clone()), "{place}");
            assert_eq!(digest(":v3"), None, "{place}");
        }
        let absent = access.digest(&parse(format!("oci:{}:v1", directory.path().join("none").display())));
        assert_eq!(absent.unwrap(), None);
        let unknown = parse(format!("docker://{}", registry.name("team/none")));
        assert!(access.tags(&unknown.place).unwrap_err().is_not_found());
    }

    #[test]
    fn a_registry_is_asked_by_heads_alone() {
        let directory = tempfile::tempdir().unwrap();
        let image = ImageBuilder::new().build();
        let registry = Registry::start();
        registry.put("app", "v1", &image);
        let access = Access::new(Limits::default(), directory.path(), || Ok(Settings::default()));
        for tag in ["v1", "v1", "v2"] {
            let reference = Reference::parse(&format!("docker://{}:{tag}", registry.name("app"))).unwrap();
            access.digest(&reference).unwrap();
        }
        assert_eq!(registry.take_lines(), ["HEAD /v2/app/manifests/v1", "HEAD /v2/app/manifests/v2"]);
    }
}
