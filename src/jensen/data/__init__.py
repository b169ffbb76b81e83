"""Data; kept empty, since a drawing process imports it without loading torch."""
