//! What a batch prints, and what an earlier one has printed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::Context as _;
use restow_convert::Cancel;
use serde_json::Map;
use serde_json::Value;

use crate::output;

/// Lines that are printed in the order of the jobs, each as soon as those before it are known.
#[derive(Debug, Default)]
pub(super) struct Results(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many jobs have been dealt with.
    passed: usize,
    waiting: BTreeMap<usize, Option<Map<String, Value>>>,
    /// Why nothing more is printed.
    failure: Option<io::Error>,
}

impl State {
    fn print(&mut self, line: Option<Map<String, Value>>) {
        if let (Some(line), None) = (line, &self.failure) {
            self.failure = output::print_json_line(&Value::Object(line)).err();
        }
    }
}

impl Results {
    /// Takes the line about a job, if there is one. Where it cannot be printed, nobody hears of what is done from there
    /// on, and the batch is stopped.
    pub(super) fn add(&self, number: usize, line: Option<Map<String, Value>>, cancel: &Cancel) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.waiting.insert(number, line);
        while let Some(line) = state.waiting.remove(&(state.passed + 1)) {
            state.passed += 1;
            state.print(line);
        }
        if state.failure.is_some() {
            cancel.cancel();
        }
    }

    /// Prints what is left where jobs before it have never begun.
    pub(super) fn finish(self) -> io::Result<()> {
        let mut state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        for line in std::mem::take(&mut state.waiting).into_values() {
            state.print(line);
        }
        state.failure.map_or(Ok(()), Err)
    }
}

/// What was done before, by the words of the jobs.
#[derive(Debug, Default)]
pub(crate) struct Earlier(BTreeMap<Vec<String>, Done>);

/// A job that was done.
#[derive(Debug)]
pub(super) struct Done {
    /// What was said of it.
    pub(super) line: Map<String, Value>,
    /// Whether it counts only while its source is what it was then.
    pub(super) of_this_source: bool,
}

impl Earlier {
    /// Reads what a batch has printed.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).map_err(|line| {
            anyhow::anyhow!("{}:{line}: this is not a line that restow batch prints", path.display())
        })
    }

    /// Returns the number of a line that is not one.
    fn parse(text: &str) -> Result<Self, usize> {
        let mut done = BTreeMap::new();
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let parsed = serde_json::from_str::<Map<String, Value>>(line).ok();
            let words =
                parsed.as_ref().and_then(|line| serde_json::from_value(line.get("command")?.clone()).ok());
            match (parsed, words) {
                (Some(line), Some(words)) if line.get("ok") == Some(&Value::Bool(true)) => {
                    done.insert(words, Done { line, of_this_source: false });
                }
                (Some(_), Some(_)) => {}
                // Its writer was stopped.
                _ if !line.ends_with('\n') => {}
                _ => return Err(number + 1),
            }
        }
        Ok(Self(done))
    }

    /// Adds a line of a journal. What is said last of a job counts.
    pub(super) fn add(&mut self, line: Map<String, Value>) {
        let words = line.get("command").and_then(|words| serde_json::from_value(words.clone()).ok());
        let Some(words) = words else { return };
        match line.get("ok") == Some(&Value::Bool(true)) {
            true => drop(self.0.insert(words, Done { line, of_this_source: true })),
            false => drop(self.0.remove(&words)),
        }
    }

    /// Returns what was printed of a job that was done.
    pub(super) fn find(&self, words: &[String]) -> Option<&Done> {
        self.0.get(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_known_by_its_words() {
        let text = "\
            {\"job\":1,\"line\":3,\"command\":[\"copy\",\"a\",\"b\"],\"ok\":true,\"digest\":\"d\"}\n\
            {\"job\":2,\"line\":4,\"command\":[\"copy\",\"a\",\"c\"],\"ok\":false,\"error\":\"e\"}\n\
            {\"job\":3,\"li";
        let earlier = Earlier::parse(text).unwrap();
        let find = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            earlier.find(&words).map(|done| done.line["digest"].clone())
        };
        assert_eq!(find(&["copy", "a", "b"]), Some("d".into()));
        assert_eq!(find(&["copy", "a", "c"]), None);
        for (text, line) in [("{}\n", 1), ("\n", 1), ("{\"command\":[],\"ok\":false}\nx\n", 2)] {
            assert_eq!(Earlier::parse(text).err(), Some(line), "{text}");
        }
        assert!(Earlier::parse("").is_ok());
    }
}
