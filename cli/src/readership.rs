//! Which readers can fetch parts of a layer, and what keeps the others from it.

use restow_layer::Verified;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Platform;
use restow_oci::annotations::STARGZ_TOC_DIGEST;
use serde_json::Value;
use serde_json::json;

use crate::output;
use crate::output::Table;

/// What a reader can do with a layer: fetch parts of it, or why it fetches the whole.
type Use = Result<(), String>;

/// What the readers that know seekable layers can do with one.
#[derive(Clone)]
pub(crate) struct Readership {
    /// stargz-snapshotter, which mounts layers and fetches what is read.
    containerd: Use,
    /// podman and its kin, which fetch what they do not hold yet.
    podman: Use,
}

impl Readership {
    /// Judges a layer that has been read in full.
    pub(crate) fn of(layer: &Descriptor, verified: &Verified) -> Self {
        let containerd = match &verified.lazy_annotations {
            _ if verified.entries == 0 => Err("it has no entries".into()),
            Err(reason) => Err(reason.clone()),
            Ok(_) if !layer.annotations.contains_key(STARGZ_TOC_DIGEST) => {
                Err("its descriptor does not name the digest of its table of contents".into())
            }
            Ok(_) => Ok(()),
        };
        let partial = verified.content.as_ref().map(|content| &content.partial_annotations);
        let podman = match partial {
            None => Err("it was not read in full".into()),
            Some(Err(reason)) => Err(reason.clone()),
            Some(Ok(expected)) => {
                let annotated = expected.iter().all(|(key, value)| layer.annotations.get(key) == Some(value));
                annotated.then_some(()).ok_or_else(|| "its descriptor does not have the annotations".into())
            }
        };
        Self { containerd, podman }
    }

    /// Judges a layer that nobody can read but whole.
    pub(crate) fn whole(format: &str) -> Self {
        let whole = || Err(format!("it is ordinary {format}"));
        Self { containerd: whole(), podman: whole() }
    }
}

/// The layers of one image, as far as they were read.
pub(crate) struct ImageReadership<'a> {
    pub(crate) manifest: &'a Digest,
    pub(crate) platform: Option<&'a Platform>,
    pub(crate) layers: Vec<(usize, &'a Readership)>,
}

/// What one reader can do with the layers of an image.
struct Report<'a> {
    reader: &'static str,
    how: &'static str,
    layers: Vec<(usize, &'a Use)>,
}

impl ImageReadership<'_> {
    fn reports(&self) -> [Report<'_>; 2] {
        let by = |choose: fn(&Readership) -> &Use| {
            self.layers.iter().map(|(position, layer)| (*position, choose(layer))).collect()
        };
        [
            Report { reader: "containerd", how: "lazily", layers: by(|layer| &layer.containerd) },
            Report { reader: "podman", how: "in part", layers: by(|layer| &layer.podman) },
        ]
    }

    fn name(&self) -> String {
        let platform = self.platform.map(|platform| format!(" {platform}")).unwrap_or_default();
        format!("{}{platform}", output::short(self.manifest))
    }
}

/// Tells for each image who can read how many of its layers in parts, and why not the others.
pub(crate) fn table(images: &[ImageReadership<'_>]) -> Table {
    let mut table = Table::new(&["manifest", "reader", "reads", "the others whole, since"]);
    for image in images {
        for Report { reader, how, layers } in image.reports() {
            let usable = layers.iter().filter(|(_, layer)| layer.is_ok()).count();
            let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
            for (position, layer) in &layers {
                let Err(reason) = layer else { continue };
                match reasons.iter_mut().find(|(known, _)| known == reason) {
                    Some((_, positions)) => positions.push(position.to_string()),
                    None => reasons.push((reason, vec![position.to_string()])),
                }
            }
            let reasons =
                reasons.iter().map(|(reason, positions)| format!("layer {}: {reason}", positions.join(", ")));
            table.row([
                image.name(),
                reader.to_owned(),
                format!("{usable} of {} {how}", output::count(layers.len(), "layer")),
                reasons.collect::<Vec<_>>().join("; "),
            ]);
        }
    }
    table
}

/// Tells the same to programs: for each reader the layers, with what keeps it from reading them in parts.
pub(crate) fn document(images: &[ImageReadership<'_>]) -> Value {
    let layer =
        |(position, layer): &(usize, &Use)| json!({ "position": position, "problem": layer.as_ref().err() });
    let image = |image: &ImageReadership<'_>| {
        let platform = image.platform.map(ToString::to_string);
        let mut document = json!({ "manifest": image.manifest.as_str(), "platform": platform });
        for Report { reader, layers, .. } in image.reports() {
            document[reader] = layers.iter().map(layer).collect();
        }
        document
    };
    images.iter().map(image).collect()
}
