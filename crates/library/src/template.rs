//! Destinations with fields: `docker://localhost:5000/{repository}:{tag}-zc`.

use crate::source::Origin;

/// A text with fields in braces. `{{` and `}}` are braces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field {
    Registry,
    Repository,
    Name,
    Tag,
}

const FIELDS: [(&str, Field); 4] = [
    ("registry", Field::Registry),
    ("repository", Field::Repository),
    ("name", Field::Name),
    ("tag", Field::Tag),
];

impl Template {
    /// Parses a text, or says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            push_text(&mut parts, before);
            if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
                push_text(&mut parts, &from[..1]);
                rest = after;
                continue;
            }
            let inside = from.strip_prefix('{').ok_or("a } without its {; }} is a brace")?;
            let (name, after) = inside.split_once('}').ok_or("a { without its }; {{ is a brace")?;
            let known = FIELDS.iter().find(|(known, _)| *known == name);
            let (_, field) = known.ok_or_else(|| {
                format!("unknown field {{{name}}}; the fields are {{registry}}, {{repository}}, {{name}} and {{tag}}")
            })?;
            parts.push(Part::Field(*field));
            rest = after;
        }
        push_text(&mut parts, rest);
        Ok(Template(parts))
    }

    /// Returns the text for an image, or the name of a field that its place has no value for.
    pub(crate) fn fill(&self, origin: &Origin<'_>) -> Result<String, &'static str> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text += part,
                Part::Field(Field::Registry) => text += origin.registry.ok_or("registry")?,
                Part::Field(Field::Repository) => text += origin.repository,
                Part::Field(Field::Name) => {
                    text += origin.repository.rsplit('/').next().unwrap_or_default();
                }
                Part::Field(Field::Tag) => text += origin.tag,
            }
        }
        Ok(text)
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'_> = Origin { registry: Some("h:5000"), repository: "team/app", tag: "v1" };

    #[test]
    fn fields_are_filled_from_the_source() {
        for (text, expected) in [
            ("docker://localhost/{repository}:{tag}-zc", "docker://localhost/team/app:v1-zc"),
            ("oci:out/{registry}/{name}:{tag}", "oci:out/h:5000/app:v1"),
            ("plain", "plain"),
            ("{{{tag}}}", "{v1}"),
            ("", ""),
        ] {
            assert_eq!(Template::parse(text).unwrap().fill(&ORIGIN).as_deref(), Ok(expected), "{text}");
        }
        let layout = Origin { registry: None, ..ORIGIN };
        assert_eq!(Template::parse("{registry}/x").unwrap().fill(&layout), Err("registry"));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, expected) in [
            ("{tag", "a { without its }"),
            ("tag}", "a } without its {"),
            ("{tags}", "unknown field {tags}"),
            ("{}", "unknown field {}"),
            ("{ tag }", "unknown field { tag }"),
        ] {
            let problem = Template::parse(text).unwrap_err();
            assert!(problem.starts_with(expected), "{text}: {problem}");
        }
    }
}
