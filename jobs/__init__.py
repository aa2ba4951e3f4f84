"""The command line: one small module a job. `python -m jobs` lists them."""
