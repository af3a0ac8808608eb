"""Task modules are imported by the tests that need SeqIO, not by pytest's search for doctests."""

collect_ignore = ["real_tasks.py", "tokenizer_tasks.py", "toy_tasks.py"]
