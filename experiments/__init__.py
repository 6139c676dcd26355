"""Whatever makes a number or a picture of docs/results.

Each file is one command or one step from runs to page."""
