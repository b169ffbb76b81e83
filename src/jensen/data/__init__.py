"""Data; this file is empty, so that drawing processes can import the package without torch."""
