//! Which labels an update changes, in containerd's field paths.

use std::collections::BTreeSet;

use crate::Error;
use crate::Labels;
use crate::Result;

/// Which labels an update changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fields {
    /// All: those that are not given anew are removed.
    All,
    /// These keys alone; one that is not given anew, or is empty, is removed.
    Only(BTreeSet<String>),
}

impl Fields {
    /// Parses field paths: `labels` for all labels, `labels.KEY` for one. No path at all means all labels.
    pub fn parse<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Fields> {
        let mut keys = BTreeSet::new();
        let mut all = false;
        for path in paths {
            match path.strip_prefix("labels.") {
                Some(key) if !key.is_empty() => drop(keys.insert(key.to_owned())),
                None if path == "labels" => all = true,
                _ => return Err(Error::InvalidField { field: path.to_owned() }),
            }
        }
        Ok(if all || keys.is_empty() { Fields::All } else { Fields::Only(keys) })
    }

    /// Returns `old`, of which the fields are as in `new`.
    pub fn apply(&self, mut old: Labels, mut new: Labels) -> Labels {
        let Fields::Only(keys) = self else { return new };
        for key in keys {
            match new.remove(key).filter(|value| !value.is_empty()) {
                Some(value) => drop(old.insert(key.clone(), value)),
                None => drop(old.remove(key)),
            }
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn fields_choose_what_changes() {
        let old = labels(&[("a", "1"), ("b", "2")]);
        let new = labels(&[("a", "3"), ("b", ""), ("c", "4")]);
        for (paths, expected) in [
            (&[][..], new.clone()),
            (&["labels"], new.clone()),
            (&["labels.a", "labels"], new.clone()),
            (&["labels.a"], labels(&[("a", "3"), ("b", "2")])),
            (&["labels.b", "labels.c"], labels(&[("a", "1"), ("c", "4")])),
            (&["labels.d"], old.clone()),
        ] {
            let fields = Fields::parse(paths.iter().copied()).unwrap();
            assert_eq!(fields.apply(old.clone(), new.clone()), expected, "{paths:?}");
        }
        for path in ["", "size", "labels.", "label.a", "Labels"] {
            let error = Fields::parse([path]).unwrap_err();
            assert!(matches!(&error, Error::InvalidField { field } if field == path), "{error}");
        }
    }
}
