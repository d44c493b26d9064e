"""The same exported files and inputs in every runtime that people deploy to, against MLX."""
