//! Text with tabulators, whose stops stretch: cells that stand above each other in adjoining lines become a column.

/// Blanks behind the widest cell of a column.
const PADDING: usize = 2;

/// Replaces the tabulators of a text by blanks.
pub(crate) fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let deepest = lines.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    for column in 0..deepest {
        let mut first = 0;
        while first < lines.len() {
            // The last cell of a line ends no column.
            let length = lines[first..].iter().take_while(|cells| cells.len() > column + 1).count();
            let block = first..first + length;
            let widest = lines[block.clone()].iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
            for line in block {
                widths[line][column] = widest + PADDING;
            }
            first += length.max(1);
        }
    }
    let pad = |cells: &[&str], widths: &[usize]| {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            line.push_str(cell);
            let blanks = widths.get(index).map_or(0, |width| width - cell.chars().count());
            line.extend(std::iter::repeat_n(' ', blanks));
        }
        line
    };
    let aligned: Vec<String> = lines.iter().zip(&widths).map(|(cells, widths)| pad(cells, widths)).collect();
    aligned.join("\n")
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn columns_are_of_adjoining_lines() {
        assert_eq!(align("a:\tb\nlong:\tc\nno column\nx:\ty\n"), "a:     b\nlong:  c\nno column\nx:  y\n");
        assert_eq!(align("a\t\tb\nccc\t\td"), "a      b\nccc    d");
        assert_eq!(align("a\tb\tc\nd\te"), "a  b  c\nd  e");
    }
}
