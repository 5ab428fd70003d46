//! Who is to read converted images lazily, for every command that makes them.

use clap::Args;
use clap::ValueEnum;
use restow::ConvertOptions;
use restow_convert as convert;

use crate::failure::Usage;

#[derive(Debug, Args)]
#[command(next_help_heading = "Readers")]
pub(crate) struct ReadersArguments {
    /// Who can read the layers lazily [default: containerd; podman with --add-variant]
    ///
    /// The blobs are the same for all, what manifests say of them is not. both makes an index of two manifests for each
    /// image, with the same config and layers: podman, buildah and CRI-O choose theirs and fetch what they lack,
    /// containerd chooses its own and mounts it lazily.
    #[arg(long, value_enum, value_name = "WHO", requires = "zstdchunked")]
    zstdchunked_readers: Option<Readers>,
    /// Add the converted images to the index beside their sources, which stay first and untouched
    ///
    /// Old clients go on with the source, and so does containerd, which takes what is first; podman prefers what is zstd.
    /// A lone image becomes an index.
    #[arg(long)]
    add_variant: bool,
    /// Fail when a layer is one that podman would refuse to read in part, instead of making or leaving it an ordinary one
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Readers {
    /// containerd with stargz-snapshotter
    Containerd,
    /// podman, buildah, CRI-O
    Podman,
    /// Each of them
    Both,
}

impl ReadersArguments {
    /// Returns who is to read the layers lazily. What is added to an index is podman's, unless told otherwise: containerd
    /// goes on with the source, and podman would take what is zstd and not its own, and pull it whole.
    fn readers(&self) -> Readers {
        let default = if self.add_variant { Readers::Podman } else { Readers::Containerd };
        self.zstdchunked_readers.unwrap_or(default)
    }

    /// Fails for a combination that means nothing, with `zstdchunked` telling what is written.
    pub(crate) fn check(&self, zstdchunked: bool) -> Result<(), Usage> {
        if self.add_variant && !zstdchunked {
            return Err(Usage("--add-variant means something with --zstdchunked only".into()));
        }
        if self.strict && self.readers() == Readers::Containerd {
            return Err(Usage(
                "--strict is about podman: it needs --zstdchunked-readers podman or both".into(),
            ));
        }
        Ok(())
    }

    /// Writes the choice into the options of a conversion.
    pub(crate) fn apply(&self, options: &mut ConvertOptions<'_>) {
        options.readers = match self.readers() {
            Readers::Containerd => convert::Readers::Containerd,
            Readers::Podman => convert::Readers::Podman,
            Readers::Both => convert::Readers::Both,
        };
        options.add_variants = self.add_variant;
        options.strict = self.strict;
    }
}
