//! Manifest files: YAML documents (JSON is YAML, too), each one object or a list of objects.

use std::fmt;

use serde_json::Value;

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// Every object that could be read, in the file's order.
    pub(super) objects: Vec<Value>,
    pub(super) problems: Vec<Problem>,
}

/// A document that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Counted from 1.
    document: usize,
    /// Of the file, counted from 1.
    line: usize,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}, line {}: {}", self.document, self.line, self.message)
    }
}

/// Reads a whole file.
pub(super) fn parse(content: &[u8]) -> Documents {
    let mut documents = Documents::default();
    let text = match std::str::from_utf8(content) {
        Ok(text) => text,
        Err(error) => {
            let line = content[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            documents.problems.push(Problem { document: 1, line, message: "not UTF-8 text".to_owned() });
            return documents;
        }
    };
    for (place, document) in split(text).into_iter().enumerate() {
        match read(document.text).and_then(objects) {
            Ok(objects) => documents.objects.extend(objects),
            Err((line, message)) => {
                let line = document.first_line + line.saturating_sub(1);
                documents.problems.push(Problem { document: place + 1, line, message });
            }
        }
    }
    documents
}

#[derive(Debug, PartialEq, Eq)]
struct Document<'a> {
    text: &'a str,
    first_line: usize,
}

/// Splits at lines that begin with `---`, so that one damaged document does not spoil the others. Documents of nothing but comments
/// are left out.
fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let mut position = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let next = position + line.len();
        if is_separator(line) {
            documents.push(Document { text: &text[start..position], first_line });
            (start, first_line) = (next, number + 2);
        }
        position = next;
    }
    documents.push(Document { text: &text[start..], first_line });
    documents.retain(|document| !is_empty(document.text));
    documents
}

fn is_separator(line: &str) -> bool {
    let rest = line.strip_prefix("---").map(str::trim);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
}

fn is_empty(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'))
}

type Failure = (usize, String);

fn read(text: &str) -> Result<Value, Failure> {
    // As kubectl reads YAML: modes such as 0644 are octal, and `yes` is a boolean (YAML 1.1).
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
        (line, error.to_string())
    })
}

/// The objects of one document: itself, or the items of a list.
fn objects(document: Value) -> Result<Vec<Value>, Failure> {
    let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    let objects = match document {
        Value::Object(mut list) if is_list && list.get("items").is_some_and(Value::is_array) => {
            match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        other => vec![other],
    };
    objects.into_iter().map(check).collect()
}

fn check(object: Value) -> Result<Value, Failure> {
    let fail = |message: &str| Err((1, message.to_owned()));
    if !object.is_object() {
        return fail("not an object");
    }
    let filled = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    if !filled(&object["apiVersion"]) {
        return fail("the object has no apiVersion");
    }
    if !filled(&object["kind"]) {
        return fail("the object has no kind");
    }
    if !filled(&object["metadata"]["name"]) {
        return fail("the object has no metadata.name");
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_separated_and_lists_opened() {
        let text = "\
# a comment first
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data:
  script: |
    echo
    ---x
--- # and a comment
---
{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [
  {\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"metadata\": {\"name\": \"b\"}},
  {\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"metadata\": {\"name\": \"c\"}}]}
";
        let documents = parse(text.as_bytes());
        assert_eq!(documents.problems, []);
        let names: Vec<_> =
            documents.objects.iter().map(|object| object["metadata"]["name"].as_str()).collect();
        assert_eq!(names, [Some("a"), Some("b"), Some("c")]);
        assert_eq!(documents.objects[0]["data"]["script"], "echo\n---x\n");
    }

    #[test]
    fn a_bad_document_is_told_with_its_number_and_line_and_the_others_are_read() {
        let good = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: good\n";
        let cases = [
            ("a:\n  b: [1\nc: 2\n", 2, 8),
            ("apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n", 2, 6),
            ("just text\n", 2, 6),
        ];
        for (bad, document, at_least) in cases {
            let documents = parse(format!("{good}---\n{bad}---\n{good}").as_bytes());
            assert_eq!(documents.objects.len(), 2, "{bad}");
            let [problem] = &documents.problems[..] else { panic!("{bad}: {:?}", documents.problems) };
            assert_eq!(problem.document, document, "{bad}");
            assert!((at_least - 2..=at_least + 2).contains(&problem.line), "{bad}: {problem}");
        }
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        let text = "apiVersion: v1\nkind: X\nmetadata: {name: a}\nmode: 0644\nquoted: \"0644\"\nnumber: 1.5\nport: 80\n\
                    yes: no\nbase: &b {x: 1}\nmerged: {<<: *b, y: 2}\n8080: tcp\n";
        let documents = parse(text.as_bytes());
        assert_eq!(documents.problems, []);
        let object = &documents.objects[0];
        assert_eq!(object["mode"], 420);
        assert_eq!(object["quoted"], "0644");
        assert_eq!(object["port"], 80);
        assert_eq!(object["yes"], false);
        assert_eq!(object["merged"], serde_json::json!({"x": 1, "y": 2}));
        assert_eq!(object["8080"], "tcp");
    }
}
