//! One file for each command. To add one: a file here, and a variant of `Command` with its line in `command_line.rs`.

pub(crate) mod batch;
pub(crate) mod cat;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod deploy;
pub(crate) mod index;
pub(crate) mod inspect;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod optimize;
pub(crate) mod predict;
pub(crate) mod record;
pub(crate) mod sandbox;
pub(crate) mod schema;
pub(crate) mod store;
pub(crate) mod sync;
pub(crate) mod tags;
pub(crate) mod toc_digest;
pub(crate) mod verify;
pub(crate) mod version;
