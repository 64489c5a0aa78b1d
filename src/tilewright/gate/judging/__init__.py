"""The verdict is computed here, on the side that the candidate does not own: what came back becomes findings."""
