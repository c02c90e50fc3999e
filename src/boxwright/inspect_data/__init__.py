"""The parts of inspect_data.py."""
