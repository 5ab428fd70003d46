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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_words_in_either_form_or_nothing() {
        let some = |words: &[&str]| Ok(Some(words.iter().map(|&word| word.to_owned()).collect()));
        for (line, expected) in [
            ("", Ok(None)),
            ("# copy a b", Ok(None)),
            ("copy a b # why", some(&["copy", "a", "b"])),
            (r#"copy 'a b' "c\"d" e\ f g#h $x *"#, some(&["copy", "a b", "c\"d", "e f", "g#h", "$x", "*"])),
            (r#"["copy", "a b", "", "c'"]"#, some(&["copy", "a b", "", "c'"])),
            ("[]", some(&[])),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
        for line in ["copy 'a", "copy a\\", "[\"copy\", 1]", "[\"copy\"", "[\"copy\"] a"] {
            assert!(words(line).is_err(), "{line}");
        }
    }
}
