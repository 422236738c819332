"""What the venue says, as of a date: rule tables with dated, sourced and graded revisions."""
