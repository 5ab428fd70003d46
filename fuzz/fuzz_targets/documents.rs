//! Manifests, indexes, configs, descriptors and the names in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use restow_analyze::Launch;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::MediaType;
use restow_oci::Platform;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let _ = Manifest::parse(bytes.to_vec(), &limits);
    let _ = Index::parse(bytes.to_vec(), &limits);
    let _ = Descriptor::parse(bytes.to_vec(), &limits);
    if let Ok(config) = Config::parse(bytes.to_vec(), &limits) {
        Launch::of(&config);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Digest::parse(text);
        let _ = MediaType::parse(text);
        let _ = Platform::parse(text);
    }
});
