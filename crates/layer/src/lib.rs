//! Encodes, reads and verifies seekable layers (eStargz, zstd:chunked): a pure function of tar and options.
