"""What inspect_data.py is made of."""
