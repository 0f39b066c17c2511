//! The crates of a Cargo.lock.

use super::*;
use data::sources::{Cargo, From, Kind};

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write(
        "Cargo.lock",
        "version = 4\n\n\
         [[package]]\nname = \"mine\"\nversion = \"0.1.0\"\n\n\
         [[package]]\nname = \"beta\"\nversion = \"2.0.0\"\nsource = \"registry+https://example.org/index\"\nchecksum = \"00\"\n\n\
         [[package]]\nname = \"alpha\"\nversion = \"1.0.0\"\nsource = \"registry+https://example.org/index\"\n\n\
         [[package]]\nname = \"gone\"\nversion = \"3.0.0\"\nsource = \"registry+https://example.org/index\"\n\n\
         [[package]]\nname = \"forked\"\nversion = \"3.0.0\"\nsource = \"git+https://example.org/x\"\n\n\
         [[package]]\nname = \"windows-sys\"\nversion = \"0.1.0\"\nsource = \"registry+https://example.org/index\"\n",
    );
    desk.write(
        "home/registry/src/index/alpha-1.0.0/src/lib.rs",
        "//! Alpha is a crate.\n\n/// Does it.\npub fn f() {}\n",
    );
    desk.write("home/registry/src/index/alpha-1.0.0/README.md", "# Alpha\n");
    desk.write("home/registry/src/index/alpha-1.0.0/Cargo.toml", "[package]\n");
    desk.write("home/registry/src/index/beta-2.0.0/src/main.rs", "fn main() { let beta = 1; }\n");
    desk.write("home/registry/src/index/beta-2.0.0/src/bindings.rs", "// @generated\npub const A: u32 = 1;\n");
    desk.write("home/registry/src/index/beta-3.0.0/src/main.rs", "fn other_version() {}\n");
    desk.write("home/registry/src/index/windows-sys-0.1.0/src/lib.rs", "pub type A = u32;\n");
    desk
}

fn sources(desk: &Desk) -> Vec<Source> {
    let cargo = Cargo { lock: desk.path("Cargo.lock"), home: desk.path("home") };
    [Kind::Code, Kind::Docs]
        .map(|kind| Source { name: kind.name().into(), from: From::Cargo(cargo.clone(), kind) })
        .to_vec()
}

#[test]
fn code_and_documentation_are_apart() {
    let desk = desk();
    let options = Options { filters: Some(vec!["code".into()]), ..everything() };
    let collection = collect(&sources(&desk), &desk.path("out"), &options, &|_, _, _| ()).unwrap();
    let paths = |source: &str| documents(&collection, source).into_iter().map(|d| d.path).collect::<Vec<_>>();
    assert_eq!(paths("code"), ["alpha-1.0.0/src/lib.rs", "beta-2.0.0/src/main.rs"]);
    assert_eq!(paths("docs"), ["alpha-1.0.0/README.md", "alpha-1.0.0/src/lib.rs"]);
    assert_eq!(texts(&collection, "docs")[1], "Alpha is a crate.\n\nDoes it.");
    let account = collection.source("code").unwrap();
    assert_eq!(account.not_found, ["gone 3.0.0"]);
    assert_eq!(account.dropped[0].reasons["says that it is generated"], 1);
}

#[test]
fn a_machine_without_any_of_them_says_what_to_do() {
    let desk = desk();
    fs::remove_dir_all(desk.path("home")).unwrap();
    let error = collect(&sources(&desk), &desk.path("out"), &everything(), &|_, _, _| ()).unwrap_err().to_string();
    assert!(error.contains("Cargo.lock") && error.contains("cargo fetch"), "{error}");
    desk.write("Cargo.lock", "[[package]]\nname = 3\n");
    let error = collect(&sources(&desk), &desk.path("out"), &everything(), &|_, _, _| ()).unwrap_err().to_string();
    assert!(error.contains("Cargo.lock is damaged"), "{error}");
}
