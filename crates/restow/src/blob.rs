//! What can be told of a layer's blob without decoding all of it.

use std::io;
use std::io::Read;

use restow_content::Blob;
use restow_content::Provider;
use restow_layer::Format;
use restow_layer::Hints;
use restow_layer::ReadAt;
use restow_layer::Reader;
use restow_layer::footer;
use restow_layer::footer::Footer;
use restow_layer::sniff;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;

use crate::Error;
use crate::Result;
use crate::toc_image::Tables;

/// As many bytes as tell the compressions apart.
const SNIFFED: usize = 16;

/// A layer's blob, open for reading at any place.
pub struct LayerBlob {
    blob: Box<dyn Blob>,
    hints: Hints,
    footer: Option<Footer>,
}

impl ReadAt for LayerBlob {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.blob.read_at(buffer, offset)
    }
}

impl LayerBlob {
    pub fn open(provider: &dyn Provider, descriptor: &Descriptor) -> Result<Self> {
        let blob = provider.open(descriptor)?;
        let hints = Hints::from_annotations(&descriptor.annotations)?;
        let start = blob.size().saturating_sub(footer::TAIL as u64);
        let footer = footer::parse(&read(&*blob, start, blob.size())?, blob.size())?;
        Ok(Self { blob, hints, footer })
    }

    /// Adds the table of contents of this layer of a manifest from elsewhere, if it is not in the blob.
    pub fn with_table(mut self, manifest: &Digest, layer: &Digest, tables: &Tables<'_>) -> Result<Self> {
        if matches!(self.footer, Some(Footer::ExternalToc { .. })) {
            self.hints.external_toc = tables.read(manifest, layer)?;
        }
        Ok(self)
    }

    /// Returns what the annotations say of the table of contents.
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Says whether there is a table of contents, in the blob or elsewhere.
    pub fn is_seekable(&self) -> bool {
        match self.footer {
            Some(Footer::ExternalToc { .. }) => self.hints.external_toc.is_some(),
            Some(_) => true,
            None => self.hints.toc.is_some(),
        }
    }

    /// Returns the name of the format, and for zstd:chunked whose readers find the table by the footers.
    pub fn format(&self) -> Result<(&'static str, Option<&'static str>)> {
        Ok(match self.footer {
            Some(Footer::Gzip { .. }) => ("estargz", None),
            Some(Footer::ExternalToc { .. }) => ("estargz with external TOC", None),
            Some(Footer::Zstd { podman: false, .. }) => ("zstd:chunked", Some("containerd")),
            Some(Footer::Zstd { start, .. }) if self.size() - start == footer::TAIL as u64 => {
                ("zstd:chunked", Some("both"))
            }
            Some(Footer::Zstd { .. }) => ("zstd:chunked", Some("podman")),
            None if self.hints.toc.is_some() => ("zstd:chunked", Some("podman")),
            None => match sniff(&read(&*self.blob, 0, SNIFFED as u64)?)? {
                Format::Plain => ("plain", None),
                Format::Gzip => ("gzip", None),
                Format::Zstd => ("zstd", None),
            },
        })
    }

    /// Returns how many entries the table of contents has, chunks of one file not counted apart.
    pub fn entries(self, limits: &Limits) -> Result<usize> {
        let hints = self.hints.clone();
        Ok(Reader::open(self, &hints, limits)?.toc().entries().count())
    }

    /// Shows `read` the JSON of the table of contents as it stands in the blob.
    pub fn read_toc<T>(&self, limits: &Limits, read: impl FnOnce(&mut dyn Read) -> T) -> Result<T> {
        if matches!(self.footer, Some(Footer::ExternalToc { .. })) && self.hints.external_toc.is_none() {
            return Err(Error::TocElsewhere);
        }
        Ok(restow_layer::read_toc(self, &self.hints, limits, read)?)
    }
}

/// Reads the bytes `start..end`, or fewer where the blob ends before.
fn read(blob: &dyn Blob, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end.min(blob.size()).saturating_sub(start)).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match blob.read_at(&mut bytes[filled..], start + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(bytes)
}
