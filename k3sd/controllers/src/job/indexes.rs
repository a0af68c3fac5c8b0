//! Sets of completion indexes, and their text form `1,3-5,7`. No I/O.

use std::collections::BTreeSet;

/// Reads the text form; parts that are none, and indexes not below `completions`, are left out.
pub(super) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    indexes
}

/// Writes the text form: three or more in a row as a range, as upstream does; two as `1,2`.
pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => parts.push((*index, *index)),
        }
    }
    let text = |(first, last): (i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    parts.into_iter().map(text).collect::<Vec<_>>().join(",")
}

/// The first `count` indexes that have neither succeeded nor a pod at work.
pub(super) fn first_free(succeeded: &BTreeSet<i32>, active: &BTreeSet<i32>, count: usize) -> Vec<i32> {
    (0..).filter(|index| !succeeded.contains(index) && !active.contains(index)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_goes_both_ways() {
        for (indexes, text) in
            [(vec![], ""), (vec![4], "4"), (vec![1, 2], "1,2"), (vec![0, 1, 2, 5, 7, 8, 9], "0-2,5,7-9")]
        {
            let indexes: BTreeSet<i32> = indexes.into_iter().collect();
            assert_eq!(format(&indexes), text);
            assert_eq!(parse(text, 100), indexes);
        }
        assert_eq!(parse("1,x,3-99", 5), [1, 3, 4].into());
        assert_eq!(first_free(&[0, 2].into(), &[1, 4].into(), 3), [3, 5, 6]);
    }
}
