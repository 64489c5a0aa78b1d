"""The documents' rules, checked on a candidate's source and on what it would launch. Nothing of it is run."""
