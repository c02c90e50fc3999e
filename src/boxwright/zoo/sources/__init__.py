"""The catalogue's entries, a file for each source."""
