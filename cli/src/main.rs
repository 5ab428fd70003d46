//! The `restow` command: flags in, words and exit codes out.

fn main() {}
