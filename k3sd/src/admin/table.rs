//! Tables as kubectl prints them: columns three spaces apart.

/// The rows, the head being the first of them, one to a line.
pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: String = widths.iter().zip(row).map(|(width, cell)| format!("{cell:width$}   ")).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["A", "B"], ["löng", "x"]].map(|row| row.map(String::from));
        assert_eq!(aligned(&rows), "A      B\nlöng   x\n");
    }
}
