//! Checks the import graph of the sources: folders import in one direction, and there are no import cycles.
//!
//! A file's imports are its `use` trees and the `crate::…` paths in its code. An import from a folder's `mod.rs` is
//! followed to the file that defines the name, since `mod.rs` only re-exports it. Modules of unit tests count as part
//! of their file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The checked crates, by their folder in the workspace. For each, its folders from top to bottom: a folder may import
/// those after it in the list, and none before it.
const CRATES: &[(&str, &[&str])] = &[("core", CORE), ("formats", FORMATS), ("s3io", S3IO)];
const CORE: &[&str] = &["conversion", "engine", "layout", "sink", "disk", "source", "local", "memory"];
/// The formats have no order: a fixed VHD is written like RAW, and RAW looks for the footer of a VHD.
const FORMATS: &[&str] = &["partition", "codec"];
const S3IO: &[&str] = &["server", "sink", "object", "concurrency", "connection"];

/// The source files of one crate.
struct Tree {
    /// Files by module path, such as `source::file`; the root is the empty path.
    modules: BTreeMap<String, Module>,
}

struct Module {
    /// Relative to `src`.
    path: String,
    is_face: bool,
    /// Names that the file uses from its own crate, as full module paths.
    imports: Vec<Vec<String>>,
    /// The re-exports of a `mod.rs`: from the name to its original path.
    exports: BTreeMap<String, Vec<String>>,
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// The leaves of a `use` tree such as `a::{b, c::{self, d as e}}`, without their aliases.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    fn walk(
        tokens: &mut std::iter::Peekable<std::vec::IntoIter<String>>,
        prefix: &[String],
        out: &mut Vec<Vec<String>>,
    ) {
        let mut path = prefix.to_vec();
        while let Some(token) = tokens.next() {
            match token.as_str() {
                "{" => {
                    while tokens.peek().is_some_and(|token| token != "}") {
                        walk(tokens, &path, out);
                        tokens.next_if(|token| token == ",");
                    }
                    tokens.next();
                    return;
                }
                "::" => {}
                "as" => {
                    tokens.next();
                }
                _ => path.push(token),
            }
            if tokens.peek().is_none_or(|token| token == "," || token == "}") {
                break;
            }
        }
        if path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        out.push(path);
    }
    let mut tokens = Vec::new();
    let mut word = String::new();
    let mut rest = tree.chars().peekable();
    while let Some(c) = rest.next() {
        if c.is_alphanumeric() || c == '_' || c == '*' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        match c {
            '{' | '}' | ',' => tokens.push(c.to_string()),
            ':' if rest.next_if_eq(&':').is_some() => tokens.push("::".to_owned()),
            _ => {}
        }
    }
    if !word.is_empty() {
        tokens.push(word);
    }
    let mut out = Vec::new();
    walk(&mut tokens.into_iter().peekable(), &[], &mut out);
    out
}

/// Whether the module in `folder` has a child with that name.
fn is_child(folder: &Path, name: &str) -> bool {
    folder.join(format!("{name}.rs")).exists() || folder.join(name).is_dir()
}

/// The text without comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

impl Tree {
    fn of(root: &Path) -> Self {
        let src = root.join("src");
        let mut found = Vec::new();
        files(&src, &mut found);
        let mut modules = BTreeMap::new();
        for file in found {
            let path = file.strip_prefix(&src).expect("inside of src").with_extension("");
            let mut segments: Vec<String> =
                path.iter().map(|part| part.to_str().expect("a plain name").to_owned()).collect();
            let is_face = segments.last().is_some_and(|last| last == "mod" || last == "lib");
            if is_face {
                segments.pop();
            }
            let text = code(&std::fs::read_to_string(&file).expect("a source"));
            let (mut imports, mut exports) = (Vec::new(), BTreeMap::new());
            for statement in text.split(';') {
                let Some((before, tree)) = statement.split_once("use ") else { continue };
                let line = before.rsplit('\n').next().unwrap_or_default().trim();
                if !(line.is_empty() || line.starts_with("pub")) {
                    continue;
                }
                // `use super::*` in a test module inside the file.
                let nested = before.rsplit('\n').next().is_some_and(|line| line.starts_with("    "));
                for leaf in leaves(tree) {
                    let full = match leaf.first().map(String::as_str) {
                        Some("crate") => leaf[1..].to_vec(),
                        Some("super") if nested => continue,
                        Some("super") => {
                            let ups = leaf.iter().take_while(|part| *part == "super").count();
                            [&segments[..segments.len() - ups], &leaf[ups..]].concat()
                        }
                        Some("self") => [&segments[..], &leaf[1..]].concat(),
                        Some(first) if is_child(&src.join(segments.join("/")), first) => {
                            [&segments[..], &leaf[..]].concat()
                        }
                        _ => continue,
                    };
                    if line.starts_with("pub") && is_face {
                        exports.insert(full.last().cloned().unwrap_or_default(), full);
                    } else {
                        imports.push(full);
                    }
                }
            }
            let before_use = |statement: &'_ str| statement.find("use ").unwrap_or(statement.len());
            let spelled_out: Vec<&str> =
                text.split(';').map(|statement| &statement[..before_use(statement)]).collect();
            let text = spelled_out.join(";");
            for (at, _) in text.match_indices("crate::") {
                let tail: String = text[at..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
                    .collect();
                imports.push(
                    tail.split("::").skip(1).filter(|part| !part.is_empty()).map(str::to_owned).collect(),
                );
            }
            let shown = file.strip_prefix(&src).expect("inside of src").display().to_string();
            modules.insert(segments.join("::"), Module { path: shown, is_face, imports, exports });
        }
        Self { modules }
    }

    /// The module that a path leads to, through re-exports.
    fn resolve(&self, path: &[String], depth: usize) -> Option<&str> {
        let (end, module) = (0..=path.len())
            .rev()
            .find_map(|end| Some((end, self.modules.get_key_value(&path[..end].join("::"))?)))?;
        match path.get(end).and_then(|name| module.1.exports.get(name)) {
            Some(further) if depth < 8 && further.as_slice() != path => {
                self.resolve(further, depth + 1).or(Some(module.0))
            }
            _ => Some(module.0),
        }
    }

    /// The imports of each module. A `mod.rs` that only re-exports has none.
    fn graph(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut graph = BTreeMap::new();
        for (name, module) in &self.modules {
            let targets = module.imports.iter().filter_map(|path| self.resolve(path, 0));
            graph.insert(
                name.as_str(),
                targets.filter(|target| *target != name && !target.is_empty()).collect(),
            );
        }
        graph
    }
}

/// Sets of two or more nodes that reach each other.
fn circles<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reach = |from: &'a str| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(node) = open.pop() {
            for next in graph.get(node).into_iter().flatten() {
                if seen.insert(*next) {
                    open.push(*next);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|node| (*node, reach(node))).collect();
    let mut found = BTreeSet::new();
    for (node, seen) in &reached {
        let circle: Vec<&str> = seen
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(node)))
            .collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn folder(module: &str) -> &str {
    module.rsplit_once("::").map_or("", |(folder, _)| folder)
}

fn tree(name: &str) -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root of the workspace").join(name);
    Tree::of(&root)
}

#[test]
fn no_circle_spans_folders_and_none_has_more_than_two_files() {
    for (name, _) in CRATES {
        let tree = tree(name);
        for circle in circles(&tree.graph()) {
            let folders: BTreeSet<&str> = circle.iter().map(|module| folder(module)).collect();
            assert!(folders.len() == 1 && circle.len() <= 2, "{name}: a cycle of {circle:?}");
        }
    }
}

#[test]
fn a_file_takes_from_the_face_of_its_folder_only_what_is_defined_there() {
    for (name, _) in CRATES {
        let tree = tree(name);
        for (module, Module { path, imports, is_face, .. }) in &tree.modules {
            let own = folder(module);
            if *is_face || own.is_empty() {
                continue;
            }
            for import in imports {
                let Some((last, prefix)) = import.split_last() else { continue };
                let face = tree.modules.get(own);
                let handed_on = face.is_some_and(|face| face.exports.contains_key(last));
                assert!(
                    !(prefix.join("::") == own && handed_on),
                    "{name}/src/{path} imports {last} through the `mod.rs` of its own folder"
                );
            }
        }
    }
}

#[test]
fn the_folders_of_a_crate_import_each_other_in_one_direction() {
    for (name, folders) in CRATES {
        let tree = tree(name);
        let position =
            |module: &str| folders.iter().position(|each| module.split("::").next() == Some(*each));
        for (module, targets) in tree.graph() {
            let Some(from) = position(module) else { continue };
            for target in targets {
                assert!(
                    position(target).is_none_or(|to| to >= from),
                    "{name}: {module} imports {target}, which is above it"
                );
            }
        }
    }
}

#[test]
fn the_checker_finds_cycles_and_imports() {
    let paths = |text| leaves(text).iter().map(|leaf| leaf.join("::")).collect::<Vec<_>>();
    assert_eq!(paths("crate::{a::{self, B as C}, d}"), ["crate::a", "crate::a::B", "crate::d"]);
    let graph = BTreeMap::from([
        ("a::x", BTreeSet::from(["b::y"])),
        ("b::y", BTreeSet::from(["a::x"])),
        ("c", BTreeSet::from(["a::x"])),
    ]);
    assert_eq!(circles(&graph), [vec!["a::x", "b::y"]]);
    assert!(tree("core").graph().len() > 50);
    assert!(tree("s3io").graph().len() > 40);
}
