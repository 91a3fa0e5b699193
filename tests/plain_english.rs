//! Texts that people read are plain English: phrases of the earlier private dialect do not come back.

use std::path::Path;

/// Phrases, in lower case, that a sentence of plain technical English does not need.
const PHRASES: [&str; 10] = [
    "gone on with",
    "goes on with",
    "go on with",
    "is to be ",
    "so many as",
    "where that is so",
    "is held to",
    "what was kept is told",
    "as far as that goes",
    "lies behind",
];

fn search(path: &Path, found: &mut Vec<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !["target", "artifacts", "images", "malformed"].contains(&&*name) && !name.starts_with(".git")
            {
                search(&path, found);
            }
        }
        return;
    }
    let is_text =
        path.extension().is_some_and(|extension| ["rs", "md", "toml"].iter().any(|text| extension == *text));
    if !is_text || path.ends_with("tests/plain_english.rs") {
        return;
    }
    let text = std::fs::read_to_string(path).expect("a text").to_lowercase();
    for (number, line) in (1..).zip(text.lines()) {
        let phrases = PHRASES.iter().filter(|phrase| line.contains(**phrase));
        found.extend(phrases.map(|phrase| format!("{}:{number}: {phrase:?}", path.display())));
    }
}

#[test]
fn no_text_uses_the_phrases_of_the_private_dialect() {
    let mut found = Vec::new();
    search(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
}
