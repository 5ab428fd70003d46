//! The list of bad inputs says where each is tried.

use std::fs;
use std::path::Path;

use restow_testkit::testdata;

#[test]
fn every_bad_input_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let list = fs::read_to_string(testdata("bad-inputs.md")).expect("the list");
    let mut numbers = Vec::new();
    for line in list.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [number, _, file, test] = cells[..] else { panic!("{line}") };
        let text = fs::read_to_string(root.join(file)).expect(file);
        assert!(text.contains(&format!("fn {test}(")), "{line}");
        let (first, last) = number.split_once('–').unwrap_or((number, number));
        let number = |text: &str| text.parse::<u32>().expect(line);
        numbers.extend(number(first)..=number(last));
    }
    numbers.dedup();
    // As many as the first list had, and what was found since.
    assert!(numbers.len() >= 111 && numbers.iter().copied().eq(1..=numbers.len() as u32), "{numbers:?}");
}
