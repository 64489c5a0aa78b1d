"""The module that says what is right: built, run, and its values in several precisions."""
