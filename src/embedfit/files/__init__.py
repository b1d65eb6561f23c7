"""Files that people bring or take away: text, tables, qrels, training rows; and their places."""
