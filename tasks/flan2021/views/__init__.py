"""Rows of the data sets whose features are not plain texts, as the fields that the templates name."""
