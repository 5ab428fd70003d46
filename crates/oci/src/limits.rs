//! How much of anything is accepted.

mod prediction;

pub use self::prediction::PredictionLimits;

/// Every limit of the project, in one place. Each can be raised by whoever makes the value.
///
/// Sizes are in bytes. A limit is the largest value that is still accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The size of a manifest or an index.
    pub manifest_size: u64,
    /// The size of an image configuration.
    pub config_size: u64,
    /// How deep objects and arrays nest in a document. The parser itself stops at 127.
    pub json_depth: usize,
    /// How many values (objects, arrays, strings, numbers…) a document holds. A value of three bytes can cost
    /// a hundred times that in memory, so the size alone does not bound it.
    pub json_values: usize,
    /// The size of one annotation's key.
    pub annotation_key_size: usize,
    /// The size of one annotation's value.
    pub annotation_value_size: usize,
    /// The size of one label, key and value together.
    pub label_size: usize,
    /// How deep indexes nest below the root.
    pub index_depth: usize,
    /// How many descriptors a walk from one root visits.
    pub nodes: usize,
    /// The size of a table of contents that is held in memory, compressed or not.
    pub toc_size: u64,
    /// The size of a table of contents that podman reads, compressed or not. A larger one is not written for it.
    pub podman_toc_size: u64,
    /// The size of a table of contents that is written, or read entry by entry.
    pub streamed_toc_size: u64,
    /// How many entries a layer's tar holds.
    pub tar_entries: u64,
    /// The length of a path or a link's target in a layer.
    pub path_length: usize,
    /// How many components a path in a layer has.
    pub path_components: usize,
    /// Whether a path in a layer may go through a parent directory (`../x`). Readers take it for what is left of it
    /// (`x`), or refuse the layer.
    pub parent_references: bool,
    /// Whether a hard link may say something else of its file than the file's own entry: another mode, owner, time.
    /// Whoever unpacks a layer goes by the last of them, stargz-snapshotter by the file's own.
    pub diverging_links: bool,
    /// How many bytes are held of the names of one layer that is encoded or verified: those of its hard links, and of the
    /// directories that something lies in, with what it takes to find each.
    pub layer_names: u64,
    /// How many bytes are held of the names of an image whose files are listed, with what is known of each file.
    pub image_names: u64,
    /// How many entries, with those of chunks, and extended attributes a table of contents has that is held in memory.
    pub toc_entries: u64,
    /// The size of one PAX record block or GNU long name, or of the map of a sparse file.
    pub tar_extension_size: u64,
    /// The base-2 logarithm of the window that a zstd frame asks for.
    pub zstd_window_log: u32,
    /// The uncompressed size of a layer, whatever its ratio.
    pub uncompressed_size: u64,
    /// How many bytes one compressed byte may become.
    pub expansion_ratio: u64,
    /// The uncompressed size up to which the ratio does not matter.
    pub expansion_floor: u64,
    /// What a prediction of the files that a container reads may cost.
    pub prediction: PredictionLimits,
}

impl Limits {
    /// Returns how large a layer of `compressed` bytes may become.
    pub fn expanded_size(&self, compressed: u64) -> u64 {
        compressed.saturating_mul(self.expansion_ratio).max(self.expansion_floor).min(self.uncompressed_size)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        Limits {
            manifest_size: 4 * MIB,
            config_size: 4 * MIB,
            json_depth: 100,
            json_values: 250_000,
            annotation_key_size: 4 * KIB as usize,
            annotation_value_size: 256 * KIB as usize,
            label_size: 4 * KIB as usize,
            index_depth: 16,
            nodes: 100_000,
            toc_size: 150 * MIB,
            podman_toc_size: 150 * MIB,
            streamed_toc_size: 4 * GIB,
            tar_entries: 10_000_000,
            path_length: 4096,
            path_components: 255,
            parent_references: false,
            diverging_links: false,
            layer_names: 256 * MIB,
            image_names: 512 * MIB,
            toc_entries: 1_000_000,
            tar_extension_size: MIB,
            zstd_window_log: 27,
            uncompressed_size: 1024 * GIB,
            expansion_ratio: 2000,
            // A layer of zeros is legitimate and compresses far beyond the ratio.
            expansion_floor: 8 * GIB,
            prediction: PredictionLimits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_may_expand_to_the_floor_then_by_the_ratio_then_to_the_ceiling() {
        let limits = Limits {
            expansion_floor: 100,
            expansion_ratio: 10,
            uncompressed_size: 1000,
            ..Limits::default()
        };
        let table = [(0, 100), (10, 100), (11, 110), (100, 1000), (101, 1000), (u64::MAX, 1000)];
        for (compressed, expected) in table {
            assert_eq!(limits.expanded_size(compressed), expected, "{compressed}");
        }
    }
}
