//! Token ids on the command line: `1,2,3`.

/// Token ids separated by commas or white space; none in an empty text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids(pub Vec<u32>);

/// Reads ids, for clap.
///
/// # Errors
/// A sentence that names the part that is no id.
pub fn parse(text: &str) -> Result<Ids, String> {
    let id = |part: &str| part.parse().map_err(|_| format!("`{part}` is not a token id (0 to {})", u32::MAX));
    let between = |part: &str| match part.trim().is_empty() {
        true => vec![Err("a token id is missing: write 1,2,3".to_owned())],
        false => part.split_whitespace().map(id).collect(),
    };
    if text.trim().is_empty() {
        return Ok(Ids(Vec::new()));
    }
    text.split(',').flat_map(between).collect::<Result<_, _>>().map(Ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_between_commas() {
        assert_eq!(parse("1, 2,3 4\n"), Ok(Ids(vec![1, 2, 3, 4])));
        assert_eq!(parse(""), Ok(Ids(vec![])));
        for bad in ["1,,2", "1,", ",1", "1,x", "-1", "4294967296", "1.5"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
