//! `restow version`: what decides the bytes that are written.

use std::process::ExitCode;

use clap::Args;
use restow_layer::Codec as _;
use restow_layer::ESTARGZ_DEFAULT_LEVEL;
use restow_layer::Estargz;
use restow_layer::Recompression;
use restow_layer::ZSTD_CHUNKED_DEFAULT_LEVEL;
use restow_layer::ZstdChunked;
use serde_json::json;

use crate::args::Format;
use crate::output;

/// Print the version of the program, and of each format it writes with its compressor
///
/// Where the line of a format is the same, so are the bytes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What stdout holds: words or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let formats = formats();
    match arguments.format {
        Format::Text => output::print(&format!("restow {version}\n{}", formats.join("\n")))?,
        Format::Json => output::print_json(&json!({ "version": version, "formats": formats }))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns what identifies each format, with its compressor.
pub(crate) fn formats() -> [String; 4] {
    [
        ZstdChunked::new(ZSTD_CHUNKED_DEFAULT_LEVEL).identity(),
        Estargz::new(ESTARGZ_DEFAULT_LEVEL).identity(),
        Recompression::Zstd { level: 3 }.identity(),
        Recompression::Gzip { level: 6 }.identity(),
    ]
}
