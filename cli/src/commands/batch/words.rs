//! From a line of a file of jobs to the words of a command.

/// Returns the words of a line, if there are any.
pub(super) fn words(text: &str) -> Result<Option<Vec<String>>, String> {
    if text.starts_with('[') {
        let words = serde_json::from_str(text);
        return words.map(Some).map_err(|error| format!("expected an array of strings: {error}"));
    }
    let words =
        shlex::split(text).ok_or("a quotation mark is missing, or there is a backslash at the end")?;
    Ok((!words.is_empty()).then_some(words))
}
