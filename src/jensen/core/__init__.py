"""What every family speaks."""
