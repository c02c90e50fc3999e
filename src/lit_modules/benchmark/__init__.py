"""What benchmark.py measures, part by part: `measuring` leads through it."""
