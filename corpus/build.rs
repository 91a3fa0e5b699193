//! Generates the tables of `samples()` and `malformed()` from the manifests, so that the manifests are the only source.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use serde_json::Value;

fn main() {
    let home = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let manifest = Path::new(&home).join("manifest.json");
    println!("cargo::rerun-if-changed=manifest.json");
    println!("cargo::rerun-if-changed=build.rs");

    let text = fs::read_to_string(&manifest).expect("corpus/manifest.json can be read");
    let json: Value = serde_json::from_str(&text).expect("corpus/manifest.json is JSON");
    let mut table = String::from("&[\n");
    for sample in json["samples"].as_array().expect("the manifest lists samples") {
        let commands: Vec<&str> =
            sample["origin"]["commands"].as_array().expect("commands").iter().map(text_of).collect();
        let mut origin = commands.join("; ");
        let tool = text_of(&sample["origin"]["tool"]);
        if !tool.is_empty() {
            origin = format!("{tool}: {origin}");
        }
        let mut files = String::new();
        for file in sample["files"].as_array().expect("files") {
            let name = text_of(&file["name"]);
            let path = Path::new(&home).join("images").join(name);
            println!("cargo::rerun-if-changed=images/{name}");
            write!(files, "({name:?}, include_bytes!({path:?})),").expect("a string takes it");
        }
        writeln!(
            table,
            "Sample {{ name: {:?}, format: {:?}, variant: {:?}, disk: {:?}, about: {:?}, files: &[{files}], \
             virtual_bytes: {}, digest_hex: {:?}, origin: {origin:?} }},",
            text_of(&sample["name"]),
            text_of(&sample["format"]),
            text_of(&sample["variant"]),
            text_of(&sample["disk"]),
            text_of(&sample["about"]),
            sample["virtual_bytes"].as_u64().expect("virtual_bytes"),
            text_of(&sample["digest"]),
        )
        .expect("a string takes it");
    }
    table.push(']');
    fs::write(Path::new(&out).join("samples.rs"), table).expect("the build directory can be written");
    malformed(&Path::new(&home).join("malformed"), Path::new(&out));
}

fn malformed(home: &Path, out: &Path) {
    println!("cargo::rerun-if-changed=malformed");
    let text =
        fs::read_to_string(home.join("manifest.json")).expect("corpus/malformed/manifest.json can be read");
    let json: Value = serde_json::from_str(&text).expect("corpus/malformed/manifest.json is JSON");
    let mut table = String::from("&[\n");
    for image in json["malformed"].as_array().expect("the manifest lists images") {
        let like: Vec<&str> = image["like"].as_array().expect("a list").iter().map(text_of).collect();
        writeln!(
            table,
            "Malformed {{ name: {:?}, file: {:?}, format: {:?}, code: {:?}, about: {:?}, like: &{like:?}, origin: {:?}, \
             bytes: include_bytes!({:?}) }},",
            text_of(&image["name"]),
            text_of(&image["file"]),
            text_of(&image["format"]),
            image["code"].as_str(),
            text_of(&image["about"]),
            text_of(&image["origin"]),
            home.join(text_of(&image["file"])),
        )
        .expect("a string takes it");
    }
    table.push(']');
    fs::write(out.join("malformed.rs"), table).expect("the build directory can be written");
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("corpus/manifest.json: {value} is not a string"))
}
