//! What selectors ask about of one object, in one allocation: an allocation for each text would cost more than the texts.

/// Behind each text. No label has it in it; a field's value ends before it.
const END: char = '\0';

/// An object's labels, and the values of its kind's selectable fields.
#[derive(Debug, Default)]
pub(crate) struct Selectable {
    /// The fields' values, then each label's key and value.
    texts: Box<str>,
    fields: usize,
}

impl Selectable {
    pub(super) fn new(fields: &[Box<str>], labels: &[(Box<str>, Box<str>)]) -> Self {
        let labels = labels.iter().flat_map(|(key, value)| [key, value]);
        let mut texts = String::new();
        for text in fields.iter().chain(labels) {
            texts.push_str(text.split(END).next().unwrap_or_default());
            texts.push(END);
        }
        Self { texts: texts.into(), fields: fields.len() }
    }

    /// The value of a selectable field, by its place among those of [`Cache::fields`](super::Cache::fields).
    pub(crate) fn field(&self, index: usize) -> Option<&str> {
        self.texts.split_terminator(END).take(self.fields).nth(index)
    }

    /// The value of a label.
    pub(crate) fn label(&self, wanted: &str) -> Option<&str> {
        let mut texts = self.texts.split_terminator(END).skip(self.fields);
        while let (Some(key), Some(value)) = (texts.next(), texts.next()) {
            if key == wanted {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_fields_are_found_empty_ones_too_and_one_is_never_the_other() {
        let fields = ["n1", "", "a\0b"].map(Box::from);
        let labels = [("app", "web"), ("empty", ""), ("n1", "key")].map(|(k, v)| (k.into(), v.into()));
        let object = Selectable::new(&fields, &labels);
        let values: Vec<_> = (0..4).map(|index| object.field(index)).collect();
        assert_eq!(values, [Some("n1"), Some(""), Some("a"), None]);
        assert_eq!(object.label("app"), Some("web"));
        assert_eq!(object.label("empty"), Some(""));
        assert_eq!(object.label("n1"), Some("key"));
        assert_eq!((object.label("web"), object.label("")), (None, None));
    }
}
