//! The table of hazards in docs/testing.md names nothing that is not there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The top of the work tree.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies below the root").to_path_buf()
}

/// The text of every source file of the workspace.
fn sources(folder: &Path, into: &mut Vec<String>) {
    for file in std::fs::read_dir(folder).expect("a folder of the work tree").map(|file| file.expect("a file").path()) {
        if file.is_dir() && !file.ends_with("target") {
            sources(&file, into);
        } else if file.extension().is_some_and(|extension| extension == "rs") {
            into.push(std::fs::read_to_string(&file).expect("sources are text"));
        }
    }
}

/// Names of all test functions.
fn tests() -> BTreeSet<String> {
    let mut texts = Vec::new();
    for folder in ["crates", "tests", "fuzz", "xtask"] {
        sources(&root().join(folder), &mut texts);
    }
    let mut names = BTreeSet::new();
    for text in texts {
        // A property test has its attribute on a line of its own, too; others may stand between it and the function.
        for rest in text.split("test]\n").skip(1).chain(text.split("\")]\n").skip(1)).chain(text.split("test(").skip(1))
        {
            let name = rest.split_once("fn ").and_then(|(_, after)| after.split(['(', '<']).next());
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

/// The names in backticks of one line.
fn named(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_hazard_has_its_line_and_every_name_in_it_exists() {
    let page = std::fs::read_to_string(root().join("docs/testing.md")).expect("the page is there");
    let mutants = std::fs::read_to_string(root().join("crates/mutants/src/lib.rs")).expect("the mutants are there");
    let tests = tests();
    let mut numbers = Vec::new();
    let mut missing = Vec::new();
    let catalogue = page.split("\n## ").find(|section| section.starts_with("The catalogue"));
    for line in catalogue.expect("the page has the table").lines() {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let (Some(number), Some(_), Some(covered)) =
            (cells.next().and_then(|cell| cell.parse::<u32>().ok()), cells.next(), cells.next())
        else {
            continue;
        };
        numbers.push(number);
        let names = named(covered);
        assert!(!names.is_empty(), "hazard {number} names nothing that covers it");
        for name in names {
            let there = match (name.strip_prefix("mutant "), name.strip_suffix(".txt")) {
                (Some(mutant), _) => mutants.contains(&format!("    {mutant}: ")),
                (None, Some(_)) => root().join("crates/raft/testdata").join(name).is_file(),
                (None, None) => tests.contains(name),
            };
            if !there {
                missing.push(format!("{number}: {name}"));
            }
        }
    }
    assert_eq!(numbers, (1..=84).collect::<Vec<_>>(), "one line for each hazard, in order");
    assert!(missing.is_empty(), "named in docs/testing.md, and not there: {missing:#?}");
}

#[test]
fn every_metric_that_a_page_names_is_registered_somewhere() {
    let mut texts = Vec::new();
    sources(&root().join("crates"), &mut texts);
    let mut pages = Vec::new();
    for folder in ["docs", "docs/runbooks"] {
        let files = std::fs::read_dir(root().join(folder)).expect("a folder of the work tree");
        pages.extend(files.map(|file| file.expect("a page").path()).filter(|path| path.is_file()));
    }
    let mut missing = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("pages are text");
        for name in named(&text).into_iter().filter(|name| name.starts_with("quorate_")) {
            let end = name.find(|next: char| !next.is_ascii_lowercase() && next != '_').unwrap_or(name.len());
            let name = &name[..end];
            // A histogram's parts have names of their own.
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            let is_there = |name: &str| texts.iter().any(|text| text.contains(&format!("\"{name}\"")));
            if !is_there(name) && !is_there(base) {
                missing.push(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "named in a page, and registered nowhere: {missing:#?}");
}

#[test]
fn every_bug_of_etcd_has_its_tests() {
    let page = std::fs::read_to_string(root().join("docs/testing.md")).expect("the page is there");
    let section =
        page.split("\n## ").find(|section| section.starts_with("etcd's bugs")).expect("the page has the table");
    let tests = tests();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| #")).collect();
    assert_eq!(rows.len(), 17, "as many as etcd's robustness tests list");
    for row in rows {
        let covered = row.trim_end_matches('|').rsplit(" | ").next().expect("a row has cells");
        let names = named(covered);
        assert!(!names.is_empty(), "{row} names no test");
        for name in names {
            assert!(tests.contains(name), "{name} is named in docs/testing.md, and not there");
        }
    }
}
