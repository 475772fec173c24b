//! Aligned columns.

/// How a column's cells are placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a heading. Columns are as wide as their widest cell, two spaces apart.
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            columns: columns.iter().map(|column| column.1).collect(),
            rows: vec![columns.iter().map(|column| column.0.to_owned()).collect()],
        }
    }

    /// Adds a row; cells that are missing at its end are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, a line for each row, without trailing spaces.
    pub fn render(&self) -> String {
        let mut widths = vec![0; self.columns.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let begins = out.len();
            for (at, (&width, align)) in widths.iter().zip(&self.columns).enumerate() {
                let cell = row.get(at).map_or("", String::as_str);
                if at > 0 {
                    out.push_str("  ");
                }
                let blanks = width - cell.chars().count();
                let before = if *align == Align::Right { blanks } else { 0 };
                out.extend(std::iter::repeat_n(' ', before));
                out.push_str(cell);
                out.extend(std::iter::repeat_n(' ', blanks - before));
            }
            out.truncate(begins + out[begins..].trim_end().len());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.row(["a".to_owned(), "12".to_owned()]);
        table.row(["größer".to_owned(), "3".to_owned()]);
        table.row(["b".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME    SIZE\na         12\ngrößer     3\nb\n"
        );
    }
}
