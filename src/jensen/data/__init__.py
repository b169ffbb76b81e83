"""Data. (Kept empty: a drawing process imports this without loading torch.)"""
