//! Encodes layer files as zstd:chunked, side by side: `encode OUTPUT_DIRECTORY JOBS LAYER…`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;

use restow_layer::{EncodeOptions, Workers, ZSTD_CHUNKED_DEFAULT_LEVEL, ZstdChunked, encode};

#[expect(clippy::print_stdout, reason = "an example talks to a person")]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory, jobs, layers @ ..] = arguments.as_slice() else {
        return Err("usage: encode OUTPUT_DIRECTORY JOBS LAYER…".into());
    };
    let workers = Workers::new(jobs.to_string_lossy().parse()?)?;
    thread::scope(|threads| {
        let running: Vec<_> =
            layers.iter().map(|layer| threads.spawn(|| one(layer, directory, &workers))).collect();
        for thread in running {
            println!("{}", thread.join().map_err(|_| "an encoder panicked")??);
        }
        Ok(())
    })
}

fn one(
    layer: &Path,
    directory: &Path,
    workers: &Workers,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let name = layer.file_name().unwrap_or_default();
    let codec = ZstdChunked::new(ZSTD_CHUNKED_DEFAULT_LEVEL, directory.into());
    let mut output = File::create(directory.join(name))?;
    let encoded =
        encode(File::open(layer)?, &mut output, &codec, &EncodeOptions::new(directory), workers)?;
    Ok(format!("{}: {} bytes, {} entries, DiffID {}", name.display(), encoded.size, encoded.entries, encoded.diff_id))
}
