"""Models from and for other places: so far, lstmx's own files."""
