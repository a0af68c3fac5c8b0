//! Every configuration that people are shown to copy is one that a machine takes.

use std::fs;
use std::path::{Path, PathBuf};

use node_config::{Layer, Mistake, resolve};

/// The one file that stands on every machine's first partition.
const EXAMPLE: &str = "image/files/config.toml.example";
const FENCE: &str = "```";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn mistakes(name: &str, text: &str) -> Vec<Mistake> {
    Layer::toml(name, text.as_bytes()).map_or_else(|mistakes| mistakes, |layer| resolve(&[layer]).mistakes)
}

/// The fenced blocks of TOML in a page, with the line each begins in.
fn blocks(page: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (index, line) in page.lines().enumerate() {
        match (inside, line.trim()) {
            (false, "```toml") => {
                inside = true;
                found.push((index + 1, String::new()));
            }
            (true, FENCE) => inside = false,
            (true, _) => {
                let (_, text) = found.last_mut().expect("a block was begun");
                text.push_str(line);
                text.push('\n');
            }
            (false, _) => {}
        }
    }
    found
}

#[test]
fn every_document_in_the_pages_is_without_mistakes() {
    let docs = repository().join("docs");
    let pages = fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let mut count = 0;
    for page in pages.chain([repository().join("README.md")]) {
        for (line, text) in blocks(&read(&page)) {
            count += 1;
            assert_eq!(mistakes("block", &text), [], "{}:{line}", page.display());
        }
    }
    assert!(count >= 5, "only {count} blocks were found");
}

/// The settings that a paragraph of the example has, with the sign in front of them taken away.
fn uncommented(paragraph: &str) -> String {
    let setting =
        |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
    paragraph.lines().filter_map(setting).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_says_nothing_as_it_is_and_each_of_its_paragraphs_is_right() {
    let example = read(&repository().join(EXAMPLE));
    assert!(Layer::toml("example", example.as_bytes()).unwrap().is_empty());
    let paragraphs: Vec<_> = example.split("\n\n").map(uncommented).filter(|text| !text.is_empty()).collect();
    assert!(paragraphs.len() >= 4, "{paragraphs:?}");
    for text in &paragraphs {
        assert_eq!(mistakes("example", text), [], "{text}");
    }
    let roles = paragraphs.iter().filter(|text| text.contains("role = "));
    for role in roles {
        let all: Vec<_> = paragraphs.iter().filter(|text| !text.contains("role = ")).chain([role]).collect();
        let text = all.into_iter().cloned().collect::<Vec<_>>().join("\n\n");
        let layer = Layer::toml("example", text.as_bytes()).unwrap_or_else(|told| panic!("{told:?}\n{text}"));
        assert!(resolve(&[layer]).is_sound(), "{text}");
    }
}
