//! Which seekable format layers get, for every command that makes them.

use std::path::PathBuf;

use clap::ArgGroup;
use clap::Args;
use clap::ValueEnum;
use restow::toc_image;
use restow_layer as layer;
use restow_layer::Codec;
use restow_layer::DEFAULT_CHUNK_SIZE;
use restow_layer::ESTARGZ_DEFAULT_LEVEL;
use restow_layer::EncodeOptions;
use restow_layer::Estargz;
use restow_layer::ZstdChunked;

use crate::args::parse_size;
use crate::failure::Usage;

/// The flags of all seekable formats. The group `seekable` says which one is meant; a command that can do without may
/// leave it as it is, one that cannot makes it required.
#[derive(Debug, Args)]
#[command(next_help_heading = "Format")]
#[command(group(ArgGroup::new("seekable").args(["zstdchunked", "estargz"])))]
pub(crate) struct FormatArguments {
    /// Write zstd:chunked layers, as containerd's stargz snapshotter and podman read them
    #[arg(long)]
    pub(crate) zstdchunked: bool,
    /// How hard to compress, from 1 (fast) to 22 (small)
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=22))]
    zstdchunked_compression_level: i32,
    /// The most bytes of a file in one chunk, in bytes or as 64KiB, 4MiB; 0 is 4MiB
    ///
    /// A chunk is what a reader fetches and verifies at once. Larger ones make smaller tables of contents.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = parse_chunk_size_or_default)]
    zstdchunked_chunk_size: u64,
    /// Where the chunks of a file end
    ///
    /// content ends them where podman does, so that it finds what a changed file has in common with one it holds, and
    /// fetches the rest only; layers become larger by it.
    #[arg(long, value_enum, value_name = "HOW", default_value_t, requires = "zstdchunked")]
    zstdchunked_chunking: Chunking,
    /// Write eStargz layers: gzip, as containerd's stargz snapshotter reads them
    #[arg(long)]
    estargz: bool,
    /// How hard to compress, from 1 (fast) to 12 (small)
    #[arg(long, value_name = "LEVEL", default_value_t = ESTARGZ_DEFAULT_LEVEL,
          value_parser = clap::value_parser!(i32).range(1..=12))]
    estargz_compression_level: i32,
    /// The most bytes of a file in one chunk, in bytes or as 64KiB, 4MiB; 0 is 4MiB
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = parse_chunk_size_or_default)]
    estargz_chunk_size: u64,
    /// Let chunks share a gzip member until it has this many bytes of the tar
    ///
    /// Many small files so become smaller; to read one, what comes before it in its member is fetched too. Readers
    /// older than version 0.13 of the stargz snapshotter cannot open such layers.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_min_chunk_size)]
    estargz_min_chunk_size: u64,
    /// Accepted and without effect: --jobs says how many threads work, and the result does not depend on it
    #[arg(long, value_name = "N")]
    estargz_parallelism: Option<u32>,
    /// Put the tables of contents into an image of their own, which the snapshotter looks for beside this one
    #[arg(long, requires = "estargz")]
    estargz_external_toc: bool,
    /// Keep every layer's tar, and so its DiffID; the tables of contents go into an image of their own
    ///
    /// Nothing is moved and no landmark added. A layer that holds what an earlier conversion added is refused.
    #[arg(long, requires = "estargz")]
    estargz_keep_diff_id: bool,
    /// What to call the image of the tables of contents, beside DST [default: TAG-esgztoc for each tag]
    #[arg(long, value_name = "TAG")]
    toc_image: Option<String>,
    /// Let the image of the tables of contents say which image it is about, as registries list referrers
    #[arg(long)]
    toc_referrer: bool,
    /// How hard to compress the files that are moved to the front, if otherwise than the rest
    ///
    /// They are few and fetched first; a level costs no more time to read.
    #[arg(long, value_name = "LEVEL")]
    prioritized_compression_level: Option<i32>,
    /// Whether to mark the end of the files that were moved to the front by an entry of its own
    ///
    /// auto marks it where files were moved, and in eStargz says so where none were, as that format wants it. An entry
    /// changes the layer's DiffID, and so do moved files.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    landmark: Landmark,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Chunking {
    /// After --zstdchunked-chunk-size
    #[default]
    Fixed,
    /// Where the content says, after 64 KiB on average and --zstdchunked-chunk-size at the latest
    Content,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Landmark {
    #[default]
    Auto,
    Always,
    Never,
}

impl FormatArguments {
    /// Returns the format that is asked for, if one is.
    pub(crate) fn codec(&self) -> Option<Box<dyn Codec>> {
        if self.zstdchunked {
            let codec = ZstdChunked::new(self.zstdchunked_compression_level);
            let prioritized = self.prioritized_compression_level;
            Some(Box::new(prioritized.map_or(codec, |level| codec.prioritized_level(level))))
        } else if self.estargz {
            let codec = Estargz::new(self.estargz_compression_level);
            let codec = codec.min_chunk_size(self.estargz_min_chunk_size);
            let codec =
                self.prioritized_compression_level.map_or(codec, |level| codec.prioritized_level(level));
            Some(Box::new(if self.external_toc() { codec.external_toc() } else { codec }))
        } else {
            None
        }
    }

    /// Returns what the flags say of the bytes of a layer, with temporary files in `spool`.
    pub(crate) fn options(&self, spool: PathBuf) -> EncodeOptions {
        EncodeOptions {
            chunk_size: if self.estargz { self.estargz_chunk_size } else { self.zstdchunked_chunk_size },
            chunking: match self.zstdchunked_chunking {
                Chunking::Fixed => layer::Chunking::Fixed,
                Chunking::Content => layer::Chunking::Content,
            },
            landmark: match self.landmark {
                Landmark::Auto => layer::Landmark::Auto,
                Landmark::Always => layer::Landmark::Always,
                Landmark::Never => layer::Landmark::Never,
            },
            keep_diff_id: self.estargz_keep_diff_id,
            ..EncodeOptions::new(spool)
        }
    }

    /// Tells whether the tables of contents go into an image of their own.
    pub(crate) fn external_toc(&self) -> bool {
        self.estargz_external_toc || self.estargz_keep_diff_id
    }

    /// Tells whether every layer is to stay in the order it has.
    pub(crate) fn keeps_order(&self) -> bool {
        self.estargz_keep_diff_id
    }

    /// Refuses what contradicts itself, with `moving` telling whether files are to be moved.
    pub(crate) fn check(&self, moving: bool) -> Result<(), Usage> {
        let usage = |problem: &str| Err(Usage(problem.into()));
        let most = if self.estargz { 12 } else { 22 };
        if self.prioritized_compression_level.is_some_and(|level| !(1..=most).contains(&level)) {
            return Err(Usage(format!("--prioritized-compression-level: expected 1 to {most}")));
        }
        if self.estargz_keep_diff_id && (moving || self.landmark == Landmark::Always) {
            return usage(
                "--estargz-keep-diff-id keeps the tar as it is: no file can move, no landmark be added",
            );
        }
        if (self.toc_image.is_some() || self.toc_referrer) && !self.external_toc() {
            return usage("--toc-image and --toc-referrer mean something with --estargz-external-toc only");
        }
        Ok(())
    }

    /// Returns the tags of the image of the tables of contents of an image with `tags`, if there is to be one.
    pub(crate) fn toc_tags(&self, tags: &[String]) -> Result<Option<Vec<String>>, Usage> {
        match (&self.toc_image, tags) {
            _ if !self.external_toc() => Ok(None),
            (Some(tag), _) if tags.contains(tag) => {
                Err(Usage(format!("--toc-image {tag}: the new image itself is called so")))
            }
            (Some(tag), _) => Ok(Some(vec![tag.clone()])),
            (None, []) => Err(Usage(
                "the image of the tables of contents is named after a tag, and DST has none: give it one, or --toc-image"
                    .into(),
            )),
            (None, tags) => Ok(Some(tags.iter().map(|tag| toc_image::tag(tag)).collect())),
        }
    }

    /// Tells whether the image of the tables of contents says which image it is about.
    pub(crate) fn toc_referrer(&self) -> bool {
        self.toc_referrer
    }
}

/// Parses the size of a chunk. Small ones make tables that outgrow the files; large ones are held in memory, several
/// at a time.
fn parse_chunk_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if (4 << 10..=64 << 20).contains(&size) { Ok(size) } else { Err("expected 4KiB to 64MiB".into()) }
}

fn parse_chunk_size_or_default(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Ok(DEFAULT_CHUNK_SIZE),
        _ => parse_chunk_size(text),
    }
}

/// Parses the size of a member, which is held in memory with one more chunk.
fn parse_min_chunk_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if size <= 64 << 20 { Ok(size) } else { Err("expected at most 64MiB".into()) }
}
