"""The parts of push.py."""
