"""What benchmark.py is made of."""
