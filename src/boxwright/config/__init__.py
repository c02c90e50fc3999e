"""The config: composed, checked, explained. Imports nothing heavy."""
