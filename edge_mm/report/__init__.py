"""`edge-mm report`: one page that shows what a run has learned, and where it still fails."""
