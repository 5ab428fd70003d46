//! OCI documents that survive a rewrite: digests, descriptors, platforms, media types, edits; no I/O.
