//! A content-addressed store with containerd's semantics: traits, local and memory backends, the suite both pass.
