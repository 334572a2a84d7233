"""Studies: one question a file, with its command and its measured result in the header."""
