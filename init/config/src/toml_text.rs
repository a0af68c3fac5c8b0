//! TOML text as a [`Layer`].

use toml::de::{DeTable, DeValue};

use crate::mistake::Mistake;
use crate::tree::{Item, Layer, Place, Table, Value, quoted};

/// The longest document, in bytes. A real one is a hundredth of this; a file that someone put there by accident is not read for long.
pub const MAX_LEN: usize = 1 << 20;

/// What is told instead of a line that may be secret.
const HIDDEN: &str = "a line that is not shown here";
/// Longer than this no key is; what is may be something else.
const LONGEST_KEY: usize = 48;

/// Windows' editors put this before the text.
const BYTE_ORDER_MARK: &str = "\u{feff}";

impl Layer {
    /// Reads TOML. `name` is what mistakes call the source.
    ///
    /// # Errors
    /// Every mistake in the syntax, or what keeps the bytes from being TOML at all.
    pub fn toml(name: &str, bytes: &[u8]) -> Result<Self, Vec<Mistake>> {
        let text = text_of(name, bytes).map_err(|mistake| vec![mistake])?;
        let place = Place::named(name);
        let (table, errors) = DeTable::parse_recoverable(text);
        let lines = Lines::of(place, text);
        if !errors.is_empty() {
            let within = lines_within_texts(text);
            return Err(errors.iter().map(|error| lines.syntax_mistake(error, &within)).collect());
        }
        Ok(Self { root: Item { value: lines.table(table.get_ref()), place: lines.place.at_line(1) } })
    }
}

/// The bytes of a document as text without byte order mark: UTF-8 it must be, and of a sane length.
pub(crate) fn text_of<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Mistake> {
    let mistake = |given: String, allowed: &str| Mistake {
        source_name: name.to_owned(),
        key: "(whole file)".to_owned(),
        given,
        allowed: allowed.to_owned(),
    };
    if bytes.len() > MAX_LEN {
        return Err(mistake(format!("{} bytes or more", bytes.len()), "at most 1 MiB"));
    }
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(mistake("UTF-16".to_owned(), "UTF-8 (choose it when saving the file)"));
    }
    if bytes.contains(&0) {
        let given = "zero bytes, as in UTF-16 or in a file that was cut off while it was written";
        return Err(mistake(given.to_owned(), "UTF-8 text; write the file again"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
            Err(mistake(format!("bytes in line {line} that are not UTF-8"), "UTF-8 text"))
        }
    }
}

/// What is shown of a line that could not be read: the key it begins with. What follows may be a secret, and so may be a line without a key,
/// which can be a part of a longer text.
pub(crate) fn shown_of_line(line: &str) -> String {
    let line = line.trim();
    let end = line.find(['=', ':']).filter(|&end| {
        let key = &line[..end];
        let fits = |c: char| c.is_ascii_alphanumeric() || " \t-_./\"'".contains(c);
        key.len() <= LONGEST_KEY && key.chars().all(fits)
    });
    match end {
        Some(end) => quoted(&format!("{} ...", &line[..=end])),
        None if line.is_empty() => "the end of the text".to_owned(),
        None if is_header(line) => quoted(line),
        None => HIDDEN.to_owned(),
    }
}

/// Of each line, whether it begins within a text of several lines.
fn lines_within_texts(text: &str) -> Vec<bool> {
    const QUOTES: [&str; 2] = ["\"\"\"", "'''"];
    let mut open: Option<&str> = None;
    let mut within = Vec::new();
    for line in text.lines() {
        within.push(open.is_some());
        let mut rest = line;
        loop {
            let next = match open {
                Some(quotes) => rest.find(quotes).map(|at| (at, quotes)),
                None => QUOTES.iter().filter_map(|quotes| Some((rest.find(quotes)?, *quotes))).min(),
            };
            let Some((at, quotes)) = next else { break };
            rest = &rest[at + quotes.len()..];
            open = if open.is_some() { None } else { Some(quotes) };
        }
    }
    within
}

/// Whether the line is, or was to be, the header of a table.
fn is_header(line: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.[]".contains(c);
    line.starts_with('[') && line.len() <= LONGEST_KEY && line.chars().all(plain)
}

/// Turns offsets into lines while the tree is copied.
struct Lines<'a> {
    place: Place,
    text: &'a str,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(place: Place, text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Self { place, text, starts }
    }

    /// The line, counted from one, of the byte at `offset`.
    fn number(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }

    fn syntax_mistake(&self, error: &toml::de::Error, within: &[bool]) -> Mistake {
        let number = self.number(error.span().map_or(0, |span| span.start));
        let line = self.text[self.starts[number - 1]..].lines().next().unwrap_or_default();
        let given =
            if within.get(number - 1) == Some(&true) { HIDDEN.to_owned() } else { shown_of_line(line) };
        Mistake {
            source_name: self.place.at_line(number).to_string(),
            key: "(syntax)".to_owned(),
            given,
            allowed: format!("TOML: {}", error.message().replace('\n', "; ")),
        }
    }

    fn table(&self, table: &DeTable<'_>) -> Value {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            (key.to_string(), self.item(value))
        };
        Value::Table(table.iter().map(entry).collect::<Table>())
    }

    fn item(&self, value: &toml::Spanned<DeValue<'_>>) -> Item {
        let place = self.place.at_line(self.number(value.span().start));
        Item { value: self.value(value.get_ref()), place }
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            // A number beyond 64 bits fits no key; kept as text it is shown as it was written.
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Value::Date(number.to_string()), Value::Integer),
            DeValue::Float(number) => {
                number.as_str().parse().map_or_else(|_| Value::Date(number.to_string()), Value::Float)
            }
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(items) => Value::List(items.iter().map(|item| self.item(item)).collect()),
            DeValue::Table(table) => self.table(table),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(bytes: &[u8]) -> Vec<String> {
        match Layer::toml("config.toml", bytes) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_are_no_mistake() {
        assert_eq!(messages(b"\xEF\xBB\xBF[node]\r\nrole = \"server\"\r\n"), Vec::<String>::new());
    }

    #[test]
    fn utf_16_is_refused_by_name_with_and_without_its_mark() {
        assert_eq!(
            messages(b"\xFF\xFE[\0n\0"),
            ["config.toml: (whole file): given UTF-16; allowed: UTF-8 (choose it when saving the file)"]
        );
        assert!(messages(b"[\0n\0o\0")[0].contains("zero bytes, as in UTF-16"));
    }

    #[test]
    fn a_document_longer_than_the_limit_is_refused() {
        assert!(messages(&vec![b'#'; MAX_LEN + 1])[0].ends_with("allowed: at most 1 MiB"));
        assert_eq!(messages(&vec![b'#'; MAX_LEN]), Vec::<String>::new());
    }

    #[test]
    fn a_half_written_document_names_the_line_where_it_ends() {
        let told = messages(b"[node]\nrole = \"server\"\nhostname = \"edge");
        assert!(told[0].starts_with("config.toml:3: (syntax): given \"hostname = ...\"; "), "{told:?}");
        assert!(messages(b"[node")[0].starts_with("config.toml:1: (syntax): given \"[node\"; "));
    }

    #[test]
    fn of_a_line_that_cannot_be_read_no_secret_is_shown() {
        for text in [
            "[node]\ntoken = \"K10hidden::server:hidden",
            "token = hidden\n",
            "token = \"\"\"\nhidden\n",
            "token = \"\"\"\nhidden=\"\"\" x\n",
            "token \"hidden\"\n",
            "token=[\n\"hidden\",\n'hidden\n",
            "auth = { password: \"hidden\" }\n",
        ] {
            let told = messages(text.as_bytes());
            assert!(!told.is_empty() && !told.concat().contains("hidden"), "{told:?}");
        }
        assert_eq!(shown_of_line("  token= \"a"), "\"token= ...\"");
        assert_eq!(shown_of_line("- password: a"), "\"- password: ...\"");
        let key = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7==";
        assert_eq!(shown_of_line(key), HIDDEN);
        let text = "a = \"\"\"x\"\"\"\nb = \"\"\"\n'''\n\"\"\"\nc = '''\n\"\"\"\n'''";
        assert_eq!(lines_within_texts(text), [false, false, true, true, false, true, true]);
    }
}
