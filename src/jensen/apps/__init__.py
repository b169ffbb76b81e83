"""Applications on top of jensen; the library imports none of them."""
