//! The examples of `docs/cli.md` are what the program prints.

use std::fs;
use std::path::Path;

use crate::console::trial::Trial;

use super::live::run;
use super::stub::{Run, wait_until};

/// Stands for any number of lines.
const LINES: &str = "...";

#[test]
fn every_example_of_the_command_line_is_what_is_printed() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let page = fs::read_to_string(page).expect("the page");
    let trial = Trial::start("console.bind = \"127.0.0.1:0\"", &["--simulate", "3"]);
    wait_until(|| run(&trial, &["devices"]).rows().len() == 4);
    let mut played = 0;
    for block in page.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        for example in block.split("$ lwm2m-gateway ").skip(1) {
            let (command, expected) = example.split_once('\n').expect("a line");
            let arguments: Vec<&str> = command.split(' ').collect();
            let Run { stdout, stderr, .. } = run(&trial, &arguments);
            let printed = stdout + &stderr;
            assert!(fits(&rows(expected), &rows(&printed)), "{command}\nexpected\n{expected}\nprinted\n{printed}");
            played += 1;
        }
    }
    assert!(played >= 4, "{played}");
}

/// Divides lines into words. Words that begin with a digit are equal: times, addresses, values. So are the states of a
/// meter, which falls asleep while the examples are played.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let word = |word| match word {
        "asleep" => "awake",
        _ if str::starts_with(word, |first: char| first.is_ascii_digit()) => "0",
        _ => word,
    };
    text.lines().map(|line| line.split_whitespace().map(word).collect()).collect()
}

fn fits(expected: &[Vec<&str>], printed: &[Vec<&str>]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((row, rest)) if row == &[LINES] => (0..=printed.len()).any(|skipped| fits(rest, &printed[skipped..])),
        Some((row, rest)) => printed.first() == Some(row) && fits(rest, &printed[1..]),
    }
}
