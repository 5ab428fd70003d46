//! Records of accesses and lists of paths.
#![no_main]

use libfuzzer_sys::fuzz_target;
use restow_analyze::list;
use restow_analyze::record;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(accesses) = record::parse(text) {
        assert_eq!(record::parse(&record::write(&accesses)).expect("what was written can be read"), accesses);
    }
    let _ = list::parse(text);
});
