//! Entries of the tar that the table leaves out, because a later one of the same path takes their place.

use std::collections::HashMap;

use super::compare::differ;
use crate::locate::OpenToc;
use crate::toc::{Entry, EntryKind};
use crate::{Error, Result, path};

/// The most bytes to remember entries in, some hundred thousand of them.
const MEMORY: usize = 64 << 20;

/// What the tar has beyond the table, so far.
#[derive(Default)]
pub(super) struct Skipped {
    /// Entries of the table found in the tar.
    found: u64,
    paths: HashMap<String, Skip>,
    /// The first disagreement since the last entry that was found.
    stuck: Option<Disagreement>,
    memory: usize,
}

/// The entries of one path.
struct Skip {
    /// How many paths were skipped before.
    order: usize,
    first: Disagreement,
    /// Entries of the table found before the last of them.
    found: u64,
    /// The last of them, if it has no content.
    last: Option<Box<Entry>>,
    /// Whether the table makes up for them.
    replaced: bool,
}

#[derive(Clone)]
struct Disagreement {
    name: String,
    problem: String,
}

impl Disagreement {
    fn into_error(self) -> Error {
        differ(&self.name, &self.problem)
    }
}

impl Skipped {
    /// Notes that the tar has come to the next entry of the table.
    pub(super) fn found(&mut self) {
        self.found += 1;
        self.stuck = None;
    }

    /// Adds an entry of the tar, and why it is not the next one of the table.
    pub(super) fn add(
        &mut self,
        entry: Entry,
        path: String,
        has_content: bool,
        problem: String,
    ) -> Result<()> {
        let first = Disagreement { name: entry.name.clone(), problem };
        if self.stuck.is_none() {
            self.stuck = Some(first.clone());
        }
        // That of a path which is here already is counted again, which is simpler and bounds the work too.
        self.memory += size_of::<Skip>() + path.len() + first.name.len() + first.problem.len();
        self.memory += if has_content { 0 } else { memory(&entry) };
        if self.memory > MEMORY {
            return Err(first.into_error());
        }
        let (order, found) = (self.paths.len(), self.found);
        let skip =
            self.paths.entry(path).or_insert(Skip { order, first, found, last: None, replaced: false });
        skip.found = found;
        skip.last = (!has_content).then(|| Box::new(entry));
        Ok(())
    }

    /// Reads the table again, if anything was skipped, and fails with the first disagreement that it does not explain.
    /// Otherwise returns the one that the comparison was stuck at.
    ///
    /// The last entry of a path in the table must come after all that were skipped, or be the `same` as the last of
    /// those: of entries that nothing tells apart, the comparison has found the first.
    pub(super) fn check<'a>(
        mut self,
        open: impl FnOnce() -> Result<OpenToc<'a>>,
        same: impl Fn(&Entry, &Entry) -> bool,
    ) -> Result<Option<Error>> {
        if self.paths.is_empty() {
            return Ok(None);
        }
        let mut toc = open()?;
        let mut position = 0;
        while let Some(entry) = next_listed(&mut toc)? {
            if let Some(skip) = self.paths.get_mut(&path::clean(&entry.name)) {
                skip.replaced =
                    position >= skip.found || skip.last.as_ref().is_some_and(|last| same(&entry, last));
            }
            position += 1;
        }
        let unexplained = self.paths.into_values().filter(|skip| !skip.replaced);
        match unexplained.min_by_key(|skip| skip.order) {
            Some(skip) => Err(skip.first.into_error()),
            None => Ok(self.stuck.map(Disagreement::into_error)),
        }
    }
}

/// Reads the next entry that is not a further chunk of a file.
pub(super) fn next_listed(toc: &mut OpenToc<'_>) -> Result<Option<Entry>> {
    loop {
        match toc.parser.next_entry()? {
            Some(entry) if entry.kind == EntryKind::Chunk => {}
            other => return Ok(other),
        }
    }
}

/// Returns about how many bytes an entry takes.
fn memory(entry: &Entry) -> usize {
    let texts = [&entry.name, &entry.link_name, &entry.user_name, &entry.group_name];
    let attributes =
        entry.xattrs.iter().map(|(name, value)| size_of_val(name) + name.len() + 2 * value.len());
    size_of::<Entry>() + texts.iter().map(|text| text.len()).sum::<usize>() + attributes.sum::<usize>()
}
