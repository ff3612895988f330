//! What the book quotes is what the sources say.

/// The lines of the blocks in language `rs`, without empty ones.
fn quoted(book: &str) -> Vec<&str> {
    let blocks = book.split("```rs\n").skip(1).filter_map(|rest| rest.split("```").next());
    lines(blocks.flat_map(str::lines))
}

fn lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    lines.into_iter().filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_example_of_an_operation_is_the_whole_file() {
    let book = include_str!("../../../docs/adding-an-op.md");
    let file = include_str!("../src/ops/rms_norm.rs");
    assert_eq!(quoted(book), lines(file.lines()));
}
